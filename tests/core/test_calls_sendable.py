"""What a client's calls put on the wire can be read there, whatever was called and however often it is sent."""

from __future__ import annotations

import msgspec
import pytest

from zcluster.core.calls import MAX_NAME_CHARS, MAX_TARGET_CHARS, Calls
from zcluster.errors import UsageError
from zcluster.wire import Message, Requests, Welcome, WireLimits, decode, encode
from zcluster.wire.messages import RequestFlag

WELCOME = Welcome(
    version=1, session=1, name="laptop", role="client", cluster="zcluster", master="master", epoch=1, heartbeat_s=1.0,
    lease_heartbeats=3, body_bytes=1_000_000, inline_bytes=1024, chunk_bytes=2048, window_bytes=4096,
)  # fmt: skip


def sent(calls: Calls) -> list[Message]:
    """What is sent now, read as the master reads it."""
    return [decode(encode(message, bodies), WireLimits())[0] for message, bodies in calls.take()]


def joined() -> Calls:
    calls = Calls()
    calls.session_up(WELCOME, 0.0)
    return calls


@pytest.mark.parametrize(("inline_bytes", "large"), [(1024, True), (2000, False), (1999, True)])
def test_a_large_body_is_sent_again_as_the_next_session_takes_it(inline_bytes: int, large: bool) -> None:
    calls = joined()
    calls.open("f", "any", bytes(2000), 0.0, 5.0, flags=RequestFlag.IDEMPOTENT)
    (first,) = sent(calls)
    assert isinstance(first, Requests)
    assert first.groups[0].flags == RequestFlag.IDEMPOTENT | RequestFlag.LARGE
    assert calls.session_lost() == []
    calls.session_up(msgspec.structs.replace(WELCOME, inline_bytes=inline_bytes), 1.0)
    (again,) = sent(calls)
    assert isinstance(again, Requests)
    assert again.groups[0].flags == RequestFlag.IDEMPOTENT | (RequestFlag.LARGE if large else 0)
    assert again.groups[0].sizes == [2000]


@pytest.mark.parametrize("character", ["a", "ä", "\U0001f600", "\0"])
def test_names_and_targets_at_their_limits_are_sent(character: str) -> None:
    calls = joined()
    calls.open(character * MAX_NAME_CHARS, character * MAX_TARGET_CHARS, b"", 0.0, 5.0)
    assert len(sent(calls)) == 1


@pytest.mark.parametrize(
    ("function", "target"),
    [("f" * (MAX_NAME_CHARS + 1), "any"), ("f", "t" * (MAX_TARGET_CHARS + 1)), ("f\ud800", "any"), ("f", "\udcff")],
)
def test_what_no_message_can_carry_is_refused_before_it_spoils_one(function: str, target: str) -> None:
    calls = joined()
    calls.open("f", "any", b"", 0.0, 5.0)
    with pytest.raises(UsageError):
        calls.open(function, target, b"", 0.0, 5.0)
    (message,) = sent(calls)
    assert isinstance(message, Requests)
    assert [group.sizes for group in message.groups] == [[0]]
    assert len(calls.open_calls) == 1
