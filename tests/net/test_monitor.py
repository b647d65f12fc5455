"""What the monitor tells of connections, and that it never holds up libzmq."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zmq

from zcluster.keys import generate
from zcluster.net.context import new_context
from zcluster.net.monitor import SERVER_EVENTS, read_event, watch

MakeWire = Callable[..., Any]


def test_the_reading_end_is_unbounded_so_that_it_cannot_stop_the_io_thread() -> None:
    context = new_context()
    socket = context.socket(zmq.DEALER)
    pair = watch(context, socket, SERVER_EVENTS)
    assert pair.getsockopt(zmq.RCVHWM) == 0
    assert pair.getsockopt(zmq.LINGER) == 0
    assert read_event(pair) is None
    socket.disable_monitor()
    for each in (socket, pair):
        each.close(linger=0)
    context.term()


def test_two_sockets_of_a_context_can_be_watched() -> None:
    context = new_context()
    sockets = [context.socket(zmq.DEALER) for _ in range(2)]
    pairs = [watch(context, socket, SERVER_EVENTS) for socket in sockets]
    assert all(read_event(pair) is None for pair in pairs)
    for socket in sockets:
        socket.disable_monitor()
    context.destroy(linger=0)


def test_nobody_listening_is_told_as_closed(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        wire.server.unbind(wire.address)
        _, events = wire.client()
        assert await events.next() == int(zmq.EVENT_CLOSED)
        wire.close()

    asyncio.run(main())


def test_the_server_is_told_the_descriptor_of_a_connection_that_began_and_ended(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        pair = generate()
        wire.admitted.add(pair.public)
        server_events = watch(wire.context, wire.server, SERVER_EVENTS)
        socket, _ = wire.client(pair)
        await wire.received.next()
        assert read_event(server_events) == (int(zmq.EVENT_ACCEPTED), wire.fds[0])
        socket.disable_monitor()
        socket.close(linger=0)
        assert server_events.poll(60_000)
        assert read_event(server_events) == (int(zmq.EVENT_DISCONNECTED), wire.fds[0])
        wire.server.disable_monitor()
        server_events.close(linger=0)
        wire.close()

    asyncio.run(main())
