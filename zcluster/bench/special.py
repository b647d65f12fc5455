"""The other named benches, each of one promise: sleep, fanout, reconnect, idle, memory.

Rules kept here:
- a bench brings its own cluster and leaves nothing behind;
- the load, and the number of workers, are those of the promise, unless the options say otherwise.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from zcluster.bench.child import run_cleanly
from zcluster.bench.cluster import MASTER, LocalCluster
from zcluster.bench.contenders import CLIENT, echo_config, zcluster_contender
from zcluster.bench.figures import MIB, Figure, Say, SpecialOptions, SpecialResult
from zcluster.bench.herd import idle, reconnect
from zcluster.bench.machine import describe_machine, peak_memory_bytes, resident_bytes
from zcluster.bench.rounds import Load, run_round
from zcluster.bench.stats import median
from zcluster.clients import AsyncClient
from zcluster.errors import UsageError

__all__ = ["NAMES", "Figure", "SpecialOptions", "SpecialResult", "run_special"]

SLEEP_S = 0.01
SLEEP_CALLS = 1_000
SLEEP_BAR_S = 0.2
FANOUT_BAR_PER_S = 300.0
MEMORY_BAR_MIB = 70.0
IDLE_S = 3.0


async def _sleep(options: SpecialOptions, say: Say) -> SpecialResult:
    machine = describe_machine()
    in_flight, workers = options.in_flight or 256, options.workers or 1
    figures: list[Figure] = []
    async with (
        LocalCluster(workers, cluster_name="bench", functions=["zcluster.bench.functions"]) as cluster,
        AsyncClient(key=cluster.client_key) as client,
    ):
        for name, what in (("bench.sleep", "blocking, in threads"), ("node.sleep", "async")):
            call = partial(client.call, name, {"seconds": SLEEP_S})
            await _burst(call, in_flight, in_flight)  # the worker's threads start with their first work
            times_s = []
            for number in range(options.rounds):
                times_s.append(await _burst(call, SLEEP_CALLS, in_flight))
                say(f"round {number + 1} of {options.rounds}: {what}: {times_s[-1]:.3f} s")
            figures.append(Figure(f"{SLEEP_CALLS:,} calls, {what}", median(times_s), "s", SLEEP_BAR_S))
    ideal_s = -(-SLEEP_CALLS // in_flight) * SLEEP_S
    figures.append(Figure("the least that is possible", ideal_s, "s"))
    about = f"{SLEEP_CALLS:,} calls of a function that sleeps 10 ms, {in_flight} in flight, {workers} worker(s); median"
    return SpecialResult("sleep", about, machine, tuple(figures))


async def _burst(call: Callable[[], Awaitable[Any]], count: int, in_flight: int) -> float:
    """Seconds for ``count`` calls with ``in_flight`` under way."""
    left = count

    async def place() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    began_s = time.monotonic()
    await asyncio.gather(*(place() for _ in range(min(in_flight, count))))
    return time.monotonic() - began_s


async def _fanout(options: SpecialOptions, say: Say) -> SpecialResult:
    machine = describe_machine()
    workers, in_flight = options.workers or 16, options.in_flight or 8
    say(f"starting a master and {workers} workers on this machine")
    async with LocalCluster(workers, cluster_name="bench", ready_s=60.0) as cluster:
        with tempfile.TemporaryDirectory(prefix="zcluster-bench-") as logs:
            config = echo_config(cluster.client_key, "worker-*", 100, 30.0, answers=workers)
            async with zcluster_contender(config, 1, cluster, Path(logs)) as watched:
                rounds = []
                for number in range(options.rounds):
                    rounds.append(await run_round(watched, Load(in_flight, 0.0, options.duration_s / options.rounds, 0.3)))
                    say(f"round {number + 1} of {options.rounds}: {rounds[-1].rate:,.0f} fan-outs/s")
                peak = peak_memory_bytes(watched.pids[MASTER])
    total = sum(r.requests for r in rounds) or 1
    figures = [Figure("fan-outs", median([r.rate for r in rounds]), "/s", FANOUT_BAR_PER_S, at_most=False)]
    figures += [Figure(f"p{p}", median([r.histogram.percentile_s(p) for r in rounds]) * 1e3, "ms") for p in (50, 99)]
    for role in (MASTER, CLIENT):
        figures.append(Figure(f"CPU, {role}", sum(r.cpu_s[role] for r in rounds) * 1e6 / total, "µs/fan-out"))
    figures.append(Figure("peak memory, master", peak / MIB, "MiB"))
    figures.append(Figure("errors", sum(sum(r.errors.values()) for r in rounds), "", 0))
    about = f"fan-out of a 100 B echo to {workers} workers, {in_flight} in flight; every answer of every worker counted"
    return SpecialResult("fanout", about, machine, tuple(figures))


async def _memory(options: SpecialOptions, say: Say) -> SpecialResult:
    machine = describe_machine()
    async with LocalCluster(options.workers, cluster_name="bench") as cluster:
        say(f"the master started; it is left idle for {IDLE_S:g} s")
        await asyncio.sleep(IDLE_S)
        pid = cluster.pids[MASTER]
        resident, peak = resident_bytes(pid), peak_memory_bytes([pid])
    figures = (
        Figure("resident memory, master", resident / MIB, "MiB", MEMORY_BAR_MIB),
        Figure("its peak", peak / MIB, "MiB"),
    )
    return SpecialResult("memory", f"a started, idle master with {options.workers} workers", machine, figures)


_BENCHES: dict[str, Callable[[SpecialOptions, Say], Awaitable[SpecialResult]]] = {
    "sleep": _sleep,
    "fanout": _fanout,
    "reconnect": reconnect,
    "idle": idle,
    "memory": _memory,
}
NAMES = tuple(_BENCHES)
"""The names of these benches."""


def run_special(name: str, options: SpecialOptions, say: Say) -> SpecialResult:
    """Runs the named bench. Blocks.

    Args:
        name: one of NAMES.
        options: what to change of it.
        say: is told what goes on.

    Raises:
        UsageError: when there is no such bench.
        ZClusterError: when its cluster does not start.
    """
    if name not in _BENCHES:
        raise UsageError(f"there is no bench {name!r}", hint=f"there are dapi, {', '.join(NAMES)}")

    async def run() -> SpecialResult:
        return replace(await _BENCHES[name](options, say), options=asdict(options))

    return run_cleanly(run())
