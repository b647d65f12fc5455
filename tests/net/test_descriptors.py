"""Descriptors that belong to libzmq: looked at, ended, and never mistaken for others."""

from __future__ import annotations

import contextlib
import os
import resource
import socket as sockets
from collections.abc import Iterator

import pytest

from zcluster.net.descriptors import LOCAL, Descriptors, Reserve, plain_address


@pytest.fixture
def descriptors() -> Iterator[Descriptors]:
    before = os.listdir("/proc/self/fd")
    made = Descriptors()
    yield made
    made.close()
    assert os.listdir("/proc/self/fd") == before, "looking at them leaves nothing open"


@contextlib.contextmanager
def connected(family: sockets.AddressFamily, host: str) -> Iterator[tuple[sockets.socket, sockets.socket]]:
    with sockets.create_server((host, 0), family=family) as server, sockets.socket(family) as mine:
        mine.connect(server.getsockname())
        theirs, _ = server.accept()
        with theirs:
            yield mine, theirs


@pytest.mark.parametrize(("family", "host"), [(sockets.AF_INET, "127.0.0.1"), (sockets.AF_INET6, "::1")])
def test_a_connection_is_ended_for_both_ends(descriptors: Descriptors, family: sockets.AddressFamily, host: str) -> None:
    with connected(family, host) as (mine, theirs):
        mine.sendall(b"x" * 100)
        assert theirs.recv(60, sockets.MSG_WAITALL)
        peer = descriptors.peer(theirs.fileno())
        assert peer is not None
        assert peer.address == host
        assert descriptors.received_bytes(theirs.fileno()) == 100
        assert descriptors.unread_bytes(theirs.fileno()) == 40
        assert descriptors.end(theirs.fileno(), peer.inode)
        assert mine.recv(1) == b""
        assert theirs.fileno() >= 0, "the descriptor itself stays its owner's"


def test_a_unix_socket_has_an_inode_and_no_number_of_bytes(descriptors: Descriptors) -> None:
    mine, theirs = sockets.socketpair()
    with mine, theirs:
        ours = descriptors.peer(theirs.fileno())
        other = descriptors.peer(mine.fileno())
        assert ours is not None
        assert other is not None
        assert (ours.address, other.address) == (LOCAL, LOCAL)
        assert ours.inode != other.inode
        mine.sendall(b"abc")
        assert descriptors.received_bytes(theirs.fileno()) is None
        assert descriptors.unread_bytes(theirs.fileno()) == 3
        assert not descriptors.end(theirs.fileno(), other.inode), "it is another one than was meant"
        mine.sendall(b"d")
        assert descriptors.end(theirs.fileno(), ours.inode)
        with pytest.raises(BrokenPipeError):
            mine.sendall(b"e")


def test_what_is_no_connection_is_left_alone(descriptors: Descriptors) -> None:
    with open(__file__, "rb") as file, sockets.socket() as unconnected:
        closed = os.dup(0)
        os.close(closed)
        for fd in (closed, file.fileno(), unconnected.fileno()):
            assert descriptors.peer(fd) is None
        assert not descriptors.end(closed, 1)
        assert not descriptors.end(file.fileno(), os.fstat(file.fileno()).st_ino)
        assert descriptors.received_bytes(file.fileno()) is None
        assert (descriptors.received_bytes(closed), descriptors.unread_bytes(closed)) == (None, 0)
        assert file.read(3) == b'"""'


def test_a_connection_can_be_ended_when_there_are_no_descriptors_left(descriptors: Descriptors) -> None:
    with connected(sockets.AF_INET, "127.0.0.1") as (mine, theirs):
        peer = descriptors.peer(theirs.fileno())
        assert peer is not None
        with no_descriptors_left():
            assert descriptors.end(theirs.fileno(), peer.inode)
        assert mine.recv(1) == b""


def test_the_reserve_is_given_away_when_there_are_none_left_and_taken_back_after() -> None:
    reserve = Reserve(3)
    assert not reserve.look()
    with no_descriptors_left():
        assert reserve.look()
        assert reserve.given
        assert len(as_many_as_there_are()) == 3, "who could not be accepted can be now"
        held = as_many_as_there_are(close=False)
        os.close(held.pop())
        assert reserve.look(), "one is not enough to take it back"
        for fd in held:
            os.close(fd)
        assert not reserve.look()
        assert as_many_as_there_are() == []
    reserve.close()
    reserve.close()


def as_many_as_there_are(*, close: bool = True) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        while True:
            found.append(os.dup(0))
    if close:
        for fd in found:
            os.close(fd)
    return found


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 20, hard))
    taken = [lowest, *as_many_as_there_are(close=False)]
    try:
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("address", "plain"),
    [("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1"), ("192.0.2.1", "192.0.2.1"), ("localhost:0:0:11", LOCAL)],
)
def test_addresses_are_shown_as_people_write_them(address: str, plain: str) -> None:
    assert plain_address(address) == plain
