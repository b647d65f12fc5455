"""A SUB socket with a connection of its own, reconnected by us.

Rules kept here:
- it reconnects with full jitter until it is closed, each time to the next address, also after a refusal: the key may be admitted
  in a moment;
- each connection is made with the keys of that moment: the pair of its owner, or the other one after a refusal, and one of those
  that may prove the master;
- a connection whose other end is gone without a word (a pulled cable, a router that forgot it) is noticed: libzmq's heartbeats
  look after the link. They say nothing of the master's health, which its "beat" topic does; but a subscriber says nothing
  itself, so that TCP alone would never find out;
- a turn is bounded; what the owner raises ends no reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from typing import Protocol

import zmq

from zcluster.errors import InvalidKey, Unreachable
from zcluster.keys.rotation import OwnKey
from zcluster.net.context import NOBLOCK, Socket, client_socket, new_context
from zcluster.net.monitor import LINK_EVENTS, read_event, watch
from zcluster.net.reader import Reader

RETRY_MAX_S = 1.0
HEARTBEAT_MS = 5000
"""How often libzmq asks whether the other end is there."""
HEARTBEAT_TIMEOUT_MS = 15_000
"""Without an answer for so long the connection is ended, by us and (told by TTL) by the master's libzmq."""
TURN = 64
_random = secrets.SystemRandom()


class Owner(Protocol):
    """Who subscribed."""

    def published(self, topic: bytes, frame: bytes) -> None:
        """This was published under one of the topics."""

    def subscription_up(self) -> None:
        """There is a connection: what is published from about now on arrives."""

    def subscription_refused(self) -> None:
        """The master refuses the key. It is tried again."""


class Subscriber:
    """Subscribes from its making until it is closed, inside a running loop.

    Args:
        own: who subscribes, and where the master publishes.
        topics: whole topics; what else begins with one of them is dropped.
        max_bytes: of one frame; a connection that brings a larger one ends.

    Raises:
        Unreachable: the key file names no address to subscribe at.
    """

    def __init__(self, own: OwnKey, topics: Sequence[bytes], owner: Owner, max_bytes: int) -> None:
        if not own.key_file.publish:
            raise Unreachable("the key file names no publisher", hint="make a new key file with `zcluster keys new`")
        self._own, self._topics, self._owner, self._max_bytes = own, frozenset(topics), owner, max_bytes
        self._loop = asyncio.get_running_loop()
        self._context = new_context()
        self._attempt = self._refusals = 0
        self._reader: Reader | None = None
        self._monitor: Reader | None = None
        self._pair: Socket | None = None
        self._retry: asyncio.TimerHandle | None = None
        self.socket: Socket | None = None
        """The one of now; None between two attempts."""
        self._connect()

    def close(self) -> None:
        """End it."""
        if self._retry is not None:
            self._retry.cancel()
        self._drop()
        self._context.term()

    def rekey(self) -> None:
        """The key is another: connect anew, with it."""
        if self._retry is not None:
            self._retry.cancel()
        self._drop()
        self._connect_again()

    def _connect(self) -> None:
        own, key_file = self._own, self._own.key_file
        pairs = sorted(own.pairs, key=lambda pair: pair != own.current)
        pair = pairs[self._refusals % len(pairs)]
        ways = [(address, master) for master in key_file.known.masters for address in key_file.publish]
        address, master = ways[self._attempt % len(ways)]
        keys = (pair.secret.encode(), pair.public.encode(), master.encode())
        socket = client_socket(self._context, zmq.SUB, *keys, max_bytes=self._max_bytes)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
        self.socket = socket
        self._pair = watch(self._context, socket, LINK_EVENTS)
        for topic in self._topics:
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        socket.connect(address)
        self._reader = Reader(self._loop, socket, self._turn)
        self._monitor = Reader(self._loop, self._pair, self._monitor_turn)

    def _again(self) -> None:
        self._attempt += 1
        self._drop()
        with contextlib.suppress(InvalidKey):  # a file that cannot be read changes nothing
            self._own.look()
        self._retry = self._loop.call_later(_random.uniform(0, RETRY_MAX_S), self._connect_again)

    def _connect_again(self) -> None:
        try:
            self._connect()
        except zmq.ZMQError:
            # No descriptors left, say: that may pass.
            self._again()

    def _drop(self) -> None:
        if self.socket is not None:
            self.socket.disable_monitor()
        for reader in (self._reader, self._monitor):
            if reader is not None:
                reader.close()
        self.socket = self._pair = self._reader = self._monitor = None

    def _turn(self) -> bool:
        socket = self.socket
        for _ in range(TURN):
            if socket is None or self.socket is not socket:
                return False
            try:
                frames = socket.recv_multipart(NOBLOCK)
            except zmq.Again:
                return False
            if len(frames) == 2 and frames[0] in self._topics:
                self._owner.published(frames[0], frames[1])
        return True

    def _monitor_turn(self) -> bool:
        pair = self._pair
        while pair is not None and self._pair is pair:
            found = read_event(pair)
            if found is None:
                return False
            if found[0] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._attempt = self._refusals = 0
                self._owner.subscription_up()
                continue
            refused = found[0] == zmq.EVENT_HANDSHAKE_FAILED_AUTH
            self._refusals += refused
            self._again()
            if refused and self._refusals >= len(self._own.pairs):
                self._owner.subscription_refused()
        return False
