"""What the page about functions says of a worker's bounds."""

from __future__ import annotations

from pathlib import Path

from zcluster.core.peers import MOST_QUICK

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-function.md"


def test_the_page_tells_how_many_inline_calls_callers_share() -> None:
    assert f"it gets no more of them than {MOST_QUICK} at once" in " ".join(PAGE.read_text().split())
