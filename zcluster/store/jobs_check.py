"""Whether a database of jobs is as it should be, and what of a broken one can still be read.

Rules kept here:
- nothing is written: a database that is broken is left as it is;
- everything is read at one moment, beside a master that goes on;
- around a page that cannot be read the search goes on: each number is tried, as long as that takes a bounded time.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from zcluster.core.queue.job import State
from zcluster.errors import StoreFailed
from zcluster.store.jobfiles import JobFiles
from zcluster.store.jobs import FILE_BYTES, Report
from zcluster.store.jobs_reader import JobReader
from zcluster.store.jobs_schema import LAST, LAYOUT, SIZE, files_of
from zcluster.store.sqlite_file import log_of
from zcluster.store.sqlite_log import damaged_log

MAX_FINDINGS = 100
MAX_RANGES = 1000
"""Of readable numbers, that a report has at most."""
MAX_FAILURES = 100_000
"""After so many questions that failed the search is given up."""
UNKNOWN_LAST = 1 << 20
"""How far is searched when nothing says which number was the last."""

_COUNTS = "SELECT state, count(*) FROM jobs NOT INDEXED GROUP BY state"
_USAGE = (
    f"SELECT iif(json_valid(asked), json_extract(asked, '$[2]'), '') AS key, count(*), sum({SIZE}) FROM jobs NOT INDEXED "
    "WHERE state < 3 GROUP BY 1"
)
_PARTS = (
    "SELECT number FROM jobs AS whole NOT INDEXED WHERE parts_left != (SELECT count(*) FROM jobs WHERE parent = whole.number "
    "AND parent != 0 AND state < 3) AND parts != 0 LIMIT 10"
)
_SEQUENCES = (
    "SELECT sequence FROM jobs WHERE sequence != '' AND state < 3 GROUP BY sequence HAVING sum(blocked = 0) != 1 LIMIT 10"
)


def check_file(path: Path, *, file_bytes: int = FILE_BYTES) -> Report:
    """Check the database at ``path``, though no master could open it; a master that has it open is not disturbed.

    Raises:
        StoreFailed: there is no such file, or it may not be read.
    """
    if not path.is_file():
        raise StoreFailed(f"there is no queue at {path}", hint="give the path of the database")
    with _lock_of(path) as in_use, _files(path) as files:
        try:
            connection = _connected(path)
        except sqlite3.Error as error:
            return Report(False, 0, [f"{path} cannot be opened: {error}"], {"in_use": in_use, "readable": []})
        try:
            report = check_database(connection, files, file_bytes=file_bytes)
        finally:
            connection.close()
    report.details["in_use"] = in_use
    log = log_of(path)
    if not in_use and damaged_log(log):
        found = f"{log} is broken: what was committed after the damage is left out here"
        report = replace(report, ok=False, findings=[found, *report.findings])
    return report


def check_database(connection: sqlite3.Connection, files: JobFiles | None, *, file_bytes: int = FILE_BYTES) -> Report:
    """Check through ``connection``, which only reads."""
    check = _Check(connection, JobReader(connection, files, file_bytes))
    connection.execute("BEGIN")
    try:
        check.pages()
        check.rows()
        check.counters()
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    check.damaged()
    return check.report()


class _Check:
    def __init__(self, connection: sqlite3.Connection, reader: JobReader) -> None:
        self._connection = connection
        self._reader = reader
        self._findings: list[str] = []
        self._readable: list[list[int]] = []
        self._jobs = 0
        self._lost: list[list[int]] = []
        """Ranges of numbers whose rows cannot be read, if there are any."""
        self._failures = 0
        self._states: dict[str, int] = {}

    def report(self) -> Report:
        details: dict[str, Any] = {
            "states": self._states,
            "readable": self._readable[:MAX_RANGES],
            "unreadable": self._lost[:MAX_RANGES],
        }
        return Report(not self._findings, self._jobs, self._findings[:MAX_FINDINGS], details)

    def pages(self) -> None:
        """The pages and indexes, as SQLite checks them."""
        for (said,) in self._try("the database", f"PRAGMA integrity_check({MAX_FINDINGS})"):
            if said != "ok":
                self._findings += str(said).splitlines()

    def rows(self) -> None:
        """Each row, with its checksums and its files."""
        last = [
            self._number("SELECT max(number) FROM jobs NOT INDEXED"),
            self._number(f"SELECT n FROM counters WHERE name = {LAST}"),
        ]
        known = [number for number in last if number is not None]
        self._search(1, max(known) if known else UNKNOWN_LAST)
        for first, until in self._lost:
            which = f"job {first}" if first == until else f"the jobs {first} to {until}, as far as there are such,"
            self._findings.append(f"{which} cannot be read: its page is damaged")

    def _search(self, first: int, last: int) -> None:
        ranges = [(first, last)]
        while ranges:
            first, last = ranges.pop()
            try:
                first = self._read(first, last)
            except _Unreadable as unreadable:
                first = unreadable.first
                self._failures += 1
                if first == last or self._failures > MAX_FAILURES:
                    _extend(self._lost, first, last)
                else:
                    middle = (first + last) // 2
                    ranges += [(middle + 1, last), (first, middle)]

    def _read(self, first: int, last: int) -> int:
        """Read the rows with these numbers."""
        while first <= last:
            try:
                numbers, jobs = self._reader.between(first, last)
            except sqlite3.Error:
                raise _Unreadable(first) from None
            if not numbers:
                break
            if any(after <= before for before, after in pairwise([first - 1, *numbers, last + 1])):
                raise _Unreadable(first)  # a page that is something else now
            for job in jobs:
                if job.number not in self._reader.unreadable:
                    self._jobs += 1
                    _extend(self._readable, job.number, job.number)
            first = numbers[-1] + 1
        return first

    def counters(self) -> None:
        """The counters, against what is there."""
        there = dict(self._try("the jobs by state", _COUNTS))
        self._states = {State(state).word: count for state, count in there.items() if 0 <= state < len(State)}
        counted = dict(self._try("the counters", f"SELECT name, n FROM counters WHERE n != 0 AND name < {LAST}"))
        if there != counted:
            self._findings.append(f"the jobs by state are {there}, counted were {counted}")
        usage = set(self._try("the live jobs of the keys", _USAGE))
        if usage != set(self._try("the usage of the keys", "SELECT * FROM usage WHERE jobs != 0 OR bytes != 0")):
            self._findings.append("the usage of keys is not that of their live jobs")
        for (number,) in self._try("the parts of fan-outs", _PARTS):
            self._findings.append(f"the fan-out {number} has another number of live parts than it counts")
        for (name,) in self._try("the sequences", _SEQUENCES):
            self._findings.append(f"of the live jobs of the sequence {name.partition(' ')[2]!r} not exactly one is the first")

    def damaged(self) -> None:
        """What was found unreadable is read again: beside a master, a file may have gone with its job since."""
        numbers, self._reader.unreadable = list(self._reader.unreadable), {}
        for number in numbers:
            try:
                there = bool(self._reader.whole([number]))
            except sqlite3.Error as error:
                self._reader.unreadable[number] = f"job {number} cannot be read: {error}"
            else:
                if there and number not in self._reader.unreadable:
                    self._jobs += 1
        for number, why in sorted(self._reader.unreadable.items()):
            self._findings.append(f"job {number}: {why}")
            _extend(self._lost, number, number)

    def _number(self, sql: str) -> int | None:
        try:
            found = self._connection.execute(sql).fetchone()
        except sqlite3.Error:
            return None
        return None if found is None or found[0] is None else int(found[0])

    def _try(self, what: str, sql: str) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql).fetchall()
        except sqlite3.Error as error:
            self._findings.append(f"{what} cannot be read: {error}")
            return []


class _Unreadable(Exception):
    """The rows from ``first`` on cannot be read together."""

    def __init__(self, first: int) -> None:
        self.first = first


def _extend(ranges: list[list[int]], first: int, last: int) -> None:
    """Add to ascending ranges; beyond MAX_RANGES the last one grows over what is between."""
    if ranges and (first <= ranges[-1][1] + 1 or len(ranges) >= MAX_RANGES):
        ranges[-1][1] = max(last, ranges[-1][1])
    else:
        ranges.append([first, last])


def _connected(path: Path) -> sqlite3.Connection:
    """A connection that only reads, the log with it; of a log that cannot be read the database without it."""
    place = f"file:{quote(str(path.absolute()))}"
    for how in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(f"{place}?{how}", uri=True, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA writable_schema = ON")  # without it SQLite reads nothing of a file that was cut short
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if found != LAYOUT.format:
                raise sqlite3.DatabaseError(f"its format is {found}, that of a queue is {LAYOUT.format}")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return connection
        except sqlite3.Error as error:
            connection.close()
            last = error
    raise last


@contextmanager
def _lock_of(path: Path) -> Iterator[bool]:
    """Keep a master from opening it meanwhile; whether one has it open."""
    place = path.with_suffix(".lock")
    try:
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield True
        else:
            yield False
    finally:
        os.close(fd)


@contextmanager
def _files(path: Path) -> Iterator[JobFiles | None]:
    if not files_of(path).is_dir():
        yield None
        return
    files = JobFiles(files_of(path))
    try:
        yield files
    finally:
        files.close()
