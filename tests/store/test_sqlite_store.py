"""What only a store on a disk has: restarts, one process, full and broken disks, bounds of what waits."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from contract import PREFIXES, Place, assert_digests

from zcluster.errors import Busy, NoSuchLease, StoreFailed
from zcluster.store import sqlite, sqlite_file
from zcluster.store.interface import Delete, Put
from zcluster.store.opening import open_store
from zcluster.store.reserve import RESERVE_BYTES, Reserve
from zcluster.store.sqlite import SqliteStore
from zcluster.store.sqlite_writer import Writer


async def in_sqlite(path: Path, **more: Any) -> SqliteStore:
    return await SqliteStore.open(path, **more)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(in_sqlite, tmp_path / "data" / "store.db")


def run(place: Place, test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        try:
            await test()
        finally:
            await place.close()

    asyncio.run(main())


async def opened(place: Place, **more: Any) -> SqliteStore:
    store = await place.open(**more)
    assert isinstance(store, SqliteStore)
    return store


def limit_pages(store: SqliteStore, more: int) -> None:
    """Let the database grow by ``more`` pages only. Nothing is being written."""
    count = store._file.writer.execute("PRAGMA page_count").fetchone()[0]
    store._file.writer.execute(f"PRAGMA max_page_count = {count + more}")


# ----- restarts


def test_a_store_that_is_opened_again_is_as_it_was(place: Place) -> None:
    async def test() -> None:
        store = await opened(place)
        for number in range(5):
            await store.apply([Put(f"groups/{number}", b"1"), Put("n", b"%d" % number)])
        await store.compact(4)
        listing, changes, id_ = await store.scan(""), await store.changes("", 3), store.id
        await store.close()
        again = await open_store(place.path, digests=PREFIXES)
        place.stores.append(again)
        assert again.id == id_
        assert await again.revision() == 5
        assert await again.scan("") == listing
        assert await again.changes("", 3) == changes
        await assert_digests(again)
        assert await again.apply([Put("x", b"")]) == 6

    run(place, test)


def test_a_lease_lasts_its_time_again_after_a_restart(place: Place) -> None:
    async def test() -> None:
        store = await opened(place)
        lease, gone = await store.grant(10.0), await store.grant(10.0)
        await store.apply([Put("a", b"", lease.id)])
        await store.revoke(gone.id)
        await store.close()
        # The clock of another process may begin anywhere.
        place.now_s = 5.0
        again = await opened(place)
        with pytest.raises(NoSuchLease):
            await again.keep_alive(gone.id)
        place.now_s += 9.9
        await again.expire()
        assert await again.get("a") is not None
        place.now_s += 0.1
        await again.expire()
        assert await again.get("a") is None
        assert (await again.grant(1.0)).id not in (lease.id, gone.id)
        await again.close()
        third = await opened(place)
        assert len(third._leases) == 1

    run(place, test)


def test_other_prefixes_have_their_digests_counted(place: Place) -> None:
    async def test() -> None:
        store = await opened(place, digests=("ring/", "groups/of/"))
        await store.apply(
            [Put(f"{prefix}{n}", b"%d" % n) for prefix in ("groups/of/", "config/", "ring/", "x/") for n in range(30)]
        )
        await store.close()
        for prefixes in (PREFIXES, ("ring/", *PREFIXES), (), PREFIXES, ("config/", "groups/", "x/")):
            store = await opened(place, digests=prefixes)
            if prefixes:
                await assert_digests(store)
                await store.apply([Put("groups/of/1", b"%d" % len(prefixes)), Delete("config/2"), Put("config/3", b"")])
                await assert_digests(store)
            await store.close()

    run(place, test)


def test_files_are_private(place: Place) -> None:
    async def test() -> None:
        store = await opened(place)
        await store.apply([Put("a", b"")])
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.path.parent.iterdir()}
        assert set(files) == {"store.db", "store.db-wal", "store.db-shm", "store.lock", "store.reserve"}
        assert set(files.values()) == {0o600}

    run(place, test)


# ----- one process


def test_a_store_has_one_process(place: Place) -> None:
    async def test() -> None:
        store = await opened(place)
        code = (
            "import asyncio, pathlib, sys; from zcluster.store.opening import open_store; "
            "asyncio.run(open_store(pathlib.Path(sys.argv[1])))"
        )
        child = await asyncio.to_thread(
            lambda: subprocess.run([sys.executable, "-c", code, place.path], capture_output=True, text=True, check=False)
        )
        assert child.returncode == 1
        assert f"in use by process {os.getpid()}" in child.stderr
        with pytest.raises(Busy, match="in use"):
            await opened(place)
        await store.close()
        await (await opened(place)).close()

    run(place, test)


# ----- broken files


def flip(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


BREAKS: dict[str, Callable[[Path], None]] = {
    "not a database": lambda path: flip(path, 0, b"x" * 100_000),
    "a broken header": lambda path: flip(path, 0, b"y" * 64),
    "a broken page": lambda path: flip(path, 4096 * 3, b"z" * 4096 * 4),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "lost": lambda path: path.unlink(),
    "of the future": lambda path: flip(path, 60, (99).to_bytes(4, "big")),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_store_is_never_begun_anew(place: Place, how: str) -> None:
    async def test() -> None:
        store = await opened(place)
        for number in range(200):
            await store.apply([Put(f"groups/{number}", bytes(100))])
        await store.close()
        BREAKS[how](place.path)
        before = place.path.read_bytes() if place.path.exists() else None
        for _ in range(2):
            with pytest.raises(StoreFailed, match=str(place.path)) as caught:
                await opened(place)
            assert "move" in caught.value.hint or "put" in caught.value.hint
        assert (place.path.read_bytes() if place.path.exists() else None) == before

    run(place, test)


def test_another_programs_database_is_left_alone(place: Place) -> None:
    async def test() -> None:
        place.path.parent.mkdir()
        other = sqlite3.connect(place.path)
        other.execute("CREATE TABLE other (x)")
        other.commit()
        other.close()
        with pytest.raises(StoreFailed, match="not of a store"):
            await opened(place)

    run(place, test)


def test_a_page_that_breaks_later_is_an_error_of_the_call(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "CHECKED_BYTES", 0)

    async def test() -> None:
        store = await opened(place)
        for number in range(300):
            await store.apply([Put(f"groups/{number:03}", bytes(200))])
        await store.close()
        flip(place.path, place.path.stat().st_size // 3, b"z" * 4096 * 10)
        store = await opened(place)
        with pytest.raises(StoreFailed, match="broken"):
            await store.scan("")
        assert await store.revision() == 300

    run(place, test)


def test_a_place_where_nothing_can_be_made_is_an_error(place: Place) -> None:
    async def test() -> None:
        place.path.parent.write_text("a file")
        with pytest.raises(StoreFailed, match=str(place.path)):
            await opened(place)

    run(place, test)


# ----- full disks


def test_on_a_full_disk_nothing_is_half_done_and_deleting_works(place: Place) -> None:
    async def test() -> None:
        store = await opened(place)
        await store.apply([Put(f"groups/{number}", bytes(3000)) for number in range(50)])
        before = await store.scan("")
        limit_pages(store, 0)
        for _ in range(2):
            with pytest.raises(StoreFailed, match="the disk is full") as caught:
                await store.apply([Put("groups/0", b"new"), Put("groups/new", bytes(500_000))])
            assert str(place.path) in caught.value.hint
        assert await store.scan("") == before
        assert await store.revision() == 1
        await assert_digests(store)
        await store.apply([Delete(f"groups/{number}") for number in range(40)])
        # The room that was made can be used at once.
        await store.apply([Put("groups/new", bytes(50_000))])
        assert len((await store.scan("")).entries) == 11
        await assert_digests(store)

    run(place, test)


def test_one_call_that_finds_no_room_does_not_take_others_with_it(place: Place) -> None:
    async def test() -> None:
        store = await opened(place)
        await store.apply([Put("a", b"")])
        limit_pages(store, 10)
        large = [Put("large", bytes(200_000))]
        results = await asyncio.gather(
            store.apply([Put("b", b"")]), store.apply(large), store.apply([Delete("a")]), return_exceptions=True
        )
        assert results[0] == 2
        assert isinstance(results[1], StoreFailed)
        assert results[2] == 3
        assert [entry.key for entry in (await store.scan("")).entries] == ["b"]

    run(place, test)


def test_without_its_reserve_only_deleting_goes_on_until_there_is_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        store = await opened(place)
        reserve = place.path.with_suffix(".reserve")
        assert reserve.stat().st_size == RESERVE_BYTES
        lease = await store.grant(10.0)
        await store.apply([Put("a", b""), Put("b", b"", lease.id), Put("c", b"")])
        limit_pages(store, 0)
        with monkeypatch.context() as full:
            full.setattr(Reserve, "make", lambda self: False)
            with pytest.raises(StoreFailed):
                await store.apply([Put("large", bytes(500_000))])
            assert not reserve.exists()
            with pytest.raises(StoreFailed, match="only deleting goes on"):
                await store.apply([Put("small", b"")])
            with pytest.raises(StoreFailed):
                await store.grant(1.0)
            await store.apply([Delete("a")])
            place.now_s += 10
            await store.expire()
            await store.compact(0)
            assert [entry.key for entry in (await store.scan("")).entries] == ["c"]
        limit_pages(store, 1000)
        await store.apply([Put("small", b"")])
        assert reserve.stat().st_size == RESERVE_BYTES

    run(place, test)


def test_deleting_on_a_full_disk_forgets_old_changes_if_it_must(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the note of what was deleted may find no room; the oldest changes give theirs."""

    async def test() -> None:
        store = await opened(place)
        for number in range(20):
            await store.apply([Put(f"{number:02}" + "x" * 400, bytes(2000))])
        # A database that needs new pages for the note: its free ones are used up.
        full = [True]
        transaction = Writer._transaction

        def first_full(self: Writer, calls: Sequence[Any], done: Any, *, make_room: bool = False) -> Any:
            if full and not make_room:
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return transaction(self, calls, done, make_room=make_room)

        monkeypatch.setattr(Writer, "_transaction", first_full)
        assert await store.apply([Delete("00" + "x" * 400)]) == 21
        full.clear()
        changes, upto = await store.changes("", 15)
        assert (len(changes), upto) == (6, 21)
        assert len((await store.scan("")).entries) == 19

    run(place, test)


