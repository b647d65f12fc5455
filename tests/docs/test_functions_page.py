"""What the page about functions says of a worker's bounds."""

from __future__ import annotations

from pathlib import Path

from zcluster.core.peers import MOST_QUICK
from zcluster.dapi.weight import (
    BLANKS,
    FEW_SLOW,
    LARGE_BYTES,
    LIGHT_BYTES,
    LONG_DIGITS,
    MAX_BACKSLASHES,
    MAX_BLANKS,
    MAX_QUOTES,
    MAX_SLOW,
    MAX_TEXT_BYTES,
    MAX_VALUES,
    ODD,
    SLOW_BYTES,
    VERY_LONG,
    VERY_LONG_DIGITS,
)

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-function.md"


def test_the_page_tells_how_many_inline_calls_callers_share() -> None:
    assert f"it gets no more of them than {MOST_QUICK} at once" in " ".join(PAGE.read_text().split())


def test_the_page_tells_what_arguments_may_hold() -> None:
    page = " ".join(PAGE.read_text().split())
    for most in (MAX_VALUES, MAX_BACKSLASHES, MAX_SLOW, MAX_BLANKS * BLANKS):
        assert f"| {most:,} |" in page
    assert f"| {MAX_TEXT_BYTES >> 20} MiB |" in page
    assert f"one with a fraction and {LONG_DIGITS} digits counts once" in page
    assert VERY_LONG == 2
    assert f"one of {VERY_LONG_DIGITS} digits, twice for each {VERY_LONG_DIGITS}" in page
    assert f"an exponent of three digits, {ODD} times" in page
    assert f"that stand {BLANKS} and more in a row" in page
    assert MAX_SLOW * SLOW_BYTES == 1_000_000
    assert f"up to 1 MB may have fewer slow numbers: {FEW_SLOW}, and one more for each {SLOW_BYTES} bytes" in page
    assert f"Those of up to {LIGHT_BYTES >> 10} KiB are not looked at" in page
    assert f"Behind the first {MAX_QUOTES:,} quotes" in page
    assert f"Arguments of more than {LARGE_BYTES >> 10} KiB are read in steps" in page
