"""What is too much for one answer of the store is asked for with the next batch, in its order."""

from __future__ import annotations

import pytest
from queuerig import FakeNode, Owner, Rig, job

from zcluster.store import jobs_memory


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer has 100 bytes and deletes 3 rows."""
    monkeypatch.setattr(jobs_memory, "PARTS_BYTES", 100)
    monkeypatch.setattr(jobs_memory, "MAX_PURGED", 3)


def ended(count: int) -> Rig:
    """A machine that has begun with jobs that are done, with results of 60 bytes."""
    rig = Rig(FakeNode("w1", slots=count))
    rig.submit(*(job() for _ in range(count)))
    rig.settle()
    for number in range(1, count + 1):
        rig.end(number, body=b"[" + b"1" * 58 + b"]")
    rig.settle()
    rig.restart()
    return rig


def test_each_order_is_carried_out_though_the_answer_has_only_some_of_the_jobs() -> None:
    rig = ended(5)
    for number in range(1, 6):
        rig.order("follow", number)
        rig.order("cancel", number)
    rig.order("follow", 9)
    fetched: list[list[int]] = []
    while (batch := rig.take()) is not None:
        fetched.append(list(batch.fetch))
        if len(fetched) == 1:
            rig.order("follow", 1, Owner())
            rig.order("follow", 5, Owner())
        rig.commit(batch)
    assert fetched == [[1, 2, 3, 4, 5, 9], [3, 4, 5, 1], [5, 1]], "what was left comes before what came later"
    assert sorted(rig.outcomes) == sorted((number, "done") for number in (1, 1, 2, 3, 4, 5, 5))
    assert rig.answers == [("cancel", number, "conflict") for number in range(1, 6)]
    assert rig.unknown == [9]
    assert not rig.queue.orders.wait


def test_an_order_for_a_job_that_was_left_waits_when_the_store_fails() -> None:
    rig = ended(3)
    for number in (1, 2, 3):
        rig.order("follow", number)
    rig.turn()
    batch = rig.take()
    assert batch is not None
    assert batch.fetch == [3]
    rig.fail(batch)
    rig.wait(5.0)
    assert rig.outcomes == [(1, "done"), (2, "done"), (3, "done")]


def test_drops_beyond_what_one_batch_deletes_go_with_the_next() -> None:
    rig = ended(5)
    for number in range(1, 6):
        rig.order("drop", number)
    rig.settle()
    assert sorted(rig.answers) == [("drop", number, "") for number in range(1, 6)]
    assert rig.jobs == {}
    rig.check()


def test_a_drop_that_is_not_done_yet_is_not_answered() -> None:
    rig = ended(4)
    for number in range(1, 5):
        rig.order("drop", number)
    rig.turn()
    batch = rig.take()
    assert batch is not None
    assert batch.delete
    rig.commit(batch)
    rest = sorted(rig.jobs)
    assert rest
    assert not [number for _, number, _ in rig.answers if number in rest]
    rig.order("drop", rest[0])
    rig.settle()
    assert rig.jobs == {}
    assert sorted(rig.answers) == sorted([("drop", number, "") for number in range(1, 5)] + [("drop", rest[0], "no_such_job")])
    rig.check()


def test_a_fan_out_with_live_parts_is_not_dropped_though_the_answer_leaves_it_out() -> None:
    rig = Rig(FakeNode("w1"))
    for _ in range(2):
        rig.fan_out("w1", body=b"x" * 101)
    rig.settle()
    for number in (2, 4):
        rig.end_badly(number, "rejected")
    rig.settle()
    for number in (2, 4):
        rig.order("retry", number)
        rig.settle()
    rig.answers.clear()
    for number in (1, 3):
        rig.order("drop", number)
    rig.settle()
    assert rig.answers == [("drop", 1, "conflict"), ("drop", 3, "conflict")]
    assert sorted(rig.jobs) == [1, 2, 3, 4]


def test_the_retention_of_large_fan_outs_ends_over_several_batches() -> None:
    rig = Rig(FakeNode("w1", slots=99))
    for _ in range(3):
        rig.fan_out("w1", "w1", "w1", "w1", retention_s=5.0)
    rig.submit(job(retention_s=5.0))
    rig.settle()
    for number in list(rig.running):
        rig.end(number)
    rig.settle()
    sizes = []
    rig.now += 6.0
    while rig.turn():
        sizes.append(len(rig.jobs))
    assert [size for size in dict.fromkeys(sizes) if size < 16] == [11, 6, 1, 0]
    rig.check()


@pytest.mark.parametrize("lane", ["any:f", "any:g"])
def test_unblocked_jobs_that_the_answer_leaves_out_run_in_their_order(lane: str) -> None:
    rig = Rig(FakeNode("w1", slots=3))
    for name in "abc":
        rig.submit(job(sequence=name))
    rig.settle()
    assert sorted(rig.running) == [1, 2, 3]
    for place, name in enumerate("abc"):
        rig.submit(job(lane.removeprefix("any:"), lane, sequence=name, body=b"x" * 60, priority=(5, 5, 9)[place]))
    rig.submit(*(job(lane.removeprefix("any:"), lane, priority=7) for _ in range(5)))
    rig.settle()
    rig.nodes.by_name["w1"].slots = 1
    for number in (1, 2, 3):
        rig.end(number)
    order: list[int] = []
    rig.settle()
    while rig.running:
        order += rig.running
        for number in list(rig.running):
            rig.end(number)
        rig.settle()
    assert order == [7, 8, 6, 9, 10, 11, 4, 5], "two are given ahead, before 6 is ready"
    rig.check()
