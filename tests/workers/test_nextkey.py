"""What a worker tells its agents of its next key."""

from __future__ import annotations

from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import Identity
from zcluster.keys import may_call, may_send_at_door
from zcluster.wire import Hello, WireLimits, decode, frame_of
from zcluster.wire.rotation import NextKey
from zcluster.workers.nextkey import OwnNextKey


class Door:
    """The machine of a door."""

    def __init__(self) -> None:
        self.machine = Master("w1", "c", 0, MasterLimits(), may_send_at_door, may_call, 0.0)
        self.keys = OwnNextKey(self.machine)

    def joins(self, name: str) -> None:
        self.machine.receive(name, Identity(name, name, "agent"), Hello(versions=[1], instance="i"), b"", 0, 0.0)

    def told(self) -> dict[object, list[NextKey]]:
        found: dict[object, list[NextKey]] = {}
        for route, outgoing in self.machine.take(0.0):
            for message, bodies in outgoing:
                read = decode(bytes(frame_of(message, bodies)), WireLimits())[0]
                if isinstance(read, NextKey):
                    found.setdefault(route, []).append(read)
        return found


def test_agents_that_are_here_and_that_come_are_told() -> None:
    door = Door()
    door.joins("a")
    told = NextKey(public="K2", node="w1")
    door.keys.tell(told)
    assert door.told() == {"a": [told]}
    door.joins("b")
    assert door.told() == {"b": [told]}


def test_what_is_over_is_told_once() -> None:
    door = Door()
    door.joins("a")
    door.keys.tell(NextKey(public="K2", node="w1"))
    door.keys.tell(NextKey(public="K2", node="w1", now=True))
    assert door.told()["a"][-1].now
    door.joins("b")
    assert door.told() == {}


def test_what_an_agent_answers_is_of_no_interest() -> None:
    door = Door()
    door.joins("a")
    door.machine.receive("a", Identity("a", "a", "agent"), NextKey(public="K2", node="w1"), b"", 0, 0.0)
    assert door.told() == {}
