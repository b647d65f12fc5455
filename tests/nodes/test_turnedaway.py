"""Who was turned away reaches the log, the counters, the events, and who wants to know of unknown keys."""

from __future__ import annotations

import logging

import pytest

from zcluster.core.counters import Counters
from zcluster.core.peers import Event
from zcluster.net.connections import REASONS, Connection
from zcluster.nodes.turnedaway import TurnedAway


def test_each_goes_where_it_belongs(caplog: pytest.LogCaptureFixture) -> None:
    counters, events, tried = Counters(), list[Event](), list[tuple[str, str]]()

    def unknown(public: str, address: str) -> str:
        tried.append((public, address))
        return "waits to be accepted" if public == "P" else ""

    logger = logging.getLogger("test")
    away = TurnedAway(counters, events.append, lambda public: "", lambda: 0.0, logger, unknown=(lambda *_: "", unknown))
    assert [away.unknown_key(public, "10.0.0.1") for public in ("P", "Q")] == ["waits to be accepted", ""]
    assert tried == [("P", "10.0.0.1"), ("Q", "10.0.0.1")]
    away.denied("10.0.0.1", "unknown key")
    away.limited()
    (record,) = caplog.records
    assert (record.message, record.__dict__["fields"]) == ("connection denied", {"address": "10.0.0.1", "reason": "unknown key"})
    for reason in REASONS:
        away.connection_cut(Connection(1, 2, "10.0.0.1", 0.0), reason)
    away.descriptors_exhausted()
    assert counters.values == {
        "zap_denied": 2, "zap_limited": 1, "accept_failed": 1, **{f"cut_{reason}": 1 for reason in REASONS},
    }  # fmt: skip
    assert [event.fields["reason"] for event in events] == [*REASONS.values(), "no file descriptors left"]
