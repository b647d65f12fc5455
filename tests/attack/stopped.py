"""One worker of ten is stopped (SIGSTOP), again and again, while calls fan out to all and broadcasts go to all.

It holds its connections, reads nothing, and is not gone until its lease ends: then it is let go on, comes back, and is
stopped again, so that most of the time the master believes in it.
"""

from __future__ import annotations

import asyncio
import signal
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ground import Child, Ground, Latencies, Link, Shared, ground_of, until
from measured import MIB, Attack, at_most, none, ratio, some, told

from zcluster.bench.figures import Figure
from zcluster.clients import AsyncClient
from zcluster.errors import ZClusterError

PAYLOAD = "x" * 8_000
FAN_OUT_S = 0.02
BROADCAST_S = 0.01
TIMEOUT_S = 10.0
HELD_S = 2.5
"""How long it is stopped at a time: shortly before its lease ends."""
AGENTS = 2_000


@dataclass(frozen=True)
class Scale:
    workers: int
    quiet_s: float
    stopped_s: float


SMALL, FULL = Scale(3, 1.0, 2.0), Scale(10, 15.0, 45.0)


def fan_out(link: Link, key: str, victim: str) -> None:
    """Calls to all workers, a few at once; tells how long each answer of the others took."""
    asyncio.run(_fan_out(link, Path(key), victim))


async def _fan_out(link: Link, key: Path, victim: str) -> None:
    async with AsyncClient(key=key, timeout=TIMEOUT_S) as client:
        await _one(client, victim, 0, array("d"), [])
        link.say("ready")
        while True:
            await asyncio.to_thread(link.hear)
            times: array[float] = array("d")
            wrong: list[str] = []
            running: set[asyncio.Task[None]] = set()
            number = 0
            while not link.told():
                number += 1
                running.add(asyncio.create_task(_one(client, victim, number, times, wrong)))
                await asyncio.sleep(FAN_OUT_S)
                running = {task for task in running if not task.done()}
            link.hear()
            for task in running:
                await task
            link.say((times.tobytes(), wrong))


async def _one(client: AsyncClient, victim: str, number: int, times: array[float], wrong: list[str]) -> None:
    try:
        async for result in client.fan_out("echo", {"value": [number, PAYLOAD]}, target="worker-*"):
            if result.node == victim:
                continue
            times.append(result.elapsed_s)
            if not result.ok or result.value != [number, PAYLOAD]:
                wrong.append(str(result.error or "another value"))
    except ZClusterError as error:
        wrong.append(str(error))


def broadcast(link: Link, key: str) -> int:
    """Changes of groups, which every worker is told; returns how many there were."""
    return asyncio.run(_broadcast(link, Path(key)))


async def _broadcast(link: Link, key: Path) -> int:
    async with AsyncClient(key=key, timeout=60) as client:
        await client.groups.create("attacked")
        await client.agents.report([{"id": f"a{number}"} for number in range(AGENTS)])
        link.say("ready")
        changes = 0
        while not link.told():
            ids = [f"a{(changes * 50 + number) % AGENTS}" for number in range(50)]
            await (client.groups.add if changes // (AGENTS // 50) % 2 == 0 else client.groups.remove)("attacked", ids)
            changes += 1
            await asyncio.sleep(BROADCAST_S)
    return changes


def measure(child: Child) -> Latencies:
    """What the fan-outs saw since the beginning."""
    child.tell("end")
    times, wrong = child.hear()
    return Latencies(array("d", times), len(wrong), 0, wrong[0] if wrong else "")


def run(shared: Shared | None) -> Sequence[Figure]:
    scale = SMALL if shared else FULL
    with ground_of(shared, scale.workers) as ground:
        victim, stops = f"worker-{scale.workers}", 0
        fans = Child(fan_out, str(ground.cluster.client_key), victim, nice=0)
        news = Child(broadcast, str(ground.cluster.admin_key), nice=0)
        try:
            for child in (fans, news):
                child.hear()
            fans.tell("begin")
            time.sleep(scale.quiet_s)
            quiet = measure(fans)
            with ground.watch() as watch:
                fans.tell("begin")
                over_s = time.monotonic() + scale.stopped_s
                while time.monotonic() < over_s:
                    ground.cluster.kill(victim, signal.SIGSTOP)
                    stops += 1
                    time.sleep(min(HELD_S, scale.stopped_s))
                    ground.cluster.kill(victim, signal.SIGCONT)
                    until(lambda: answers(ground, victim), f"{victim} answers again")
                seen = measure(fans)
            news.tell("end")
            changes = news.hear()
        finally:
            for child in (fans, news):
                child.end()
        return [
            some("times that it was stopped", stops),
            some("answers of the others meanwhile", len(seen.times_s)),
            some("broadcasts", changes),
            none("wrong or missing answers of the others", quiet.wrong + seen.wrong),
            told("the others' p99 quiet", quiet.p(99) * 1e3, "ms"),
            told("the others' p99 meanwhile", seen.p(99) * 1e3, "ms"),
            ratio("the others' p99", seen.p(99), quiet.p(99), 2),
            at_most("memory of the master", watch.grown_bytes / MIB, 32, "MiB"),
            none("nodes that died", ground.deaths),
        ]


def answers(ground: Ground, name: str) -> bool:
    """Whether the node answers a call."""

    async def question(client: AsyncClient) -> bool:
        try:
            return bool(await client.call("echo", {"value": True}, target=name, timeout=1.0))
        except ZClusterError:
            return False

    return ground.ask(question)


ATTACK = Attack(
    "stopped", "one of ten workers stopped (SIGSTOP) again and again during fan-outs and broadcasts",
    "the others' p99 at most 2 x, memory +32 MiB at most", run,
)  # fmt: skip
