"""Peers of libzmq with any key: DEALER and SUB sockets that say what they like. For one thread each."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import zmq

from zcluster import wire
from zcluster.keys import KeyFile

PATIENCE_S = 60.0
BEAT_S = 0.25
LIMITS = wire.WireLimits()


class Peer:
    """A DEALER with an admitted key; it beats only when told to, and never reconnects.

    Args:
        key: the path of its key file, or the key.
        context: a context to share; None: one of its own.
        routing_id: the id that it claims.
    """

    def __init__(
        self, key: str | Path | KeyFile, context: zmq.Context[zmq.Socket[bytes]] | None = None, *, routing_id: bytes = b"",
        send_s: float = PATIENCE_S,
    ) -> None:  # fmt: skip
        self.key = key if isinstance(key, KeyFile) else KeyFile.read(Path(key))
        self._own = context is None
        self.context: zmq.Context[zmq.Socket[bytes]] = context or zmq.Context()
        self._routing_id, self._send_ms = routing_id, int(send_s * 1000)
        self.beat_due_s = time.monotonic() + BEAT_S
        self.connect()

    def connect(self) -> None:
        """A fresh socket."""
        self.socket = dress(self.context.socket(zmq.DEALER), self.key)
        self.socket.setsockopt(zmq.SNDTIMEO, self._send_ms)
        if self._routing_id:
            self.socket.setsockopt(zmq.ROUTING_ID, self._routing_id)
        self.socket.connect(self.key.addresses[0])

    def again(self) -> None:
        """Another connection instead of this one."""
        self.socket.close()
        self.connect()

    def hello(self, **about: Any) -> None:
        """Say HELLO."""
        self.send(wire.Hello(**{"versions": [1], "instance": "hostile", **about}))

    def send(self, message: wire.Message, *bodies: bytes) -> None:
        """Send a message."""
        self.socket.send(wire.encode(message, bodies))

    def receive(self, wait_s: float = PATIENCE_S) -> tuple[wire.Message, bytes] | None:
        """The next message and its bodies; None when none comes in time."""
        if not self.socket.poll(int(wait_s * 1000)):
            return None
        frame = self.socket.recv()
        message, start = wire.decode(frame, LIMITS)
        return message, frame[start:]

    def wait_for(self, *kinds: type[Any], wait_s: float = PATIENCE_S) -> Any:
        """The next message of these kinds, all others thrown away."""
        deadline_s = time.monotonic() + wait_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            found = self.receive(left_s)
            if found is not None and isinstance(found[0], kinds):
                return found[0]
        raise AssertionError(f"none of {[kind.__name__ for kind in kinds]} came")

    def beat(self, slots: int | None = None) -> None:
        """A heartbeat, when one is due."""
        if time.monotonic() >= self.beat_due_s:
            self.send(wire.Beat(slots=slots))
            self.beat_due_s = time.monotonic() + BEAT_S

    def close(self) -> None:
        """End it."""
        self.socket.close()
        if self._own:
            self.context.term()


def dress(socket: zmq.Socket[bytes], key: KeyFile) -> zmq.Socket[bytes]:
    """The keys of ``key`` on ``socket``, which then neither lingers nor reconnects."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, 3_600_000)  # with -1 it aborts when it is cut between two frames
    socket.curve_publickey = key.pair.public.encode()
    socket.curve_secretkey = key.pair.secret.encode()
    socket.curve_serverkey = key.master_public.encode()
    return socket
