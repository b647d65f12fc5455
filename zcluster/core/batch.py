"""Batches: what waits for one destination and leaves together.

Rules kept here:
- what is there when the loop comes round leaves; nothing waits to fill a batch;
- a message holds at most ``max_bytes`` of bodies (one larger body goes alone) and MAX_MEMBERS members, so that a batch
  never becomes bulk;
- lanes: control goes before requests and results, and these before bulk, each time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from zcluster.wire import LATE_KINDS, Cancel, Credit, Grant, Message, Sealed

MAX_MEMBERS = 96
"""Members of one message: enough to make what a message costs small, few enough that the next process begins on the
first ones while this one is still at the rest (measured: docs/decisions/0002)."""

MAX_TOGETHER = 1024
"""Grants or cancels of one message."""
CONTROL_BYTES = 256
"""What a waiting control message is reckoned at."""
FIRST_BATCH_KIND = 16
FIRST_TREE_KIND = 32

Body = bytes | bytearray | memoryview
Outgoing = tuple[Message, list[Body]]


class Group(Protocol):
    """A group of a batch message: it has a size for each member."""

    sizes: list[int]


G = TypeVar("G", bound=Group)


class Batch(Generic[G]):
    """Groups and their bodies, sealed into messages."""

    __slots__ = ("_bodies", "_bytes", "_groups", "_make", "_max_bytes", "_members", "_sealed", "_sealed_bytes", "last")

    def __init__(self, make: Callable[[list[G]], Message], max_bytes: int) -> None:
        self._make = make
        self._max_bytes = max_bytes
        self._groups: list[G] = []
        self._bodies: list[Body] = []
        self._bytes = 0
        self._members = 0
        self._sealed: list[Outgoing] = []
        self.last: G | None = None
        """The group that the next member may join, or None."""
        self._sealed_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        """About how many bytes wait here."""
        return self._sealed_bytes + self._bytes

    def __bool__(self) -> bool:
        return bool(self._groups or self._sealed)

    @property
    def full(self) -> bool:
        """Whether a whole message waits: it need not wait for the turn's end."""
        return bool(self._sealed)

    def begin(self, group: G, body: Body, header_bytes: int = 64) -> None:
        """Begin ``group``, whose first member has ``body``; ``header_bytes`` is about what its header takes."""
        self._room_for(len(body) + header_bytes)
        self._groups.append(group)
        self.last = group
        self._bytes += header_bytes
        self._add(body)

    def join(self, body: Body) -> None:
        """Add a member to the last group."""
        group = self.last
        assert group is not None
        size = len(body)
        group.sizes.append(size)
        self._bodies.append(body)
        self._bytes += size
        self._members += 1
        if self._members >= MAX_MEMBERS or self._bytes >= self._max_bytes:
            self._seal()

    def reckon(self, header_bytes: int) -> None:
        """The next member takes so much of the header."""
        self._bytes += header_bytes

    def take(self) -> list[Outgoing]:
        """Everything as messages, in order."""
        self._seal()
        out, self._sealed = self._sealed, []
        self._sealed_bytes = 0
        return out

    def _add(self, body: Body) -> None:
        self._bodies.append(body)
        self._bytes += len(body)
        self._members += 1
        if self._members >= MAX_MEMBERS or self._bytes >= self._max_bytes:
            self._seal()

    def _room_for(self, size: int) -> None:
        if self._members and self._bytes + size > self._max_bytes:
            self._seal()

    def _seal(self) -> None:
        if self._groups:
            self._sealed.append((self._make(self._groups), self._bodies))
            self._sealed_bytes += self._bytes
        self._groups, self._bodies, self._bytes, self._members = [], [], 0, 0
        self.last = None


class Lanes(Generic[G]):
    """What waits for one peer: control, the batch, and bulk."""

    __slots__ = ("batch", "bulk", "bulk_bytes", "control", "returned", "returned_bytes", "tree_bytes", "trees")

    def __init__(self, make: Callable[[list[G]], Message], max_bytes: int) -> None:
        self.control: list[Message] = []
        self.batch: Batch[G] = Batch(make, max_bytes)
        self.bulk: deque[tuple[Message, Body]] = deque()
        self.bulk_bytes = 0
        self.trees: list[Message] = []
        """Encoded bulk (file sync, tables, rows): it has credit of its own, and goes last."""
        self.tree_bytes = 0
        self.returned: list[Outgoing] = []
        self.returned_bytes = 0

    def __bool__(self) -> bool:
        return bool(self.control or self.batch or self.bulk or self.trees or self.returned)

    @property
    def waiting_bytes(self) -> int:
        queued = self.batch.waiting_bytes + self.bulk_bytes + self.tree_bytes
        return queued + self.returned_bytes + CONTROL_BYTES * len(self.control)

    def add_grant(self, grant: Grant) -> None:
        """Queue credit; grants that wait together leave together, and a newer one of a body replaces the older."""
        last = self.control[-1] if self.control else None
        if not isinstance(last, Credit) or len(last.grants) >= MAX_TOGETHER:
            self.control.append(Credit(grants=[grant]))
            return
        before = last.grants[-1]
        if (before.id, before.leg, before.of) == (grant.id, grant.leg, grant.of):
            before.upto = max(before.upto, grant.upto)
        else:
            last.grants.append(grant)

    def add_cancel(self, id_: int) -> None:
        """Queue a cancel; those that wait together leave together."""
        last = self.control[-1] if self.control else None
        if isinstance(last, Cancel) and len(last.ids) < MAX_TOGETHER:
            last.ids.append(id_)
        else:
            self.control.append(Cancel(ids=[id_]))

    def put_back(self, unsent: list[Outgoing]) -> None:
        """What was taken and could not be sent goes first the next time: its control before newer control, the rest before
        the newer rest."""
        bulk = [(message, bodies) for message, bodies in unsent if not _is_control(message)]
        control = [message for message, _ in unsent if _is_control(message)]
        self.tree_bytes += sum(len(message.frame) for message in control if type(message) is Sealed)
        self.control = control + self.control
        self.returned = [*bulk, *self.returned]
        self.returned_bytes += sum(_size(message, bodies) for message, bodies in bulk)

    def add_bulk(self, message: Message, data: Body) -> None:
        """Queue a piece of a large body (or what may not overtake one)."""
        self.bulk.append((message, data))
        self.bulk_bytes += len(data)

    def add_tree(self, frame: Sealed) -> None:
        """Queue a frame that is encoded already."""
        (self.trees if frame.kind in LATE_KINDS else self.control).append(frame)
        self.tree_bytes += len(frame.frame)

    def take(self) -> list[Outgoing]:
        """Everything, lane by lane."""
        out: list[Outgoing] = [(message, []) for message in self.control]
        self.control = []
        if self.returned:
            out += self.returned
            self.returned, self.returned_bytes = [], 0
        if self.batch:
            out += self.batch.take()
        if self.bulk:
            out += [(message, [data]) for message, data in self.bulk]
            self.bulk.clear()
            self.bulk_bytes = 0
        if self.trees:
            out += [(frame, []) for frame in self.trees]
            self.trees = []
        self.tree_bytes = 0
        return out


def _is_control(message: Message) -> bool:
    kind = message.kind
    return kind < FIRST_BATCH_KIND or (kind >= FIRST_TREE_KIND and kind not in LATE_KINDS)


def _size(message: Message, bodies: list[Body]) -> int:
    return len(message.frame) if type(message) is Sealed else sum(len(body) for body in bodies)
