"""Sessions and nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zcluster.core.peers import Identity
from zcluster.wire import Beat, Bye, Requests, Welcome


def state(bus: Any, name: str) -> str:
    """The state of a node."""
    return str(bus.master.roster.nodes[name].state)


def test_a_worker_that_joins_is_ready_and_its_sessions_are_numbered(bus: Any) -> None:
    bus.worker("w1", "f")
    [welcome] = bus.heard("w1", Welcome)
    assert (welcome.session, welcome.name, welcome.role, welcome.epoch) == (1, "w1", "worker", 7)
    assert state(bus, "w1") == "ready"
    bus.worker("w1", "f", route="again")
    assert bus.heard("again", Welcome)[0].session == 2


def test_who_a_peer_is_comes_from_its_key(bus: Any) -> None:
    bus.client("c1")
    bus.identities["c1"] = Identity("another-key", "boss", "admin")
    bus.heard("c1")
    bus.send("c1", Requests([]))
    assert [message.code for message in bus.heard("c1", Bye)] == ["no_session"]
    assert bus.count("no_session") == 1


def test_a_newer_process_of_a_node_replaces_the_older_which_is_told(bus: Any) -> None:
    bus.worker("w1", "f", route="old", instance="one")
    bus.worker("w1", "f", route="new", instance="two")
    assert [message.code for message in bus.heard("old", Bye)] == ["session_replaced"]
    assert (state(bus, "w1"), bus.count("session_replaced")) == ("ready", 1)
    assert set(bus.master.roster.peers) == {"new"}
    bus.send("old", Beat())
    assert [message.code for message in bus.heard("old", Bye)] == ["no_session"]


def test_a_node_that_reconnects_is_not_told_that_it_was_replaced(bus: Any) -> None:
    bus.worker("w1", "f", route="old", instance="one")
    bus.heard("old")
    bus.worker("w1", "f", route="new", instance="one")
    assert bus.heard("old") == []
    assert set(bus.master.roster.peers) == {"new"}
    bus.master.disconnected("old", bus.now)
    assert state(bus, "w1") == "ready"


def test_programs_of_one_person_share_a_key_up_to_a_limit(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(session={"max_sessions_per_key": 2})
    bus.client("c1", route="a")
    bus.client("c1", route="b")
    bus.client("c1", route="c")
    assert set(bus.master.roster.peers) == {"a", "b"}
    assert [message.code for message in bus.heard("c", Bye)] == ["busy"]
    bus.master.disconnected("a", bus.now)
    bus.client("c1", route="c")
    assert set(bus.master.roster.peers) == {"b", "c"}


def test_sessions_in_all_are_bounded(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(session={"max_sessions": 2})
    bus.worker("w1")
    bus.client("c1")
    bus.client("c2")
    assert [message.code for message in bus.heard("c2", Bye)] == ["busy"]
    assert "hello_refused" in bus.events()


def test_nodes_are_bounded(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(session={"max_nodes": 3})  # the master itself is one
    for name in ("w1", "w2", "w3"):
        bus.worker(name)
    assert [message.code for message in bus.heard("w3", Bye)] == ["busy"]
    bus.worker("w2", route="again")
    assert bus.heard("again", Welcome)


def test_silence_of_two_intervals_is_silent_and_of_a_lease_dead(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.wait(1.99)
    assert state(bus, "w1") == "ready"
    bus.wait(0.01)
    assert state(bus, "w1") == "silent"
    bus.wait(0.99)
    assert state(bus, "w1") == "silent"
    bus.wait(0.01)
    assert (state(bus, "w1"), bus.count("lease_ended")) == ("dead", 1)
    assert bus.events()[-3:] == ["node_silent", "node_dead", "session_closed"]


def test_any_message_renews_the_lease(bus: Any) -> None:
    bus.worker("w1", "f")
    pass_time(bus, 2.5)
    assert state(bus, "w1") == "silent"
    bus.result("w1", 99)
    assert state(bus, "w1") == "ready"
    pass_time(bus, 2.9)
    assert state(bus, "w1") == "silent"


def pass_time(bus: Any, seconds: float) -> None:
    """As it passes in a process that runs."""
    for _ in range(round(seconds * 10)):
        bus.wait(0.1)


def test_the_master_looks_ten_times_an_interval(bus: Any) -> None:
    bus.wait(0.0)
    assert bus.master.roster.next_deadline() == pytest.approx(bus.now + 0.1)


def test_a_node_that_says_bye_has_left(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.send("w1", Bye())
    assert state(bus, "w1") == "left"
    assert bus.master.roster.peers == {}


def test_a_broken_connection_is_a_dead_node_with_the_reason(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.master.disconnected("w1", bus.now)
    node = bus.master.roster.nodes["w1"]
    assert (node.state, node.reason, node.peer) == ("dead", "its connection ended", None)
    bus.master.disconnected("w1", bus.now)
    bus.worker("w1", "f", route="again")
    assert state(bus, "w1") == "ready"


def test_a_heartbeat_says_how_the_node_is(bus: Any) -> None:
    bus.worker("w1", "f", slots=8)
    bus.send("w1", Beat(slots=3, load=0.5, cpu_percent=12.5, memory_percent=40.0))
    node = bus.master.roster.nodes["w1"]
    assert (node.slots, node.load, node.cpu_percent, node.memory_percent) == (3, 0.5, 12.5, 40.0)
    assert isinstance(bus.heard("w1")[-1], Beat)


def test_revoked_keys_lose_their_sessions(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.heard("c1")
    assert bus.master.keys_changed(lambda identity: identity.name != "c1", bus.now) == ["c1"]
    bus.turn()
    assert [message.code for message in bus.heard("c1", Bye)] == ["not_allowed"]
    assert set(bus.master.roster.peers) == {"w1"}


def test_expected_nodes_are_joining_until_the_grace_is_over(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(expected={"w1": "worker", "w2": "worker"}, grace=True)
    assert state(bus, "w1") == "joining"
    bus.worker("w1", "f")
    bus.wait(2.9)
    assert state(bus, "w2") == "joining"
    bus.send("w1", Beat())
    bus.wait(0.1)
    assert (state(bus, "w1"), state(bus, "w2")) == ("ready", "dead")


def test_a_master_that_stood_still_has_lost_nobody(bus: Any) -> None:
    """It has not read what they said meanwhile."""
    bus.local("f")
    bus.worker("w1", "f")
    bus.client("c1")
    bus.wait(0.1)
    bus.wait(60)
    assert (state(bus, "m"), state(bus, "w1")) == ("ready", "ready")
    bus.request("c1", "f", "m")
    assert len(bus.work("local")) == 1
    pass_time(bus, 3.5)
    assert (state(bus, "m"), state(bus, "w1")) == ("dead", "dead"), "whoever says nothing from then on is lost"
