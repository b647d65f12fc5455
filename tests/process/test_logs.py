"""What a line of a log looks like, as text and as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time

import pytest

from zcluster.process.logs import JsonFormatter, TextFormatter, line_of, text_line


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def record(message: str, *args: object, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("zcluster", level, "file.py", 1, message, args, None)
    made.created = 1_792_000_000.25
    vars(made).update(extra)
    return made


def with_traceback() -> logging.LogRecord:
    made = record("it failed")
    try:
        raise ValueError("a \x1b[2J b")
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def test_text_is_one_line_whatever_is_in_it() -> None:
    made = record("hello %s", "a\nb\x1b", fields={"name": "w\r1", "empty": "", "count": 0}, request_id="7.1")
    text = TextFormatter("master").format(made)
    assert text == "17:46:40.250 info    master hello a\\nb\\x1b name=w\\r1 count=0 request_id=7.1"


def test_a_traceback_follows_on_lines_of_its_own_escaped() -> None:
    first, *rest = TextFormatter("master").format(with_traceback()).splitlines()
    assert first.endswith("master it failed")
    assert rest[0].startswith("Traceback")
    assert rest[-1] == "ValueError: a \\x1b[2J b"


def test_a_line_of_another_node_cannot_write_to_the_terminal() -> None:
    hostile = "\x1b[2J\n"
    text = text_line(dict.fromkeys(("time", "level", "node", "message"), hostile) | {"fields": {hostile: hostile}})
    assert "\x1b" not in text
    assert "\n" not in text
    assert text_line({}).strip() != ""
    assert text_line({"fields": ["no", "object"], "traceback": None, "time": 5}) != ""


def test_json_keeps_what_the_line_says_of_itself() -> None:
    made = record("node_dead", level=logging.WARNING, fields={"node": "w1", "level": 3, "reason": "x"})
    assert json.loads(JsonFormatter("master").format(made)) == {
        "time": "2026-10-14T17:46:40.250Z", "level": "warning", "node": "master", "message": "node_dead",
        "about_node": "w1", "about_level": 3, "reason": "x",
    }  # fmt: skip
    assert "ValueError" in json.loads(JsonFormatter("m").format(with_traceback()))["traceback"]


def test_the_parts_of_a_line() -> None:
    line = line_of(record("hello", fields={"a": 1}), "w1", logging.Formatter())
    assert line == {"time": "2026-10-14T17:46:40.250Z", "level": "info", "node": "w1", "message": "hello", "fields": {"a": 1}}
