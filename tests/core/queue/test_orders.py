"""Cancelling, putting back and dropping: in every state, of jobs in memory and in the store, and while a batch is under way."""

from __future__ import annotations

import pytest
from queuerig import RETRY_S, FakeNode, Owner, Rig, job

from zcluster.core.queue.orders import Op

STATES = ("queued", "delayed", "blocked", "leased", "running", "done", "failed", "cancelled", "expired", "dead")
FITS: dict[Op, tuple[str, ...]] = {
    "cancel": ("queued", "delayed", "blocked", "leased", "running"),
    "retry": ("failed", "cancelled", "expired", "dead"),
    "drop": ("done", "failed", "cancelled", "expired", "dead"),
}


def in_state(state: str, *, stored: bool = False) -> tuple[Rig, int]:
    """A machine and a job of it in ``state``; with ``stored`` nothing of it is in memory."""
    rig = Rig(FakeNode("w1", usable=state != "queued"))
    number = 1
    if state == "blocked":
        rig.submit(job(sequence="s"))
        number = 2
    others = {"blocked": {"sequence": "s"}, "delayed": {"due": 1000.0}, "expired": {"due": 1000.0, "expires": 101.0}}
    rig.submit(job(retries=0, **others.get(state, {})))  # type: ignore[arg-type]
    if state == "leased":
        batch = rig.take()
        assert batch is not None
        rig.commit(batch)
        return rig, number
    rig.settle()
    match state:
        case "done":
            rig.end(1)
        case "failed" | "dead":
            rig.end_badly(1, "rejected" if state == "failed" else "timed_out")
        case "cancelled":
            rig.order("cancel", 1)
        case "expired":
            rig.wait(2.0)
        case _:
            pass
    rig.settle()
    rig.answers.clear()
    rig.stops.clear()
    if stored:
        rig.restart()
    return rig, number


@pytest.mark.parametrize("op", list(FITS))
@pytest.mark.parametrize("state", STATES)
def test_each_order_in_each_state(op: Op, state: str) -> None:
    rig, number = in_state(state)
    rig.order(op, number)
    rig.turn()
    rig.turn()
    fits = state in FITS[op]
    assert rig.answers == [(op, number, "" if fits else "conflict")]
    assert rig.stops == ([number] if op == "cancel" and state == "running" else [])
    if fits:
        after = rig.jobs[number].state.word if number in rig.jobs else "gone"
        assert after in {"cancel": ("cancelled",), "retry": ("queued", "leased"), "drop": ("gone",)}[op]
    rig.settle()
    rig.check()


@pytest.mark.parametrize("op", list(FITS))
@pytest.mark.parametrize("state", ["queued", "delayed", "blocked", "done", "failed", "cancelled", "expired", "dead"])
def test_each_order_of_a_job_that_is_in_the_store_alone(op: Op, state: str) -> None:
    rig, number = in_state(state, stored=True)
    rig.order(op, number)
    rig.settle()
    assert rig.answers == [(op, number, "" if state in FITS[op] else "conflict")]
    rig.check()


@pytest.mark.parametrize("op", list(FITS))
def test_jobs_of_others_and_jobs_that_are_not_there_look_the_same(op: Op) -> None:
    for rig, number in (in_state("failed"), in_state("running")):
        rig.order(op, number, Owner("other"))
        rig.order(op, 99)
        rig.settle()
        assert sorted(rig.answers) == [(op, number, "no_such_job"), (op, 99, "no_such_job")]


def test_an_order_waits_for_the_batch_that_has_its_job() -> None:
    rig = Rig()
    rig.submit(job())
    rig.order("cancel", 1)  # not even in a batch
    batch = rig.take()
    assert batch is not None
    rig.order("drop", 1)
    rig.commit(batch)
    rig.settle()
    assert rig.answers == [("cancel", 1, ""), ("drop", 1, "")]
    assert (rig.owner.accepted_, rig.jobs) == ({1: 1}, {})
    rig.check()


def test_an_order_to_a_job_whose_end_is_under_way() -> None:
    rig, _ = in_state("running")
    rig.end_badly(1, "rejected")
    batch = rig.take()
    assert batch is not None
    rig.order("cancel", 1)
    rig.order("retry", 1)
    rig.commit(batch)
    rig.settle()
    assert sorted(rig.answers) == [("cancel", 1, "conflict"), ("retry", 1, "")]
    assert (rig.history(1), list(rig.running)) == ("leased running failed queued leased", [1])
    rig.check()


