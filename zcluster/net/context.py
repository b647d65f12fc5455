"""ZeroMQ contexts and CURVE sockets, made the one safe way.

Rules kept here (each is a trap that was measured, see docs/decisions/0007-traps-of-libzmq.md):
- libc's ``srand`` is seeded from the system's randomness before the first ROUTER: libzmq's automatic routing ids start
  from ``rand()``, and a peer that guesses the next one makes libzmq abort;
- every socket has LINGER 0 (the default hangs a shutdown), bounded queues and a bounded message size;
- a server socket enforces its ZAP domain, so that without a ZAP handler nobody gets in instead of everybody;
- libzmq never reconnects by itself: its jitter is not random, and after a refusal it does not try again. Its own "never" (-1)
  throws away what came before the end, and aborts the process that is between two frames of a message: so it is an hour, and
  who made the connection closes it long before.
"""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Any

import zmq

ZAP_DOMAIN = b"zcluster"
PUBLISH_DOMAIN = b"zcluster.publish"
"""Of a publisher: not every key that may open a session may subscribe."""
ZAP_ENFORCE_DOMAIN = 93
"""ZMQ_ZAP_ENFORCE_DOMAIN of zmq.h; pyzmq 27 has no name for it."""
MAX_SOCKETS = 16_384
QUEUE_MESSAGES = 64
"""High-water mark of a connection, each way: a full pipe is an answer, so it need not be long."""
BACKLOG = 4096
NEVER_MS = 3_600_000
HANDSHAKE_MS = 3000
"""How long a client waits for the handshake; libzmq ends the connection then."""

# Plain integers: arithmetic on pyzmq's enumerations costs microseconds, and these are used for every message.
NOBLOCK = int(zmq.NOBLOCK)
SNDMORE = int(zmq.SNDMORE)
READABLE = int(zmq.POLLIN)
WRITABLE = int(zmq.POLLOUT)

Socket = zmq.Socket[bytes]


def readable(socket: Socket) -> bool:
    """Whether there is a message to read; asking also takes note of the descriptor's edge."""
    return bool(socket.get(zmq.EVENTS) & READABLE)  # type: ignore[operator]


def writable(socket: Socket) -> bool:
    """Whether a message can be sent now."""
    return bool(socket.get(zmq.EVENTS) & WRITABLE)  # type: ignore[operator]


def new_context(io_threads: int = 1) -> zmq.Context[Socket]:
    """A context for this process, with randomness seeded and room for many sockets and files."""
    ctypes.CDLL(None).srand(int.from_bytes(os.urandom(4), "little"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context: zmq.Context[Socket] = zmq.Context(io_threads)
    context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
    return context


def server_socket(
    context: zmq.Context[Socket], kind: int, secret: bytes, public: bytes, max_bytes: int, domain: bytes = ZAP_DOMAIN
) -> Socket:
    """A CURVE server socket (ROUTER or XPUB) that admits nobody without ZAP; not bound yet."""
    socket = _socket(context, kind, max_bytes)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.ZAP_DOMAIN, domain)
    socket.setsockopt(ZAP_ENFORCE_DOMAIN, 1)
    socket.setsockopt(zmq.BACKLOG, BACKLOG)
    # A timer of libzmq's costs a walk over all of them when it is not needed any more: thousands of strangers held up everyone
    # else for seconds. The guard ends who takes too long (connections.py).
    socket.setsockopt(zmq.HANDSHAKE_IVL, 0)
    return socket


def client_socket(
    context: zmq.Context[Socket], kind: int, secret: bytes, public: bytes, server: bytes, max_bytes: int
) -> Socket:
    """A CURVE client socket (DEALER or SUB) that trusts only ``server``; not connected yet."""
    socket = _socket(context, kind, max_bytes)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SERVERKEY, server)
    socket.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    return socket


def _socket(context: zmq.Context[Socket], kind: int, max_bytes: int) -> Socket:
    socket: Any = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    socket.setsockopt(zmq.IPV6, 1)
    return socket  # type: ignore[no-any-return]
