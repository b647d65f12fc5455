"""The disk of the queue: full at any write, and with a database that is broken, lost or not ours."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from small_disk import fill, small_disk
from waiting import eventually, lines

from zcluster.bench.child import child_environment
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.config import Home
from zcluster.errors import StoreFailed, ZClusterError

FUNCTIONS = str(Path(__file__).with_name("queue_fault_functions.py"))
DISK_BYTES = 48 << 20
SETTINGS = {"worker.slots": 8}
LARGE = 400_000
"""Beyond what is kept in a row: a file."""


def data_of(cluster: LocalCluster) -> Path:
    return Home.of(cluster.home).data_dir


async def told(client: AsyncClient, *names: str) -> list[str]:
    """The names of the events so far, of these."""
    return [event["name"] async for event in client.events(names=names, since_s=1, follow=False)]


def test_a_full_disk_loses_nothing_and_is_left_behind() -> None:
    async def main() -> None:
        async with (
            LocalCluster(2, functions=[FUNCTIONS], settings=SETTINGS) as cluster,
            AsyncClient(key=cluster.admin_key, timeout=20) as c,
        ):
            assert await cluster.terminate("master") == 0
            with small_disk(data_of(cluster), DISK_BYTES):
                try:
                    cluster.start_master()
                    await cluster.wait_ready("master", "worker-1", "worker-2")
                    await full(cluster, c)
                finally:
                    await cluster.terminate("master")

    asyncio.run(main())


async def full(cluster: LocalCluster, c: AsyncClient) -> None:
    place, noted = data_of(cluster), cluster.home.parent / "noted"
    gate = cluster.home.parent / "gate"
    args = {"path": str(noted), "gate": str(gate)}
    running = [await c.submit("q.gate", {**args, "text": f"r{number}"}) for number in range(6)]
    running += [await c.submit("q.gate", {**args, "text": f"b{number}", "blob": LARGE}) for number in range(4)]
    queued = [await c.submit("q.note", {"path": str(noted), "text": f"q{number}"}, delay_s=1) for number in range(20)]
    await eventually(lambda: len(lines(noted)) >= 10, "ten run")
    ballast = fill(place)
    accepted: list[Any] = []

    async def refused(args: dict[str, Any]) -> bool:
        try:
            accepted.append((args, await c.submit("q.size", args)))
        except StoreFailed as error:
            return "full" in error.message and bool(error.hint)
        fill(place)
        return False

    await eventually(lambda: refused({"value": "v" * 60_000}), "a submission is refused")
    await eventually(lambda: refused({"value": "v" * LARGE}), "a large one is refused")
    await eventually(lambda: told(c, "queue_read_only"), "an event says so")
    gate.touch()
    fill(place)
    assert (await c.call("q.size", {"value": "abc"})) == 3, "the bus serves on"
    assert (await c.call("q.blob", {"size": 500_000}, target="worker-1")) == "x" * 499_998
    states = [await job.state() for job in (*running, *queued)]
    assert set(states) <= {"queued", "leased", "running", "done"}
    ballast.unlink()
    assert [await job.result(timeout=30) for job in running] == [
        *(f"r{number}" for number in range(6)), *(f"b{number}" + "x" * LARGE for number in range(4))
    ]  # fmt: skip
    assert [await job.result(timeout=30) for job in queued] == [f"q{number}" for number in range(20)]
    for args, job in accepted:
        assert await job.result(timeout=30) == len(args["value"])
    assert (await (await c.submit("q.size", {"value": "v" * LARGE})).result()) == LARGE
    await eventually(lambda: told(c, "queue_writable"), "an event says so")
    report = await c.queue.check()
    assert report["ok"], report
    stats = await c.queue.stats()
    assert (stats["live"], stats["bytes"], stats["writable"]) == (0, 0, True)
    ran = sorted(line.split()[0] for line in lines(noted))
    assert ran == sorted([*(f"r{n}" for n in range(6)), *(f"b{n}" for n in range(4)), *(f"q{n}" for n in range(20))]), "each once"

    async def audited() -> bool:
        records = (await c.call("audit.since", {"limit": 1000}, target="master"))["items"]
        ended = {record["job"] for record in records if record["what"] == "ended"}
        return ended >= {job.id for job in (*running, *queued)}

    await eventually(audited, "each end is in the audit log")


# -- a database that is not what it was -------------------------------------------------------------------------------------

PAGE = 4096
JOBS = 400
TABLE_LEAF, INDEX_LEAF = 0x0D, 0x0A
"""The first byte of a page (https://www.sqlite.org/fileformat.html)."""


class Broken:
    """A cluster whose master is down, with a queue of jobs that can be broken and put back."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.database = data_of(cluster) / "queue" / "jobs.db"
        self.wal = self.database.with_name("jobs.db-wal")
        self._whole = cluster.home.parent / "whole"
        self.waiting: list[str] = []
        self.large: list[str] = []

    async def make(self) -> None:
        """Queue jobs; end the master by a kill, so that the last of them are in the log alone."""
        async with AsyncClient(key=self.cluster.admin_key, timeout=20) as c:
            await asyncio.gather(*[self._submit(c, self.waiting, f"{number}" * 50) for number in range(JOBS)])
            for number in range(3):
                await self._submit(c, self.large, f"{number}" * LARGE)
            assert await (await c.submit("q.size", {"value": "abc"})).result() == 3
            await self.cluster.restart_master()
            for number in range(50):  # a commit each
                await self._submit(c, self.waiting, f"l{number}" * 50)
        await self.down()
        assert self.wal.stat().st_size > 10 * PAGE
        shutil.copytree(self.database.parent, self._whole)

    async def _submit(self, c: AsyncClient, ids: list[str], value: str) -> None:
        ids.append((await c.submit("q.size", {"value": value}, delay_s=3600)).id)

    async def down(self) -> None:
        if "master" in self.cluster.pids:
            self.cluster.kill("master")
        await self.cluster.terminate("master")

    def mend(self) -> None:
        """As it was."""
        shutil.rmtree(self.database.parent)
        shutil.copytree(self._whole, self.database.parent)

    def page(self, kind: int) -> int:
        """Where the fullest page of this kind begins."""
        data = self.database.read_bytes()
        found = [at for at in range(PAGE, len(data), PAGE) if data[at] == kind]
        return max(found, key=lambda at: data[at + 3 : at + 5])

    async def start(self) -> str:
        """Start the master; the last line that it said when it does not stay, else empty."""
        cluster = self.cluster
        before = len(cluster.logs("master"))
        cluster.start_master()
        with suppress(ZClusterError):
            await cluster.wait_ready("master")
            return ""
        code, log = await cluster.terminate("master"), cluster.logs("master")[before:]
        said = [line for line in log.splitlines() if "zcluster: error" in line]
        assert (code, len(said), "Traceback" in log) == (1, 1, False), log
        return said[0]

    def check(self) -> tuple[int, dict[str, Any]]:
        """What the check of the database says when the master is down."""
        words = ["queue", "check", "--home", str(self.cluster.home), "--timeout", "200ms", "-o", "json"]
        done = subprocess.run(
            [sys.executable, "-m", "zcluster", *words], env=child_environment(), capture_output=True, text=True, timeout=60
        )
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)


def flip(file: Path, at: int, count: int = 1) -> None:
    """Other bits there."""
    with file.open("r+b") as opened:
        opened.seek(at)
        was = opened.read(count)
        assert was
        opened.seek(at)
        opened.write(bytes(byte ^ 0x5A for byte in was))


@pytest.fixture(scope="module")
def broken() -> Iterator[Broken]:
    with LocalCluster(1, functions=[FUNCTIONS]) as cluster:
        made = Broken(cluster)
        asyncio.run(made.make())
        yield made


HARMS = {
    "a torn database": lambda b: os.truncate(b.database, b.database.stat().st_size // 2 // PAGE * PAGE + 100),
    "a stump": lambda b: os.truncate(b.database, 60),
    "another kind of file": lambda b: flip(b.database, 0, 16),
    "the size of its pages": lambda b: flip(b.database, 16, 2),
    "its format": lambda b: flip(b.database, 60, 4),
    "the schema": lambda b: flip(b.database, 100, 8),
    "a page of a table": lambda b: flip(b.database, b.page(TABLE_LEAF), 12),
    "a page of an index": lambda b: flip(b.database, b.page(INDEX_LEAF), 12),
    "the cells of an index": lambda b: flip(b.database, b.page(INDEX_LEAF) + 12, 200),
}
READABLE = ("a torn database", "a page of a table", "a page of an index", "the cells of an index")


@pytest.mark.parametrize("harm", HARMS)
def test_a_broken_database_is_an_error_that_says_so(broken: Broken, harm: str) -> None:
    async def body() -> None:
        await broken.down()
        broken.mend()
        broken.wal.unlink()  # which has newer pages
        HARMS[harm](broken)
        said = await broken.start()
        assert "jobs.db" in said
        assert harm == "its format" or "zcluster queue check" in said
        code, report = broken.check()
        assert (code, report["ok"], report["details"]["in_use"]) == (1, False, False)
        assert report["findings"]
        if harm in READABLE:
            assert report["jobs"] > JOBS // 4, report

    asyncio.run(body())


def test_a_log_that_is_damaged_in_its_middle_is_an_error(broken: Broken) -> None:
    async def body() -> None:
        await broken.down()
        broken.mend()
        flip(broken.wal, broken.wal.stat().st_size // 2)
        said = await broken.start()
        assert "jobs.db-wal is broken" in said
        code, report = broken.check()
        assert (code, report["ok"], "jobs.db-wal is broken" in report["findings"][0]) == (1, False, True)
        assert JOBS <= report["jobs"] < len(broken.waiting) + len(broken.large)
        assert broken.wal.exists(), "nothing is thrown away"

    asyncio.run(body())


def test_a_lost_or_emptied_database_is_not_begun_anew(broken: Broken) -> None:
    async def body() -> None:
        for lost in (Path.unlink, lambda path: os.truncate(path, 0)):
            await broken.down()
            broken.mend()
            lost(broken.database)
            for beside in (broken.wal, broken.database.with_suffix(".reserve"), None):
                said = await broken.start()
                assert "jobs.db is " in said, beside
                assert "shows that there was a queue" in said
                if beside is not None:
                    beside.unlink()  # the next one shows it as well
            assert len(list(broken.database.with_suffix(".files").iterdir())) == len(broken.large)

    asyncio.run(body())


def test_a_lost_or_damaged_file_of_a_job_is_that_job_s_trouble(broken: Broken) -> None:
    async def body() -> None:
        await broken.down()
        broken.mend()
        files = sorted(broken.database.with_suffix(".files").iterdir())
        assert len(files) == 3
        files[0].unlink()
        flip(files[1], 1000)
        code, report = broken.check()
        assert (code, report["ok"], report["jobs"]) == (1, False, len(broken.waiting) + len(broken.large) - 2 + 1)
        assert await broken.start() == ""
        async with AsyncClient(key=broken.cluster.admin_key, timeout=20) as c:
            assert (await c.queue.check())["findings"] == report["findings"]
            told = await asyncio.gather(*[c.job(id_).info() for id_ in broken.large], return_exceptions=True)
            unread = [each for each in told if isinstance(each, StoreFailed) and "of a job is" in each.message]
            assert (len(unread), len(told)) == (2, 3)
            assert await c.job(broken.waiting[0]).state() == "queued"
            assert await (await c.submit("q.size", {"value": "abcd"})).result() == 4
            for act in (c.queue.cancel, c.queue.drop):
                assert await act(broken.large) == {"done": broken.large, "refused": []}

    asyncio.run(body())


def test_a_database_that_may_not_be_opened_is_named(broken: Broken) -> None:
    async def body() -> None:
        await broken.down()
        broken.mend()
        # A directory in the place of the database: what no user may open, root among them.
        broken.database.rename(broken.database.with_name("aside.db"))
        broken.database.mkdir()
        said = await broken.start()
        assert "jobs.db" in said

    asyncio.run(body())
