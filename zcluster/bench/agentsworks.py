"""The works of ``zcluster bench agents`` about rows that go up: first, changed, idle.

Rules kept here:
- rows/s are compared with a plain program that writes the same rows to the same disk, in turns;
- bytes are those of the workers' connections, encrypted as they went;
- a run ends only when the master knows exactly what it should.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import msgspec

from zcluster.bench.agentsfleet import Bench, Fleet, Synced, until
from zcluster.bench.agentsrows import Upsert, made_up, params_for, plain_upsert, write_book
from zcluster.bench.cluster import MASTER
from zcluster.bench.figures import MIB, Figure
from zcluster.bench.machine import KIB, cpu_seconds, resident_bytes
from zcluster.bench.sockets import carried_bytes, sent_bytes
from zcluster.bench.stats import median
from zcluster.config import Settings

FIRST_BAR = 0.5
CHANGED_BAR_S = 1.0
IDLE_BAR_PERCENT = 1.0
IDLE_BAR_KIB = 1.0
CHANGE_EVERY = 100
"""One of so many agents changes."""
WORKER = "worker-1"
SETTLE_S = 3.0
ACKNOWLEDGED_S = 0.2
"""Until the kernel counts what was just sent."""
GROUPED = 100
MICRO = 1e6


async def first(bench: Bench) -> Sequence[Figure]:
    """A worker brings its agents to a master that knows none; a plain program writes them, with indexes and without."""
    count = bench.load.agents
    bench.say("writing the worker's book")
    book = bench.directory / "prepared" / "book"
    await write_book(book, range(count), partial(made_up, node=WORKER))
    params = await asyncio.to_thread(params_for, range(count), WORKER)
    mine: list[Synced] = []
    plain: dict[bool, list[Upsert]] = {True: [], False: []}
    wire: list[int] = []
    for number in range(bench.rounds):
        async with Fleet(bench.directory) as fleet:
            fleet.add_worker(WORKER, book)
            mine.append((await fleet.synced([WORKER]))[WORKER])
            await fleet.know(count)
            wire.append(carried_bytes([fleet.cluster.pids[WORKER]]) or 0)
        for indexes, found in plain.items():
            path = bench.directory / f"plain-{number}-{indexes:d}.db"
            found.append(await asyncio.to_thread(plain_upsert, path, params, indexes=indexes))
            for file in bench.directory.glob(f"{path.name}*"):
                file.unlink()
        bench.told(
            number, f"{mine[-1].seconds:.3f} s; plain {plain[True][-1].seconds:.3f} s, bare {plain[False][-1].seconds:.3f} s"
        )
    rate = count / median([run.seconds for run in mine])
    full, bare = (count / median([run.seconds for run in plain[indexes]]) for indexes in (True, False))
    each = MICRO / count
    return (
        Figure("zcluster", rate, "rows/s"),
        Figure("plain upsert, the same indexes", full, "rows/s"),
        Figure("plain upsert, a primary key only", bare, "rows/s"),
        Figure("against the plain upsert", rate / full, "x", bench.bar(FIRST_BAR), at_most=False),
        Figure("against a primary key only", rate / bare, "x"),
        Figure("CPU of a row, master", median([run.cpu_s[MASTER] for run in mine]) * each, "µs"),
        Figure("CPU of a row, worker", median([run.cpu_s[WORKER] for run in mine]) * each, "µs"),
        Figure("CPU of a row, plain upsert", median([run.cpu_s for run in plain[True]]) * each, "µs"),
        Figure(
            "CPU of a row, master against the plain upsert",
            median([run.cpu_s[MASTER] for run in mine]) / median([run.cpu_s for run in plain[True]]),
            "x",
        ),
        Figure("on the wire, a row", median(wire) / count, "B"),
    )


async def changed(bench: Bench) -> Sequence[Figure]:
    """A program reports agents at their worker, of which all have changed; the master is to know them."""
    count = bench.load.agents
    bench.say("writing the worker's book")
    book = bench.directory / "prepared" / "book"
    await write_book(book, range(count), partial(made_up, node=WORKER))
    times_s: list[float] = []
    reports_s: list[float] = []
    sent: list[int] = []
    cpu_s: dict[str, list[float]] = {MASTER: [], WORKER: []}
    rows = 0
    async with Fleet(bench.directory) as fleet:
        fleet.add_worker(WORKER, book)
        await fleet.synced([WORKER])
        pids = {name: [fleet.cluster.pids[name]] for name in cpu_s}
        for number in range(bench.rounds):
            version = f"5.{number}.1"
            wanted = [_reported(place, version) for place in range(number % CHANGE_EVERY, count, CHANGE_EVERY)]
            rows = len(wanted)
            await asyncio.sleep(ACKNOWLEDGED_S)
            before, used_s = sent_bytes(pids[WORKER]) or 0, {name: cpu_seconds(pids[name]) for name in pids}
            began_s = time.perf_counter()
            await fleet.client.agents.report(wanted, node=WORKER)
            reports_s.append(time.perf_counter() - began_s)
            await fleet.know(rows, f"version={version}")
            times_s.append(time.perf_counter() - began_s)
            await asyncio.sleep(ACKNOWLEDGED_S)
            sent.append((sent_bytes(pids[WORKER]) or 0) - before)
            for name, values in cpu_s.items():
                values.append(cpu_seconds(pids[name]) - used_s[name])
            bench.told(number, f"{rows:,} rows: {times_s[-1]:.3f} s, {sent[-1]:,} B")
    return (
        Figure("until the master has them", median(times_s), "s", bench.bar(CHANGED_BAR_S)),
        Figure("slowest round", max(times_s), "s", bench.bar(CHANGED_BAR_S)),
        Figure("until the worker has them", median(reports_s), "s"),
        Figure("sent by the worker", median(sent) / KIB, "KiB"),
        Figure("sent by the worker, a changed row", median(sent) / rows, "B"),
        Figure("CPU of a changed row, master, with the report's way", median(cpu_s[MASTER]) * MICRO / rows, "µs"),
        Figure("CPU of a changed row, worker, with the report", median(cpu_s[WORKER]) * MICRO / rows, "µs"),
    )


def _reported(number: int, version: str) -> dict[str, object]:
    row = msgspec.structs.asdict(made_up(number, WORKER))
    said = ("id", "name", "address", "os", "status", "labels", "metrics", "config", "tree")
    return {"version": version, **{name: row[name] for name in said}}


async def idle(bench: Bench) -> Sequence[Figure]:
    """All is known, some agents are in a group, nothing changes: what that costs."""
    count, workers = bench.load.agents, bench.load.workers
    names = [f"worker-{number}" for number in range(1, workers + 1)]
    edges = [place * count // workers for place in range(workers + 1)]
    bench.say("writing the workers' books")
    async with Fleet(bench.directory) as fleet:
        for name, (start, end) in zip(names, pairwise(edges), strict=True):
            book = bench.directory / "prepared" / name
            await write_book(book, range(start, end), partial(made_up, node=name))
            fleet.add_worker(name, book)
        await fleet.synced(names)
        await fleet.know(count)
        await fleet.client.groups.create("bench")
        await fleet.client.groups.set(["bench"], [made_up(place, "").id for place in range(min(count, GROUPED))])
        await until_copied(fleet, names)
        await asyncio.sleep(SETTLE_S)
        bench.say(f"all is known; watching for {bench.duration_s:g} s")
        master, others = [fleet.cluster.pids[MASTER]], [fleet.cluster.pids[name] for name in names]
        began_s, wire = time.monotonic(), carried_bytes(others)
        used_s = {MASTER: cpu_seconds(master), WORKER: cpu_seconds(others)}
        await asyncio.sleep(bench.duration_s)
        used_s = {MASTER: cpu_seconds(master) - used_s[MASTER], WORKER: cpu_seconds(others) - used_s[WORKER]}
        now, seconds = carried_bytes(others), time.monotonic() - began_s
        fleet.check(names)
        intervals = seconds / Settings().session.heartbeat_s
        percent = {name: 100 * used / seconds for name, used in used_s.items()}
        figures = [
            Figure("CPU, master", percent[MASTER], "% of a core", bench.bar(IDLE_BAR_PERCENT)),
            Figure("CPU, a worker", percent[WORKER] / workers, "% of a core"),
            Figure("memory, master", resident_bytes(master[0]) / MIB, "MiB"),
        ]
        if wire is not None and now is not None:
            carried = (now - wire) / KIB / workers / intervals
            what = "a worker and interval, both ways, with heartbeats"
            figures.append(Figure(what, carried, "KiB", bench.bar(IDLE_BAR_KIB)))
    return figures


async def until_copied(fleet: Fleet, names: Sequence[str]) -> None:
    """Returns when all these workers have the master's groups."""

    async def look() -> bool:
        fleet.check(names)
        digests = set()
        answers = 0
        async for result in fleet.client.fan_out("tables.status", target="*"):
            for row in result.value if result.ok else ():
                if row["table"] == "groups" and row["node"] in (MASTER, *names):
                    answers += 1
                    digests.add((row["digest"], row["revision"], row["ready"]))
        return answers == len(names) + 1 and len(digests) == 1

    await until(look, "the workers have not the master's groups", 60.0)
