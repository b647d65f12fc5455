"""A request that has ended is held by nobody: the collector of cycles does not know requests, so a cycle would stay."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from zcluster.core.peers import Fan, Request
from zcluster.wire import Bye, Cancel, Credit, FunctionInfo, Grant, Of, Status
from zcluster.wire.messages import RequestFlag

LARGE = 5000
SAFE = FunctionInfo(name="f", idempotent=True, pool="inline")
End = Callable[[Any], None]


def open_requests(bus: Any) -> list[Request]:
    """All that callers have under way, parts of fan-outs too."""
    entries = [entry for peer in bus.master.roster.peers.values() for entry in peer.requests.values()]
    return [request for entry in entries for request in (entry.left if isinstance(entry, Fan) else [entry])]


def answered(bus: Any) -> None:
    for route in ("w1", "w2"):
        for leg, _, _ in bus.work(route):
            bus.result(route, leg)


def failed(bus: Any) -> None:
    for route in ("w1", "w2"):
        for leg, _, _ in bus.work(route):
            bus.result(route, leg, b'{"code":"busy"}', Status.ERROR)


def refused(bus: Any) -> None:
    for route in ("w1", "w2"):
        for leg, _, _ in bus.work(route):
            bus.result(route, leg, b'{"code":"busy"}', Status.REFUSED)


def moved(bus: Any) -> None:
    """The worker of the moment goes, and another comes, until no attempt is left."""
    for name in ("w1", "w2"):
        bus.send(name, Bye())
        bus.worker(name, SAFE, slots=1)


def streamed(bus: Any) -> None:
    for route in ("w1", "w2"):
        for leg, _, _ in bus.work(route):
            bus.result(route, leg, b"1", Status.ITEM)
            bus.result(route, leg, b"", Status.END)


def master_closed(bus: Any) -> None:
    bus.master.close(bus.now)
    bus.turn()


def cancelled(bus: Any) -> None:
    bus.send("c1", Cancel(ids=[1, 2, 3]))


def timed_out(bus: Any) -> None:
    bus.wait(1.02)


def caller_gone(bus: Any) -> None:
    bus.send("c1", Bye())


def nodes_gone(bus: Any) -> None:
    bus.send("w1", Bye())
    bus.send("w2", Bye())
    bus.wait(5.0)


def large_value(bus: Any) -> None:
    for route in ("w1", "w2"):
        for leg, _, _ in bus.work(route):
            bus.result(route, leg, b"", Status.LARGE_VALUE, size=LARGE)
            caller_leg = leg if any(isinstance(entry, Fan) for entry in bus.master.roster.peers["c1"].requests.values()) else 0
            for entry in list(bus.master.roster.peers["c1"].requests):
                bus.send("c1", Credit(grants=[Grant(entry, caller_leg, Of.REPLY_BODY, LARGE)]))
            for offset in range(0, LARGE, 1000):
                bus.chunk(route, leg, offset, bytes(1000))


def large_value_and_gone(bus: Any) -> None:
    for route in ("w1", "w2"):
        for leg, _, _ in bus.work(route):
            bus.result(route, leg, b"", Status.LARGE_VALUE, size=LARGE)
    caller_gone(bus)


ENDS = [
    answered, failed, refused, moved, streamed, cancelled, timed_out, caller_gone, nodes_gone, large_value, large_value_and_gone,
    master_closed,
]  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("how", ["one", "waiting", "any", "fan", "large", "audited"])
def test_nothing_holds_a_request_that_has_ended(bus: Any, end: End, how: str) -> None:
    if how == "audited":
        bus.master.dispatch.auditing.requests = "all"
    bus.worker("w1", SAFE, slots=1)
    bus.worker("w2", SAFE, slots=1)
    bus.client("c1")
    if how in ("one", "audited"):
        bus.request("c1", "f", "w1", timeout_s=1.0)
    elif how == "waiting":
        bus.request("c1", "f", "w1", b"1", b"2", timeout_s=1.0)
    elif how == "any":
        bus.request("c1", "f", "any", b"1", b"2", b"3", timeout_s=1.0)
    elif how == "fan":
        bus.request("c1", "f", "w*", timeout_s=1.0, flags=RequestFlag.FAN_OUT)
    else:
        bus.request("c1", "f", "w1", timeout_s=1.0, flags=RequestFlag.LARGE, sizes=[LARGE])
    requests = open_requests(bus)
    assert requests
    end(bus)
    for _ in range(5):
        if open_requests(bus):
            end(bus)
    assert not open_requests(bus)
    others = [object()]
    other = others.pop()
    while requests:
        request = requests.pop()
        assert sys.getrefcount(request) == sys.getrefcount(other)
    assert bus.idle()
