"""The worker's side of carried clients: effects, their order, and every bound at its limit and one beyond."""

from __future__ import annotations

import pytest

from zcluster.core.carrying import HEADER_BYTES, CarryLimits, Cut, End, Forwarder, ToClient, ToMaster, Via, lowered
from zcluster.core.counters import Counters
from zcluster.core.peers import Identity
from zcluster.wire import Bye, Sealed, WireLimits, decode, encode
from zcluster.wire.agents import Carry
from zcluster.wire.messages import MAX_ID

FRAME = b"Z\x01\x03frame"


def opened(connection: int, key: str = "K") -> ToMaster:
    return ToMaster(Carry(connection=connection, op="open", key=key))


def data(connection: int, frame: bytes = FRAME) -> ToMaster:
    return ToMaster(Carry(connection=connection), frame)


def closed(connection: int) -> ToMaster:
    return ToMaster(Carry(connection=connection, op="closed"))


def codes(effects: list[ToMaster | ToClient | Cut]) -> list[str]:
    """The codes of the BYEs among ``effects``."""
    messages = [effect.message for effect in effects if isinstance(effect, ToClient)]
    return [message.code for message in messages if isinstance(message, Bye)]


def forwarder(**limits: int) -> Forwarder:
    made = Forwarder(CarryLimits(**limits), Counters())
    made.master_up(0)
    return made


def sealed(effect: object) -> bytes:
    assert isinstance(effect, ToClient)
    assert isinstance(effect.message, Sealed)
    return bytes(effect.message.frame)


def test_the_first_frame_opens_and_each_connection_has_its_number() -> None:
    door = forwarder()
    assert door.frame(b"a", "K", FRAME, 0) == [opened(1), data(1)]
    assert door.frame(b"a", "K", FRAME, 0) == [data(1)]
    assert door.frame(b"b", "L", FRAME, 0) == [opened(2, "L"), data(2)]
    assert len(door) == 2


def test_what_comes_back_goes_to_its_connection() -> None:
    door = forwarder()
    door.frame(b"a", "K", FRAME, 0)
    [effect] = door.received(Carry(connection=1), FRAME)
    assert isinstance(effect, ToClient)
    assert (effect.route, sealed(effect)) == (b"a", FRAME)
    assert door.received(Carry(connection=9), FRAME) == []
    assert door.received(Carry(connection=1), b"Z") == []


def test_a_number_is_not_used_again() -> None:
    door = forwarder()
    door.frame(b"a", "K", FRAME, 0)
    assert door.gone(b"a") == [closed(1)]
    assert door.gone(b"a") == []
    assert door.received(Carry(connection=1), FRAME) == []
    assert door.frame(b"a", "K", FRAME, 0) == [opened(2), data(2)]


def test_without_a_master_a_client_is_told_to_go_elsewhere() -> None:
    door = Forwarder(CarryLimits(), Counters())
    assert codes(door.frame(b"a", "K", FRAME, 0)) == ["unreachable"]
    door.master_up(0)
    door.frame(b"a", "K", FRAME, 0)
    down = door.master_down()
    assert codes(down) == ["unreachable"]
    assert len(door) == 0
    assert codes(door.frame(b"a", "K", FRAME, 0)) == ["unreachable"]
    door.master_up(0)
    assert door.frame(b"a", "K", FRAME, 0) == [opened(2), data(2)]


def test_connections_are_bounded() -> None:
    door = forwarder(connections=2)
    door.frame(b"a", "K", FRAME, 0)
    door.frame(b"b", "K", FRAME, 0)
    refused = door.frame(b"c", "K", FRAME, 0)
    assert codes(refused) == ["busy"]
    assert len(refused) == 1
    door.gone(b"a")
    assert door.frame(b"c", "K", FRAME, 0) == [opened(3), data(3)]


@pytest.mark.parametrize(("master_bytes", "most"), [(0, 4096), (2048, 2048), (1 << 20, 4096)])
def test_frames_leave_room_for_the_header(master_bytes: int, most: int) -> None:
    door = forwarder(frame_bytes=4096)
    door.master_up(master_bytes)
    fits = bytes(most - HEADER_BYTES)
    assert door.frame(b"a", "K", fits, 0) == [opened(1), data(1, fits)]
    refused = door.frame(b"a", "K", fits + b"x", 0)
    assert codes(refused) == ["too_large"]
    assert refused[-1] == closed(1)
    assert len(door) == 0


