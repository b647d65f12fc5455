"""The wheel of deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.wheel import SWEEP_AT, Wheel

TICK_S = 0.01
TIMES = st.floats(0.0, 100.0)


@given(st.lists(TIMES, max_size=30), st.lists(TIMES, max_size=30))
def test_every_item_is_reported_once_and_at_most_one_tick_late(deadlines: list[float], moments: list[float]) -> None:
    wheel: Wheel[int] = Wheel(TICK_S)
    for item, deadline_s in enumerate(deadlines):
        wheel.add(deadline_s, item)
    reported: list[int] = []
    for now in [*sorted(moments), 200.0]:
        for item in wheel.expired(now):
            assert deadlines[item] <= now + 1e-9
            reported.append(item)
        for item, deadline_s in enumerate(deadlines):
            assert item in reported or deadline_s + TICK_S > now - 1e-9
    assert sorted(reported) == list(range(len(deadlines)))
    assert len(wheel) == 0
    assert wheel.next_deadline() is None


@given(st.lists(TIMES, min_size=1, max_size=30), st.data())
def test_a_removed_item_is_never_reported(deadlines: list[float], data: st.DataObject) -> None:
    wheel: Wheel[int] = Wheel(TICK_S)
    for item, deadline_s in enumerate(deadlines):
        wheel.add(deadline_s, item)
    gone = data.draw(st.sets(st.integers(0, len(deadlines) - 1)))
    for item in gone:
        wheel.remove(deadlines[item], item)
        wheel.remove(deadlines[item], item)
    assert len(wheel) == len(deadlines) - len(gone)
    assert set(wheel.expired(200.0)) == set(range(len(deadlines))) - gone


def test_the_next_deadline_is_when_the_first_item_is_reported() -> None:
    wheel: Wheel[str] = Wheel(TICK_S)
    assert wheel.next_deadline() is None
    wheel.add(5.0, "later")
    wheel.add(2.005, "first")
    due_s = wheel.next_deadline()
    assert due_s is not None
    assert 2.005 <= due_s <= 2.015 + 1e-9
    assert wheel.expired(due_s - 0.001) == []
    assert wheel.expired(due_s) == ["first"]
    wheel.remove(5.0, "later")
    assert wheel.next_deadline() is None


def test_a_run_of_items_has_one_deadline() -> None:
    wheel: Wheel[int] = Wheel(TICK_S)
    wheel.add_run(1.0, [1, 2, 3])
    wheel.remove(1.0, 2)
    assert wheel.expired(1.02) == [1, 3]


def test_empty_buckets_are_swept() -> None:
    wheel: Wheel[int] = Wheel(TICK_S)
    wheel.add(1.0, -1)  # the oldest bucket stays, and all others behind it
    for item in range(10 * SWEEP_AT):
        wheel.add(10.0 + item, item)
        wheel.remove(10.0 + item, item)
    assert len(wheel._buckets) <= SWEEP_AT
    assert len(wheel._order) <= SWEEP_AT
    assert wheel.expired(2.0) == [-1]


def test_a_sweep_keeps_what_waits() -> None:
    wheel: Wheel[int] = Wheel(TICK_S)
    for item in range(3 * SWEEP_AT):
        wheel.add(10.0 + item, item)
    assert len(wheel) == 3 * SWEEP_AT
    assert wheel.expired(10.0 + SWEEP_AT) == list(range(SWEEP_AT))
