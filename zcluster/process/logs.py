"""Logs of the daemons: text for a person at a terminal, JSON lines otherwise.

Rules kept here:
- one record is one line, whatever is in its message: control characters are escaped;
- fields given as ``extra={"fields": {...}}`` and ``extra={"request_id": ...}`` become fields of the line;
- secrets never come here: what is logged is names, fingerprints, counts and errors.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from zcluster.errors import one_line


def start_logging(level: str, style: str, node: str, stream: TextIO | None = None) -> logging.Logger:
    """Set up the logger ``zcluster`` to write to ``stream`` (default: stderr).

    Args:
        level: debug, info, warning or error.
        style: ``text``, ``json``, or ``auto``: text on a terminal.
        node: the name that each line carries.
    """
    out = stream if stream is not None else sys.stderr
    text = style == "text" or (style == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(TextFormatter(node) if text else JsonFormatter(node))
    logger = logging.getLogger("zcluster")
    logger.handlers[:] = [handler]
    logger.propagate = False
    set_level(level)
    return logger


def set_level(level: str) -> None:
    """Change the level of a running daemon."""
    logging.getLogger("zcluster").setLevel(level.upper())


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "fields", None) or {})
    request_id = getattr(record, "request_id", "")
    if request_id:
        fields["request_id"] = request_id
    return fields


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, node, message, the record's fields, and the traceback if there is one."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": _moment(record), "level": record.levelname.lower(), "node": self._node}
        line["message"] = record.getMessage()
        # What an event says of a node (or a level) is not what this line says of itself.
        line.update({f"about_{name}" if name in line else name: value for name, value in _fields(record).items()})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """``TIME LEVEL NODE message field=value ...``; a traceback follows on lines of its own."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={one_line(str(value))}" for name, value in _fields(record).items() if value != "")
        moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        line = f"{moment} {record.levelname.lower():7} {self._node} {one_line(record.getMessage())}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
