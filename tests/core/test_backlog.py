"""Large messages of requests are admitted a slice at a time: others pass between, and nothing changes for who sent them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core import backlog as module
from zcluster.core.backlog import CANCEL_COSTS, SLICE, Backlog, slices
from zcluster.core.peers import Peer
from zcluster.wire import Cancel, Replies, RequestGroup, Requests, Work, encode
from zcluster.wire.messages import RequestFlag

BODY = b"x"


def group(first: int, count: int, flags: int = 0, size: int = 1) -> RequestGroup:
    return RequestGroup("echo", "w", 30_000, 5, flags, first, [size] * count)


def ids(message: Requests) -> list[int]:
    return [each.first_id + number for each in message.groups for number in range(len(each.sizes))]


class Rig:
    """A backlog, and what it has admitted and cancelled, in order."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.backlog = Backlog(self._admit, lambda peer, message: self.done.append((peer, message.ids)))

    def send(self, peer: Any, first: int, count: int, now: float = 1.0) -> None:
        self.backlog.requests(peer, Requests([group(first, count)]), BODY * count, 0, now)

    def _admit(self, peer: Peer, message: Requests, data: bytes, offset: int, now: float) -> None:
        found = ids(message)
        self.done.append((peer, found[0], found[-1], offset, now))


def test_what_is_small_is_admitted_at_once() -> None:
    rig = Rig()
    rig.send("a", 1, SLICE)
    assert rig.done == [("a", 1, SLICE, 0, 1.0)]
    assert not rig.backlog


def test_callers_take_turns_and_each_keeps_its_order() -> None:
    rig = Rig()
    rig.send("a", 1, 2 * SLICE + 1)
    rig.send("b", 1, SLICE + 1, now=2.0)
    rig.send("a", 2 * SLICE + 2, 1, now=3.0)
    assert rig.done == []
    rig.send("c", 1, 1)
    for _ in range(6):
        rig.backlog.admit_some()
    assert rig.done == [
        ("c", 1, 1, 0, 1.0),
        ("a", 1, SLICE, 0, 1.0),
        ("b", 1, SLICE, 0, 2.0),
        ("a", SLICE + 1, 2 * SLICE, SLICE, 1.0),
        ("b", SLICE + 1, SLICE + 1, SLICE, 2.0),
        ("a", 2 * SLICE + 1, 2 * SLICE + 1, 2 * SLICE, 1.0),
        ("a", 2 * SLICE + 2, 2 * SLICE + 2, 0, 3.0),
    ]
    assert not rig.backlog


def test_a_cancel_waits_for_what_it_is_about() -> None:
    rig = Rig()
    rig.backlog.cancels("a", Cancel(ids=[7]))  # type: ignore[arg-type]
    rig.send("a", 1, SLICE + 1)
    rig.backlog.cancels("a", Cancel(ids=[SLICE + 1]))  # type: ignore[arg-type]
    rig.backlog.cancels("b", Cancel(ids=[9]))  # type: ignore[arg-type]
    assert rig.done == [("a", [7]), ("b", [9])]
    rig.backlog.admit_all()
    assert [each[1] for each in rig.done[2:]] == [1, SLICE + 1, [SLICE + 1]]
    assert not rig.backlog


def test_of_an_ended_session_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LEFT_IN_ALL", 3 * SLICE)
    rig = Rig()
    rig.send("a", 1, 2 * SLICE)
    rig.backlog.drop("a")  # type: ignore[arg-type]
    rig.backlog.drop("unknown")  # type: ignore[arg-type]
    assert not rig.backlog
    rig.send("b", 1, 3 * SLICE)
    assert rig.done == [], "there is room again"


