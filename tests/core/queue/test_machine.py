"""The machine of the queue: acceptance, attempts, retries, restarts, times, fan-outs, sequences, keys, and a store that fails."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from queuerig import POLICY, RETRY_S, FakeNode, Rig, job

from zcluster.core.queue.job import State
from zcluster.core.queue.transitions import MAX_DEATHS
from zcluster.core.queue.verdict import FREE_PAUSE_S


def fields(rig: Rig, number: int) -> tuple[str, int, int, int]:
    it = rig.jobs[number]
    return it.state.word, it.attempt, it.failures, it.deaths


# -- acceptance and attempts ------------------------------------------------------------------------------------------


def test_a_job_is_accepted_and_leased_by_one_commit() -> None:
    rig = Rig()
    rig.submit(job())
    batch = rig.take()
    assert batch is not None
    assert [(each.number, each.state) for each in batch.insert] == [(1, State.LEASED)]
    assert (batch.update, dict(batch.counts), batch.usage) == ([], {State.LEASED: 1}, {"key-c": (1, 2)})
    rig.pump()
    assert (rig.owner.accepted_, rig.running) == ({}, {}), "it is not on disk"
    assert rig.take() is None, "one batch at a time"
    rig.commit(batch)
    rig.pump()
    assert (rig.owner.accepted_, list(rig.running)) == ({1: 1}, [1])
    assert (rig.history(1), rig.jobs[1].attempt) == ("leased", 1)
    rig.order("follow", 1)
    rig.end(1, body=b'"value"')
    rig.tell()
    assert rig.outcomes == []
    rig.settle()
    assert (rig.outcomes, rig.jobs[1].result, rig.history(1)) == ([(1, "done")], b'"value"', "leased running done")
    assert (rig.queue.live, rig.queue.lanes.lanes, rig.queue.starts) == ({}, {}, {})
    rig.check()


def test_submissions_that_wait_go_together_and_each_is_told() -> None:
    rig = Rig(FakeNode("w1", 2))
    rig.submit(job(), job(), job())
    rig.submit(job(key="other", body=b"12345"))
    batch = rig.take()
    assert batch is not None
    assert (len(batch.insert), batch.usage) == (4, {"key-c": (3, 6), "other": (1, 5)})
    rig.commit(batch)
    assert rig.owner.accepted_ == {1: 1, 2: 2, 3: 3, 4: 4}
    rig.check()


@pytest.mark.parametrize("attempt", [0, 2])
def test_outcomes_of_other_attempts_and_of_unknown_jobs_are_counted_only(attempt: int) -> None:
    rig = Rig()
    rig.submit(job())
    rig.settle()
    rig.queue.outcome(1, attempt, True, b"1", rig.now, rig.wall_s)
    rig.queue.outcome(9, 1, True, b"1", rig.now, rig.wall_s)
    rig.end(1)
    rig.queue.outcome(1, 1, True, b"2", rig.now, rig.wall_s)
    assert rig.queue.stray == 3
    rig.settle()
    rig.queue.outcome(1, 1, True, b"2", rig.now, rig.wall_s)
    assert (rig.queue.stray, rig.jobs[1].result) == (4, b"1")


@pytest.mark.parametrize(("size", "state"), [(10, "done"), (11, "failed")])
def test_a_value_has_its_limit(size: int, state: str) -> None:
    rig = Rig(policy=dataclasses.replace(POLICY, result_bytes=10))
    rig.submit(job())
    rig.settle()
    rig.end(1, body=b"x" * size)
    rig.settle()
    assert rig.state(1) == state
    rig.check()


# -- attempts that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["function_failed", "rejected", "unreachable"])
def test_a_functions_own_error_is_final(code: str) -> None:
    rig = Rig()
    rig.submit(job())
    rig.settle()
    rig.end_badly(1, code)
    rig.settle()
    assert fields(rig, 1) == ("failed", 1, 0, 0)
    assert code.encode() in rig.jobs[1].result
    rig.check()


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_failures_are_followed_by_longer_pauses_and_then_by_death(retries: int) -> None:
    rig = Rig()
    rig.submit(job(retries=retries))
    rig.settle()
    for failures in range(1, retries + 1):
        rig.end_badly(1, "timed_out")
        rig.settle()
        assert fields(rig, 1) == ("queued", failures, failures, 0)
        pause_s = 2.0 ** (failures - 1)
        assert rig.queue.next_deadline() == rig.now + pause_s
        rig.wait(pause_s - 0.01)
        assert rig.running == {}
        rig.wait(0.02)
        assert list(rig.running) == [1]
    rig.end_badly(1, "timed_out")
    rig.settle()
    assert fields(rig, 1) == ("dead", retries + 1, retries + 1, 0)
    assert "job_dead" in rig.events
    rig.check()


def test_nodes_that_are_lost_with_a_job_end_it_before_its_retries_do() -> None:
    rig = Rig()
    rig.submit(job(retries=100))
    for _ in range(MAX_DEATHS):
        rig.wait(10.0)
        rig.end_badly(1, "node_lost")
    rig.settle()
    assert fields(rig, 1) == ("dead", MAX_DEATHS, MAX_DEATHS, MAX_DEATHS)


@pytest.mark.parametrize(("code", "pause_s"), [("busy", FREE_PAUSE_S + 1.0), ("draining", 0.0), ("node_unavailable", 0.0)])
def test_what_never_started_counts_against_nothing(code: str, pause_s: float) -> None:
    rig = Rig()
    rig.submit(job(retries=0))
    rig.settle()
    rig.end_badly(1, code)
    rig.settle()
    assert list(rig.running) == ([] if pause_s else [1])
    rig.wait(pause_s)
    assert (rig.running[1].attempt, rig.running[1].failures) == (2, 0)


def test_a_function_may_ask_for_its_pause() -> None:
    rig = Rig()
    rig.submit(job())
    rig.settle()
    rig.end_badly(1, "retry", retry_after_s=30)
    rig.settle()
    rig.wait(29.9)
    assert rig.running == {}
    rig.wait(0.2)
    assert list(rig.running) == [1]


# -- restarts ---------------------------------------------------------------------------------------------------------


def test_leased_jobs_have_another_attempt_after_a_restart_at_no_cost() -> None:
    rig = Rig(FakeNode("w1", 2))
    rig.submit(*[job(retries=0) for _ in range(3)])
    rig.settle()
    rig.restart()
    rig.settle()
    assert sorted((each.number, each.attempt, each.failures) for each in rig.running.values()) == [(1, 2, 0), (2, 2, 0)]
    assert rig.history(1) == "leased queued leased"
    rig.queue.outcome(1, 1, True, b"late", rig.now, rig.wall_s)
    assert rig.queue.stray == 1
    rig.check()


def test_a_job_that_the_master_itself_ran_may_have_been_its_end() -> None:
    rig = Rig(FakeNode("m", role="master"))
    rig.submit(job(retries=9))
    rig.settle()
    for _ in range(MAX_DEATHS):
        rig.wait(10.0)
        rig.restart()
    rig.settle()
    assert fields(rig, 1) == ("dead", MAX_DEATHS, MAX_DEATHS, MAX_DEATHS)


@pytest.mark.parametrize("took_effect", [False, True])
def test_a_crash_before_or_after_the_commit(took_effect: bool) -> None:
    rig = Rig()
    rig.submit(job())
    batch = rig.take()
    assert batch is not None
    if took_effect:
        rig.store.commit_now(batch)
    rig.restart()
    rig.settle()
    assert {number: each.attempt for number, each in rig.running.items()} == ({1: 2} if took_effect else {})
    rig.submit(job())
    rig.settle()
    assert rig.owner.accepted_ == {2: 2 if took_effect else 1}
    rig.check()


# -- times ------------------------------------------------------------------------------------------------------------


def test_a_delay_is_by_queue_time_and_a_time_by_the_wall() -> None:
    rig = Rig()
    rig.submit(job(due=110.0))
    rig.submit(job(at_s=1_000_010.0))
    rig.settle()
    assert (rig.queue.next_deadline(), rig.queue.next_at_s) == (110.0, 1_000_010.0)
    rig.wall_s += 3600.0
    rig.settle()
    assert list(rig.running) == [2]
    rig.wall_s -= 7200.0
    rig.now = 109.9
    rig.settle()
    assert list(rig.running) == [2]
    rig.now = 110.0
    rig.settle()
    assert list(rig.running) == [2, 1]
    assert rig.queue.next_deadline() == math.inf
    rig.check()


@pytest.mark.parametrize("usable", [False, True])
def test_a_job_that_waits_too_long_expires(usable: bool) -> None:
    rig = Rig(FakeNode("w1", usable=usable))
    rig.submit(job(expires=105.0))
    rig.submit(job(expires=105.0, due=120.0))
    rig.order("follow", 1)
    rig.settle()
    rig.wait(4.9)
    assert rig.state(2) == "queued"
    rig.wait(0.1)
    assert rig.state(2) == "expired"
    assert rig.state(1) == ("leased" if usable else "expired")
    assert rig.outcomes == ([] if usable else [(1, "expired")])
    rig.check()


@pytest.mark.parametrize("others", [{}, {"idempotency_key": "k"}, {"sequence": "s"}])
@pytest.mark.parametrize("after", ["acceptance", "attempt"])
def test_a_job_that_waits_for_a_node_expires(others: dict[str, str], after: str) -> None:
    rig = Rig(FakeNode("w1", usable=after == "attempt"))
    rig.submit(job(expires=105.0, **others))
    rig.settle()
    if after == "attempt":
        rig.wait(1.0)
        rig.nodes.by_name["w1"].usable = False
        rig.queue.next_expiry = math.inf  # as when it was looked at while the job ran
        rig.end_badly(1, "node_unavailable")
        rig.settle()
    assert (rig.state(1), rig.queue.next_deadline()) == ("queued", 105.0)
    rig.wait(5.0)
    assert rig.state(1) == "expired"


def test_ended_jobs_are_purged_and_the_counts_follow() -> None:
    rig = Rig()
    rig.submit(job(retention_s=5.0))
    rig.settle()
    rig.end(1)
    rig.settle()
    rig.wait(4.9)
    assert rig.state(1) == "done"
    rig.wait(0.2)
    assert rig.jobs == {}
    rig.check()


# -- keys, sequences, fan-outs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
def test_one_job_for_one_key_and_a_conflict_for_another_question(together: bool) -> None:
    rig = Rig()
    for digest in (b"1", b"1", b"2"):
        rig.submit(job(idempotency_key="k", digest=digest))
        if not together:
            rig.settle()
    rig.settle()
    assert (rig.owner.accepted_, rig.owner.known_, rig.owner.refused_) == ({1: 1}, {2: 1}, {3: "key_conflict"})
    assert (list(rig.jobs), list(rig.running)) == ([1], [1])
    rig.check()


def test_a_fan_out_with_a_key_that_is_known_runs_nothing() -> None:
    rig = Rig(FakeNode("w1"), FakeNode("w2"))
    for _ in range(2):
        rig.fan_out("w1", "w2", idempotency_key="k", digest=b"1")
    rig.settle()
    assert (rig.owner.accepted_, rig.owner.known_) == ({1: 1}, {2: 1})
    assert (sorted(rig.jobs), sorted(rig.running)) == ([1, 2, 3], [2, 3])
    rig.check()


def test_jobs_of_a_sequence_run_one_at_a_time_in_order() -> None:
    rig = Rig()
    for priority in (1, 9, 5):
        rig.submit(job(sequence="s", priority=priority))
    rig.settle()
    rig.end_badly(1, "retry")
    rig.settle()
    assert rig.running == {}, "the first waits for its next attempt, and the others for the first"
    rig.wait(5.0)
    rig.end_badly(1, "rejected")
    rig.settle()
    assert list(rig.running) == [2]
    rig.order("cancel", 3)
    rig.settle()
    rig.end(2)
    rig.settle()
    assert [rig.state(number) for number in (1, 2, 3)] == ["failed", "done", "cancelled"]
    rig.check()


def test_a_job_that_is_unblocked_and_read_by_one_commit_runs_once() -> None:
    rig = Rig(FakeNode("w1", 1))
    rig.submit(job(sequence="s"))
    rig.submit(job(sequence="s"))
    rig.settle()
    rig.end(1)
    batch = rig.take()
    assert batch is not None
    batch.ready["any:f"] = 5
    rig.commit(batch)
    assert rig.queue.lanes.in_windows == 1
    assert [each.number for lane in rig.queue.lanes.lanes.values() for each in lane.window] == [2]
    rig.settle()
    rig.check()


ENDS: dict[str, tuple[bool, str]] = {"done": (True, ""), "failed": (False, "rejected"), "dead": (False, "timed_out")}


@pytest.mark.parametrize(
    ("parts", "state"),
    [
        (("done", "done", "done"), "done"), (("done", "failed", "done"), "failed"), (("dead", "done", "done"), "failed"),
        (("done", "cancelled", "failed"), "cancelled"), (("expired", "done", "done"), "expired"),
        (("expired", "failed", "done"), "failed"), (("cancelled", "expired", "dead"), "cancelled"),
        (("cancelled", "cancelled", "cancelled"), "cancelled"),
    ],
)  # fmt: skip
def test_a_fan_out_ends_as_its_parts_do(parts: tuple[str, ...], state: str) -> None:
    names = ["w1", "w2", "w3"]
    rig = Rig(*[FakeNode(name, usable=end != "expired") for name, end in zip(names, parts, strict=True)])
    rig.fan_out(*names, retries=0, expires=105.0)
    rig.order("follow", 1)
    rig.settle()
    for number, end in enumerate(parts, 2):
        assert rig.state(1) == "queued"
        if end == "cancelled":
            rig.order("cancel", number)
        elif end != "expired":
            ok, code = ENDS[end]
            rig.end(number, ok, b"1" if ok else b'{"code":"%s"}' % code.encode())
        rig.settle()
    rig.wait(6.0)
    assert [rig.state(number) for number in (2, 3, 4)] == list(parts)
    assert (rig.state(1), rig.outcomes) == (state, [(1, state)])
    rig.check()


def test_a_fan_out_that_was_complete_when_the_master_ended_is_gathered() -> None:
    rig = Rig()
    rig.fan_out("w1")
    rig.settle()
    rig.end(2)
    batch = rig.take()
    assert batch is not None
    rig.store.commit_now(batch)
    rig.restart()
    rig.settle()
    assert (rig.state(1), rig.jobs[1].result) == ("done", b'{"parts":1,"done":1}')
    rig.check()


# -- a store that fails -----------------------------------------------------------------------------------------------


def failed(rig: Rig) -> None:
    """What waits now does not get onto the disk."""
    batch = rig.take()
    assert batch is not None
    rig.fail(batch)
    rig.pump()


def test_submissions_that_fail_are_refused_and_leave_nothing() -> None:
    rig = Rig(FakeNode("w1", 1))
    rig.submit(job(), job())
    rig.submit(job(idempotency_key="k"))
    rig.fan_out("w1", "w2")
    failed(rig)
    assert rig.owner.refused_ == dict.fromkeys((1, 2, 3, 4), "store_failed")
    assert (rig.queue.live, rig.queue.lanes.in_windows, rig.queue.lanes.held, rig.jobs) == ({}, 0, {}, {})
    assert rig.queue.read_only
    assert rig.take() is None
    rig.wait(RETRY_S)
    assert rig.queue.read_only == ""
    assert rig.events == ["queue_read_only", "queue_writable"]
    rig.submit(job())
    rig.settle()
    assert rig.owner.accepted_ == {5: 7}
    rig.check()


def test_leases_that_fail_never_were() -> None:
    rig = Rig(FakeNode("w1", usable=False))
    rig.submit(job(), job())
    rig.settle()
    rig.nodes.by_name["w1"].usable = True
    rig.queue.lanes.stir()
    failed(rig)
    assert (rig.running, rig.queue.lanes.held, rig.queue.live) == ({}, {}, {})
    rig.wait(RETRY_S)
    assert {number: each.attempt for number, each in rig.running.items()} == {1: 1, 2: 1}
    assert rig.history(1) == "leased"
    rig.check()


@pytest.mark.parametrize("what", ["value", "error", "retry", "cancel", "expire", "wake", "purge", "gather"])
def test_what_fails_to_be_written_is_told_when_it_is_and_once(what: str) -> None:
    rig = Rig()
    if what == "gather":
        rig.fan_out("w1")
        rig.settle()
        rig.end(2)
        rig.turn()
    else:
        rig.submit(job(
            due=101.0 if what in ("wake", "expire") else 0.0, expires=100.5 if what == "expire" else 0.0,
            retention_s=1.0 if what == "purge" else 1e6,
        ))  # fmt: skip
        rig.settle()
    rig.order("follow", 1)
    match what:
        case "value" | "purge":
            rig.end(1)
        case "error" | "retry":
            rig.end_badly(1, "rejected" if what == "error" else "retry", retry_after_s=0)
        case "cancel":
            rig.order("cancel", 1)
        case _:
            pass
    if what == "purge":
        rig.settle()
    rig.now += 2.0
    before = rig.history(1)
    for _ in range(3):
        failed(rig)
        rig.now += RETRY_S
        assert rig.history(1) == before
    assert len(rig.outcomes) == (what == "purge")
    rig.settle()
    rig.check()
    ends = {"value": "done", "error": "failed", "cancel": "cancelled", "expire": "expired", "gather": "done", "purge": "done"}
    assert rig.outcomes == ([(1, ends[what])] if what in ends else [])
    assert rig.jobs.keys() == (set() if what == "purge" else {1, 2} if what == "gather" else {1})
    assert list(rig.running) == ([1] if what in ("wake", "retry") else [])


def test_what_ends_while_a_batch_fails_is_not_lost() -> None:
    rig = Rig(FakeNode("w1", 2))
    rig.submit(job(), job(), job())
    rig.settle()
    rig.end(1)
    batch = rig.take()
    rig.end(2)
    assert batch is not None
    rig.fail(batch)
    rig.wait(RETRY_S)
    assert [rig.state(number) for number in (1, 2)] == ["done", "done"]
    rig.check()


def test_small_values_are_kept_when_the_disk_works_again() -> None:
    rig = Rig()
    rig.queue.keep("a", b"1")
    batch = rig.take()
    assert batch is not None
    rig.queue.keep("b", b"2")
    rig.fail(batch)
    rig.queue.keep("a", b"3")
    assert rig.queue.keeps
    rig.wait(RETRY_S)
    assert rig.store.committed().meta == {"a": b"3", "b": b"2"}
    assert not rig.queue.keeps


def test_a_resting_queue_gives_nothing_to_nodes_and_writes_what_ends() -> None:
    rig = Rig(FakeNode("w1", 1))
    rig.submit(job(), job())
    rig.settle()
    rig.queue.resting = True
    rig.end(1)
    rig.settle()
    assert (rig.state(1), rig.state(2), rig.running) == ("done", "queued", {})


def test_what_a_stopping_master_says_of_a_job_says_nothing() -> None:
    rig = Rig()
    rig.submit(job())
    rig.settle()
    rig.queue.resting = True
    rig.end_badly(1, "unreachable")
    rig.settle()
    assert rig.state(1) == "leased"


# -- anything -----------------------------------------------------------------------------------------------------------

WHAT = (
    "submit", "keyed", "sequence", "delayed", "fan-out", "end", "lose", "cancel", "retry", "drop", "fail", "turn", "wait",
    "restart", "node",
)  # fmt: skip
ACTIONS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 9)), max_size=60)


def act(rig: Rig, what: str, which: int) -> None:
    """One thing happens."""
    numbers = sorted(rig.running)
    kinds: dict[str, dict[str, Any]] = {
        "submit": {"priority": which}, "keyed": {"idempotency_key": f"k{which % 3}", "digest": b"%d" % (which // 5)},
        "sequence": {"sequence": f"s{which % 2}"}, "delayed": {"due": rig.now + which, "expires": rig.now + 3},
    }  # fmt: skip
    match what:
        case "submit" | "keyed" | "sequence" | "delayed" if rig.queue.refusal("key-c", 1, 2) is None:
            rig.submit(job(retries=which % 3, **kinds[what]))
        case "fan-out" if rig.queue.refusal("key-c", 3, 6) is None:
            rig.fan_out("w1", "w2", retries=0)
        case "end" | "lose" if numbers:
            number = numbers[which % len(numbers)]
            if what == "end":
                rig.end(number)
            else:
                rig.end_badly(number, ("retry", "node_lost", "busy", "rejected")[which % 4])
        case "cancel" | "retry" | "drop":
            rig.order(what, which + 1)
        case "fail" if (batch := rig.take()) is not None:
            rig.fail(batch)
        case "turn":
            rig.turn()
        case "wait":
            rig.wait(which / 2)
        case "restart":
            rig.restart()
        case "node":
            rig.nodes.by_name["w2"].usable = which % 2 == 0
            rig.queue.lanes.stir()
        case _:
            pass


@settings(deadline=None, max_examples=150)
@example([("submit", 0), ("cancel", 0), ("fail", 0), ("wait", 0)])
@given(ACTIONS)
def test_counters_and_memory_are_right_after_anything(actions: list[tuple[str, int]]) -> None:
    rig = Rig(FakeNode("w1", 2), FakeNode("w2", 1), policy=dataclasses.replace(POLICY, window_jobs=4))
    for what, which in actions:
        act(rig, what, which)
    rig.nodes.by_name["w2"].usable = True
    rig.queue.lanes.stir()
    for _ in range(200):
        rig.wait(2.0)
        rig.check()
        for number in list(rig.running):
            rig.end(number)
        if not any(not each.final for each in rig.jobs.values()):
            break
    rig.settle()
    assert all(each.final for each in rig.jobs.values())
    assert (rig.queue.live, rig.queue.lanes.lanes, rig.queue.lanes.held, rig.queue.starts) == ({}, {}, {}, {})
    rig.check()
