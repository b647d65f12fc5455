"""Who keeps the loop's thread in libzmq is cut by another thread."""

from __future__ import annotations

import contextlib
import os
import socket as sockets
import threading
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from zcluster.net import rescue as module
from zcluster.net.descriptors import Peer
from zcluster.net.rescue import SAYS_BYTES, Rescue

PATIENCE_S = 60.0


class Port:
    """A port with connections to it, like those of a publisher."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._server = stack.enter_context(sockets.create_server(("127.0.0.1", 0)))
        self.number: int = self._server.getsockname()[1]
        self.fds: set[int] = set()

    def connection(self) -> tuple[sockets.socket, int]:
        """The client's end, and the descriptor of ours."""
        client = self._stack.enter_context(sockets.create_connection(("127.0.0.1", self.number), PATIENCE_S))
        ours = self._stack.enter_context(self._server.accept()[0])
        self.fds.add(ours.fileno())
        return client, ours.fileno()


@pytest.fixture
def port() -> Iterator[Port]:
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as stack:
        yield Port(stack)
    assert len(os.listdir("/proc/self/fd")) == before


@contextlib.contextmanager
def rescue_of(port: Port) -> Iterator[Rescue]:
    rescue = Rescue(lambda: port.fds, port.number)
    try:
        yield rescue
    finally:
        rescue.close()


def ended(client: sockets.socket) -> bool:
    """Wait for its end."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_sends_too_much_while_a_call_goes_on_is_cut_and_who_does_not_is_not(port: Port) -> None:
    with rescue_of(port) as rescue:
        honest, _ = port.connection()
        honest.sendall(bytes(SAYS_BYTES))
        hostile, fd = port.connection()
        inode = os.fstat(fd).st_ino
        with rescue:
            hostile.sendall(bytes(SAYS_BYTES + 1))
            assert ended(hostile)
        rescue.close()
        assert list(rescue.cut) == [(fd, Peer(inode, "127.0.0.1"))]
        honest.setblocking(False)
        with pytest.raises(BlockingIOError):
            honest.recv(1)


def test_who_sends_on_and_on_and_is_read_is_cut_too(port: Port) -> None:
    with rescue_of(port) as rescue:
        hostile, fd = port.connection()
        with rescue, contextlib.suppress(ConnectionError):
            while True:
                hostile.sendall(bytes(64))
                os.read(fd, 64)  # nothing waits for long
        rescue.close()
        assert [each for each, _ in rescue.cut] == [fd]


def test_what_was_sent_before_is_no_reason(port: Port) -> None:
    with rescue_of(port) as rescue:
        talker, fd = port.connection()
        talker.sendall(bytes(10 * SAYS_BYTES))
        left = 10 * SAYS_BYTES
        while left:
            left -= len(os.read(fd, left))
        hostile, _ = port.connection()
        hostile.sendall(bytes(SAYS_BYTES + 1))
        with rescue:
            assert ended(hostile)
        rescue.close()
        assert fd not in [each for each, _ in rescue.cut]


def test_a_descriptor_that_is_no_connection_of_this_port_is_left_alone(port: Port) -> None:
    with contextlib.ExitStack() as stack:
        other = Port(stack)
        stranger, fd = other.connection()
        stranger.sendall(bytes(SAYS_BYTES + 1))
        port.fds.add(fd)
        mine, theirs = sockets.socketpair()
        stack.enter_context(mine)
        stack.enter_context(theirs)
        mine.sendall(bytes(SAYS_BYTES + 1))
        port.fds.add(theirs.fileno())
        hostile, hostile_fd = port.connection()
        hostile.sendall(bytes(SAYS_BYTES + 1))
        with rescue_of(port) as rescue, rescue:
            assert ended(hostile)
        assert [each for each, _ in rescue.cut] == [hostile_fd]


def test_a_thread_that_could_cut_nobody_is_not_begun(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Descriptors", Mock(side_effect=OSError("none left")))
    before = threading.active_count()
    with pytest.raises(OSError, match="none left"):
        Rescue(lambda: port.fds, port.number)
    assert threading.active_count() == before
