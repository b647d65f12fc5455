"""Who may not subscribe (any more) hears nothing more, and nobody else is disturbed."""

from __future__ import annotations

import asyncio
import logging
import os
import socket as sockets
from collections.abc import Awaitable, Callable

import pytest
import zmq

from zcluster.keys import KeyPair, generate
from zcluster.net import subscribers as module
from zcluster.net.context import PUBLISH_DOMAIN, Socket, client_socket, new_context, server_socket
from zcluster.net.monitor import LINK_EVENTS, read_event, watch
from zcluster.net.reader import Reader
from zcluster.net.subscribers import Subscribed, Subscribers
from zcluster.net.zap import Zap

PATIENCE_S = 60.0


class Publisher:
    """An XPUB with its Subscribers, and SUB sockets whose ends are noticed; make it inside a running loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.context = new_context()
        self.pair = generate()
        self.out: set[str] = set()
        self.changed = asyncio.Event()
        everyone: Callable[[str], bool] = lambda public: True  # noqa: E731
        self._zap = Zap(self.loop, self.context, everyone, lambda address, reason: None, logging.getLogger("t"), everyone)
        keys = (self.pair.secret.encode(), self.pair.public.encode())
        self.socket = server_socket(self.context, zmq.XPUB, *keys, max_bytes=1024, domain=PUBLISH_DOMAIN)
        self.subscribers = Subscribers(self.socket, lambda public: public not in self.out)
        self.socket.bind("tcp://127.0.0.1:*")
        self._readers = [Reader(self.loop, self.socket, self._turn)]
        self._clients: list[Socket] = []

    def subscribe(self, pair: KeyPair, topics: int = 1) -> dict[str, bool]:
        """Subscribe; the result says ``ended`` once its connection has."""
        keys = (pair.secret.encode(), pair.public.encode(), self.pair.public.encode())
        socket = client_socket(self.context, zmq.SUB, *keys, max_bytes=65_536)
        events = watch(self.context, socket, LINK_EVENTS)
        told = {"ended": False}

        def turn() -> bool:
            found = read_event(events)
            if found is not None and found[0] == zmq.EVENT_DISCONNECTED:
                told["ended"] = True
            self.changed.set()
            return found is not None

        for number in range(topics):
            socket.setsockopt(zmq.SUBSCRIBE, b"%d" % number)
        socket.connect(self.socket.getsockopt_string(zmq.LAST_ENDPOINT))
        self._readers.append(Reader(self.loop, events, turn))
        self._clients.append(socket)
        return told

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def known(self) -> set[str]:
        return {subscribed.public for subscribed in self.subscribers._by_fd.values()}

    def close(self) -> None:
        for socket in self._clients:
            socket.disable_monitor()
            socket.close(linger=0)
        for reader in self._readers:
            reader.close()
        self._zap.close()
        self.context.term()

    def _turn(self) -> bool:
        more = self.subscribers.turn()
        self.changed.set()
        return more


def run(test: Callable[[Publisher], Awaitable[None]]) -> None:
    async def main() -> None:
        publisher = Publisher()
        try:
            await test(publisher)
        finally:
            publisher.close()

    asyncio.run(main())


def test_the_connection_of_a_revoked_key_ends_at_once_and_no_other() -> None:
    async def test(publisher: Publisher) -> None:
        stays, goes = generate(), generate()
        one, other = publisher.subscribe(stays), publisher.subscribe(goes)
        await publisher.until(lambda: publisher.known() == {stays.public, goes.public})
        publisher.out.add(goes.public)
        publisher.subscribers.keys_changed()
        await publisher.until(lambda: other["ended"])
        assert not one["ended"]
        assert publisher.known() == {stays.public}

    run(test)


def test_a_key_that_was_revoked_before_it_subscribed_is_cut_when_it_does() -> None:
    async def test(publisher: Publisher) -> None:
        pair = generate()
        publisher.out.add(pair.public)
        told = publisher.subscribe(pair)
        await publisher.until(lambda: told["ended"])
        assert publisher.known() == set()

    run(test)


@pytest.mark.parametrize(("more", "ended"), [(0, False), (1, True)])
def test_too_many_subscriptions_end_the_connection(more: int, ended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SUBSCRIPTIONS", 5)

    async def test(publisher: Publisher) -> None:
        pair = generate()
        told = publisher.subscribe(pair, topics=5 + more)
        if ended:
            await publisher.until(lambda: told["ended"])
        else:
            await publisher.until(lambda: [each.count for each in publisher.subscribers._by_fd.values()] == [5])
            assert not told["ended"]

    run(test)


def is_same(fd: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.fstat(other))
    except OSError:
        return False  # that of the list itself


def test_a_descriptor_that_another_uses_now_is_left_alone() -> None:
    async def test(publisher: Publisher) -> None:
        mine, theirs = sockets.socketpair()
        publisher.subscribers._by_fd[mine.fileno()] = Subscribed("gone", ("127.0.0.1", 1))
        closed = os.dup(0)
        os.close(closed)
        publisher.subscribers._by_fd[closed] = Subscribed("gone", ("127.0.0.1", 1))
        file = os.open(__file__, os.O_RDONLY)
        publisher.subscribers._by_fd[file] = Subscribed("gone", ("127.0.0.1", 1))
        publisher.out.add("gone")
        publisher.subscribers.keys_changed()
        same = [fd for fd in map(int, os.listdir("/proc/self/fd")) if is_same(fd, file)]
        assert same == [file], "looking at it leaves nothing open"
        os.close(file)
        assert publisher.known() == set()
        mine.sendall(b"x")
        assert theirs.recv(1) == b"x"
        mine.close()
        theirs.close()

    run(test)
