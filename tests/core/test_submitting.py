"""A client's submissions of durable jobs."""

from __future__ import annotations

import pytest

from zcluster.core.submitting import MAX_KEY_CHARS, MAX_NAME_CHARS, MAX_OPEN, MAX_TARGET_CHARS, Submission, Submitting, Terms
from zcluster.errors import Busy, Draining, KeyConflict, MasterLost, NotAllowed, TimedOut, TooLarge, UsageError
from zcluster.wire import Welcome, WireLimits, decode, encode
from zcluster.wire.jobs import Accepted, AcceptedGroup, JobFlag, JobGroup, JobRefusal, Jobs, KnownJob

STORE = "1f3a5c7e"
WELCOME = Welcome(
    version=1, session=3, name="c", role="client", cluster="c", master="m", epoch=1, heartbeat_s=1.0, lease_heartbeats=3,
    body_bytes=10_000, inline_bytes=100, chunk_bytes=4096, window_bytes=8192,
)  # fmt: skip
TERMS = Terms("f")


def up() -> Submitting:
    """With a session."""
    machine = Submitting()
    assert machine.session_up(WELCOME) == []
    return machine


def groups(machine: Submitting) -> list[JobGroup]:
    """The groups that leave now, as the master decodes them."""
    found: list[JobGroup] = []
    for message, bodies in machine.take():
        frame = encode(message, bodies)
        again, offset = decode(frame, WireLimits())
        assert isinstance(again, Jobs)
        assert frame[offset:] == b"".join(bodies)
        found += again.groups
    return found


def runs(machine: Submitting) -> list[tuple[str, int, int]]:
    """(function, first id, members) of the groups that leave now."""
    return [(group.function, group.first_id, len(group.sizes)) for group in groups(machine)]


def accepted(first_id: int, first_number: int, count: int) -> Accepted:
    return Accepted(store=STORE, groups=[AcceptedGroup(first_id, first_number, count)])


def test_submissions_of_one_turn_that_are_alike_are_one_group() -> None:
    machine = up()
    for body in (b"{}", b"", b'{"a":1}'):
        machine.submit(Terms("f"), body, "", 0.0, 5.0)
    machine.submit(Terms("g", sequence="s"), b"", "", 0.0, 5.0)
    machine.submit(Terms("g", sequence="s"), b"", "", 0.0, 9.0)
    found = groups(machine)
    assert [(group.function, group.first_id, group.sizes, group.keys) for group in found] == [
        ("f", 1, [2, 0, 7], None),
        ("g", 4, [0, 0], None),
    ]
    assert groups(machine) == []


def test_a_group_says_all_that_was_asked_for() -> None:
    machine = up()
    terms = Terms("f", "all", 7, JobFlag.FAN_OUT, 1, 2, 3, 4, 5, 6, "s")
    machine.submit(terms, b"{}", "k", 0.0, 5.0)
    [group] = groups(machine)
    assert (group.function, group.target, group.priority, group.flags) == ("f", "all", 7, JobFlag.FAN_OUT)
    assert (group.delay_ms, group.at_ms, group.expires_ms, group.retries) == (1, 2, 3, 4)
    assert (group.timeout_ms, group.retention_ms, group.sequence, group.keys) == (5, 6, "s", ["k"])


def test_keys_make_groups_of_their_own_with_one_for_each_member() -> None:
    machine = up()
    for key in ("", "a", "b", "", "c"):
        machine.submit(TERMS, b"", key, 0.0, 5.0)
    assert [(group.first_id, group.keys) for group in groups(machine)] == [(1, None), (2, ["a", "b"]), (4, None), (5, ["c"])]


def test_many_in_a_turn_leave_as_full_messages() -> None:
    machine = up()
    for _ in range(200):
        machine.submit(TERMS, b"x" * 10, "k", 0.0, 5.0)
    assert machine.full
    assert [count for _, _, count in runs(machine)] == [96, 96, 8]
    machine.submit(TERMS, b"", "k", 0.0, 5.0)
    assert not machine.full
    assert runs(machine) == [("f", 201, 1)]


def test_an_acceptance_gives_the_numbers() -> None:
    machine = up()
    first, second, third = (machine.submit(TERMS, b"", "", 0.0, 5.0) for _ in range(3))
    machine.take()
    assert machine.accepted(accepted(2, 41, 2)) == [second, third]
    assert (second.store, second.number, third.number, third.known) == (STORE, 41, 42, False)
    assert machine.open == {1: first}
    assert machine.next_deadline() is not None
    assert machine.accepted(Accepted(store=STORE, known=[KnownJob(1, 7)])) == [first]
    assert (first.number, first.known, first.error) == (7, True, None)
    assert machine.next_deadline() is None