def test_the_header_is_not_larger_than_reckoned() -> None:
    for carry in (Carry(connection=MAX_ID, op="open", key="\\" * 40), Carry(connection=MAX_ID, op="closed")):
        frame = encode(carry, [FRAME])
        assert len(frame) - len(FRAME) <= HEADER_BYTES
        assert decode(frame, WireLimits())[0] == carry


def test_too_much_on_the_way_to_the_master_cuts_who_sends_more() -> None:
    door = forwarder(upward_bytes=100)
    assert door.frame(b"a", "K", bytes(60), 40) == [opened(1), data(1, bytes(60))]
    assert codes(door.frame(b"a", "K", bytes(60), 41)) == ["busy"]
    assert len(door) == 0


def test_a_client_whose_pipe_is_full_is_waited_for() -> None:
    door = forwarder()
    door.frame(b"a", "K", FRAME, 0)
    message = Sealed(FRAME)
    assert door.hold(b"a", message) is None
    door.blocked(b"a")
    assert door.hold(b"a", message) == []
    assert door.hold(b"a", Bye()) == []
    assert door.unblocked(b"a") == [ToClient(b"a", message), ToClient(b"a", Bye())]
    assert door.hold(b"a", message) is None
    assert door.unblocked(b"a") == []


def test_a_client_that_does_not_read_is_cut() -> None:
    door = forwarder(waiting_bytes=100)
    door.frame(b"a", "K", FRAME, 0)
    door.blocked(b"a")
    assert door.hold(b"a", Sealed(bytes(100))) == []
    assert door.hold(b"a", Sealed(bytes(3))) == [Cut(b"a"), closed(1)]
    assert len(door) == 0


def test_who_has_most_waiting_is_cut_when_all_together_have_too_much() -> None:
    door = forwarder(waiting_bytes=100, all_waiting_bytes=150)
    for route in (b"a", b"b"):
        door.frame(route, "K", FRAME, 0)
        door.blocked(route)
    assert door.hold(b"a", Sealed(bytes(90))) == []
    assert door.hold(b"b", Sealed(bytes(60))) == []
    assert door.hold(b"b", Sealed(bytes(3))) == [Cut(b"a"), closed(1)]
    assert door.hold(b"b", Sealed(bytes(37))) == []
    door.gone(b"b")
    door.frame(b"c", "K", FRAME, 0)
    door.blocked(b"c")
    assert door.hold(b"c", Sealed(bytes(100))) == []


def test_a_key_that_goes_away_ends_its_connections() -> None:
    door = forwarder()
    door.frame(b"a", "K", FRAME, 0)
    door.frame(b"b", "L", FRAME, 0)
    ended = door.keys_changed(lambda key: key == "L")
    assert codes(ended) == ["not_allowed"]
    assert ended[-1] == closed(1)
    assert door.frame(b"b", "L", FRAME, 0) == [data(2)]


def test_the_master_may_take_no_more_connections() -> None:
    door = forwarder()
    door.frame(b"a", "K", FRAME, 0)
    assert codes(door.received(Carry(connection=1, op="full"), b"")) == ["busy"]
    assert len(door) == 0


def test_who_is_turned_away_by_the_master_is_cut() -> None:
    door = forwarder()
    door.frame(b"a", "K", FRAME, 0)
    assert door.received(Carry(connection=1, op="closed"), b"") == [End(b"a")]
    assert len(door) == 0


@pytest.mark.parametrize(
    ("role", "lower"), [("admin", "client"), ("client", "client"), ("worker", ""), ("agent", ""), ("master", "")]
)
def test_a_worker_gives_the_right_of_a_client_at_most(role: str, lower: str) -> None:
    found = lowered(Identity("K", "n", role))
    assert (found.role if found is not None else "") == lower
    assert found is None or (found.key, found.name) == ("K", "n")


def test_a_route_is_told_from_others() -> None:
    assert Via(1, 2) == Via(1, 2) != Via(2, 1)
