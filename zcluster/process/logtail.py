"""The newest lines of a daemon's log, in memory, for who asks over the bus.

Rules kept here:
- MAX_LINES lines and MAX_BYTES at most, one line MAX_LINE_BYTES: what is logged never decides how much memory it takes;
- lines are numbered without gaps: a reader sees from the numbers how many are gone;
- a record may come from any thread, readers are in one; what is kept is text: later changes of a record's fields do not show.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from zcluster.process.logs import line_of

MAX_LINES = 2000
MAX_BYTES = 1024 * 1024
MAX_LINE_BYTES = 8192
MAX_TEXT_CHARS = 2000
"""Of the message, and of the end of the traceback, in a line that would be longer than MAX_LINE_BYTES."""

Line = dict[str, Any]


class LogTail(logging.Handler):
    """Keeps the newest lines of the loggers that it is added to.

    Args:
        node: the name that each line carries.
        grown: called with each new line, in the thread that logs.
    """

    def __init__(self, node: str, grown: Callable[[], None]) -> None:
        super().__init__()
        self._node, self._grown = node, grown
        self._plain = logging.Formatter()
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self.newest = 0
        """The number of the newest line; the first one has 1."""
        self.id = secrets.token_hex(8)
        """Of this process's lines: with another id their numbers say nothing of these."""

    @property
    def oldest(self) -> int:
        """The number of the oldest line that is there; one more than ``newest`` when there is none."""
        return self.newest - len(self._lines) + 1

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what ``record`` says."""
        try:
            data = _encoded(line_of(record, self._node, self._plain))
        except Exception:  # as every handler of logging: a record that cannot be formatted is told on stderr, not to who logs
            self.handleError(record)
            return
        self._lines.append(data)
        self._bytes += len(data)
        self.newest += 1
        while len(self._lines) > MAX_LINES or self._bytes > MAX_BYTES:
            self._bytes -= len(self._lines.popleft())
        self._grown()

    def read(self, after: int, limit: int) -> list[Line]:
        """The lines after number ``after``, the first ``limit`` of them; each with its number as ``sequence``."""
        self.acquire()
        try:
            first = max(after + 1, self.oldest)
            kept = list(islice(self._lines, first - self.oldest, first - self.oldest + limit))
        finally:
            self.release()
        return [{"sequence": first + number, **json.loads(data)} for number, data in enumerate(kept)]


def _encoded(line: Line) -> bytes:
    data = _json(line)
    if len(data) <= MAX_LINE_BYTES:
        return data
    line["message"] = line["message"][:MAX_TEXT_CHARS]
    line["fields"] = {"cut": f"this line had {len(data)} bytes"}
    if "traceback" in line:
        line["traceback"] = line["traceback"][-MAX_TEXT_CHARS:]
    return _json(line)


def _json(line: Line) -> bytes:
    # A lone surrogate, as file names have them, is no text for the wire.
    return json.dumps(line, default=str, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
