"""Priorities and turns."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.fairqueue import MAX_PLACES, NEW_IN_A_ROW, TURN, FairQueue


@dataclass(frozen=True)
class Group:
    """What requests have in common."""

    function: str


@dataclass(eq=False)
class Asked:
    """A request, as far as the queue is concerned."""

    caller_no: int
    priority: int = 5
    number: int = 0
    group: Group = Group("f")


def everything(_first: Asked) -> int:
    return 1_000_000


def test_a_higher_priority_is_served_first() -> None:
    queue: FairQueue[Asked] = FairQueue()
    asked = {priority: Asked(1, priority) for priority in (3, 9, 0, 5)}
    for request in asked.values():
        queue.push(request)
    assert [queue.take(10, everything) for _ in range(4)] == [[asked[9]], [asked[5]], [asked[3]], [asked[0]]]


def test_callers_take_turns() -> None:
    queue: FairQueue[Asked] = FairQueue()
    for number in range(3 * TURN):
        queue.push(Asked(1, number=number))
    queue.push(Asked(2))
    turns = [queue.take(1000, everything) for _ in range(4)]
    assert [(run[0].caller_no, len(run)) for run in turns] == [(1, TURN), (2, 1), (1, TURN), (1, TURN)]
    assert [request.number for run in turns for request in run if request.caller_no == 1] == list(range(3 * TURN))


def test_one_request_waits_one_turn_however_many_another_caller_has() -> None:
    queue: FairQueue[Asked] = FairQueue()
    queue.push_run([Asked(1) for _ in range(100_000)])
    queue.take(1, everything)
    single = Asked(2)
    queue.push(single)
    served = 0
    while single not in (run := queue.take(1000, everything)):
        served += len(run)
    assert served <= TURN


def test_a_caller_who_had_nothing_waiting_goes_first() -> None:
    queue: FairQueue[Asked] = FairQueue()
    for caller_no in (1, 2, 3):
        queue.push_run([Asked(caller_no) for _ in range(1000)])
    for _ in range(3):
        queue.take(1000, everything)
    single = Asked(4)
    queue.push(single)
    assert queue.take(1000, everything) == [single]


@pytest.mark.parametrize("cancelled", [False, True])
def test_who_comes_back_before_the_others_had_their_turns_waits_for_them(cancelled: bool) -> None:
    queue: FairQueue[Asked] = FairQueue()
    for caller_no in (1, 2):
        queue.push_run([Asked(caller_no) for _ in range(1000)])
    for _ in range(2):
        queue.take(1000, everything)
    order = []
    for _ in range(6):
        again = Asked(3)
        queue.push(again)
        if cancelled:
            queue.remove(again)
            queue.push(again)
        run = queue.take(1000, everything)
        order.append(run[0].caller_no)
        if run != [again]:
            queue.remove(again)
    assert order == ([1, 2, 3, 1, 2, 3] if cancelled else [3, 1, 2, 3, 1, 2])


def test_new_callers_without_an_end_do_not_keep_the_others_from_their_turns() -> None:
    queue: FairQueue[Asked] = FairQueue()
    queue.push_run([Asked(0) for _ in range(10_000)])
    queue.take(1, everything)
    turns = []
    for caller_no in range(1, 1000):
        queue.push(Asked(caller_no))
        turns.append(queue.take(1, everything)[0].caller_no)
    assert [index for index, caller_no in enumerate(turns) if caller_no == 0] == [*range(NEW_IN_A_ROW - 1, 999, NEW_IN_A_ROW + 1)]


def test_new_callers_go_on_when_none_of_the_others_may() -> None:
    queue: FairQueue[Asked] = FairQueue()
    queue.push_run([Asked(0) for _ in range(10)])
    queue.take(1, everything)
    for caller_no in range(1, 3 * NEW_IN_A_ROW):
        queue.push(Asked(caller_no))
        assert queue.take(1, lambda first: first.caller_no)[0].caller_no == caller_no


@pytest.mark.parametrize("served", [False, True])
def test_who_has_nothing_waiting_keeps_a_place_but_few_do(served: bool) -> None:
    queue: FairQueue[Asked] = FairQueue()
    queue.push(Asked(0))
    for caller_no in range(1, MAX_PLACES + 3):
        request = Asked(caller_no)
        queue.push(request)
        if served:
            assert queue.take(1, lambda first: first.caller_no) == [request]
        else:
            queue.remove(request)
        (level,) = queue._levels.values()
        assert len(level.old) + len(level.new) <= 1 + MAX_PLACES
    assert {1, MAX_PLACES + 2} & level.old.keys() == {MAX_PLACES + 2}, "the oldest place is gone"


def test_a_turn_is_of_one_function() -> None:
    queue: FairQueue[Asked] = FairQueue()
    f, also_f, g = Group("f"), Group("f"), Group("g")
    asked = [Asked(1, group=group) for group in (f, f, also_f, g, f)]
    queue.push_run(asked)
    assert [queue.take(9, everything) for _ in range(3)] == [asked[:3], asked[3:4], asked[4:]]


def test_a_caller_with_its_share_is_passed_over_and_keeps_its_place() -> None:
    queue: FairQueue[Asked] = FairQueue()
    first, second = Asked(1), Asked(2)
    queue.push(first)
    queue.push(second)
    allowed = {1: 0, 2: 5}
    assert queue.take(5, lambda first: allowed[first.caller_no]) == [second]
    assert queue.take(5, lambda first: -1) == []
    assert queue.take(5, everything) == [first]


def test_nobody_gets_more_than_is_wanted_or_allowed() -> None:
    queue: FairQueue[Asked] = FairQueue()
    for _ in range(10):
        queue.push(Asked(1))
    assert len(queue.take(3, everything)) == 3
    assert len(queue.take(9, lambda first: 2)) == 2
    assert queue.take(0, everything) == []
    assert len(queue) == 5


def test_what_was_under_way_goes_first_again() -> None:
    queue: FairQueue[Asked] = FairQueue()
    waits, again = Asked(1), Asked(1)
    queue.push(waits)
    queue.push(again, front=True)
    assert queue.take(5, everything) == [again, waits]


def test_drain_takes_everything() -> None:
    queue: FairQueue[Asked] = FairQueue()
    asked = [Asked(caller_no, priority) for caller_no in (1, 2) for priority in (1, 7)]
    for request in asked:
        queue.push(request)
    assert sorted(map(id, queue.drain())) == sorted(map(id, asked))
    assert (len(queue), queue.take(5, everything)) == (0, [])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 2)), max_size=60))
def test_nothing_is_lost_or_served_twice(steps: list[tuple[int, int, int]]) -> None:
    queue: FairQueue[Asked] = FairQueue()
    waiting: list[Asked] = []
    for what, caller_no, number in steps:
        if what <= 1:
            request = Asked(caller_no, number)
            queue.push(request, front=what == 1)
            waiting.append(request)
        elif what == 2 and waiting:
            request = waiting.pop(number % len(waiting))
            queue.remove(request)
        else:
            run = queue.take(number + 1, everything)
            assert bool(run) == bool(waiting)
            assert len({(request.caller_no, request.priority) for request in run}) <= 1
            if run:
                assert run[0].priority == max(request.priority for request in waiting)
            for request in run:
                waiting.remove(request)
        assert len(queue) == len(waiting)
    while run := queue.take(100, everything):
        for request in run:
            waiting.remove(request)
    assert waiting == []
    assert queue._levels == {}