def test_what_is_said_of_submissions_that_are_not_open_is_counted_and_no_more() -> None:
    machine = up()
    machine.submit(TERMS, b"", "", 0.0, 5.0)
    machine.accepted(accepted(1, 1, 1))
    assert machine.accepted(accepted(1, 1, 2**50)) == []
    assert machine.accepted(Accepted(store=STORE, known=[KnownJob(9, 7)])) == []
    refusal = JobRefusal(1, 2**50, "busy", "full", "", None)
    assert machine.accepted(Accepted(store=STORE, refused=[refusal])) == []
    assert machine.stray == 3


def test_a_refusal_is_the_error_of_each() -> None:
    machine = up()
    conflict, full, fuller = (machine.submit(TERMS, b"", key, 0.0, 5.0) for key in ("k", "", ""))
    told = Accepted(
        store=STORE,
        refused=[JobRefusal(1, 1, "key_conflict", "other arguments", "", None), JobRefusal(2, 2, "busy", "full", "wait", 1.5)],
    )
    assert machine.accepted(told) == [conflict, full, fuller]
    assert isinstance(conflict.error, KeyConflict)
    assert isinstance(full.error, Busy)
    assert (full.error.message, full.error.hint, full.error.retry_after_s) == ("full", "wait", 1.5)
    assert full.error is not fuller.error
    assert not machine.open


def test_what_a_master_that_shuts_down_refuses_waits_for_the_next_session() -> None:
    machine = up()
    keyed, plain = machine.submit(TERMS, b"", "k", 0.0, 5.0), machine.submit(TERMS, b"", "", 0.0, 5.0)
    assert len(groups(machine)) == 2
    machine.drain()
    later = machine.submit(TERMS, b"", "", 0.0, 5.0)
    assert machine.take() == []
    assert machine.accepted(Accepted(store=STORE, refused=[JobRefusal(1, 2, "draining", "shutting down", "", None)])) == []
    assert machine.session_lost() == []
    assert machine.session_up(WELCOME) == []
    assert runs(machine) == [("f", 1, 1), ("f", 2, 2)]
    assert machine.accepted(accepted(1, 7, 3)) == [keyed, plain, later]


def test_a_queue_that_is_drained_refuses_at_once() -> None:
    machine = up()
    submission = machine.submit(TERMS, b"", "k", 0.0, 5.0)
    told = Accepted(store=STORE, refused=[JobRefusal(1, 1, "draining", "the queue takes no new jobs", "", None)])
    assert machine.accepted(told) == [submission]
    assert isinstance(submission.error, Draining)


def test_nothing_is_sent_without_a_session() -> None:
    machine = Submitting()
    first = machine.submit(TERMS, b"", "", 0.0, 5.0)
    second = machine.submit(TERMS, b"", "", 0.0, 5.0)
    assert machine.take() == []
    assert not first.sent
    machine.session_up(WELCOME)
    assert runs(machine) == [("f", 1, 2)]
    assert second.sent


def test_a_lost_session_ends_what_was_sent_without_a_key() -> None:
    machine = up()
    lost = machine.submit(TERMS, b"", "", 0.0, 5.0)
    kept = machine.submit(TERMS, b"", "k", 0.0, 5.0)
    machine.take()
    assert machine.session_lost() == [lost]
    assert isinstance(lost.error, MasterLost)
    assert "whether it was accepted is unknown" in lost.error.message
    late = machine.submit(TERMS, b"", "", 1.0, 5.0)
    assert machine.take() == []
    machine.session_up(WELCOME)
    assert runs(machine) == [("f", 2, 1), ("f", 3, 1)]
    assert machine.accepted(accepted(2, 1, 2)) == [kept, late]


def test_what_never_left_outlives_a_lost_session() -> None:
    machine = Submitting()
    waiting = machine.submit(TERMS, b"", "", 0.0, 5.0)
    assert machine.session_lost() == []
    machine.session_up(WELCOME)
    assert runs(machine) == [("f", 1, 1)]
    assert machine.session_lost() == [waiting]


def test_what_is_sent_again_is_a_group_only_where_its_ids_are_consecutive() -> None:
    machine = up()
    for key in ("a", "b", "c"):
        machine.submit(TERMS, b"", key, 0.0, 5.0)
    machine.take()
    machine.accepted(accepted(2, 1, 1))
    machine.session_lost()
    machine.session_up(WELCOME)
    assert runs(machine) == [("f", 1, 1), ("f", 3, 1)]


