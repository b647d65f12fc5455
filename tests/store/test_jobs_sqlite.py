"""What only the store of jobs in SQLite can do wrong: disks, broken files, other processes, threads."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jobs_contract import FILE_BYTES, KEY, LARGE, changed, ended, fan_out, job, numbers, plain, whole

from zcluster.core.queue.job import Job, State
from zcluster.errors import Busy, StoreFailed, ZClusterError
from zcluster.store import jobs_check, jobs_schema
from zcluster.store.jobs import Batch, Done, Query, Report
from zcluster.store.jobs_check import check_file
from zcluster.store.jobs_schema import files_of
from zcluster.store.jobs_sqlite import SqliteJobs

PAGE = 4096
LEASED, DONE, QUEUED, CANCELLED = State.LEASED, State.DONE, State.QUEUED, State.CANCELLED


async def opened(path: Path) -> SqliteJobs:
    store = await SqliteJobs.open(path, file_bytes=FILE_BYTES)
    await store.opened()
    return store


def counted(*insert: Job, update: Sequence[Job] = (), was: State = QUEUED, **more: Any) -> Batch:
    """A batch whose counters are right; the updated jobs of KEY were all in one live state."""
    batch = Batch(insert=list(insert), update=list(update), **more)
    for one in insert:
        batch.counts[one.state] = batch.counts.get(one.state, 0) + 1
    for one in update:
        batch.counts[was] = batch.counts.get(was, 0) - 1
        batch.counts[one.state] = batch.counts.get(one.state, 0) + 1
    live = [one for one in insert if not one.final]
    over = [one for one in update if one.final]
    batch.usage[KEY] = (len(live) - len(over), sum(one.size for one in live) - sum(one.size for one in over))
    return batch


def filled(path: Path, count: int, **more: Any) -> None:
    """A store with so many queued jobs, closed."""

    async def main() -> None:
        store = await opened(path)
        await store.commit(counted(*(job(number, **more) for number in range(1, count + 1))))
        await store.close()

    asyncio.run(main())


def run(tmp_path: Path, test: Callable[[SqliteJobs], Awaitable[None]]) -> None:
    async def main() -> None:
        store = await opened(tmp_path / "queue.db")
        try:
            await test(store)
        finally:
            await store.close()

    asyncio.run(main())


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Failing:
    """A connection whose statements fail from the ``left``-th on, once."""

    def __init__(self, connection: sqlite3.Connection, left: int, code: int) -> None:
        self._connection = connection
        self._left = left
        self._code = code
        self.failed = False
        self.statements: list[str] = []

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, params: Any = ()) -> sqlite3.Cursor:
        self.statements.append(sql)
        self._left -= 1
        if self._left == 0:
            self.failed = True
            error = sqlite3.OperationalError("injected")
            error.sqlite_errorcode = self._code
            raise error
        return self._connection.execute(sql, params)


@contextmanager
def failing(store: SqliteJobs, left: int, code: int = sqlite3.SQLITE_IOERR) -> Iterator[Failing]:
    """Let the writer's statements fail from the ``left``-th on, once. Nothing is being written."""
    writer: Any = store._writer
    connection = writer._connection
    wrapped = Failing(connection, left, code)
    writer._connection = writer.reader._connection = wrapped
    try:
        yield wrapped
    finally:
        writer._connection = writer.reader._connection = connection


# ----- files


def test_the_files_are_their_owners_alone(tmp_path: Path) -> None:
    async def test(store: SqliteJobs) -> None:
        await store.commit(Batch(insert=[job(1, body=LARGE)]))
        modes = {place.stat().st_mode & 0o777 for place in tmp_path.rglob("*") if place.is_file()}  # noqa: ASYNC240
        assert modes == {0o600}
        assert files_of(tmp_path / "queue.db").stat().st_mode & 0o777 == 0o700
        with pytest.raises(Busy, match="in use"):
            await SqliteJobs.open(tmp_path / "queue.db")

    run(tmp_path, test)


