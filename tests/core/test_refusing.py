"""Who sends too many messages that are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zcluster.core.carrying import Via
from zcluster.core.faults import BARRED_S, SHARE_PER_S
from zcluster.core.peers import Identity
from zcluster.errors import PeerError
from zcluster.wire import Beat, Bye, Hello, Refusal, Results, Welcome

FAULTS = 5
Bus = Callable[..., Any]


def identity(key: str = "k") -> Identity:
    return Identity(key, "c1", "client")


def malformed(bus: Any, route: Any, count: int, key: str = "k") -> None:
    for _ in range(count):
        bus.master.malformed(route, identity(key), PeerError("bad"), bus.now)
    bus.turn()


@pytest.fixture
def bus(make_bus: Bus) -> Any:
    bus = make_bus(faults=FAULTS)
    bus.hello("c1", identity())
    bus.heard("c1")
    return bus


def test_so_many_are_answered_and_one_more_ends_session_and_connection(bus: Any) -> None:
    malformed(bus, "c1", FAULTS)
    assert [message.code for message in bus.heard("c1", Refusal)] == ["protocol_error"] * FAULTS
    assert bus.master.refusing.take_cuts() == []
    malformed(bus, "c1", 1)
    assert [message.code for message in bus.heard("c1", Bye)] == ["busy"]
    assert bus.master.refusing.take_cuts() == ["c1"]
    assert bus.master.refusing.take_cuts() == []
    assert "c1" not in bus.master.roster.peers
    assert [event.fields["reason"] for event in bus.master.events if event.name == "session_closed"] == [
        "too many messages of this key were refused"
    ]


def test_what_still_comes_in_the_turn_of_the_cut_takes_nothing_from_its_last_word(bus: Any) -> None:
    for _ in range(FAULTS + 1):
        bus.master.malformed("c1", identity(), PeerError("bad"), bus.now)
    for _ in range(2):
        for message in (Beat(), Hello(versions=[1], instance="i")):
            bus.master.receive("c1", identity(), message, b"", 0, bus.now)
        bus.now += 2 / (FAULTS * SHARE_PER_S)  # two of the bucket come back, and it is not barred any more
        bus.master.malformed("c1", identity(), PeerError("bad"), bus.now)
    bus.turn()
    assert [message.code for message in bus.heard("c1")] == ["busy"]
    assert bus.master.refusing.take_cuts() == ["c1"]


def test_what_its_role_may_not_send_counts_too(bus: Any) -> None:
    for _ in range(FAULTS + 1):
        bus.send("c1", Results([]))
    assert bus.master.refusing.take_cuts() == ["c1"]


def test_its_new_connections_go_the_same_way_for_a_while_and_those_of_others_do_not(bus: Any) -> None:
    malformed(bus, "c1", FAULTS + 1)
    bus.master.refusing.take_cuts()
    bus.hello("c2", identity())
    assert [message.code for message in bus.heard("c2")] == ["busy"]
    assert bus.master.refusing.take_cuts() == ["c2"]
    assert (bus.count("hello_busy"), bus.count("event_hello_refused")) == (1, 0)
    bus.hello("d1", identity("other"))
    assert bus.heard("d1", Welcome)
    bus.now += BARRED_S
    bus.hello("c3", identity())
    assert bus.heard("c3", Welcome)
    assert bus.master.refusing.take_cuts() == []


def test_its_other_sessions_go_on_while_they_send_nothing_faulty(bus: Any) -> None:
    bus.hello("c2", identity())
    bus.heard("c2")
    malformed(bus, "c1", FAULTS + 1)
    bus.send("c2", Beat())
    assert [type(message) for message in bus.heard("c2")] == [Beat]
    malformed(bus, "c2", 1)
    assert bus.master.refusing.take_cuts() == ["c1", "c2"]


def test_messages_without_a_session_may_be_more(bus: Any) -> None:
    bus.identities["x"] = identity("x")
    for _ in range(16 * FAULTS):
        bus.send("x", Beat())
    assert {message.code for message in bus.heard("x")} == {"no_session"}
    assert bus.master.refusing.take_cuts() == []
    for _ in range(16):
        bus.send("x", Beat())
    assert bus.heard("x")[-1].code == "busy"
    assert bus.master.refusing.take_cuts()[0] == "x"


def test_what_a_worker_carries_shuts_nobody_out_elsewhere(bus: Any) -> None:
    malformed(bus, Via(3, 1), FAULTS + 1)
    assert bus.master.refusing.take_cuts() == [Via(3, 1)]
    bus.hello("c2", identity())
    assert bus.heard("c2", Welcome)


def test_the_bound_may_change_while_it_runs(bus: Any) -> None:
    bus.master.apply(bus.master.limits.__class__(faults=1))
    malformed(bus, "c1", 2)
    assert bus.master.refusing.take_cuts() == ["c1"]
