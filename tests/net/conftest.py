"""Real sockets in one loop: a CURVE server behind ZAP, its clients, and what is told of their connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from zcluster.keys import KeyPair, generate
from zcluster.net.context import Socket, client_socket, new_context, server_socket
from zcluster.net.monitor import LINK_EVENTS, read_event, watch
from zcluster.net.reader import Reader
from zcluster.net.zap import Zap

PATIENCE_S = 60.0
"""A test that hangs fails after this; no test waits for it to pass."""
MAX_BYTES = 65_536


class Told:
    """A list that can be waited for."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._changed = asyncio.Event()

    def add(self, item: Any) -> None:
        self.items.append(item)
        self._changed.set()

    async def until(self, condition: Callable[[list[Any]], bool]) -> None:
        """Wait until what was told satisfies ``condition``."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(self.items):
                self._changed.clear()
                await self._changed.wait()

    async def next(self) -> Any:
        """Wait for the next item, and take it."""
        await self.until(bool)
        return self.items.pop(0)


class Wire:
    """A server on a port of 127.0.0.1 and any number of clients; make it inside a running loop."""

    def __init__(self, *, zap: bool = True) -> None:
        self.loop = asyncio.get_running_loop()
        self.context = new_context()
        self.server_pair = generate()
        self.admitted: set[str] = set()
        self.denials: list[tuple[str, str]] = []
        self.unknown: list[tuple[str, str]] = []
        self.limits = 0
        self.received = Told()
        self.fds: list[int] = []
        """The descriptors that the received messages came by."""
        self.logger = logging.getLogger("zcluster.test")
        self.zap = Zap(self.loop, self.context, self.admits, self, self.logger) if zap else None
        pair = (self.server_pair.secret.encode(), self.server_pair.public.encode())
        self.server = server_socket(self.context, zmq.ROUTER, *pair, max_bytes=MAX_BYTES)
        self.server.bind("tcp://127.0.0.1:*")
        self.address = self.server.getsockopt_string(zmq.LAST_ENDPOINT)
        self._clients: list[Socket] = []
        self._readers = [Reader(self.loop, self.server, self._turn)]

    def admits(self, public: str) -> bool:
        return public in self.admitted

    def denied(self, address: str, reason: str) -> None:
        self.denials.append((address, reason))

    def unknown_key(self, public: str, address: str) -> str:
        self.unknown.append((public, address))
        return ""

    def limited(self) -> None:
        self.limits += 1

    def client(self, pair: KeyPair | None = None, server_public: str | None = None) -> tuple[Socket, Told]:
        """A connected CURVE client that has sent ``b"hello"``, and the monitor events of its connection."""
        own = pair if pair is not None else generate()
        server = (server_public or self.server_pair.public).encode()
        socket = client_socket(
            self.context, zmq.DEALER, own.secret.encode(), own.public.encode(), server, max_bytes=MAX_BYTES
        )
        return socket, self.connect(socket)

    def connect(self, socket: Socket) -> Told:
        """Connect any socket and send; the monitor events of its connection."""
        events = Told()
        pair = watch(self.context, socket, LINK_EVENTS)

        def turn() -> bool:
            found = read_event(pair)
            if found is not None:
                events.add(found[0])
            return found is not None

        socket.connect(self.address)
        self._readers.append(Reader(self.loop, pair, turn))
        self._clients.append(socket)
        with contextlib.suppress(zmq.Again):  # whoever is refused may have been before it could say anything
            socket.send(b"hello", zmq.NOBLOCK)
        return events

    def close(self) -> None:
        for socket in self._clients:
            if not socket.closed:
                socket.disable_monitor()
                socket.close(linger=0)
        for reader in self._readers:
            reader.close()
        if self.zap is not None:
            self.zap.close()
        self.context.term()

    def _turn(self) -> bool:
        while True:
            try:
                _, frame = self.server.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            self.fds.append(int(frame.get(zmq.SRCFD)))
            self.received.add((str(frame.get("User-Id")), frame.bytes))


@pytest.fixture
def make_wire() -> Iterator[Callable[..., Wire]]:
    """Makes a Wire inside a running loop; to be closed there."""
    made: list[Wire] = []

    def make(**options: Any) -> Wire:
        made.append(Wire(**options))
        return made[-1]

    yield make
    assert all(wire.context.closed for wire in made), "a test left its Wire open"


@pytest.fixture
def told() -> type[Told]:
    """Makes lists that can be waited for."""
    return Told