@pytest.mark.parametrize("damage", ["text", "other", "newer", "page", "short"])
def test_a_file_that_is_broken_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "queue.db"
    if damage == "text":
        path.write_bytes(b"this is not a database, whatever its name says. " * 200)
    elif damage in ("page", "short"):
        filled(path, 500)
        data = path.read_bytes()
        path.write_bytes(data[: 4 * PAGE] + b"\xff" * (len(data) - 4 * PAGE) if damage == "page" else data[: len(data) // 2])
    else:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE t (x)" if damage == "other" else "PRAGMA user_version = 7")
        connection.commit()
        connection.close()
    with pytest.raises(StoreFailed, match=r"queue\.db") as caught:
        asyncio.run(opened(path))
    assert ("zcluster queue check" in caught.value.hint) == (damage in ("text", "page", "short"))
    report = check_file(path)
    assert not report.ok
    assert report.findings


def test_a_page_that_breaks_while_it_is_open_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    async def test(store: SqliteJobs) -> None:
        await store.commit(counted(job(1)))
        with failing(store, 1, sqlite3.SQLITE_CORRUPT), pytest.raises(StoreFailed, match="is broken") as caught:
            await store.commit(counted(job(2)))
        assert "zcluster queue check" in caught.value.hint
        await store.commit(counted(job(2)))
        assert (await store.check()).ok

    run(tmp_path, test)


# ----- errors of the disk


async def state_of(store: SqliteJobs) -> Any:
    jobs = [plain(await store.get(number)) for number in range(1, 60)]
    return jobs, whole(await store.opened()), sorted(place.name for place in files_of(store._file.path).iterdir())


def rich(number: int) -> Batch:
    """A batch that has something of everything."""
    return counted(
        job(number, idempotency_key="k"), job(number + 1, sequence="s"), job(number + 2, body=LARGE), *fan_out(number + 3, 2),
        update=[ended(job(1, sequence="s"), result=LARGE), ended(job(3, parent=2), CANCELLED), changed(job(5), due=7.0)],
        delete=[6], purge=1.0, ready={"any:f": 10}, due=(8.0, 0.0), expired=1.0, fetch=[1], meta={"a": b"b"},
    )  # fmt: skip


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL])
def test_a_disk_that_fails_at_any_statement_changes_nothing(tmp_path: Path, code: int) -> None:
    async def test(store: SqliteJobs) -> None:
        first = [job(1, sequence="s"), *fan_out(2, 1), job(4, sequence="s"), job(5), job(7)]
        await store.commit(counted(*first))
        await store.commit(counted(job(6, state=DONE, ended=5.0)))
        before = await state_of(store)
        place = 0
        while True:
            place += 1
            with failing(store, place, code) as failed:
                try:
                    done = await store.commit(rich(20))
                except StoreFailed as error:
                    assert ("full" in error.message) == (code == sqlite3.SQLITE_FULL)  # noqa: PT017
                    assert not store._file.writer.in_transaction
                else:
                    assert not failed.failed
                    break
            assert await state_of(store) == before
        assert place > 20
        assert numbers(done.unblocked) == [4]
        # The same failures, met by a batch that is one statement.
        with failing(store, 1, code), pytest.raises(StoreFailed):
            await store.commit(counted(job(50)))
        assert await store.get(50) is None
        await store.commit(counted(job(50)))

    run(tmp_path, test)


def test_a_full_disk_lets_jobs_end_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    async def test(store: SqliteJobs) -> None:
        writer = store._file.writer
        await store.commit(counted(*(job(number) for number in range(1, 20))))
        count = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {count}")
        room = store._file.reserve
        room.make = lambda: False  # type: ignore[method-assign]
        many = counted(*(job(number) for number in range(20, 2000)))
        with pytest.raises(StoreFailed, match="full"):
            await store.commit(many)
        for refused in (counted(job(20)), Batch(meta={"tried": b""}), counted(update=[changed(job(1), state=LEASED)])):
            with pytest.raises(StoreFailed, match="only end or be dropped"):
                await store.commit(refused)
        await store.commit(counted(update=[ended(job(1))]))
        assert (await store.commit(Batch(delete=[1]))).purged == {DONE: 1}
        assert await store.get(20) is None
        del room.make
        writer.execute("PRAGMA max_page_count = 1000000")
        await store.commit(many)
        assert not room.gone
        assert (await store.check()).ok

    run(tmp_path, test)


