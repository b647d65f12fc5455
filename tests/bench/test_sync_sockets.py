"""What the connections of a process have carried, as the kernel says."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from zcluster.bench import sockets
from zcluster.bench.sockets import carried_bytes

GONE_PID = 2**22 + 1
SENT_BYTES = 100_000


def test_bytes_of_own_connections_are_counted_and_of_others_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            before = carried_bytes([os.getpid()])
            client.sendall(b"x" * SENT_BYTES)
            left = SENT_BYTES
            while left:
                left -= len(peer.recv(left))
            after = carried_bytes([os.getpid(), GONE_PID])
    assert before is not None
    assert after is not None
    # received for certain; sent as far as it was acknowledged by then
    assert SENT_BYTES <= after - before <= 2 * SENT_BYTES
    assert carried_bytes([GONE_PID]) == 0
    assert carried_bytes([]) == 0


def test_a_kernel_that_does_not_tell_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket():
        monkeypatch.setattr(sockets, "NETLINK_SOCK_DIAG", 1)  # no such protocol
        assert carried_bytes([os.getpid()]) is None


def test_a_message_without_the_figures_counts_nothing() -> None:
    head = bytes(68) + struct.pack("=I", 7)
    info = bytes(120) + struct.pack("=QQ", 5, 6)

    def attribute(kind: int, body: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)

    assert list(sockets._carried(head)) == []
    assert list(sockets._carried(head + attribute(2, info[:-1]))) == []
    assert list(sockets._carried(head + attribute(1, b"abc") + attribute(2, info))) == [(7, 5, 6)]
    assert list(sockets._carried(head + struct.pack("=HH", 0, 2))) == []
