"""A client's waits for durable jobs."""

from __future__ import annotations

import pytest

from zcluster.core.following import MAX_OPEN, MAX_TOGETHER, Following, Wait
from zcluster.core.queue.job import State
from zcluster.errors import Busy, NoSuchJob, NotAllowed, TimedOut
from zcluster.wire.jobs import Follow, LargeOutcome, OutcomeGroup, Outcomes

STORE = "1f3a5c7e"


def up() -> Following:
    """With a session."""
    machine = Following()
    machine.session_up()
    return machine


def follows(machine: Following) -> list[tuple[str, list[int], bool]]:
    """(store, numbers, stop) of what leaves now."""
    found = []
    for message, bodies in machine.take():
        assert isinstance(message, Follow)
        assert not bodies
        found.append((message.store, list(message.numbers), message.stop))
    return found


def outcome(number: int, *bodies: bytes, state: State = State.DONE) -> tuple[Outcomes, bytes]:
    group = OutcomeGroup(number, state, "w1", 2, [len(body) for body in bodies])
    return Outcomes(store=STORE, groups=[group]), b"".join(bodies)


def unknown(*numbers: int, store: str = STORE) -> Outcomes:
    return Outcomes(store=store, unknown=list(numbers))


def test_waits_of_one_turn_are_asked_for_together() -> None:
    machine = up()
    for number in (7, 3, 9):
        machine.follow(STORE, number, 0.0, 5.0)
    machine.follow("00000000", 3, 0.0, 5.0)
    assert follows(machine) == [(STORE, [7, 3, 9], False), ("00000000", [3], False)]
    assert machine.take() == []


def test_a_message_holds_so_many_numbers_and_no_more() -> None:
    machine = up()
    for number in range(1, MAX_TOGETHER + 2):
        machine.follow(STORE, number, 0.0, 5.0)
    assert [len(numbers) for _, numbers, _ in follows(machine)] == [MAX_TOGETHER, 1]


def test_outcomes_end_waits() -> None:
    machine = up()
    first, second = (machine.follow(STORE, number, 0.0, 5.0) for number in (7, 8))
    message, bodies = outcome(7, b"12", b'"abc"')
    assert machine.outcomes(message, b"head" + bodies, 4) == [first, second]
    assert [(wait.word, wait.node, wait.attempt, wait.body, wait.error) for wait in (first, second)] == [
        ("done", "w1", 2, b"12", None),
        ("done", "w1", 2, b'"abc"', None),
    ]
    assert machine.open == 0
    assert machine.next_deadline() is None
    assert machine.outcomes(message, bodies, 0) == []
    assert machine.stray == 2


def test_a_large_outcome_says_that_it_is() -> None:
    machine = up()
    wait = machine.follow(STORE, 7, 0.0, 5.0)
    message = Outcomes(store=STORE, large=[LargeOutcome(7, State.DONE, "w1", 1, 2**40)])
    assert machine.outcomes(message, b"", 0) == [wait]
    assert (wait.word, wait.large, wait.body, wait.node) == ("done", True, b"", "w1")
    assert machine.open == 0


def test_an_unknown_job_is_that_error() -> None:
    machine = up()
    waits = [machine.follow(STORE, 7, 0.0, 5.0) for _ in range(2)]
    assert machine.outcomes(unknown(7, store="00000000"), b"", 0) == []
    assert machine.outcomes(unknown(7), b"", 0) == waits
    assert [isinstance(wait.error, NoSuchJob) for wait in waits] == [True, True]
    assert waits[0].error is not waits[1].error
    assert str(waits[0].error).startswith("there is no job 1f3a5c7e-7")
    assert machine.open == 0


def test_several_may_wait_for_one_job_and_it_is_followed_once() -> None:
    machine = up()
    every = [machine.follow(STORE, 7, 0.0, 5.0 + index) for index in range(3)]
    assert follows(machine) == [(STORE, [7], False)]
    machine.leave(every[1])
    machine.leave(every[1])
    assert machine.open == 2
    assert follows(machine) == []
    message, body = outcome(7, b"1")
    assert machine.outcomes(message, body, 0) == [every[0], every[2]]
    assert machine.open == 0


