"""What only the book in SQLite can do wrong: disks, other processes, long questions, and not agreeing with the reference."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zcluster.core.agents.filter import Both, Compare, Condition, Either, Not, checked, parse
from zcluster.core.agents.row import Row
from zcluster.errors import Busy, StoreFailed, TimedOut, UsageError, ZClusterError
from zcluster.store.book import AgentBook, Cursor
from zcluster.store.book_memory import MemoryBook
from zcluster.store.book_opening import open_book
from zcluster.store.book_sqlite import SqliteBook

PATIENCE_S = 30.0


def rows(first: int, count: int, **fields: Any) -> list[Row]:
    return [Row(id=f"a{number:06}", **fields) for number in range(first, first + count)]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_returned_is_there_after_opening_again(tmp_path: Path) -> None:
    async def main() -> None:
        book = await open_book(tmp_path / "agents.db")
        id_ = book.id
        last = await book.put(rows(0, 10))
        await book.take("w1", "s", 0, 3, [["x", "put", 1, "session", {}]], frozenset())
        await book.set_groups([("x", ["g"])], 5)
        await book.purge(["x"])
        await book.close()
        book = await open_book(tmp_path / "agents.db")
        assert (book.id, await book.cursor("w1"), await book.groups_revision()) == (id_, Cursor("s", 3), 5)
        assert await book.put(rows(10, 1)) > last + 1
        await book.close()

    asyncio.run(main())


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    async def main() -> None:
        book = await SqliteBook.open(tmp_path / "data" / "agents.db")
        await book.put(rows(0, 1))
        modes = {place.stat().st_mode & 0o777 for place in (tmp_path / "data").iterdir()}
        await book.close()
        assert modes == {0o600}

    asyncio.run(main())


def test_a_second_opening_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        book = await SqliteBook.open(tmp_path / "agents.db")
        with pytest.raises(Busy, match="in use"):
            await SqliteBook.open(tmp_path / "agents.db")
        await book.close()

    asyncio.run(main())


@pytest.mark.parametrize("damage", ["text", "other", "newer"])
def test_a_file_that_is_no_book_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "agents.db"
    if damage == "text":
        path.write_bytes(b"this is not a database, whatever its name says. " * 200)
    else:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE t (x)" if damage == "other" else "PRAGMA user_version = 7")
        connection.commit()
        connection.close()
    with pytest.raises(StoreFailed, match=r"agents\.db"):
        asyncio.run(open_book(path))


def test_a_page_that_is_broken_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "agents.db"
        book = await SqliteBook.open(path)
        await book.put(rows(0, 5000, name="n" * 100))
        await book.close()
        data = bytearray(path.read_bytes())
        data[8 * 4096 :] = b"\xff" * (len(data) - 8 * 4096)
        path.write_bytes(data)
        with pytest.raises(StoreFailed, match=r"agents\.db is broken"):
            await SqliteBook.open(path)

    asyncio.run(main())


def test_a_full_disk_changes_nothing_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    async def main() -> None:
        book = await SqliteBook.open(tmp_path / "agents.db")
        last = await book.put(rows(0, 10))
        page_count = book._file.writer.execute("PRAGMA page_count").fetchone()[0]
        book._file.writer.execute(f"PRAGMA max_page_count = {page_count}")
        room = book._file.reserve
        room.make = lambda: False  # type: ignore[method-assign]
        put, small = await asyncio.gather(
            book.put(rows(10, 5000, name="x" * 200)), book.update([("a000001", {"name": "y"})]), return_exceptions=True
        )
        assert isinstance(put, StoreFailed)
        assert "full" in str(put)
        with pytest.raises(StoreFailed, match="full"):
            await book.update([("a000002", {"name": "y"})])
        assert await book.purge(["a000003"]) == 1
        assert await book.get("a000010") is None
        del room.make
        book._file.writer.execute("PRAGMA max_page_count = 1000000")
        assert await book.put(rows(10, 5000, name="x" * 200)) >= last + 5000
        assert small is not None
        await book.close()

    asyncio.run(main())


def test_a_disk_that_fails_is_an_error_and_the_next_write_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        book = await SqliteBook.open(tmp_path / "agents.db")
        await book.put(rows(0, 1))
        with file_size_limit((tmp_path / "agents.db-wal").stat().st_size), pytest.raises(StoreFailed):
            await book.take("w1", "s", 0, 9, [["b", "put", 1, "session", {}]], frozenset())
        assert await book.cursor("w1") == Cursor()
        assert await book.get("b") is None
        assert (await book.take("w1", "s", 0, 9, [["b", "put", 1, "session", {}]], frozenset())).taken == 1
        await book.close()

    asyncio.run(main())


def test_a_long_question_is_ended_and_the_next_one_answered(tmp_path: Path) -> None:
    async def main() -> None:
        times = iter([0.0, 21.0])
        book = await SqliteBook.open(tmp_path / "agents.db", clock=lambda: next(times, 100.0))
        await book.put(rows(0, 5000))
        where = checked(Either(tuple(Compare("labels.x", "~", f"*{number}*y") for number in range(60))))
        with pytest.raises(TimedOut, match="20 s"):
            await book.find(where)
        assert len((await book.find(limit=10)).rows) == 10
        await book.close()

    asyncio.run(main())


def test_a_wrong_call_does_not_harm_those_that_are_committed_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        book = await SqliteBook.open(tmp_path / "agents.db")
        calls = [book.put(rows(0, 2)), book.put([Row(id="../")]), book.node_gone("\udc80", 0.0), book.put(rows(2, 2))]
        one, wrong, odd, two = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(one, int)
        assert isinstance(wrong, UsageError)
        assert isinstance(odd, UnicodeEncodeError)
        assert isinstance(two, int)
        assert await book.count() == {"": 4}
        await book.close()

    asyncio.run(main())


def test_rows_with_odd_texts_go_the_slow_way_to_the_same_place(tmp_path: Path) -> None:
    async def main() -> None:
        book = await SqliteBook.open(tmp_path / "agents.db")
        plain: list[Any] = ["a", "put", 1, "session", {"labels": {"k": "v"}, "os": {"platform": "x"}, "version": "4.9"}]
        odd = ["b", "put", 1, "session", {**plain[4], "name": 'ö \\ "'}]
        await book.take("w", "s", 0, 1, [plain], frozenset())
        await book.take("w", "s", 1, 2, [odd], frozenset())
        found = await book.get_many(["a", "b"])
        found["b"].id, found["b"].name = "a", ""
        assert found["a"] == found["b"]
        await book.close()

    asyncio.run(main())


# -- the reference --------------------------------------------------------------------------------------------------------

IDS = st.sampled_from(["a", "b", "c", "d"])
NODES = st.sampled_from(["", "w1", "w2"])
WORDS = st.sampled_from(["", "x", "web-9", "web-10", "4.9", "4.10.0", "v4.9.0", "4.9-rc1", "ß", "%", "12"])
VALUES = st.one_of(WORDS, st.integers(-3, 20), st.sampled_from([0.5, True, False, None]), st.just({"x": 1}))
ROWS = st.builds(
    Row, id=IDS, name=WORDS, version=WORDS, node=NODES, status=st.sampled_from(["never", "active", "silent", "disconnected"]),
    os=st.dictionaries(st.sampled_from(["version", "arch"]), VALUES, max_size=2), last_seen=st.sampled_from([0.0, 5.0, 9.5]),
    labels=st.dictionaries(st.sampled_from(["s", "a.b"]), WORDS, max_size=2), epoch=st.integers(0, 5),
    metrics=st.dictionaries(st.sampled_from(["cpu", "m"]), VALUES, max_size=2),
    groups=st.lists(st.sampled_from(["web", "db", "default"]), max_size=2), held=st.sampled_from(["session", "report"]),
)  # fmt: skip
FIELDS = (
    "id", "name", "version", "node", "status", "groups", "last_seen", "epoch", "os.version", "os.platform", "labels.s",
    "labels.a.b", "metrics.cpu", "metrics.m.x",
)  # fmt: skip
TERMS = st.builds(
    Compare, st.sampled_from(FIELDS), st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "~"]),
    st.one_of(WORDS, st.sampled_from(["active", "web", "default", "w1", "5", "9.5", "true", "0", "*", "w*", "?eb-?", "a"])),
)  # fmt: skip
CONDITIONS = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(lambda parts: Both(tuple(parts)), st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: Either(tuple(parts)), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=4,
)


def said(row: Row, op: str) -> list[Any]:
    names = ("name", "version", "status", "os", "labels", "metrics", "last_seen")
    return [row.id, op, row.epoch, row.held, {name: getattr(row, name) for name in names}]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(ROWS, max_size=3)),
        st.tuples(st.just("take"), st.sampled_from(["w1", "w2"]), st.lists(ROWS, max_size=3), st.sampled_from(["put", "gone"])),
        st.tuples(st.just("update"), IDS, WORDS, st.sampled_from(["active", "removed"])),
        st.tuples(st.just("groups"), IDS, st.lists(st.sampled_from(["web", "db"]), max_size=2)),
        st.tuples(st.just("gone"), NODES),
        st.tuples(st.just("back"), NODES),
        st.tuples(st.just("purge"), IDS),
        st.tuples(st.just("anew"), st.sampled_from(["w1", "w2"])),
    ),
    max_size=8,
)


async def step(book: AgentBook, action: tuple[Any, ...], place: int) -> Any:
    match action:
        case ("put", some):
            before = (await book.changed(0, 1000))[1]
            return (await book.put(some)) > before
        case ("take", node, some, op):
            cursor = await book.cursor(node)
            source = cursor.source or "s"
            took = await book.take(node, source, cursor.upto, cursor.upto + 1, [said(row, op) for row in some], frozenset({"w1"}))
            return (took.cursor, took.taken, sorted(took.refused), sorted(took.drop), sorted(took.moved))
        case ("update", id_, word, status):
            await book.update([(id_, {"name": word, "status": status}), (id_, {"version": word})])
        case ("groups", id_, names):
            await book.set_groups([(id_, names)], place)
        case ("gone", node):
            return await book.node_gone(node, 7.0)
        case ("back", node):
            return await book.node_back(node)
        case ("purge", id_):
            return await book.purge([id_])
        case ("anew", node):
            return await book.take(node, f"new {place}", 0, 1, [], frozenset())
    return None


async def asked(book: AgentBook, where: Condition, field: str) -> Any:
    """What a book answers, or which error it gives."""
    try:
        found = await book.find(where, sort=field, limit=2, count=True)
        rest = await book.find(where, sort=field, limit=2, cursor=found.next) if found.next else None
        counts = await book.count(where, by="node")
        return found.rows, found.total, rest and rest.rows, counts, await book.count(where, by="groups")
    except ZClusterError as error:
        return error.code


@settings(max_examples=60, deadline=None)
@given(STEPS, st.lists(st.tuples(CONDITIONS, st.sampled_from(FIELDS)), min_size=1, max_size=8))
def test_the_database_agrees_with_the_reference(steps: list[Any], questions: list[tuple[Condition, str]]) -> None:
    async def main(directory: str) -> None:
        memory = MemoryBook()
        book = await SqliteBook.open(Path(directory) / "agents.db")
        for place, action in enumerate(steps):
            assert await step(book, action, place) == await step(memory, action, place), action
            found, known = await book.changed(0, 100), await memory.changed(0, 100)
            key = lambda row: row.id  # noqa: E731
            assert sorted(found[0], key=key) == sorted(known[0], key=key), action
        for where, field in questions:
            assert await asked(book, where, field) == await asked(memory, where, field), (where, field)
        for group in ("web", "db", "default"):
            assert await book.nodes_of_group(group) == await memory.nodes_of_group(group)
        await book.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(directory))


def test_more_rows_than_are_sorted_are_met_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.store.book_sql.NARROW", 3)
    monkeypatch.setattr("zcluster.store.book_reader.NARROW", 3)

    async def main() -> None:
        book = await SqliteBook.open(tmp_path / "agents.db")
        await book.put([Row(id=f"a{n}", status="active" if n % 2 else "never", node=f"w{n % 3}", groups=["g"]) for n in range(9)])
        for text, expected in (
            ("status=active", "a1 a3 a5 a7"),
            ("status=active and node=w2", "a5"),
            ("group=g and id=a4", "a4"),
        ):
            found = await book.find(parse(text, 0.0), select=["id"])
            assert [row["id"] for row in found.rows] == expected.split()
        assert await book.nodes_of_group("g") == ["w0", "w1", "w2"]
        await book.close()

    asyncio.run(main())


def test_closing_waits_for_no_searches_that_have_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        book = await SqliteBook.open(tmp_path / "agents.db")
        await book.put(rows(0, 1))
        begun, go = threading.Event(), threading.Event()

        def answer(question: Callable[[], Any]) -> Any:
            begun.set()
            assert go.wait(PATIENCE_S)
            return question()

        monkeypatch.setattr(book._searcher, "answer", answer)
        first = asyncio.create_task(book.find())
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        others = [asyncio.create_task(book.count()) for _ in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(book.close())
        await asyncio.sleep(0)
        go.set()
        await closing
        ends = await asyncio.gather(first, *others, return_exceptions=True)
        assert [type(end) for end in ends[1:]] == [StoreFailed] * 3

    asyncio.run(main())
