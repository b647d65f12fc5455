"""What nodes measure is checked, kept, and told with its age."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.brokers.cluster_functions import describe_node
from zcluster.brokers.metrics import MAX_METRICS, MAX_VALUES, MasterMetrics, checked
from zcluster.core.batch import Lanes
from zcluster.core.liveconfig import NodeConfig
from zcluster.core.peers import Event, Identity, Node, Peer
from zcluster.errors import PeerError
from zcluster.wire import Results
from zcluster.wire.agents import Metrics

GOOD = {"cpu": {"percent": 12.5, "count": 4}, "load": {"m1": 0.0}}


@pytest.mark.parametrize(
    "values",
    [
        {},
        GOOD,
        {f"m{number}": {} for number in range(MAX_METRICS)},
        {"m": {f"v{number}": -1 for number in range(MAX_VALUES)}},
        {"m": {"v": 2**63}},
    ],
)
def test_values_that_are_taken(values: dict[str, Any]) -> None:
    assert checked(values) == values


@pytest.mark.parametrize(
    "values",
    [
        {f"m{number}": {} for number in range(MAX_METRICS + 1)},
        {"m": {f"v{number}": 1 for number in range(MAX_VALUES + 1)}},
        {"m": 5},
        {"m": [1]},
        {"m": {"v": "5"}},
        {"m": {"v": True}},
        {"m": {"v": None}},
        {"m": {"v": {"deep": 1}}},
        {"m": {"v": 2**64}},
        {"m": {"v": 10**400}},
        {"m": {"v": float("nan")}},
        {"m": {"v": float("inf")}},
        {"": {}},
        {"Up": {}},
        {"x" * 33: {}},
        {"a b": {}},
        {"m\x1b": {}},
        {"m": {"../v": 1}},
    ],
)
def test_values_that_are_not(values: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        checked(values)


class Rig:
    def __init__(self) -> None:
        self.noted: list[Event] = []
        self.me, self.node = Node("m", "master", "ready", 0.0), Node("w1", "worker", "ready", 0.0)
        self.attached: list[Any] = []
        self.peer = Peer(1, "r", Identity("K", "w1", "worker"), "i", frozenset(), Lanes(Results, 1000), 0.0)
        self.peer.node = self.node
        self.sampled: list[tuple[str, ...]] = []
        self.measured = asyncio.Event()
        live: Any = SimpleNamespace(current=NodeConfig(metrics=("cpu",), digest="d0"), on_change=lambda call: None)
        desk: Any = SimpleNamespace(
            name="m", clock=lambda: 7.0, logger=logging.getLogger("test"), note=self.noted.append,
            sessions=SimpleNamespace(attach=self.attached.append),
        )  # fmt: skip
        loop = asyncio.get_running_loop()

        def sample(metrics: tuple[str, ...]) -> dict[str, Any]:
            self.sampled.append(metrics)
            loop.call_soon_threadsafe(self.measured.set)
            return {"cpu": {"percent": 1.0}}

        self.part = MasterMetrics(desk, lambda: self.me, live, SimpleNamespace(sample=sample))

    def say(self, values: dict[str, Any], config: str, now: float) -> None:
        self.part.received(self.peer, Metrics(values=values, config=config), b"", 0, now)


def test_a_workers_metrics_are_told_with_their_age() -> None:
    async def main() -> None:
        rig = Rig()
        told = describe_node(rig.node, 5.0)
        assert (told["metrics"], told["metrics_age_s"], told["config"]) == ({}, None, None)
        rig.say(GOOD, "d1", 5.0)
        told = describe_node(rig.node, 8.5)
        assert (told["metrics"], told["metrics_age_s"], told["config"]) == (GOOD, 3.5, "d1")

    asyncio.run(main())


def test_another_configuration_is_known_and_told_by_the_node_itself() -> None:
    async def main() -> None:
        rig = Rig()
        for config in ("", "d1", "d2"):
            rig.say({}, config, 1.0)
            assert rig.node.config == config
        assert rig.noted == []

    asyncio.run(main())


def test_what_is_refused_changes_nothing() -> None:
    async def main() -> None:
        rig = Rig()
        rig.say(GOOD, "d1", 1.0)
        with pytest.raises(PeerError):
            rig.say({"m": 5}, "d2", 2.0)
        assert (rig.node.metrics, rig.node.config, rig.noted) == (GOOD, "d1", [])
        rig.peer.node = None
        with pytest.raises(PeerError):
            rig.say(GOOD, "d1", 1.0)

    asyncio.run(main())


def test_the_master_measures_itself() -> None:
    async def main() -> None:
        rig = Rig()
        await rig.part.start()
        async with asyncio.timeout(30):
            await rig.measured.wait()
            while rig.me.metrics_at_s is None:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert rig.attached == [rig.part]
        assert (rig.sampled, rig.me.metrics, rig.me.metrics_at_s, rig.me.config) == (
            [("cpu",)], {"cpu": {"percent": 1.0}}, 7.0, "d0",
        )  # fmt: skip
        assert rig.part.functions() == {}
        await rig.part.close()

    asyncio.run(main())
