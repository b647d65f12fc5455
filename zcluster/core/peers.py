"""What the master knows of the others: sessions, nodes, and the requests between them. Plain state, no behaviour.

Words: a *peer* is one session (a connection that said HELLO); a *node* is a master or worker by name, which outlives
its sessions; a *leg* is one dispatch of a request to one node (a retry and each part of a fan-out have their own).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import msgspec

from zcluster.core.auditing import Trail
from zcluster.core.batch import Lanes
from zcluster.core.fairqueue import FairQueue
from zcluster.core.targets import ANY
from zcluster.wire import Bye, FunctionInfo, Mark, RequestGroup

DRAINING = Bye(code="draining", message="the master is shutting down", draining=True)
"""What it says to its peers then, and to those that come after."""

QUICK_POOL = "inline"
"""Functions of this pool run one after the other, each for microseconds: more of them at a node than it needs to stay busy only
wait there, in the order in which they came."""
MOST_QUICK = 128
"""So many of them a node is given while a modest caller is there. Fewer cost throughput; with all slots full of them a single
request waits for milliseconds (measured: docs/decisions/0021)."""
MODEST = 8
"""Who has had no more requests than this under way for MODEST_S is modest."""
MODEST_S = 1.0
"""And so long a node is kept short of quick ones after those of a modest caller."""

INITIAL_ITEMS = 16
"""Items that a stream may send before the first grant (docs/protocol.md)."""

Route = Hashable
"""Where a connection is: the driver's own handle, never on the wire."""
LOCAL: Route = "local"
"""The route of the master's own node: it has no connection."""


@dataclass(frozen=True)
class Identity:
    """Who a connection is, as its key proves: the ring's name and role for the public key."""

    key: str
    name: str
    role: str
    """One of the built-in roles: what everything but rights goes by. A role of the configuration has one as its base."""
    grant: str = ""
    """The role of the ring when it is one of the configuration; empty for a built-in one."""
    also: tuple[str, ...] = ()
    """Roles whose rights hold too, so that it has the least of all: of the door that carries it, of when it asked for a job."""

    @property
    def names(self) -> tuple[str, ...]:
        """All roles whose rights hold."""
        return (self.grant or self.role, *self.also)


