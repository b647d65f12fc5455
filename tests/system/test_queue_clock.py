"""The clocks of the queue: the time of day set forward and back, an hour of sleep, an hour without a master, another boot.

Nobody here may set the machine's clocks, so the nodes of these tests read them with an offset: a ``sitecustomize`` of the test,
which Python loads before anything else, adds to ``time.time`` and to the clock of the boot what a file says.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from waiting import eventually, lines

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.clients.jobs import AsyncJob
from zcluster.config import Home
from zcluster.errors import JobExpired, NoSuchJob

FUNCTIONS = str(Path(__file__).with_name("queue_fault_functions.py"))
HOUR_S = 3600.0
LARGE = 400_000
NEAR_S = 120.0
"""What a test may take: times are compared as coarsely as this."""
CLOCKS = """
import os, pathlib, struct, time
_fd = os.open({path!r}, os.O_RDONLY)
_time, _gettime, _read_text = time.time, time.clock_gettime, pathlib.Path.read_text
def _offsets():
    return struct.unpack("ddd", os.pread(_fd, 24, 0))
def _clock_gettime(clock):
    return _gettime(clock) + (_offsets()[1] if clock == time.CLOCK_BOOTTIME else 0.0)
def _boot_id(self, *args, **more):
    text = _read_text(self, *args, **more)
    return text.strip() + str(int(_offsets()[2])) if str(self).endswith("/boot_id") else text
time.time = lambda: _time() + _offsets()[0]
time.clock_gettime, pathlib.Path.read_text = _clock_gettime, _boot_id
"""


class Clocks:
    """What the nodes' clocks are ahead."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "offsets"
        self.wall_s = self.boot_s = self.boots = 0.0
        self.set()
        (directory / "sitecustomize.py").write_text(CLOCKS.format(path=str(self._path)))

    def set(self, wall_s: float = 0.0, boot_s: float = 0.0, boots: int = 0) -> None:
        """Set them so much further."""
        self.wall_s, self.boot_s, self.boots = self.wall_s + wall_s, self.boot_s + boot_s, self.boots + boots
        with self._path.open("r+b" if self._path.exists() else "wb") as file:
            file.write(struct.pack("ddd", self.wall_s, self.boot_s, self.boots))

    def reboot(self, wall_s: float) -> None:
        """Another boot, of which the clock begins anew; meanwhile so much time of day passed."""
        self.set(wall_s, 7.0 - self.boot_s - time.clock_gettime(time.CLOCK_BOOTTIME), 1)

    @property
    def now_s(self) -> float:
        """The nodes' time of day."""
        return time.time() + self.wall_s


@pytest.fixture
def clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clocks:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return Clocks(tmp_path)


class Rig:
    """A cluster on these clocks, and jobs that wait for each of the queue's times."""

    def __init__(self, cluster: LocalCluster, c: AsyncClient, clocks: Clocks, noted: Path) -> None:
        self.cluster, self.c, self.clocks, self._noted = cluster, c, clocks, noted

    async def make(self) -> None:
        c, args = self.c, {"path": str(self._noted)}
        self.cluster.new_key("far", "worker")
        self.delayed = await c.submit("q.note", {**args, "text": "delayed"}, delay_s=HOUR_S)
        self.timed = await c.submit("q.note", {**args, "text": "timed"}, at_s=self.clocks.now_s + HOUR_S)
        self.later = await c.submit("q.note", {**args, "text": "later"}, at_s=self.clocks.now_s + 10 * HOUR_S)
        self.pausing = await c.submit("q.flaky", {**args, "text": "flaky", "fails": 1, "after_s": HOUR_S})
        far = {**args, "text": "far"}
        self.expiring: AsyncJob = await eventually(
            lambda: c.submit("q.note", far, target="far", expires_s=HOUR_S), "far is known"
        )
        self.kept = await c.submit("q.blob", {"size": LARGE}, retention_s=HOUR_S)
        await self.kept.result()
        await state_is(self.pausing, "queued")
        await eventually(lambda: lines(self._noted) == ["flaky 1"], "it asked for another attempt")

    async def nothing_came(self) -> None:
        """Nothing that is on the queue's own time has happened, and it is as far away as it was."""
        for job in (self.delayed, self.pausing):
            row = await job.info()
            assert (row["state"], abs(row["due_in_s"] - HOUR_S) < NEAR_S) == ("queued", True), row
        row = await self.expiring.info()
        assert (row["state"], abs(row["expires_in_s"] - HOUR_S) < NEAR_S) == ("queued", True), row
        assert await self.kept.result() == "x" * (LARGE - 2)
        assert await self.later.state() == "queued"

    async def all_came(self) -> None:
        """What is on the queue's own time has happened."""
        assert await self.delayed.result(30) == "delayed"
        assert await self.pausing.result(30) == 2
        with pytest.raises(JobExpired):
            await self.expiring.result(30)

        async def gone() -> bool:
            try:
                await self.kept.state()
            except NoSuchJob:
                return True
            return False

        await eventually(gone, "its retention is over")
        files = (Home.of(self.cluster.home).data_dir / "queue" / "jobs.files").iterdir
        await eventually(lambda: not list(files()), "its file is gone")


