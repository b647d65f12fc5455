"""What peers can cause at will is thinned out, counted, and nothing else is."""

from __future__ import annotations

from zcluster.core.eventflood import BURST, MAX_KNOWN, REPEATED, WINDOW_S, Flood
from zcluster.core.limits import MasterLimits
from zcluster.core.master import Master
from zcluster.core.peers import Event, Identity
from zcluster.keys import may_call, may_send
from zcluster.wire import Hello


def refused(name: str = "a") -> Event:
    return Event("hello_refused", {"name": name, "code": "busy"}, "warning")


def test_of_one_event_about_one_peer_only_so_many_pass_and_the_rest_is_counted() -> None:
    flood = Flood()
    events = [refused()] * (BURST + 7)
    assert flood.thinned(events, 5.0) == events[:BURST]
    assert flood.thinned([refused()], 5.0 + WINDOW_S - 0.1) == []
    assert flood.over(5.0 + WINDOW_S - 0.1) == []
    told = Event(REPEATED, {"event": "hello_refused", "of": "a", "count": 8}, "warning")
    assert flood.thinned([refused()], 5.0 + WINDOW_S) == [told, refused()]
    assert flood.over(5.0 + 2 * WINDOW_S) == []


def test_others_are_not_concerned() -> None:
    flood = Flood()
    flood.thinned([refused()] * (BURST + 1), 0.0)
    events = [refused("b"), Event("session_replaced", {"name": "a"}), *[Event("group_changed", {"by": "a"})] * (BURST + 1)]
    assert flood.thinned(events, 0.0) == events


def test_what_is_remembered_is_bounded_and_still_told() -> None:
    flood = Flood()
    flood.thinned([refused()] * (BURST + 1), 0.0)
    flood.thinned([refused(f"b{number}") for number in range(MAX_KNOWN)], 0.0)
    assert [event.name for event in flood.over(0.0)] == [REPEATED]
    assert flood.over(0.0) == []
    assert flood.thinned([refused()], 0.0) == [refused()]


def test_a_peer_that_says_hello_without_end_fills_no_log() -> None:
    machine, flood = Master("m", "c", 1, MasterLimits(), may_send, may_call, 0.0), Flood()
    for number in range(1000):
        hello = Hello(versions=[1], instance=str(number), epoch=number + 1)
        machine.receive("r", Identity("k" * 40, "a", "agent"), hello, b"", 0, 0.0)
    assert len(machine.events) > 2000
    assert len(flood.thinned(machine.events, 0.0)) <= 4 * BURST
