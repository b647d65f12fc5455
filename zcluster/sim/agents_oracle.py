"""What has to hold of agents, whatever goes wrong: who is whose, and that nothing is lost.

Rules kept here (and checked):
- an agent that has a session and then a newer one elsewhere never goes back to the node of the older, as long as the master
  has its book;
- no node ends the newest session of an agent because of another;
- in the end the node of the newest session has the agent, the master's row is that node's row, and every row of a node is
  known to the master;
- when all is at rest nothing is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zcluster.core.agents.row import Row
from zcluster.sim.agents_doors import result_of
from zcluster.sim.world import World
from zcluster.store.book_memory import MemoryBook

if TYPE_CHECKING:
    from zcluster.sim.agents_hosts import SimMaster, SimWorker

SAME = ("name", "status", "labels", "held", "epoch")


class SimAgent:
    """A monitored host: which session it opened last, and what it said."""

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.epoch = 0
        self.node = ""
        """Where its newest session is, or was."""
        self.live = False
        self.said = 0


class Oracle:
    """It sees everything that happens."""

    def __init__(self, world: World, agents: list[SimAgent]) -> None:
        self.world, self.agents = world, agents
        self.outcomes: Counter[str] = Counter()
        self._ordinals: dict[tuple[str, str, int], int] = {}
        """Of sessions: agent, node, epoch of the row; a newer session has a larger number."""
        self._begun: dict[tuple[str, str, int], int] = {}
        self._serial = 0
        self._owners: dict[str, Row] = {}
        self.losers: set[str] = set()
        """Nodes whose disk was lost."""
        self._removed: dict[str, int] = {}
        """Up to which session a person has removed an agent."""

    def removed(self, id_: str, epoch: int) -> None:
        """A person removed the agent, as of this session. A master that forgets to tell its node finds the row late, later."""
        self._removed[id_] = epoch

    def began(self, agent: SimAgent) -> None:
        """An agent opens a session at ``agent.node``."""
        self._serial += 1
        self._begun[agent.id, agent.node, agent.epoch] = self._serial
        self.outcomes["sessions"] += 1

    def numbered(self, id_: str, node: str, said: int, number: int) -> None:
        """A node wrote a session's row: with ``number``, which may be another than the agent ``said``."""
        begun = self._begun.get((id_, node, said))
        if begun is not None:
            self._ordinals[id_, node, number] = begun

    def ended(self, id_: str, node: str, said: int, why: str, *, by_person: bool = False) -> None:
        """A node ends a session. It must not be the newest, unless a person removed the agent."""
        self.world.note(node, f"ends the session of {id_}, because of {why}")
        self.outcomes["sessions ended"] += 1
        agent = next((agent for agent in self.agents if agent.id == id_), None)
        if agent is not None and agent.live and (agent.node, agent.epoch) == (node, said):
            if not by_person and self._removed.get(id_, -1) < said:
                self.world.fail(f"the newest session of {id_} is ended by {why}")
            agent.live = False

    def lost(self, node: str) -> None:
        """A node's disk was lost."""
        self.outcomes["disks lost"] += 1
        self.losers.add(node)
        if node == "m":
            self._owners.clear()

    def took(self, book: MemoryBook, ids: Sequence[str]) -> None:
        """The master's book may say something new of these agents."""
        for id_, row in result_of(book.get_many(ids)).items():
            before = self._owners.get(id_)
            self._owners[id_] = row
            if before is None or before.node == row.node:
                continue
            self.outcomes["moves"] += 1
            older, newer = self._ordinal(before), self._ordinal(row)
            if older is not None and newer is not None and newer < older:
                self.world.fail(f"{id_} goes back from {before.node} to {row.node}, whose session is older")

    def _ordinal(self, row: Row) -> int | None:
        return self._ordinals.get((row.id, row.node, row.epoch)) if row.held == "session" else None

    # -- in the end -----------------------------------------------------------------------------------------------------

    def open_questions(self, master: SimMaster, workers: Sequence[SimWorker]) -> list[str]:
        """What is not yet as it has to be in the end."""
        rows = {row.id: row for row in result_of(master.book.changed(0, 10_000))[0]}
        questions = [f"{worker.name} has not sent everything" for worker in workers if not worker.sending.current]
        for agent in self.agents:
            row = rows.get(agent.id)
            if agent.live and (row is None or (row.node, row.status) != (agent.node, "active")):
                is_ = "unknown" if row is None else f"{row.status} at {row.node}"
                questions.append(f"{agent.id} has its session at {agent.node}, and is {is_}")
            elif agent.live and row is not None and row.labels != {"said": str(agent.said)}:
                questions.append(f"{agent.id} said {agent.said}, and has {row.labels}")
        for worker in workers:
            questions += self._differences(worker, rows)
        return questions

    def robbed(self, master: SimMaster) -> list[SimAgent]:
        """Agents with a session that a report took while their node was away: the next word of each takes it back."""
        rows = result_of(master.book.get_many([agent.id for agent in self.agents if agent.live]))
        taken = {id_ for id_, row in rows.items() if row.held == "report"}
        return [agent for agent in self.agents if agent.id in taken and agent.node != rows[agent.id].node]

    def _differences(self, worker: SimWorker, rows: dict[str, Row]) -> list[str]:
        own = {row.id: row for row in result_of(worker.book.changed(0, 10_000))[0]}
        told = []
        for id_, row in own.items():
            known = rows.get(id_)
            if known is None:
                if row.status == "removed":
                    continue
                told.append(f"{id_} of {worker.name} is unknown to the master")
            elif known.node == worker.name and not known.status == row.status == "removed":
                differ = [name for name in SAME if getattr(known, name) != getattr(row, name)]
                if differ and not (known.status == "removed" and known.epoch >= row.epoch):
                    told.append(f"{id_} of {worker.name} differs in {differ}: {known} and {row}")
        if worker.name not in self.losers:
            known_here = [row for row in rows.values() if row.node == worker.name and row.status != "removed"]
            told += [f"{row.id} is not in the book of {worker.name}" for row in known_here if row.id not in own]
        return told
