"""Values of jobs in answers: as they are when they are large, checked once, and none that is no JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest

from zcluster.brokers.queuevalues import LARGE_BYTES, error_of, values_of
from zcluster.errors import PeerError

SMALL = orjson.dumps("x" * (LARGE_BYTES - 2))
"""As large as a value may be that is decoded here and now."""
LARGE = orjson.dumps("x" * (LARGE_BYTES - 1))


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values each thread was given."""
    seen: list[int] = []

    async def to_thread(call: Callable[..., Any], results: Sequence[bytes]) -> Any:
        seen.append(len(results))
        return call(results)

    monkeypatch.setattr("zcluster.brokers.queuevalues.asyncio.to_thread", to_thread)
    return seen


def test_what_is_large_together_is_looked_at_in_a_thread(threads: list[int]) -> None:
    assert asyncio.run(values_of([SMALL])) == ["x" * (LARGE_BYTES - 2)]
    assert asyncio.run(values_of([b"", b"null", b"[1]"])) == [None, None, [1]]
    assert threads == []
    assert asyncio.run(values_of([SMALL, b"1"])) == ["x" * (LARGE_BYTES - 2), 1]
    assert threads == [2]


def test_a_large_value_goes_as_it_is(threads: list[int]) -> None:
    (value,) = asyncio.run(values_of([LARGE]))
    assert isinstance(value, orjson.Fragment)
    assert orjson.dumps({"value": value}) == b'{"value":' + LARGE + b"}"
    assert threads == [1]


@pytest.mark.parametrize("end", [b"", b'"]x', b'\xff"]', b'\x01"]', b'\xed\xa0\x80"]', b'\\ud800"]', b'\\x"]', b'",]', b'"]\0'])
def test_what_is_no_json_is_an_error_of_its_own(threads: list[int], end: bytes) -> None:
    spoiled = (b'["y' + end, b'["' + b"y" * LARGE_BYTES + end)
    first, *found, last = asyncio.run(values_of([b"1", *spoiled, b"2"]))
    assert (first, last) == (1, 2)
    assert [each.code for each in found if isinstance(each, PeerError)] == ["protocol_error"] * 2


@pytest.mark.parametrize("depth", [2000, LARGE_BYTES])
def test_what_is_nested_too_deeply_is_none(depth: int) -> None:
    (found,) = asyncio.run(values_of([b"[" * depth + b"]" * depth]))
    assert isinstance(found, PeerError)


def test_an_error_is_read_however_large_it_is(threads: list[int]) -> None:
    for text, count in (("no", 0), ("n" * LARGE_BYTES, 1)):
        error = asyncio.run(error_of(orjson.dumps({"code": "rejected", "message": text})))
        assert (error.code, text.startswith(error.message[:100]), len(threads)) == ("rejected", True, count)
    assert asyncio.run(error_of(b"[]")).code == asyncio.run(error_of(b"{}")).code