def test_a_job_that_arrives_while_its_number_is_asked_for() -> None:
    rig = Rig()
    rig.order("cancel", 1)
    batch = rig.take()
    assert batch is not None
    rig.submit(job())
    rig.commit(batch)
    rig.settle()
    assert rig.answers == [("cancel", 1, "")]
    assert rig.state(1) == "cancelled"
    rig.check()


@pytest.mark.parametrize(
    ("first", "second", "answers", "left"),
    [
        ("retry", "retry", ["", "conflict"], True), ("retry", "cancel", ["", ""], True),
        ("retry", "drop", ["", "conflict"], True),
        ("drop", "retry", ["", "no_such_job"], False), ("drop", "drop", ["", "no_such_job"], False),
        ("cancel", "retry", ["conflict", ""], True),
    ],
)  # fmt: skip
def test_two_orders_at_once(first: Op, second: Op, answers: list[str], left: bool) -> None:
    rig, _ = in_state("failed", stored=True)
    rig.order(first, 1)
    rig.order(second, 1)
    rig.settle()
    assert sorted(rig.answers) == sorted([(first, 1, answers[0]), (second, 1, answers[1])])
    assert (1 in rig.jobs) == left
    rig.check()


def test_a_job_that_is_put_back_does_not_change_what_was_told_of_it() -> None:
    rig, _ = in_state("failed", stored=True)
    rig.order("follow", 1)
    rig.order("retry", 1)
    batch = rig.take()
    assert batch is not None
    rig.commit(batch)
    assert rig.outcomes == [(1, "failed")]


def test_a_job_that_is_put_back_is_followed_anew() -> None:
    rig, _ = in_state("failed")
    rig.order("retry", 1, None, 50.0)
    rig.settle()
    assert (rig.jobs[1].expires, rig.jobs[1].failures) == (0.0, 0)
    rig.order("follow", 1)
    rig.settle()
    assert rig.outcomes == []
    rig.end(1)
    rig.settle()
    assert rig.outcomes == [(1, "done")]


def test_a_job_that_expired_expires_so_long_after_it_is_put_back() -> None:
    rig, _ = in_state("expired")
    rig.nodes.by_name["w1"].usable = False
    rig.order("retry", 1, None, 50.0)
    rig.settle()
    assert rig.jobs[1].expires == rig.now + 50.0
    rig.wait(50.0)
    assert rig.history(1) == "expired queued expired"


def test_a_fan_out_that_has_a_live_part_is_not_dropped() -> None:
    rig = Rig()
    rig.fan_out("w1", retries=0)
    rig.settle()
    rig.end_badly(2, "rejected")
    rig.settle()
    rig.order("drop", 2)
    rig.order("retry", 2)
    rig.settle()
    rig.order("drop", 1)
    rig.settle()
    assert rig.answers == [("drop", 2, "conflict"), ("retry", 2, ""), ("drop", 1, "conflict")]
    rig.end(2)
    rig.settle()
    rig.order("drop", 1)
    rig.settle()
    assert (rig.answers[-1], rig.jobs) == (("drop", 1, ""), {})
    rig.check()


@pytest.mark.parametrize(("op", "state"), [("cancel", "running"), ("retry", "failed"), ("drop", "failed")])
def test_an_order_is_answered_when_what_it_did_is_written(op: Op, state: str) -> None:
    """A job that was cancelled stays so, and is written when the store works; a drop that was not written never was."""
    rig, _ = in_state(state)
    rig.order(op, 1)
    while (batch := rig.take()) is not None and not (batch.update or batch.delete):
        rig.commit(batch)
    assert batch is not None
    rig.fail(batch)
    assert rig.answers == ([(op, 1, "store_failed")] if op == "drop" else [])
    rig.wait(RETRY_S)
    assert rig.answers == [(op, 1, "store_failed" if op == "drop" else "")]
    assert rig.history(1).split()[-1] == {"cancel": "cancelled", "retry": "leased", "drop": "failed"}[op]
    rig.check()


def test_who_follows_a_job_twice_waits_once_and_who_is_gone_not_at_all() -> None:
    rig, _ = in_state("done")
    rig.queue.following.forget(1)
    for _ in range(3):
        rig.order("follow", 1)
    assert rig.queue.orders.waiting(rig.owner) == 1
    rig.queue.orders.gone(rig.owner)
    assert rig.queue.orders.waiting(rig.owner) == 0
    rig.settle()
    assert rig.queue.following.count(rig.owner) == 0
    rig.check()
