"""Simulated clusters in a quiet network, for scenarios of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zcluster.sim.cluster import SimCluster
from zcluster.sim.network import Weather
from zcluster.sim.world import World


@pytest.fixture
def quiet() -> Callable[..., SimCluster]:
    """A cluster whose network is good and whose processes live; everybody is in a session."""

    def make(workers: dict[str, int], clients: dict[str, str], seed: int = 1) -> SimCluster:
        cluster = SimCluster(World(seed), Weather(), workers, clients)
        run_for(cluster, 0.1)
        return cluster

    return make


def run_for(cluster: SimCluster, seconds: float) -> None:
    """Let ``seconds`` pass."""
    world, end_s = cluster.world, cluster.world.now + seconds
    while (at_s := world.next_at()) is not None and at_s <= end_s:
        world.run_next()
        cluster.check()
    world.now = end_s


@pytest.fixture(name="run_for")
def _run_for() -> Callable[[SimCluster, float], None]:
    return run_for
