"""Looking at the file descriptors that libzmq owns, and ending the connections behind them.

Rules kept here:
- what is behind a descriptor is told by its inode, which no two open sockets share: a number may have been closed and used again
  since it was told. A connection is ended only while the inode is still the one it had when it was accepted;
- libzmq's own descriptor is never closed: it is copied, the copy is looked at, shut down, reset and let go. libzmq then meets the
  end of the stream, and cleans up as for any connection that ended. Without the reset the other side's data go on coming: who
  sends faster than libzmq reads would never be cut, and one whose end libzmq does not look at would stay for ever;
- the copy has a place that is kept for it: a connection can be ended when there are no descriptors left.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import socket as sockets
import struct
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass

LOCAL = "local"
"""The address of who came by a Unix socket."""
MAPPED = "::ffff:"
_NOWHERE = bytes(16)
"""An address of the family AF_UNSPEC: a TCP socket that is connected there is reset, for all who hold it (connect(2))."""
_TCP_INFO = 11
_BYTES_RECEIVED_AT = 128
"""Offset of tcpi_bytes_received in struct tcp_info (linux/tcp.h, since Linux 4.1)."""
_TCP_INFO_BYTES = _BYTES_RECEIVED_AT + 8


@dataclass(frozen=True)
class Peer:
    """What is behind a descriptor: its inode, and the other end's IP address (or LOCAL)."""

    inode: int
    address: str


RESERVE = 8


class Descriptors:
    """Looks at descriptors of this process; keeps two for itself."""

    def __init__(self) -> None:
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._place = os.dup(self._null)
        system = ctypes.CDLL(None)
        self._getsockopt, self._connect = system.getsockopt, system.connect
        self._info = ctypes.create_string_buffer(_TCP_INFO_BYTES)

    def close(self) -> None:
        """Give the two back."""
        for fd in (self._null, self._place):
            os.close(fd)

    def peer(self, fd: int) -> Peer | None:
        """What is behind ``fd``; None when it is no connected socket."""
        with self._copy(fd) as copy, contextlib.suppress(OSError):
            if copy is not None:
                return Peer(os.fstat(self._place).st_ino, _address(copy))
        return None

    def peer_at(self, fd: int, port: int) -> Peer | None:
        """What is behind ``fd``, if that is a TCP connection which came to ``port`` of this machine."""
        with self._copy(fd) as copy, contextlib.suppress(OSError):
            if copy is not None and copy.family != sockets.AF_UNIX and copy.getsockname()[1] == port:
                return Peer(os.fstat(self._place).st_ino, _address(copy))
        return None

    def end(self, fd: int, inode: int) -> bool:
        """End the connection behind ``fd`` if it is still the one of ``inode``; returns whether it was."""
        with self._copy(fd) as copy:
            if copy is None or os.fstat(self._place).st_ino != inode:
                return False
            with contextlib.suppress(OSError):  # it has just ended by itself
                copy.shutdown(sockets.SHUT_RDWR)
                if copy.family != sockets.AF_UNIX:
                    self._connect(self._place, _NOWHERE, len(_NOWHERE))
            return True

    def received_bytes(self, fd: int) -> int | None:
        """How many bytes have come by TCP to whatever is behind ``fd``; None when there is no such number (a Unix socket)."""
        length = ctypes.c_uint(_TCP_INFO_BYTES)
        if self._getsockopt(fd, sockets.IPPROTO_TCP, _TCP_INFO, self._info, ctypes.byref(length)) != 0:
            return None
        if length.value < _TCP_INFO_BYTES:
            return None
        return int.from_bytes(self._info.raw[_BYTES_RECEIVED_AT:], sys.byteorder)

    def unread_bytes(self, fd: int) -> int:
        """How many bytes have come and were not read yet."""
        try:
            (unread,) = struct.unpack("=i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
        except OSError:
            return 0  # closed meanwhile
        return int(unread)

    @contextlib.contextmanager
    def _copy(self, fd: int) -> Iterator[sockets.socket | None]:
        """A copy of ``fd`` at its place, None when it is not open or no socket."""
        try:
            os.dup2(fd, self._place, inheritable=False)
        except OSError:
            yield None
            return
        try:
            own = sockets.socket(fileno=self._place)
        except OSError:
            own = None
        try:
            yield own
        finally:
            if own is not None:
                own.detach()
            os.dup2(self._null, self._place, inheritable=False)


class Reserve:
    """Descriptors that are kept for when there are none left: libzmq's listener, which cannot accept then, tries without a pause.

    Given away they let it accept who waits, so that these can be turned away; they are taken back as soon as others are free.
    """

    def __init__(self, count: int = RESERVE) -> None:
        self._count = count
        self._kept = _opened(count)
        self.given = False
        """Whether it is given away."""

    def look(self) -> bool:
        """Whether there are no descriptors left; gives the reserve away, or takes it back."""
        if self.given:
            self._kept = _opened(self._count)
            self.given = len(self._kept) < self._count
        else:
            probe = _opened(1)
            self.given = not probe
            _close(probe)
        if self.given:
            self.close()
        return self.given

    def close(self) -> None:
        """Give it away."""
        kept, self._kept = self._kept, []
        _close(kept)


def _opened(count: int) -> list[int]:
    """As many new descriptors as can be had, ``count`` at most."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        while len(found) < count:
            found.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    return found


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def descriptor_limit() -> int:
    """How many descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def plain_address(address: str) -> str:
    """An IP address, or what libzmq says of a peer, as people write it: no IPv4 address in the form of IPv6, LOCAL."""
    if address.startswith("localhost:"):
        return LOCAL
    return address.removeprefix(MAPPED)


def _address(connected: sockets.socket) -> str:
    peer = connected.getpeername()
    return plain_address(peer[0]) if isinstance(peer, tuple) else LOCAL
