"""A node's side of requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from zcluster.core.work import Effect, Job, More, Stop, WorkEnd
from zcluster.keys import may_call
from zcluster.wire import Cancel, Chunk, Credit, Grant, Mark, Of, Results, Status, Work, WorkGroup
from zcluster.wire.messages import RequestFlag

LARGE = RequestFlag.LARGE
NAMES = {value: name for name, value in vars(Status).items() if name.isupper()}


@dataclass(frozen=True)
class Function:
    """A function as far as WorkEnd looks at it."""

    role: str = "client"
    stream: bool = False
    pool: str = "thread"


@dataclass(frozen=True)
class Limits:
    """Small limits."""

    body_bytes: int = 5000
    inline_bytes: int = 100
    chunk_bytes: int = 1000
    window_bytes: int = 2000
    transfer_bytes: int = 6000


FUNCTIONS = {"f": Function(), "i": Function(pool="inline"), "s": Function(stream=True), "a": Function(role="admin")}


def node(slots: int = 4) -> WorkEnd:
    return WorkEnd("w1", FUNCTIONS, may_call, Limits(), slots)


def work(
    end: WorkEnd, leg: int, *bodies: bytes, function: str = "f", role: str = "client", ttl_ms: int = 5000, size: int = 0,
    now: float = 0.0,
) -> list[Effect]:  # fmt: skip
    """WORK of one group; ``size`` announces a large body."""
    bodies = bodies or (b"x",)
    group = WorkGroup(
        function, "c", role, ttl_ms, LARGE if size else 0, 9, leg + 100, leg, [size] if size else list(map(len, bodies))
    )
    return end.work(Work([group]), b"" if size else b"".join(bodies), 0, now)


def results(end: WorkEnd) -> list[tuple[int, str]]:
    """The results that leave now: (leg, status, or an error's code)."""
    out: list[tuple[int, str]] = []
    for message, bodies in end.take():
        if isinstance(message, Results):
            left = iter(bodies)
            for group in message.groups:
                leg = group.first_leg
                for _ in group.sizes:
                    body, what = next(left), NAMES[group.status]
                    if group.status in (Status.ERROR, Status.REFUSED):
                        what = f"{what} {msgspec.json.decode(body)['code']}" if body.startswith(b"{") else what  # type: ignore[union-attr]
                    out.append((leg, what))
                    leg += group.status != Status.ITEM
    return out


def grants(end: WorkEnd) -> list[tuple[int, int]]:
    """The credit that leaves now: (leg, upto)."""
    return [(g.leg, g.upto) for message, _ in end.take() if isinstance(message, Credit) for g in message.grants]


def chunk(end: WorkEnd, leg: int, offset: int, length: int) -> list[Effect]:
    """A CHUNK of a large argument."""
    return end.chunk(Chunk(0, leg, offset), memoryview(b"a" * length))


def test_work_becomes_jobs_in_order() -> None:
    end = node()
    jobs: list[Any] = work(end, 1, b"a", b"bb")
    assert [(job.id, job.body, job.request_id, job.caller, job.role, job.deadline_s) for job in jobs] == [
        (1, b"a", "9.101", "c", "client", 5.0), (2, b"bb", "9.102", "c", "client", 5.0),
    ]  # fmt: skip
    assert end.in_flight == 2


def test_each_member_has_its_own_mark_also_behind_one_that_is_not_run() -> None:
    end = node()
    work(end, 1)
    marks = [Mark("ab-1", 1, ""), Mark("ab-2", 3, "report-2026-11-19")]
    jobs: list[Any] = end.work(Work([WorkGroup("f", "c", "client", 5000, 0, 9, 101, 1, [1, 1], marks)]), b"ab", 0, 0.0)
    assert [(job.id, job.mark) for job in jobs] == [(2, marks[1])], "leg 1 has been"
    ordinary: list[Any] = work(end, 3)
    assert ordinary[0].mark is None


def test_a_job_with_a_large_body_keeps_its_mark() -> None:
    end = node()
    mark = Mark("ab-1", 2, "")
    assert end.work(Work([WorkGroup("f", "c", "client", 5000, LARGE, 9, 101, 1, [1000], [mark])]), b"", 0, 0.0) == []
    [job] = chunk(end, 1, 0, 1000)
    assert isinstance(job, Job)
    assert job.mark == mark


def test_a_leg_has_one_result() -> None:
    end = node()
    work(end, 1)
    end.finished(1, True, b"one")
    end.finished(1, True, b"two")
    end.finished(7, True, b"never asked")
    end.item(1, b"late")
    assert results(end) == [(1, "VALUE")]
    assert (end.dropped_results, end.in_flight) == (3, 0)


def test_alike_results_of_a_run_are_one_group() -> None:
    end = node()
    work(end, 1, b"a", b"b", b"c")
    for leg in (1, 2, 3):
        end.finished(leg, leg != 3, b"r")
    [(message, bodies)] = end.take()
    assert isinstance(message, Results)
    assert [(group.first_leg, group.status, group.sizes) for group in message.groups] == [(1, 0, [1, 1]), (3, 1, [1])]
    assert bodies == [b"r", b"r", b"r"]


@pytest.mark.parametrize("leg", [5, 4, 1])
def test_a_leg_that_is_not_larger_is_not_run_again(leg: int) -> None:
    end = node()
    work(end, 5)
    assert work(end, leg) == []
    assert end.stray == 1
    assert len(work(end, 6)) == 1


def test_rights_are_checked_here_too() -> None:
    end = node()
    assert work(end, 1, function="a", role="client") == []
    assert work(end, 2, function="f", role="worker") == []
    assert len(work(end, 3, function="a", role="admin")) == 1
    assert results(end) == [(1, "ERROR not_allowed"), (2, "ERROR not_allowed")]


def test_an_unknown_function_is_an_error() -> None:
    end = node()
    assert work(end, 1, function="nope") == []
    assert results(end) == [(1, "ERROR no_such_function")]


def test_a_draining_node_refuses() -> None:
    end = node()
    end.draining = True
    assert work(end, 1, b"a", b"b") == []
    assert results(end) == [(1, "REFUSED draining"), (2, "REFUSED draining")]


def test_slots_are_a_bound() -> None:
    end = node(slots=2)
    assert len(work(end, 1, b"a", b"b", b"c")) == 2
    assert results(end) == [(3, "REFUSED busy")]
    end.finished(1, True, b"")
    assert len(work(end, 4)) == 1


def test_bodies_that_are_gathered_take_slots() -> None:
    end = node(slots=2)
    work(end, 1, size=500)
    work(end, 2)
    assert work(end, 3, size=500) == []
    assert work(end, 4) == []
    assert results(end) == [(3, "REFUSED busy"), (4, "REFUSED busy")]


def test_a_large_argument_starts_when_it_is_complete() -> None:
    end = node()
    assert work(end, 1, size=3000) == []
    assert grants(end) == [(1, 2000)]
    assert chunk(end, 1, 0, 1000) == []
    assert grants(end) == [(1, 3000)]
    assert chunk(end, 1, 1000, 1000) == []
    [job] = chunk(end, 1, 2000, 1000)
    assert isinstance(job, Job)
    assert bytes(job.body) == b"a" * 3000
    assert end.next_deadline() is None
    end.finished(1, True, b"")
    assert end.in_flight == 0


@pytest.mark.parametrize(("offset", "length"), [(1, 10), (0, 2001), (0, 0)])
def test_a_wrong_chunk_ends_its_leg(offset: int, length: int) -> None:
    end = node()
    work(end, 1, size=3000)
    assert chunk(end, 1, offset, length) == []
    assert results(end) == [(1, "ERROR protocol_error")]
    assert (end.in_flight, end.next_deadline()) == (0, None)
    assert chunk(end, 1, 0, 10) == []
    assert end.stray == 1


def test_a_body_over_the_limit_is_an_error() -> None:
    end = node()
    work(end, 1, size=5000)
    work(end, 2, size=5001)
    assert results(end) == [(2, "ERROR too_large")]


def test_large_arguments_together_are_bounded_and_wait_in_their_order() -> None:
    end = node(slots=9)
    work(end, 1, size=4000)
    work(end, 2, size=2001)
    work(end, 3, size=100)
    assert grants(end) == [(1, 2000)], "4000 + 2001 are more than 6000, and 100 do not go before 2001"
    end.cancel(Cancel(ids=[1]))
    assert grants(end) == [(2, 2000), (3, 100)]


def test_exactly_the_limit_is_gathered_at_once() -> None:
    end = node(slots=9)
    work(end, 1, size=4000)
    work(end, 2, size=2000)
    assert grants(end) == [(1, 2000), (2, 2000)]


def send(end: WorkEnd, leg: int, size: int) -> list[Effect]:
    """All chunks of a body."""
    out: list[Effect] = []
    for offset in range(0, size, 1000):
        out += end.chunk(Chunk(0, leg, offset), memoryview(b"x" * min(1000, size - offset)))
    return out


def test_bodies_that_wait_for_the_loop_count_until_their_jobs_have_ended() -> None:
    end = node(slots=9)
    work(end, 1, size=2000, function="i")
    work(end, 2, size=4000)
    work(end, 3, size=2000, function="i")
    work(end, 4, size=1000)
    assert grants(end) == [(1, 2000), (2, 2000)]
    assert len(send(end, 1, 2000)) == 1
    assert grants(end) == [], "it is here, and waits to be read"
    end.finished(1, True, b"")
    assert grants(end) == [(3, 2000)]
    send(end, 3, 2000)
    assert [type(each) for each in end.cancel(Cancel(ids=[3]))] == [Stop]
    assert grants(end) == [(4, 1000)]
    end.finished(3, False, b"")
    work(end, 5, size=1000)
    work(end, 6, size=1)
    assert grants(end) == [(5, 1000)], "4000, 1000 and 1000: what was cancelled counts no more, and once"


def test_one_body_alone_is_gathered_when_those_before_it_were_read() -> None:
    end = node(slots=9)
    work(end, 1, size=5000, function="i")
    work(end, 2, size=5000, function="i")
    assert grants(end) == [(1, 2000)]
    assert len(send(end, 1, 5000)) == 1
    assert {leg for leg, _ in grants(end)} == {1}, "the first is not being gathered any more, but it is here"
    end.finished(1, True, b"")
    assert grants(end) == [(2, 2000)]


def test_a_lost_session_forgets_what_waits_for_the_loop() -> None:
    end = node(slots=9)
    work(end, 1, size=2000, function="i")
    grants(end)
    send(end, 1, 2000)
    end.session_lost()
    work(end, 1, size=4000)
    work(end, 2, size=2000)
    assert grants(end) == [(1, 2000), (2, 2000)]
    end.finished(1, True, b"")
    assert grants(end) == []


def test_a_cancelled_body_at_the_head_makes_room_for_those_behind() -> None:
    end = node(slots=9)
    work(end, 1, size=4000)
    work(end, 2, size=5000)
    work(end, 3, size=1000)
    assert grants(end) == [(1, 2000)]
    end.cancel(Cancel(ids=[2]))
    assert grants(end) == [(3, 1000)]


def test_bodies_that_do_not_arrive_are_given_up_at_the_deadline() -> None:
    end = node(slots=9)
    work(end, 1, size=5000)
    work(end, 2, size=5000)
    end.handle_deadline(4.9)
    assert end.in_flight == 2
    end.take()
    end.handle_deadline(5.1)
    assert sorted(results(end)) == [(1, "ERROR timed_out"), (2, "ERROR timed_out")]
    assert (end.in_flight, end.next_deadline()) == (0, None)


def test_cancel_stops_what_runs_and_forgets_what_is_gathered() -> None:
    end = node()
    work(end, 1)
    work(end, 2, size=500)
    [stop] = end.cancel(Cancel(ids=[1, 2, 99]))
    assert isinstance(stop, Stop)
    assert stop.id == 1
    end.finished(1, False, b"stopped")
    assert (results(end), end.in_flight, end.dropped_results) == ([], 0, 1)


def test_a_cancel_that_overtakes_its_work_is_remembered() -> None:
    end = node()
    end.cancel(Cancel(ids=[2]))
    jobs: list[Any] = work(end, 1, b"a", b"b", b"c")
    assert [job.id for job in jobs] == [1, 3]
    assert results(end) == []
    assert end.in_flight == 2


def test_what_was_cancelled_ahead_is_forgotten_with_the_session() -> None:
    end = node()
    end.cancel(Cancel(ids=[1]))
    end.session_lost()
    assert len(work(end, 1)) == 1


def test_a_large_value_goes_against_credit() -> None:
    end = node()
    work(end, 1)
    end.finished(1, True, b"v" * 2500)
    assert results(end) == [(1, "LARGE_VALUE")]
    end.credit(Credit(grants=[Grant(0, 1, Of.REPLY_BODY, 2000)]))
    assert [(message, len(bodies[0])) for message, bodies in end.take()] == [(Chunk(0, 1, 0), 1000), (Chunk(0, 1, 1000), 1000)]
    end.credit(Credit(grants=[Grant(0, 1, Of.REPLY_BODY, 2500)]))
    assert [message for message, _ in end.take()] == [Chunk(0, 1, 2000)]
    assert end.next_deadline() is None, "nothing of it is kept"
    end.credit(Credit(grants=[Grant(0, 1, Of.REPLY_BODY, 2500)]))
    assert end.stray == 1


@pytest.mark.parametrize(
    ("size", "status"), [(100, "VALUE"), (101, "LARGE_VALUE"), (5000, "LARGE_VALUE"), (5001, "ERROR too_large")]
)
def test_a_value_goes_as_its_size_says(size: int, status: str) -> None:
    end = node()
    work(end, 1)
    end.finished(1, True, b"v" * size)
    assert results(end) == [(1, status)]


def test_a_value_that_nobody_fetches_is_dropped_at_its_deadline() -> None:
    end = node()
    work(end, 1)
    end.finished(1, True, b"v" * 2500)
    end.take()
    end.handle_deadline(5.1)
    end.credit(Credit(grants=[Grant(0, 1, Of.REPLY_BODY, 2500)]))
    assert (end.take(), end.stray, end.next_deadline()) == ([], 1, None)


def test_a_cancelled_large_value_is_dropped() -> None:
    end = node()
    work(end, 1)
    end.finished(1, True, b"v" * 2500)
    end.cancel(Cancel(ids=[1]))
    assert end.next_deadline() is None


def test_a_stream_sends_items_and_its_end() -> None:
    end = node()
    work(end, 1, function="s")
    end.item(1, b"a")
    end.item(1, b"b")
    assert end.credit(Credit(grants=[Grant(0, 1, Of.ITEMS, 40)])) == [More(1, 40)]
    end.finished(1, True, b"ignored")
    assert results(end) == [(1, "ITEM"), (1, "ITEM"), (1, "END")]
    assert end.credit(Credit(grants=[Grant(0, 1, Of.ITEMS, 50)])) == []
    assert end.stray == 1


def test_a_stream_that_fails_ends_with_its_error() -> None:
    end = node()
    work(end, 1, function="s")
    end.item(1, b"a")
    end.finished(1, False, b"broken")
    assert results(end) == [(1, "ITEM"), (1, "ERROR")]


def test_a_lost_session_stops_everything_and_legs_begin_again() -> None:
    end = node(slots=9)
    work(end, 5)
    work(end, 6, size=4000)
    work(end, 7, size=4000)
    work(end, 8)
    end.finished(8, True, b"v" * 2500)
    assert [stop.id for stop in end.session_lost() if isinstance(stop, Stop)] == [5]
    assert (end.in_flight, end.take(), end.next_deadline()) == (0, [], None)
    assert len(work(end, 1)) == 1
    assert work(end, 2, size=5000) == []
    assert grants(end) == [(2, 2000)]
