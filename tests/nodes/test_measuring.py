"""A node measures by its live configuration, and at once when that changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from zcluster.core.liveconfig import NodeConfig
from zcluster.nodes.measuring import Measuring
from zcluster.wire import Welcome
from zcluster.wire.agents import Metrics
from zcluster.workers.metrics import WorkerMetrics
from zcluster.workers.uplink import Uplink

LOGGER = logging.getLogger("test")
WELCOME = Welcome(
    version=1, session=1, name="w1", role="worker", cluster="c", master="m", epoch=1, heartbeat_s=1.0, lease_heartbeats=3,
    body_bytes=1, inline_bytes=1, chunk_bytes=1024, window_bytes=1024,
)  # fmt: skip


class Live:
    """A live configuration that a test changes."""

    def __init__(self) -> None:
        self.current = NodeConfig(interval=3600.0, metrics=("cpu", "load"), digest="d1")
        self.subscribers: list[Callable[[NodeConfig, NodeConfig], None]] = []

    def on_change(self, subscriber: Callable[[NodeConfig, NodeConfig], None]) -> None:
        self.subscribers.append(subscriber)

    def change(self, config: NodeConfig) -> None:
        old, self.current = self.current, config
        for subscriber in self.subscribers:
            subscriber(old, config)


class Sampler:
    """Gives each metric the number of the look; the first looks may fail."""

    def __init__(self, failures: int = 0) -> None:
        self.looks, self.failures = 0, failures

    def sample(self, metrics: Iterable[str]) -> dict[str, Any]:
        self.looks += 1
        if self.looks <= self.failures:
            raise OSError("too many open files")
        return {name: {"look": self.looks} for name in metrics}


def test_a_change_is_measured_at_once_and_by_the_new_list() -> None:
    async def main() -> None:
        live, told = Live(), asyncio.Queue[tuple[dict[str, Any], str]]()
        measuring = Measuring(live, Sampler(), lambda values, config: told.put_nowait((values, config)), LOGGER)
        measuring.start()
        async with asyncio.timeout(30):
            assert await told.get() == ({"cpu": {"look": 1}, "load": {"look": 1}}, "d1")
            live.change(NodeConfig(interval=3600.0, metrics=("load",), digest="d2"))
            assert await told.get() == ({"load": {"look": 2}}, "d2")
            live.change(NodeConfig(interval=0.001, metrics=(), digest="d3"))
            for _ in range(3):
                assert await told.get() == ({}, "d3")
            await measuring.close()

    asyncio.run(main())


def test_a_look_that_fails_is_logged_and_the_next_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        live, told = Live(), asyncio.Queue[str]()
        live.current = NodeConfig(interval=0.001, metrics=(), digest="d")
        measuring = Measuring(live, Sampler(failures=2), lambda values, config: told.put_nowait(config), LOGGER)
        measuring.start()
        async with asyncio.timeout(30):
            assert await told.get() == "d"
        await measuring.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["nothing was measured: too many open files"] * 2


def test_a_worker_tells_when_there_is_a_session_and_only_then() -> None:
    async def main() -> None:
        class Desk:
            logger = LOGGER

        woken, sampler, desk = asyncio.Event(), Sampler(), Desk()
        uplink = Uplink(woken.set)
        part = WorkerMetrics(desk, uplink, Live(), sampler)  # type: ignore[arg-type]
        await part.start()
        async with asyncio.timeout(30):
            while not sampler.looks:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert uplink.take([]) == []
            uplink.link_up(WELCOME)
            await woken.wait()
        ((message, _),) = uplink.take([])
        assert isinstance(message, Metrics)
        assert (set(message.values), message.config) == ({"cpu", "load"}, "d1")
        uplink.link_down()
        assert part.functions() == {}
        await part.close()

    asyncio.run(main())
