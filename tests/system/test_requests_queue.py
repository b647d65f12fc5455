"""The master's queue on a running cluster: priorities, bounds, fair turns, and what never starts.

The worker runs two requests at once, so a client holds one slot of it and its other requests wait in their order.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE_S, counter, eventually, in_flight, lines

from zcluster.bench.child import child_environment
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.errors import Busy, TimedOut

FUNCTIONS = str(Path(__file__).with_name("bus_functions.py"))
PER_CLIENT = 50
FLOOD = 100_000
FEW_BATCHES = 2000
"""Requests of a flood that may run between two calls of another client: what was under way (some 600), and what a busy
machine does meanwhile."""

FLOODER = """
import asyncio, sys
from zcluster import AsyncClient

async def main():
    async with AsyncClient(key=sys.argv[1], timeout=300.0) as client:
        calls = [asyncio.ensure_future(client.call("t.tick", target="worker-1")) for _ in range(int(sys.argv[2]))]
        print("asked", flush=True)
        ticks = await asyncio.gather(*calls)
        print(len(set(ticks)), flush=True)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def narrow() -> Iterator[LocalCluster]:
    settings = {"worker.slots": 2, "queue.per_client": PER_CLIENT}
    with LocalCluster(workers=1, functions=[FUNCTIONS], settings=settings) as running:
        yield running


class Held:
    """A client whose first request stands at a gate on worker-1, so that what it asks next waits."""

    def __init__(self, client: AsyncClient, other: AsyncClient, directory: Path) -> None:
        self.client = client
        self.other = other
        """Another client, that looks on."""
        self.path = directory / "ran"
        self._gate = directory / "gate"
        args = {"path": str(directory / "first"), "gate": str(self._gate)}
        self.first = asyncio.create_task(client.call("t.gate", args, target="worker-1"))

    def mark(self, text: str, priority: int = 5, timeout: float = PATIENCE_S) -> asyncio.Task[str]:
        """Ask for a line in the file."""
        args = {"path": str(self.path), "text": text}
        return asyncio.create_task(self.client.call("t.mark", args, target="worker-1", priority=priority, timeout=timeout))

    def ran(self) -> list[str]:
        """What ran, in its order."""
        return [line.split()[0] for line in lines(self.path)]

    async def waiting(self, count: int) -> None:
        """Wait until ``count`` requests wait for the worker."""
        await in_flight(self.other, "worker-1", 1, count)

    def open(self) -> None:
        """Let the first one end."""
        self._gate.touch()


def held(cluster: LocalCluster, directory: Path, body: Callable[[Held], Awaitable[None]]) -> None:
    """Run ``body`` with a client of ``cluster`` that is held; what waits then runs."""

    async def main() -> None:
        async with (
            asyncio.timeout(2 * PATIENCE_S), AsyncClient(key=cluster.client_key, timeout=PATIENCE_S) as client,
            AsyncClient(key=cluster.admin_key) as other,
        ):  # fmt: skip
            here = Held(client, other, directory)
            await here.waiting(0)
            try:
                await body(here)
            finally:
                here.open()
            await here.first
            await in_flight(client, "worker-1", 0)

    asyncio.run(main())


def test_a_higher_priority_goes_first_and_equals_keep_their_order(narrow: LocalCluster, tmp_path: Path) -> None:
    async def body(here: Held) -> None:
        priorities = [*range(10)] * 3
        random.Random(1).shuffle(priorities)
        marks: list[asyncio.Task[str]] = []
        for number, priority in enumerate(priorities):
            marks.append(here.mark(f"{priority}-{number:02}", priority))
        await here.waiting(len(marks))
        assert here.ran() == []
        here.open()
        await asyncio.gather(*marks)
        expected = sorted((9 - priority, f"{priority}-{number:02}") for number, priority in enumerate(priorities))
        assert here.ran() == [text for _, text in expected]

    held(narrow, tmp_path, body)


