"""A subscriber that never reads costs the publisher a bounded amount of memory, and delays nobody."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from unittest.mock import Mock

import zmq

from zcluster.keys import generate
from zcluster.net.context import PUBLISH_DOMAIN, client_socket, new_context, server_socket
from zcluster.net.zap import Zap

FRAME_BYTES = 65_536
FRAMES = 3000
ALLOWED_BYTES = 64 * 1024 * 1024
"""Far below what is published (192 MiB), far above what the queues hold."""
PATIENCE_S = 60.0


def test_memory_is_bounded_and_others_get_everything_they_read() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = new_context()
        pair = generate()
        everyone = lambda public: True  # noqa: E731
        zap = Zap(loop, context, everyone, Mock(), logging.getLogger("test"), everyone)
        keys = (pair.secret.encode(), pair.public.encode())
        publisher = server_socket(context, zmq.XPUB, *keys, max_bytes=1024, domain=PUBLISH_DOMAIN)
        publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
        publisher.bind("tcp://127.0.0.1:*")
        address = publisher.getsockopt_string(zmq.LAST_ENDPOINT)
        sockets = []
        for _ in range(2):
            own = generate()
            secret, public = own.secret.encode(), own.public.encode()
            socket = client_socket(context, zmq.SUB, secret, public, pair.public.encode(), max_bytes=1 << 20)
            socket.setsockopt(zmq.SUBSCRIBE, b"table.t")
            socket.connect(address)
            sockets.append(socket)
            await arrives(publisher)
        _never_reads, reads = sockets
        before = resident_bytes()
        for _ in range(FRAMES):
            publisher.send_multipart([b"table.t", os.urandom(FRAME_BYTES)], zmq.NOBLOCK)
            await arrives(reads)
        assert resident_bytes() - before < ALLOWED_BYTES
        for socket in sockets:
            socket.close(linger=0)
        publisher.close(linger=0)
        zap.close()
        context.term()

    asyncio.run(main())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def arrives(socket: zmq.Socket[bytes]) -> None:
    """Wait for the next message."""
    async with asyncio.timeout(PATIENCE_S):
        while not socket.poll(0):  # noqa: ASYNC110
            await asyncio.sleep(0)
    socket.recv_multipart()
