"""An append-only log of JSON lines with sequence numbers: the cluster's events, and what else has to be told in order.

Rules kept here:
- a line has its number at once, and is on the disk soon: lines that wait together cost one fsync; ``flush`` waits for it;
- a number is given once, whatever dies when: numbers are given below a ceiling that was on the disk before (so a crash leaves
  a gap), and a log that was lost and begun again has another ``id``;
- after a crash the log ends with its last whole line;
- the log is bounded: segments of about ``segment_bytes``, of which the oldest goes when there are more than ``segments``;
- what cannot be written (the disk is full) is lost, counted, and an error of the next ``flush``; the log goes on.

One process has the directory: the node's home is locked.
"""

from __future__ import annotations

import asyncio
import bisect
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from zcluster.errors import StoreFailed, TooLarge, UsageError
from zcluster.store.lane import Lane

SEGMENT_BYTES = 4 * 1024 * 1024
SEGMENTS = 16
MAX_LINE_BYTES = 65_536
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 16 * 1024 * 1024
MAX_READ = 10_000
MAX_READ_BYTES = 16 * 1024 * 1024
"""A read ends after the line that makes it this large, whatever its limit."""
BLOCK = 100_000
"""How far the ceiling is above the numbers that are given, at most; a crash leaves a gap of at most this."""

_NUMBER = "sequence"
_HEAD = re.compile(rb'\{"sequence":(\d{1,18})[,}]')
_CEILING = re.compile(r"([0-9a-f]{32}) (\d{20})\n")