def test_a_master_that_takes_smaller_arguments_is_not_sent_larger_ones() -> None:
    machine = Submitting()
    large = machine.submit(TERMS, b"x" * 101, "", 0.0, 5.0)
    small = machine.submit(TERMS, b"x" * 100, "", 0.0, 5.0)
    assert machine.session_up(WELCOME) == [large]
    assert isinstance(large.error, TooLarge)
    assert runs(machine) == [("f", small.id, 1)]


@pytest.mark.parametrize(("is_up", "key", "said", "hint"), [
    (False, "", "it was never sent", ""),
    (True, "", "whether it was accepted is unknown", "with an idempotency key"),
    (True, "k", "whether it was accepted is unknown", "with the same idempotency key"),
])  # fmt: skip
def test_a_deadline_ends_a_submission(is_up: bool, key: str, said: str, hint: str) -> None:
    machine = up() if is_up else Submitting()
    submission = machine.submit(TERMS, b"", key, 0.0, 5.0)
    assert machine.handle_deadline(4.99) == []
    assert machine.handle_deadline(5.02) == [submission]
    assert isinstance(submission.error, TimedOut)
    assert "not acknowledged in 5 s" in submission.error.message
    assert said in submission.error.message
    assert hint in submission.error.hint
    assert not machine.open
    machine.session_up(WELCOME)
    assert machine.take() == []


def test_who_does_not_want_to_know_is_told_nothing() -> None:
    machine = up()
    submission = machine.submit(TERMS, b"", "", 0.0, 5.0)
    machine.abandon(submission)
    machine.abandon(submission)
    assert machine.accepted(accepted(1, 1, 1)) == []
    assert machine.handle_deadline(9.0) == []
    assert machine.session_lost() == []


def test_a_refused_message_ends_what_was_sent() -> None:
    machine = up()
    sent = machine.submit(TERMS, b"", "k", 0.0, 5.0)
    error = NotAllowed("no jobs here")
    assert machine.refused(error) == [sent]
    assert sent.error is error
    waiting = Submitting()
    waiting.submit(TERMS, b"", "", 0.0, 5.0)
    assert waiting.refused(error) == []


def test_the_end_ends_all() -> None:
    machine = up()
    every = [machine.submit(TERMS, b"", "k", 0.0, 5.0) for _ in range(2)]
    assert machine.end_all(NotAllowed("over")) == every
    assert not machine.open
    assert machine.next_deadline() is None


def test_so_many_may_be_open_and_no_more() -> None:
    machine = up()
    assert machine.max_open == MAX_OPEN
    machine.max_open = 2
    first = machine.submit(TERMS, b"", "", 0.0, 5.0)
    machine.submit(TERMS, b"", "", 0.0, 5.0)
    with pytest.raises(Busy):
        machine.submit(TERMS, b"", "", 0.0, 5.0)
    machine.abandon(first)
    machine.submit(TERMS, b"", "", 0.0, 5.0)


def test_arguments_are_at_most_so_large() -> None:
    machine = up()
    machine.submit(TERMS, b"x" * 100, "", 0.0, 5.0)
    with pytest.raises(TooLarge):
        machine.submit(TERMS, b"x" * 101, "", 0.0, 5.0)
    assert len(machine.open) == 1


@pytest.mark.parametrize(("terms", "key"), [
    (Terms("f" * MAX_NAME_CHARS, "t" * MAX_TARGET_CHARS, sequence="s" * MAX_NAME_CHARS), "k" * MAX_KEY_CHARS),
    (Terms("f", sequence="jödel"), "schlüssel"),
])  # fmt: skip
def test_texts_at_their_limits_are_carried(terms: Terms, key: str) -> None:
    machine = up()
    machine.submit(terms, b"", key, 0.0, 5.0)
    [group] = groups(machine)
    assert (group.target, group.keys) == (terms.target, [key])


@pytest.mark.parametrize(("terms", "key"), [
    (Terms("f" * (MAX_NAME_CHARS + 1)), ""),
    (Terms("f", "t" * (MAX_TARGET_CHARS + 1)), ""),
    (Terms("f", sequence="s" * (MAX_NAME_CHARS + 1)), ""),
    (TERMS, "k" * (MAX_KEY_CHARS + 1)),
    (Terms("\ud800"), ""),
    (TERMS, "\ud800"),
])  # fmt: skip
def test_texts_that_a_message_cannot_carry_are_refused(terms: Terms, key: str) -> None:
    machine = up()
    before: Submission = machine.submit(TERMS, b"", "", 0.0, 5.0)
    with pytest.raises(UsageError):
        machine.submit(terms, b"", key, 0.0, 5.0)
    assert list(machine.open.values()) == [before]
    assert runs(machine) == [("f", 1, 1)]
