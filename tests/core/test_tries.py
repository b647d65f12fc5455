"""Buckets of tokens: what passes, what does not, and that nothing is remembered without a bound."""

from __future__ import annotations

import pytest

from zcluster.core import tries as module
from zcluster.core.tries import Bucket, Tries


def test_a_bucket_gives_what_it_has_and_fills_with_time() -> None:
    bucket = Bucket(3, 2.0, now=10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(10.49)
    assert bucket.take(10.5)
    assert not bucket.take(10.5)
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False], "it holds no more than it began with"


def test_a_bucket_tells_how_long_it_is_empty() -> None:
    bucket = Bucket(2, 0.5, now=0.0)
    assert bucket.take(0.0)
    assert bucket.wait_s(0.0) == 0.0
    assert bucket.take(0.0)
    assert bucket.wait_s(0.0) == 2.0
    assert bucket.wait_s(1.5) == 0.5
    assert bucket.wait_s(2.0) == 0.0
    assert bucket.take(2.0)


def test_time_that_goes_back_takes_nothing_and_gives_nothing() -> None:
    bucket = Bucket(1, 1.0, now=10.0)
    assert bucket.take(10.0)
    assert not bucket.take(5.0)
    assert bucket.take(6.0)


def test_an_address_is_limited_and_others_are_not() -> None:
    tries = Tries(0.0)
    assert [tries.allow("a", 0.0) for _ in range(module.PER_ADDRESS + 1)] == [True] * module.PER_ADDRESS + [False]
    assert tries.allow("b", 0.0)
    assert tries.allow("a", 1.0)


def test_all_addresses_together_are_limited() -> None:
    tries = Tries(0.0)
    allowed = [tries.allow(f"10.0.0.{number}", 0.0) for number in range(module.IN_ALL + 1)]
    assert allowed == [True] * module.IN_ALL + [False]


@pytest.mark.parametrize(("others", "forgotten"), [(0, False), (1, True)])
def test_the_addresses_remembered_are_bounded(others: int, forgotten: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ADDRESSES", 4)
    monkeypatch.setattr(module, "IN_ALL", 1000)
    tries = Tries(0.0)
    for _ in range(module.PER_ADDRESS):
        assert tries.allow("a", 0.0)
    for number in range(3 + others):
        tries.allow(f"b{number}", 0.0)
    assert tries.allow("a", 0.0) is forgotten


def test_what_would_be_allowed_is_told_and_nothing_is_taken() -> None:
    tries = Tries(0.0)
    for _ in range(module.PER_ADDRESS):
        assert tries.would("a", 0.0)
        assert tries.would("a", 0.0)
        assert tries.allow("a", 0.0)
    assert not tries.would("a", 0.0)
    assert tries.would("b", 0.0)
    assert tries.would("a", 1.0)
    for number in range(module.IN_ALL):
        tries.allow(f"c{number}", 0.0)
    assert not tries.would("d", 0.0), "in all"
