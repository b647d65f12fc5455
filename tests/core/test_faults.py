"""How many faulty messages of a key are borne with."""

from __future__ import annotations

from zcluster.core import faults as module
from zcluster.core.faults import BARRED_S, MAX_KEYS, OUTSIDE, SHARE_PER_S, Faults


def after(faults: Faults, count: int, key: str = "k", now: float = 0.0, cost: float = 1.0) -> list[bool]:
    return [faults.another(key, now, cost) for _ in range(count)]


def test_a_key_may_have_so_many_at_once_and_one_more_is_too_many() -> None:
    faults = Faults(10)
    assert after(faults, 10) == [False] * 10
    assert not faults.barred("k", 0.0)
    assert faults.another("k", 0.0)
    assert faults.barred("k", BARRED_S - 0.001)
    assert not faults.another("other", 0.0)
    assert not faults.barred("other", 0.0)


def test_it_is_barred_for_a_while_and_some_come_back() -> None:
    faults = Faults(100)
    after(faults, 101)
    assert not faults.barred("k", BARRED_S)
    assert after(faults, int(100 * SHARE_PER_S), now=BARRED_S) == [False] * int(100 * SHARE_PER_S)
    assert faults.another("k", BARRED_S)


def test_what_comes_without_a_session_counts_for_less() -> None:
    faults = Faults(2)
    many = int(1 / OUTSIDE)
    assert after(faults, many, cost=OUTSIDE) == [False] * many
    assert not faults.another("k", 0.0)
    assert faults.another("k", 0.0)


def test_another_bound_holds_from_the_next_fault_on() -> None:
    faults = Faults(1)
    assert after(faults, 2) == [False, True]
    faults.most = 3
    assert after(faults, 4) == [False, False, False, True]


def test_the_keys_that_are_remembered_are_bounded() -> None:
    faults = Faults(1)
    for number in range(MAX_KEYS + 1):
        faults.another(str(number), 0.0)
    assert len(faults._of_key) == MAX_KEYS == module.MAX_KEYS
    assert not faults.another("0", 0.0), "the oldest begins again"
    assert faults.another(str(MAX_KEYS), 0.0)
