"""What a simulated node has of its agents: their sessions, and a book in memory that outlives its process.

Rules kept here:
- what a session says waits a while before it is in the book, and is lost when the process is killed before that;
- an agent whose session is elsewhere by now may still be heard here, until this node notices.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from zcluster.core.agents.orders import ends
from zcluster.core.agents.row import Row
from zcluster.nodes.agentrows import AgentRows
from zcluster.sim.world import World
from zcluster.store.book_memory import MemoryBook
from zcluster.wire.agents import AgentOrder

if TYPE_CHECKING:
    from zcluster.sim.agents_oracle import Oracle

GONE_S = 3.0
"""How long a restarted node waits for the agents that it had."""
T = TypeVar("T")


def result_of(coroutine: Coroutine[object, object, T]) -> T:
    """What a coroutine returns that never waits, as those of a book in memory."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("a book in memory waits")


@dataclass
class Trouble:
    """How bad the world is."""

    lose: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    disk: float = 0.0
    slow: float = 0.0

    def pause_s(self, world: World) -> float:
        """How long the next thing takes."""
        return world.random.uniform(0.2, 3.0) if world.chance(self.slow) else world.random.uniform(0.0002, 0.01)


@dataclass
class Session:
    """An agent's session."""

    said: int
    """The number that the agent said."""
    number: int = 0
    """The number that its row has; 0 before it is written."""


class Door:
    """The agents' sessions at one node, and its book.

    Args:
        changed: told the agents whose rows have changed.
        taken: told the agents that were another node's until now: id, that node, the session's epoch.
    """

    def __init__(
        self, world: World, name: str, book: MemoryBook, oracle: Oracle, changed: Callable[[list[str]], None],
        taken: Callable[[str, str, int], None],
    ) -> None:  # fmt: skip
        self.world, self.name, self.book, self.oracle = world, name, book, oracle
        self._changed, self._taken = changed, taken
        self.sessions: dict[str, Session] = {}
        self.closed = False
        self._flushing = False
        self._touched: set[str] = set()
        self.rows = AgentRows(book, name, self.wall_s, lambda event: None, self._numbered, self._late)

    def wall_s(self) -> float:
        """Seconds since 1970."""
        return 1_700_000_000.0 + self.world.now

    def join(self, id_: str, epoch: int) -> None:
        """An agent opens a session."""
        self.sessions[id_] = Session(epoch)
        self.rows.joined(id_, epoch)
        self._flush_soon(id_)

    def hear(self, id_: str, epoch: int, said: int) -> None:
        """An agent says something in its session ``epoch``."""
        session = self.sessions.get(id_)
        if session is not None and session.said == epoch:
            self.rows.set(id_, {"labels": {"said": str(said)}, "status": "active"}, seen=True)
            self._flush_soon(id_)

    def end(self, id_: str, epoch: int) -> None:
        """The agent's session is over, unless it has a newer one."""
        session = self.sessions.get(id_)
        if session is not None and session.said == epoch:
            del self.sessions[id_]
            self.rows.set(id_, {"status": "disconnected"}, seen=False)
            self._flush_soon(id_)

    def report(self, id_: str, said: int) -> None:
        """A program says of an agent what it knows."""
        row = result_of(self.book.get(id_))
        if id_ in self.sessions or (row is not None and (row.held == "session" or row.node not in ("", self.name))):
            return
        self.world.note(self.name, f"is told of {id_}")
        wall_s = self.wall_s()
        row = Row(
            id=id_, node=self.name, held="report", epoch=int(wall_s * 1000), labels={"said": str(said)}, first_seen=wall_s,
            last_seen=wall_s,
        )  # fmt: skip
        result_of(self.book.put([row]))
        self.oracle.outcomes["reports"] += 1
        self._changed([id_])

    def perform(self, order: AgentOrder) -> bool:
        """Do to the session what an order of the master says."""
        session = self.sessions.get(order.id)
        if session is not None and order.op in ("drop", "remove"):
            if not ends(session.number or session.said, order):
                return False
            why, by_person = f"an order to {order.op}", order.op == "remove"
            self.oracle.ended(order.id, self.name, session.said, why, by_person=by_person)
            del self.sessions[order.id]
            self.rows.forget(order.id)
        return True

    def come_back(self) -> None:
        """The process was started again: its agents are silent until they are heard, or gone."""
        rows = result_of(self.book.changed(0, 10_000))[0]
        live = [row.id for row in rows if row.node == self.name and row.status in ("active", "silent")]
        result_of(self.book.update([(id_, {"status": "silent"}) for id_ in live]))
        self.world.after(GONE_S, lambda: self._give_up(live))

    def _give_up(self, ids: list[str]) -> None:
        for id_ in ids:
            if id_ not in self.sessions:
                self.rows.set(id_, {"status": "disconnected"}, seen=False)
                self._flush_soon(id_)

    def _flush_soon(self, id_: str) -> None:
        self._touched.add(id_)
        if not self._flushing:
            self._flushing = True
            self.world.after(self.world.random.uniform(0.0, 0.05), self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if not self.closed:
            result_of(self.rows.flush())
            touched, self._touched = sorted(self._touched), set()
            self._changed(touched)

    def _numbered(self, id_: str, node: str, number: int) -> None:
        session = self.sessions.get(id_)
        if session is not None and not session.number:
            session.number = number
            self.oracle.numbered(id_, self.name, session.said, number)
        if node not in ("", self.name):
            self._taken(id_, node, number)

    def _late(self, id_: str, node: str, epoch: int) -> None:
        session = self.sessions.get(id_)
        if session is not None and session.said <= epoch:
            self.oracle.ended(id_, self.name, epoch, f"a session at {node}")
            del self.sessions[id_]
            self.rows.forget(id_)
