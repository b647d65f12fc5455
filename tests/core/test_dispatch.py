"""The master's queues, legs and outcomes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from zcluster.core.peers import MODEST_S, MOST_QUICK
from zcluster.wire import Beat, Bye, Cancel, FunctionInfo, Status, Work
from zcluster.wire.messages import RequestFlag

SAFE = FunctionInfo(name="safe", idempotent=True)


def test_requests_of_a_batch_stay_a_batch(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1", b"a", b"bb", b"ccc")
    [work] = [message for message in bus.heard("w1") if isinstance(message, Work)]
    [group] = work.groups
    assert (group.first_request, group.first_leg, group.sizes, group.caller, group.session) == (1, 1, [1, 2, 3], "c1", 2)


def test_each_request_has_one_answer(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1", b"a", b"b")
    bus.heard("c1")
    bus.result("w1", 1, b"first")
    bus.result("w1", 1, b"again")
    bus.result("w1", 2, b'{"code":"busy"}', Status.ERROR)
    assert bus.replies("c1") == [(1, "VALUE first", "w1"), (2, "busy", "w1")]
    assert (bus.count("stray_result"), bus.count("done"), bus.count("failed")) == (1, 1, 1)
    assert bus.idle()


def test_a_run_of_results_goes_to_its_callers(bus: Any) -> None:
    from zcluster.wire import ResultGroup, Results

    bus.worker("w1", "f")
    bus.client("c1")
    bus.client("c2")
    bus.request("c1", "f", "w1", b"a")
    bus.request("c2", "f", "w1", b"b")
    bus.request("c1", "f", "w*", b"c", id_=2, flags=RequestFlag.FAN_OUT)
    bus.heard("c1")
    bus.heard("c2")
    bus.send("w1", Results([ResultGroup(1, 0, [1, 1, 1, 1])]), b"1234")
    assert bus.replies("c1") == [(1, "VALUE 1", "w1"), (2, "VALUE 3", "w1"), (2, "DONE", "")]
    assert bus.replies("c2") == [(1, "VALUE 2", "w1")]
    assert bus.count("stray_result") == 1
    assert bus.idle()


def test_a_result_counts_only_from_the_node_it_was_given_to(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.worker("w2", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1")
    bus.heard("c1")
    bus.result("w2", 1, b"forged")
    assert bus.replies("c1") == []
    assert bus.count("stray_result") == 1
    bus.result("w1", 1, b"true")
    assert bus.replies("c1") == [(1, "VALUE true", "w1")]


def test_a_node_gets_no_more_than_its_slots_and_the_callers_share(bus: Any) -> None:
    bus.worker("w1", "f", slots=4)
    for name in ("c1", "c2", "c3"):
        bus.client(name)
        bus.request(name, "f", "w1", *[b"x"] * 5)
    legs = bus.work("w1")
    assert len(legs) == 4
    assert bus.master.roster.nodes["w1"].by_caller == {2: 3, 3: 1}
    bus.result("w1", legs[0][0])
    assert len(bus.work("w1")) == 1
    assert bus.master.roster.nodes["w1"].by_caller == {2: 2, 3: 1, 4: 1}, "the free slot is for a caller who has none"


def test_while_a_modest_caller_is_there_a_node_has_few_quick_ones(bus: Any) -> None:
    bus.worker("w1", FunctionInfo(name="f", pool="inline"), slots=512)
    bus.client("many")
    bus.client("one")
    bus.request("many", "f", "w1", *[b"x"] * 1000)
    legs = deque(leg for leg, *_ in bus.work("w1"))
    assert len(legs) == 448, "alone it has all that one caller may have"
    bus.request("one", "f", "w1")
    (last,) = (leg for leg, *_ in bus.work("w1"))
    bus.result("w1", last)
    while len(legs) >= MOST_QUICK:
        bus.result("w1", legs.popleft())
        if len(legs) >= MOST_QUICK:
            assert bus.work("w1") == []
    bus.wait(MODEST_S)
    bus.result("w1", legs.popleft())
    assert len(bus.work("w1")) == 448 - len(legs), "and again"


def test_fewer_slots_are_respected_and_more_are_used(bus: Any) -> None:
    bus.worker("w1", "f", slots=4)
    bus.client("c1")
    bus.client("c2")
    bus.send("w1", Beat(slots=1))
    bus.request("c1", "f", "w1", b"x")
    bus.request("c2", "f", "w1", b"x")
    assert len(bus.work("w1")) == 1
    bus.send("w1", Beat(slots=4))
    assert len(bus.work("w1")) == 1


def test_any_goes_to_the_least_loaded_worker(bus: Any) -> None:
    bus.local("f", slots=100)
    bus.worker("w1", "f", slots=4)
    bus.worker("w2", "f", slots=8)
    bus.client("c1")
    bus.request("c1", "f", "any", *[b"x"] * 6)
    assert (len(bus.work("w1")), len(bus.work("w2")), bus.work("local")) == (2, 4, [])


def test_any_goes_to_the_master_only_when_no_worker_has_the_function(bus: Any) -> None:
    bus.local("f")
    bus.worker("w1", "g")
    bus.client("c1")
    bus.request("c1", "f", "any")
    assert len(bus.work("local")) == 1


def test_what_waits_for_any_goes_to_the_master_when_the_last_worker_dies(bus: Any) -> None:
    bus.local("f")
    bus.worker("w1", "f", slots=1)
    bus.client("c1")
    bus.request("c1", "f", "any", b"runs", b"waits")
    assert bus.work("local") == []
    bus.master.disconnected("w1", bus.now)
    bus.turn()
    assert [body for _, _, body in bus.work("local")] == [b"waits"]


def test_an_idempotent_request_moves_when_its_node_is_lost(bus: Any) -> None:
    bus.worker("w1", SAFE, "once")
    bus.client("c1")
    bus.request("c1", "safe", "any", b"1", b"2", id_=1)
    bus.request("c1", "once", "any", id_=3)
    bus.request("c1", "safe", "w1", id_=4)
    bus.worker("w2", SAFE, "once")
    bus.heard("c1")
    bus.master.disconnected("w1", bus.now)
    bus.turn()
    assert sorted(bus.replies("c1")) == [(3, "node_lost", "w1"), (4, "node_lost", "w1")]
    assert [(id_, body) for _, id_, body in bus.work("w2")] == [(1, b"1"), (2, b"2")], "in their order"
    assert (bus.count("moved"), bus.count("node_lost")) == (2, 2)


def test_the_callers_word_makes_it_idempotent_too(bus: Any) -> None:
    bus.worker("w1", "once")
    bus.worker("w2", "once")
    bus.client("c1")
    bus.request("c1", "once", "any", flags=RequestFlag.IDEMPOTENT)
    first = "w1" if bus.work("w1") else "w2"
    bus.master.disconnected(first, bus.now)
    bus.turn()
    assert len(bus.work("w2" if first == "w1" else "w1")) == 1


@pytest.mark.parametrize("attempts", [1, 3])
def test_attempts_are_bounded(attempts: int, make_bus: Callable[..., Any]) -> None:
    bus = make_bus(queue={"attempts": attempts})
    for number in range(5):
        bus.worker(f"w{number}", SAFE)
    bus.client("c1")
    bus.heard("c1")
    bus.request("c1", "safe", "any")
    starts = 0
    for _ in range(5):
        for route in [route for route in bus.master.roster.peers if route != "c1"]:
            if bus.work(route):
                starts += 1
                bus.master.disconnected(route, bus.now)
                bus.turn()
    assert starts == attempts
    assert [what for _, what, _ in bus.replies("c1")] == ["node_lost"]
    assert bus.idle()


def test_what_is_partly_answered_does_not_move(bus: Any) -> None:
    bus.worker("w1", FunctionInfo(name="lines", idempotent=True, stream=True))
    bus.client("c1")
    bus.request("c1", "lines", "any")
    bus.worker("w2", FunctionInfo(name="lines", idempotent=True, stream=True))
    bus.heard("c1")
    bus.result("w1", 1, b"first", Status.ITEM)
    bus.master.disconnected("w1", bus.now)
    bus.turn()
    assert bus.replies("c1") == [(1, "ITEM first", "w1"), (1, "node_lost", "w1")]
    assert bus.work("w2") == []


def test_one_that_may_move_and_finds_nobody_ran_perhaps(bus: Any) -> None:
    bus.worker("w1", SAFE, slots=2)
    bus.client("c1")
    bus.request("c1", "safe", "any", b"runs", b"waits")
    bus.heard("c1")
    bus.master.disconnected("w1", bus.now)
    bus.turn()
    assert sorted(bus.replies("c1")) == [(1, "node_lost", ""), (2, "no_such_function", "")]
    assert bus.idle()


def test_what_waits_for_a_lost_node_was_never_started(bus: Any) -> None:
    bus.worker("w1", "f", slots=1)
    bus.client("c1")
    bus.request("c1", "f", "w1", b"runs", b"waits")
    bus.heard("c1")
    bus.wait(2.0)
    bus.send("c1", Beat())
    bus.wait(1.0)
    assert sorted(bus.replies("c1")) == [(1, "node_lost", "w1"), (2, "node_unavailable", "w1")]
    assert bus.idle()


def test_what_waits_survives_a_reconnection(bus: Any) -> None:
    bus.worker("w1", "f", slots=1, route="old")
    bus.client("c1")
    bus.request("c1", "f", "w1", b"runs", b"waits")
    bus.request("c1", "f", "any", b"any waits", id_=3)
    bus.heard("c1")
    bus.worker("w1", "f", slots=2, route="new")
    assert bus.replies("c1") == [(1, "node_lost", "w1")]
    bus.result("new", bus.work("new")[0][0])
    assert [body for _, _, body in bus.work("new")] == [b"any waits"]


def test_a_node_that_comes_back_without_the_function_says_so(bus: Any) -> None:
    bus.worker("w1", "f", slots=1, route="old")
    bus.client("c1")
    bus.request("c1", "f", "w1", b"runs", b"waits")
    bus.request("c1", "f", "any", b"any waits", id_=3)
    bus.heard("c1")
    bus.worker("w1", "g", slots=2, route="new")
    assert sorted(bus.replies("c1")) == [(1, "node_lost", "w1"), (2, "no_such_function", "w1"), (3, "no_such_function", "")]
    assert bus.idle()


def test_a_refused_request_goes_to_another_node_unless_it_is_for_this_one(bus: Any) -> None:
    bus.worker("w1", "f", slots=2)
    bus.client("c1")
    bus.request("c1", "f", "any")
    bus.heard("c1")
    bus.worker("w2", "f", slots=8)
    bus.send("w1", Bye(draining=True))
    bus.result("w1", 1, b'{"code":"draining"}', Status.REFUSED)
    assert len(bus.work("w2")) == 1
    bus.request("c1", "f", "w2", id_=2)
    [(leg, _, _)] = bus.work("w2")
    bus.result("w2", leg, b'{"code":"busy"}', Status.REFUSED)
    assert bus.replies("c1") == [(2, "busy", "w2")]


def test_refusals_count_as_attempts(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(queue={"attempts": 2})
    bus.worker("w1", "f")
    bus.client("c1")
    bus.heard("c1")
    bus.request("c1", "f", "any")
    bus.result("w1", 1, b'{"code":"busy"}', Status.REFUSED)
    assert bus.replies("c1") == []
    bus.result("w1", 2, b'{"code":"busy"}', Status.REFUSED)
    assert bus.replies("c1") == [(1, "busy", "w1")]


def test_deadlines_end_what_waits_and_what_runs(bus: Any) -> None:
    bus.worker("w1", "f", slots=1)
    bus.client("c1")
    bus.request("c1", "f", "w1", b"runs", b"waits", timeout_s=1.0)
    bus.heard("c1")
    bus.heard("w1")
    bus.wait(0.99)
    assert bus.replies("c1") == []
    bus.wait(0.02)
    assert bus.replies("c1") == [(1, "timed_out", "w1"), (2, "timed_out", "w1")]
    assert bus.heard("w1") == [Cancel(ids=[1])]
    assert bus.idle()
    bus.result("w1", 1)
    assert bus.replies("c1") == []


def test_a_request_is_given_only_the_time_that_is_left(bus: Any) -> None:
    bus.worker("w1", "f", slots=1)
    bus.client("c1")
    bus.request("c1", "f", "w1", b"1", b"2", timeout_s=1.5)
    bus.heard("w1")
    bus.wait(0.5)
    bus.result("w1", 1)
    [work] = [message for message in bus.heard("w1") if isinstance(message, Work)]
    assert work.groups[0].ttl_ms == 1000


def test_cancel_takes_out_what_waits_and_stops_what_runs(bus: Any) -> None:
    bus.worker("w1", "f", slots=1)
    bus.client("c1")
    bus.request("c1", "f", "w1", b"runs", b"waits")
    bus.heard("c1")
    bus.heard("w1")
    bus.send("c1", Cancel(ids=[2, 1, 77]))
    assert bus.heard("w1") == [Cancel(ids=[1])]
    assert bus.idle()
    bus.result("w1", 1)
    assert bus.replies("c1") == []
    assert bus.count("cancelled") == 2


def test_a_cancelled_fan_out_stops_everywhere(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.worker("w2", "f", slots=1)
    bus.client("c1")
    bus.request("c1", "f", "w2")
    bus.request("c1", "f", "w*", id_=2, flags=RequestFlag.FAN_OUT)
    for route in ("c1", "w1", "w2"):
        bus.heard(route)
    bus.send("c1", Cancel(ids=[2]))
    assert (bus.heard("w1"), bus.heard("w2")) == ([Cancel(ids=[2])], [])
    assert bus.replies("c1") == []


def test_the_requests_of_a_client_that_is_gone_are_stopped(bus: Any) -> None:
    bus.worker("w1", "f", slots=1)
    bus.client("c1")
    bus.request("c1", "f", "w1", b"runs", b"waits")
    bus.heard("w1")
    bus.master.disconnected("c1", bus.now)
    bus.turn()
    assert bus.heard("w1") == [Cancel(ids=[1])]
    assert bus.idle()


def test_a_fan_out_is_done_when_each_part_has_its_answer(bus: Any) -> None:
    for name in ("w1", "w2", "w3"):
        bus.worker(name, "f" if name != "w3" else "g")
    bus.client("c1")
    bus.heard("c1")
    bus.request("c1", "f", "w*", flags=RequestFlag.FAN_OUT)
    assert bus.replies("c1") == [(1, "no_such_function", "w3")]
    bus.result("w1", bus.work("w1")[0][0])
    assert bus.replies("c1") == [(1, "VALUE ok", "w1")]
    bus.master.disconnected("w2", bus.now)
    bus.turn()
    assert bus.replies("c1") == [(1, "node_lost", "w2"), (1, "DONE", "")]
    assert bus.idle()


def test_a_fan_out_that_times_out_ends_with_done(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.worker("w2", "f")
    bus.client("c1")
    bus.heard("c1")
    bus.request("c1", "f", "w*", timeout_s=1.0, flags=RequestFlag.FAN_OUT)
    bus.wait(1.02)
    assert bus.replies("c1") == [(1, "timed_out", "w1"), (1, "timed_out", "w2"), (1, "DONE", "")]
    assert bus.idle()


def test_a_draining_worker_gets_nothing_new_and_may_end_what_runs(bus: Any) -> None:
    bus.worker("w1", "f", slots=2)
    bus.client("c1")
    bus.request("c1", "f", "w1", b"runs", b"waits")
    bus.heard("c1")
    bus.heard("w1")
    bus.send("w1", Bye(draining=True))
    assert bus.replies("c1") == [(2, "node_unavailable", "w1")]
    bus.result("w1", 1)
    assert bus.replies("c1") == [(1, "VALUE ok", "w1")]
    assert "node_draining" in bus.events()


def test_a_higher_priority_is_served_first(bus: Any) -> None:
    bus.worker("w1", "f", slots=1)
    bus.client("c1")
    bus.request("c1", "f", "w1", b"runs")
    for id_, priority in ((2, 1), (3, 9), (4, 5)):
        bus.request("c1", "f", "w1", b"%d" % priority, id_=id_, priority=priority)
    order = []
    while legs := bus.work("w1"):
        order.append(legs[0][2])
        bus.result("w1", legs[0][0])
    assert order == [b"runs", b"9", b"5", b"1"]
