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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from zcluster.errors import StoreFailed, TooLarge, UsageError
from zcluster.store.lane import Lane
from zcluster.store.linefiles import NUMBER, Lines, Segments

SEGMENT_BYTES = 4 * 1024 * 1024
SEGMENTS = 16
MAX_LINE_BYTES = 65_536
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 16 * 1024 * 1024
MAX_READ = 10_000


@dataclass(frozen=True, slots=True)
class _Flush:
    future: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Read:
    after: int
    limit: int
    future: asyncio.Future[list[dict[str, Any]]]


_Item = Lines | _Flush | _Read


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
        if NUMBER in record:
            raise UsageError(f"a line has no {NUMBER!r} of its own")
        try:
            data = orjson.dumps({NUMBER: self.newest + 1, **record}) + b"\n"
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
            parts.append(b'{"%s":%d,%s\n' % (NUMBER.encode(), number, record[1:]))
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
        self._lane.put(Lines(first, self.newest, data))
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
        lines = [item for item in items if isinstance(item, Lines)]
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

    def _done(self, lines: list[Lines], lost: int, oldest: int, answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
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
