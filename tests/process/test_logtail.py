"""The newest lines of a log in memory: numbered, and bounded in lines, in bytes, and each by itself."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator

import pytest

from zcluster.process import logtail as module
from zcluster.process.logtail import MAX_BYTES, MAX_LINE_BYTES, MAX_LINES, LogTail


class Logger:
    """A logger with a tail, and how often it grew."""

    def __init__(self) -> None:
        self.grown = 0
        self.tail = LogTail("w1", self._count)
        self.log = logging.Logger("test", logging.DEBUG)  # none of the registered ones, which pytest listens to
        self.log.addHandler(self.tail)

    def _count(self) -> None:
        self.grown += 1


@pytest.fixture
def logger() -> Iterator[Logger]:
    made = Logger()
    yield made
    made.log.removeHandler(made.tail)


def test_lines_are_numbered_from_one(logger: Logger) -> None:
    assert (logger.tail.newest, logger.tail.oldest, logger.tail.read(0, 10)) == (0, 1, [])
    logger.log.info("one", extra={"fields": {"name": "ä"}})
    logger.log.warning("two")
    one, two = logger.tail.read(0, 10)
    assert (one["sequence"], one["level"], one["node"], one["message"], one["fields"]) == (1, "info", "w1", "one", {"name": "ä"})
    assert (two["sequence"], two["level"], two["fields"]) == (2, "warning", {})
    assert logger.tail.read(1, 10) == [two]
    assert logger.tail.read(0, 1) == [one]
    assert logger.tail.read(2, 10) == []
    assert logger.grown == 2


def test_it_keeps_so_many_lines_and_one_more_ends_the_oldest(logger: Logger) -> None:
    for number in range(MAX_LINES):
        logger.log.info("%d", number)
    assert (logger.tail.oldest, len(logger.tail.read(0, MAX_LINES + 1))) == (1, MAX_LINES)
    logger.log.info("one more")
    assert (logger.tail.oldest, logger.tail.newest) == (2, MAX_LINES + 1)
    lines = logger.tail.read(0, MAX_LINES + 1)
    assert [line["sequence"] for line in lines] == list(range(2, MAX_LINES + 2))


def test_it_keeps_so_many_bytes(logger: Logger) -> None:
    for _ in range(MAX_BYTES // 4000 + 10):
        logger.log.info("x" * 4000)
    kept = logger.tail.read(0, MAX_LINES)
    size = len(json.dumps({key: value for key, value in kept[0].items() if key != "sequence"}, separators=(",", ":")))
    assert MAX_BYTES - size < len(kept) * size <= MAX_BYTES


def test_a_line_at_the_limit_is_whole_and_one_byte_more_cuts_it(logger: Logger) -> None:
    logger.log.info("")
    (empty,) = logger.tail.read(0, 1)
    room = MAX_LINE_BYTES - len(json.dumps({k: v for k, v in empty.items() if k != "sequence"}, separators=(",", ":")))
    logger.log.info("x" * room)
    logger.log.info("x" * (room + 1), extra={"fields": {}})
    whole, cut = logger.tail.read(1, 2)
    assert (len(whole["message"]), whole["fields"]) == (room, {})
    assert (len(cut["message"]), cut["fields"]) == (module.MAX_TEXT_CHARS, {"cut": f"this line had {MAX_LINE_BYTES + 1} bytes"})


def test_a_long_traceback_keeps_its_end(logger: Logger) -> None:
    try:
        raise ValueError("y" * MAX_LINE_BYTES + "the end")
    except ValueError:
        logger.log.exception("it failed")
    (line,) = logger.tail.read(0, 1)
    assert (line["message"], len(line["traceback"])) == ("it failed", module.MAX_TEXT_CHARS)
    assert line["traceback"].endswith("the end")


def test_what_is_kept_is_what_was_said_then_and_can_be_sent(logger: Logger) -> None:
    fields = {"names": ["a"], "path": "a\udc80", "object": threading}
    logger.log.info("surrogate \udc80", extra={"fields": fields})
    fields["names"] = ["b"]
    (line,) = logger.tail.read(0, 1)
    assert line["message"] == "surrogate ?"
    assert (line["fields"]["names"], line["fields"]["path"]) == (["a"], "a?")
    assert json.dumps(line).encode("utf-8")


def test_a_record_that_cannot_be_formatted_disturbs_nobody(logger: Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logger.log.info("%d and %d", 1)
    logger.log.info("next")
    assert [line["message"] for line in logger.tail.read(0, 10)] == ["next"]
    assert "not enough arguments" in capsys.readouterr().err


def test_threads_lose_no_line(logger: Logger) -> None:
    def write() -> None:
        for _ in range(200):
            logger.log.info("line")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line["sequence"] for line in logger.tail.read(0, MAX_LINES)] == list(range(1, 801))
    assert logger.grown == 800


def test_each_process_has_lines_of_its_own() -> None:
    assert LogTail("a", lambda: None).id != LogTail("a", lambda: None).id
