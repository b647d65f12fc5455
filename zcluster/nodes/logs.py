"""A node's own log over the bus: the function ``node.logs``.

Rules kept here:
- only admins read logs: what is in them concerns all who use the node;
- who follows reads at its own pace, from the lines in memory: nothing is kept for it. What it was too slow for is told as a line
  that says how many are gone, never passed over in silence;
- at most MAX_FOLLOWERS follow, and none keeps the node from ending.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from zcluster.config import Loaded
from zcluster.dapi.function import Function, function
from zcluster.errors import Busy, Draining
from zcluster.nodes.desk import Desk
from zcluster.process.logs import LEVELS
from zcluster.process.logtail import MAX_LINES, Line, LogTail

PAGE = 100
MAX_FOLLOWERS = 16
RETRY_S = 5.0

Lines = Annotated[int, msgspec.Meta(ge=0, le=MAX_LINES)]
After = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
LogId = Annotated[str, msgspec.Meta(max_length=64)]
Level = Literal["debug", "info", "warning", "error"]


class Logs:
    """Part of a node: the newest lines of its log."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._loop: asyncio.AbstractEventLoop | None = None
        self._more = asyncio.Event()
        self._followers = 0
        self._tail = LogTail(desk.name, self._grown)
        desk.logger.addHandler(self._tail)

    def functions(self) -> dict[str, Function]:
        """``node.logs``."""
        found = Function(self._logs(), own_errors=True)
        return {found.name: found}

    async def start(self) -> None:
        """Lines that come from now on are told to who follows."""
        self._loop = asyncio.get_running_loop()

    def apply(self, loaded: Loaded) -> None:
        """The level is the logger's own."""

    async def close(self) -> None:
        """Keep no more lines."""
        self._desk.logger.removeHandler(self._tail)
        self._loop = None

    def _grown(self) -> None:
        """There is another line. In any thread."""
        if self._followers and self._loop is not None:
            self._loop.call_soon_threadsafe(self._more.set)

    def _logs(self) -> Callable[..., Any]:
        tail = self._tail

        @function("node.logs", role="admin")
        async def logs(
            lines: Lines = 100, level: Level = "debug", follow: bool = False, after: After | None = None, log: LogId = ""
        ) -> AsyncIterator[dict[str, Any]]:
            """The newest lines of the node's own log, at most 2,000, of ``level`` and above; with ``follow`` then each when it is
            written, until the deadline. First comes where it begins ({log, newest}); each line has sequence, time, level, node,
            message, fields, and its traceback. ``after`` goes on behind a sequence of ``log``."""
            wanted = frozenset(LEVELS[LEVELS.index(level) :]) | {"critical"}
            position = tail.newest
            yield {"log": tail.id, "newest": position}
            if after is not None:
                position = after if log in ("", tail.id) and after <= tail.newest else 0
            else:
                for line in self._newest(lines, wanted, position):
                    yield line
            if follow or after is not None:
                async with aclosing(self._from(position, follow)) as more:
                    async for line in more:
                        if line["level"] in wanted:
                            yield line

        return logs

    def _newest(self, lines: int, wanted: frozenset[str], upto: int) -> deque[Line]:
        """The last ``lines`` of the ``wanted`` levels up to number ``upto``."""
        found = (line for line in self._tail.read(0, MAX_LINES) if line["sequence"] <= upto and line["level"] in wanted)
        return deque(found, maxlen=lines)

    async def _from(self, position: int, follow: bool) -> AsyncGenerator[Line, None]:
        """The lines after ``position``, and where some are gone a line that says so; with ``follow`` it does not end.

        Raises:
            Busy: too many follow. Draining: the node ends.
        """
        tail, ending = self._tail, self._desk.ending
        if follow and self._followers >= MAX_FOLLOWERS:
            raise Busy(f"{MAX_FOLLOWERS} follow this log already", hint="end one of them", retry_after_s=RETRY_S)
        self._followers += follow
        try:
            while True:
                self._more.clear()
                page = tail.read(position, PAGE)
                if page and page[0]["sequence"] > position + 1:
                    yield self._missed(position, page[0]["sequence"])
                for line in page:
                    position = line["sequence"]
                    yield line
                if page:
                    continue
                if not follow:
                    return
                if ending.is_set():
                    raise Draining("the node is shutting down", hint="its log can be followed again when it is back")
                await self._wait(ending)
        finally:
            self._followers -= follow

    async def _wait(self, ending: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._more, ending)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _missed(self, after: int, first: int) -> Line:
        now = datetime.fromtimestamp(self._desk.wall_s(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {
            "sequence": first - 1, "time": now, "level": "warning", "node": self._desk.name,
            "message": "lines are missing here: more were written than were read", "fields": {"missed": first - 1 - after},
        }  # fmt: skip
