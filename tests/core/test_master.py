"""The master's machine as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zcluster.core.peers import Identity
from zcluster.errors import PeerError, UnsupportedVersion
from zcluster.wire import (
    Beat,
    Bye,
    Catalog,
    Chunk,
    Credit,
    FunctionInfo,
    Grant,
    Hello,
    Of,
    Refusal,
    Replies,
    Requests,
    Results,
    Status,
    Welcome,
    Work,
)
from zcluster.wire.messages import RequestFlag


def test_before_hello_nothing_is_served(bus: Any) -> None:
    bus.identities["x"] = Identity("k", "c1", "client")
    bus.send("x", Requests([]))
    assert [message.code for message in bus.heard("x")] == ["no_session"]


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("client", Results([])),
        ("worker", Requests([])),
        ("client", Work([])),
        ("worker", Replies([])),
        ("client", Catalog(idempotent=[])),
        ("agent", Requests([])),
    ],
)
def test_a_kind_that_the_role_may_not_send_is_refused_and_counted(role: str, message: Any, bus: Any) -> None:
    bus.hello("x", Identity("k", "x", role))
    bus.heard("x")
    bus.send("x", message)
    [refusal] = bus.heard("x")
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.about, bus.count("refused_not_allowed")) == ("not_allowed", message.kind, 1)


def test_the_same_hello_again_is_answered_again_and_changes_nothing(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1")
    bus.heard("c1")
    bus.client("c1")
    [welcome] = bus.heard("c1", Welcome)
    assert (welcome.session, bus.count("duplicate_hello")) == (2, 1)
    bus.request("c1", "f", "w1", id_=1)
    assert bus.count("duplicate_request") == 1, "a repeated HELLO does not make old requests new"
    bus.result("w1", 1)
    assert bus.replies("c1") == [(1, "VALUE ok", "w1")]


def test_another_program_on_the_same_route_is_a_new_session(bus: Any) -> None:
    bus.client("c1", instance="one")
    bus.client("c1", instance="two")
    assert [message.session for message in bus.heard("c1", Welcome)] == [1, 2]
    assert len(bus.master.roster.peers) == 1


@pytest.mark.parametrize("instance", ["i", "another"])
@pytest.mark.parametrize("role", ["client", "worker"])
def test_a_key_that_comes_by_the_route_of_another_ends_the_others_session(role: str, instance: str, bus: Any) -> None:
    bus.worker("w1", "f", route="r", instance="i")
    bus.hello("r", Identity("key-x", "x", role), "f", instance=instance)
    assert [peer.identity.name for peer in bus.master.roster.peers.values()] == ["x"]
    assert bus.master.roster.sessions("key-w1") == []
    assert bus.master.roster.nodes["w1"].state == "dead"


def test_a_version_that_is_not_spoken_is_refused(bus: Any) -> None:
    bus.identities["x"] = Identity("k", "c1", "client")
    bus.send("x", Hello(versions=[2, 3], instance="i"))
    assert [message.code for message in bus.heard("x", Bye)] == ["unsupported_version"]
    assert bus.master.roster.peers == {}


def test_a_worker_cannot_be_the_master(bus: Any) -> None:
    bus.local("f")
    bus.hello("x", Identity("k", "m", "worker"))
    assert [message.code for message in bus.heard("x", Bye)] == ["not_allowed"]


@pytest.mark.parametrize(("error", "count"), [(PeerError("bad"), "malformed"), (UnsupportedVersion("2"), "unsupported_version")])
def test_what_cannot_be_read_is_answered_and_counted(error: PeerError, count: str, bus: Any) -> None:
    bus.client("c1")
    bus.heard("c1")
    identity = Identity("k", "c1", "client")
    bus.master.malformed("c1", identity, error, bus.now)
    bus.master.malformed("stranger", identity, error, bus.now)
    bus.turn()
    for route in ("c1", "stranger"):
        [refusal] = bus.heard(route)
        assert (refusal.code, refusal.versions) == (error.code, [1])
    assert bus.count(count) == 2


def test_clients_know_what_may_run_twice(bus: Any) -> None:
    bus.client("c1")
    bus.worker("w1", FunctionInfo(name="a", idempotent=True), FunctionInfo(name="b", idempotent=True), "once")
    assert [message.idempotent for message in bus.heard("c1", Catalog)] == [[], ["a", "b"]]
    bus.worker("w2", "a")
    assert [message.idempotent for message in bus.heard("c1", Catalog)] == [["b"]]
    bus.master.disconnected("w2", bus.now)
    bus.turn()
    assert [message.idempotent for message in bus.heard("c1", Catalog)] == [["a", "b"]]
    bus.worker("w3", "other")
    assert bus.heard("c1", Catalog) == []


def blocked(bus: Any, route: str) -> None:
    """The driver cannot send to ``route`` any more."""
    bus.master.block(route, [])


def test_what_cannot_be_sent_waits_and_leaves_in_order(bus: Any) -> None:
    bus.worker("w1", "f", slots=20)
    bus.client("c1")
    bus.heard("w1")
    bus.request("c1", "f", "w1", b"first")
    unsent = [(message, [data]) for message, data in bus.said.pop("w1")]
    bus.master.block("w1", unsent)
    bus.request("c1", "f", "w1", b"second", id_=2)
    assert bus.work("w1") == []
    bus.master.unblock("w1")
    bus.turn()
    assert [body for _, _, body in bus.work("w1")] == [b"first", b"second"]


def test_a_peer_that_does_not_read_loses_its_session(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(outbox_bytes=3000)
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1", b"a", b"b", b"c", b"d")
    blocked(bus, "c1")
    bus.result("w1", 1, b"x" * 900)
    bus.result("w1", 2, b"x" * 900)
    assert "c1" in bus.master.roster.peers
    bus.result("w1", 3, b"x" * 1000)
    bus.result("w1", 4, b"x" * 900)
    assert "c1" not in bus.master.roster.peers
    assert bus.count("slow_reader") == 1
    assert bus.idle()


def test_a_session_that_ends_says_nothing_more_and_gives_back_its_bulk_once(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1")
    bus.result("w1", 1, b"", Status.LARGE_VALUE, 3000)
    bus.send("c1", Credit(grants=[Grant(1, 1, Of.REPLY_BODY, 2000)]))
    bus.heard("c1")
    # The chunk arrives and the caller's connection ends in the same turn.
    bus.master.receive("w1", bus.identities["w1"], Chunk(0, 1, 0), b"v" * 1000, 0, bus.now)
    bus.master.disconnected("c1", bus.now)
    bus.turn()
    assert bus.heard("c1") == []
    assert bus.idle()


def test_the_words_of_an_old_session_do_not_reach_the_new_one_on_its_route(bus: Any) -> None:
    bus.worker("w1", "f", instance="one")
    bus.client("c1")
    bus.heard("w1")
    blocked(bus, "w1")
    bus.request("c1", "f", "w1", b"old")
    bus.worker("w1", "f", instance="two")
    assert bus.work("w1") == []
    assert ("node_lost", "w1") in [(what, node) for _, what, node in bus.replies("c1")]


def test_bulk_of_a_blocked_peer_holds_the_masters_credit(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(transfer_bytes=2000)
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1", flags=RequestFlag.LARGE, sizes=[4000])
    bus.send("w1", Credit(grants=[Grant(0, 1, Of.REQUEST_BODY, 2000)]))
    blocked(bus, "w1")
    bus.chunk("c1", 1, 0, b"a" * 1000, id_=1)
    bus.chunk("c1", 1, 1000, b"a" * 1000, id_=1)
    assert bus.master.dispatch.gate.used_bytes == 2000
    bus.master.unblock("w1")
    bus.turn()
    assert bus.master.dispatch.gate.used_bytes == 0


def test_an_end_of_the_master_answers_everything(bus: Any) -> None:
    bus.worker("w1", "f", slots=2)
    bus.client("c1")
    bus.request("c1", "f", "w1", b"runs", b"waits")
    bus.request("c1", "f", "w*", id_=3, flags=RequestFlag.FAN_OUT)
    bus.heard("c1")
    bus.master.close(bus.now)
    bus.turn()
    said = [message for message, _ in bus.said["c1"]]
    assert isinstance(said[-1], Bye), "BYE is the last word"
    assert sorted(bus.replies("c1")) == [
        (1, "unreachable", "w1"),
        (2, "unreachable", "w1"),
        (3, "DONE", ""),
        (3, "unreachable", "w1"),
    ]
    assert bus.idle()


def test_new_limits_hold_at_once(bus: Any, make_bus: Callable[..., Any]) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.heard("c1")
    bus.master.apply(make_bus(inline_bytes=300, queue={"per_client": 1}).master.limits)
    bus.request("c1", "f", "w1", b"x" * 301)
    bus.request("c1", "f", "w1", b"a", b"b", id_=2)
    assert bus.replies("c1") == [(1, "too_large", ""), (3, "busy", "")]


def test_the_rate_of_the_last_second_is_known(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1", b"a", b"b")
    bus.result("w1", 1)
    bus.result("w1", 2)
    bus.wait(1.0)
    assert bus.master.dispatch.rate_s == 2.0
    bus.wait(1.0)
    assert bus.master.dispatch.rate_s == 0.0


def test_every_beat_is_answered(bus: Any) -> None:
    bus.client("c1")
    bus.heard("c1")
    bus.send("c1", Beat())
    assert bus.heard("c1") == [Beat()]
