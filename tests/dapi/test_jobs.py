"""The bookkeeping of the runner: no threads, no clock."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.dapi import Function, Job, function
from zcluster.dapi.jobs import JobTable
from zcluster.errors import UsageError


@function("nothing")
def nothing() -> None:
    return None


NOTHING = Function(nothing)


@dataclass(eq=False)
class FakeCall:
    job: Job
    deadline_s: float

    def stop(self) -> bool:
        return True

    def grant(self, items_upto: int) -> None:
        return None


def call(job_id: int, deadline_s: float) -> FakeCall:
    return FakeCall(Job(job_id, NOTHING, b"", deadline_s, "alice", "client", "1.1"), deadline_s)


def test_a_call_is_taken_once() -> None:
    table = JobTable()
    first = call(1, 5.0)
    table.add(first)
    assert table.get(1) is first
    assert table.take(first)
    assert not table.take(first)
    assert table.get(1) is None
    assert len(table) == 0


def test_an_id_in_flight_cannot_be_used_again_but_a_finished_one_can() -> None:
    table = JobTable()
    first, second = call(1, 5.0), call(1, 9.0)
    table.add(first)
    with pytest.raises(UsageError, match="job 1 is in flight already"):
        table.add(second)
    table.take(first)
    table.add(second)
    assert not table.take(first), "the older call of the same id is not the one in flight"
    assert not table.holds(first)
    assert table.holds(second)
    assert table.next_deadline() == 9.0


def test_deadlines_come_earliest_first_and_only_for_live_calls() -> None:
    table = JobTable()
    assert table.next_deadline() is None
    early, late, gone = call(1, 5.0), call(2, 7.0), call(3, 1.0)
    for each in (late, early, gone):
        table.add(each)
    table.take(gone)
    assert table.next_deadline() == 5.0
    assert table.expired(4.999) == []
    assert table.expired(5.0) == [early]
    assert table.expired(100.0) == [late]
    assert table.all() == [late, early], "they stay until they are taken"


def test_memory_follows_the_live_calls_not_all_that_ever_were() -> None:
    table = JobTable()
    keeper = call(0, 1e9)
    table.add(keeper)
    for job_id in range(1, 10_000):
        each = call(job_id, 1e6)
        table.add(each)
        table.take(each)
    assert len(table._heap) < 200
    assert table.next_deadline() == 1e9


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["add", "take"]), st.integers(0, 9)), max_size=60))
def test_the_next_deadline_is_always_the_smallest_live_one(steps: list[tuple[int, str, int]]) -> None:
    table = JobTable()
    live: dict[int, FakeCall] = {}
    for job_id, what, deadline_s in steps:
        if what == "add" and job_id not in live:
            live[job_id] = call(job_id, float(deadline_s))
            table.add(live[job_id])
        elif what == "take" and job_id in live:
            assert table.take(live.pop(job_id))
        assert table.next_deadline() == min((each.deadline_s for each in live.values()), default=None)
        assert len(table) == len(live)
