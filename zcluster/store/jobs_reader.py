"""What is read of the database of jobs: by the writer within its transaction, and by the connection that only reads.

Rules kept here:
- many rows are read in one step of SQLite, as one text: each step gives up Python's lock;
- first the numbers and sizes, then the jobs that are wanted: what is read at once is bounded in bytes;
- what is read is checked against its checksum or its file's digest; a job that fails is given with that part empty, and told of.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from zlib import crc32

import msgspec
import orjson

from zcluster.core.queue.job import Job
from zcluster.errors import StoreFailed
from zcluster.store.jobfiles import JobFiles
from zcluster.store.jobs import MAX_ASKED, MAX_PAGE, PARTS_BYTES, READY_BYTES, SCAN_JOBS, Opened, Page, Query
from zcluster.store.jobs_schema import (
    BARE,
    BODY_FILE,
    BRIEF,
    LAST,
    RESULT_FILE,
    RESULT_SIZE,
    SIZE,
    WHOLE,
    Asked,
    Became,
    Row,
    decode_asked,
    decode_became,
    decode_rows,
    job_of,
    joined,
    name_in,
    size_in,
)

TEXT_BYTES = 64 * 1024 * 1024
"""About what the text of the rows that are read at once may have."""
ROW_BYTES = 4096
"""What a row is counted for beside its arguments and its result."""

READY = "state = 0 AND due = 0 AND at_s = 0 AND blocked = 0 AND parts = 0"
_DUE = "state = 0 AND due > 0 AND parts = 0"
_AT = "state = 0 AND at_s > 0 AND parts = 0"
_EXPIRES = "state = 0 AND expires > 0 AND parts = 0"
OVER = "state >= 3 AND parent = 0 AND parts_left = 0"
_TIMES = (
    f"SELECT (SELECT min(due) FROM jobs WHERE {_DUE}), (SELECT min(at_s) FROM jobs WHERE {_AT}), "
    f"(SELECT min(expires) FROM jobs WHERE {_EXPIRES}), (SELECT min(over) FROM jobs WHERE {OVER})"
)
IN = "number IN (SELECT value FROM json_each(?))"
_SIZED = f"SELECT json_group_array(json_array(number, size)) FROM (SELECT number, {SIZE} AS size FROM jobs WHERE {{}} LIMIT ?)"
_SIZES = f"SELECT json_group_array(json_array(number, {SIZE} + {RESULT_SIZE})) FROM jobs WHERE {IN}"
_decode_sizes = msgspec.json.Decoder(list[tuple[int, int]]).decode
_decode_numbers = msgspec.json.Decoder(list[int]).decode
_decode_tallies = msgspec.json.Decoder(list[tuple[int, int, int]]).decode


def json_text(numbers: Sequence[int]) -> str:
    """Numbers for json_each."""
    return orjson.dumps(numbers).decode()


class JobReader:
    """Reads through ``connection``. All raise sqlite3.Error. ``unreadable`` grows with what cannot be read, and why."""

    def __init__(self, connection: sqlite3.Connection, files: JobFiles | None, file_bytes: int) -> None:
        self.unreadable: dict[int, str] = {}
        self._connection = connection
        self._files = files
        self._at_once = max(TEXT_BYTES // (ROW_BYTES + 4 * file_bytes), 1)
        """So many rows can be read together whatever they have in them."""

    def numbers(self, sql: str, *params: object) -> list[int]:
        """The numbers in the one array of JSON that ``sql`` finds."""
        return _decode_numbers(self._connection.execute(sql, params).fetchone()[0])

    def whole(self, numbers: Sequence[int], size: int | None = None) -> list[Job]:
        """Those of ``numbers`` that there are, in this order; ``size``: of their arguments, if that is known and the jobs have no
        results."""
        at_once = self._at_once
        if size is not None and 2 * size + ROW_BYTES * len(numbers) <= TEXT_BYTES:
            at_once = len(numbers)
        found: dict[int, Job] = {}
        for first in range(0, len(numbers), max(at_once, 1)):
            some = numbers[first : first + at_once]
            for row in self._rows(WHOLE, some):
                found[row.number] = self._job(row)
        return [found[number] for number in numbers if number in found]

    def some(self, numbers: Sequence[int]) -> tuple[list[Job], list[int]]:
        """Those of ``numbers`` that there are, whole, in this order, ending with the one that makes arguments and results
        PARTS_BYTES; and the numbers of the others that there are."""
        if not numbers:
            return [], []
        sizes = dict(_decode_sizes(self._connection.execute(_SIZES, (json_text(numbers),)).fetchone()[0]))
        there = [number for number in dict.fromkeys(numbers) if number in sizes]
        first, _ = _first([(number, sizes[number]) for number in there], PARTS_BYTES)
        return self.whole(first), there[len(first) :]

    def brief(self, numbers: Sequence[int]) -> list[Job]:
        """Those of ``numbers`` that there are, in this order, without arguments and results."""
        jobs: list[Job] = []
        for first in range(0, len(numbers), MAX_PAGE):
            some = numbers[first : first + MAX_PAGE]
            rows = {row.number: row for row in self._rows(BRIEF, some)}
            jobs += (job_of(row, *self._told(row), b"", b"") for row in (rows[number] for number in some if number in rows))
        return jobs

    def between(self, first: int, last: int) -> tuple[list[int], list[Job]]:
        """The first jobs with such numbers, whole, and the numbers of these rows."""
        sql = (
            "SELECT json_group_array(number) FROM (SELECT number FROM jobs NOT INDEXED WHERE number BETWEEN ? AND ? "
            "ORDER BY number LIMIT ?)"
        )
        numbers = self.numbers(sql, first, last, self._at_once)
        return numbers, self.whole(numbers)

    def get(self, number: int) -> Job | None:
        """One job. Raises StoreFailed: it cannot be read."""
        found = self.whole([number])
        self.raise_unreadable()
        return found[0] if found else None

    def raise_unreadable(self) -> None:
        """Raise StoreFailed if something could not be read since the last time."""
        unreadable, self.unreadable = self.unreadable, {}
        for why in unreadable.values():
            raise StoreFailed(why, hint="put it back from a copy; `zcluster queue check` tells of all")

    def ready(self, lane: str, limit: int) -> tuple[list[Job], bool]:
        """The first ready jobs of ``lane``, and whether there are more."""
        sql = _SIZED.format(f"lane = ? AND {READY} ORDER BY priority DESC, number")
        sized = _decode_sizes(self._connection.execute(sql, (lane, limit + 1)).fetchone()[0])
        numbers, total = _first(sized[:limit], READY_BYTES)
        return self.whole(numbers, total), len(numbers) < len(sized)

    def due(self, now: float, wall_s: float) -> list[Job]:
        """The queued jobs whose time has come; some of them, when they are large."""
        sized: set[tuple[int, int]] = set()
        for where, until in ((f"due <= ? AND {_DUE} ORDER BY due", now), (f"at_s <= ? AND {_AT} ORDER BY at_s", wall_s)):
            sized.update(_decode_sizes(self._connection.execute(_SIZED.format(where), (until, MAX_ASKED)).fetchone()[0]))
        return self.whole(*_first(sorted(sized)[:MAX_ASKED], PARTS_BYTES))

    def expired(self, now: float) -> list[Job]:
        """The queued jobs that expire by ``now``; some of them, when they are large."""
        sql = _SIZED.format(f"expires <= ? AND {_EXPIRES} ORDER BY expires")
        sized = sorted(_decode_sizes(self._connection.execute(sql, (now, MAX_ASKED)).fetchone()[0]))
        return self.whole(*_first(sized, PARTS_BYTES))

    def times(self) -> tuple[float, float, float, float]:
        """When the next job is due, by queue time and by wall time, expires, and is to be purged."""
        due, at_s, expiry, purge = (math.inf if at is None else at for at in self._connection.execute(_TIMES).fetchone())
        return due, at_s, expiry, purge

    def complete(self, numbers: Sequence[int] | None = None) -> list[tuple[Job, dict[int, int]]]:
        """The fan-outs (of ``numbers``, or all) that are not final and have no live part, and their parts by state."""
        which = "" if numbers is None else f" AND {IN}"
        params = [] if numbers is None else [json_text(numbers)]
        sql = f"SELECT json_group_array(number) FROM jobs WHERE parts != 0 AND state < 3 AND parts_left = 0{which}"
        found = self.numbers(sql, *params)
        if not found:
            return []
        sql = (
            "SELECT json_group_array(json_array(parent, state, n)) FROM (SELECT parent, state, count(*) AS n FROM jobs "
            "WHERE parent IN (SELECT value FROM json_each(?)) AND parent != 0 GROUP BY parent, state)"
        )
        tallies: dict[int, dict[int, int]] = {number: {} for number in found}
        for parent, state, count in _decode_tallies(self._connection.execute(sql, (json_text(found),)).fetchone()[0]):
            tallies[parent][state] = count
        return [(job, tallies[job.number]) for job in self.whole(found)]

    def opened(self) -> Opened:
        """What a queue begins with."""
        execute = self._connection.execute
        counters = dict(execute("SELECT name, n FROM counters WHERE n != 0"))
        last = counters.pop(LAST, 0)
        lanes = dict(execute(f"SELECT lane, count(*) FROM jobs WHERE {READY} GROUP BY lane"))
        leased = self.whole(self.numbers("SELECT json_group_array(number) FROM jobs WHERE state = 1"))
        usage = {key: (jobs, size) for key, jobs, size in execute("SELECT * FROM usage WHERE jobs != 0 OR bytes != 0")}
        meta = dict(execute("SELECT name, value FROM meta"))
        opened = Opened(last, lanes, leased, self.complete(), usage, counters, meta, *self.times())
        opened.unreadable, self.unreadable = self.unreadable, {}
        return opened

    def page(self, query: Query) -> Page:
        """A page; looks at SCAN_JOBS at most."""
        terms, params = ["1"], []
        if query.states:
            terms.append(f"state IN ({', '.join(sorted({str(1 if state == 2 else int(state)) for state in query.states}))})")
        for place, value in enumerate((query.function, query.target, query.key)):
            if value:
                terms.append(f"iif(json_valid(asked), json_extract(asked, '$[{place}]'), '') = ?")
                params.append(value)
        if query.parent:
            since = query.before
            scanned = f"FROM jobs WHERE parent = {int(query.parent)} AND parent != 0 AND number > ? ORDER BY number"
        else:
            since = query.before or (1 << 62)
            scanned = "FROM jobs NOT INDEXED WHERE parent = 0 AND number < ? ORDER BY number DESC"
        found = self.numbers(
            "SELECT json_group_array(number) FROM (SELECT number FROM (SELECT number, state, asked "
            f"{scanned} LIMIT ?) WHERE {' AND '.join(terms)} LIMIT ?)",
            since, SCAN_JOBS, *params, query.limit + 1,
        )  # fmt: skip
        if len(found) > query.limit:
            return Page(self._listed(found[: query.limit]), found[query.limit - 1])
        edge = self._connection.execute(f"SELECT number {scanned} LIMIT 2 OFFSET ?", (since, SCAN_JOBS - 1)).fetchall()
        return Page(self._listed(found), edge[0][0] if len(edge) > 1 else 0)

    def parts(self, parent: int, after: int, limit: int) -> list[Job]:
        """Parts of a fan-out, ending with the one that makes them PARTS_BYTES. Raises StoreFailed: a file cannot be read."""
        numbers = self.numbers(
            "SELECT json_group_array(number) FROM (SELECT number FROM jobs WHERE parent = ? AND parent != 0 AND number > ? "
            "ORDER BY number LIMIT ?)",
            parent, after, limit,
        )  # fmt: skip
        found: list[Job] = []
        total = 0
        for first in range(0, len(numbers), self._at_once):
            for job in self._sized_whole(numbers[first : first + self._at_once], PARTS_BYTES - total):
                found.append(job)
                total += len(job.body) + len(job.result)
            if total >= PARTS_BYTES:
                break
        return found

    def _sized_whole(self, numbers: Sequence[int], size: int) -> list[Job]:
        """The jobs, ending with the one that makes them ``size`` bytes: files beyond that are not read."""
        rows = {row.number: row for row in self._rows(WHOLE, numbers)}
        jobs: list[Job] = []
        for number in numbers:
            if size <= 0:
                break
            if number in rows:
                jobs.append(self._job(rows[number]))
                self.raise_unreadable()
                size -= len(jobs[-1].body) + len(jobs[-1].result)
        return jobs

    def _listed(self, numbers: Sequence[int]) -> list[Job]:
        jobs = self.brief(numbers)
        self.unreadable.clear()
        return jobs

    def _rows(self, line: str, numbers: Sequence[int]) -> list[Row]:
        try:
            return decode_rows(self._text(line, numbers))
        except (msgspec.DecodeError, UnicodeDecodeError):
            if len(numbers) > 1:
                half = len(numbers) // 2
                return self._rows(line, numbers[:half]) + self._rows(line, numbers[half:])
        # One row's arrays are damaged: what its columns say is left.
        self.unreadable[numbers[0]] = f"the row of job {numbers[0]} is damaged"
        try:
            return decode_rows(self._text(BARE[line], numbers))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return []

    def _text(self, line: str, numbers: Sequence[int]) -> bytes:
        text = self._connection.execute(joined(line, f"jobs WHERE {IN}"), (json_text(numbers),)).fetchone()[0]
        assert isinstance(text, bytes)
        return text

    def _told(self, row: Row) -> tuple[Asked, Became]:
        try:
            return decode_asked(row.asked), decode_became(row.became)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.unreadable[row.number] = f"the row of job {row.number} is damaged"
            return Asked(), Became()

    def _job(self, row: Row) -> Job:
        asked, became = self._told(row)
        body, result = bytes.fromhex(row.body), bytes.fromhex(row.result)
        size = size_in(body) if row.files & BODY_FILE else len(body)
        if crc32(body, crc32(row.asked)) != row.asked_sum or crc32(result, crc32(row.became)) != row.became_sum:
            self.unreadable.setdefault(row.number, f"the row of job {row.number} is damaged")
            return job_of(row, asked, became, b"", b"", size)
        if row.files & BODY_FILE:
            body = self._file(row, body)
        if row.files & RESULT_FILE:
            result = self._file(row, result)
        return job_of(row, asked, became, body, result, size - len(body))

    def _file(self, row: Row, text: bytes) -> bytes:
        if self._files is None:
            self.unreadable[row.number] = f"the file of job {row.number} is missing with its directory"
            return b""
        try:
            return self._files.read(name_in(text.decode("ascii", "replace")))
        except StoreFailed as error:
            self.unreadable[row.number] = error.message
            return b""


def _first(sized: Sequence[tuple[int, int]], size: int) -> tuple[list[int], int]:
    """The first numbers, ending with the one that makes them ``size`` bytes, and how many they are."""
    numbers: list[int] = []
    total = 0
    for number, bytes_ in sized:
        if total >= size:
            break
        numbers.append(number)
        total += bytes_
    return numbers, total
