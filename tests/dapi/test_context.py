"""What a function sees of its request."""

from __future__ import annotations

from zcluster.dapi import Context
from zcluster.wire import Mark


def test_remaining_time_follows_the_clock_and_is_never_negative() -> None:
    now = [10.0]
    context = Context(caller="alice", role="admin", node="w1", request_id="3.4", deadline_s=12.5, clock=lambda: now[0])
    assert context.remaining_s() == 2.5
    now[0] = 99.0
    assert context.remaining_s() == 0.0


def test_the_cancelled_flag_goes_up_once() -> None:
    context = Context(caller="alice", role="admin", node="w1", request_id="3.4", deadline_s=1.0, clock=lambda: 0.0)
    assert not context.cancelled
    context.mark_cancelled()
    assert context.cancelled


def test_of_an_ordinary_request_there_is_no_job() -> None:
    context = Context(caller="alice", role="admin", node="w1", request_id="3.4", deadline_s=1.0, clock=lambda: 0.0)
    assert (context.job, context.attempt, context.idempotency_key) == ("", 0, "")


def test_of_a_durable_job_its_mark_is_told() -> None:
    mark = Mark("5f0c11a9-17", 2, "report-2026-11-19")
    context = Context(caller="alice", role="admin", node="w1", request_id="3.4", deadline_s=1.0, clock=lambda: 0.0, mark=mark)
    assert (context.job, context.attempt, context.idempotency_key) == ("5f0c11a9-17", 2, "report-2026-11-19")
