"""How contexts and sockets are made: the options that hold off each known trap."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest
import zmq

from zcluster.keys import generate
from zcluster.net import context as made
from zcluster.net.context import NEVER_MS, ZAP_DOMAIN, ZAP_ENFORCE_DOMAIN, Socket, client_socket, new_context, server_socket

MAX_BYTES = 4096


@pytest.fixture
def context() -> Iterator[zmq.Context[Socket]]:
    found = new_context()
    yield found
    found.destroy(linger=0)


def server(context: zmq.Context[Socket], kind: int) -> Socket:
    pair = generate()
    return server_socket(context, kind, pair.secret.encode(), pair.public.encode(), MAX_BYTES)


def client(context: zmq.Context[Socket], kind: int) -> Socket:
    pair = generate()
    return client_socket(context, kind, pair.secret.encode(), pair.public.encode(), generate().public.encode(), MAX_BYTES)


def assert_bounded(socket: Socket) -> None:
    assert socket.getsockopt(zmq.LINGER) == 0
    assert socket.getsockopt(zmq.SNDHWM) == made.QUEUE_MESSAGES
    assert socket.getsockopt(zmq.RCVHWM) == made.QUEUE_MESSAGES
    assert socket.getsockopt(zmq.MAXMSGSIZE) == MAX_BYTES
    assert socket.getsockopt(zmq.MECHANISM) == zmq.CURVE
    assert socket.getsockopt(zmq.IPV6) == 1


@pytest.mark.parametrize("kind", [zmq.ROUTER, zmq.XPUB])
def test_a_server_socket_admits_nobody_by_itself(context: zmq.Context[Socket], kind: int) -> None:
    socket = server(context, kind)
    assert_bounded(socket)
    assert socket.getsockopt(zmq.CURVE_SERVER) == 1
    assert socket.getsockopt(zmq.ZAP_DOMAIN) in (ZAP_DOMAIN, ZAP_DOMAIN + b"\0")
    assert socket.getsockopt(ZAP_ENFORCE_DOMAIN) == 1
    assert socket.getsockopt(zmq.BACKLOG) == made.BACKLOG
    assert socket.getsockopt(zmq.HANDSHAKE_IVL) == 0, "a timer for each connection is a walk over all of them"


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.SUB])
def test_a_client_socket_never_reconnects_by_itself(context: zmq.Context[Socket], kind: int) -> None:
    socket = client(context, kind)
    assert_bounded(socket)
    assert socket.getsockopt(zmq.HANDSHAKE_IVL) == made.HANDSHAKE_MS
    assert socket.getsockopt(zmq.CURVE_SERVER) == 0
    assert socket.getsockopt(zmq.RECONNECT_IVL) == NEVER_MS


def test_a_context_has_room_for_its_sockets_and_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(256, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
    try:
        context = new_context(io_threads=2)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert context.get(zmq.MAX_SOCKETS) == made.MAX_SOCKETS
        assert context.get(zmq.IO_THREADS) == 2
        context.term()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_routing_ids_start_elsewhere_in_each_process() -> None:
    """libzmq takes the first automatic routing id of a ROUTER from rand(): without srand it is the same everywhere."""
    program = (
        "import zmq\n"
        "from zcluster.net.context import new_context\n"
        "context = new_context()\n"
        "router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)\n"
        "router.bind('inproc://x'); dealer.connect('inproc://x'); dealer.send(b'')\n"
        "print(router.recv().hex())\n"
        "context.destroy(linger=0)\n"
    )
    ids = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(len(id_.strip()) == 10 for id_ in ids)
