"""The work ``live``: what agents with sessions cost their node, and what an agent costs its host.

Rules kept here:
- all agents are processes of their own (one for the simulated ones, one for a real one), with keys, CURVE and their defaults;
- nothing is measured before the master has heard all of them;
- the node is the master; its memory for each agent is what it has more than before the first one came.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zcluster.bench.agentsfleet import Bench, Fleet
from zcluster.bench.child import start_process, stop_processes
from zcluster.bench.cluster import MASTER
from zcluster.bench.figures import MIB, Figure
from zcluster.bench.machine import KIB, cpu_seconds, peak_memory_bytes, resident_bytes
from zcluster.errors import ZClusterError
from zcluster.keys import new_key, new_keys

NODE_BAR_PERCENT = 25.0
AGENT_BAR_MIB = 35.0
AGENT_BAR_PERCENT = 0.5
SETTLE_S = 12.0
"""More than an interval: all have been heard again."""
ALONE_S = 2.0
ACTIVE = "status=active"


async def live(bench: Bench) -> Sequence[Figure]:
    """Simulated agents in one process and a real one in another, all at the master."""
    count = bench.load.agents
    async with Fleet(bench.directory) as fleet:
        bench.say(f"making {count:,} keys")
        keys = bench.directory / "keys"
        home = fleet.cluster.home
        await asyncio.to_thread(new_keys, home, "sim-", count, "agent", keys)
        key = (await asyncio.to_thread(new_key, home, "real", "agent"))[1]
        await fleet.cluster.restart_master()
        await asyncio.sleep(ALONE_S)
        master = fleet.cluster.pids[MASTER]
        alone_bytes = resident_bytes(master)
        common = ["--node", fleet.cluster.address, "--home", str(home)]
        with _running(bench.directory / "real.log", ["--key", str(key), *common]) as real:
            await fleet.know(1, ACTIVE)
            bench.say("starting the agents")
            with _running(bench.directory / "agents.log", ["--simulate", str(count), "--keys", str(keys), *common]) as many:
                began_s = time.monotonic()
                await fleet.know(count + 1, ACTIVE)
                joined_s = time.monotonic() - began_s
                await asyncio.sleep(SETTLE_S)
                bench.say(f"all are there after {joined_s:.1f} s; watching for {bench.duration_s:g} s")
                pids = {"master": master, "real": real, "many": many}
                began_s, used_s = time.monotonic(), {name: cpu_seconds([pid]) for name, pid in pids.items()}
                await asyncio.sleep(bench.duration_s)
                seconds = time.monotonic() - began_s
                percent = {name: 100 * (cpu_seconds([pid]) - used_s[name]) / seconds for name, pid in pids.items()}
                each = (resident_bytes(master) - alone_bytes) / count
                memory, fleet_bytes = peak_memory_bytes([real]), resident_bytes(many)
                there = await fleet.count(ACTIVE)
    return (
        Figure("CPU, node", percent["master"], "% of a core", bench.bar(NODE_BAR_PERCENT)),
        Figure("memory of the node, for each agent", each / KIB, "KiB"),
        Figure("until all were there", joined_s, "s"),
        Figure("active at the end", there, "agents", count + 1, at_most=False),
        Figure("CPU of all simulated agents", percent["many"], "% of a core"),
        Figure("memory of a simulated agent", fleet_bytes / KIB / count, "KiB"),
        Figure("CPU of one agent", percent["real"], "% of a core", bench.bar(AGENT_BAR_PERCENT)),
        Figure("greatest memory of one agent", memory / MIB, "MiB", bench.bar(AGENT_BAR_MIB)),
    )


@contextmanager
def _running(log: Path, words: Sequence[str]) -> Iterator[int]:
    """``zcluster agent`` with these words: its process id. It has to run until the end."""
    process = start_process([sys.executable, "-m", "zcluster", "agent", *words], log)
    try:
        yield process.pid
        if process.poll() is not None:
            raise ZClusterError("zcluster agent ended early", hint=log.read_text(errors="replace")[-500:].strip())
    finally:
        stop_processes([process])
