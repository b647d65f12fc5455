"""Thousands of runs with faults: every invariant holds in each, and a seed is always the same run."""

from __future__ import annotations

import pytest

from zcluster.core.admission import Admission
from zcluster.core.calls import Calls
from zcluster.core.dispatch import Dispatch
from zcluster.core.peers import Node, Request
from zcluster.core.wheel import Wheel
from zcluster.core.work import WorkEnd
from zcluster.sim import Report, SimulationFailed, simulate
from zcluster.sim.scenario import TROUBLES, Run
from zcluster.sim.world import World

SEEDS = 2000
BLOCK = 100
STEPS = 30


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_every_invariant_holds(first: int) -> None:
    for seed in range(first, first + BLOCK):
        simulate(seed, steps=STEPS).check()


@pytest.mark.soak
def test_every_invariant_holds_in_long_runs() -> None:
    for seed in range(10_000, 15_000):
        simulate(seed, steps=100).check()


def test_a_seed_is_a_run() -> None:
    for seed in range(20):
        told: list[str] = []
        first, again = simulate(seed, say=told.append), simulate(seed)
        assert first == again
        assert len(told) > 10
    assert simulate(1).fingerprint != simulate(2).fingerprint


def test_the_seeds_meet_every_trouble_and_most_outcomes() -> None:
    troubles: set[str] = set()
    outcomes: dict[str, int] = {}
    for seed in range(150):
        troubles.update(Run(World(seed)).troubles)
        for outcome, count in simulate(seed, steps=STEPS).outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
    assert troubles == set(TROUBLES)
    assert {
        "done", "busy", "timed_out", "node_lost", "master_lost", "node_unavailable", "no_such_node", "no_such_function",
        "function_failed", "too_large", "not_allowed", "usage",
    } <= set(outcomes)  # fmt: skip


def breaks(seeds: int) -> Report | None:
    """The first of some runs in which an invariant is broken."""
    return next((report for seed in range(seeds) if not (report := simulate(seed, steps=STEPS)).ok), None)


def test_it_sees_functions_that_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def move(self: Dispatch, request: Request, node: Node, now: float) -> bool:
        return not request.pinned and not request.started and request.attempts < 3

    monkeypatch.setattr(Dispatch, "_may_move", move)
    report = breaks(400)
    assert report is not None
    assert "is started" in report.summary
    with pytest.raises(SimulationFailed, match=f"zcluster sim --seed {report.seed}"):
        report.check()


def test_it_sees_nodes_with_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Node, "allowance", lambda self, caller_no, function: 1000)
    report = breaks(50)
    assert report is not None
    assert "one caller has" in report.summary


def test_it_sees_calls_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Calls, "replies", lambda self, message, data, offset: [])
    monkeypatch.setattr(Wheel, "expired", lambda self, now: [])
    report = breaks(5)
    assert report is not None
    assert "after its deadline" in report.summary


def test_it_sees_what_comes_to_no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dispatch, "handle_deadline", lambda self, now: None)
    report = breaks(5)
    assert report is not None
    assert "it comes to no rest" in report.summary


def test_it_sees_slots_that_are_never_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkEnd, "cancel", lambda self, message: [])
    monkeypatch.setattr(WorkEnd, "finished", lambda self, leg, ok, body: None)
    report = breaks(20)
    assert report is not None
    assert "there is still: {'in_flight'" in report.summary


def test_it_sees_queues_without_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Admission, "_too_much", lambda self, peer, size, count: None)
    report = breaks(100)
    assert report is not None
    assert "wait" in report.summary
