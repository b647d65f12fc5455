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
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from zcluster.errors import one_line

LEVELS = ("debug", "info", "warning", "error")
"""From the least to the most serious."""


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


def line_of(record: logging.LogRecord, node: str, formatter: logging.Formatter) -> dict[str, Any]:
    """What a record says, in parts: time, level, node, message, fields, and the traceback if there is one."""
    line: dict[str, Any] = {"time": _moment(record), "level": record.levelname.lower(), "node": node}
    line["message"] = record.getMessage()
    line["fields"] = _fields(record)
    if record.exc_info:
        line["traceback"] = formatter.formatException(record.exc_info)
    return line


def text_line(line: Mapping[str, Any]) -> str:
    """``TIME LEVEL NODE message field=value ...``, the time being local; a traceback follows on lines of its own.

    ``line`` may come from another node: nothing in it reaches a terminal unescaped.
    """
    said = line.get("fields")
    fields = said if isinstance(said, Mapping) else {}
    shown = "".join(f" {one_line(str(name))}={one_line(str(value))}" for name, value in fields.items() if value != "")
    head, level = _clock(line.get("time")), one_line(str(line.get("level", "")))
    text = f"{head} {level:7} {one_line(str(line.get('node', '')))} {one_line(str(line.get('message', '')))}{shown}"
    traceback = str(line.get("traceback") or "")
    return "\n".join([text, *map(one_line, traceback.splitlines())])


def _clock(moment: object) -> str:
    """The local time of day of ``moment``, which is as in a line."""
    try:
        return datetime.fromisoformat(str(moment)).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError):
        return one_line(str(moment))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, node, message, the record's fields, and the traceback if there is one."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        line = line_of(record, self._node, self)
        fields = line.pop("fields")
        traceback = line.pop("traceback", None)
        # What an event says of a node (or a level) is not what this line says of itself.
        line.update({f"about_{name}" if name in line else name: value for name, value in fields.items()})
        if traceback is not None:
            line["traceback"] = traceback
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """As ``text_line``."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        return text_line(line_of(record, self._node, self))
