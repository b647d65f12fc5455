"""The ZAP loop with real handshakes: who gets in, and that nothing stops it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from zcluster.keys import generate

MakeWire = Callable[..., Any]
SUCCEEDED, REFUSED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED), int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)


def test_an_admitted_key_is_heard_under_its_own_name(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        pair = generate()
        wire.admitted.add(pair.public)
        _, events = wire.client(pair)
        assert await events.next() == SUCCEEDED
        assert await wire.received.next() == (pair.public, b"hello")
        assert wire.denials == []
        wire.close()

    asyncio.run(main())


def test_an_unknown_key_is_refused_and_its_message_never_arrives(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        stranger, friend = generate(), generate()
        wire.admitted.add(friend.public)
        _, events = wire.client(stranger)
        assert await events.next() == REFUSED
        ((address, reason),) = wire.denials
        assert address == "127.0.0.1"
        assert reason == f"unknown key {stranger.public}"
        wire.client(friend)
        assert await wire.received.next() == (friend.public, b"hello")
        assert wire.received.items == []
        wire.close()

    asyncio.run(main())


def test_a_key_may_come_once_it_is_admitted_and_not_any_more_once_it_is_out(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        pair = generate()
        for admitted in (False, True, False):
            wire.admitted = {pair.public} if admitted else set()
            _, events = wire.client(pair)
            assert await events.next() == (SUCCEEDED if admitted else REFUSED)
        wire.close()

    asyncio.run(main())


def test_errors_of_the_ring_and_of_the_log_deny_and_never_end_the_loop(
    make_wire: MakeWire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        wire = make_wire()
        pair = generate()
        wire.admitted.add(pair.public)

        def broken(_public: str) -> bool:
            raise RuntimeError("the ring cannot be read")

        monkeypatch.setattr(wire.zap, "_admits", broken)
        for _ in range(3):
            _, events = wire.client(pair)
            assert await events.next() == REFUSED
        assert {reason for _, reason in wire.denials} == {"error in the check: RuntimeError"}

        def fails(_address: str, _reason: str) -> None:
            raise RuntimeError("the disk of the log is full")

        monkeypatch.setattr(wire, "denied", fails)
        _, events = wire.client(pair)
        assert await events.next() == REFUSED
        assert "ZAP could not answer" in caplog.text

        monkeypatch.setattr(wire.zap, "_admits", wire.admits)
        _, events = wire.client(pair)
        assert await events.next() == SUCCEEDED
        assert await wire.received.next() == (pair.public, b"hello")
        assert wire.received.items == []
        wire.close()

    asyncio.run(main())


@pytest.mark.parametrize("mechanism", ["NULL", "PLAIN"])
def test_a_client_without_curve_never_gets_in(make_wire: MakeWire, mechanism: str) -> None:
    async def main() -> None:
        wire = make_wire()
        wire.admits = lambda _public: True
        socket = wire.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        if mechanism == "PLAIN":
            socket.setsockopt(zmq.PLAIN_USERNAME, b"admin")
            socket.setsockopt(zmq.PLAIN_PASSWORD, b"admin")
        events = wire.connect(socket)
        assert await events.next() != SUCCEEDED
        pair = generate()
        wire.admitted.add(pair.public)
        wire.client(pair)
        assert await wire.received.next() == (pair.public, b"hello")
        assert wire.received.items == []
        wire.close()

    asyncio.run(main())


def test_without_a_zap_handler_nobody_gets_in(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire(zap=False)
        _, events = wire.client()
        assert await events.next() != SUCCEEDED
        assert wire.received.items == []
        wire.close()

    asyncio.run(main())


def test_after_the_handler_is_closed_nobody_gets_in(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        pair = generate()
        wire.admitted.add(pair.public)
        wire.zap.close()
        _, events = wire.client(pair)
        assert await events.next() != SUCCEEDED
        assert wire.received.items == []
        wire.close()

    asyncio.run(main())


def test_a_server_with_another_key_is_not_trusted(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        pair = generate()
        wire.admitted.add(pair.public)
        _, events = wire.client(pair, server_public=generate().public)
        assert await events.next() != SUCCEEDED
        assert wire.received.items == []
        wire.close()

    asyncio.run(main())


def test_more_handshakes_at_once_than_a_turn_are_all_answered(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        pairs = [generate() for _ in range(100)]
        wire.admitted.update(pair.public for pair in pairs[::2])
        answers = [wire.client(pair)[1] for pair in pairs]
        got = [await events.next() for events in answers]
        assert got == [SUCCEEDED, REFUSED] * 50
        assert len(wire.denials) + wire.limits == 50
        assert wire.limits, "strangers that try so often are not told one by one"
        assert len(wire.unknown) == len(wire.denials)
        wire.close()

    asyncio.run(main())
