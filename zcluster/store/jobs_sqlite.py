"""The store of jobs in a SQLite database: what masters use.

Rules kept here:
- one thread writes, batch after batch, and one answers questions: the loop never waits for a disk;
- a batch is one commit with one fsync; the log is copied into the database by the thread that writes;
- what waits is bounded: beyond that the answer is Busy.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from zcluster.core.queue.job import Job
from zcluster.errors import Busy, StoreFailed
from zcluster.store.jobfiles import JobFiles
from zcluster.store.jobs import FILE_BYTES, Batch, Done, Opened, Page, Query, Report
from zcluster.store.jobs_check import check_database
from zcluster.store.jobs_limits import check_batch, check_page
from zcluster.store.jobs_reader import JobReader
from zcluster.store.jobs_schema import LAYOUT, REPAIR, files_of, name_in
from zcluster.store.jobs_writer import JobWriter
from zcluster.store.lane import Lane
from zcluster.store.sqlite import settle
from zcluster.store.sqlite_file import StoreFile, failure

MAX_WAITING = 10_000

T = TypeVar("T")
Call = tuple[Callable[[], Any], asyncio.Future[Any]]


class SqliteJobs:
    """A JobStore (jobs.py) at a path; made by :meth:`open`. Large arguments and results are in ``files_of(path)``."""

    def __init__(self, file: StoreFile, files: JobFiles, writer: JobWriter, id_: str, file_bytes: int) -> None:
        self.id = id_
        self._loop = asyncio.get_running_loop()
        self._file = file
        self._files = files
        self._writer = writer
        self._reader = JobReader(file.reader, files, file_bytes)
        self._waiting = 0
        self._closed = False
        self._checks = 0
        self._checked = asyncio.Event()
        self._writes: Lane[Call] = Lane("queue-writer", self._run)
        self._reads: Lane[Call] = Lane("queue-reader", self._run)

    @staticmethod
    async def open(path: Path, *, file_bytes: int = FILE_BYTES) -> SqliteJobs:
        """The store at ``path``, made when there is none.

        Raises:
            StoreFailed: it cannot be read or made. Busy: another process has it open.
        """
        return SqliteJobs(*await asyncio.to_thread(_open, path, file_bytes), file_bytes)

    async def opened(self) -> Opened:
        return await self._put(self._writes, self._writer.reader.opened)

    async def commit(self, batch: Batch) -> Done:
        self._check_open()
        check_batch(batch)
        return await self._put(self._writes, lambda: self._writer.commit(batch))

    async def get(self, number: int) -> Job | None:
        return await self._put(self._reads, lambda: self._reader.get(number))

    async def list(self, query: Query) -> Page:
        check_page(query.limit)
        return await self._put(self._reads, lambda: self._reader.page(query))

    async def parts(self, parent: int, *, after: int = 0, limit: int = 100) -> Sequence[Job]:
        check_page(limit)
        return await self._put(self._reads, lambda: self._reader.parts(parent, after, limit))

    async def check(self) -> Report:
        self._check_open()
        self._checks += 1
        try:
            return await asyncio.to_thread(self._check)
        finally:
            self._checks -= 1
            self._checked.set()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        while self._checks:
            self._checked.clear()
            await self._checked.wait()
        await self._reads.close()
        await self._writes.close()
        await asyncio.to_thread(self._close_files)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreFailed("the store of jobs is closed")

    async def _put(self, lane: Lane[Call], call: Callable[[], T]) -> T:
        self._check_open()
        if self._waiting >= MAX_WAITING:
            raise Busy("too much waits for the queue's disk", hint="try again shortly", retry_after_s=1.0)
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting += 1
        lane.put((call, future))
        return await future

    def _answered(self, future: asyncio.Future[Any], answer: object) -> None:
        self._waiting -= 1
        settle(future, answer)

    # -- in the threads ---------------------------------------------------------------------------------------------

    def _run(self, calls: Sequence[Call]) -> None:
        for call, future in calls:
            answer: Any = None
            try:
                answer = call()
            except sqlite3.Error as error:
                answer = failure(error, "reading the queue", self._file.path, REPAIR)
            except Exception as error:
                answer = error
            self._deliver(future, answer)

    def _deliver(self, future: asyncio.Future[Any], answer: object) -> None:
        try:
            self._loop.call_soon_threadsafe(self._answered, future, answer)
        except RuntimeError:
            # A loop that was closed with the store open has nobody left who waits.
            if not self._loop.is_closed():
                raise

    def _check(self) -> Report:
        try:
            connection = self._file.connect_reader()
        except sqlite3.Error as error:
            raise failure(error, "checking the queue", self._file.path, REPAIR) from None
        try:
            return check_database(connection, self._files)
        finally:
            connection.close()

    def _close_files(self) -> None:
        self._file.close()
        self._files.close()


def _open(path: Path, file_bytes: int) -> tuple[StoreFile, JobFiles, JobWriter, str]:
    file = StoreFile(path, LAYOUT)
    files: JobFiles | None = None
    try:
        files = JobFiles(files_of(path))
        named = file.writer.execute(
            "SELECT body FROM jobs WHERE typeof(body) = 'text' UNION ALL SELECT result FROM jobs WHERE typeof(result) = 'text'"
        )
        files.sweep({name_in(text) for (text,) in named})
        id_ = str(file.writer.execute("SELECT id FROM state").fetchone()[0])[:8]
        return file, files, JobWriter(file.writer, path, file.reserve, files, file_bytes), id_
    except BaseException as error:
        file.close()
        if files is not None:
            files.close()
        if isinstance(error, sqlite3.Error):
            raise failure(error, "opening the queue", path, REPAIR) from None
        raise
