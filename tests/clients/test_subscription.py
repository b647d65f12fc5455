"""A subscription notices that its connection is dead although nobody said so."""

from __future__ import annotations

import asyncio
import logging
from unittest.mock import Mock

import pytest
import zmq

from zcluster.clients.subscription import Subscription
from zcluster.keys import KeyFile, generate
from zcluster.keys.rotation import OwnKey
from zcluster.net import subscriber as module
from zcluster.net.context import new_context, server_socket
from zcluster.net.reader import Reader
from zcluster.net.subscriber import HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS
from zcluster.net.zap import Zap

PATIENCE_S = 60.0
TOPIC = b"nodes"


class Publisher:
    """An XPUB that publishes one numbered event to each new subscriber; make it inside a running loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.context = new_context()
        self.pair = generate()
        self._events = 0
        self._zap = Zap(loop, self.context, lambda public: True, Mock(), logging.getLogger("test"))
        keys = (self.pair.secret.encode(), self.pair.public.encode())
        self._socket = server_socket(self.context, zmq.XPUB, *keys, max_bytes=65_536)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._socket.bind("tcp://127.0.0.1:*")
        self.port = int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._reader = Reader(loop, self._socket, self._turn)

    def close(self) -> None:
        self._reader.close()
        self._zap.close()
        self.context.term()

    def _turn(self) -> bool:
        try:
            said = self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return False
        if said == b"\x01" + TOPIC:
            self._events += 1
            self._socket.send_multipart([TOPIC, b'{"number":%d}' % self._events])
        return True


class Path:
    """A TCP path to a port that may go dead: what is sent over the connections of that time goes nowhere."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self._dead: set[int] = set()
        self.connections = 0

    async def open(self) -> int:
        """Its own port."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def die(self) -> None:
        """Let all connections of now be dead, and say nothing."""
        self._dead.update(range(1, self.connections + 1))

    async def close(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, far_writer]
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._pumps.add(asyncio.ensure_future(self._pump(number, source, sink)))

    async def _pump(self, number: int, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            if number not in self._dead:
                sink.write(data)


def key_file(publisher: Publisher, port: int) -> KeyFile:
    return KeyFile(
        name="c", role="client", cluster="zcluster", pair=generate(), master_public=publisher.pair.public,
        addresses=(), publish=(f"tcp://127.0.0.1:{port}",),
    )  # fmt: skip


def test_a_dead_connection_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_MS", 100)
    monkeypatch.setattr(module, "HEARTBEAT_TIMEOUT_MS", 500)
    monkeypatch.setattr(module, "RETRY_MAX_S", 0.0)

    async def main() -> None:
        publisher = Publisher()
        path = Path(publisher.port)
        port = await path.open()
        async with asyncio.timeout(PATIENCE_S), Subscription(OwnKey(key_file(publisher, port)), TOPIC) as events:
            each = aiter(events)
            first = await anext(each)
            path.die()
            assert (await anext(each))["number"] > first["number"]
            assert path.connections > 1
        await path.close()
        publisher.close()

    asyncio.run(main())


def test_both_ends_are_looked_after() -> None:
    async def main() -> None:
        publisher = Publisher()
        async with Subscription(OwnKey(key_file(publisher, publisher.port)), TOPIC) as events:
            assert events.subscriber is not None
            socket = events.subscriber.socket
            assert socket is not None
            options = [socket.getsockopt(each) for each in (zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT, zmq.HEARTBEAT_TTL)]
            assert options == [HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS, HEARTBEAT_TIMEOUT_MS]
        publisher.close()

    asyncio.run(main())
