"""The work of ``zcluster bench groups``: many agents assigned to another group by one call, until every worker knows.

Rules kept here:
- the clock runs from the call until the last worker's own copy answers with the new group of the last agent;
- after each round the digests of all copies are compared with the master's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from zcluster.bench.agentsfleet import SYNC_S, Bench, Fleet, until
from zcluster.bench.agentsrows import made_up
from zcluster.bench.agentsworks import until_copied
from zcluster.bench.cluster import MASTER
from zcluster.bench.figures import Figure
from zcluster.bench.machine import KIB, cpu_seconds
from zcluster.bench.sockets import carried_bytes
from zcluster.bench.stats import median

GROUPS_BAR_S = 1.0
NAMES = ("bench-a", "bench-b")
WORKERS = "worker-*"
PAUSE_S = 1.0


async def groups(bench: Bench) -> Sequence[Figure]:
    """All agents go from one group to the other and back, by one call each time."""
    ids = [made_up(number, "").id for number in range(bench.load.agents)]
    workers = [f"worker-{number}" for number in range(1, bench.load.workers + 1)]
    times_s: list[float] = []
    calls_s: list[float] = []
    wire: list[int] = []
    cpu_s: dict[bool, list[float]] = {True: [], False: []}
    async with Fleet(bench.directory) as fleet:
        for name in workers:
            fleet.add_worker(name)
        await fleet.cluster.wait_ready(*workers)
        client = fleet.client
        for name in NAMES:
            await client.groups.create(name)
        await client.groups.set([NAMES[0]], ids, new=True)
        await until_copied(fleet, workers)
        pids = {True: [fleet.cluster.pids[MASTER]], False: [fleet.cluster.pids[name] for name in workers]}
        for number in range(bench.rounds):
            group = NAMES[(number + 1) % 2]
            await asyncio.sleep(PAUSE_S)
            before, used_s = carried_bytes(pids[False]) or 0, {which: cpu_seconds(pids[which]) for which in pids}
            began_s = time.perf_counter()
            await client.groups.set([group], ids)
            calls_s.append(time.perf_counter() - began_s)
            await _all_have(fleet, workers, ids[-1], group)
            times_s.append(time.perf_counter() - began_s)
            await until_copied(fleet, workers)
            wire.append((carried_bytes(pids[False]) or 0) - before)
            for which, values in cpu_s.items():
                values.append(cpu_seconds(pids[which]) - used_s[which])
            bench.told(number, f"{times_s[-1]:.3f} s, of it the call {calls_s[-1]:.3f} s")
    count = len(workers)
    return (
        Figure("until the last worker has them", median(times_s), "s", bench.bar(GROUPS_BAR_S)),
        Figure("slowest round", max(times_s), "s"),
        Figure("the call", median(calls_s), "s"),
        Figure("CPU, master, with the bench's questions", median(cpu_s[True]), "s"),
        Figure("CPU, a worker, with the bench's questions", median(cpu_s[False]) / count, "s"),
        Figure("on the wire, a worker, both ways", median(wire) / KIB / count, "KiB"),
    )


async def _all_have(fleet: Fleet, workers: Sequence[str], agent: str, group: str) -> None:
    """Returns when each worker's copy has the agent in the group."""

    async def look() -> bool:
        fleet.check(workers)
        have = 0
        async for result in fleet.client.fan_out("groups.of", {"agent": agent}, target=WORKERS):
            have += result.ok and result.value["groups"] == [group]
        return have == len(workers)

    await until(look, f"not all workers have {agent} in {group}", SYNC_S)
