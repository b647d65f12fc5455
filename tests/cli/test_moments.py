"""Times of the command line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from zcluster.cli.moments import parse_moment_s
from zcluster.errors import UsageError


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone that puts its clocks forward and back, whatever zone the machine is in: rules of POSIX need no zone files."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


NOW_S = unix("2026-11-19T12:00:00+01:00")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-11-19T08:00", "2026-11-19T08:00:00+01:00"),
        ("2026-07-01 08:00:30", "2026-07-01T08:00:30+02:00"),
        ("2026-11-19T08:00Z", "2026-11-19T08:00:00+00:00"),
        ("2026-11-19T08:00:00.5-03:30", "2026-11-19T08:00:00.500000-03:30"),
        ("2026-11-20", "2026-11-20T00:00:00+01:00"),
        (" 12:01 ", "2026-11-19T12:01:00+01:00"),
        ("12:00:01", "2026-11-19T12:00:01+01:00"),
        ("12:00", "2026-11-20T12:00:00+01:00"),
        ("8:15", "2026-11-20T08:15:00+01:00"),
        ("@0", "1970-01-01T00:00:00+00:00"),
        ("@1795000000.25", "2026-11-18T11:06:40.250000+00:00"),
    ],
)
def test_a_time_is_read(text: str, meant: str) -> None:
    assert parse_moment_s(text, NOW_S) == unix(meant)


def test_a_time_of_day_is_wall_time_over_a_change_of_clocks() -> None:
    for now, meant in (
        ("2026-10-24T09:00:00+02:00", "2026-10-25T08:00:00+01:00"),
        ("2026-03-28T09:00:00+01:00", "2026-03-29T08:00:00+02:00"),
    ):
        assert parse_moment_s("08:00", unix(now)) == unix(meant)
    assert parse_moment_s("02:30", unix("2026-10-25T02:45:00+02:00")) == unix("2026-10-25T02:30:00+01:00"), "it comes twice"


@pytest.mark.parametrize(
    "text", ["", "soon", "@", "@-5", "@1e9", "24:00", "08:60", "8", "2026-13-01", "2026-11-19T25:00", "1795000000"]
)
def test_what_is_no_time_is_told_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError, match="expected a time") as caught:
        parse_moment_s(text, NOW_S)
    assert "@UNIX" in caught.value.hint
