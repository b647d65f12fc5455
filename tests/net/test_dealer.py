"""Why a connection of a link has ended: a server that says nothing is not one with another key."""

from __future__ import annotations

import socket

import pytest
import zmq

from zcluster.errors import NotAllowed, Unreachable, ZClusterError
from zcluster.keys import generate
from zcluster.net.context import new_context
from zcluster.net.dealer import Dealer

OWN, SERVER = generate(), generate()
PATIENCE_MS = 60_000


def reason_at(address: str) -> ZClusterError:
    """Why a connection to ``address`` ended."""
    context = new_context()
    keys = (OWN.secret.encode(), OWN.public.encode())
    line = Dealer.make(context, address, keys, SERVER.public, 65_536)
    try:
        line.connect(context, monitored=True)
        assert line.pair is not None
        assert line.pair.poll(PATIENCE_MS)
        return line.reason(line.event())
    finally:
        line.close()
        context.destroy(linger=0)


def test_a_server_that_says_nothing_may_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.net.context.HANDSHAKE_MS", 20)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system takes connections for it
        error = reason_at(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
    assert isinstance(error, Unreachable)
    assert "takes the connection and says nothing" in error.message
    assert "stopped or overloaded" in error.hint


def test_a_server_with_another_key_ends_the_handshake() -> None:
    context, other = new_context(), generate()
    router = context.socket(zmq.ROUTER)
    router.curve_server, router.curve_secretkey, router.curve_publickey = True, other.secret.encode(), other.public.encode()
    router.bind("tcp://127.0.0.1:*")
    try:
        error = reason_at(router.getsockopt_string(zmq.LAST_ENDPOINT))
    finally:
        context.destroy(linger=0)
    assert isinstance(error, Unreachable)
    assert "ended the connection during the handshake" in error.message
    assert "is its public key in the key file" in error.hint


def test_where_nobody_listens_and_where_the_key_is_refused_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"tcp://127.0.0.1:{gone.getsockname()[1]}"
    assert "no master listens" in reason_at(address).message
    context = new_context()
    line = Dealer.make(context, address, (OWN.secret.encode(), OWN.public.encode()), SERVER.public, 65_536)
    try:
        assert isinstance(line.reason(int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)), NotAllowed)
        line.secured = True
        assert "ended" in line.reason(int(zmq.EVENT_DISCONNECTED)).message
    finally:
        line.close()
        context.destroy(linger=0)
