"""The bounds of the queue, at the bound and beyond: refused with what helps, nothing lost, changed while the master runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.clients.jobs import AsyncJob
from zcluster.config import Home
from zcluster.errors import Busy, InvalidArguments, NoSuchNode, TooLarge, UsageError
from zcluster.keys import Ring, generate
from zcluster.keys.ring import NewKey

FUNCTIONS = str(Path(__file__).with_name("queue_fault_functions.py"))
MIB = 1 << 20
PARTS = 10_000
Body = Callable[[AsyncClient, AsyncClient], Awaitable[None]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(1, functions=[FUNCTIONS]) as running:
        yield running


@pytest.fixture
def run(cluster: LocalCluster) -> Callable[[Body], None]:
    """Run a test with an administrator's client and a plain one; afterwards the queue is empty and has its usual limits."""
    config = Home.of(cluster.home).config_file
    before = config.read_text()

    def with_clients(body: Body) -> None:
        async def main() -> None:
            async with AsyncClient(key=cluster.admin_key, timeout=30) as admin, AsyncClient(key=cluster.client_key) as client:
                try:
                    await body(admin, client)
                finally:
                    config.write_text(before)
                    await limits(cluster, admin, {})
                    while items := (await admin.queue.list(state="queued", limit=1000))["items"]:
                        await admin.queue.cancel([item["id"] for item in items])
                stats = await admin.queue.stats()
                assert (stats["live"], stats["bytes"], stats["writable"]) == (0, 0, True)
                assert (await admin.queue.check())["ok"]

        asyncio.run(main())

    return with_clients


async def limits(cluster: LocalCluster, client: AsyncClient, settings: Mapping[str, int]) -> None:
    """Change the settings of the queue in the running master."""
    config = Home.of(cluster.home).config_file
    if settings:
        kept = config.read_text().partition("\n[queue]")[0]
        config.write_text("\n".join([kept, "[queue]", *(f"{name} = {value}" for name, value in settings.items())]) + "\n")
    cluster.kill("master", signal.SIGHUP)
    wanted = settings or {"jobs": 5_000_000, "jobs_per_key": 2_000_000}

    async def there() -> bool:
        found = (await client.queue.stats())["limits"]
        return all(found[name] == value for name, value in wanted.items())

    await eventually(there, f"{dict(wanted)} hold")


async def wait_for_ever(client: AsyncClient, value: str = "x", **more: Any) -> AsyncJob:
    return await client.submit("q.size", {"value": value}, delay_s=3600, **more)


def test_jobs_altogether_and_of_one_key(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(admin: AsyncClient, client: AsyncClient) -> None:
        await limits(cluster, admin, {"jobs_per_key": 5, "jobs": 8})
        mine = [await wait_for_ever(client) for _ in range(5)]
        with pytest.raises(Busy, match="5 jobs of this key") as caught:
            await wait_for_ever(client)
        assert "queue.jobs_per_key" in str(caught.value.hint)
        assert caught.value.retry_after_s
        theirs = [await wait_for_ever(admin) for _ in range(3)]
        with pytest.raises(Busy, match="8 jobs have not ended, at most 8") as caught:
            await wait_for_ever(admin)
        assert "queue.jobs" in str(caught.value.hint)
        with pytest.raises(Busy):
            await admin.call("queue.submit", {"function": "q.size", "args": {"value": "x"}}, target="master")
        await mine.pop().cancel()
        mine.append(await wait_for_ever(client))
        await limits(cluster, admin, {"jobs_per_key": 7, "jobs": 11})
        mine += [await wait_for_ever(client), await wait_for_ever(client)]
        with pytest.raises(Busy, match="7 jobs of this key"):
            await wait_for_ever(client)
        with pytest.raises(Busy):  # a fan-out is a job, and so is its part
            await admin.submit("q.size", {"value": "x"}, target="worker-*", delay_s=3600)
        await theirs.pop().cancel()
        whole = await admin.submit("q.size", {"value": "x"}, target="worker-*", delay_s=3600)
        await whole.cancel()
        await limits(cluster, admin, {"jobs_per_key": 1, "jobs": 1})
        assert [await job.state() for job in (*mine, *theirs)] == ["queued"] * 9, "what was accepted stays"

    run(body)


def test_some_of_a_burst_are_refused_and_the_others_run(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(admin: AsyncClient, client: AsyncClient) -> None:
        await limits(cluster, admin, {"jobs_per_key": 50})
        work = [client.submit("q.size", {"value": "x" * number}) for number in range(400)]
        told = await asyncio.gather(*work, return_exceptions=True)
        accepted = [(number, job) for number, job in enumerate(told) if isinstance(job, AsyncJob)]
        assert accepted
        assert all(isinstance(each, AsyncJob | Busy) for each in told)
        assert [await job.result() for _, job in accepted] == [number for number, _ in accepted]

    run(body)


def test_bytes_of_arguments(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(admin: AsyncClient, client: AsyncClient) -> None:
        await limits(cluster, admin, {"jobs_bytes": MIB})
        envelope = len('{"value":""}')
        for size in (400_000, MIB - 400_000 - 2 * envelope):
            await wait_for_ever(client, "x" * size)
        assert (await admin.queue.stats())["bytes"] == MIB
        with pytest.raises(Busy, match="1048576 bytes of arguments") as caught:
            await wait_for_ever(admin, "")
        assert "queue.jobs_bytes" in str(caught.value.hint)
        assert await client.call("q.size", {"value": "abc"}) == 3

    run(body)


def test_bytes_of_a_result(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(admin: AsyncClient, client: AsyncClient) -> None:
        for most in (2048, 300_000):
            await limits(cluster, admin, {"result_bytes": most})
            assert await (await client.submit("q.blob", {"size": most})).result() == "x" * (most - 2)
            over = await client.submit("q.blob", {"size": most + 1})
            with pytest.raises(TooLarge, match=f"{most + 1} bytes.*at most {most}"):
                await over.result()
            assert await over.state() == "failed"
        await limits(cluster, admin, {"result_bytes": 1024})
        fit = 283
        assert len(str(list(range(fit))).replace(" ", "")) == 1023
        assert await (await client.submit("q.count", {"to": fit})).result() == list(range(fit))
        with pytest.raises(TooLarge, match="at most 1024"):
            await (await client.submit("q.count", {"to": fit + 1})).result()

    run(body)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"priority": 9}, {"priority": 10}),
        ({"priority": 0}, {"priority": -1}),
        ({"retries": 100}, {"retries": 101}),
        ({"retries": 0}, {"retries": -1}),
        ({"delay_s": 366 * 86_400}, {"delay_s": 366 * 86_400 + 1}),
        ({"expires_s": 366 * 86_400}, {"expires_s": 366 * 86_400 + 1}),
        ({"retention_s": 31 * 86_400}, {"retention_s": 31 * 86_400 + 1}),
        ({"timeout_s": 86_400}, {"timeout_s": 86_401}),
        ({"at_s": 4_102_444_800}, {"at_s": 4_102_444_801}),
        ({"delay_s": 3600}, {"delay_s": 3600, "at_s": 4_000_000_000}),
        ({"sequence": "s" * 128}, {"sequence": "s" * 129}),
        ({"key": "k" * 256}, {"key": "k" * 257}),
        ({"target": "worker-1"}, {"target": ""}),
        ({"target": "worker-*", "fan_out": True}, {"target": "worker-*"}),
        ({"sequence": "s"}, {"target": "worker-*", "fan_out": True, "sequence": "s"}),
    ],
)  # fmt: skip
def test_the_terms_of_a_job(run: Callable[[Body], None], good: dict[str, Any], bad: dict[str, Any]) -> None:
    async def body(admin: AsyncClient, client: AsyncClient) -> None:
        def submit(more: dict[str, Any]) -> Awaitable[Any]:
            delay = {} if "delay_s" in more or "at_s" in more else {"delay_s": 3600}
            args = {"function": "q.size", "args": {"value": "x"}, **delay, **more}
            return client.call("queue.submit", args, target="master")

        assert (await submit(good))["state"] == "queued"
        with pytest.raises((UsageError, InvalidArguments, NoSuchNode)):
            await submit(bad)
        assert len((await client.queue.list(state="queued"))["items"]) == 1

    run(body)


