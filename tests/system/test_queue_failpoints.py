"""A master that dies at each step of a job, and what the next one makes of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from queue_outside import FUNCTIONS, Outside, all_jobs, check_steps
from waiting import eventually

from zcluster import AsyncClient
from zcluster.bench.cluster import MASTER, LocalCluster
from zcluster.process.failpoints import FAILPOINTS, VARIABLE
from zcluster.store.jobs import FILE_BYTES

SETTINGS = {"session.heartbeat_s": 0.3, "session.reconnect_max_s": 0.2}
LARGE = "x" * (2 * FILE_BYTES)
"""A file each, for the arguments and for the value."""


class Case(NamedTuple):
    """The master dies at a pass of ``point`` that belongs to the second of two jobs."""

    point: str
    nth: int
    accepted: bool
    """The job was on disk by then."""
    ran: list[int]
    """The attempts that run, before and after."""
    large: bool = False


CASES = [
    Case("queue.accept.before_commit", 2, False, [1]),
    Case("queue.accept.after_commit", 2, True, [1]),
    Case("queue.lease.before_commit", 2, True, [1]),
    Case("queue.lease.after_commit", 2, True, [2]),
    Case("queue.send", 2, True, [2]),
    Case("queue.outcome.before_commit", 2, True, [1, 2]),
    Case("queue.outcome.after_commit", 2, True, [1]),
    Case("queue.file.before_rename", 3, False, [1], large=True),
    Case("queue.file.before_rename", 4, True, [1, 2], large=True),
    Case("queue.file.after_rename", 3, False, [1], large=True),
    Case("queue.file.after_rename", 4, True, [1, 2], large=True),
]
"""Of the files of large jobs the third holds the arguments of the second job, the fourth its value."""


def test_every_point_has_a_case() -> None:
    assert {case.point for case in CASES} == {point for point in FAILPOINTS if point.startswith("queue.")}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(1, functions=[FUNCTIONS], settings=SETTINGS) as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.point}-{case.nth}")
def test_a_master_dies_there(cluster: LocalCluster, tmp_path: Path, case: Case) -> None:
    async def body() -> None:
        outside = Outside(tmp_path)
        args = {"directory": str(tmp_path), "value": LARGE if case.large else "small"}
        await cluster.terminate(MASTER)
        cluster.start_master({VARIABLE: f"{case.point}:{case.nth}"})
        await cluster.wait_ready(*cluster.pids)
        first, acknowledged = await _until_it_dies(cluster, args)
        cluster.start_master()
        async with AsyncClient(home=cluster.home) as client:
            jobs = {job["idempotency_key"]: job for job in await all_jobs(client)}
            assert jobs["first"]["id"] == first
            assert jobs["first"]["state"] == "done"
            assert ("second" in jobs) == case.accepted
            second = await client.submit("value.kept", args, idempotency_key="second")
            assert second.known == case.accepted
            assert not case.accepted or second.id == jobs["second"]["id"]
            assert acknowledged in ("", second.id)
            assert await second.result() == args["value"]
            assert await client.job(first).result() == args["value"]
            await _ended_once(client, outside, {first: [1], second.id: case.ran})
            await _nothing_is_left(client, cluster.home, [first, second.id], files=4 if case.large else 0)

    asyncio.run(body())


async def _until_it_dies(cluster: LocalCluster, args: dict[str, str]) -> tuple[str, str]:
    """Submit two jobs, of which the second has the master die; returns their ids, an empty one if it was not acknowledged."""
    async with AsyncClient(home=cluster.home) as client:
        job = await client.submit("value.kept", args, idempotency_key="first")
        assert await job.result() == args["value"]
        second = asyncio.ensure_future(client.submit("value.kept", args, idempotency_key="second"))
        await eventually(lambda: MASTER not in cluster.pids, "the master dies")
        assert await cluster.terminate(MASTER) == -signal.SIGKILL
        second.cancel()
        (found,) = await asyncio.gather(second, return_exceptions=True)
    return job.id, "" if isinstance(found, BaseException) else found.id


async def _ended_once(client: AsyncClient, outside: Outside, ran: dict[str, list[int]]) -> None:
    runs = outside.runs()
    for id_, attempts in ran.items():
        mine = [run for run in runs if run.job == id_]
        info = await client.job(id_).info()
        check_steps(info, mine)
        assert info["state"] == "done"
        assert [run.attempt for run in mine] == attempts
        assert (info["attempt"], info["failures"], info["deaths"]) == (attempts[-1], 0, 0)
    assert len(runs) == sum(map(len, ran.values()))


async def _nothing_is_left(client: AsyncClient, home: Path, ids: list[str], files: int) -> None:
    """The jobs, and no others, have so many files; without the jobs there are none."""
    (directory,) = [path for path in (home / "data" / "queue").iterdir() if path.is_dir()]
    assert len(list(directory.iterdir())) == files
    assert (await client.queue.check())["ok"]
    assert (await client.queue.drop(ids))["done"] == ids
    assert list(directory.iterdir()) == []
    assert await all_jobs(client) == []
