"""What is written to the database of jobs, by one thread: a batch, one commit.

Rules kept here:
- a batch of plain inserts and updates is one statement outside any transaction: a commit of its own;
- a batch that finds the disk full changes nothing; then the reserve is freed, and until it can be made again only what ends or
  deletes jobs is done;
- files are written before their rows are committed, and removed after the rows that named them are gone;
- what the connection is left with after an error is no transaction: the next batch begins as ever.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zcluster.core.queue.job import FINAL, State
from zcluster.errors import StoreFailed, ZClusterError
from zcluster.process.failpoints import failpoint
from zcluster.store.jobfiles import JobFiles
from zcluster.store.jobs import Batch, Done
from zcluster.store.jobs_reader import JobReader
from zcluster.store.jobs_schema import BATCH, LAST, MAX_ROWS, REPAIR, WIDTH, add_insert, add_update, needs_more, statement
from zcluster.store.jobs_turn import Turn, add_counters, needs_look
from zcluster.store.reserve import Reserve
from zcluster.store.sqlite_file import failure, is_full


class JobWriter:
    """Writes through the one writing connection. Raises sqlite3.Error when it is made."""

    def __init__(self, connection: sqlite3.Connection, path: Path, reserve: Reserve, files: JobFiles, file_bytes: int) -> None:
        self.reader = JobReader(connection, files, file_bytes)
        self._connection = connection
        self._path = path
        self._reserve = reserve
        self._files = files
        self._file_bytes = file_bytes
        self._full = False
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.executescript(BATCH)
        connection.execute("DELETE FROM usage WHERE jobs = 0 AND bytes = 0")
        found = connection.execute("SELECT n FROM counters WHERE name = ?", (LAST,)).fetchone()
        self._last = int(found[0]) if found else 0

    def commit(self, batch: Batch) -> Done:
        """Commit ``batch``. Raises StoreFailed and others (jobs.py): nothing was changed."""
        if self._full:
            self._full = not self._reserve.make()
        if self._full and not _makes_room(batch):
            raise StoreFailed(
                "the disk is full: jobs can only end or be dropped; nothing was changed",
                hint=f"free space on the disk of {self._path}",
            )
        try:
            return self._commit(batch)
        except (sqlite3.Error, StoreFailed) as error:
            if isinstance(error, sqlite3.Error) and not is_full(error):
                raise self.failure(error) from None
            if isinstance(error, StoreFailed) and not batch_has_files(batch, self._file_bytes):
                raise
            again = _makes_room(batch) and not self._full
            self._reserve.free()
            self._full = True
            if not again:
                raise self.failure(error) from None
        try:
            return self._commit(batch)
        except sqlite3.Error as error:
            raise self.failure(error) from None

    def failure(self, error: Exception) -> ZClusterError:
        """What ``error`` is to our callers."""
        if isinstance(error, ZClusterError):
            return error
        assert isinstance(error, sqlite3.Error), error
        return failure(error, "writing to the queue", self._path, REPAIR)

    def _commit(self, batch: Batch) -> Done:
        passed = _passed(batch)
        params = self._plain(batch)
        if params is None:
            done = self._transaction(batch, passed)
        else:
            done = Done()
            _pass(passed, "before_commit")
            try:
                if params:
                    self._connection.execute(statement(params), params)
            finally:
                self._end()
        _pass(passed, "after_commit")
        if batch.insert:
            self._last = max(self._last, batch.insert[-1].number)
        return done

    def _transaction(self, batch: Batch, passed: Iterable[str]) -> Done:
        turn = Turn(self._connection, self.reader, self._files, self._file_bytes, self._last, batch)
        committed = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            done = turn.take()
            _pass(passed, "before_commit")
            self._connection.execute("COMMIT")
            committed = True
        finally:
            self._end()
            self._files.remove([] if committed else turn.kept)
        self._remove(turn.unnamed)
        return done

    def _end(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self._files.remove([name])
            except StoreFailed:
                continue  # no name of a file: the row that had it was damaged, and is gone

    def _plain(self, batch: Batch) -> list[Any] | None:
        """The rows of a batch that one statement can write, or None."""
        if batch.ready or batch.fetch or batch.delete:
            return None
        if batch.due is not None or batch.expired is not None or batch.purge is not None:
            return None
        if len(batch.insert) + len(batch.update) > MAX_ROWS:
            return None
        params: list[Any] = []
        limit = self._file_bytes
        for job in batch.insert:
            if needs_more(job) or len(job.body) > limit:
                return None
            add_insert(params, job, job.body)
        for job in batch.update:
            if needs_look(job) or len(job.result) > limit:
                return None
            add_update(params, job, job.result)
        add_counters(params, batch, self._last, batch.counts, batch.usage)
        return params if len(params) <= MAX_ROWS * WIDTH else None


def _makes_room(batch: Batch) -> bool:
    """Whether a batch may use the reserve: it ends jobs, or deletes them, and nothing else."""
    ends = all(job.state >= FINAL for job in batch.update)
    return not batch.insert and ends and bool(batch.update or batch.delete or batch.purge is not None)


def batch_has_files(batch: Batch, file_bytes: int) -> bool:
    """Whether files are written for ``batch``."""
    return any(len(job.body) > file_bytes for job in batch.insert) or any(len(job.result) > file_bytes for job in batch.update)


def _passed(batch: Batch) -> list[str]:
    """What the batch is, for the fail points."""
    leased = State.LEASED
    passed = ["queue.accept"] if batch.insert else []
    if any(job.state is leased for job in batch.insert) or any(job.state is leased for job in batch.update):
        passed.append("queue.lease")
    if any(job.state >= FINAL for job in batch.update):
        passed.append("queue.outcome")
    return passed


def _pass(passed: Iterable[str], where: str) -> None:
    for name in passed:
        failpoint(f"{name}.{where}")
