"""What happens to a socket's connections, from libzmq's monitor (zmq_socket_monitor(3)).

Rules kept here:
- the reading end has no high-water mark: a full monitor would stop libzmq's I/O thread, and with it every connection;
- only the events that are used are asked for.
"""

from __future__ import annotations

import errno
import itertools
import struct

import zmq

from zcluster.net.context import NOBLOCK, Socket, readable

LINK_EVENTS = int(
    zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
SERVER_EVENTS = int(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
"""Not ACCEPT_FAILED: a listener without descriptors tells it without a pause, faster than it can be read."""
_EVENT = struct.Struct("=hi")
_numbers = itertools.count(1)


def gave_up(event: int, value: int) -> bool:
    """Whether a connection was ended here, because the other side said nothing until the time for the handshake was over.

    libzmq tells it like an end by the other side, but for the error: that of a connection on which there was nothing to read.
    """
    return event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and value == errno.EAGAIN


def watch(context: zmq.Context[Socket], socket: Socket, events: int) -> Socket:
    """A PAIR socket on which the events of ``socket`` arrive; to be made before it binds or connects."""
    address = f"inproc://monitor-{next(_numbers)}"
    socket.monitor(address, events)
    pair = context.socket(zmq.PAIR)
    pair.setsockopt(zmq.LINGER, 0)
    pair.setsockopt(zmq.RCVHWM, 0)
    pair.connect(address)
    return pair


def read_event(pair: Socket) -> tuple[int, int] | None:
    """The next (event, value), or None when there is none."""
    # Asking for the events first costs a tenth of the exception that an empty socket would raise.
    if not readable(pair):
        return None
    frames = pair.recv_multipart(NOBLOCK)
    event, value = _EVENT.unpack(frames[0])
    return int(event), int(value)
