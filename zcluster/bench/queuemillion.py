"""The work ``million`` of ``bench queue``: the master's memory and start with very many queued jobs, and the next one.

Rules kept here:
- the many jobs are of a node that is paused, so none of them runs while it is measured;
- the next job is one for another node, timed at a client from its submission to its value, with an empty queue and a full one;
- the master's start is from the process's start until it says where it listens; nothing else runs meanwhile but the two workers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from zcluster.bench.cluster import MASTER, LocalCluster
from zcluster.bench.figures import MIB, Figure, Say
from zcluster.bench.machine import peak_memory_bytes, resident_bytes
from zcluster.bench.queueload import FUNCTION
from zcluster.bench.stats import Histogram, median
from zcluster.clients import AsyncClient
from zcluster.errors import TimedOut, ZClusterError

JOBS = 1_000_000
PIPELINED = 4096
"""Submissions under way at once."""
MEMORY_BAR_MIB = 300.0
NEXT_BAR = 2.0
START_BAR_S = 5.0
ASKED = 20
"""How often the next job is timed."""
TIMEOUT_S = 60.0
READY_S = 120.0
POLL_S = 0.01
LISTENS = "listens on"
PAUSED, FREE = "worker-1", "worker-2"


async def measure_million(jobs: int, size_bytes: int, rounds: int, directory: Path, say: Say) -> Sequence[Figure]:
    """Fills a queue with ``jobs`` and measures; ``rounds`` starts of the master. Only JOBS jobs have bars."""
    value = "x" * size_bytes
    async with LocalCluster(2, cluster_name="bench", parent=directory, ready_s=READY_S) as cluster:
        async with AsyncClient(key=cluster.admin_key, timeout=TIMEOUT_S) as client:
            empty = await _next_jobs(client, value)
            await client.queue.pause(PAUSED)
            say(f"submitting {jobs:,} jobs")
            began_s = time.monotonic()
            first = await _fill(client, jobs, value)
            filled_s = time.monotonic() - began_s
            say(f"submitted in {filled_s:.1f} s")
            resident, peak = _memory(cluster)
            full = await _next_jobs(client, value)
        starts_s, answers_s = [], []
        after_start = 0
        for number in range(rounds):
            listens_s, answers = await _restart(cluster)
            starts_s.append(listens_s)
            answers_s.append(answers)
            after_start = max(after_start, _memory(cluster)[1])
            say(f"round {number + 1} of {rounds}: the master listens after {listens_s:.2f} s")
        resumed_s = await _resume(cluster, first, say)
    promised = jobs == JOBS
    p50 = {name: histogram.percentile_s(50) for name, histogram in (("empty", empty), ("full", full))}
    return (
        Figure("accepted, 4,096 in flight", jobs / filled_s, "jobs/s"),
        Figure("greatest memory of the master", peak / MIB, "MiB", MEMORY_BAR_MIB if promised else None),
        Figure("memory of the master, then", resident / MIB, "MiB"),
        Figure("greatest memory after its start", after_start / MIB, "MiB", MEMORY_BAR_MIB if promised else None),
        Figure("next job, p50, empty queue", p50["empty"] * 1e3, "ms"),
        Figure("next job, p50, full queue", p50["full"] * 1e3, "ms"),
        Figure("next job, full against empty", p50["full"] / p50["empty"], "x", NEXT_BAR if promised else None),
        Figure("start of the master, until it listens", median(starts_s), "s", START_BAR_S if promised else None),
        Figure("start of the master, until all nodes are ready", median(answers_s), "s"),
        Figure("from resume until the first of them is done", resumed_s, "s"),
    )


async def _next_jobs(client: AsyncClient, value: str) -> Histogram:
    """Times ASKED jobs of the node that is not paused, one after the other, after one that is not counted."""
    found = Histogram()
    for number in range(ASKED + 1):
        began_s = time.perf_counter()
        job = await client.submit(FUNCTION, {"value": value}, target=FREE)
        if await job.result(timeout=TIMEOUT_S) != value:
            raise ZClusterError("a job has brought a wrong value", hint="run `zcluster bench queue` again")
        if number:
            found.record_s(time.perf_counter() - began_s)
    return found


async def _fill(client: AsyncClient, jobs: int, value: str) -> str:
    """Submits the jobs of the paused node; returns the id of the first one."""
    first = await client.submit(FUNCTION, {"value": value}, target=PAUSED)
    left = jobs - 1

    async def place() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await client.submit(FUNCTION, {"value": value}, target=PAUSED)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(PIPELINED, jobs)):
            group.create_task(place())
    return str(first.id)


def _memory(cluster: LocalCluster) -> tuple[int, int]:
    pid = cluster.pids[MASTER]
    return resident_bytes(pid), peak_memory_bytes([pid])


async def _restart(cluster: LocalCluster) -> tuple[float, float]:
    """Ends the master and starts it; returns after how many seconds it said that it listens, and all nodes were ready."""
    await cluster.terminate(MASTER)
    said = cluster.logs(MASTER).count(LISTENS)
    began_s = time.monotonic()
    cluster.start_master()
    while cluster.logs(MASTER).count(LISTENS) == said:
        if MASTER not in cluster.pids:
            raise ZClusterError("the master ended early", hint=cluster.logs(MASTER)[-500:].strip() or "it printed nothing")
        if time.monotonic() - began_s > READY_S:
            raise TimedOut(f"the master does not listen after {READY_S:g} s")
        await asyncio.sleep(POLL_S)
    listens_s = time.monotonic() - began_s
    await cluster.wait_ready(*cluster.pids)
    return listens_s, time.monotonic() - began_s


async def _resume(cluster: LocalCluster, first: str, say: Say) -> float:
    """Lets the paused node go on; returns after how many seconds the first job of many was done."""
    async with AsyncClient(key=cluster.admin_key, timeout=TIMEOUT_S) as client:
        following = asyncio.ensure_future(client.job(first).result(timeout=TIMEOUT_S))
        began_s = time.perf_counter()
        await client.queue.resume(PAUSED)
        await following
        resumed_s = time.perf_counter() - began_s
        say(f"the first of them was done {resumed_s * 1e3:.1f} ms after resume")
        await client.queue.pause(PAUSED)  # so that the end of the bench waits for nothing
    return resumed_s
