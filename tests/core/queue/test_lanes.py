"""Who is next: windows, nodes with room, and what comes while the store is read."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from queuerig import POLICY, FakeNode, FakeNodes, Rig, job

from zcluster.core.queue.job import Job
from zcluster.core.queue.lanes import WINDOW, WINDOW_BYTES, Lane, Lanes

SMALL = dataclasses.replace(POLICY, window_jobs=4)


def numbered(*numbers: int, **others: Any) -> list[Job]:
    jobs = [job(**others) for _ in numbers]
    for each, number in zip(jobs, numbers, strict=True):
        each.number = number
    return jobs


def window(lane: Lane) -> list[int]:
    return [each.number for each in lane.window]


def order_of(rig: Rig) -> list[int]:
    """Run everything, one at a time; returns the numbers in the order in which they ran."""
    order: list[int] = []
    rig.settle()
    while rig.running:
        order += rig.running
        for number in list(rig.running):
            rig.end(number)
        rig.settle()
    return order


@pytest.mark.parametrize("most", [4, WINDOW])
def test_a_window_has_its_limit_and_halves_beyond(most: int) -> None:
    lane = Lane("any:f", {}, most)
    jobs = numbered(*range(1, most + 2))
    for each in jobs[:most]:
        lane.add(each)
    assert (len(lane.window), lane.more) == (most, False)
    lane.add(jobs[most])
    assert (window(lane), lane.more) == (list(range(1, most // 2 + 1)), True)


def test_a_window_has_a_limit_of_bytes_or_one_job() -> None:
    lane = Lane("any:f", {})
    lane.add(numbered(1, body=b"x" * (WINDOW_BYTES + 5))[0])
    assert (window(lane), lane.more) == ([1], False)
    lane.add(numbered(2)[0])
    assert (window(lane), lane.more, lane.bytes) == ([1], True, WINDOW_BYTES + 5)
    assert [each.number for each in lane.take(5)] == [1]
    assert (lane.bytes, lane.window) == (0, [])


def test_later_jobs_are_left_to_the_store_and_earlier_ones_are_not() -> None:
    lane = Lane("any:f", {}, 4)
    for each in numbered(1, 2, 3, 4, 5):
        lane.add(each)
    lane.add(numbered(6)[0])
    lane.add(numbered(7, priority=9)[0])
    assert window(lane) == [7, 1, 2]


def test_what_comes_while_the_store_is_read_is_not_lost() -> None:
    lane = Lane("any:f", {}, 4)
    lane.more = True
    lane.load()
    lane.add(numbered(9)[0])
    assert (window(lane), lane.skipped) == ([], True)
    lane.loaded(numbered(1, 2), more=False)
    assert (window(lane), lane.more) == ([1, 2], True)
    lane.load()
    lane.loaded(numbered(1, 2, 9), more=False)
    assert (window(lane), lane.more) == ([1, 2, 9], False)


def test_a_job_that_is_here_is_not_loaded_twice() -> None:
    lane = Lane("any:f", {}, 4)
    (first,) = numbered(1)
    lane.add(first)
    lane.loaded(numbered(1, 2), more=False)
    assert window(lane) == [1, 2]
    assert lane.window[0] is first
    lane.remove(1)
    lane.remove(7)
    assert window(lane) == [2]


@pytest.mark.parametrize("policy", [POLICY, SMALL])
def test_priorities_first_and_then_the_oldest(policy: object) -> None:
    rig = Rig(FakeNode("w1", slots=1), policy=SMALL if policy is SMALL else POLICY)
    for priority in (5, 0, 9, 5, 9, 5, 5, 5, 5):
        rig.submit(job(priority=priority))
    assert order_of(rig) == [3, 5, 1, 4, 6, 7, 8, 9, 2]
    rig.check()


def test_more_jobs_than_a_window_run_in_order_though_others_come_meanwhile() -> None:
    rig = Rig(FakeNode("w1", slots=1), policy=SMALL)
    rig.submit(*[job() for _ in range(20)])
    order: list[int] = []
    rig.settle()
    while rig.running:
        (number,) = rig.running
        order.append(number)
        rig.end(number)
        batch = rig.take()
        if number < 10:
            rig.submit(job())  # while the batch is under way, and the store perhaps read
        if batch is not None:
            rig.commit(batch)
        rig.settle()
    assert order == list(range(1, 30))
    assert rig.queue.lanes.lanes == {}
    rig.check()


def test_any_goes_to_the_least_loaded_worker_and_to_the_master_only_without_workers() -> None:
    nodes = FakeNodes([FakeNode("m", 8, "master"), FakeNode("w1", 4), FakeNode("w2", 2)])
    given: list[str] = []
    lanes = Lanes(nodes, lambda each, node: given.append(node) or True)  # type: ignore[func-returns-value]
    lanes.add_run(numbered(*range(1, 10)))
    lanes.assign()
    assert (sorted(given), lanes.held) == (["w1"] * 4 + ["w2"] * 2, {"w1": 4, "w2": 2})
    nodes.by_name["w1"].usable = nodes.by_name["w2"].usable = False
    lanes.stir()
    lanes.assign()
    assert given[6:] == ["m"] * 3


def test_a_job_that_failed_goes_to_another_node_where_there_is_one() -> None:
    rig = Rig(FakeNode("w1", 1), FakeNode("w2", 1))
    rig.submit(job())
    rig.settle()
    first = rig.running[1].node
    rig.end_badly(1, "retry", retry_after_s=0)
    rig.settle()
    assert rig.running[1].node != first
    second = rig.running[1].node
    rig.nodes.by_name[first].usable = False
    rig.end_badly(1, "retry", retry_after_s=0)
    rig.settle()
    assert rig.running[1].node == second


def test_nodes_come_and_go() -> None:
    rig = Rig(FakeNode("w1", usable=False), FakeNode("w2", usable=False, functions=frozenset()))
    rig.submit(job(), job())
    rig.submit(job(lane="node:w2", target="w2"))
    rig.submit(job(lane="node:w9", target="w9"))
    rig.settle()
    assert (rig.running, rig.queue.lanes.in_windows) == ({}, 4)
    for name in ("w1", "w2"):
        rig.nodes.by_name[name].usable = True
    rig.settle()
    assert rig.running == {}, "nobody has said that they are here"
    rig.queue.lanes.stir()
    rig.settle()
    assert {number: each.node for number, each in rig.running.items()} == {1: "w1", 2: "w1", 3: "w2"}


def test_a_node_that_goes_before_it_gets_its_jobs_loses_nothing() -> None:
    rig = Rig(FakeNode("w1"), FakeNode("w2", usable=False))
    rig.submit(job(), job())
    batch = rig.take()
    assert batch is not None
    rig.commit(batch)
    rig.nodes.by_name["w1"].usable = False
    rig.nodes.by_name["w2"].usable = True
    rig.pump()
    rig.queue.lanes.stir()
    rig.settle()
    assert [(each.node, each.attempt, each.failures) for each in rig.running.values()] == [("w2", 2, 0)] * 2
    rig.check()


@pytest.mark.parametrize(("pattern", "runs"), [("w1", False), ("w*", False), ("*", False), ("w2", True), ("W1", True)])
def test_a_paused_node_is_given_nothing(pattern: str, runs: bool) -> None:
    rig = Rig()
    rig.queue.lanes.paused = [pattern]
    rig.submit(job())
    rig.settle()
    assert bool(rig.running) == runs
    rig.queue.lanes.paused = []
    rig.queue.lanes.stir()
    rig.settle()
    assert list(rig.running) == [1]


def test_a_node_is_given_ahead_as_many_as_ended_but_no_more_than_its_slots() -> None:
    rig = Rig(FakeNode("w1", slots=2))
    rig.submit(*[job() for _ in range(10)])
    rig.settle()
    assert len(rig.running) == 2
    rig.end(1)
    batch = rig.take()
    assert batch is not None
    assert [each.number for each in batch.update] == [1, 3, 4]
    rig.commit(batch)
    assert rig.queue.lanes.held == {"w1": 3}
    rig.settle()
    rig.check()


def test_jobs_of_a_key_that_may_not_run_fail_and_do_not_stop_the_others() -> None:
    rig = Rig(FakeNode("w1", slots=1))
    rig.submit(job(), job())
    rig.submit(job(key="other"))
    rig.settle()
    rig.banned.add("key-c")
    rig.end(1)
    rig.settle()
    rig.queue.lanes.stir()
    rig.settle()
    assert (rig.state(2), list(rig.running)) == ("failed", [3])
    rig.check()


def test_a_new_job_that_may_not_run_is_stored_before_it_fails() -> None:
    rig = Rig()
    rig.banned.add("key-c")
    rig.submit(job())
    batch = rig.take()
    assert batch is not None
    assert [(each.number, each.state.word) for each in batch.insert] == [(1, "queued")]
    rig.commit(batch)
    rig.queue.lanes.stir()
    rig.settle()
    assert (rig.state(1), rig.owner.accepted_) == ("failed", {1: 1})
    rig.check()


def test_a_load_that_failed_is_asked_for_again() -> None:
    rig = Rig(FakeNode("w1", usable=False))
    rig.submit(job())
    rig.settle()
    rig.restart()
    rig.nodes.by_name["w1"].usable = True
    batch = rig.take()
    assert batch is not None
    assert list(batch.ready) == ["any:f"]
    rig.fail(batch)
    rig.now += 1.0
    rig.settle()
    assert list(rig.running) == [1]


def test_functions_that_share_a_node_take_turns_and_the_highest_priority_goes_first() -> None:
    rig = Rig(FakeNode("w1", slots=4))
    rig.submit(*(job() for _ in range(200)))
    rig.submit(*(job("g", "any:g", priority=9) for _ in range(20)))
    rig.submit(*(job("h", "any:h") for _ in range(200)))
    rig.nodes.by_name["w1"].functions = frozenset({"f", "g", "h"})
    begun: list[str] = []
    for _ in range(40):
        rig.settle()
        begun += [rig.jobs[number].function for number in rig.running]
        for number in list(rig.running):
            rig.end(number)
    assert begun.index("g") < 8
    assert "f" in begun[20:60]
    assert "h" in begun[20:60]


def test_a_function_that_cannot_run_holds_up_no_other() -> None:
    rig = Rig(FakeNode("w1", functions=frozenset({"g"})))
    rig.submit(*(job() for _ in range(5)))
    rig.submit(job("g", "any:g"))
    rig.settle()
    assert [rig.jobs[number].function for number in rig.running] == ["g"]
