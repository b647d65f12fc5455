"""Requests that come many in a message are admitted a slice at a time, so that nobody else waits for the whole of them.

A message has up to 4,096 requests, some ten milliseconds of the loop. Four callers that send such messages without a pause would
make everybody else wait for four of them, in each direction.

Rules kept here:
- a message of at most SLICE requests, of a caller with nothing left over, is admitted at once;
- what is left over of a caller is admitted in its order, cancels among it; callers take turns of one slice;
- how long a request may take counts from when its message came;
- what is left over is bounded, for each caller and in all: who goes on has as many of its own admitted at once;
- nothing of an ended session is left over.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from zcluster.core.batch import MAX_MEMBERS
from zcluster.core.peers import Peer
from zcluster.wire import Cancel, RequestGroup, Requests
from zcluster.wire.messages import RequestFlag

SLICE = MAX_MEMBERS
"""Requests that are admitted in one piece: as many as our own clients put into a message."""
MAX_LEFT = 32_768
"""Requests that may be left over of one caller."""
MAX_LEFT_IN_ALL = 262_144
CANCEL_COSTS = SLICE
"""What a CANCEL among them counts for."""

Admit = Callable[[Peer, Requests, bytes, int, float], None]


@dataclass
class Rest:
    """What is left of one message: ``slices`` gives the next (requests, where their bodies begin) each time."""

    slices: Iterator[tuple[Requests, int]]
    data: bytes
    came_s: float
    count: int
    """Requests that are left."""


@dataclass
class Left:
    """What is left over of one caller."""

    rests: deque[Rest | Cancel] = field(default_factory=deque)
    count: int = 0


class Backlog:
    """What is left over of all callers.

    Args:
        admit: admits the requests of one message: caller, message, frame, where its bodies begin, when it came.
        cancel: takes back requests of a caller.
    """

    def __init__(self, admit: Admit, cancel: Callable[[Peer, Cancel], None]) -> None:
        self._admit, self._cancel = admit, cancel
        self._left: OrderedDict[Peer, Left] = OrderedDict()
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._left)

    def requests(self, peer: Peer, message: Requests, data: bytes, offset: int, now: float) -> None:
        """REQUESTS of ``peer``: admitted, or left over."""
        count = sum([len(group.sizes) for group in message.groups])
        if count <= SLICE and peer not in self._left:
            self._admit(peer, message, data, offset, now)
            return
        left = self._room_for(peer, count)
        left.rests.append(Rest(slices(message, offset), data, now, count))
        left.count += count
        self._count += count

    def cancels(self, peer: Peer, message: Cancel) -> None:
        """CANCEL of ``peer``: done, or left over behind the requests that it may be about."""
        if peer not in self._left:
            self._cancel(peer, message)
            return
        left = self._room_for(peer, CANCEL_COSTS)
        left.rests.append(message)
        left.count += CANCEL_COSTS
        self._count += CANCEL_COSTS

    def admit_some(self) -> None:
        """Admit a slice of the caller whose turn it is."""
        if self._left:
            peer = next(iter(self._left))
            self._step(peer)
            if peer in self._left:
                self._left.move_to_end(peer)

    def admit_all(self) -> None:
        """Admit all that is left over."""
        while self._left:
            self._step(next(iter(self._left)))

    def drop(self, peer: Peer) -> None:
        """The session of ``peer`` is over."""
        left = self._left.pop(peer, None)
        if left is not None:
            self._count -= left.count

    def _room_for(self, peer: Peer, count: int) -> Left:
        """What is left over of ``peer``, when there is room for ``count`` more."""
        while peer in self._left and (self._left[peer].count + count > MAX_LEFT or self._count + count > MAX_LEFT_IN_ALL):
            self._step(peer)
        return self._left.setdefault(peer, Left())

    def _step(self, peer: Peer) -> None:
        """Admit one slice of ``peer``, or do its cancel."""
        left = self._left[peer]
        rest = left.rests[0]
        if isinstance(rest, Cancel):
            self._less(peer, left, CANCEL_COSTS, whole=True)
            self._cancel(peer, rest)
            return
        message, offset = next(rest.slices)
        count = sum([len(group.sizes) for group in message.groups])
        rest.count -= count
        self._less(peer, left, count, whole=not rest.count)
        self._admit(peer, message, rest.data, offset, rest.came_s)

    def _less(self, peer: Peer, left: Left, count: int, *, whole: bool) -> None:
        left.count -= count
        self._count -= count
        if whole:
            left.rests.popleft()
        if not left.rests:
            del self._left[peer]


def slices(message: Requests, offset: int) -> Iterator[tuple[Requests, int]]:
    """``message`` in messages of at most SLICE requests, each with the place where its bodies begin."""
    groups: list[RequestGroup] = []
    count, start = 0, offset
    for group in message.groups:
        done, size = 0, len(group.sizes)
        while done < size:
            part = min(SLICE - count, size - done)
            piece = group if part == size else _piece(group, done, part)
            groups.append(piece)
            count, done = count + part, done + part
            offset += 0 if group.flags & RequestFlag.LARGE else sum(piece.sizes)
            if count == SLICE:
                yield Requests(groups), start
                groups, count, start = [], 0, offset
    if groups:
        yield Requests(groups), start


def _piece(group: RequestGroup, first: int, count: int) -> RequestGroup:
    sizes = group.sizes[first : first + count]
    return RequestGroup(
        group.function, group.target, group.ttl_ms, group.priority, group.flags, group.first_id + first, sizes
    )
