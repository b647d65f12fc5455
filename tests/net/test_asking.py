"""One question to a node: what comes back, and that everything that goes wrong ends it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import zmq

from zcluster.errors import NotAllowed, PeerError, Unreachable
from zcluster.keys import generate
from zcluster.net.asking import ask
from zcluster.net.context import server_socket
from zcluster.net.reader import Reader
from zcluster.wire import Message, encode
from zcluster.wire.joining import Join, Joined

MakeWire = Callable[..., Any]
PATIENCE_S = 60.0
OWN, OTHER = generate(), generate()
QUESTION = Join(public=OWN.public, name="w")
ANSWER = Joined(name="w", role="worker", cluster="c")


def answering(wire: Any, *frames: bytes) -> tuple[str, Reader]:
    """A server beside the wire's, which answers each message with ``frames``."""
    pair = wire.server_pair
    router = server_socket(wire.context, zmq.ROUTER, pair.secret.encode(), pair.public.encode(), max_bytes=65_536)
    router.bind("tcp://127.0.0.1:*")
    address = router.getsockopt_string(zmq.LAST_ENDPOINT)

    def turn() -> bool:
        try:
            route, _question = router.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        router.send_multipart([route, *frames], zmq.NOBLOCK)
        return True

    return address, Reader(wire.loop, router, turn)


def use(make_wire: MakeWire, body: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        wire = make_wire()
        wire.admitted.add(OWN.public)
        try:
            await body(wire)
        finally:
            wire.close()

    asyncio.run(main())


async def asked(wire: Any, address: str, *, own: Any = OWN, server: str = "", timeout_s: float = PATIENCE_S) -> Message:
    return await ask(
        wire.context, address, (own.public, own.secret), server or wire.server_pair.public, QUESTION, timeout_s=timeout_s
    )


def test_the_answer_comes_back_and_nothing_stays_open(make_wire: MakeWire) -> None:
    async def body(wire: Any) -> None:
        address, server = answering(wire, encode(ANSWER))
        assert await asked(wire, address) == ANSWER
        server.close()

    use(make_wire, body)


@pytest.mark.parametrize("frames", [(b"nonsense",), (encode(ANSWER), b"more")])
def test_what_is_no_answer_is_the_other_sides_fault(make_wire: MakeWire, frames: tuple[bytes, ...]) -> None:
    async def body(wire: Any) -> None:
        address, server = answering(wire, *frames)
        with pytest.raises(PeerError):
            await asked(wire, address)
        server.close()

    use(make_wire, body)


def test_a_key_that_is_not_admitted_is_told_so(make_wire: MakeWire) -> None:
    async def body(wire: Any) -> None:
        with pytest.raises(NotAllowed, match="does not admit this key"):
            await asked(wire, wire.address, own=OTHER)
        assert wire.received.items == []

    use(make_wire, body)


def test_another_servers_key_learns_nothing(make_wire: MakeWire) -> None:
    async def body(wire: Any) -> None:
        with pytest.raises(Unreachable, match="handshake"):
            await asked(wire, wire.address, server=OTHER.public)
        assert wire.received.items == []

    use(make_wire, body)


def test_where_nobody_listens_it_ends_at_once(make_wire: MakeWire) -> None:
    async def body(wire: Any) -> None:
        address, server = answering(wire)
        server.close()
        with pytest.raises(Unreachable):
            await asked(wire, address)
        with pytest.raises(Unreachable, match="cannot connect"):
            await asked(wire, "tcp://nonsense")

    use(make_wire, body)


def test_a_server_that_says_nothing_may_be_stopped(make_wire: MakeWire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.net.context.HANDSHAKE_MS", 20)

    async def body(wire: Any) -> None:
        silent = socket.create_server(("127.0.0.1", 0))  # the system takes connections for it
        with silent, pytest.raises(Unreachable, match="takes the connection and says nothing") as caught:
            await asked(wire, f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        assert "stopped or overloaded" in caught.value.hint

    use(make_wire, body)


def test_a_server_that_is_silent_costs_no_more_than_the_time_given(make_wire: MakeWire) -> None:
    async def body(wire: Any) -> None:
        with pytest.raises(Unreachable, match="does not"):
            await asked(wire, wire.address, timeout_s=0.05)

    use(make_wire, body)
