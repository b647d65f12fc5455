"""Who may pull, and that no permit sticks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.sync.permits import Permits
from zcluster.errors import Busy


def permits(limit: int = 2, stall_s: float = 10.0, max_waiting: int = 100) -> Permits[str]:
    return Permits(limit, stall_s, max_waiting)


def test_permits_are_bounded_and_come_in_the_order_of_asking() -> None:
    some = permits()
    assert [some.ask(key, owner, 0.0) for owner, key in enumerate("abcd")] == [True, True, False, False]
    assert (some.out, some.waiting) == (2, 2)
    assert some.take_granted() == ["a", "b"]
    some.release("b", 1.0)
    some.release("a", 2.0)
    assert some.take_granted() == ["c", "d"]
    assert some.take_granted() == []
    assert some.holds("c")
    assert not some.holds("a")


def test_asking_again_changes_no_place_and_tells_of_a_permit_again() -> None:
    some = permits(1)
    some.ask("a", 1, 0.0)
    some.ask("b", 2, 0.0)
    some.ask("c", 3, 0.0)
    some.take_granted()
    assert some.ask("b", 2, 0.0) is False
    assert some.ask("a", 1, 0.0) is True
    assert some.take_granted() == ["a"]
    some.release("a", 1.0)
    assert some.take_granted() == ["b"]
    assert (some.out, some.waiting) == (1, 1)


def test_who_leaves_the_queue_gets_no_permit() -> None:
    some = permits(1)
    for owner, key in enumerate("abc"):
        some.ask(key, owner, 0.0)
    some.release("b", 1.0)
    some.release("a", 1.0)
    assert some.take_granted() == ["c"]


def test_an_owner_that_dies_takes_all_of_its_permits_along() -> None:
    some = permits(2)
    for key, owner in (("a", 1), ("b", 1), ("c", 1), ("d", 2), ("e", 3)):
        some.ask(key, owner, 0.0)
    some.drop(1, 1.0)
    assert some.take_granted() == ["d", "e"]
    some.drop(1, 1.0)
    some.drop(99, 1.0)
    assert (some.out, some.waiting) == (2, 0)


def test_a_key_belongs_to_who_asked_last() -> None:
    some = permits(1)
    some.ask("a", 1, 0.0)
    some.ask("a", 2, 0.0)
    some.drop(1, 0.0)
    assert some.holds("a")
    some.drop(2, 0.0)
    assert not some.holds("a")


def test_a_permit_without_progress_is_taken_back() -> None:
    some = permits(2, stall_s=10.0)
    assert some.next_deadline() is None
    some.ask("a", 1, 0.0)
    some.ask("b", 2, 1.0)
    some.ask("c", 3, 1.0)
    some.progress("a", 5.0)
    assert some.next_deadline() == 11.0
    assert some.handle_deadline(10.9) == []
    some.take_granted()
    assert some.handle_deadline(11.0) == ["b"]
    assert some.take_granted() == ["c"]
    assert some.next_deadline() == 15.0
    some.progress("b", 12.0)
    some.release("b", 12.0)
    assert (some.out, some.holds("b")) == (2, False)


def test_the_limit_changes_live() -> None:
    some = permits(1)
    for owner, key in enumerate("abcd"):
        some.ask(key, owner, 0.0)
    some.take_granted()
    some.set_limit(3, 1.0)
    assert some.take_granted() == ["b", "c"]
    some.set_limit(1, 2.0)
    some.release("a", 2.0)
    some.release("b", 2.0)
    assert some.take_granted() == []
    some.release("c", 2.0)
    assert some.take_granted() == ["d"]


def test_the_queue_is_bounded() -> None:
    some = permits(1, max_waiting=2)
    for owner, key in enumerate("abc"):
        some.ask(key, owner, 0.0)
    with pytest.raises(Busy) as caught:
        some.ask("d", 9, 0.0)
    assert caught.value.retry_after_s
    assert some.ask("c", 2, 0.0) is False
    some.release("c", 0.0)
    assert some.ask("d", 9, 0.0) is False


STEPS = st.tuples(st.sampled_from(["ask", "release", "drop", "progress", "limit", "wait"]), st.integers(0, 5), st.integers(0, 3))


@given(st.lists(STEPS, max_size=60))
def test_no_permit_is_lost_and_none_sticks(steps: list[tuple[str, int, int]]) -> None:
    some: Permits[int] = Permits(2, 10.0)
    now, limit, owners = 0.0, 2, dict[int, int]()
    for step, key, owner in steps:
        now += 1.0
        before = some.out
        if step == "ask":
            some.ask(key, owner, now)
            owners[key] = owner
        elif step == "release":
            some.release(key, now)
            owners.pop(key, None)
        elif step == "drop":
            some.drop(owner, now)
            owners = {key: other for key, other in owners.items() if other != owner}
        elif step == "progress":
            some.progress(key, now)
        elif step == "limit":
            limit = owner + 1
            some.set_limit(limit, now)
        else:
            now += 5.0
            for lost in some.handle_deadline(now):
                del owners[lost]
        assert some.out + some.waiting == len(owners)
        assert some.out <= max(limit, before)
        assert not some.waiting or some.out >= limit
        assert all(some.holds(granted) for granted in some.take_granted())
    for owner in range(4):
        some.drop(owner, now)
    assert (some.out, some.waiting, some.next_deadline(), some._keys, some._owner) == (0, 0, None, {}, {})
