"""The way from other threads to the loop, and the threads themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from zcluster.dapi import Function, Job, function
from zcluster.dapi.executors import DaemonThreads, Inbox, Report
from zcluster.dapi.jobs import Call


@function("nothing")
def nothing() -> None:
    return None


class FakeCall:
    deadline_s = 0.0

    def __init__(self) -> None:
        self.job = Job(1, Function(nothing), b"", 0.0, "alice", "client", "1.1")

    def stop(self) -> bool:
        return False

    def grant(self, items_upto: int) -> None:
        return None


Wake = Callable[[], None]


def test_many_reports_that_come_together_cost_one_wake_up() -> None:
    wakes: list[Wake] = []
    told: list[bytes] = []
    inbox = Inbox(wakes.append, lambda call, report, body: told.append(body))
    bodies = [b"%d" % number for number in range(500)]
    for body in bodies:
        inbox.post(FakeCall(), Report.OK, body)
    assert len(wakes) == 1
    wakes.pop()()
    assert told == bodies
    inbox.post(FakeCall(), Report.OK, b"later")
    assert len(wakes) == 1, "after a collection the next report wakes again"


def test_a_report_made_while_collecting_is_not_forgotten() -> None:
    wakes: list[Wake] = []
    told: list[bytes] = []

    def tell(call: Call, report: Report, body: bytes) -> None:
        told.append(body)
        if body == b"first":
            inbox.post(call, report, b"second")

    inbox = Inbox(wakes.append, tell)
    inbox.post(FakeCall(), Report.OK, b"first")
    while wakes:
        wakes.pop()()
    assert told == [b"first", b"second"]


def test_a_receiver_that_raises_does_not_hold_up_the_others() -> None:
    wakes: list[Wake] = []
    told: list[bytes] = []

    def tell(call: Call, report: Report, body: bytes) -> None:
        if body == b"bad":
            raise ValueError("bad")
        told.append(body)

    inbox = Inbox(wakes.append, tell)
    for body in (b"bad", b"good"):
        inbox.post(FakeCall(), Report.OK, body)
    with pytest.raises(ValueError, match="bad"):
        wakes.pop()()
    wakes.pop()()
    assert told == [b"good"]


def test_a_closed_loop_is_no_error_for_a_thread_that_ends_late() -> None:
    def wake(collect: Wake) -> None:
        raise RuntimeError("Event loop is closed")

    told: list[bytes] = []
    inbox = Inbox(wake, lambda call, report, body: told.append(body))
    inbox.post(FakeCall(), Report.OK, b"late")
    inbox.collect()
    assert told == []


def test_threads_are_made_on_demand_up_to_the_limit_and_the_rest_waits() -> None:
    threads = DaemonThreads(2)
    gate, done = threading.Event(), threading.Semaphore(0)
    running: list[str] = []

    def work() -> None:
        running.append(threading.current_thread().name)
        gate.wait()
        done.release()

    for expected in (1, 2, 2):
        threads.submit(work)
        assert threads.threads == expected
    gate.set()
    for _ in range(3):
        assert done.acquire(timeout=60)
    assert len(running) == 3
    assert set(running) <= {"zcluster-call-1", "zcluster-call-2"}
    threads.close()


def test_the_threads_are_daemons_so_that_a_stuck_one_does_not_hold_up_the_exit() -> None:
    threads = DaemonThreads(1)
    seen: list[bool] = []
    done = threading.Event()

    def work() -> None:
        seen.append(threading.current_thread().daemon)
        done.set()

    threads.submit(work)
    assert done.wait(60)
    assert seen == [True]
    threads.close()


def test_a_thread_that_cannot_be_started_is_not_counted_and_its_work_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = DaemonThreads(1)
    ran: list[str] = []
    done = threading.Event()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            threads.submit(lambda: ran.append("refused"))
    assert threads.threads == 0
    threads.submit(lambda: ran.append("first"))
    threads.submit(done.set)
    assert done.wait(60)
    assert threads.threads == 1
    assert ran == ["first"]
    threads.close()