async def state_is(job: AsyncJob, state: str) -> None:
    async def check() -> bool:
        return await job.state() == state

    await eventually(check, f"{job.id} is {state}")


def with_rig(clocks: Clocks, tmp_path: Path, body: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        async with (
            LocalCluster(1, functions=[FUNCTIONS]) as cluster,
            AsyncClient(key=cluster.admin_key, timeout=30) as c,
            asyncio.timeout(120),
        ):
            rig = Rig(cluster, c, clocks, tmp_path / "noted")
            await rig.make()
            await body(rig)
            assert (await c.queue.check())["ok"]

    asyncio.run(main())


def test_the_time_of_day_is_set(clocks: Clocks, tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        gate = tmp_path / "gate"
        args = {"path": str(tmp_path / "gated"), "gate": str(gate), "text": "a"}
        runs = await rig.c.submit("q.gate", args, attempt_timeout_s=600)
        await eventually(lambda: lines(tmp_path / "gated"), "it runs")
        clocks.set(wall_s=HOUR_S + 1)
        assert await rig.timed.result(30) == "timed", "it follows the time of day"
        await rig.nothing_came()
        clocks.set(wall_s=-3 * HOUR_S)
        soon = await rig.c.submit("q.size", {"value": "abc"}, delay_s=0.2)
        assert await soon.result() == 3
        today = await rig.c.submit("q.size", {"value": "abcd"}, at_s=clocks.now_s + 0.5)
        assert await today.result() == 4
        await rig.nothing_came()
        assert (await runs.state(), (await runs.info())["attempt"]) == ("running", 1)
        await asyncio.to_thread(gate.touch)
        assert await runs.result() == "a"

    with_rig(clocks, tmp_path, body)


def test_the_machine_sleeps_for_an_hour(clocks: Clocks, tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        clocks.set(wall_s=HOUR_S + 1, boot_s=HOUR_S + 1)
        await rig.all_came()
        assert await rig.timed.result(30) == "timed"
        assert await rig.later.state() == "queued"

    with_rig(clocks, tmp_path, body)


@pytest.mark.parametrize("killed", [False, True])
def test_an_hour_without_a_master(clocks: Clocks, tmp_path: Path, killed: bool) -> None:
    async def body(rig: Rig) -> None:
        if killed:
            rig.cluster.kill("master")
        await rig.cluster.terminate("master")
        clocks.set(wall_s=-5 * HOUR_S)  # which says nothing within one boot
        await rig.cluster.restart_master()
        await rig.nothing_came()
        await rig.cluster.terminate("master")
        clocks.set(wall_s=6 * HOUR_S + 1, boot_s=HOUR_S + 1)
        await rig.cluster.restart_master()
        await rig.all_came()
        assert await rig.timed.result(30) == "timed"
        assert await rig.later.state() == "queued"

    with_rig(clocks, tmp_path, body)


def test_the_machine_starts_anew(clocks: Clocks, tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        await rig.cluster.terminate("master")
        clocks.reboot(wall_s=-2 * HOUR_S)
        await rig.cluster.restart_master()
        await rig.nothing_came()
        await rig.cluster.terminate("master")
        clocks.reboot(wall_s=HOUR_S / 2)
        await rig.cluster.restart_master()
        left_s = float((await rig.delayed.info())["due_in_s"])
        assert abs(left_s - HOUR_S / 2) < NEAR_S
        await rig.cluster.terminate("master")
        clocks.reboot(wall_s=HOUR_S)
        await rig.cluster.restart_master()
        await rig.all_came()
        clocks.set(wall_s=2 * HOUR_S)
        assert await rig.timed.result(30) == "timed"

    with_rig(clocks, tmp_path, body)