def test_ids_of_one_order(run: Callable[[Body], None]) -> None:
    async def body(admin: AsyncClient, client: AsyncClient) -> None:
        jobs = await asyncio.gather(*[wait_for_ever(client) for _ in range(1001)])
        ids = [job.id for job in jobs]
        for bad in ([], ids):
            with pytest.raises(InvalidArguments):
                await client.call("queue.cancel", {"ids": bad}, target="master")
        found = await client.call("queue.cancel", {"ids": [*ids[:998], ids[0], "nothing"]}, target="master")
        assert found["done"] == ids[:998]
        assert [(each["id"], each["code"]) for each in found["refused"]] == [("nothing", "usage")]
        assert len((await client.queue.list(state="queued", limit=1000))["items"]) == 3

    run(body)


def test_arguments_and_values_of_20_mb(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(admin: AsyncClient, client: AsyncClient) -> None:
        await limits(cluster, admin, {"result_bytes": 64 * MIB})
        value = "0123456789" * 2_000_000
        job = await admin.submit("echo", {"value": value}, target="worker-1", timeout=60)
        assert await job.result(timeout=60) == value
        assert (await job.info())["args"] is None

    run(body)


def test_parts_of_a_fan_out(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(admin: AsyncClient, client: AsyncClient) -> None:
        ring = Ring(Home.of(cluster.home).ring_file)
        names = [f"far-{number}" for number in range(PARTS + 1)]
        ring.add_many(NewKey(name, "worker", generate().public) for name in names[:PARTS])
        args = {"value": "x"}

        async def submitted() -> AsyncJob | None:
            job = await admin.submit("q.size", args, target="far-*")
            if (await job.info())["parts"] == PARTS:
                return job
            await job.cancel()
            return None

        jobs: list[AsyncJob] = [
            await eventually(submitted, "the ring is read"),
            await admin.submit("q.size", args, target="far-*"),
        ]
        ring.add_many([NewKey(names[PARTS], "worker", generate().public)])

        async def refused() -> bool:
            try:
                await (await admin.submit("q.size", args, target="far-*")).cancel()
            except UsageError as error:
                return f"means {PARTS + 1} nodes, at most {PARTS}" in error.message
            return False

        await eventually(refused, "one node too many")
        ids = [job.id for job in jobs]
        for act, state in ((admin.queue.cancel, "cancelled"), (admin.queue.retry, "queued"), (admin.queue.cancel, "cancelled")):
            assert await act(ids, timeout=60) == {"done": ids, "refused": []}
            assert [await job.state() for job in jobs] == [state] * 2
        assert await admin.queue.drop(ids) == {"done": ids, "refused": []}

    run(body)
