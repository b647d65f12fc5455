"""A bound server socket gets another CURVE key: new connections need it, those that are there go on.

libzmq takes over a socket's keys when it begins to listen, and ends every accepted connection when it unbinds (measured, 4.3.5).
So nothing is unbound. A second listening socket of our own at the same address is given to libzmq (ZMQ_USE_FD) with the new key,
and the kernel is told to bring all new connections there: both are one group (SO_REUSEPORT), of which a filter of one instruction
chooses the newest. The older listening sockets stay, and hear nothing any more.

Rules kept here:
- an address that is not ours alone is never opened: SO_REUSEPORT is set on what is listening already, so that a program that does
  not ask for it cannot listen there, and neither can one of another user;
- what fails leaves the older key in use, and says so.
"""

from __future__ import annotations

import ctypes
import os
import socket as sockets
import struct

import zmq

from zcluster.errors import Unreachable
from zcluster.net.context import BACKLOG, Socket

ATTACH_REUSEPORT_CBPF = 51
"""SO_ATTACH_REUSEPORT_CBPF of asm-generic/socket.h; Python has no name for it."""
BPF_RETURN = 0x06
MAX_KEYS = 64
"""How often one socket gets another key: each time costs a descriptor until the process ends."""


class Rebinding:
    """The listening sockets of one bound ZeroMQ socket at one address.

    Args:
        endpoint: where it listens; empty: where it began to listen last.
    """

    def __init__(self, socket: Socket, endpoint: str = "") -> None:
        self._socket = socket
        self._endpoint = endpoint
        self._count = 1
        self._grouped = False

    def rekey(self, public: str, secret: str) -> None:
        """Have new connections meet this key from now on.

        Raises:
            Unreachable: the system does not let us; the older key stays in use.
        """
        socket = self._socket
        self._endpoint = self._endpoint or socket.getsockopt_string(zmq.LAST_ENDPOINT)
        # What listens already has its own copy of the key: until there is another listener this changes nothing.
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public.encode())
        try:
            if self._endpoint.startswith("tcp://"):
                self._listen_beside()
            else:
                socket.bind(self._endpoint)  # of a path: the new one takes the name, the older listens at none
        except (OSError, zmq.ZMQError) as error:
            raise Unreachable(
                f"the key of {self._endpoint} cannot be changed while it listens: {error.strerror}",
                hint="restart the process: it listens with the new key then",
            ) from None

    def _listen_beside(self) -> None:
        if self._count >= MAX_KEYS:
            raise OSError(0, f"it was changed {self._count} times already")
        with _listening_at(self._endpoint) as older:
            if not self._grouped:
                older.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEPORT, 1)
                self._grouped = True
            family, name = older.family, older.getsockname()
            only = older.getsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY) if family == sockets.AF_INET6 else None
        with sockets.socket(family, sockets.SOCK_STREAM) as newer:
            newer.setblocking(False)
            for option in (sockets.SO_REUSEADDR, sockets.SO_REUSEPORT):
                newer.setsockopt(sockets.SOL_SOCKET, option, 1)
            if only is not None:
                newer.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, only)
            if (buffer_bytes := int(self._socket.getsockopt(zmq.RCVBUF))) >= 0:  # libzmq sets it for its own only
                newer.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, buffer_bytes)
            newer.bind(name)
            newer.listen(BACKLOG)
            _choose(newer, self._count)
            fd = os.dup(newer.fileno())
            try:
                self._socket.setsockopt(zmq.USE_FD, fd)  # libzmq closes it
                self._socket.bind(self._endpoint)
            except zmq.ZMQError:
                _choose(newer, self._count - 1)  # or the kernel would bring some to those before the last one
                os.close(fd)  # it was not taken: nobody would read what comes there
                raise
            finally:
                self._socket.setsockopt(zmq.USE_FD, -1)
        self._count += 1


def _listening_at(endpoint: str) -> sockets.socket:
    """One of this process's sockets that listen at the port of ``endpoint``.

    Raises:
        OSError: there is none.
    """
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    for name in os.listdir("/proc/self/fd"):
        try:
            looked_at = sockets.socket(fileno=int(name))
        except OSError:
            continue  # no socket, or closed meanwhile
        try:
            if _listens(looked_at, host.strip("[]"), int(port)):
                return looked_at.dup()
        finally:
            looked_at.detach()  # it is libzmq's, or another's
    raise OSError(0, "its socket was not found")


def _listens(socket: sockets.socket, host: str, port: int) -> bool:
    if socket.family not in (sockets.AF_INET, sockets.AF_INET6):
        return False
    try:
        return bool(socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_ACCEPTCONN)) and socket.getsockname()[:2] == (host, port)
    except OSError:
        return False


def _choose(socket: sockets.socket, index: int) -> None:
    """Have the group of ``socket`` bring new connections to its member ``index``, by the order in which they came."""
    filter_ = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, index))
    socket.setsockopt(sockets.SOL_SOCKET, ATTACH_REUSEPORT_CBPF, struct.pack("HP", 1, ctypes.addressof(filter_)))
