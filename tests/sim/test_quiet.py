"""In a quiet network: priorities, fair turns between clients, and a cluster that comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zcluster.sim.cluster import SimCluster
from zcluster.sim.ledger import Record
from zcluster.sim.world import SimulationFailed

Quiet = Callable[..., SimCluster]
RunFor = Callable[[SimCluster, float], None]


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of calls in the order in which they start."""
    from zcluster.sim.ledger import Ledger

    started: list[str] = []
    original = Ledger.started

    def started_too(self: Ledger, node: str, key: str, body: bytes) -> None:
        started.append(key)
        original(self, node, key, body)

    monkeypatch.setattr(Ledger, "started", started_too)
    return started


def made(record: Record | None) -> str:
    """The key of a call that the client did not refuse."""
    assert record is not None
    return record.key


def test_a_higher_priority_is_served_first(quiet: Quiet, run_for: RunFor, order: list[str]) -> None:
    cluster = quiet({"w1": 1}, {"c1": "client"})
    client = cluster.clients[0]
    busy = made(client.call("slow", "w1", timeout_s=3.0))
    run_for(cluster, 0.02)
    keys = {priority: made(client.call("quick", "w1", priority=priority, timeout_s=3.0)) for priority in (2, 9, 0, 5)}
    run_for(cluster, 3.0)
    assert order == [busy, keys[9], keys[5], keys[2], keys[0]]


def test_one_client_does_not_delay_another(quiet: Quiet, run_for: RunFor, order: list[str]) -> None:
    cluster = quiet({"w1": 2}, {"c1": "client", "c2": "client"})
    greedy, modest = cluster.clients
    many = [made(greedy.call("quick", "w1", timeout_s=3.0)) for _ in range(12)]
    run_for(cluster, 0.004)
    single = made(modest.call("quick", "w1", timeout_s=3.0))
    run_for(cluster, 3.0)
    assert set(order) == {*many, single}
    assert order.index(single) <= 5
    assert [key for key in order if key != single] == many
    cluster.check_quiet()


def test_any_goes_to_the_idle_worker_and_not_to_the_master(quiet: Quiet, run_for: RunFor) -> None:
    cluster = quiet({"w1": 2, "w2": 2}, {"c1": "client"})
    first = cluster.clients[0].call("slow", "any", timeout_s=3.0)
    second = cluster.clients[0].call("slow", "any", timeout_s=3.0)
    run_for(cluster, 0.05)
    assert first is not None
    assert second is not None
    assert {*first.starts, *second.starts} == {"w1", "w2"}


def test_everybody_is_back_after_the_masters_restart(quiet: Quiet, run_for: RunFor) -> None:
    cluster = quiet({"w1": 2, "w2": 2}, {"c1": "client"})
    client, master = cluster.clients[0], cluster.master
    assert master is not None
    lost = client.call("slow", "any", timeout_s=3.0)
    again = client.call("slow.safe", "any", timeout_s=3.0)
    run_for(cluster, 0.05)
    master.crash(silently=False)
    run_for(cluster, 0.2)
    cluster.start_master()
    run_for(cluster, 3.0)
    assert lost is not None
    assert again is not None
    assert (lost.outcome, again.outcome, again.sessions) == ("master_lost", "done", 2)
    cluster.check_quiet()


def test_an_idempotent_call_moves_when_its_worker_dies(quiet: Quiet, run_for: RunFor) -> None:
    cluster = quiet({"w1": 1, "w2": 1}, {"c1": "client"})
    safe = cluster.clients[0].call("slow.safe", "any", timeout_s=3.0)
    run_for(cluster, 0.02)
    assert safe is not None
    [first] = safe.starts
    [worker] = [worker for worker in cluster.workers if worker.name == first]
    worker.crash(silently=True)
    run_for(cluster, 3.0)
    assert safe.outcome == "done"
    assert set(safe.starts) == {"w1", "w2"}


def test_a_check_says_the_seed(quiet: Quiet) -> None:
    cluster = quiet({"w1": 1}, {"c1": "client"}, seed=77)
    with pytest.raises(SimulationFailed, match="zcluster sim --seed 77"):
        cluster.ledger.started("w1", "nobody", b"")