def test_a_log_that_cannot_grow_is_an_error_and_the_next_batch_goes_on(tmp_path: Path) -> None:
    async def test(store: SqliteJobs) -> None:
        await store.commit(counted(job(1)))
        size = (tmp_path / "queue.db-wal").stat().st_size
        with file_size_limit(size), pytest.raises(StoreFailed):
            await store.commit(counted(job(2)))
        with file_size_limit(size), pytest.raises(StoreFailed):
            await store.commit(counted(job(2, sequence="s")))
        assert await store.get(2) is None
        await store.commit(counted(job(2)))
        assert (await store.check()).ok

    run(tmp_path, test)


# ----- statements, threads


def test_a_plain_batch_is_one_statement(tmp_path: Path) -> None:
    async def test(store: SqliteJobs) -> None:
        given = [job(number, state=LEASED, expires=9.0) for number in range(1, 257)]
        with failing(store, 0) as counting:
            await store.commit(counted(*given))
            await store.commit(counted(*(changed(one, number=one.number + 256) for one in given[:100])))
            await store.commit(counted(update=[ended(one) for one in given], was=LEASED))
        assert len(counting.statements) == 3
        assert len({jobs_schema.statement([None] * jobs_schema.WIDTH * rows) for rows in range(1, 1025)}) < 80
        assert (await store.check()).ok

    run(tmp_path, test)


@pytest.mark.parametrize("count", [1023, 1024, 1025, 3000])
def test_batches_of_any_size_are_written(tmp_path: Path, count: int) -> None:
    async def test(store: SqliteJobs) -> None:
        await store.commit(counted(*(job(number) for number in range(1, count + 1))))
        report = await store.check()
        assert (report.ok, report.jobs) == (True, count)

    run(tmp_path, test)


def test_closing_waits_for_what_was_put(tmp_path: Path) -> None:
    async def main() -> None:
        store = await opened(tmp_path / "queue.db")
        waiting = [asyncio.create_task(store.commit(counted(job(number)))) for number in range(1, 20)]
        waiting.append(asyncio.create_task(store.check()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await store.close()
        await store.close()
        assert [type(await one) for one in waiting] == [Done] * 19 + [Report]
        with pytest.raises(StoreFailed, match="closed"):
            await store.get(1)
        store = await opened(tmp_path / "queue.db")
        assert (await store.opened()).last_number == 19
        await store.close()

    asyncio.run(main())


def test_too_many_questions_are_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.store.jobs_sqlite.MAX_WAITING", 3)

    async def test(store: SqliteJobs) -> None:
        found = await asyncio.gather(*(store.get(1) for _ in range(4)), return_exceptions=True)
        assert [isinstance(one, ZClusterError) for one in found] == [False, False, False, True]
        assert await store.get(1) is None

    run(tmp_path, test)


# ----- checks


def damaged(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE jobs SET body = x'00' WHERE number = 2", "row of job 2 is damaged"),
        ("UPDATE jobs SET asked = replace(asked, 'laptop', 'desktop') WHERE number = 2", "row of job 2 is damaged"),
        ("UPDATE jobs SET asked = '[' WHERE number = 2", "row of job 2 is damaged"),
        ("UPDATE jobs SET became = '{}' WHERE number = 2", "row of job 2 is damaged"),
    ],
)
def test_a_row_that_is_damaged_does_not_stop_the_others(tmp_path: Path, sql: str, said: str) -> None:
    filled(tmp_path / "queue.db", 5)
    damaged(tmp_path / "queue.db", sql)

    async def test(store: SqliteJobs) -> None:
        with pytest.raises(StoreFailed, match=said):
            await store.get(2)
        done = await store.commit(Batch(ready={"any:f": 9}, fetch=[1, 2]))
        assert numbers(done.ready["any:f"]) == [1, 2, 3, 4, 5]
        assert list(done.unreadable) == [2]
        assert (await store.commit(Batch(ready={"any:g": 9}))).unreadable == {}
        assert numbers((await store.list(Query())).jobs) == [5, 4, 3, 2, 1]
        await store.list(Query(function="f", target="any", key=KEY))
        report = await store.check()
        assert (report.ok, report.jobs) == (False, 4)
        assert any(said in finding for finding in report.findings)
        assert report.details["readable"] == [[1, 1], [3, 5]]

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE counters SET n = n + 1 WHERE name = 0", "jobs by state"),
        ("UPDATE usage SET bytes = 1", "usage of keys"),
        ("UPDATE jobs SET parts_left = 9 WHERE number = 6", "fan-out 6"),
        ("UPDATE jobs SET blocked = 1 WHERE number = 9", "sequence 's'"),
    ],
)
def test_counters_that_are_wrong_are_found(tmp_path: Path, sql: str, said: str) -> None:
    path = tmp_path / "queue.db"
    filled(path, 5)

    async def test(store: SqliteJobs) -> None:
        await store.commit(counted(*fan_out(6, 2), job(9, sequence="s"), job(10, sequence="s")))
        assert (await store.check()).ok

    run(tmp_path, test)
    damaged(path, sql)
    report = check_file(path)
    assert (report.ok, report.jobs) == (False, 10)
    assert [finding for finding in report.findings if said in finding]


