"""A client's calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from zcluster.core.calls import ITEMS_AHEAD, MAX_NAME_CHARS, MAX_TARGET_CHARS, Call, Calls, decode_error
from zcluster.errors import Busy, MasterLost, TimedOut, TooLarge, UsageError
from zcluster.wire import (
    Cancel,
    Chunk,
    Credit,
    Grant,
    Message,
    Of,
    Replies,
    ReplyGroup,
    Requests,
    Status,
    Welcome,
    WireLimits,
    decode,
    encode,
)
from zcluster.wire.messages import RequestFlag

WELCOME = Welcome(
    version=1, session=3, name="c", role="client", cluster="c", master="m", epoch=1, heartbeat_s=1.0, lease_heartbeats=3,
    body_bytes=10_000, inline_bytes=100, chunk_bytes=1024, window_bytes=2048,
)  # fmt: skip


def calls_up() -> Calls:
    """Calls with a session since 0."""
    calls = Calls()
    calls.session_up(WELCOME, 0.0)
    return calls


def replies(calls: Calls, id_: int, status: int, *bodies: bytes, node: str = "w1", leg: int = 0, size: int = -1) -> list[Any]:
    """What a REPLIES of one group means: (call id, status, body)."""
    sizes = [size] if size >= 0 else [len(body) for body in bodies or (b"",)]
    group = ReplyGroup(id_, status, node, leg, sizes)
    found = calls.replies(Replies([group]), b"".join(bodies), 0)
    return [(call.id, status, bytes(body)) for call, status, _, _, body in found]


def sent(calls: Calls) -> list[Message]:
    """The messages that leave now."""
    return [message for message, _ in calls.take()]


def groups(messages: Sequence[Message]) -> list[tuple[int, int, int]]:
    """(first id, members, ttl in ms) of each group of requests."""
    return [
        (group.first_id, len(group.sizes), group.ttl_ms)
        for message in messages
        if isinstance(message, Requests)
        for group in message.groups
    ]


def test_calls_of_one_turn_are_one_group() -> None:
    calls = calls_up()
    for body in (b"1", b"22", b"333"):
        calls.open("f", "any", body, 0.0, 5.0)
    calls.open("g", "any", b"", 0.0, 5.0)
    calls.open("g", "any", b"", 0.0, 5.0, priority=9)
    calls.open("g", "any", b"", 0.0, 4.0, priority=9)
    [(message, bodies)] = calls.take()
    assert groups([message]) == [(1, 3, 5000), (4, 1, 5000), (5, 1, 5000), (6, 1, 4000)]
    assert bodies == [b"1", b"22", b"333", b"", b"", b""]
    assert calls.take() == []


def test_nothing_is_sent_without_a_session() -> None:
    calls = Calls()
    calls.open("f", "any", b"", 0.0, 5.0)
    assert calls.take() == []
    calls.session_up(WELCOME, 2.0)
    assert groups(sent(calls)) == [(1, 1, 3000)]


def test_each_call_ends_once() -> None:
    calls = calls_up()
    calls.open("f", "any", b"", 0.0, 5.0)
    assert replies(calls, 1, Status.VALUE, b"one") == [(1, Status.VALUE, b"one")]
    assert replies(calls, 1, Status.VALUE, b"two") == []
    assert replies(calls, 99, Status.ERROR, b"{}") == []
    assert calls.stray == 2
    assert calls.handle_deadline(99.0) == []
    assert calls.next_deadline() is None


def test_a_run_of_replies_is_told_apart() -> None:
    calls = calls_up()
    opened = [calls.open("f", "any", b"", 0.0, 5.0) for _ in range(3)]
    calls.cancel(opened[1])
    assert replies(calls, 1, Status.VALUE, b"a", b"bb", b"ccc") == [(1, 0, b"a"), (3, 0, b"ccc")]


def test_a_call_ends_at_its_deadline() -> None:
    calls = calls_up()
    calls.open("f", "any", b"", 0.0, 5.0)
    calls.take()
    assert calls.handle_deadline(4.99) == []
    [(call, error)] = calls.handle_deadline(5.02)
    assert (call.id, type(error)) == (1, TimedOut)
    assert "whether it ran is unknown" in error.message
    assert sent(calls) == [Cancel(ids=[1])]
    assert replies(calls, 1, Status.VALUE, b"late") == []
    assert calls.stray == 1


def test_a_call_that_was_never_sent_says_so() -> None:
    calls = Calls()
    calls.open("f", "any", b"", 0.0, 5.0)
    [(_, error)] = calls.handle_deadline(6.0)
    assert "never sent" in error.message
    assert calls.take() == []


def test_a_cancel_goes_ahead_of_requests_but_not_of_its_own() -> None:
    calls = calls_up()
    first = calls.open("f", "any", b"", 0.0, 5.0)
    calls.take()
    second = calls.open("f", "any", b"", 0.0, 5.0)
    calls.cancel(first)
    calls.cancel(second)
    calls.cancel(second)
    messages = sent(calls)
    assert [type(message) for message in messages] == [Cancel, Requests, Cancel]
    assert (messages[0], messages[2]) == (Cancel(ids=[1]), Cancel(ids=[2]))
    assert calls.take() == []


def test_a_cancel_after_a_new_session_does_not_overtake_the_request_sent_again() -> None:
    calls = calls_up()
    call = calls.open("f", "any", b"", 0.0, 5.0, flags=RequestFlag.IDEMPOTENT)
    calls.take()
    calls.session_lost()
    calls.session_up(WELCOME, 1.0)
    calls.cancel(call)
    assert [type(message) for message in sent(calls)] == [Requests, Cancel]


def test_a_lost_master_ends_what_may_not_run_twice() -> None:
    calls = calls_up()
    calls.idempotent = frozenset({"safe"})
    once, safe = calls.open("f", "any", b"", 0.0, 5.0), calls.open("safe", "any", b"", 0.0, 5.0)
    flagged = calls.open("f", "any", b"", 0.0, 5.0, flags=RequestFlag.IDEMPOTENT)
    fan = calls.open("safe", "all", b"", 0.0, 5.0, flags=RequestFlag.FAN_OUT)
    never, always = calls.open("safe", "any", b"", 0.0, 5.0), calls.open("f", "any", b"", 0.0, 5.0)
    never.resendable, always.resendable = False, True
    calls.take()
    lost = calls.session_lost()
    assert {call.id for call, _ in lost} == {once.id, fan.id, never.id}
    assert {type(error) for _, error in lost} == {MasterLost}
    assert set(calls.open_calls) == {safe.id, flagged.id, always.id}
    waits = calls.open("f", "any", b"", 0.5, 5.0)
    calls.session_up(WELCOME, 1.0)
    ids = [id_ for first, count, _ in groups(sent(calls)) for id_ in range(first, first + count)]
    assert ids == [safe.id, flagged.id, always.id, waits.id]


def test_a_stream_that_has_begun_is_not_sent_again() -> None:
    calls = calls_up()
    calls.open("f", "any", b"", 0.0, 5.0, flags=RequestFlag.IDEMPOTENT)
    replies(calls, 1, Status.ITEM, b"first", leg=4)
    assert [call.id for call, _ in calls.session_lost()] == [1]


def test_each_call_keeps_its_own_deadline_when_it_is_sent_again() -> None:
    calls = Calls()
    calls.open("f", "any", b"", 0.0, 30.0)
    calls.open("f", "any", b"", 20.0, 30.0)
    calls.session_up(WELCOME, 25.0)
    assert groups(sent(calls)) == [(1, 1, 5000), (2, 1, 25000)]


def test_ids_grow_from_session_to_session() -> None:
    calls = calls_up()
    calls.open("f", "any", b"", 0.0, 5.0)
    calls.session_lost()
    calls.session_up(WELCOME, 0.0)
    assert calls.open("f", "any", b"", 0.0, 5.0).id == 2


def test_open_calls_are_bounded() -> None:
    calls = calls_up()
    calls.max_calls = 2
    first = calls.open("f", "any", b"", 0.0, 5.0)
    calls.open("f", "any", b"", 0.0, 5.0)
    with pytest.raises(Busy):
        calls.open("f", "any", b"", 0.0, 5.0)
    calls.cancel(first)
    calls.open("f", "any", b"", 0.0, 5.0)


def test_arguments_names_and_targets_are_bounded() -> None:
    calls = calls_up()
    calls.open("f" * MAX_NAME_CHARS, "t" * MAX_TARGET_CHARS, b"x" * 10_000, 0.0, 5.0)
    with pytest.raises(TooLarge):
        calls.open("f", "any", b"x" * 10_001, 0.0, 5.0)
    with pytest.raises(UsageError):
        calls.open("f" * (MAX_NAME_CHARS + 1), "any", b"", 0.0, 5.0)
    with pytest.raises(UsageError):
        calls.open("f", "t" * (MAX_TARGET_CHARS + 1), b"", 0.0, 5.0)
    assert len(calls.open_calls) == 1


def test_thousands_of_calls_with_long_names_can_all_be_read() -> None:
    calls = Calls()
    calls.session_up(msgspec.structs.replace(WELCOME, chunk_bytes=262_144), 0.0)
    for number in range(5000):
        calls.open(("f" if number % 2 else "g") * MAX_NAME_CHARS, "any", b"", 0.0, 5.0)
    count = 0
    for message, bodies in calls.take():
        decoded, _ = decode(encode(message, bodies), WireLimits())
        assert isinstance(decoded, Requests)
        count += len(decoded.groups)
    assert count == 5000


def large(calls: Calls, size: int = 5000, flags: int = 0) -> Call:
    """An open call with a large argument, sent."""
    call = calls.open("f", "w1", b"a" * size, 0.0, 5.0, flags=flags)
    [(message, bodies)] = calls.take()
    assert isinstance(message, Requests)
    assert message.groups[0].flags & RequestFlag.LARGE
    assert (message.groups[0].sizes, bodies) == ([size], [b""])
    return call


def test_a_body_at_the_limit_is_inline_and_one_byte_more_is_large() -> None:
    calls = calls_up()
    calls.open("f", "w1", b"a" * 100, 0.0, 5.0)
    [(_, bodies)] = calls.take()
    assert bodies == [b"a" * 100]
    large(calls, 101)


def test_a_large_argument_goes_against_credit() -> None:
    calls = calls_up()
    large(calls)
    calls.credit([Grant(1, 7, Of.REQUEST_BODY, 2048)])
    assert [(message, len(bodies[0])) for message, bodies in calls.take()] == [(Chunk(1, 7, 0), 1024), (Chunk(1, 7, 1024), 1024)]
    calls.credit([Grant(1, 7, Of.REQUEST_BODY, 9999)])
    assert [message for message, _ in calls.take()] == [Chunk(1, 7, 2048), Chunk(1, 7, 3072), Chunk(1, 7, 4096)]


def test_a_large_argument_starts_again_for_another_leg() -> None:
    calls = calls_up()
    large(calls)
    calls.credit([Grant(1, 7, Of.REQUEST_BODY, 2048)])
    calls.take()
    calls.credit([Grant(1, 8, Of.REQUEST_BODY, 1024)])
    assert [message for message, _ in calls.take()] == [Chunk(1, 8, 0)]


def test_a_fan_out_sends_its_large_argument_to_each_leg() -> None:
    calls = calls_up()
    large(calls, flags=RequestFlag.FAN_OUT)
    calls.credit([Grant(1, 7, Of.REQUEST_BODY, 1024), Grant(1, 8, Of.REQUEST_BODY, 1024), Grant(1, 7, Of.REQUEST_BODY, 2048)])
    assert [message for message, _ in calls.take()] == [Chunk(1, 7, 0), Chunk(1, 8, 0), Chunk(1, 7, 1024)]


@pytest.mark.parametrize(
    "grant", [Grant(9, 7, Of.REQUEST_BODY, 10), Grant(1, 7, Of.REPLY_BODY, 10), Grant(2, 7, Of.REQUEST_BODY, 10)]
)
def test_credit_for_nothing_is_stray(grant: Grant) -> None:
    calls = calls_up()
    large(calls)
    calls.open("f", "any", b"small", 0.0, 5.0)
    calls.take()
    calls.credit([grant])
    assert (calls.take(), calls.stray) == ([], 1)


def test_a_large_value_is_gathered_against_credit() -> None:
    calls = calls_up()
    calls.open("f", "any", b"", 0.0, 5.0)
    calls.take()
    assert replies(calls, 1, Status.LARGE_VALUE, leg=5, size=3000) == []
    assert sent(calls) == [Credit(grants=[Grant(1, 5, Of.REPLY_BODY, 2048)])]
    assert calls.chunk(Chunk(1, 5, 0), memoryview(b"v" * 2048)) == []
    assert sent(calls) == [Credit(grants=[Grant(1, 5, Of.REPLY_BODY, 3000)])]
    [(call, status, node, _, body)] = calls.chunk(Chunk(1, 5, 2048), memoryview(b"w" * 952))
    assert (call.id, status, node, bytes(body)) == (1, Status.VALUE, "w1", b"v" * 2048 + b"w" * 952)
    assert not calls.open_calls


@pytest.mark.parametrize(
    ("chunk", "length"), [(Chunk(1, 5, 1), 10), (Chunk(1, 5, 0), 2049), (Chunk(1, 6, 0), 10), (Chunk(2, 5, 0), 10)]
)
def test_a_wrong_chunk_is_stray_and_completes_nothing(chunk: Chunk, length: int) -> None:
    calls = calls_up()
    calls.open("f", "any", b"", 0.0, 5.0)
    replies(calls, 1, Status.LARGE_VALUE, leg=5, size=3000)
    assert calls.chunk(chunk, memoryview(b"x" * length)) == []
    assert calls.stray == 1
    assert 1 in calls.open_calls


def test_a_value_over_the_limit_ends_the_call() -> None:
    calls = calls_up()
    calls.open("f", "any", b"", 0.0, 5.0)
    calls.take()
    [(id_, status, body)] = replies(calls, 1, Status.LARGE_VALUE, leg=5, size=10_001)
    assert (id_, status, decode_error(body, "w1").code) == (1, Status.ERROR, "too_large")
    assert sent(calls) == [Cancel(ids=[1])]


def test_the_reader_of_a_stream_grants_more_as_it_reads() -> None:
    calls = calls_up()
    call = calls.open("f", "w1", b"", 0.0, 5.0)
    calls.take()
    assert replies(calls, 1, Status.ITEM, b"a", b"b", leg=5) == [(1, Status.ITEM, b"a"), (1, Status.ITEM, b"b")]
    calls.consumed(call, 5)
    assert sent(calls) == [Credit(grants=[Grant(1, 5, Of.ITEMS, 1 + ITEMS_AHEAD)])]
    for _ in range(ITEMS_AHEAD // 2 - 1):
        calls.consumed(call, 5)
    assert calls.take() == []
    calls.consumed(call, 5)
    assert sent(calls) == [Credit(grants=[Grant(1, 5, Of.ITEMS, 1 + ITEMS_AHEAD // 2 + ITEMS_AHEAD)])]
    calls.consumed(call, 99)
    assert calls.take() == []
    assert replies(calls, 1, Status.END) == [(1, Status.END, b"")]
    assert not calls.open_calls


def test_a_fan_out_is_open_until_done() -> None:
    calls = calls_up()
    calls.open("f", "all", b"", 0.0, 5.0, flags=RequestFlag.FAN_OUT)
    assert replies(calls, 1, Status.VALUE, b"a", node="w1", leg=1) == [(1, Status.VALUE, b"a")]
    assert replies(calls, 1, Status.ERROR, b"{}", node="w2", leg=2) == [(1, Status.ERROR, b"{}")]
    replies(calls, 1, Status.LARGE_VALUE, node="w3", leg=3, size=1000)
    [(_, status, node, _, _)] = calls.chunk(Chunk(1, 3, 0), memoryview(b"v" * 1000))
    assert (status, node) == (Status.VALUE, "w3")
    assert replies(calls, 1, Status.END, node="w4", leg=4) == [(1, Status.END, b"")]
    assert calls.open_calls
    assert replies(calls, 1, Status.DONE, node="") == [(1, Status.DONE, b"")]
    assert not calls.open_calls


def test_a_fan_out_that_is_refused_as_a_whole_has_ended() -> None:
    calls = calls_up()
    calls.open("f", "w9*", b"", 0.0, 5.0, flags=RequestFlag.FAN_OUT)
    assert replies(calls, 1, Status.ERROR, b"{}", node="") == [(1, Status.ERROR, b"{}")]
    assert not calls.open_calls


def test_an_error_that_cannot_be_read_is_an_error() -> None:
    assert decode_error(b'{"code":"busy","message":"full"}', "w1").code == "busy"
    assert decode_error(b'{"code":"busy","message":"full"}', "w1").node == "w1"
    assert decode_error(b"\xff", "w1").code == "protocol_error"
    assert decode_error(b"[]", "w1").code == "protocol_error"