class Node:
    """A master or worker, whether it is here or not."""

    __slots__ = (
        "agents", "by_caller", "config", "cpu_percent", "door", "drained", "functions", "key", "last_seen_s", "load",
        "memory_percent", "metrics", "metrics_at_s", "modest_until_s", "name", "peer", "queue", "quick", "reason", "role",
        "running", "since_s", "slots", "state", "version",
    )  # fmt: skip

    def __init__(self, name: str, role: str, state: str, now: float) -> None:
        self.name = name
        self.role = role
        self.state = state
        """``joining``, ``ready``, ``silent``, ``dead`` or ``left``."""
        self.key = ""
        """Whose session was its last; empty: it has had none since the master's start."""
        self.reason = ""
        self.since_s = now
        self.last_seen_s: float | None = None
        self.peer: Peer | None = None
        self.slots = 0
        self.functions: dict[str, FunctionInfo] = {}
        self.version = ""
        self.load = 0.0
        self.cpu_percent = 0.0
        self.memory_percent = 0.0
        self.queue: FairQueue[Request] = FairQueue()
        self.running: dict[int, Request] = {}
        self.by_caller: dict[int, int] = {}
        """How many of the running ones each caller has, by its number."""
        self.quick: dict[int, int] = {}
        """The same of those that are quick."""
        self.modest_until_s: float | None = None
        """Until when it is given few quick ones."""
        self.door: tuple[str, ...] = ()
        """Where agents and clients may connect to it, as it says itself."""
        self.agents = 0
        """How many agents have a session at its door, as it says itself."""
        self.metrics: dict[str, Any] = {}
        """What it measured last, by metric."""
        self.metrics_at_s: float | None = None
        self.config: str | None = None
        """The digest of the live configuration that it has applied; None until it says."""
        self.drained = False
        """Somebody said that it is to get nothing new (core/drained.py)."""

    @property
    def usable(self) -> bool:
        """Whether it takes any request at all, now or when others have ended."""
        return self.serves and not self.drained

    @property
    def serves(self) -> bool:
        """Whether what waits in its own queue is given to it. Of a drained node that is only what may look at it."""
        return self.state == "ready" and self.slots > 0 and self.peer is not None and not self.peer.draining

    @property
    def free(self) -> int:
        """How many more requests it may be given."""
        return self.slots - len(self.running) if self.serves else 0

    def is_quick(self, function: str) -> bool:
        """Whether calls of this function run one after the other here."""
        info = self.functions.get(function)
        return info is not None and info.pool == QUICK_POOL

    def allowance(self, caller_no: int, function: str) -> int:
        """How many more requests of this caller it may be given, when the first of them is for ``function``.

        All callers together hold at most seven eighths of the slots, in equal shares: there is always room for one more
        caller, however many requests the others have and however slow they are. While a modest one is among them they share
        MOST_QUICK of the quick ones.
        """
        room = _share(self.slots * 7 // 8, self.by_caller, caller_no)
        if self.modest_until_s is not None and self.is_quick(function):
            return min(room, _share(MOST_QUICK, self.quick, caller_no))
        return room

    def allows(self, request: Request) -> int:
        """How many requests of its caller it may be given, ``request`` being the first."""
        return self.allowance(request.caller.no, request.group.function)

    def took(self, caller: Peer, count: int, now: float, *, quick: bool) -> None:
        """It was given ``count`` requests of this caller, all of them quick ones or none."""
        no = caller.no
        self.by_caller[no] = self.by_caller.get(no, 0) + count
        if len(caller.requests) > MODEST:
            caller.much_until_s = now + MODEST_S
        if not quick:
            return
        if now >= caller.much_until_s and self.quick and no not in self.quick:
            self.modest_until_s = now + MODEST_S
        elif self.modest_until_s is not None and now >= self.modest_until_s:
            self.modest_until_s = None
        self.quick[no] = self.quick.get(no, 0) + count

    def gave_back(self, caller_no: int, count: int, quick: int) -> None:
        """So many of them have ended."""
        _less(self.by_caller, caller_no, count)
        if quick:
            _less(self.quick, caller_no, quick)


def _share(most: int, held: dict[int, int], caller_no: int) -> int:
    """What is left for this caller of its equal share of ``most``."""
    mine = held.get(caller_no, 0)
    others = len(held) - (1 if mine else 0)
    return max(1, most // (others + 1)) - mine


def _less(held: dict[int, int], caller_no: int, count: int) -> None:
    left = held[caller_no] - count
    if left:
        held[caller_no] = left
    else:
        del held[caller_no]


class Peer:
    """One session."""

    __slots__ = (
        "answered_at_once", "blocked", "blocked_s", "draining", "identity", "instance", "kinds", "lanes", "last_id",
        "last_seen_s", "much_until_s", "no", "node", "requests", "route", "since_s", "waiting", "window",
    )  # fmt: skip

    def __init__(
        self, no: int, route: Route, identity: Identity, instance: str, kinds: frozenset[int], lanes: Lanes[Any], now: float
    ) -> None:
        self.no = no
        self.route = route
        self.identity = identity
        self.instance = instance
        self.kinds = kinds
        """Kinds of message that its role may send."""
        self.lanes = lanes
        self.since_s = self.last_seen_s = now
        self.node: Node | None = None
        self.last_id = 0
        self.requests: dict[int, Request | Fan] = {}
        self.much_until_s = 0.0
        """Until when it counts as one that asks for much."""
        self.waiting = 0
        self.window = self.answered_at_once = 0
        """Parts of its fan-outs answered at once in the current window of time (admission)."""
        self.blocked_s = 0.0
        self.blocked = False
        """The driver could not send to it: what is for it stays in its lanes."""
        self.draining = False


class Request(msgspec.Struct, eq=False, gc=False):
    """One request of a caller for one node (a part of a fan-out is one too).

    A Struct because one is made for each request: its constructor is C and costs a third of a class's. Not known to the collector
    of cycles, which would look at a hundred thousand of them for milliseconds: whoever ends a request takes it out of its caller,
    its fan and its node, and closes its relay.
    """

    caller: Peer
    id: int
    group: RequestGroup
    body: bytes
    size: int
    deadline_s: float
    queued_s: float
    node: Node | None = None
    """The node that it is for; None for ``any`` while it waits."""
    queue: FairQueue[Any] | None = None
    """Where it waits, or None once it has been given to a node."""
    leg: int = 0
    quick: bool = False
    """The node that it was given to counts it among the quick ones."""
    attempts: int = 0
    fan: Fan | None = None
    relay: Any = None
    started: bool = False
    """An item or value of it has been passed on: it cannot be run again unseen."""
    items: int = 0
    items_upto: int = INITIAL_ITEMS
    trail: Trail | None = None
    """Of a request that is audited: what is to be written of it. The parts of a fan-out have one together."""
    mark: Mark | None = None
    """Of a durable job: what its node is told of it."""
    word: str = ""
    """And the word that it was asked for with, if it was one (rights.py): its group names a node."""

    @property
    def priority(self) -> int:
        return self.group.priority

    @property
    def caller_no(self) -> int:
        return self.caller.no

    @property
    def pinned(self) -> bool:
        """It is for one node; one for ``any`` may move to another."""
        return self.group.target != ANY


class Fan:
    """A request to several nodes: open until each part has its answer."""

    __slots__ = ("by_leg", "caller", "id", "left")

    def __init__(self, caller: Peer, id_: int) -> None:
        self.caller = caller
        self.id = id_
        self.left: dict[Request, None] = {}
        self.by_leg: dict[int, Request] = {}


@dataclass(frozen=True)
class Event:
    """Something that an operator may want to know: named, counted, logged."""

    name: str
    fields: dict[str, Any]
    level: str = "info"
