"""The book of agents in a SQLite database: what nodes use.

Rules kept here:
- one thread writes; one answers what is looked up by id, node or number, and one what is searched: a long search delays no
  request to an agent;
- the loop never waits for a disk;
- what waits is bounded: beyond that the answer is Busy; what nobody waits for any more is not asked.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from zcluster.core.agents.filter import Condition, checked
from zcluster.core.agents.row import Row
from zcluster.core.agents.rowcodec import SaidRows
from zcluster.errors import Busy, StoreFailed
from zcluster.store.book import Cursor, Found, RowText, Took
from zcluster.store.book_limits import check_count, check_page
from zcluster.store.book_paging import counted_by, plan_of
from zcluster.store.book_reader import Reader
from zcluster.store.book_schema import LAYOUT
from zcluster.store.book_writer import Call, Turn, Writer
from zcluster.store.lane import Lane
from zcluster.store.sqlite import settle
from zcluster.store.sqlite_file import StoreFile, failure

MAX_WAITING = 10_000

T = TypeVar("T")
Question = tuple[Callable[[], Any], asyncio.Future[Any]]


class SqliteBook:
    """An AgentBook (book.py) at a path; made by :meth:`open`."""

    def __init__(self, file: StoreFile, searching: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self.id = str(file.reader.execute("SELECT id FROM state").fetchone()[0])
        self._loop = asyncio.get_running_loop()
        self._file = file
        self._searching = searching
        self._writer = Writer(file.writer, file.path, file.reserve)
        self._reader = Reader(file.reader, clock)
        self._searcher = Reader(searching, clock)
        self._waiting = 0
        self._closed = False
        self._writes: Lane[tuple[Call, asyncio.Future[Any]]] = Lane("book-writer", self._write)
        self._lookups: Lane[Question] = Lane("book-reader", lambda asked: self._read(self._reader, asked))
        self._searches: Lane[Question] = Lane("book-searcher", lambda asked: self._read(self._searcher, asked))

    @staticmethod
    async def open(path: Path, *, clock: Callable[[], float] = time.monotonic) -> SqliteBook:
        """The book at ``path``, made when there is none.

        Raises:
            StoreFailed: it cannot be read or made. Busy: another process has it open.
        """
        file, searching = await asyncio.to_thread(_open, path)
        try:
            return SqliteBook(file, searching, clock)
        except sqlite3.Error as error:
            searching.close()
            file.close()
            raise failure(error, "opening the book of agents", path) from None

    async def put(self, rows: Sequence[Row]) -> int:
        return await self._do(lambda turn: turn.put(rows))

    async def update(self, changes: Sequence[tuple[str, dict[str, Any]]], *, of: str = "") -> int:
        return await self._do(lambda turn: turn.update(changes, of))

    async def get(self, id_: str) -> Row | None:
        return (await self.get_many([id_])).get(id_)

    async def get_many(self, ids: Sequence[str]) -> dict[str, Row]:
        check_count(ids)
        return await self._look(lambda: self._reader.get_many(ids))

    async def changed(self, after: int, limit: int) -> tuple[list[Row], int, bool]:
        check_page(limit)
        return await self._look(lambda: self._reader.changed(after, limit))

    async def take(
        self, node: str, source: str, base: int, upto: int, rows: Sequence[RowText] | SaidRows, alive: frozenset[str]
    ) -> Took:
        return await self._do(lambda turn: turn.take(node, source, base, upto, rows, alive))

    async def cursor(self, node: str) -> Cursor:
        return await self._look(lambda: self._reader.cursor(node))

    async def find(
        self, where: Condition | None = None, *, select: Sequence[str] | None = None, sort: str = "id", limit: int = 100,
        cursor: str = "", count: bool = False,
    ) -> Found:  # fmt: skip
        plan = plan_of(where, select, sort, limit, cursor)
        return await self._search(lambda: self._searcher.find(plan, count))

    async def count(self, where: Condition | None = None, *, by: str = "") -> dict[str, int]:
        field, condition = counted_by(by), checked(where)
        return await self._search(lambda: self._searcher.count(condition, field))

    async def nodes_of(self, ids: Sequence[str]) -> dict[str, str]:
        check_count(ids)
        return await self._look(lambda: self._reader.nodes_of(ids))

    async def nodes_of_group(self, group: str) -> list[str]:
        return await self._look(lambda: self._reader.nodes_of_group(group))

    async def set_groups(self, groups: Sequence[tuple[str, Sequence[str]]], revision: int) -> None:
        await self._do(lambda turn: turn.set_groups(groups, revision))

    async def groups_revision(self) -> int:
        return await self._look(self._reader.groups_revision)

    async def node_gone(self, node: str, now: float) -> int:
        return await self._do(lambda turn: turn.node_gone(node, now))

    async def node_back(self, node: str) -> int:
        return await self._do(lambda turn: turn.node_back(node))

    async def purge(self, ids: Sequence[str]) -> int:
        return await self._do(lambda turn: turn.purge(ids), deletes=True)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._searching.interrupt()
        await self._searches.close()
        await self._lookups.close()
        await self._writes.close()
        await asyncio.to_thread(self._close_file)

    # -- on the loop ------------------------------------------------------------------------------------------------

    async def _do(self, work: Callable[[Turn], T], *, deletes: bool = False) -> T:
        future: asyncio.Future[T] = self._begin()
        self._writes.put((Call(work, deletes), future))
        return await future

    async def _look(self, question: Callable[[], T]) -> T:
        future: asyncio.Future[T] = self._begin()
        self._lookups.put((question, future))
        return await future

    async def _search(self, question: Callable[[], T]) -> T:
        future: asyncio.Future[T] = self._begin()
        self._searches.put((question, future))
        return await future

    def _begin(self) -> asyncio.Future[Any]:
        if self._closed:
            raise StoreFailed("the book is closed")
        if self._waiting >= MAX_WAITING:
            raise Busy("too much waits for the book of agents", hint="try again shortly", retry_after_s=1.0)
        self._waiting += 1
        return self._loop.create_future()

    def _answered(self, futures: Sequence[asyncio.Future[Any]], answers: Sequence[Any]) -> None:
        for future, answer in zip(futures, answers, strict=True):
            self._waiting -= 1
            settle(future, answer)

    # -- in the threads ---------------------------------------------------------------------------------------------

    def _write(self, waiting: list[tuple[Call, asyncio.Future[Any]]]) -> None:
        try:
            results = self._writer.run([call for call, _ in waiting])
        except Exception as error:
            results = [error] * len(waiting)
        self._deliver([future for _, future in waiting], results)

    def _read(self, reader: Reader, asked: list[Question]) -> None:
        for question, future in asked:
            answer: Any = None
            try:
                if self._closed and reader is self._searcher:
                    answer = StoreFailed("the book is closed")  # each may take as long as a question may
                elif not future.cancelled():
                    answer = reader.answer(question)
            except sqlite3.Error as error:
                answer = failure(error, "reading the book of agents", self._file.path)
            except Exception as error:
                answer = error
            self._deliver([future], [answer])

    def _deliver(self, futures: list[asyncio.Future[Any]], answers: list[Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._answered, futures, answers)
        except RuntimeError:
            # A loop that was closed with the book open has nobody left who waits.
            if not self._loop.is_closed():
                raise

    def _close_file(self) -> None:
        self._searching.close()
        self._file.close()


def _open(path: Path) -> tuple[StoreFile, sqlite3.Connection]:
    file = StoreFile(path, LAYOUT)
    try:
        return file, file.connect_reader()
    except sqlite3.Error as error:
        file.close()
        raise failure(error, "opening the book of agents", path) from None
