"""What jobs do besides: sequences over several workers, expiry, nodes that are away, cancelling, targets by agent and group."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from waiting import eventually, lines

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.clients.jobs import AsyncJob
from zcluster.errors import Cancelled, JobExpired, NoSuchAgent, NoSuchGroup, NoSuchJob

FUNCTIONS = str(Path(__file__).with_name("queue_fault_functions.py"))
SETTINGS = {"queue.backoff_base_s": 0.02, "session.heartbeat_s": 0.3}
Body = Callable[[AsyncClient], Awaitable[None]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(3, functions=[FUNCTIONS], settings=SETTINGS) as running:
        yield running


@pytest.fixture
def run(cluster: LocalCluster) -> Callable[[Body], None]:
    def with_client(body: Body) -> None:
        async def main() -> None:
            async with AsyncClient(key=cluster.admin_key, timeout=30) as client, asyncio.timeout(90):
                await body(client)
                assert (await client.queue.check())["ok"]

        asyncio.run(main())

    return with_client


async def state_is(job: AsyncJob, state: str) -> None:
    async def check() -> bool:
        return await job.state() == state

    await eventually(check, f"{job.id} is {state}")


def test_sequences_keep_their_order_over_workers_failures_and_attempts(run: Callable[[Body], None], tmp_path: Path) -> None:
    async def body(c: AsyncClient) -> None:
        jobs: dict[str, list[AsyncJob]] = {"a": [], "b": []}
        for number in range(24):
            for name in jobs:
                fails = -1 if number % 7 == 3 else number % 3
                args = {"path": str(tmp_path / name), "text": str(number), "fails": fails}
                # Neither priorities nor keys count within a sequence.
                jobs[name].append(
                    await c.submit(
                        "q.flaky",
                        args,
                        sequence=name,
                        priority=number % 10,
                        idempotency_key=f"{name}{number}" if number % 2 else "",
                    )
                )
        delayed = await c.submit("q.note", {"path": str(tmp_path / "a"), "text": "24"}, sequence="a", delay_s=0.3)
        last = await c.submit("q.note", {"path": str(tmp_path / "a"), "text": "25"}, sequence="a", target="worker-2")
        for name, each in jobs.items():
            states = [await job.wait(60) for job in each]
            assert states == ["failed" if number % 7 == 3 else "done" for number in range(24)], name
        assert (await delayed.wait(30), await last.wait(30)) == ("done", "done")
        for name in jobs:
            wanted = [
                f"{number} {attempt}"
                for number in range(24)
                for attempt in range(1, 2 if number % 7 == 3 else number % 3 + 2)
            ]  # fmt: skip
            noted = lines(tmp_path / name)
            assert noted[: len(wanted)] == wanted
        assert [line.split()[0] for line in lines(tmp_path / "a")[-2:]] == ["24", "25"]
        nodes = {(await job.info())["node"] for job in jobs["a"]}
        assert len(nodes) > 1, "several workers had a part in it"

    run(body)


def test_what_a_cancelled_or_expired_job_holds_up_goes_on(run: Callable[[Body], None], tmp_path: Path) -> None:
    async def body(c: AsyncClient) -> None:
        noted = tmp_path / "noted"
        first = await c.submit("q.note", {"path": str(noted), "text": "1"}, sequence="s", delay_s=3600)
        second = await c.submit("q.note", {"path": str(noted), "text": "2"}, sequence="s", expires_s=0.3)
        third = await c.submit("q.note", {"path": str(noted), "text": "3"}, sequence="s")
        with pytest.raises(JobExpired, match="before it could begin"):
            await second.result()
        assert (await third.info())["blocked"]
        await first.cancel()
        assert await third.result() == "3"
        assert [line.split()[0] for line in lines(noted)] == ["3"]

    run(body)


def test_waiting_jobs_and_parts_expire(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        await c.queue.pause("worker-1")
        held = await c.submit("q.size", {"value": "x"}, target="worker-1", expires_s=0.3)
        whole = await c.submit("q.size", {"value": "x"}, target="worker-*", expires_s=0.3)
        with pytest.raises(JobExpired):
            await held.result()
        results = await whole.result()
        assert [(each.node, each.ok) for each in results] == [("worker-1", False), ("worker-2", True), ("worker-3", True)]
        assert isinstance(results[0].error, JobExpired)
        assert await whole.state() == "expired"
        await c.queue.resume("worker-1")
        assert (await c.queue.retry(whole.id))["done"] == [whole.id]
        assert [each.ok for each in await whole.result()] == [True] * 3
        assert await whole.state() == "done"

    run(body)


def test_a_node_that_is_away_gets_its_part_when_it_returns(
    cluster: LocalCluster, run: Callable[[Body], None], tmp_path: Path
) -> None:
    async def body(c: AsyncClient) -> None:
        await cluster.terminate("worker-3")
        whole = await c.submit("q.note", {"path": str(tmp_path / "noted"), "text": "part"}, target="worker-*")
        mine = await c.submit("q.note", {"path": str(tmp_path / "noted"), "text": "mine"}, target="worker-3")

        async def two() -> bool:
            page = await c.call("queue.outcomes", {"id": whole.id}, target="master")
            found = {item["node"]: (item["state"], item["value"]) for item in page["items"]}
            return found == {"worker-1": ("done", "part"), "worker-2": ("done", "part"), "worker-3": ("queued", None)}

        await eventually(two, "two of three have it")
        assert (await whole.state(), (await whole.info())["parts_left"]) == ("running", 1)
        await cluster.restart_master()
        assert await mine.state() == "queued"
        await cluster.restart_worker("worker-3")
        assert [each.ok for each in await whole.result()] == [True] * 3
        assert await mine.result() == "mine"
        assert sorted(lines(tmp_path / "noted")) == ["mine worker-3", "part worker-1", "part worker-2", "part worker-3"]

    run(body)


def test_cancelling_stops_what_runs(run: Callable[[Body], None], tmp_path: Path) -> None:
    async def body(c: AsyncClient) -> None:
        noted, pids = tmp_path / "noted", tmp_path / "pids"
        thread = await c.submit("q.until_cancelled", {"path": str(noted)})
        process = await c.submit("q.process", {"path": str(pids)})
        await eventually(lambda: lines(noted) and lines(pids), "both run")
        for job in (thread, process):
            await job.cancel()
            with pytest.raises(Cancelled):
                await job.result()
        await eventually(lambda: lines(noted) == ["began", "cancelled"], "it saw it")
        await eventually(lambda: not alive(int(lines(pids)[0])), "its process is gone")
        whole = await c.submit("q.until_cancelled", {"path": str(noted)}, target="worker-*")
        await eventually(lambda: lines(noted).count("began") == 4, "all parts run")
        await whole.cancel()
        assert await whole.wait() == "cancelled"
        await eventually(lambda: lines(noted).count("cancelled") == 4, "all parts saw it")
        states = (await c.queue.stats())["states"]
        assert (states["leased"], states["running"]) == (0, 0)

    run(body)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_stream_is_a_list_and_a_retention_ends(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        assert await (await c.submit("q.count", {"to": 5000})).result() == list(range(5000))
        assert await (await c.submit("q.count", {"to": 0})).result() == []
        short = await c.submit("q.blob", {"size": 400_000}, retention_s=0.2)
        whole = await c.submit("q.size", {"value": "x"}, target="worker-*", retention_s=0.2)
        await short.wait()
        await whole.wait()
        for job in (short, whole):

            async def gone(job: AsyncJob = job) -> bool:
                try:
                    await job.state()
                except NoSuchJob:
                    return True
                return False

            await eventually(gone, "its retention is over")
            with pytest.raises(NoSuchJob):
                await job.result()
        files = cluster.home / "data" / "queue" / "jobs.files"
        await eventually(lambda: not list(files.iterdir()), "no file is left")

    run(body)


def test_targets_by_agent_and_group(run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        await c.agents.report([{"id": "one", "status": "active"}], node="worker-1")
        await c.agents.report([{"id": "two", "status": "active"}], node="worker-3")
        await c.groups.create("web")
        await c.groups.add("web", ["one", "two"], new=True)
        value = {"value": "abc"}

        async def at(target: str) -> list[str]:
            job = await c.submit("q.size", value, target=target)
            found = await job.result()
            return sorted(each.node for each in found) if isinstance(found, list) else [(await job.info())["node"]]

        async def placed() -> bool:
            return (await at("agent:one"), await at("agent:two"), await at("group:web")) == (
                ["worker-1"], ["worker-3"], ["worker-1", "worker-3"]
            )  # fmt: skip

        await eventually(placed, "they are known where they are")
        with pytest.raises(NoSuchAgent):
            await c.submit("q.size", value, target="agent:nobody")
        with pytest.raises(NoSuchGroup):
            await c.submit("q.size", value, target="group:nothing")

    run(body)
