"""How far one gets towards a node: each way in which it can end is told apart."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from zcluster.keys import generate
from zcluster.net.probe import GREETING, GREETING_BYTES, Found, aside, greet, resolve, shake_hands

PATIENCE_S = 20.0
SOON_S = 0.2
HOST = "127.0.0.1"


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await body()

    asyncio.run(main())


@asynccontextmanager
async def listener(words: bytes, *, ends: bool = False) -> AsyncIterator[int]:
    """A server that says ``words`` to whoever connects."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        await writer.drain()
        if ends:
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture
def mute() -> Iterator[int]:
    """A port at which connections are taken, and nothing is said."""
    with closing(socket.create_server((HOST, 0))) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def free() -> int:
    """A port at which nobody listens."""
    with closing(socket.create_server((HOST, 0))) as listening:
        port: int = listening.getsockname()[1]
    return port


def test_names_are_resolved_or_not() -> None:
    async def body() -> None:
        assert (await resolve(HOST, 1, PATIENCE_S)).hosts == (HOST,)
        assert (await resolve("::1", 1, PATIENCE_S)).hosts == ("::1",)
        for name in ("no-such-host.invalid", "x" * 64 + ".invalid"):
            found = await resolve(name, 1, PATIENCE_S)
            assert (found.step.found, found.hosts) == (Found.UNKNOWN_NAME, ())

    run(body)


def test_a_call_that_hangs_keeps_nobody() -> None:
    async def body() -> None:
        import threading

        never = threading.Event()
        with pytest.raises(TimeoutError):
            await aside(never.wait, 0.01)
        never.set()
        assert await aside(lambda: 5, PATIENCE_S) == 5
        with pytest.raises(ZeroDivisionError):
            await aside(lambda: 1 // 0, PATIENCE_S)

    run(body)


def test_what_listens_is_told_apart(mute: int, free: int) -> None:
    async def body() -> None:
        assert (await greet(HOST, free, PATIENCE_S)).found is Found.REFUSED
        assert (await greet(HOST, mute, SOON_S)).found is Found.SILENT
        async with listener(b"SSH-2.0-OpenSSH\r\n") as port:
            step = await greet(HOST, port, PATIENCE_S)
            assert (step.found, "SSH-2.0" in step.detail) == (Found.STRANGER, True)
        async with listener(b"", ends=True) as port:
            assert (await greet(HOST, port, PATIENCE_S)).found is Found.STRANGER
        async with listener(GREETING[:10]) as port:
            assert (await greet(HOST, port, SOON_S)).found is Found.STRANGER
        async with listener(GREETING[:10], ends=True) as port:
            assert (await greet(HOST, port, PATIENCE_S)).found is Found.NOT_CURVE
        plain = GREETING[:12] + b"PLAIN".ljust(20, b"\0") + bytes(GREETING_BYTES - 32)
        async with listener(plain) as port:
            step = await greet(HOST, port, PATIENCE_S)
            assert (step.found, "PLAIN" in step.detail) == (Found.NOT_CURVE, True)
        async with listener(GREETING) as port:
            assert (await greet(HOST, port, PATIENCE_S)).found is Found.OK

    run(body)


@pytest.mark.parametrize("others", [b"\xff" * 9, b"\x00" * 64, b"\xff" + bytes(63), b"\xff" * 64])
def test_odd_bytes_are_a_stranger(others: bytes) -> None:
    async def body() -> None:
        async with listener(others, ends=True) as port:
            assert (await greet(HOST, port, PATIENCE_S)).found in (Found.STRANGER, Found.NOT_CURVE)

    run(body)


def test_keys_that_fit_and_keys_that_do_not(make_wire: Callable[..., Any], mute: int, free: int) -> None:
    async def body() -> None:
        wire = make_wire()
        friend, stranger, server = generate(), generate(), wire.server_pair.public
        wire.admitted.add(friend.public)
        port = int(wire.address.rpartition(":")[2])
        assert (await greet(HOST, port, PATIENCE_S)).found is Found.OK

        async def shaken(address: str, pair: Any, public: str, timeout_s: float = PATIENCE_S) -> Found:
            return (await shake_hands(address, pair.public, pair.secret, public, timeout_s)).found

        assert await shaken(wire.address, friend, server) is Found.OK
        assert await shaken(wire.address, stranger, server) is Found.KEY_REFUSED
        assert await shaken(wire.address, friend, generate().public) is Found.WRONG_SERVER
        assert await shaken(f"tcp://{HOST}:{free}", friend, server) is Found.REFUSED
        assert await shaken(f"tcp://{HOST}:{mute}", friend, server, SOON_S) is Found.TIMED_OUT
        assert await shaken("tcp://no port", friend, server) is Found.UNREACHABLE
        assert wire.received.items == [], "nothing is said after the handshake"
        wire.close()

    run(body)