def test_files_that_are_missing_or_damaged_are_found(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    filled(path, 3, body=LARGE)
    assert check_file(path, file_bytes=FILE_BYTES).ok
    places = sorted(files_of(path).iterdir())
    places[0].unlink()
    places[1].write_bytes(LARGE[:-1])
    report = check_file(path, file_bytes=FILE_BYTES)
    assert (report.ok, report.jobs, len(report.findings)) == (False, 1, 2)
    places[1].unlink()
    places[2].unlink()
    files_of(path).rmdir()
    assert check_file(path).jobs == 0


def test_what_is_around_a_broken_page_can_still_be_read(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    filled(path, 3000)
    connection = sqlite3.connect(path)
    root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'jobs'").fetchone()[0]
    connection.close()
    data = bytearray(path.read_bytes())
    # The second child of the table's root: its cells are a page's number (4 bytes), then the highest row below it.
    header = (root - 1) * PAGE
    cell = header + int.from_bytes(data[header + 14 : header + 16], "big")
    page = int.from_bytes(data[cell : cell + 4], "big")
    data[(page - 1) * PAGE : page * PAGE] = b"\x00" * PAGE
    path.write_bytes(data)
    report = check_file(path)
    ((first, last),) = report.details["unreadable"]
    assert 1 < first <= last < 3000
    assert report.jobs == 3000 - (last - first + 1)
    assert report.details["readable"] == [[1, first - 1], [last + 1, 3000]]
    assert any(f"jobs {first} to {last}" in finding for finding in report.findings)


def test_a_check_ends_though_nothing_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_check, "MAX_FAILURES", 50)
    path = tmp_path / "queue.db"
    filled(path, 1000)
    data = path.read_bytes()
    path.write_bytes(data[:PAGE] + b"\xff" * (len(data) - PAGE))
    report = check_file(path)
    assert (report.ok, report.jobs) == (False, 0)
    assert len(report.findings) <= 100


def test_a_check_does_not_disturb_a_master(tmp_path: Path) -> None:
    async def test(store: SqliteJobs) -> None:
        await store.commit(counted(job(1)))
        report = await asyncio.to_thread(check_file, tmp_path / "queue.db")
        assert (report.ok, report.jobs, report.details["in_use"]) == (True, 1, True)
        await store.commit(counted(job(2)))

    run(tmp_path, test)
    report = check_file(tmp_path / "queue.db")
    assert (report.ok, report.jobs, report.details["in_use"]) == (True, 2, False)
    with pytest.raises(StoreFailed, match="there is no queue"):
        check_file(tmp_path / "other.db")
