"""Results, credit and chunks through the master."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zcluster.core.peers import INITIAL_ITEMS
from zcluster.wire import Cancel, Chunk, Credit, FunctionInfo, Grant, Of, Status
from zcluster.wire.messages import RequestFlag

LARGE = RequestFlag.LARGE
ARGUMENT, VALUE, ITEMS = Of.REQUEST_BODY, Of.REPLY_BODY, Of.ITEMS


def credit(bus: Any, route: str, leg: int, of: int, upto: int, id_: int = 0) -> None:
    """CREDIT from ``route``."""
    bus.send(route, Credit(grants=[Grant(id_, leg, of, upto)]))


@pytest.fixture
def argument(bus: Any) -> Any:
    """A large argument of 3000 bytes under leg 1, for which w1 has granted 2000."""
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1", flags=LARGE, sizes=[3000])
    credit(bus, "w1", 1, ARGUMENT, 2000)
    assert bus.heard("c1")[-1] == Credit(grants=[Grant(1, 1, ARGUMENT, 2000)])
    bus.heard("w1")
    return bus


@pytest.fixture
def value(bus: Any) -> Any:
    """A large value of 3000 bytes under leg 1, for which c1 has granted 2000."""
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1")
    bus.heard("c1")
    bus.result("w1", 1, b"", Status.LARGE_VALUE, 3000)
    assert bus.replies("c1") == [(1, "LARGE_VALUE", "w1")]
    credit(bus, "c1", 1, VALUE, 2000, id_=1)
    assert bus.heard("w1")[-1] == Credit(grants=[Grant(0, 1, VALUE, 2000)])
    return bus


def test_a_large_argument_passes_through(argument: Any) -> None:
    bus = argument
    bus.chunk("c1", 1, 0, b"a" * 1000, id_=1)
    bus.chunk("c1", 1, 1000, b"a" * 1000, id_=1)
    assert bus.heard("w1") == [Chunk(0, 1, 0), Chunk(0, 1, 1000)]
    assert bus.master.dispatch.gate.used_bytes == 0
    credit(bus, "w1", 1, ARGUMENT, 3000)
    bus.chunk("c1", 1, 2000, b"a" * 1000, id_=1)
    bus.result("w1", 1)
    assert bus.replies("c1")[-1] == (1, "VALUE ok", "w1")
    assert bus.idle()


def test_a_large_value_passes_through_and_ends_the_request(value: Any) -> None:
    bus = value
    bus.chunk("w1", 1, 0, b"v" * 2000)
    credit(bus, "c1", 1, VALUE, 3000, id_=1)
    bus.chunk("w1", 1, 2000, b"v" * 1000)
    assert bus.heard("c1") == [Chunk(1, 1, 0), Chunk(1, 1, 2000)]
    assert bus.idle()
    assert bus.count("done") == 1


@pytest.mark.parametrize(("offset", "length"), [(1, 10), (0, 2001), (0, 0)])
def test_an_argument_that_was_not_granted_ends_the_request(offset: int, length: int, argument: Any) -> None:
    bus = argument
    bus.chunk("c1", 1, offset, b"a" * length, id_=1)
    assert bus.replies("c1") == [(1, "protocol_error", "w1")]
    assert bus.heard("w1") == [Cancel(ids=[1])]
    assert bus.idle()


@pytest.mark.parametrize(("offset", "length"), [(1, 10), (0, 2001), (0, 0)])
def test_a_value_that_was_not_granted_ends_the_request(offset: int, length: int, value: Any) -> None:
    bus = value
    bus.chunk("w1", 1, offset, b"v" * length)
    assert bus.replies("c1") == [(1, "protocol_error", "w1")]
    assert bus.idle()


def test_nobody_grants_credit_to_itself(argument: Any) -> None:
    bus = argument
    credit(bus, "c1", 1, ARGUMENT, 3000, id_=1)
    assert (bus.heard("c1"), bus.count("stray_credit")) == ([], 1)
    bus.chunk("c1", 1, 0, b"a" * 2500, id_=1)
    assert bus.replies("c1") == [(1, "protocol_error", "w1")]


def test_a_worker_grants_no_credit_for_its_own_value(value: Any) -> None:
    bus = value
    credit(bus, "w1", 1, VALUE, 3000)
    assert (bus.heard("w1"), bus.count("stray_credit")) == ([], 1)


def test_credit_and_chunks_for_nothing_are_stray(argument: Any) -> None:
    bus = argument
    bus.worker("w2", "f")
    bus.client("c2")
    bus.heard("c2")
    credit(bus, "w2", 1, ARGUMENT, 100)
    credit(bus, "w1", 9, ARGUMENT, 100)
    credit(bus, "c2", 1, VALUE, 100, id_=1)
    credit(bus, "c1", 2, VALUE, 100, id_=1)
    credit(bus, "c1", 1, VALUE, 100, id_=1)
    assert bus.count("stray_credit") == 5
    bus.chunk("c2", 1, 0, b"a", id_=1)
    bus.chunk("c1", 2, 0, b"a", id_=1)
    bus.chunk("w2", 1, 0, b"a")
    assert bus.count("stray_chunk") == 3
    assert (bus.heard("w1"), bus.heard("c1")) == ([], [])


def test_a_chunk_of_a_small_request_is_stray(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1")
    bus.chunk("c1", 1, 0, b"a", id_=1)
    assert bus.count("stray_chunk") == 1


def test_a_chunk_of_a_value_that_was_not_announced_is_stray(bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1")
    bus.heard("c1")
    bus.chunk("w1", 1, 0, b"v")
    assert (bus.replies("c1"), bus.count("stray_chunk")) == ([], 1)


@pytest.mark.parametrize(("size", "reply"), [(10_000, "LARGE_VALUE"), (10_001, "too_large")])
def test_a_large_value_is_bounded(size: int, reply: str, bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1")
    bus.heard("c1")
    bus.result("w1", 1, b"", Status.LARGE_VALUE, size)
    assert [what for _, what, _ in bus.replies("c1")] == [reply]


@pytest.mark.parametrize(("size", "reply"), [(1000, "VALUE"), (1001, "protocol_error")])
def test_a_value_in_one_piece_is_bounded(size: int, reply: str, bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1")
    bus.heard("c1")
    bus.result("w1", 1, b"v" * size)
    assert [what.split()[0] for _, what, _ in bus.replies("c1")] == [reply]
    assert bus.idle()


@pytest.mark.parametrize("status", [Status.DONE])
def test_a_result_that_makes_no_sense_is_stray(status: int, bus: Any) -> None:
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1")
    bus.heard("c1")
    bus.result("w1", 1, b"", status)
    assert bus.count("stray_result") == 1
    assert bus.replies("c1") == []


def test_the_master_allows_no_more_than_its_memory_for_large_bodies(make_bus: Callable[..., Any]) -> None:
    bus = make_bus(transfer_bytes=3000)
    bus.worker("w1", "f")
    bus.client("c1")
    bus.request("c1", "f", "w1", flags=LARGE, sizes=[4000], id_=1)
    bus.request("c1", "f", "w1", flags=LARGE, sizes=[4000], id_=2)
    bus.heard("c1")
    credit(bus, "w1", 1, ARGUMENT, 2000)
    credit(bus, "w1", 2, ARGUMENT, 2000)
    assert bus.heard("c1") == [Credit(grants=[Grant(1, 1, ARGUMENT, 2000)])]
    bus.chunk("c1", 1, 0, b"a" * 1000, id_=1)
    assert bus.heard("c1") == [Credit(grants=[Grant(2, 2, ARGUMENT, 2000)])], "in the turn in which the bytes left"
    bus.send("c1", Cancel(ids=[1, 2]))
    assert bus.idle()


def test_a_moved_request_asks_for_its_argument_again(bus: Any) -> None:
    bus.worker("w1", FunctionInfo(name="safe", idempotent=True))
    bus.client("c1")
    bus.request("c1", "safe", "any", flags=LARGE, sizes=[3000])
    credit(bus, "w1", 1, ARGUMENT, 2000)
    bus.chunk("c1", 1, 0, b"a" * 1000, id_=1)
    bus.worker("w2", FunctionInfo(name="safe", idempotent=True))
    bus.master.disconnected("w1", bus.now)
    bus.turn()
    assert [leg for leg, _, _ in bus.work("w2")] == [2]
    bus.heard("c1")
    bus.chunk("c1", 1, 1000, b"a" * 1000, id_=1)
    assert bus.count("stray_chunk") == 1
    credit(bus, "w2", 2, ARGUMENT, 2000)
    assert bus.heard("c1") == [Credit(grants=[Grant(1, 2, ARGUMENT, 2000)])]
    bus.chunk("c1", 2, 0, b"a" * 1000, id_=1)
    assert bus.heard("w2") == [Chunk(0, 2, 0)]


def test_items_go_to_the_caller_and_credit_to_the_worker(bus: Any) -> None:
    bus.worker("w1", FunctionInfo(name="lines", stream=True))
    bus.client("c1")
    bus.request("c1", "lines", "w1")
    bus.heard("c1")
    bus.heard("w1")
    for index in range(INITIAL_ITEMS):
        bus.result("w1", 1, b"%d" % index, Status.ITEM)
    assert bus.replies("c1") == [(1, f"ITEM {index}", "w1") for index in range(INITIAL_ITEMS)]
    credit(bus, "c1", 1, ITEMS, INITIAL_ITEMS + 1, id_=1)
    assert bus.heard("w1") == [Credit(grants=[Grant(0, 1, ITEMS, INITIAL_ITEMS + 1)])]
    bus.result("w1", 1, b"one more", Status.ITEM)
    bus.result("w1", 1, b"", Status.END)
    assert bus.replies("c1") == [(1, "ITEM one more", "w1"), (1, "END", "w1")]
    assert bus.idle()


def test_an_item_beyond_the_credit_ends_the_request(bus: Any) -> None:
    bus.worker("w1", FunctionInfo(name="lines", stream=True))
    bus.client("c1")
    bus.request("c1", "lines", "w1")
    bus.heard("c1")
    for _ in range(INITIAL_ITEMS + 1):
        bus.result("w1", 1, b"x", Status.ITEM)
    replies = bus.replies("c1")
    assert (len(replies), replies[-1]) == (INITIAL_ITEMS + 1, (1, "protocol_error", "w1"))
    assert bus.idle()


def test_the_parts_of_a_fan_out_have_their_own_credit(bus: Any) -> None:
    for name in ("w1", "w2"):
        bus.worker(name, "f")
    bus.client("c1")
    bus.request("c1", "f", "w*", flags=RequestFlag.FAN_OUT | LARGE, sizes=[1500])
    credit(bus, "w1", 1, ARGUMENT, 1500)
    credit(bus, "w2", 2, ARGUMENT, 500)
    assert bus.heard("c1")[-2:] == [Credit(grants=[Grant(1, 1, ARGUMENT, 1500)]), Credit(grants=[Grant(1, 2, ARGUMENT, 500)])]
    bus.chunk("c1", 1, 0, b"a" * 1000, id_=1)
    bus.chunk("c1", 2, 0, b"a" * 500, id_=1)
    assert (bus.heard("w1")[-1], bus.heard("w2")[-1]) == (Chunk(0, 1, 0), Chunk(0, 2, 0))
    bus.result("w2", 2, b"", Status.LARGE_VALUE, 2000)
    bus.result("w1", 1, b"small")
    credit(bus, "c1", 2, VALUE, 2000, id_=1)
    bus.heard("c1")
    bus.chunk("w2", 2, 0, b"v" * 2000)
    said = [type(message).__name__ for message, _ in bus.said["c1"]]
    assert said == ["Chunk", "Replies"], "DONE does not overtake the last chunk"
    assert bus.idle()
