"""File sync with faults, from seeds: copies are never a mixture, say only what they are, and come to rest as their sources."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zcluster.core.sync.fetching import Fetching
from zcluster.core.sync.permits import Permits
from zcluster.core.sync.plan import Plan
from zcluster.core.sync.sink import Sink
from zcluster.core.sync.source import Source
from zcluster.sim import Report, SimulationFailed, simulate_trees, trees_places
from zcluster.sim.trees import TROUBLES, TreeRun
from zcluster.sim.trees_disk import Nodes, Op, ops_of
from zcluster.sim.world import World

SEEDS = 160
BLOCK = 40
STEPS = 30


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_every_invariant_holds(first: int) -> None:
    for seed in range(first, first + BLOCK):
        simulate_trees(seed, steps=STEPS).check()


@pytest.mark.soak
def test_every_invariant_holds_in_long_runs() -> None:
    for seed in range(10_000, 13_000):
        simulate_trees(seed, steps=80).check()


@pytest.mark.parametrize(
    "seed",
    [
        16,  # a version whose files are gone at its source was pulled again without a pause
        29,  # after a restart the changes to the next version lacked what had gone
        39,  # a window below a chunk let no large file through
        42,  # a look during a walk changed what the plan was made for
        44,  # a start that had failed was not tried again
        83,  # what had gone wrong before was told for ever
        288,  # a copy with files of its own was changed here while a version was put in its place
        547,  # a source that had just started forgot who had asked
    ],
)
def test_defects_that_were_found_here(seed: int) -> None:
    simulate_trees(seed).check()


def test_a_seed_is_a_run() -> None:
    for seed in range(8):
        told: list[str] = []
        first, again = simulate_trees(seed, steps=STEPS, say=told.append), simulate_trees(seed, steps=STEPS)
        assert first == again
        assert len(told) > 10
    assert simulate_trees(1, steps=STEPS).fingerprint != simulate_trees(2, steps=STEPS).fingerprint


def test_the_seeds_meet_every_trouble_and_state() -> None:
    troubles: set[str] = set()
    outcomes: set[str] = set()
    for seed in range(40):
        troubles.update(TreeRun(World(seed)).troubles)
        outcomes.update(simulate_trees(seed, steps=STEPS).outcomes)
    assert troubles == set(TROUBLES)
    assert {"current", "waiting", "pulling", "applying", "failed", "held", "paused", "versions", "commits"} <= outcomes


def breaks(seeds: int) -> Report | None:
    """The first of some runs in which an invariant is broken."""
    return next((report for seed in range(seeds) if not (report := simulate_trees(seed, steps=STEPS)).ok), None)


def test_a_failure_says_how_it_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sink, "holds", property(lambda sink: sink.clean))
    report = breaks(10)
    assert report is not None
    assert "left, and it is not" in report.summary
    assert "REPORT tree=d" in report.summary
    with pytest.raises(SimulationFailed, match=f"zcluster sim --scenario trees --seed {report.seed}"):
        report.check()


def test_it_sees_permits_without_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(self: Permits[object], key: object, owner: int, now: float) -> bool:
        self._out[key] = now
        self._owner[key] = owner
        self._keys.setdefault(owner, set()).add(key)
        self._granted[key] = None
        return True

    monkeypatch.setattr(Permits, "ask", ask)
    report = breaks(20)
    assert report is not None
    assert "permits are out" in report.summary


def test_it_sees_a_window_that_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fetching, "_may", lambda self, now: True)
    report = breaks(40)
    assert report is not None
    assert "bytes of ('d', '') at once" in report.summary


def test_it_sees_contents_that_nobody_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    def ops(plan: Plan, staged: Nodes) -> list[Op]:
        torn = {path: replace(node, data=node.data[:-1]) if node.data else node for path, node in staged.items()}
        return ops_of(plan, torn)

    monkeypatch.setattr(trees_places, "ops_of", ops)
    report = breaks(5)
    assert report is not None
    assert "that nobody wrote there" in report.summary


def test_it_sees_copies_that_come_to_no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Source, "announce", lambda self, session: None)
    report = breaks(1)
    assert report is not None
    assert "not quiet" in report.summary
