"""Processes are killed or stopped at random moments: no acknowledged job is lost, none has two ends, no effect is doubled."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from queue_outside import FUNCTIONS, Outside, check_all
from waiting import POLL_S, eventually

from zcluster import AsyncClient, JobDead, MasterLost, TimedOut, Unreachable
from zcluster.bench.cluster import MASTER, LocalCluster

SETTINGS = {
    "session.heartbeat_s": 0.2, "session.reconnect_max_s": 0.2, "worker.slots": 8, "queue.backoff_base_s": 0.05,
    "queue.backoff_max_s": 0.2,
}  # fmt: skip
LEASE_S = 0.6
WORKERS = 3
SUBMITTERS = 24
PAUSE_S = 0.1
"""The longest that a job takes."""
RETRIES = 50
"""Only deaths may make a job dead."""
CALL_S = 3.0
ROUND_S, FAULT_S = 60.0, 5.0
"""A round that takes longer than this, and so much for each fault, hangs."""
SEED = 20_261_119
_UNKNOWN = (MasterLost, TimedOut, Unreachable)
"""After these whether a job was accepted is unknown: with its idempotency key it is submitted again."""


class Round:
    """Jobs that are submitted and awaited while ``faults`` things happen, one after the other, to processes.

    A job is submitted only when its share of the faults has happened, so that there are some at work at each of them.
    """

    def __init__(self, cluster: LocalCluster, outside: Outside, seed: int, jobs: int, faults: int) -> None:
        self.cluster, self.outside = cluster, outside
        self.random = random.Random(seed)
        self.jobs, self.faults, self.happened = jobs, faults, 0
        self.acknowledged: dict[str, str] = {}
        self.ended: Counter[str] = Counter()
        self.repeated = 0
        """Submissions whose fate was unknown."""
        self._numbers = iter(range(jobs))

    # -- those who submit -------------------------------------------------------------------------------------------

    async def submit_all(self, client: AsyncClient) -> None:
        """Submit all jobs, and wait for their ends."""
        async with asyncio.TaskGroup() as group:
            for _ in range(SUBMITTERS):
                group.create_task(self._submitter(client))

    async def _submitter(self, client: AsyncClient) -> None:
        for number in self._numbers:
            key = f"key-{number}"
            while number * self.faults > (self.happened + 1) * self.jobs:
                await asyncio.sleep(POLL_S)
            pause_s = self.random.random() * PAUSE_S
            id_ = self.acknowledged[key] = await self._submit(client, key, pause_s)
            if self.random.random() < 0.2:
                assert await self._submit(client, key, pause_s) == id_
            await self._await(client, key, id_)

    async def _submit(self, client: AsyncClient, key: str, pause_s: float) -> str:
        args = {"directory": str(self.outside.directory), "pause_s": pause_s}
        while True:
            try:
                job = await client.submit("effect.record", args, retries=RETRIES, idempotency_key=key, timeout=CALL_S)
                return job.id
            except _UNKNOWN:
                self.repeated += 1

    async def _await(self, client: AsyncClient, key: str, id_: str) -> None:
        while True:
            try:
                assert await client.job(id_).result(CALL_S) == key
                self.ended["done"] += 1
                return
            except _UNKNOWN:
                continue
            except JobDead:
                self.ended["dead"] += 1
                return

    # -- what happens -----------------------------------------------------------------------------------------------

    async def strike_all(self, *strikes: Callable[[], Awaitable[None]]) -> None:
        """One of ``strikes`` after the other, each at its moment."""
        while self.happened < self.faults:
            await self._moment()
            await self.random.choice(strikes)()
            self.happened += 1

    async def _moment(self) -> None:
        """Wait for a moment: most come after something has been done again, some whenever they like."""
        if self.random.random() < 0.8:
            goal = self._progress() + self.random.randrange(1, 8)
            for _ in range(200):
                if self._progress() >= goal:
                    break
                await asyncio.sleep(POLL_S)
            await asyncio.sleep(self.random.random() * 0.1)
        else:
            await asyncio.sleep(self.random.random())

    def _progress(self) -> int:
        return len(self.acknowledged) + self.ended.total()

    async def kill_master(self) -> None:
        await self._kill(MASTER)
        self.cluster.start_master()

    async def kill_worker(self) -> None:
        name = self.random.choice(self.cluster.worker_names)
        await self._kill(name)
        self.cluster.start_worker(name)

    async def kill_both(self) -> None:
        name = self.random.choice(self.cluster.worker_names)
        self.cluster.kill(name)
        await self.kill_master()
        await self.cluster.terminate(name)
        self.cluster.start_worker(name)

    async def stop_worker(self) -> None:
        await self._stop(self.random.choice(self.cluster.worker_names))

    async def stop_master(self) -> None:
        await self._stop(MASTER)

    async def _kill(self, name: str) -> None:
        self.cluster.kill(name)
        assert await self.cluster.terminate(name) == -signal.SIGKILL

    async def _stop(self, name: str) -> None:
        self.cluster.kill(name, signal.SIGSTOP)
        await asyncio.sleep(LEASE_S * (1.2 + self.random.random()))
        self.cluster.kill(name, signal.SIGCONT)


def run_round(directory: Path, jobs: int, faults: int, *names: str) -> None:
    """A whole round, and what is to be true afterwards."""

    async def body() -> None:
        outside, limit_s = Outside(directory), ROUND_S + FAULT_S * faults
        async with LocalCluster(WORKERS, functions=[FUNCTIONS], settings=SETTINGS) as cluster, asyncio.timeout(limit_s):
            round_ = Round(cluster, outside, SEED, jobs, faults)
            async with AsyncClient(home=cluster.home) as client, asyncio.TaskGroup() as group:
                group.create_task(round_.submit_all(client))
                group.create_task(round_.strike_all(*(getattr(round_, name) for name in names)))
            await cluster.wait_ready(*cluster.pids)
            assert set(cluster.pids) == {MASTER, *cluster.worker_names}
            async with AsyncClient(key=cluster.admin_key) as admin:
                ends = await eventually(lambda: _ends(admin, jobs), "every job has ended")
                found = await check_all(admin, outside, round_.acknowledged, {f"key-{number}" for number in range(jobs)})
            assert found == ends == round_.ended
            assert len(round_.acknowledged) == jobs
            assert found["done"] >= 0.9 * jobs
            runs = len(outside.runs())
            print(f"{'+'.join(names)}: {faults} faults, {jobs} jobs: {dict(found)}, {runs} runs, "
                  f"{round_.repeated} submissions repeated, {len(outside.effects())} effects")  # fmt: skip

    asyncio.run(body())


async def _ends(client: AsyncClient, jobs: int) -> Counter[str]:
    states: Counter[str] = Counter((await client.queue.stats())["states"])
    found = +Counter({state: states[state] for state in ("done", "dead")})
    return found if found.total() == jobs and states.total() == jobs else Counter()


def rounds(*small: int) -> pytest.MarkDecorator:
    """A small round, and the whole one."""
    return pytest.mark.parametrize(("jobs", "faults"), [small, pytest.param(1000, 200, marks=pytest.mark.soak)])


@rounds(100, 6)
def test_the_master_is_killed(tmp_path: Path, jobs: int, faults: int) -> None:
    run_round(tmp_path, jobs, faults, "kill_master")


@rounds(100, 5)
def test_workers_are_killed(tmp_path: Path, jobs: int, faults: int) -> None:
    run_round(tmp_path, jobs, faults, "kill_worker")


@rounds(100, 5)
def test_master_and_workers_are_killed(tmp_path: Path, jobs: int, faults: int) -> None:
    run_round(tmp_path, jobs, faults, "kill_master", "kill_worker", "kill_both")


@rounds(100, 5)
def test_master_and_workers_are_stopped_for_longer_than_their_lease(tmp_path: Path, jobs: int, faults: int) -> None:
    run_round(tmp_path, jobs, faults, "stop_worker", "stop_worker", "stop_master")


@pytest.mark.soak
def test_all_of_it_happens(tmp_path: Path) -> None:
    run_round(tmp_path, 1000, 200, "kill_master", "kill_worker", "kill_both", "stop_worker", "stop_master")