def test_a_full_queue_is_busy_at_once_and_only_for_its_client(narrow: LocalCluster, tmp_path: Path) -> None:
    async def body(here: Held) -> None:
        marks = [here.mark(str(number)) for number in range(PER_CLIENT)]
        await here.waiting(PER_CLIENT)
        busy = await counter(here.other, "busy")
        with pytest.raises(Busy, match=f"{PER_CLIENT} requests of this client wait") as caught:
            await here.mark("beyond")
        assert caught.value.retry_after_s is not None
        assert 0 < caught.value.retry_after_s <= 30
        assert "try again in" in caught.value.hint
        assert await counter(here.other, "busy") == busy + 1
        assert await here.other.call("echo", {"value": 1}, target="worker-1") == 1
        here.open()
        assert await asyncio.gather(*marks) == [str(number) for number in range(PER_CLIENT)]
        assert here.ran() == [str(number) for number in range(PER_CLIENT)]
        assert await here.mark("again") == "again"

    held(narrow, tmp_path, body)


def test_what_waits_past_its_deadline_never_starts_and_says_so(narrow: LocalCluster, tmp_path: Path) -> None:
    async def body(here: Held) -> None:
        with pytest.raises(TimedOut):
            await here.mark("late", timeout=0.2)
        await here.waiting(0)
        last = here.mark("in time")
        here.open()
        await last
        assert lines(here.path) == ["in time worker-1"]

    held(narrow, tmp_path, body)


def test_what_is_cancelled_while_it_waits_never_starts(narrow: LocalCluster, tmp_path: Path) -> None:
    async def body(here: Held) -> None:
        marks = [here.mark(str(number)) for number in range(10)]
        await here.waiting(10)
        for mark in marks[::2]:
            mark.cancel()
        await here.waiting(5)
        here.open()
        ends = await asyncio.gather(*marks, return_exceptions=True)
        assert [isinstance(end, asyncio.CancelledError) for end in ends] == [True, False] * 5
        assert here.ran() == ["1", "3", "5", "7", "9"]

    held(narrow, tmp_path, body)


def test_another_client_passes_a_waiting_crowd(narrow: LocalCluster, tmp_path: Path) -> None:
    async def body(here: Held) -> None:
        crowd = [here.mark(str(number)) for number in range(PER_CLIENT)]
        await here.waiting(PER_CLIENT)
        args = {"path": str(here.path), "text": "other"}
        assert await here.other.call("t.mark", args, target="worker-1") == "other"
        assert here.ran() == ["other"]
        here.open()
        await asyncio.gather(*crowd)

    held(narrow, tmp_path, body)


async def _ticks_between_calls(cluster: LocalCluster) -> list[int]:
    """How many requests of a flood ran between the calls of another client, while most of the flood waited."""
    program = [sys.executable, "-c", FLOODER, str(cluster.client_key), str(FLOOD)]
    between: list[int] = []
    async with AsyncClient(key=cluster.admin_key) as client:
        flooder = subprocess.Popen(program, env=child_environment(), stdout=subprocess.PIPE, text=True)
        try:
            assert flooder.stdout is not None

            async def crowded() -> bool:
                return bool((await client.status())["requests"]["waiting"] > FLOOD // 5)

            await eventually(crowded, "the flood waits")
            last = await client.call("t.tick", target="worker-1")
            while await crowded():
                before = await client.call("t.tick", target="worker-1")
                after = await client.call("t.tick", target="worker-1")
                between.append(after - before - 1)
            told = await asyncio.to_thread(flooder.stdout.read)
            assert told.split() == ["asked", str(FLOOD)]
            assert last > 0
        finally:
            flooder.kill()
            flooder.wait()
    return between


def test_a_flood_of_100_000_delays_another_by_a_few_batches() -> None:
    with LocalCluster(workers=1, functions=[FUNCTIONS]) as cluster:
        between = sorted(asyncio.run(_ticks_between_calls(cluster)))
    assert len(between) >= 5
    assert between[len(between) // 2] <= FEW_BATCHES, between
