"""Large bodies on a running cluster, both ways: at their limits, to several nodes, and in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from waiting import PATIENCE_S, eventually, in_flight, lines

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.errors import TimedOut, TooLarge

FUNCTIONS = str(Path(__file__).with_name("bus_functions.py"))
MIB = 1024 * 1024
BODY_BYTES = 9 * MIB
INLINE_BYTES = 65_536
TEXT_BYTES = len(b'{"text":""}')
GROWTH_BYTES = 32 * MIB
"""How much more memory the master may take while bodies of 64 MiB pass it: a few windows of 1 MiB for each."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, functions=[FUNCTIONS], settings={"limits.body_bytes": BODY_BYTES}) as running:
        yield running


def use(cluster: LocalCluster, body: Callable[[AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(2 * PATIENCE_S), AsyncClient(key=cluster.client_key, timeout=PATIENCE_S) as client:
            await body(client)
            for name in cluster.worker_names:
                await in_flight(client, name, 0)

    asyncio.run(main())


@pytest.mark.parametrize("size", [INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, MIB, 8 * MIB + 1, BODY_BYTES])
@pytest.mark.parametrize("target", ["worker-1", "any"])
def test_a_body_of_any_allowed_size_arrives_both_ways(cluster: LocalCluster, size: int, target: str) -> None:
    async def body(client: AsyncClient) -> None:
        text = "x" * (size - TEXT_BYTES)
        assert await client.call("t.length", {"text": text}, target=target) == len(text)
        value = await client.call("t.text", {"size": size}, target=target)
        assert len(value) == size - 2
        assert not value.strip("y")

    use(cluster, body)


def test_the_content_is_the_same_at_the_other_end_and_back(cluster: LocalCluster) -> None:
    async def body(client: AsyncClient) -> None:
        value = {"numbers": list(range(300_000)), "text": "äöü\0" * 100_000}
        for target in ("master", "worker-2"):
            assert await client.call("echo", {"value": value}, target=target) == value

    use(cluster, body)


@pytest.mark.parametrize("target", ["worker-1", "master", "any"])
def test_one_byte_too_many_is_too_large_both_ways(cluster: LocalCluster, target: str) -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(TooLarge, match=str(BODY_BYTES)):
            await client.call("t.length", {"text": "x" * (BODY_BYTES + 1 - TEXT_BYTES)}, target=target)
        if target != "master":
            with pytest.raises(TooLarge, match=str(BODY_BYTES)) as caught:
                await client.call("t.text", {"size": BODY_BYTES + 1}, target=target)
            assert "generator" in caught.value.hint
        assert await client.call("echo", {"value": 1}, target=target) == 1

    use(cluster, body)


def test_many_large_bodies_at_once_and_small_calls_between(cluster: LocalCluster) -> None:
    async def body(client: AsyncClient) -> None:
        text = "x" * (2 * MIB)
        large = [asyncio.create_task(client.call("t.length", {"text": text})) for _ in range(12)]
        large += [asyncio.create_task(_length(client.call("t.text", {"size": 2 * MIB + 2}))) for _ in range(12)]
        small = 0
        while not all(task.done() for task in large):
            assert await client.call("echo", {"value": small}) == small
            small += 1
        assert await asyncio.gather(*large) == [2 * MIB] * 24
        assert small > 1

    use(cluster, body)


async def _length(call: Awaitable[Any]) -> int:
    return len(await call)


def test_a_fan_out_carries_large_bodies_to_and_from_each_node(cluster: LocalCluster) -> None:
    async def body(client: AsyncClient) -> None:
        value = "z" * (3 * MIB)
        results = [each async for each in client.fan_out("echo", {"value": value}, target="all")]
        assert sorted(each.node for each in results) == ["master", "worker-1", "worker-2"]
        assert all(each.ok and each.value == value for each in results)

    use(cluster, body)


def test_leaving_a_call_with_a_large_body_leaves_nothing_behind(cluster: LocalCluster, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        text = "x" * (8 * MIB)
        for turns in range(20):
            task = asyncio.create_task(client.call("t.length", {"text": text}, target="worker-1"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
        path, gate = tmp_path / "ran", tmp_path / "gate"
        args = {"path": str(path), "gate": str(gate), "size": 4 * MIB}
        late = asyncio.create_task(client.call("t.gate_then_large", args, target="worker-1", timeout=1.0))
        await eventually(lambda: lines(path), "it runs")
        with pytest.raises(TimedOut):
            await late
        gate.touch()
        assert await client.call("t.length", {"text": text}, target="worker-1") == len(text)

    use(cluster, body)


def test_bodies_of_64_mib_pass_the_master_in_bounded_memory() -> None:
    size = 64 * MIB

    async def main(cluster: LocalCluster) -> list[int]:
        master = psutil.Process(cluster.pids["master"])
        async with AsyncClient(key=cluster.client_key, timeout=2 * PATIENCE_S) as client:
            assert await client.call("t.length", {"text": "x" * MIB}) == MIB
            rss = [master.memory_info().rss]
            arguments = {"text": "x" * (size - TEXT_BYTES)}
            calls = [asyncio.create_task(client.call("t.length", arguments, target=name)) for name in cluster.worker_names]
            calls += [
                asyncio.create_task(_length(client.call("t.text", {"size": size}, target=name))) for name in cluster.worker_names
            ]
            while not all(call.done() for call in calls):
                rss.append(master.memory_info().rss)
                await client.call("echo", {"value": 1}, target="master")
            assert [call.result() for call in calls] == [size - TEXT_BYTES] * 2 + [size - 2] * 2
            rss.append(master.memory_info().rss)
            return rss

    with LocalCluster(workers=2, functions=[FUNCTIONS]) as cluster:
        rss = asyncio.run(main(cluster))
    assert len(rss) > 10, "nobody looked while the bodies passed"
    assert max(rss) - rss[0] <= GROWTH_BYTES
