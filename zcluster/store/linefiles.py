"""The files of a line log: segments of JSON lines, and the ceiling of their numbers. Blocking, for one thread at a time.

Rules kept here:
- lines are appended whole and synced, or not at all; after a crash the last segment is cut back to its last whole line;
- numbers are given below a ceiling that was on the disk before.
"""

from __future__ import annotations

import bisect
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from zcluster.errors import StoreFailed

MAX_READ_BYTES = 16 * 1024 * 1024
"""A read ends after the line that makes it this large, whatever its limit."""
BLOCK = 100_000
"""How far the ceiling is above the numbers that are given, at most; a crash leaves a gap of at most this."""

NUMBER = "sequence"
_HEAD = re.compile(rb'\{"sequence":(\d{1,18})[,}]')
_CEILING = re.compile(r"([0-9a-f]{32}) (\d{20})\n")


@dataclass(frozen=True, slots=True)
class Lines:
    """Consecutive lines, encoded."""

    first: int
    last: int
    data: bytes

    @property
    def count(self) -> int:
        return self.last - self.first + 1


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

    def write(self, lines: list[Lines]) -> None:
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
                if record is None or record[NUMBER] <= after:
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
                number = record[NUMBER]
                break
            end = start
        if end < len(data):
            os.truncate(path, end)
        return number

    def _first_line(self, first: int) -> int:
        lines = self._path(first).read_bytes().split(b"\n")
        return next((record[NUMBER] for line in lines if (record := _record(line)) is not None), first)

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
    head = _HEAD.match(line)
    if head is None:
        return None
    try:
        record: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    # A line that has its number twice would be another line's for whoever reads it.
    return record if record[NUMBER] == int(head[1]) else None


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
