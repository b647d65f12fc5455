"""Durations and sizes: what is read, what is refused, and where the bounds are."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.config import format_bytes, parse_bytes, parse_duration_s
from zcluster.config.units import MAX_DURATION_S, MAX_SIZE_BYTES
from zcluster.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5s", 5.0),
        ("10m", 600.0),
        ("250ms", 0.25),
        ("1h", 3600.0),
        ("1.5h", 5400.0),
        ("2d", 172800.0),
        ("30", 30.0),
        (0, 0.0),
        (0.1, 0.1),
        (" 3S ", 3.0),
    ],
)
def test_a_duration_is_read(value: str | float, seconds: float) -> None:
    assert parse_duration_s(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "s",
        "5 s",
        "-1s",
        "+1s",
        "1e3",
        "5x",
        "5sec",
        "inf",
        "nan",
        "1_000",
        "٣s",
        "1.",
        ".5",
        "9" * 17,
        -1,
        -0.001,
        math.inf,
        -math.inf,
        math.nan,
        True,
        False,
    ],
)
def test_what_is_no_duration_is_refused(value: str | float) -> None:
    with pytest.raises(ConfigError, match="expected a duration"):
        parse_duration_s(value)


def test_the_longest_duration_and_one_more() -> None:
    assert parse_duration_s(MAX_DURATION_S) == MAX_DURATION_S
    with pytest.raises(ConfigError, match="at most"):
        parse_duration_s(MAX_DURATION_S + 1)


@pytest.mark.parametrize("value", [None, [], b"5s"])
def test_other_types_are_refused_with_their_name(value: object) -> None:
    with pytest.raises(ConfigError, match=type(value).__name__):
        parse_duration_s(value)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=type(value).__name__):
        parse_bytes(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        ("64MiB", 64 << 20),
        ("64mib", 64 << 20),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("512", 512),
        ("512B", 512),
        (0, 0),
        ("0.1MB", 100000),
        ("1.5KiB", 1536),
        ("1TiB", 1 << 40),
    ],
)
def test_a_size_is_read(value: str | int, size_bytes: int) -> None:
    assert parse_bytes(value) == size_bytes


@pytest.mark.parametrize("value", ["", "MiB", "64 MiB", "-1", "64MiBs", "1.5", "0.0001KiB", "64M", True, -1])
def test_what_is_no_size_is_refused(value: str | int) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse_bytes(value)


def test_the_largest_size_and_one_more() -> None:
    assert parse_bytes(MAX_SIZE_BYTES) == MAX_SIZE_BYTES
    with pytest.raises(ConfigError, match="at most"):
        parse_bytes(MAX_SIZE_BYTES + 1)


@given(st.integers(0, MAX_SIZE_BYTES))
def test_a_formatted_size_reads_back(size_bytes: int) -> None:
    assert parse_bytes(format_bytes(size_bytes)) == size_bytes


@given(st.integers(0, 1 << 18), st.sampled_from([("KiB", 1 << 10), ("MiB", 1 << 20)]))
def test_whole_units_are_formatted_short(count: int, unit: tuple[str, int]) -> None:
    assert len(format_bytes(count * unit[1])) <= len(f"{count}{unit[0]}") or count == 0


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_but_nothing_else(text: str) -> None:
    for parse in (parse_bytes, parse_duration_s):
        with contextlib.suppress(ConfigError):
            assert parse(text) >= 0


def test_a_number_of_thousands_of_digits_is_refused_cheaply() -> None:
    with pytest.raises(ConfigError, match="at most"):
        parse_bytes(10**5000)
    with pytest.raises(ConfigError, match="at most"):
        parse_duration_s(10**5000)
    with pytest.raises(ConfigError, match="expected"):
        parse_bytes(-(10**5000))
