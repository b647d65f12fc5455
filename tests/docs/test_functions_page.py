"""What the page about functions says of a worker's bounds."""

from __future__ import annotations

from pathlib import Path

from zcluster.core.peers import MOST_QUICK
from zcluster.dapi.weight import (
    BLANKS,
    FEW_ODD,
    LARGE_BYTES,
    LONG_DIGITS,
    MAX_BLANKS,
    MAX_ESCAPES,
    MAX_LONG,
    MAX_ODD,
    MAX_TEXT_BYTES,
    MAX_VALUES,
    ODD_BYTES,
)

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-function.md"


def test_the_page_tells_how_many_inline_calls_callers_share() -> None:
    assert f"it gets no more of them than {MOST_QUICK} at once" in " ".join(PAGE.read_text().split())


def test_the_page_tells_what_arguments_may_hold() -> None:
    page = PAGE.read_text()
    for most in (MAX_VALUES, MAX_ESCAPES, MAX_LONG * LONG_DIGITS, MAX_ODD, MAX_BLANKS * BLANKS):
        assert f"| {most:,} |" in page
    assert f"| {MAX_TEXT_BYTES >> 20} MiB |" in page
    assert f"in numbers of {LONG_DIGITS} digits and more" in page
    assert f"in short arguments {FEW_ODD}, and one more for each {ODD_BYTES} bytes" in page
    assert f"in a row of {BLANKS} and more" in page
    assert f"Arguments of more than {LARGE_BYTES // 1000} kB are read in steps" in page
