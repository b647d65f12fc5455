"""Agents with faults, from seeds: the newest session's node has the agent, and the master knows what the nodes know."""

from __future__ import annotations

import pytest

from zcluster.core.agents.sending import Sending
from zcluster.nodes.agentrows import AgentRows
from zcluster.sim import Report, SimulationFailed, agents_doors, simulate_agents
from zcluster.sim.agents import TROUBLES, AgentRun
from zcluster.sim.world import World
from zcluster.store import book_memory
from zcluster.store.book_memory import MemoryBook
from zcluster.wire.agents import Taken
from zcluster.workers import agents

SEEDS = 240
LATE = 260
BLOCK = 60


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_every_invariant_holds(first: int) -> None:
    for seed in range(first, first + BLOCK):
        simulate_agents(seed).check()


@pytest.mark.soak
def test_every_invariant_holds_in_long_runs() -> None:
    for seed in range(10_000, 20_000):
        simulate_agents(seed, steps=150).check()


@pytest.mark.parametrize(
    "seed",
    [
        LATE,  # a session at the master's own door that was over before it was written took the agent back
    ],
)
def test_defects_that_were_found_here(seed: int) -> None:
    simulate_agents(seed).check()


def test_a_seed_is_a_run() -> None:
    for seed in range(8):
        told: list[str] = []
        first, again = simulate_agents(seed, say=told.append), simulate_agents(seed)
        assert first == again
        assert len(told) > 10
    assert simulate_agents(1).fingerprint != simulate_agents(2).fingerprint


def test_the_seeds_meet_every_trouble_and_outcome() -> None:
    troubles: set[str] = set()
    outcomes: set[str] = set()
    for seed in range(60):
        troubles.update(AgentRun(World(seed)).troubles)
        outcomes.update(name for name, count in simulate_agents(seed).outcomes.items() if count)
    assert troubles == set(TROUBLES)
    assert outcomes == {"sessions", "reports", "moves", "disks lost", "sessions ended"}


def breaks(seeds: int) -> Report | None:
    """The first of some runs in which an invariant is broken."""
    return next((report for seed in range(seeds) if not (report := simulate_agents(seed)).ok), None)


def test_it_sees_agents_that_go_back_and_says_how_it_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_memory, "decide", lambda current, claim, alive: "accepted")
    report = breaks(20)
    assert report is not None
    assert "whose session is older" in report.summary
    with pytest.raises(SimulationFailed, match=f"zcluster sim --scenario agents --seed {report.seed}"):
        report.check()


def test_it_sees_sessions_of_the_masters_door_that_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AgentRows, "_is_late", lambda self, row, epoch: False)
    report = simulate_agents(LATE)
    assert not report.ok
    assert "whose session is older" in report.summary


def test_it_sees_rows_that_are_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle_deadline(self: Sending, now: float) -> None:
        """A TAKEN that does not come is waited for for ever."""

    monkeypatch.setattr(Sending, "handle_deadline", handle_deadline)
    report = breaks(40)
    assert report is not None
    assert "at rest" in report.summary or "to no rest" in report.summary


def test_it_sees_a_new_master_that_is_not_told_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Sending.taken

    def believe_me(self: Sending, message: Taken, now: float) -> None:
        taken(self, Taken(source=self.source, upto=max(self.acked, message.upto)), now)

    monkeypatch.setattr(Sending, "taken", believe_me)
    report = breaks(40)
    assert report is not None
    assert "not at rest" in report.summary


def test_it_sees_agents_that_stay_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def node_back(self: MemoryBook, node: str) -> int:
        return 0

    monkeypatch.setattr(MemoryBook, "node_back", node_back)
    report = breaks(400)
    assert report is not None
    assert "and is disconnected at" in report.summary


def test_it_sees_the_newest_session_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents_doors, "ends", lambda epoch, order: True)
    monkeypatch.setattr(agents, "keeps", lambda row, order: False)
    report = breaks(100)
    assert report is not None
    assert "the newest session of" in report.summary


def test_it_sees_a_worker_that_cannot_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Sending._advance

    def restless(self: Sending, upto: int) -> None:
        advance(self, upto)
        self._announce = self._dirty = True

    monkeypatch.setattr(Sending, "_advance", restless)
    report = breaks(3)
    assert report is not None
    assert "something is sent although nothing has changed" in report.summary
