"""What is checked before a request waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zcluster.wire import Beat, Bye, FunctionInfo, RequestGroup, Requests
from zcluster.wire.messages import RequestFlag

FAN_OUT = RequestFlag.FAN_OUT
LARGE = RequestFlag.LARGE


@pytest.mark.parametrize("id_", [5, 4, 1])
def test_an_id_that_does_not_grow_is_not_admitted(id_: int, bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1", id_=5)
    assert len(bus.work("w1")) == 1
    bus.request("c1", "f", "w1", id_=id_)
    assert bus.work("w1") == []
    assert bus.count("duplicate_request") == 1


def test_only_the_new_ids_of_a_group_are_admitted(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1", b"1", b"2", id_=1)
    bus.work("w1")
    bus.request("c1", "f", "w1", b"1", b"2", b"3", id_=1)
    assert [(id_, body) for _, id_, body in bus.work("w1")] == [(3, b"3")]
    assert bus.count("duplicate_request") == 2


def test_ids_of_different_sessions_do_not_meet(bus: Any) -> None:
    bus.worker("w1", "f")
    for route in ("a", "b"):
        bus.client("c1", route=route)
        bus.request(route, "f", "w1", id_=5)
    assert len(bus.work("w1")) == 2


@pytest.mark.parametrize(("role", "reply"), [("client", "not_allowed"), ("admin", "")])
def test_the_callers_role_must_permit_the_function(role: str, reply: str, bus: Any) -> None:
    bus.worker("w1", FunctionInfo(name="secret", role="admin"))
    bus.client("c1", role)
    bus.heard("c1")
    bus.request("c1", "secret", "w1")
    assert [what for _, what, _ in bus.replies("c1")] == ([reply] if reply else [])
    assert len(bus.work("w1")) == (0 if reply else 1)


def test_a_worker_may_not_send_requests(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.heard("w1")
    bus.send("w1", Requests([RequestGroup("f", "w1", 1000, 5, 0, 1, [0])]))
    [refusal] = bus.heard("w1")
    assert (refusal.code, refusal.about, bus.count("refused_not_allowed")) == ("not_allowed", Requests.kind, 1)


@pytest.mark.parametrize(("queued", "busy"), [(3, 0), (4, 1)])
def test_one_clients_queue_is_bounded(queued: int, busy: int, make_bus: Callable[..., Any]) -> None:
    bus = make_bus(queue={"per_client": 3})
    bus.worker("w1", "f", slots=1)
    bus.client("c1")
    bus.client("c2")
    bus.request("c1", "f", "w1")
    bus.heard("c1")
    for number in range(queued):
        bus.request("c1", "f", "w1", id_=2 + number)
    assert [what for _, what, _ in bus.replies("c1")] == ["busy"] * busy
    bus.heard("c2")
    bus.request("c2", "f", "w1")
    assert bus.replies("c2") == []


@pytest.mark.parametrize(("queued", "busy"), [(3, 0), (4, 1)])
def test_the_queue_of_all_is_bounded(queued: int, busy: int, make_bus: Callable[..., Any]) -> None:
    bus = make_bus(queue={"total": 3})
    bus.worker("w1", "f", slots=1)
    for number in range(queued + 1):
        bus.client(f"c{number}")
        bus.heard(f"c{number}")
        bus.request(f"c{number}", "f", "w1")
    assert sum(len(bus.replies(f"c{number}")) for number in range(queued + 1)) == busy


@pytest.mark.parametrize(("size", "busy"), [(400, 0), (401, 1)])
def test_the_bytes_that_wait_are_bounded(size: int, busy: int, make_bus: Callable[..., Any]) -> None:
    bus = make_bus(queue={"total_bytes": 1000})
    bus.worker("w1", "f", slots=1)
    bus.client("c1")
    bus.request("c1", "f", "w1", b"runs")
    bus.heard("c1")
    bus.request("c1", "f", "w1", b"x" * 600, id_=2)
    bus.request("c1", "f", "w1", b"x" * size, id_=3)
    assert [what for _, what, _ in bus.replies("c1")] == ["busy"] * busy


@pytest.mark.parametrize(("size", "busy"), [(500, 0), (501, 1)])
def test_a_fan_out_counts_once_for_each_node(size: int, busy: int, make_bus: Callable[..., Any]) -> None:
    bus = make_bus(queue={"total_bytes": 1000})
    bus.worker("w1", "f")
    bus.worker("w2", "f")
    bus.client("c1")
    bus.heard("c1")
    bus.request("c1", "f", "w*", b"x" * size, flags=FAN_OUT)
    assert [what for _, what, _ in bus.replies("c1")] == ["busy"] * busy


def test_a_large_body_does_not_wait_here_and_is_not_counted(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(queue={"total_bytes": 100})
    bus.worker("w1", "f")
    bus.client("c1")
    bus.heard("c1")
    bus.request("c1", "f", "w1", flags=LARGE, sizes=[9000])
    assert bus.replies("c1") == []


@pytest.mark.parametrize(
    ("size", "flags", "error"), [(1000, 0, ""), (1001, 0, "too_large"), (10_000, LARGE, ""), (10_001, LARGE, "too_large")]
)
def test_bodies_are_bounded(size: int, flags: int, error: str, bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.heard("c1")
    if flags:
        bus.request("c1", "f", "w1", flags=flags, sizes=[size])
    else:
        bus.request("c1", "f", "w1", b"x" * size)
    assert [what for _, what, _ in bus.replies("c1")] == ([error] if error else [])


def test_busy_says_how_long_to_wait(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(queue={"per_client": 0})
    bus.worker("w1", "f")
    bus.client("c1")
    bus.heard("c1")
    bus.request("c1", "f", "w1")
    [(message, data)] = bus.said.pop("c1")
    assert message.groups[0].status == 1
    assert b'"retry_after_s":0.05' in data
    assert bus.idle()


@pytest.mark.parametrize(
    ("function", "target", "error"),
    [
        ("f", "w9", "no_such_node"),
        ("f", "", "no_such_node"),
        ("f", "left", "no_such_node"),
        ("f", "dead", "node_unavailable"),
        ("f", " dead ", "node_unavailable"),
        ("f", "silent", "node_unavailable"),
        ("f", "draining", "node_unavailable"),
        ("f", "w*", "usage"),
        ("f", "w1,w2", "usage"),
        ("f", "all", "usage"),
        ("nope", "w1", "no_such_function"),
        ("nope", " w1 ", "no_such_function"),
        ("nope", "any", "no_such_function"),
        ("f", "w1", ""),
        ("f", " w1 ", ""),
        ("f", "any", ""),
    ],
)
def test_a_call_means_one_node_that_can_answer(function: str, target: str, error: str, bus: Any) -> None:
    bus.worker("silent", "f")
    bus.wait(2.0)
    for name in ("w1", "w2", "dead", "left", "draining"):
        bus.worker(name, "f")
    bus.client("c1")
    bus.master.disconnected("dead", bus.now)
    bus.send("left", Bye())
    bus.send("draining", Bye(draining=True))
    bus.heard("c1")
    bus.request("c1", function, target)
    assert [what for _, what, _ in bus.replies("c1")] == ([error] if error else [])
    assert (len(bus.work("w1")) + len(bus.work("w2"))) == (0 if error else 1)


def test_a_fan_out_names_those_that_cannot_answer_at_once(bus: Any) -> None:
    bus.worker("silent", "f")
    bus.wait(2.0)
    for name in ("w1", "dead", "left", "draining"):
        bus.worker(name, "f")
    bus.client("c1")
    bus.master.disconnected("dead", bus.now)
    bus.send("left", Bye())
    bus.send("draining", Bye(draining=True))
    bus.heard("c1")
    bus.request("c1", "f", "[!m]*", flags=FAN_OUT)
    assert sorted(bus.replies("c1")) == [(1, "node_unavailable", name) for name in ("dead", "draining", "silent")]
    bus.result("w1", bus.work("w1")[0][0])
    assert bus.replies("c1") == [(1, "VALUE ok", "w1"), (1, "DONE", "")]
    assert bus.idle()


def test_a_fan_out_of_nobody_that_can_answer_is_done_at_once(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.master.disconnected("w1", bus.now)
    bus.heard("c1")
    bus.request("c1", "f", "w1", flags=FAN_OUT)
    assert bus.replies("c1") == [(1, "node_unavailable", "w1"), (1, "DONE", "")]
    assert bus.idle()


def test_the_word_master_means_the_master(bus: Any) -> None:
    bus.local("f")
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "master")
    assert len(bus.work("local")) == 1


def test_after_a_start_requests_wait_for_expected_nodes(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(expected={"w1": "worker", "w2": "worker"}, grace=True)
    bus.client("c1")
    bus.heard("c1")
    for id_, target in enumerate(("w1", "w2", "any"), 1):
        bus.request("c1", "f", target, id_=id_)
    bus.request("c1", "f", "w*", id_=4, flags=FAN_OUT)
    assert bus.replies("c1") == []
    bus.wait(1.0)
    bus.worker("w1", "f")
    assert sorted(id_ for _, id_, _ in bus.work("w1")) == [1, 3, 4]
    bus.send("w1", Beat())
    bus.send("c1", Beat())
    bus.wait(2.0)
    assert bus.replies("c1") == [(2, "node_unavailable", "w2"), (4, "node_unavailable", "w2")]


def test_after_the_grace_a_function_that_nobody_has_is_an_error(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(grace=True)
    bus.client("c1")
    bus.heard("c1")
    bus.request("c1", "f", "any")
    bus.wait(2.9)
    bus.send("c1", Beat())
    assert bus.replies("c1") == []
    bus.wait(0.1)
    assert bus.replies("c1") == [(1, "no_such_function", "")]
    assert bus.idle()


def test_deadlines_are_bounded(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(queue={"max_timeout_s": 2.0})
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1", timeout_s=60.0)
    [work] = [message for message in bus.heard("w1") if hasattr(message, "groups")]
    assert work.groups[0].ttl_ms == 2000


def test_who_comes_to_a_draining_master_is_told(bus: Any) -> None:
    bus.master.drain()
    bus.client("c1")
    assert [message.draining for message in bus.heard("c1", Bye)] == [True]


def test_a_draining_master_takes_nothing_new(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.master.drain()
    bus.turn()
    assert [message.draining for message in bus.heard("c1", Bye)] == [True]
    bus.request("c1", "f", "w1")
    assert bus.replies("c1") == [(1, "draining", "")]
