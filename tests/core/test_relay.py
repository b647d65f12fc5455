"""The master's credit for large bodies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.relay import Gate, Relay
from zcluster.errors import PeerError

OWNER: Any = None


def relay(size: int = 1000) -> Relay:
    return Relay(OWNER, 0, size)


def test_credit_is_passed_on_up_to_the_limit() -> None:
    gate, first, second = Gate(100, 1000), relay(), relay()
    assert gate.want(first, 60)
    assert gate.want(second, 40)
    assert gate.used_bytes == 100
    assert not gate.want(first, 61)
    assert gate.release(1) == [first]
    assert (first.granted, gate.used_bytes) == (61, 100)


def test_one_transfer_alone_always_goes_on() -> None:
    gate, alone = Gate(10, 1000), relay()
    assert gate.want(alone, 500)
    assert gate.used_bytes == 500


def test_grants_wait_in_their_order() -> None:
    gate, big, small, next_ = Gate(100, 1000), relay(), relay(), relay()
    assert gate.want(big, 100)
    assert not gate.want(small, 50)
    assert not gate.want(next_, 1)
    assert gate.release(49) == []
    assert gate.release(2) == [small, next_]


def test_the_same_credit_twice_is_nothing() -> None:
    gate, one = Gate(100, 1000), relay(50)
    assert gate.want(one, 1000)
    assert one.granted == 50
    assert not gate.want(one, 1000)
    assert not gate.want(one, 10)
    assert gate.used_bytes == 50


def test_a_closed_transfer_gives_back_what_did_not_come() -> None:
    gate, first, second = Gate(100, 1000), relay(), relay()
    gate.want(first, 100)
    assert not gate.want(second, 80)
    assert first.accept(0, 30) is False
    assert gate.close(first) == []
    assert gate.close(first) == []
    assert gate.used_bytes == 30
    assert gate.release(30) == [second]
    assert gate.close(second) == []
    assert gate.used_bytes == 0


def test_a_closed_transfer_does_not_wait_any_more() -> None:
    gate, first, second = Gate(100, 1000), relay(), relay()
    gate.want(first, 100)
    gate.want(second, 100)
    gate.close(second)
    assert gate.release(100) == []
    assert gate.used_bytes == 0


@pytest.mark.parametrize(("offset", "length"), [(1, 10), (0, 51), (0, 0)])
def test_a_chunk_is_the_next_one_and_granted(offset: int, length: int) -> None:
    gate, one = Gate(100, 1000), relay(60)
    gate.want(one, 50)
    with pytest.raises(PeerError):
        one.accept(offset, length)
    assert one.accept(0, 50) is False
    gate.want(one, 60)
    assert one.accept(50, 10) is True


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 120)), max_size=60))
def test_what_is_used_is_what_was_granted_and_not_yet_passed_on(steps: list[tuple[int, int]]) -> None:
    gate, relays, here = Gate(150, 1000), [relay(400) for _ in range(3)], 0
    for what, amount in steps:
        one = relays[amount % 3]
        if what == 0 and not one.closed:
            gate.want(one, one.granted + amount)
        elif what == 1 and not one.closed and one.granted > one.received:
            length = min(amount, one.granted - one.received)
            one.accept(one.received, length)
            here += length
        elif what == 2 and here:
            passed = min(amount, here)
            here -= passed
            gate.release(passed)
        elif what == 3:
            gate.close(one)
        assert gate.used_bytes == here + sum(each.granted - each.received for each in relays if not each.closed)
    for one in relays:
        gate.close(one)
    gate.release(here)
    assert gate.used_bytes == 0


def test_a_body_is_granted_a_window_at_a_time_whatever_its_receiver_asks_for() -> None:
    gate, hog, other = Gate(100, 40), relay(), relay()
    assert gate.want(hog, 1000)
    assert (hog.granted, gate.used_bytes) == (40, 40)
    assert gate.want(other, 30), "who asks for all holds up nobody"
    hog.accept(0, 10)
    assert not gate.go_on(hog), "more than half of its window is still open"
    hog.accept(10, 10)
    assert gate.go_on(hog)
    assert hog.granted == 60