def test_an_end_that_finds_no_room_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        store = await opened(place)
        lease = await store.grant(10.0)
        await store.apply([Put("a", b"", lease.id)])
        with monkeypatch.context() as broken:
            broken.setattr(Writer, "run", failing("disk I/O error", sqlite3.SQLITE_IOERR))
            place.now_s += 10
            with pytest.raises(StoreFailed):
                await store.expire()
            assert await store.get("a") is not None
            with pytest.raises(NoSuchLease):
                await store.keep_alive(lease.id)
        await store.expire()
        assert await store.get("a") is None
        assert len(store._leases) == 0

    run(place, test)


def failing(text: str, code: int) -> Callable[..., Any]:
    def fail(self: Writer, calls: Sequence[Any]) -> Any:
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = code
        raise sqlite_file.failure(error, "writing to the store", Path("store.db"))

    return fail


def test_a_disk_that_fails_once_fails_that_call(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        store = await opened(place)
        await store.apply([Put("a", b"")])

        def broken(*args: Any, **more: Any) -> Any:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

        with monkeypatch.context() as context:
            context.setattr(Writer, "_transaction", broken)
            results = await asyncio.gather(store.apply([Put("b", b"")]), store.apply([Put("c", b"")]), return_exceptions=True)
            assert all(isinstance(result, StoreFailed) and "disk I/O error" in str(result) for result in results)
        assert await store.apply([Put("b", b"")]) == 2

    run(place, test)


def test_a_full_disk_at_the_start_has_the_reserves_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        await (await opened(place)).close()
        reserve, connected = place.path.with_suffix(".reserve"), sqlite_file._connected

        def full(*what: Any, **how: Any) -> sqlite3.Connection:
            if reserve.exists():
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
                raise error
            return connected(*what, **how)

        monkeypatch.setattr(sqlite_file, "_connected", full)
        store = await opened(place)
        assert await store.apply([Put("a", b"")]) == 1
        assert reserve.exists()

    run(place, test)


def test_a_reserve_is_made_whole_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = Reserve(tmp_path / "store.db")
    assert reserve.make()
    assert reserve.make()
    assert reserve.path.stat().st_size == RESERVE_BYTES
    reserve.free()
    reserve.free()
    assert not reserve.path.exists()

    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert not reserve.make()
    assert not reserve.path.exists()


# ----- what waits


@pytest.mark.parametrize("limit", ["MAX_WAITING", "MAX_WAITING_BYTES"])
def test_what_waits_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    async def test() -> None:
        go_on, work = threading.Event(), Writer.run

        def held(self: Writer, calls: Sequence[Any]) -> Any:
            go_on.wait()
            return work(self, calls)

        store = await opened(place)
        monkeypatch.setattr(Writer, "run", held)
        monkeypatch.setattr(sqlite, limit, {"MAX_WAITING": 3, "MAX_WAITING_BYTES": 3 * (sqlite.OP_BYTES + 2)}[limit])
        waiting = [asyncio.ensure_future(store.apply([Put(key, b"x")])) for key in "abc"]
        await asyncio.sleep(0)
        with pytest.raises(Busy) as caught:
            await store.apply([Put("d", b"x")])
        assert caught.value.retry_after_s
        if limit == "MAX_WAITING":
            with pytest.raises(Busy):
                await store.get("a")
        go_on.set()
        await asyncio.gather(*waiting)
        await store.apply([Put("d", b"x")])
        assert (store._waiting, store._waiting_bytes) == (0, 0)

    run(place, test)


def test_what_waits_is_done_before_the_end(place: Place) -> None:
    async def test() -> None:
        store = await opened(place)
        waiting = [asyncio.ensure_future(store.apply([Put(f"{number}", b"")])) for number in range(10)]
        await asyncio.sleep(0)
        await store.close()
        assert sorted(await asyncio.gather(*waiting)) == list(range(1, 11))

    run(place, test)


def test_a_caller_that_gave_up_harms_nobody(place: Place) -> None:
    async def test() -> None:
        store = await opened(place)
        calls: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(store.apply([Put("a", b"")])),
            asyncio.ensure_future(store.get("a")),
            asyncio.ensure_future(store.grant(10.0)),
        ]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await store.apply([Put("b", b"")])
        assert len((await store.scan("")).entries) == 2
        assert store._waiting == 0
        # The lease is there, and ends.
        assert len(store._leases) == 1

    run(place, test)


def test_a_fault_in_the_writing_thread_reaches_the_caller(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        store = await opened(place)

        def wrong(self: Writer, calls: Sequence[Any]) -> Any:
            raise MemoryError("no memory")

        with monkeypatch.context() as context:
            context.setattr(Writer, "run", wrong)
            with pytest.raises(MemoryError):
                await store.apply([Put("a", b"")])
        assert await store.apply([Put("a", b"")]) == 1

    run(place, test)


def test_old_changes_are_bounded_in_bytes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from zcluster.store import sqlite_writer

    monkeypatch.setattr(sqlite_writer, "KEEP_CHANGES_BYTES", 1000)

    async def test() -> None:
        store = await opened(place)
        for number in range(20):
            await store.apply([Put(f"k{number:02}", bytes(97))])
        assert store._writer._state.kept_bytes == 1000
        assert len((await store.changes("", 10))[0]) == 10

    run(place, test)
