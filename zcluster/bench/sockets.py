"""What the TCP connections of processes have carried, as their kernel counts it.

Rules kept here:
- only connections of the processes asked about are counted, so that other traffic of the machine is in no figure;
- the figure is bytes of the connections' streams, encrypted as they went, both ways, without the headers of IP and TCP;
- where the kernel does not tell, the answer is None.

See sock_diag(7) and struct tcp_info in linux/tcp.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST_DUMP = 0x301
INET_DIAG_INFO = 2
ALL_STATES = 0xFFFFFFFF
BUFFER_BYTES = 1024 * 1024
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48x")
_INODE_AT, _MESSAGE_BYTES = 68, 72
_ATTRIBUTE = struct.Struct("=HH")
_CARRIED = struct.Struct("=QQ")
_CARRIED_AT = 120
"""Where struct tcp_info has tcpi_bytes_acked and tcpi_bytes_received."""


def carried_bytes(pids: Iterable[int]) -> int | None:
    """Bytes that the open TCP connections of the processes have sent and received; None where the kernel does not tell.

    Bytes that the other side has not acknowledged yet are not among them.
    """
    both = _both_ways(pids)
    return None if both is None else sum(both)


def sent_bytes(pids: Iterable[int]) -> int | None:
    """As carried_bytes, those that the processes have sent."""
    both = _both_ways(pids)
    return None if both is None else both[0]


def _both_ways(pids: Iterable[int]) -> tuple[int, int] | None:
    """Bytes sent and received."""
    inodes = {inode for pid in pids for inode in _socket_inodes(pid)}
    if not inodes:
        return 0, 0
    try:
        found = [(sent, received) for inode, sent, received in _connections() if inode in inodes]
    except OSError:
        return None
    return sum(sent for sent, _ in found), sum(received for _, received in found)


def _socket_inodes(pid: int) -> Iterator[int]:
    try:
        with os.scandir(f"/proc/{pid}/fd") as found:
            for entry in found:
                try:
                    target = os.readlink(entry.path)
                except FileNotFoundError:
                    continue
                if target.startswith("socket:["):
                    yield int(target[8:-1])
    except (FileNotFoundError, ProcessLookupError):
        return  # the process is gone


def _connections() -> Iterator[tuple[int, int, int]]:
    """(inode, bytes sent, bytes received) of each TCP connection of this network namespace. libzmq's sockets are of IPv6,
    whatever the address."""
    if not hasattr(socket, "AF_NETLINK"):
        raise OSError("no netlink")
    for family in (socket.AF_INET, socket.AF_INET6):
        yield from _of_family(family)


def _of_family(family: int) -> Iterator[tuple[int, int, int]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(5.0)
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0, ALL_STATES)
        sock.send(_HEADER.pack(_HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 1, 0) + body)
        while True:
            for kind, message in _messages(sock.recv(BUFFER_BYTES)):
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    raise OSError("the kernel does not list its sockets")
                yield from _carried(message)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, _flags, _sequence, _pid = _HEADER.unpack_from(data, at)
        if size < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + size]
        at += (size + 3) & ~3


def _carried(message: bytes) -> Iterator[tuple[int, int, int]]:
    [inode] = struct.unpack_from("=I", message, _INODE_AT)
    at = _MESSAGE_BYTES
    while at + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if size < _ATTRIBUTE.size:
            return
        if kind == INET_DIAG_INFO and size >= _ATTRIBUTE.size + _CARRIED_AT + _CARRIED.size:
            sent, received = _CARRIED.unpack_from(message, at + _ATTRIBUTE.size + _CARRIED_AT)
            yield inode, sent, received
        at += (size + 3) & ~3
