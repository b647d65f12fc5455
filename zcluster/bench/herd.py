"""Benches of many workers on one master, simulated by :mod:`zcluster.bench.swarm`: reconnect, idle.

Rules kept here:
- a worker counts as back when it holds the answer to its HELLO, and the master lists it as ready;
- the clock of a return starts when the master's port takes connections, not when its process was started.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from zcluster.bench.child import Ready, RoundChild
from zcluster.bench.cluster import MASTER, LocalCluster
from zcluster.bench.figures import MIB, Figure, Say, SpecialOptions, SpecialResult
from zcluster.bench.machine import KIB, cpu_seconds, describe_machine, resident_bytes
from zcluster.bench.stats import median
from zcluster.bench.swarm import SwarmConfig, SwarmOrder, SwarmUp
from zcluster.clients import AsyncClient
from zcluster.config import Home
from zcluster.errors import TimedOut
from zcluster.keys import KeyFile, NewKey, Ring, generate

SWARM_WORKERS = 250
"""Workers of one swarm process: few enough that their common loop does not slow them."""
JOIN_S = 120.0
AWAY_S = 2.0
SETTLE_S = 3.0
RECONNECT_WORKERS, RECONNECT_BAR_S = 500, 2.0
IDLE_WORKERS, IDLE_BAR_PERCENT, IDLE_BAR_KIB = 1_000, 10.0, 64.0
POLL_S = 0.005


@asynccontextmanager
async def swarms(cluster: LocalCluster, count: int) -> AsyncIterator[list[RoundChild]]:
    """``count`` simulated workers on ``cluster``, in as many processes as they need; all are up when it is entered."""
    pairs = [generate() for _ in range(count)]
    home = Home.of(cluster.home)
    Ring(home.ring_file).add_many(NewKey(f"herd-{n}", "worker", pair.public) for n, pair in enumerate(pairs, 1))
    master_public = KeyFile.read(home.master_key).pair.public
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zcluster-bench-")))
        children: list[RoundChild] = []
        for number in range(0, count, SWARM_WORKERS):
            mine = [(pair.public, pair.secret) for pair in pairs[number : number + SWARM_WORKERS]]
            child = RoundChild(f"swarm {len(children) + 1}", ["zcluster.bench.swarm"], logs / f"swarm-{number}.log")
            stack.push_async_callback(child.stop)
            await child.start(SwarmConfig(cluster.address, master_public, mine))
            children.append(child)
        for child in children:
            await child.hear(Ready, JOIN_S)
        yield children


async def count_ready(cluster: LocalCluster) -> int:
    """How many workers the master lists as ready."""
    async with AsyncClient(key=cluster.client_key) as client:
        return sum(node["role"] == "worker" and node["state"] == "ready" for node in await client.nodes())


async def _wait_listening(cluster: LocalCluster) -> float:
    """When the master's port took a connection."""
    host, port = cluster.address.removeprefix("tcp://").split(":")
    deadline_s = time.monotonic() + JOIN_S
    while time.monotonic() < deadline_s:
        with socket.socket() as sock:
            if sock.connect_ex((host, int(port))) == 0:
                return time.monotonic()
        await asyncio.sleep(POLL_S)
    raise TimedOut("the master does not listen", hint=cluster.logs(MASTER)[-200:])


async def reconnect(options: SpecialOptions, say: Say) -> SpecialResult:
    """How long a herd of workers takes to be back after its master was killed and started again."""
    machine = describe_machine()
    count = options.workers or RECONNECT_WORKERS
    halves_s: list[float] = []
    alls_s: list[float] = []
    listed: list[int] = []
    async with LocalCluster(0, cluster_name="bench") as cluster:
        say(f"starting {count} simulated workers")
        async with swarms(cluster, count) as children:
            for number in range(options.rounds):
                cluster.kill(MASTER)
                await cluster.terminate(MASTER)
                killed_s = time.monotonic()
                await asyncio.sleep(AWAY_S)
                cluster.start_master()
                listening_s = await _wait_listening(cluster)
                for child in children:
                    await child.tell(SwarmOrder(killed_s))
                ups = await asyncio.gather(*(child.hear(SwarmUp, JOIN_S) for child in children))
                times_s = sorted(at for up in ups for at in up.up_at_s)
                halves_s.append(times_s[len(times_s) // 2] - listening_s)
                alls_s.append(times_s[-1] - listening_s)
                listed.append(await count_ready(cluster))
                say(f"round {number + 1} of {options.rounds}: all back {alls_s[-1]:.2f} s after the master listened")
    figures = (
        Figure("all back, median of rounds", median(alls_s), "s", RECONNECT_BAR_S),
        Figure("all back, slowest round", max(alls_s), "s", RECONNECT_BAR_S),
        Figure("half of them back", median(halves_s), "s"),
        Figure("ready, as the master says", min(listed), "workers", count, at_most=False),
    )
    about = f"{count} simulated workers lose their master (SIGKILL) for {AWAY_S:g} s, {options.rounds} times"
    return SpecialResult("reconnect", about, machine, figures)


async def idle(options: SpecialOptions, say: Say) -> SpecialResult:
    """What idle workers cost their master: CPU and memory."""
    machine = describe_machine()
    count = options.workers or IDLE_WORKERS
    async with LocalCluster(0, cluster_name="bench") as cluster:
        pid = cluster.pids[MASTER]
        await asyncio.sleep(SETTLE_S)
        alone_bytes = resident_bytes(pid)
        say(f"starting {count} simulated workers")
        async with swarms(cluster, count):
            say(f"all have joined; measuring for {options.duration_s:g} s")
            await asyncio.sleep(SETTLE_S)
            began_s, used_s = time.monotonic(), cpu_seconds([pid])
            await asyncio.sleep(options.duration_s)
            percent = 100.0 * (cpu_seconds([pid]) - used_s) / (time.monotonic() - began_s)
            full_bytes = resident_bytes(pid)
            listed = await count_ready(cluster)
    figures = (
        Figure("CPU of the master", percent, "% of a core", IDLE_BAR_PERCENT),
        Figure("memory of the master for each", (full_bytes - alone_bytes) / KIB / count, "KiB", IDLE_BAR_KIB),
        Figure("resident memory, master", full_bytes / MIB, "MiB"),
        Figure("ready, as the master says", listed, "workers", count, at_most=False),
    )
    return SpecialResult("idle", f"{count:,} simulated idle workers on one master", machine, figures)
