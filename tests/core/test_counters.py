"""Counts by name."""

from __future__ import annotations

from zcluster.core.counters import Counters


def test_counts_grow() -> None:
    counters = Counters()
    counters.add("a")
    counters.add("a", 5)
    counters.add("b", 0)
    assert counters.values == {"a": 6, "b": 0}
