"""Throughput against what is in flight: the points of a sweep, the same for requests and jobs.

Rules kept here:
- a point is one contender with one number in flight, its figures medians over the rounds;
- a latency that was not measured is None, and ``-`` in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from zcluster.bench.dapi import Level
from zcluster.bench.figures import Rows
from zcluster.bench.queueresult import QueueLevel


class Point(NamedTuple):
    """One contender with one number in flight."""

    in_flight: int
    name: str
    per_s: float
    p50_s: float | None
    p99_s: float | None
    errors: int


def request_points(levels: Sequence[Level]) -> list[Point]:
    """The points of a sweep of requests."""
    return [
        Point(level.in_flight, c.name, c.rate, c.percentile_s(50), c.percentile_s(99), sum(c.errors.values()))
        for level in levels
        for c in level.contenders
    ]


def job_points(levels: Sequence[QueueLevel]) -> list[Point]:
    """The points of a sweep of jobs: those done, and how long that took."""
    return [
        Point(level.in_flight, c.name, c.done_per_s, c.done_s(50), c.done_s(99), sum(c.errors.values()))
        for level in levels
        for c in level.contenders
    ]


def point_rows(points: Sequence[Point], unit: str) -> Rows:
    """A row for each point, contender by contender, under a head; ``unit`` is what is counted a second."""
    rows: Rows = [("", "in flight", f"{unit}/s", "p50 ms", "p99 ms", "errors")]
    names = list(dict.fromkeys(each.name for each in points))
    for each in sorted(points, key=lambda point: names.index(point.name)):
        cells = (_ms(each.p50_s), _ms(each.p99_s), f"{each.errors:,}")
        rows.append((each.name, f"{each.in_flight:,}", f"{each.per_s:,.0f}", *cells))
    return rows


def _ms(value_s: float | None) -> str:
    return "-" if value_s is None else f"{value_s * 1e3:,.3f}"
