"""What is told of who is turned away: all is counted, and a bounded part of it told."""

from __future__ import annotations

from zcluster.core.counters import Counters
from zcluster.core.cuts import MAX_ADDRESS_CHARS, PER_S, Cuts
from zcluster.core.peers import Event


class Desk:
    def __init__(self) -> None:
        self.counters = Counters()
        self.events: list[Event] = []
        self.cuts = Cuts(self.counters, self.events.append, lambda public: "w1" if public == "K" else "", now=0.0)


def test_a_cut_is_counted_by_its_reason_and_told_with_the_name_of_its_key() -> None:
    desk = Desk()
    desk.cuts.cut("10.0.0.1", "K", "revoked", "its key is no longer admitted", 0.0)
    desk.cuts.cut("10.0.0.2", "", "no_session", "it has no session", 0.0)
    desk.cuts.cut("10.0.0.3", "gone", "no_session", "it has no session", 0.0)
    assert desk.counters.values == {"cut_revoked": 1, "cut_no_session": 2}
    assert [(event.name, event.level) for event in desk.events] == [("connection_cut", "warning")] * 3
    assert [event.fields for event in desk.events] == [
        {"address": "10.0.0.1", "name": "w1", "reason": "its key is no longer admitted"},
        {"address": "10.0.0.2", "name": "", "reason": "it has no session"},
        {"address": "10.0.0.3", "name": "", "reason": "it has no session"},
    ]


def test_beyond_the_bound_cuts_are_counted_and_the_next_that_is_told_says_how_many() -> None:
    desk = Desk()
    for _ in range(PER_S + 5):
        desk.cuts.cut("10.0.0.1", "", "crowd", "too many", 0.0)
    assert (len(desk.events), desk.counters.values["cut_crowd"]) == (PER_S, PER_S + 5)
    assert all("more" not in event.fields for event in desk.events)
    desk.cuts.cut("10.0.0.1", "", "crowd", "too many", 1.0)
    desk.cuts.cut("10.0.0.1", "", "crowd", "too many", 1.0)
    assert [event.fields.get("more") for event in desk.events[-2:]] == [5, None]


def test_descriptors_that_are_used_up_are_told_once_a_second() -> None:
    desk = Desk()
    for at_s in (0.0, 0.0, 0.5, 1.0):
        desk.cuts.exhausted(256, at_s)
    assert desk.counters.values["accept_failed"] == 4
    assert [(event.name, event.fields.get("more")) for event in desk.events] == [("accept_failed", None), ("accept_failed", 2)]
    assert desk.events[0].fields["descriptors"] == 256


def test_denials_are_counted_and_some_of_them_logged() -> None:
    desk = Desk()
    told = [desk.cuts.denied("10.0.0.1", "unknown key", 0.0) for _ in range(PER_S + 1)]
    assert told == [{"address": "10.0.0.1", "reason": "unknown key"}] * PER_S + [None]
    desk.cuts.limited()
    assert desk.counters.values == {"zap_denied": PER_S + 2, "zap_limited": 1}
    assert desk.cuts.denied("10.0.0.1", "unknown key", 5.0) == {"address": "10.0.0.1", "reason": "unknown key", "more": 1}
    assert desk.events == []


def test_an_address_is_bounded() -> None:
    desk = Desk()
    desk.cuts.cut("x" * 1000, "", "crowd", "too many", 0.0)
    fields = desk.cuts.denied("x" * 1000, "why", 0.0)
    assert fields is not None
    assert [len(address) for address in (desk.events[0].fields["address"], fields["address"])] == [MAX_ADDRESS_CHARS] * 2
