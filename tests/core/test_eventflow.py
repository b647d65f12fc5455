"""Events on their way from a worker to its master."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from zcluster.core.eventflow import (
    BURST,
    DROPPED,
    EVERY_S,
    LEFT_OUT_S,
    MAX_EVENTS,
    MAX_MESSAGE_BYTES,
    MAX_NAMES,
    MAX_WAITING,
    PER_S,
    EventQueue,
    Intake,
    check_events,
)
from zcluster.core.eventnames import MAX_FIELDS, MAX_TEXT_CHARS, MISSED, STATES, UNTOLD, of_workers
from zcluster.errors import PeerError
from zcluster.wire.agents import EventInfo, Events


def info(name: str = "agent_active", fields: dict[str, Any] | None = None) -> EventInfo:
    return EventInfo(name=name, at_s=1.0, fields=fields or {})


def taken(queue: EventQueue, now: float) -> list[EventInfo]:
    message = queue.take(now)
    assert isinstance(message, Events)
    return message.events


# -- at the worker ------------------------------------------------------------------------------------------------------------


def test_what_is_there_leaves_at_once_and_the_next_a_moment_later() -> None:
    queue = EventQueue()
    assert (queue.due_s(5.0), queue.take(5.0)) == (None, None)
    queue.add("agent_active", {"agent": "a"}, "info", 1.0)
    queue.add("agent_silent", {"agent": "b"}, "warning", 2.0)
    assert queue.due_s(5.0) == 5.0
    assert taken(queue, 5.0) == [
        EventInfo(name="agent_active", at_s=1.0, fields={"agent": "a"}),
        EventInfo(name="agent_silent", at_s=2.0, level="warning", fields={"agent": "b"}),
    ]
    queue.add("agent_active", {}, "info", 3.0)
    assert queue.due_s(5.0) == 5.0 + EVERY_S
    assert queue.take(5.0 + EVERY_S / 2) is None
    assert len(taken(queue, 5.0 + EVERY_S)) == 1


def test_much_is_told_at_the_pace_at_which_the_master_takes_it() -> None:
    queue, intake, now, got = EventQueue(), Intake(0.0), 0.0, 0
    for number in range(MAX_WAITING):
        queue.add("agent_active", {"number": number}, "info", 0.0)
    while (due_s := queue.due_s(now)) is not None:
        now = due_s
        events = taken(queue, now)
        assert len(events) == MAX_EVENTS
        assert [event.fields["number"] for event in events] == list(range(got, got + MAX_EVENTS))
        got += sum(intake.takes(now) for _ in events)
    assert got == MAX_WAITING
    assert now == pytest.approx((MAX_WAITING - MAX_EVENTS) / PER_S)


def test_beyond_what_may_wait_the_newest_are_dropped_and_counted() -> None:
    queue = EventQueue()
    for number in range(MAX_WAITING):
        queue.add("agent_active", {"number": number}, "info", 1.0)
    assert len(queue) == MAX_WAITING
    for at_s in (2.0, 3.0):
        queue.add("agent_silent", {}, "info", at_s)
    found: list[EventInfo] = []
    while (due_s := queue.due_s(0.0)) is not None:
        found += taken(queue, due_s)
    assert [event.name for event in found] == ["agent_active"] * MAX_WAITING + [DROPPED]
    assert (found[-1].fields["count"], found[-1].level, found[-1].at_s) == (2, "warning", 3.0)


def test_a_message_is_bounded_by_its_bytes() -> None:
    queue = EventQueue()
    for _ in range(20):
        queue.add("agents_not_written", {f"text{part}": "x" * 900 for part in range(10)}, "info", 0.0)
    events = taken(queue, 0.0)
    assert 1 < len(events) < 20
    assert len(msgspec.json.encode(events)) <= MAX_MESSAGE_BYTES + len(events) + 1


def test_whatever_was_noted_may_be_told() -> None:
    queue = EventQueue()
    odd = {"text": "a\nb\x00" + "\u2028" * 5000, "deep": {"a": {"b": {"c": {"d": [1]}}}}, "big": 2**70, "many": list(range(1000))}
    huge = {f"k{number}": {"x" * 50 + str(part): "é" * 900 for part in range(20)} for number in range(30)}
    plain = {f"k{number}": "\x01" * 1000 for number in range(MAX_FIELDS + 9)}
    for fields in (odd, huge, plain, {"none": None, "nan": float("nan"), "set": {1}, "exotic": ValueError("x\n")}):
        queue.add("agents_not_written", fields, "odd", 0.0)
    events = taken(queue, 0.0)
    assert msgspec.json.decode(msgspec.json.encode(Events(events=events)), type=Events).events == events
    check_events(events)


# -- at the master ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["agent_active", "agents_silent", "config_applied", "store_failed", "a", "a" * 64])
def test_what_a_worker_may_tell(name: str) -> None:
    check_events([info(name)])


MASTERS = [
    "node_ready", "node_dead", "key_admitted", "key_revoked", "join", "back", "missed", "events_lost", "master_draining",
    "group_changed", "config_changed", "tree_version", "pull_stalled", "sync_protocol_error", "agent_moved", "agents_removed",
    "queue_read_only", "queue_writable", "queue_paused", "queue_resumed", "queue_draining", "job_dead", "audit_failed",
]  # fmt: skip


@pytest.mark.parametrize("name", [*MASTERS, *STATES, *STATES.values(), *sorted(UNTOLD), MISSED])
def test_what_only_the_master_says(name: str) -> None:
    assert not of_workers(name)
    with pytest.raises(PeerError):
        check_events([info(), info(name)])


@pytest.mark.parametrize("name", ["", "A", "1a", "_a", "a b", "a\n", "a-b", "é", "a" * 65])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(PeerError):
        check_events([info(name)])


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "x" * (MAX_TEXT_CHARS + 1)}, {"text": "a\nb"}, {"a\x1b[0m": 1}, {"list": ["a", ["\x7f"]]},
        {f"k{number}": 1 for number in range(MAX_FIELDS + 1)}, {"big": 2**53}, {"deep": {"a": {"b": {"c": {"d": 1}}}}},
        {"many": [0] * 65}, {f"k{number}": "é" * 1000 for number in range(MAX_FIELDS)},
    ],
)  # fmt: skip
def test_fields_that_are_too_much(fields: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        check_events([info(fields=fields)])


def test_fields_at_their_bounds() -> None:
    most = {"text": "x" * MAX_TEXT_CHARS, "big": 2**53 - 1, "many": [0] * 64}
    check_events([info(fields=most), info(fields={f"k{number}": 1 for number in range(MAX_FIELDS)})])


def test_the_master_takes_so_many_at_once_and_so_many_a_second() -> None:
    intake = Intake(10.0)
    assert [intake.takes(10.0) for _ in range(BURST + 3)] == [True] * BURST + [False] * 3
    assert intake.next_deadline() == 10.0 + LEFT_OUT_S
    assert intake.left_out(10.0 + LEFT_OUT_S / 2) == 0
    assert sum(intake.takes(10.5) for _ in range(PER_S)) == PER_S // 2
    assert intake.left_out(10.0 + LEFT_OUT_S) == 3 + PER_S // 2
    assert (intake.left_out(99.0), intake.next_deadline()) == (0, None)
    assert sum(intake.takes(99.0) for _ in range(2 * BURST)) == BURST


def test_the_names_of_one_worker_are_bounded() -> None:
    intake = Intake(0.0)
    intake.check_names([info(f"e{number}") for number in range(MAX_NAMES)])
    intake.check_names([info("e0")])
    with pytest.raises(PeerError):
        intake.check_names([info("e0"), info("another")])