@pytest.mark.parametrize(("more", "admitted"), [(0, 0), (1, 1)])
def test_what_is_left_of_a_caller_is_bounded(more: int, admitted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LEFT", 4 * SLICE)
    rig = Rig()
    rig.send("a", 1, 2 * SLICE)
    rig.send("a", 2 * SLICE + 1, 2 * SLICE + more)
    assert len(rig.done) == admitted
    rig.backlog.admit_all()
    assert [each[1] for each in rig.done] == [1 + SLICE * number for number in range(4 + more)]


def test_what_is_left_of_all_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LEFT_IN_ALL", 4 * SLICE)
    rig = Rig()
    rig.send("a", 1, 2 * SLICE)
    rig.send("b", 1, 2 * SLICE)
    assert rig.done == []
    rig.send("b", 2 * SLICE + 1, SLICE + 1)
    assert rig.done == [("b", 1, SLICE, 0, 1.0), ("b", SLICE + 1, 2 * SLICE, SLICE, 1.0)]


def test_cancels_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LEFT", 2 * SLICE + 2 * CANCEL_COSTS)
    rig = Rig()
    rig.send("a", 1, 2 * SLICE)
    for _ in range(2):
        rig.backlog.cancels("a", Cancel(ids=[1]))  # type: ignore[arg-type]
    assert rig.done == []
    rig.backlog.cancels("a", Cancel(ids=[1]))  # type: ignore[arg-type]
    assert rig.done == [("a", 1, SLICE, 0, 1.0)]


GROUPS = st.lists(st.tuples(st.integers(1, 3 * SLICE), st.booleans()), min_size=1, max_size=8)


@given(GROUPS, st.integers(0, 9))
def test_slices_are_the_message(parts: list[tuple[int, bool]], offset: int) -> None:
    first, groups, bodies = 1, [], bytearray(offset)
    for count, large in parts:
        groups.append(group(first, 1 if large else count, RequestFlag.LARGE if large else 0, 7 if large else 2))
        if not large:
            bodies += b"".join((first + number).to_bytes(2, "big") for number in range(count))
        first += 1 if large else count
    found = list(slices(Requests(groups), offset))
    assert [id_ for message, _ in found for id_ in ids(message)] == list(range(1, first))
    for message, _ in found[:-1]:
        assert len(ids(message)) == SLICE
    for message, start in found:
        for id_, body in bodies_of(message, bytes(bodies), start):
            assert id_ == body


def bodies_of(message: Requests, data: bytes, offset: int) -> Iterator[tuple[int, int]]:
    for each in message.groups:
        for number, size in enumerate(each.sizes):
            if not each.flags & RequestFlag.LARGE:
                yield each.first_id + number, int.from_bytes(data[offset : offset + size], "big")
                offset += size


# -- in the master -----------------------------------------------------------------------------------------------------------


def large(bus: Any, route: str, count: int) -> None:
    message = Requests([group(1, count)])
    frame = encode(message, [BODY * count])
    bus.master.receive(route, bus.identities[route], message, frame, len(frame) - count, bus.now)


def test_another_caller_does_not_wait_for_the_whole_message(make_bus: Any) -> None:
    bus = make_bus()
    bus.worker("w", "echo", slots=8192)
    flooder, honest = bus.client("flooder"), bus.client("honest")
    bus.said.clear()
    large(bus, flooder, 4096)
    message = Requests([group(1, 1)])
    frame = encode(message, [BODY])
    bus.master.receive(honest, bus.identities[honest], message, frame, len(frame) - 1, bus.now)
    sent = [each for _, outgoing in bus.master.take(bus.now) for each, _ in outgoing if isinstance(each, Work)]
    given_out = [(part.caller, len(part.sizes)) for work in sent for part in work.groups]
    assert sum(count for caller, count in given_out if caller == "honest") == 1
    assert sum(count for caller, count in given_out if caller == "flooder") <= SLICE
    assert bus.master.next_deadline() <= bus.now, "the rest goes on at once"
    bus.turn()
    assert not bus.master.backlog
    assert bus.master.roster.peers[flooder].last_id == 4096


def test_a_session_that_ends_asks_for_nothing_more(make_bus: Any) -> None:
    bus = make_bus()
    bus.worker("w", "echo", slots=8192)
    flooder = bus.client("flooder")
    large(bus, flooder, 4096)
    bus.master.disconnected(flooder, bus.now)
    bus.said.clear()
    bus.turn()
    assert bus.work("w") == []
    assert not bus.master.backlog


def test_a_master_that_ends_answers_what_is_left_over(make_bus: Any) -> None:
    bus = make_bus()
    bus.worker("w", "echo", slots=8192)
    flooder = bus.client("flooder")
    large(bus, flooder, 4096)
    bus.said.clear()
    bus.master.close(bus.now)
    bus.turn()
    answered = [each for each in bus.heard(flooder) if isinstance(each, Replies)]
    assert sum(len(part.sizes) for replies in answered for part in replies.groups) == 4096
