"""Active, silent, disconnected."""

from __future__ import annotations

from zcluster.core.agents.presence import GONE_INTERVALS, GRACE_S, SILENT_INTERVALS, TICK_S, Presence, Turned

TEN = 10.0


def turns(presence: Presence, until: float) -> list[tuple[float, str, str]]:
    """What turns, and when, up to ``until``, looked at as the timer would."""
    out: list[tuple[float, str, str]] = []
    while (due := presence.next_deadline()) is not None and due <= until:
        out += [(round(due, 1), turned.id, turned.state) for turned in presence.due(due)]
    return out


def test_an_agent_that_stops_talking_is_silent_and_then_disconnected() -> None:
    presence = Presence()
    assert presence.heard("a", TEN, 0.0)
    assert not presence.heard("a", TEN, 10.0)
    assert presence.state("a") == "active"
    found = turns(presence, 100.0)
    assert [(id_, state) for _, id_, state in found] == [("a", "silent"), ("a", "disconnected")]
    silent_s, gone_s = found[0][0], found[1][0]
    assert 10.0 + SILENT_INTERVALS * TEN <= silent_s <= 10.0 + SILENT_INTERVALS * TEN + 2 * TICK_S
    assert 10.0 + GONE_INTERVALS * TEN <= gone_s <= 10.0 + GONE_INTERVALS * TEN + 2 * TICK_S
    assert len(presence) == 0
    assert presence.next_deadline() is None


def test_an_agent_that_is_heard_never_turns() -> None:
    presence = Presence()
    for step in range(100):
        presence.heard("a", TEN, step * TEN)
        assert turns(presence, step * TEN) == []


def test_a_silent_agent_that_is_heard_is_active_again() -> None:
    presence = Presence()
    presence.heard("a", TEN, 0.0)
    turns(presence, 25.0)
    assert presence.state("a") == "silent"
    assert presence.heard("a", TEN, 26.0)
    assert turns(presence, 45.0) == []
    assert presence.state("a") == "active"


def test_a_shorter_interval_counts_at_once() -> None:
    presence = Presence()
    presence.heard("a", TEN, 0.0)
    presence.heard("a", 0.5, 1.0)
    assert [state for _, _, state in turns(presence, 3.0)] == ["silent", "disconnected"]


def test_a_longer_interval_counts_at_once() -> None:
    presence = Presence()
    presence.heard("a", 0.5, 0.0)
    presence.heard("a", 100.0, 0.4)
    assert turns(presence, 200.0) == []


def test_a_broken_connection_makes_it_silent_after_a_grace() -> None:
    presence = Presence()
    presence.heard("a", TEN, 0.0)
    presence.broke("a", "its connection ended", 1.0)
    assert presence.due(1.0 + GRACE_S - TICK_S) == []
    assert presence.due(1.0 + GRACE_S + TICK_S) == [Turned("a", "silent", "its connection ended")]
    assert presence.due(30.0 + 2 * TICK_S) == [Turned("a", "disconnected", "its connection ended")]


def test_who_is_back_within_the_grace_was_never_away() -> None:
    presence = Presence()
    presence.heard("a", TEN, 0.0)
    presence.broke("a", "its connection ended", 1.0)
    assert not presence.heard("a", TEN, 2.0)
    assert turns(presence, 21.9) == []
    assert turns(presence, 22.3)[0][2] == "silent"


def test_the_grace_is_not_longer_than_its_intervals() -> None:
    presence = Presence()
    presence.heard("a", 0.5, 0.0)
    presence.broke("a", "x", 0.1)
    assert [state for _, _, state in turns(presence, 1.7)] == ["silent", "disconnected"]


def test_an_ordered_end_forgets_it() -> None:
    presence = Presence()
    presence.heard("a", TEN, 0.0)
    assert presence.ended("a")
    assert not presence.ended("a")
    assert presence.state("a") is None
    assert turns(presence, 100.0) == []


def test_after_a_restart_it_is_silent_until_heard() -> None:
    presence = Presence()
    presence.expect("a", TEN, 0.0)
    presence.expect("b", TEN, 0.0)
    assert presence.state("a") == "silent"
    assert presence.heard("a", TEN, 5.0)
    assert [(id_, state) for _, id_, state in turns(presence, 24.0)] == []
    assert [(id_, state) for _, id_, state in turns(presence, 31.0)] == [("a", "silent"), ("b", "disconnected")]


def test_what_breaks_when_nothing_is_known_changes_nothing() -> None:
    presence = Presence()
    presence.broke("a", "x", 0.0)
    assert len(presence) == 0
