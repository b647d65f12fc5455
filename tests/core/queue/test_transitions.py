"""The transitions of a job: each state with each function, counts at their limits, and steps that are too many."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from queuerig import job

from zcluster.core.queue import transitions
from zcluster.core.queue.job import MAX_STEPS, Job, State
from zcluster.core.queue.transitions import ALLOWED, KEPT_FIRST, MAX_ATTEMPTS, MAX_DEATHS, Backoff, Loss

ERROR = {"code": "retry", "message": "not yet"}
Q, L, R, DONE, FAILED = State.QUEUED, State.LEASED, State.RUNNING, State.DONE, State.FAILED
CANCELLED, EXPIRED, DEAD = State.CANCELLED, State.EXPIRED, State.DEAD
ENDS = {FAILED, CANCELLED, EXPIRED, DEAD}

DOES: dict[str, tuple[Callable[[Job], object], State, set[State]]] = {
    "lease": (lambda it: transitions.lease(it, "w1", 1.0), L, {Q}),
    "start": (lambda it: transitions.start(it, 1.0), R, {L}),
    "succeed": (lambda it: transitions.succeed(it, b"1", 1.0, 2.0), DONE, {Q, R}),
    "fail": (lambda it: transitions.fail(it, ERROR, b"{}", 1.0, 2.0), FAILED, {Q, L, R}),
    "lose": (lambda it: transitions.lose(it, Loss.NOTHING, ERROR, b"{}", 3.0, 1.0, 2.0), Q, {L, R, *ENDS}),
    "lose the last": (lambda it: transitions.lose(it, Loss.DEATH, ERROR, b"{}", 3.0, 1.0, 2.0), DEAD, {Q, L, R}),
    "cancel": (lambda it: transitions.cancel(it, ERROR, b"{}", 1.0, 2.0), CANCELLED, {Q, L, R}),
    "expire": (lambda it: transitions.expire(it, ERROR, b"{}", 1.0, 2.0), EXPIRED, {Q}),
    "gather": (lambda it: transitions.gather(it, DONE, b"{}", None, 1.0, 2.0), DONE, {Q, R}),
    "put back": (lambda it: transitions.put_back(it, 9.0, 1.0), Q, {L, R, *ENDS}),
}  # fmt: skip


@pytest.mark.parametrize("before", list(State))
@pytest.mark.parametrize("what", list(DOES))
def test_each_state_with_each_transition(before: State, what: str) -> None:
    act, after, allowed = DOES[what]
    it = job(state=before, attempt=1, retries=0, node="w1")
    if before in allowed:
        act(it)
        assert (it.state, it.steps[-1].state) == (after, after)
    else:
        with pytest.raises(AssertionError, match=f"{before.word} to {after.word}"):
            act(it)
        assert it.state == before
        assert it.steps == []


def test_what_is_done_stays_done_and_every_state_is_known() -> None:
    assert ALLOWED[DONE] == frozenset()
    assert set(ALLOWED) == set(State)
    assert all(ALLOWED[state] == {Q} for state in (FAILED, CANCELLED, EXPIRED, DEAD))


def test_an_attempt_is_counted_when_it_is_leased_and_not_when_it_never_was() -> None:
    it = job()
    transitions.lease(it, "w1", 1.0)
    transitions.start(it, 2.0)
    transitions.lose(it, Loss.FAILED, ERROR, b"{}", 5.0, 3.0, 3.0)
    transitions.lease(it, "w2", 4.0)
    assert (it.attempt, it.node, it.failures) == (2, "w2", 1)
    steps = list(it.steps)
    transitions.unlease(it)
    assert (it.attempt, it.node, it.state, it.steps) == (1, "w1", Q, steps[:-1])
    with pytest.raises(AssertionError):
        transitions.unlease(it)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_failures_at_the_limit_and_beyond(retries: int) -> None:
    it = job(retries=retries)
    for failures in range(1, retries + 2):
        transitions.lease(it, "w1", 1.0)
        assert transitions.is_last(it, Loss.FAILED) == (failures == retries + 1)
        transitions.lose(it, Loss.FAILED, ERROR, b"{}", 5.0, 1.0, 2.0)
        assert it.state == (DEAD if failures == retries + 1 else Q)
    assert (it.failures, it.deaths, it.attempt, it.result) == (retries + 1, 0, retries + 1, b"{}")


def test_deaths_at_the_limit_and_beyond() -> None:
    it = job(retries=100)
    for deaths in range(1, MAX_DEATHS + 1):
        transitions.lease(it, "w1", 1.0)
        transitions.lose(it, Loss.DEATH, ERROR, b"{}", 5.0, 1.0, 2.0)
        assert it.state == (DEAD if deaths == MAX_DEATHS else Q)
    assert (it.deaths, it.failures) == (MAX_DEATHS, MAX_DEATHS)


def test_attempts_that_count_against_nothing_end_at_a_limit_of_their_own() -> None:
    it = job(retries=0, attempt=MAX_ATTEMPTS - 2)
    transitions.lease(it, "w1", 1.0)
    transitions.lose(it, Loss.NOTHING, ERROR, b"{}", 0.0, 1.0, 2.0)
    assert (it.state, it.failures) == (Q, 0)
    transitions.lease(it, "w1", 1.0)
    transitions.lose(it, Loss.NOTHING, ERROR, b"{}", 0.0, 1.0, 2.0)
    assert it.state == DEAD


def test_a_job_that_is_put_back_begins_anew_and_counts_its_attempts_on() -> None:
    it = job(state=DEAD, attempt=4, failures=4, deaths=2, node="w1", result=b"{}", ended=7.0, expires=5.0)
    transitions.put_back(it, 99.0, 1.0)
    assert (it.failures, it.deaths, it.attempt, it.node, it.result, it.ended, it.expires) == (0, 0, 4, "", b"", 0.0, 99.0)


def test_waking_clears_both_times_of_a_waiting_job_alone() -> None:
    it = job(due=5.0, at_s=6.0)
    transitions.wake(it)
    assert it.ready
    with pytest.raises(AssertionError):
        transitions.wake(job(state=R))


def test_of_too_many_steps_the_first_and_the_last_stay() -> None:
    it = job(retries=100)
    for count in range(MAX_STEPS):
        transitions.lease(it, f"w{count}", 1.0)
        transitions.lose(it, Loss.NOTHING, ERROR, b"{}", 0.0, 1.0, 2.0)
        assert len(it.steps) == min(MAX_STEPS, 2 * count + 2)
    assert [step.attempt for step in it.steps[:KEPT_FIRST:2]] == list(range(1, KEPT_FIRST // 2 + 1))
    assert it.steps[-1].attempt == MAX_STEPS


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(base_s=1.0, max_s=10.0)
    assert [backoff.pause_s(failures, 1.0) for failures in (0, 1, 2, 3, 4, 5, 1000)] == [1.0, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert backoff.pause_s(3, 0.0) == 0.0
    assert backoff.pause_s(3, 0.5) == 2.0
