"""What becomes of a job whose node dies, leaves or is too slow, and of the jobs that kill their nodes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from queue_outside import FUNCTIONS, MAX_DEATHS, Outside, check_steps, errors
from waiting import PATIENCE_S, eventually

from zcluster import AsyncClient, JobDead
from zcluster.bench.cluster import MASTER, LocalCluster
from zcluster.clients.jobs import AsyncJob

SETTINGS = {
    "session.heartbeat_s": 0.3, "session.reconnect_max_s": 0.2, "session.drain_s": 1.0, "queue.backoff_base_s": 0.05,
    "queue.backoff_max_s": 0.2,
}  # fmt: skip
Body = Callable[[LocalCluster, AsyncClient, Outside, dict[str, str]], Awaitable[None]]


def use(directory: Path, workers: int, body: Body, **settings: float) -> None:
    """Run ``body`` with a cluster; its last argument is what the functions ask for.

    ``settings``: other SETTINGS, with __ for a dot.
    """
    own = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}

    async def main() -> None:
        outside = Outside(directory)
        args = {"directory": str(directory), "path": str(directory / "gate")}
        async with (
            LocalCluster(workers, functions=[FUNCTIONS], settings=own) as cluster,
            AsyncClient(home=cluster.home) as client,
            asyncio.timeout(3 * PATIENCE_S),
        ):
            await body(cluster, client, outside, args)

    asyncio.run(main())


async def running(outside: Outside, count: int = 1) -> None:
    """Wait until so many runs were noted."""
    await eventually(lambda: len(outside.runs()) >= count, f"{count} runs")


async def told(client: AsyncClient, name: str) -> list[dict[str, Any]]:
    """The events of this name so far; waits for one."""

    async def found() -> list[dict[str, Any]]:
        return [event["fields"] async for event in client.events(since_s=3600, follow=False) if event["name"] == name]

    events: list[dict[str, Any]] = await eventually(found, f"the event {name}")
    return events


async def checked(job: AsyncJob, outside: Outside) -> dict[str, Any]:
    """What is known of a job that has ended, compared with what was noted outside."""
    info = await job.info()
    check_steps(info, [run for run in outside.runs() if run.job == job.id])
    return info


def test_another_worker_goes_on_when_one_is_killed(tmp_path: Path) -> None:
    async def body(cluster: LocalCluster, client: AsyncClient, outside: Outside, args: dict[str, str]) -> None:
        job = await client.submit("first.held", args, idempotency_key="k")
        await running(outside)
        (first,) = outside.runs()
        cluster.kill(first.node)
        assert await job.result() == 2
        (other,) = set(cluster.worker_names) - {first.node}
        info = await checked(job, outside)
        assert [(run.node, run.attempt) for run in outside.runs()] == [(first.node, 1), (other, 2)]
        assert errors(info) == ["node_lost"]
        assert (info["node"], info["attempt"], info["failures"], info["deaths"]) == (other, 2, 1, 1)
        assert [event["name"] for event in await told(client, "dead")] == [first.node]

    use(tmp_path, 2, body)


def test_a_job_that_kills_its_workers_is_dead_after_three(tmp_path: Path) -> None:
    async def body(cluster: LocalCluster, client: AsyncClient, outside: Outside, args: dict[str, str]) -> None:
        harmless = tmp_path / "harmless"
        args = {"directory": str(tmp_path), "harmless": str(harmless)}
        job = await client.submit("poison.take", args, retries=100)
        ended = asyncio.ensure_future(job.result())
        while not ended.done():
            for name in cluster.worker_names:
                if name not in cluster.pids:
                    cluster.start_worker(name)
            await asyncio.wait([ended], timeout=0.05)
        with pytest.raises(JobDead, match="3 nodes were lost with it"):
            await ended
        info = await checked(job, outside)
        assert (info["state"], info["attempt"], info["deaths"], len(outside.runs())) == ("dead", 3, MAX_DEATHS, 3)
        assert [event["attempts"] for event in await told(client, "job_dead")] == [3]
        harmless.touch()
        await eventually(lambda: len(cluster.pids) <= 2, "the third is dead")
        for name in set(cluster.worker_names) - set(cluster.pids):
            cluster.start_worker(name)
        assert await client.queue.retry(job.id) == {"done": [job.id], "refused": []}
        assert await job.result() == 4
        assert len(outside.runs()) == 4

    use(tmp_path, 2, body)


@pytest.mark.parametrize("in_time", [True, False])
def test_jobs_of_a_worker_that_leaves_are_finished_or_moved(tmp_path: Path, in_time: bool) -> None:
    async def body(cluster: LocalCluster, client: AsyncClient, outside: Outside, args: dict[str, str]) -> None:
        function = "held.until" if in_time else "first.held"
        jobs = [await client.submit(function, args) for _ in range(4)]
        await running(outside, 4)
        left = {run.job for run in outside.runs() if run.node == "worker-1"}
        assert left
        cluster.kill("worker-1", signal.SIGTERM)
        await told(client, "draining")
        if not in_time:
            await eventually(lambda: "worker-1" not in cluster.pids, "the worker is gone")
            await running(outside, 4 + len(left))
        (tmp_path / "gate").touch()
        for job in jobs:
            moved = job.id in left and not in_time
            assert await job.result() == 1 + moved
            info = await checked(job, outside)
            assert (info["failures"], info["deaths"]) == (0, 0), f"nobody is to blame: {info}"
            assert info["node"] == "worker-2" if moved or job.id not in left else "worker-1"

    use(tmp_path, 2, body, session__drain_s=PATIENCE_S if in_time else 1.0)


@pytest.mark.parametrize("target", ["worker-1", "master"])
def test_jobs_that_run_when_the_master_is_stopped_have_another_attempt(tmp_path: Path, target: str) -> None:
    async def body(cluster: LocalCluster, client: AsyncClient, outside: Outside, args: dict[str, str]) -> None:
        if target == MASTER:
            job = await client.submit("node.sleep", {"seconds": 60.0}, target=target)
            await eventually(lambda: _is(job, "running"), "it runs")
        else:
            job = await client.submit("first.held", args, target=target)
            await running(outside)
        await cluster.restart_master()
        (tmp_path / "gate").touch()
        if target == MASTER:
            await eventually(lambda: _is(job, "running"), "it runs again")
            await job.cancel()
            info = await job.info()
            assert info["state"] == "cancelled"
        else:
            assert await job.result() == 2
            info = await checked(job, outside)
        assert (info["attempt"], info["failures"], info["deaths"]) == (2, 0, 0), f"nobody is to blame: {info}"

    use(tmp_path, 1, body)


def test_a_job_that_ends_while_the_master_drains_is_done(tmp_path: Path) -> None:
    async def body(cluster: LocalCluster, client: AsyncClient, outside: Outside, args: dict[str, str]) -> None:
        job = await client.submit("held.until", args)
        await running(outside)
        cluster.kill(MASTER, signal.SIGTERM)
        await eventually(lambda: '"message": "master_draining"' in cluster.logs(MASTER), "the master drains")
        (tmp_path / "gate").touch()
        await eventually(lambda: MASTER not in cluster.pids, "the master ends")
        assert await cluster.terminate(MASTER) == 0
        cluster.start_master()
        assert await job.result() == 1
        info = await checked(job, outside)
        assert (info["attempt"], len(outside.runs())) == (1, 1)

    use(tmp_path, 1, body)


def test_a_job_that_is_too_slow_is_tried_elsewhere_and_its_late_value_counts_for_nothing(tmp_path: Path) -> None:
    async def body(cluster: LocalCluster, client: AsyncClient, outside: Outside, args: dict[str, str]) -> None:
        job = await client.submit("first.held", args, attempt_timeout_s=0.5)
        assert await job.result() == 2
        dead = await client.submit("held.until", args, attempt_timeout_s=0.3, retries=2)
        with pytest.raises(JobDead, match="no attempt is left"):
            await dead.result()
        (tmp_path / "gate").touch()
        # All threads have ended, and told it, before this one answers: they are told in order.
        for name in cluster.worker_names:
            await client.call("node.info", target=name)
        info = await checked(job, outside)
        assert errors(info) == ["timed_out"]
        assert (await job.result(), info["attempt"], info["failures"], info["deaths"]) == (2, 2, 1, 0)
        runs = [run for run in outside.runs() if run.job == dead.id]
        info = await dead.info()
        assert (info["state"], info["attempt"], info["failures"], info["deaths"]) == ("dead", 3, 3, 0)
        assert [run.attempt for run in runs] == [1, 2, 3]
        assert runs[0].node != runs[1].node != runs[2].node
        assert errors(info) == ["timed_out", "timed_out", "dead"]
        assert info["steps"][-1]["error"]["cause"]["code"] == "timed_out"

    use(tmp_path, 2, body)


async def _is(job: AsyncJob, state: str) -> bool:
    return await job.state() == state
