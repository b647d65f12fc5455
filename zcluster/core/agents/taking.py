"""The master's way with chunks of rows: which is taken next, which nodes count as alive, and what is told of what was refused.

Rules kept here:
- a worker has at most WINDOW chunks here that are not answered; one more is refused, and so is any beyond MAX_WAITING_BYTES
  of all workers together;
- workers take turns, one chunk each; the chunks of one session are taken in the order in which they came;
- a node is alive while it has a session, and after its end until its lease is over; after the master's start each node that
  the book knows is given that time;
- what is refused is told at most once a second for each worker, with counts.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from zcluster.core.agents.rowcodec import check_size
from zcluster.core.agents.sending import WINDOW
from zcluster.core.peers import Event
from zcluster.errors import Busy, PeerError
from zcluster.wire.agents import Rows

MAX_WAITING_BYTES = 64 * 1024 * 1024
TELL_EVERY_S = 1.0
SHOWN = 5
"""Ids that an event names."""
MAX_SINGLE = 20
"""Moves of one chunk that are told one by one."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One message of rows, as it came."""

    session: int
    node: str
    message: Rows
    body: bytes


@dataclass
class _Session:
    node: str
    queue: deque[Chunk] = field(default_factory=deque)
    out: int = 0
    """Chunks of it that are being taken."""


class Taking:
    """The queue of one master.

    Args:
        me: the master's own name, which is always alive.
        lease_s: how long a node without a session counts as alive.
    """

    def __init__(self, me: str, lease_s: float) -> None:
        self.lease_s = lease_s
        self.waiting_bytes = 0
        self._me = me
        self._sessions: dict[int, _Session] = {}
        self._turns: OrderedDict[int, None] = OrderedDict()
        """Sessions with chunks, the next one first."""
        self._by_node: dict[str, int] = {}
        self._away: dict[str, float] = {}
        """Nodes without a session, and when their leases are over."""

    # -- sessions and nodes ---------------------------------------------------------------------------------------------

    def expect(self, nodes: Iterable[str], now: float) -> None:
        """The master has started: these nodes have agents in its book."""
        for node in nodes:
            if node not in ("", self._me) and node not in self._by_node:
                self._away[node] = now + self.lease_s

    def opened(self, session: int, node: str) -> None:
        """A worker has a session."""
        self._sessions[session] = _Session(node)
        self._by_node[node] = session
        self._away.pop(node, None)

    def closed(self, session: int, last_seen_s: float) -> None:
        """A worker's session has ended: what waits of it is forgotten (the worker sends it again)."""
        state = self._sessions.pop(session, None)
        if state is None:
            return
        self._turns.pop(session, None)
        self.waiting_bytes -= sum(len(chunk.body) for chunk in state.queue)
        if self._by_node.get(state.node) == session:
            del self._by_node[state.node]
            self._away[state.node] = last_seen_s + self.lease_s

    def alive(self) -> frozenset[str]:
        """The nodes whose claims by a live session hold."""
        return frozenset((self._me, *self._by_node, *self._away))

    def session_of(self, node: str) -> int | None:
        """The number of the node's session."""
        return self._by_node.get(node)

    def gone(self, now: float) -> list[str]:
        """The nodes whose leases are over by now; each is told once."""
        gone = [node for node, due_s in self._away.items() if due_s <= now]
        for node in gone:
            del self._away[node]
        return gone

    def next_deadline(self) -> float:
        """When :meth:`gone` will have something to tell."""
        return min(self._away.values(), default=float("inf"))

    # -- chunks ---------------------------------------------------------------------------------------------------------

    def add(self, session: int, message: Rows, body: bytes) -> None:
        """A chunk came.

        Raises:
            PeerError: it cannot be one, or the worker sent more than it may.
            Busy: too much waits already.
        """
        state = self._sessions.get(session)
        if state is None:
            raise PeerError("ROWS came from no worker")
        if message.upto < message.base:
            raise PeerError(f"a chunk of rows goes from {message.base} to {message.upto}")
        check_size(message.raw_bytes, len(body))
        if len(state.queue) + state.out >= WINDOW:
            raise PeerError(f"{WINDOW} chunks of rows are not acknowledged yet", hint="wait for TAKEN")
        if self.waiting_bytes + len(body) > MAX_WAITING_BYTES:
            raise Busy("too many chunks of rows wait already", retry_after_s=1.0)
        state.queue.append(Chunk(session, state.node, message, body))
        self.waiting_bytes += len(body)
        self._turns[session] = None

    def next(self) -> Chunk | None:
        """The next chunk to take; :meth:`done` has to follow."""
        if not self._turns:
            return None
        session, _ = self._turns.popitem(last=False)
        state = self._sessions[session]
        chunk = state.queue.popleft()
        self.waiting_bytes -= len(chunk.body)
        state.out += 1
        if state.queue:
            self._turns[session] = None
        return chunk

    def done(self, chunk: Chunk) -> bool:
        """The chunk is taken, or not: it is answered now. Whether its session is still there."""
        state = self._sessions.get(chunk.session)
        if state is None:
            return False
        state.out -= 1
        return True


@dataclass
class _Full:
    rows: int
    since_s: float


class Telling:
    """What is told of chunks that were taken: events, not too many."""

    def __init__(self) -> None:
        self._refused: dict[str, Counter[str]] = {}
        self._shown: dict[str, list[str]] = {}
        self._quiet_until_s: dict[str, float] = {}
        self._full: dict[str, _Full] = {}

    def refused(self, node: str, refused: list[tuple[str, str]]) -> None:
        """Rows of ``node`` were refused: ids and reasons."""
        if refused:
            self._refused.setdefault(node, Counter()).update(reason for _, reason in refused)
            shown = self._shown.setdefault(node, [])
            shown += [id_ for id_, _ in refused[: SHOWN - len(shown)]]

    def moved(self, moved: list[tuple[str, str, str]]) -> list[Event]:
        """Agents have another node: id, the node before, the node now."""
        if len(moved) <= MAX_SINGLE:
            return [Event("agent_moved", {"id": id_, "from": before, "to": after}) for id_, before, after in moved]
        pairs = Counter((before, after) for _, before, after in moved)
        return [Event("agents_moved", {"count": n, "from": before, "to": after}) for (before, after), n in pairs.items()]

    def taken(self, node: str, message: Rows, now: float) -> list[Event]:
        """A chunk of ``node`` was taken: told when it was the last one of a sync from the beginning."""
        if message.base == 0:
            self._full[node] = _Full(0, now)
        full = self._full.get(node)
        if full is None:
            return []
        full.rows += message.count
        if message.more:
            return []
        del self._full[node]
        return [Event("agents_synced", {"node": node, "rows": full.rows, "seconds": round(now - full.since_s, 3)})]

    def due(self, now: float) -> list[Event]:
        """What is to be told now of what was refused."""
        events = []
        for node in [node for node in self._refused if self._quiet_until_s.get(node, 0.0) <= now]:
            counts = self._refused.pop(node)
            fields: dict[str, Any] = {"node": node, "count": counts.total(), **counts, "first": self._shown.pop(node)}
            events.append(Event("agent_refused", fields, "warning"))
            self._quiet_until_s[node] = now + TELL_EVERY_S
        return events

    def next_deadline(self) -> float:
        """When :meth:`due` will have something to tell."""
        return min((self._quiet_until_s.get(node, 0.0) for node in self._refused), default=float("inf"))
