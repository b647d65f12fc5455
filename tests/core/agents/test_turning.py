"""Few agents that come and go are an event each, many are one."""

from __future__ import annotations

import pytest

from zcluster.core.agents.presence import State
from zcluster.core.agents.turning import GATHER_S, MAX_NAMED, MAX_SINGLE, Turns
from zcluster.core.peers import Event


def turns(state: State, count: int, reason: str = "") -> Turns:
    found = Turns("n")
    for number in range(count):
        found.add(f"a{number:03}", state, reason, 5.0)
    return found


def test_what_comes_within_a_second_is_told_then() -> None:
    found = Turns("n")
    assert (found.next_deadline(), found.due(99.0)) == (None, [])
    found.add("a", "active", "", 5.0)
    found.add("b", "silent", "quiet", 5.9)
    assert found.next_deadline() == 5.0 + GATHER_S
    assert found.due(5.95) == []
    assert found.due(6.0) == [
        Event("agent_active", {"agent": "a", "node": "n"}),
        Event("agent_silent", {"agent": "b", "node": "n", "reason": "quiet"}, "warning"),
    ]
    assert (found.next_deadline(), found.due(99.0)) == (None, [])
    found.add("a", "active", "", 50.0)
    assert found.next_deadline() == 50.0 + GATHER_S


@pytest.mark.parametrize("state", ["active", "silent", "disconnected"])
def test_ten_are_told_one_by_one_and_eleven_together(state: State) -> None:
    few = turns(state, MAX_SINGLE, "r").rest()
    assert [(event.name, event.fields["agent"]) for event in few] == [(f"agent_{state}", f"a{n:03}") for n in range(MAX_SINGLE)]
    level = "info" if state == "active" else "warning"
    fields = {"node": "n", "count": MAX_SINGLE + 1, "agents": [f"a{number:03}" for number in range(MAX_SINGLE + 1)]}
    assert turns(state, MAX_SINGLE + 1, "r").rest() == [Event(f"agents_{state}", fields, level)]


def test_of_many_the_first_are_named() -> None:
    (event,) = turns("silent", 5000).rest()
    assert (event.fields["count"], event.fields["agents"]) == (5000, [f"a{number:03}" for number in range(MAX_NAMED)])


def test_each_status_is_counted_by_itself() -> None:
    found = turns("active", MAX_SINGLE + 1)
    found.add("a000", "silent", "r", 5.0)
    assert [event.name for event in found.rest()] == ["agents_active", "agent_silent"]


def test_an_agent_that_comes_and_goes_is_told_once_for_each_status_and_how_it_ended() -> None:
    found = Turns("n")
    states: tuple[State, ...] = ("active", "silent", "active", "silent", "active")
    for state in states:
        found.add("a", state, "", 5.0)
    assert [event.name for event in found.rest()] == ["agent_silent", "agent_active"]


def test_who_left_by_itself_is_no_warning() -> None:
    found = turns("disconnected", 1, "left")
    assert [event.level for event in found.rest()] == ["info"]
    found = turns("disconnected", MAX_SINGLE + 1, "left")
    assert [event.level for event in found.rest()] == ["info"]
    found = turns("disconnected", MAX_SINGLE + 1, "left")
    found.add("b", "disconnected", "its key was revoked", 5.0)
    assert [event.level for event in found.rest()] == ["warning"]
