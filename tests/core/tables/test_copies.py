"""Copies of tables in a world where everything goes wrong: they are never what the source never was, and always become what it
is."""

from __future__ import annotations

import pytest
from tablemodel import World

from zcluster.core.tables import source

SEEDS = range(120)


@pytest.mark.parametrize("batch_bytes", [60, 400, 262_144])
def test_copies_converge(batch_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BATCH_RAW_BYTES", batch_bytes)
    for seed in SEEDS:
        run(seed, steps=250)


@pytest.mark.soak
def test_copies_converge_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BATCH_RAW_BYTES", 400)
    for seed in range(1000, 6000):
        run(seed, steps=500)


def run(seed: int, steps: int) -> None:
    world = World(seed)
    try:
        for _ in range(steps):
            world.step()
        world.settle()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error


def test_a_settled_world_asks_nothing() -> None:
    world = World(7)
    for _ in range(30):
        world.write()
    world.settle()
    asks = [worker.asks for worker in world.workers]
    for _ in range(20):
        world.settle(rounds=1)
    assert [worker.asks for worker in world.workers] == asks