def test_the_last_who_leaves_stops_it() -> None:
    machine = up()
    every = [machine.follow(STORE, 7, 0.0, 5.0) for _ in range(2)]
    machine.take()
    for wait in every:
        assert machine.take() == []
        machine.leave(wait)
    assert follows(machine) == [(STORE, [7], True)]
    assert (machine.open, machine.next_deadline()) == (0, None)


def test_who_leaves_before_it_was_asked_for_asks_nothing() -> None:
    machine = up()
    machine.leave(machine.follow(STORE, 7, 0.0, 5.0))
    assert machine.take() == []


def test_following_again_in_the_same_turn_goes_after_the_stop() -> None:
    machine = up()
    wait = machine.follow(STORE, 7, 0.0, 5.0)
    machine.take()
    machine.leave(wait)
    again = machine.follow(STORE, 7, 0.0, 5.0)
    assert follows(machine) == [(STORE, [7], True), (STORE, [7], False)]
    message, body = outcome(7, b"1")
    assert machine.outcomes(message, body, 0) == [again]


def test_waits_outlive_sessions() -> None:
    machine = Following()
    early = machine.follow(STORE, 7, 0.0, 5.0)
    assert machine.take() == []
    machine.session_up()
    late = machine.follow(STORE, 8, 0.0, 5.0)
    gone = machine.follow(STORE, 9, 0.0, 5.0)
    assert follows(machine) == [(STORE, [7, 8, 9], False)]
    machine.leave(gone)
    machine.session_lost()
    machine.leave(late)
    assert machine.take() == []
    machine.session_up()
    assert follows(machine) == [(STORE, [7], False)]
    message, body = outcome(7, b"1", state=State.FAILED)
    assert machine.outcomes(message, body, 0) == [early]
    assert early.word == "failed"


def test_stores_that_nobody_asks_about_are_forgotten() -> None:
    machine = up()
    for index in range(10):
        machine.leave(machine.follow(f"{index:08x}", 1, 0.0, 5.0))
    wait = machine.follow(STORE, 1, 0.0, 5.0)
    machine.take()
    machine.leave(wait)
    machine.take()
    assert not machine._stores
    lost = machine.follow(STORE, 1, 0.0, 5.0)
    machine.leave(lost)
    machine.session_lost()
    assert not machine._stores


def test_a_deadline_ends_a_wait_and_not_the_job() -> None:
    machine = up()
    short, long = machine.follow(STORE, 7, 0.0, 5.0), machine.follow(STORE, 7, 0.0, 6.0)
    machine.take()
    assert machine.handle_deadline(4.99) == []
    assert machine.handle_deadline(5.02) == [short]
    assert isinstance(short.error, TimedOut)
    assert short.error.message == "job 1f3a5c7e-7 has not ended in 5 s; it goes on"
    assert machine.take() == []
    assert machine.handle_deadline(6.02) == [long]
    assert follows(machine) == [(STORE, [7], True)]
    assert machine.open == 0


def test_the_end_ends_all() -> None:
    machine = up()
    every: list[Wait] = [machine.follow(STORE, number, 0.0, 5.0) for number in (7, 7, 8)]
    error = NotAllowed("over")
    assert machine.end_all(error) == every
    assert {wait.error for wait in every} == {error}
    assert machine.open == 0
    assert machine.take() == []
    assert machine.handle_deadline(9.0) == []


def test_so_many_may_wait_and_no_more() -> None:
    machine = up()
    assert machine.max_open == MAX_OPEN
    machine.max_open = 2
    first = machine.follow(STORE, 7, 0.0, 5.0)
    machine.follow(STORE, 7, 0.0, 5.0)
    with pytest.raises(Busy):
        machine.follow(STORE, 8, 0.0, 5.0)
    machine.leave(first)
    machine.follow(STORE, 8, 0.0, 5.0)
