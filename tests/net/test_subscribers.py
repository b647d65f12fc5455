"""Who may not subscribe (any more) hears nothing more, and nobody else is disturbed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from unittest.mock import Mock

import pytest
import zmq

from zcluster.keys import KeyPair, generate
from zcluster.net import subscribers as module
from zcluster.net.connections import REVOKED, SUBSCRIPTIONS, Connection, Expected
from zcluster.net.context import PUBLISH_DOMAIN, Socket, client_socket, new_context, server_socket
from zcluster.net.descriptors import Descriptors, Peer, Reserve
from zcluster.net.guard import Guard
from zcluster.net.monitor import LINK_EVENTS, SERVER_EVENTS, read_event, watch
from zcluster.net.reader import Reader
from zcluster.net.subscribers import Subscribers
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
        self.cuts: list[str] = []
        self.told: list[tuple[str, str]] = []
        everyone: Callable[[str], bool] = lambda public: True  # noqa: E731
        self._zap = Zap(self.loop, self.context, everyone, Mock(), logging.getLogger("t"), everyone)
        keys = (self.pair.secret.encode(), self.pair.public.encode())
        self.socket = server_socket(self.context, zmq.XPUB, *keys, max_bytes=1024, domain=PUBLISH_DOMAIN)
        events = watch(self.context, self.socket, SERVER_EVENTS)
        self._descriptors, self._reserve = Descriptors(), Reserve()
        self.guard = Guard(events, self._descriptors, self._reserve, Expected(), self.loop.time, self, lambda connection: None)
        self.socket.bind("tcp://127.0.0.1:*")
        port = int(self.socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self.subscribers = Subscribers(self.socket, port, self.guard, lambda public: public not in self.out)
        self._readers = [Reader(self.loop, self.socket, self._turn, asks=False), Reader(self.loop, events, self.guard.turn)]
        self._clients: list[Socket] = []

    def connection_cut(self, connection: Connection, reason: str) -> None:
        self.cuts.append(reason)
        self.told.append((connection.public, connection.address))

    def descriptors_exhausted(self) -> None:
        raise AssertionError("there are enough")

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
        return {connection.public for connection in self.guard.connections if not connection.cut}

    def close(self) -> None:
        self.socket.disable_monitor()
        for socket in self._clients:
            socket.disable_monitor()
            socket.close(linger=0)
        for reader in self._readers:
            reader.close()
        self.subscribers.close()
        self._zap.close()
        self._reserve.close()
        self._descriptors.close()
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
        publisher.subscribers.keys_changed(newcomers=False)
        await publisher.until(lambda: other["ended"])
        assert not one["ended"]
        assert publisher.known() == {stays.public}
        assert publisher.cuts == [REVOKED]

    run(test)


def test_who_was_cut_by_another_thread_is_told_of_once_known_or_not() -> None:
    async def test(publisher: Publisher) -> None:
        pair, guard = generate(), publisher.guard
        publisher.subscribe(pair)
        await publisher.until(lambda: publisher.known() == {pair.public})
        [known] = guard.connections
        cut = publisher.subscribers._rescue.cut
        for inode in (known.inode, known.inode, known.inode + 1):  # the last has the descriptor of one whose end is not known yet
            cut.append((known.fd, Peer(inode, "192.0.2.1")))
        cut.append((known.fd + 1000, Peer(1, "192.0.2.1")))
        publisher.subscribers.publish(b"topic", b"body")
        assert not cut
        assert publisher.told == [(pair.public, "127.0.0.1"), ("", "192.0.2.1"), ("", "192.0.2.1")]
        assert publisher.cuts == [SUBSCRIPTIONS] * 3
        guard._waiting = {5: 1, 6: 1}
        assert guard.fds() == {5, 6, known.fd}

    run(test)


def test_a_key_that_was_revoked_before_it_subscribed_is_cut_when_it_does() -> None:
    async def test(publisher: Publisher) -> None:
        pair = generate()
        publisher.out.add(pair.public)
        told = publisher.subscribe(pair)
        await publisher.until(lambda: told["ended"])
        assert publisher.known() == set()

    run(test)


@pytest.mark.parametrize(("bytes_", "ended"), [(5, False), (4, True)])
def test_topics_that_are_too_long_together_end_the_connection(bytes_: int, ended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOPICS_BYTES", bytes_)

    async def test(publisher: Publisher) -> None:
        told = publisher.subscribe(generate(), topics=5)
        if ended:
            await publisher.until(lambda: told["ended"])
            assert publisher.cuts == [SUBSCRIPTIONS]
        else:
            await publisher.until(lambda: [each.topic_bytes for each in publisher.guard.connections] == [5])
            assert not told["ended"]

    run(test)


def test_one_connection_too_many_of_a_key_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS_PER_KEY", 2)

    async def test(publisher: Publisher) -> None:
        pair, another = generate(), generate()
        first = publisher.subscribe(pair)
        publisher.subscribe(another)
        second = publisher.subscribe(pair)
        await publisher.until(lambda: publisher.guard.connections.of_key(pair.public) == 2)
        third = publisher.subscribe(pair)
        await publisher.until(lambda: third["ended"])
        assert not first["ended"]
        assert not second["ended"]
        await publisher.until(lambda: publisher.guard.connections.of_key(pair.public) == 2)
        assert publisher.guard.connections.of_key(another.public) == 1
        assert publisher.cuts == [SUBSCRIPTIONS]

    run(test)


def test_few_connections_of_a_key_are_let_in_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NEW_PER_KEY", 2)
    guard, out = Mock(), {"out"}
    guard.connections.of_key.side_effect = lambda public: module.MAX_CONNECTIONS_PER_KEY if public == "full" else 0
    subscribers = Subscribers(Mock(), 1, guard, lambda public: public not in out)
    subscribers.close()
    assert [subscribers.let_in("one", now) for now in (1.0, 2.0, 2.5)] == [True, True, False]
    assert subscribers.let_in("another", 2.5)
    assert not subscribers.let_in("full", 2.5)
    assert not subscribers.let_in("out", 2.5)
    assert not subscribers.let_in("one", 1.0 + module.NEW_S - 0.001)
    assert subscribers.let_in("one", 1.0 + module.NEW_S)
    assert not subscribers.let_in("one", 2.0 + module.NEW_S - 0.001)
    out.add("one")
    subscribers.keys_changed(newcomers=False)
    out.discard("one")
    assert subscribers.let_in("one", 2.0 + module.NEW_S - 0.001), "nothing of the key before is kept"


@pytest.mark.parametrize(("more", "ended"), [(0, False), (1, True)])
def test_too_many_subscriptions_end_the_connection(more: int, ended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SUBSCRIPTIONS", 5)

    async def test(publisher: Publisher) -> None:
        pair = generate()
        told = publisher.subscribe(pair, topics=5 + more)
        if ended:
            await publisher.until(lambda: told["ended"])
            assert publisher.cuts == [SUBSCRIPTIONS]
        else:
            await publisher.until(lambda: [each.count for each in publisher.guard.connections] == [5])
            assert not told["ended"]

    run(test)
