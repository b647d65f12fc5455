"""``zcluster sim`` over a simulator of one line."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.cli.sim import MAX_SEEDS, seed_range
from zcluster.errors import UsageError


@pytest.fixture(autouse=True)
def _simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(seed: int, *, say: Callable[[str], None] | None = None) -> SimpleNamespace:
        if say is not None:
            say(f"event of {seed}")
        return SimpleNamespace(ok=seed != 7, summary="fine" if seed != 7 else "a call had no end")

    monkeypatch.setattr("zcluster.sim.simulate", simulate, raising=False)
    trees = lambda seed, *, say=None: SimpleNamespace(ok=seed != 9, summary="trees are fine")  # noqa: E731
    monkeypatch.setattr("zcluster.sim.simulate_trees", trees, raising=False)


def test_a_seed_is_replayed_aloud(zcluster: Callable[..., Any]) -> None:
    ran = zcluster("sim", "--seed", "3")
    assert (ran.code, ran.out) == (0, "event of 3\nfine\n")


def test_a_seed_that_fails_ends_with_1(zcluster: Callable[..., Any]) -> None:
    ran = zcluster("sim", "--seed", "7")
    assert (ran.code, ran.out) == (1, "event of 7\na call had no end\n")


def test_seeds_print_those_that_fail(zcluster: Callable[..., Any]) -> None:
    ran = zcluster("sim", "--seeds", "5..8")
    assert (ran.code, ran.out) == (1, "seed 7: a call had no end\n4 seeds, 1 failed\n")
    assert ran.err == "replay it with: zcluster sim --seed 7\n"
    assert zcluster("sim", "--seeds", "8..8").out == "1 seeds, 0 failed\n"


@pytest.mark.parametrize("words", [(), ("--seed", "1", "--seeds", "1..2"), ("--seed", "-1"), ("--seeds", "3")])
def test_a_wrong_call_is_a_usage_error(words: tuple[str, ...], zcluster: Callable[..., Any]) -> None:
    assert zcluster("sim", *words).code == 2


def test_ranges_of_seeds_have_a_bound() -> None:
    assert len(seed_range(f"1..{MAX_SEEDS}")) == MAX_SEEDS
    for text in (f"0..{MAX_SEEDS}", "2..1", "a..b", "1..", "1...2"):
        with pytest.raises(UsageError):
            seed_range(text)


def test_file_sync_is_another_scenario(zcluster: Callable[..., Any]) -> None:
    assert zcluster("sim", "--scenario", "trees", "--seed", "7").out == "trees are fine\n"
    ran = zcluster("sim", "--scenario", "trees", "--seeds", "9..9")
    assert (ran.code, ran.err) == (1, "replay it with: zcluster sim --scenario trees --seed 9\n")
    assert zcluster("sim", "--scenario", "weather", "--seed", "1").code == 2