@dataclass(frozen=True, slots=True)
class _Lines:
    first: int
    last: int
    data: bytes

    @property
    def count(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class _Flush:
    future: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Read:
    after: int
    limit: int
    future: asyncio.Future[list[dict[str, Any]]]


_Item = _Lines | _Flush | _Read


class LineLog:
    """A log in a directory; made by :meth:`open`. All methods are for the loop that opened it."""

    def __init__(self, disk: Segments, next_: int) -> None:
        self.id = disk.id
        self.oldest = disk.oldest or next_
        """The number of the first line that is still here; of the next one when there is none."""
        self.newest = next_ - 1
        """The last number that was given, or is passed over."""
        self.lost = 0
        """Lines that could not be kept."""
        self._loop = asyncio.get_running_loop()
        self._disk = disk
        self._waiting = 0
        self._waiting_bytes = 0
        self._closed = False
        self._lane: Lane[_Item] = Lane("line-log", self._work)

    @staticmethod
    async def open(directory: Path, *, segment_bytes: int = SEGMENT_BYTES, segments: int = SEGMENTS) -> LineLog:
        """The log in ``directory``, begun when there is none. Raises StoreFailed."""
        disk = Segments(directory, segment_bytes, segments)
        try:
            next_ = await asyncio.to_thread(disk.open)
        except OSError as error:
            raise StoreFailed(f"cannot open the log {directory}: {error.strerror}", hint="check its owner and disk") from None
        return LineLog(disk, next_)

    def append(self, record: Mapping[str, Any]) -> int:
        """Add a line; returns its number, or 0 when it is lost because too much waits for the disk already (counted).

        Raises:
            UsageError: it cannot be JSON, has a field ``sequence``, or is longer than MAX_LINE_BYTES.
        """
        if self._closed:
            raise UsageError("the log is closed")
        if _NUMBER in record:
            raise UsageError(f"a line has no {_NUMBER!r} of its own")
        try:
            data = orjson.dumps({_NUMBER: self.newest + 1, **record}) + b"\n"
        except TypeError as error:
            raise UsageError(f"a line that cannot be JSON: {error}") from None
        if len(data) > MAX_LINE_BYTES:
            raise TooLarge(f"a line of {len(data)} bytes (at most {MAX_LINE_BYTES})")
        return self.newest if self._put_lines(1, data) else 0

    def append_many(self, records: Sequence[bytes]) -> bool:
        """Add lines, each a JSON object that is encoded already, not empty, and on one line; returns whether they were taken:
        all of them, or none, because too much waits for the disk (each is counted as lost).

        Raises:
            UsageError: one is longer than MAX_LINE_BYTES, or the log is closed.
        """
        if self._closed:
            raise UsageError("the log is closed")
        number = self.newest
        parts: list[bytes] = []
        for record in records:
            number += 1
            parts.append(b'{"%s":%d,%s\n' % (_NUMBER.encode(), number, record[1:]))
        if max(map(len, parts)) > MAX_LINE_BYTES:
            raise TooLarge(f"a line of more than {MAX_LINE_BYTES} bytes")
        return self._put_lines(len(parts), b"".join(parts))

    def _put_lines(self, count: int, data: bytes) -> bool:
        full = self._waiting + count > MAX_WAITING or self._waiting_bytes + len(data) > MAX_WAITING_BYTES
        if full or self.newest + count >= self._disk.ceiling:
            self.lost += count
            return False
        first = self.newest + 1
        self.newest += count
        self._waiting += count
        self._waiting_bytes += len(data)
        self._lane.put(_Lines(first, self.newest, data))
        return True

    async def flush(self) -> None:
        """Wait until what was appended is on the disk. Raises StoreFailed when lines were lost since the last flush."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._put(_Flush(future))
        await future

    async def read(self, after: int, limit: int = MAX_READ) -> list[dict[str, Any]]:
        """The lines that were appended with numbers after ``after``, with their ``sequence``; at most ``limit`` and about
        MAX_READ_BYTES. Lines before ``oldest`` are gone. Raises StoreFailed."""
        if not 1 <= limit <= MAX_READ:
            raise UsageError(f"1 to {MAX_READ} lines can be read at once, not {limit}")
        future: asyncio.Future[list[dict[str, Any]]] = self._loop.create_future()
        self._put(_Read(after, limit, future))
        return await future

    async def close(self) -> None:
        """Write what waits, and end."""
        if self._closed:
            return
        self._closed = True
        await self._lane.close()
        await asyncio.to_thread(self._disk.close, self.newest + 1)

    def _put(self, item: _Flush | _Read) -> None:
        if self._closed:
            raise UsageError("the log is closed")
        self._lane.put(item)

    def _work(self, items: list[_Item]) -> None:
        """In the lane's thread."""
        lines = [item for item in items if isinstance(item, _Lines)]
        lost = 0
        if lines:
            try:
                self._disk.write(lines)
            except OSError as error:
                lost = sum(run.count for run in lines)
                self._disk.failed(lost, error)
        answers: list[tuple[asyncio.Future[Any], Any]] = []
        for item in items:
            if isinstance(item, _Flush):
                answers.append((item.future, self._disk.take_failure()))
            elif isinstance(item, _Read):
                answers.append((item.future, self._answer(item)))
        oldest = self._disk.oldest
        try:
            self._loop.call_soon_threadsafe(self._done, lines, lost, oldest, answers)
        except RuntimeError:
            # A loop that was closed with the log open has nobody left who waits.
            if not self._loop.is_closed():
                raise

    def _answer(self, item: _Read) -> list[dict[str, Any]] | StoreFailed:
        try:
            return self._disk.read(item.after, item.limit)
        except OSError as error:
            return StoreFailed(f"reading the log failed: {error.strerror}", hint=f"check the disk of {self._disk.directory}")

    def _done(self, lines: list[_Lines], lost: int, oldest: int, answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
        self._waiting -= sum(run.count for run in lines)
        self._waiting_bytes -= sum(len(line.data) for line in lines)
        self.lost += lost
        self.oldest = oldest or self.newest + 1
        for future, answer in answers:
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


@dataclass(slots=True)
class Segments:
    """The files of a log, for one thread at a time. All methods raise OSError."""

    directory: Path
    segment_bytes: int
    segments: int
    id: str = ""
    first: list[int] = field(default_factory=list)
    """The number each segment is named after, in order: none of its lines has a lower one."""
    oldest: int = 0
    """The number of the first line, or 0."""
    ceiling: int = 0
    """No number from here on may be given."""
    _fd: int = -1
    _size: int = 0
    _ceiling_fd: int = -1
    _failure: StoreFailed | None = None
    _unkept: int = 0

    def open(self) -> int:
        """Read what there is; returns the next number."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        names = (path.name.removesuffix(".log") for path in self.directory.glob("*.log"))
        self.first = sorted(int(name) for name in names if len(name) == 20 and name.isdigit())
        last = 0
        while self.first and not last:
            last = self._mend(self._path(self.first[-1]))
            if not last:
                # Made, and nothing of it reached the disk.
                self._path(self.first.pop()).unlink()
        next_ = self._open_ceiling(last)
        if self.first:
            self._open_last()
            self.oldest = self._first_line(self.first[0])
        self._raise_ceiling(next_ + BLOCK)
        return next_

    def write(self, lines: list[_Lines]) -> None:
        """Append ``lines``, and sync. All of them, or (OSError) none."""
        if self.ceiling - lines[-1].last < BLOCK // 2:
            self._raise_ceiling(lines[-1].last + BLOCK)
        if self._fd < 0 or self._size >= self.segment_bytes:
            self._begin(lines[0].first)
        data = b"".join([line.data for line in lines])
        try:
            written = 0
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:])
            os.fsync(self._fd)
        except OSError:
            # If half a line cannot be taken back, the next line begins another segment, not the rest of this one.
            size, self._size = self._size, self.segment_bytes
            os.ftruncate(self._fd, size)
            self._size = size
            raise
        self._size += len(data)
        self.oldest = self.oldest or lines[0].first

    def failed(self, lines: int, error: OSError) -> None:
        """Remember for the next flush that ``lines`` were lost."""
        self._unkept += lines
        self._failure = StoreFailed(
            f"{self._unkept} lines could not be written: {error.strerror}", hint=f"free space on the disk of {self.directory}"
        )

    def take_failure(self) -> StoreFailed | None:
        """What went wrong since the last time."""
        failure, self._failure, self._unkept = self._failure, None, 0
        return failure

    def read(self, after: int, limit: int) -> list[dict[str, Any]]:
        """The lines after ``after``; broken ones are passed over."""
        found: list[dict[str, Any]] = []
        size = 0
        begin = max(bisect.bisect_right(self.first, after) - 1, 0)
        for first in self.first[begin:]:
            lines = self._path(first).read_bytes().split(b"\n")
            lines.pop()
            for line in lines[_index_after(lines, after) :]:
                record = _record(line)
                if record is None or record[_NUMBER] <= after:
                    continue
                found.append(record)
                size += len(line)
                if len(found) == limit or size >= MAX_READ_BYTES:
                    return found
        return found

    def close(self, next_: int) -> None:
        """Close the files; the numbers go on with ``next_``."""
        if self._ceiling_fd >= 0:
            try:
                self._raise_ceiling(next_)
            finally:
                os.close(self._ceiling_fd)
        if self._fd >= 0:
            os.close(self._fd)

    def _path(self, first: int) -> Path:
        return self.directory / f"{first:020}.log"

    def _mend(self, path: Path) -> int:
        """Cut ``path`` back to its last whole line; returns that line's number, 0: it has none."""
        data = path.read_bytes()
        end = data.rfind(b"\n") + 1
        number = 0
        while end:
            start = data.rfind(b"\n", 0, end - 1) + 1
            record = _record(data[start : end - 1])
            if record is not None:
                number = record[_NUMBER]
                break
            end = start
        if end < len(data):
            os.truncate(path, end)
        return number

    def _first_line(self, first: int) -> int:
        lines = self._path(first).read_bytes().split(b"\n")
        return next((record[_NUMBER] for line in lines if (record := _record(line)) is not None), first)

    def _open_ceiling(self, last: int) -> int:
        """The next number: the ceiling that a crash left, the number that a close left."""
        path = self.directory / "ceiling"
        self._ceiling_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        said = _CEILING.fullmatch(os.pread(self._ceiling_fd, 100, 0).decode("ascii", "replace"))
        if said is None:
            # Begun, or lost: then nobody knows which numbers were given after the last line.
            self.id = secrets.token_hex(16)
            return last + 1 + (BLOCK if last else 0)
        self.id = said[1]
        return max(int(said[2]), last + 1)

    def _raise_ceiling(self, ceiling: int) -> None:
        # In place: this needs no room on the disk, and 54 bytes are written whole or not at all.
        os.pwrite(self._ceiling_fd, f"{self.id} {ceiling:020}\n".encode(), 0)
        os.fsync(self._ceiling_fd)
        if not self.ceiling:
            self._sync_directory()
        self.ceiling = ceiling

    def _open_last(self) -> None:
        self._fd = os.open(self._path(self.first[-1]), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._size = os.fstat(self._fd).st_size

    def _begin(self, number: int) -> None:
        """Begin a segment, and remove the oldest if there are too many."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._path(number), flags, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = fd, 0
        self.first.append(number)
        while len(self.first) > self.segments:
            self._path(self.first[0]).unlink(missing_ok=True)
            del self.first[0]
            self.oldest = self.first[0] if len(self.first) > 1 else 0
        self._sync_directory()

    def _sync_directory(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _record(line: bytes) -> dict[str, Any] | None:
    """What ``line`` says, None when it is broken."""
    if not _HEAD.match(line):
        return None
    try:
        record: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record


def _index_after(lines: list[bytes], after: int) -> int:
    """The index of the first of ``lines`` with a number after ``after``; 0 when broken lines are in the way."""
    try:
        return bisect.bisect_right(lines, after, key=_number)
    except ValueError:
        return 0


def _number(line: bytes) -> int:
    head = _HEAD.match(line)
    if head is None:
        raise ValueError("a broken line")
    return int(head[1])
