"""A subscription to what the master publishes: a SUB socket, reconnected by us.

Rules kept here:
- a subscription has its own connection: a slow reader of events holds up no request;
- it reconnects with full jitter until it is closed;
- a connection whose other end is gone without a word (a pulled cable, a router that forgot it) is noticed: libzmq's heartbeats
  look after the link. They say nothing of the master's health, which its "beat" topic does; but a subscriber says nothing
  itself, so that TCP alone would never find out.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import orjson
import zmq

from zcluster.errors import NotAllowed, Unreachable
from zcluster.keys import KeyFile
from zcluster.net.context import NOBLOCK, Socket, client_socket, new_context
from zcluster.net.monitor import LINK_EVENTS, read_event, watch
from zcluster.net.reader import Reader

MAX_EVENT_BYTES = 1_048_576
EVENTS_AHEAD = 10_000
RETRY_MAX_S = 1.0
HEARTBEAT_MS = 5000
"""How often libzmq asks whether the other end is there."""
HEARTBEAT_TIMEOUT_MS = 15_000
"""Without an answer for so long the connection is ended, by us and (told by TTL) by the master's libzmq."""
TURN = 64
_random = secrets.SystemRandom()


class Subscription:
    """Events of one topic, as dictionaries; use it with ``async with`` and ``async for``.

    Raises:
        Unreachable: the key file names no address to subscribe at. NotAllowed: the master refuses the key.
    """

    def __init__(self, key_file: KeyFile, topic: bytes) -> None:
        if not key_file.publish:
            raise Unreachable("the key file names no publisher", hint="make a new key file with `zcluster keys new`")
        self._key_file = key_file
        self._topic = topic
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_AHEAD)
        self._waiter: asyncio.Future[None] | None = None
        self._attempt = 0
        self._refused = False
        self._reader: Reader | None = None
        self._monitor: Reader | None = None
        self._socket: Socket | None = None
        self._pair: Socket | None = None
        self._retry: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Subscription:
        self._loop = asyncio.get_running_loop()
        self._context = new_context()
        self._connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._drop()
        self._context.term()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        while True:
            while self._events:
                yield self._events.popleft()
            if self._refused:
                raise NotAllowed("the master refuses this key", hint="admit it there: `zcluster keys add`")
            self._waiter = self._loop.create_future()
            await self._waiter

    def _connect(self) -> None:
        key_file = self._key_file
        pair = key_file.pair
        keys = (pair.secret.encode(), pair.public.encode(), key_file.master_public.encode())
        socket = client_socket(self._context, zmq.SUB, *keys, max_bytes=MAX_EVENT_BYTES)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
        self._socket = socket
        self._pair = watch(self._context, socket, LINK_EVENTS)
        socket.setsockopt(zmq.SUBSCRIBE, self._topic)
        socket.connect(key_file.publish[self._attempt % len(key_file.publish)])
        self._reader = Reader(self._loop, socket, self._turn)
        self._monitor = Reader(self._loop, self._pair, self._monitor_turn)

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.disable_monitor()
        for reader in (self._reader, self._monitor):
            if reader is not None:
                reader.close()
        self._socket = self._pair = self._reader = self._monitor = None

    def _turn(self) -> bool:
        socket = self._socket
        for _ in range(TURN):
            if socket is None:
                return False
            try:
                frames = socket.recv_multipart(NOBLOCK)
            except zmq.Again:
                return False
            if len(frames) == 2 and frames[0] == self._topic:
                self._events.append(orjson.loads(frames[1]))
                self._notify()
        return True

    def _monitor_turn(self) -> bool:
        pair = self._pair
        while pair is not None and self._pair is pair:
            found = read_event(pair)
            if found is None:
                return False
            if found[0] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._attempt = 0
            elif found[0] == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._refused = True
                self._notify()
            else:
                self._attempt += 1
                self._drop()
                self._retry = self._loop.call_later(_random.uniform(0, RETRY_MAX_S), self._connect)
        return False

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
