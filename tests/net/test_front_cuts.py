"""Connections of a Front, with real sockets: who is cut, why, and who is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket as sockets
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from zcluster.keys import KeyPair, generate
from zcluster.net import connections, front, guard
from zcluster.net.connections import CROWD, FAULTS, NO_SESSION, REVOKED, STALLED, Connection
from zcluster.net.context import Socket, client_socket, new_context, readable
from zcluster.net.front import Front, FrontKeys
from zcluster.net.monitor import LINK_EVENTS, read_event, watch
from zcluster.net.reader import Reader
from zcluster.net.stalled import FORGIVEN_BYTES, SLACK_BYTES, SUBSCRIBER_BYTES, Growth
from zcluster.wire import Bye

PATIENCE_S = 60.0
FRAME_BYTES = 65_536
PART = bytes(60_000)
"""A frame that may be sent: encrypted it is longer."""
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(47)


class House:
    """A Front that admits everyone who is not ``out``, and its clients; make it inside a running loop."""

    def __init__(self, local: Path | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.contexts = [new_context(), new_context()]
        self.pair = generate()
        self.out: set[str] = set()
        self.sessions: set[bytes] = set()
        self.heard: list[tuple[str, int]] = []
        self.malformed: list[bytes] = []
        self.cuts: list[tuple[str, str, str]] = []
        self.exhausted = 0
        self.changed = asyncio.Event()
        self.front = Front(
            self.contexts[0], self, FrontKeys(self.pair.public, self.pair.secret), "tcp://127.0.0.1:*", "tcp://127.0.0.1:*",
            FRAME_BYTES, logging.getLogger("test"), self, subscribes=self.front_admits, local=local,
        )  # fmt: skip
        publisher = self.front._publisher
        assert publisher is not None
        self.published_at = publisher.getsockopt_string(zmq.LAST_ENDPOINT)
        self.readers: list[Reader] = []
        self.clients: list[Socket] = []

    # the front's owner

    def front_message(self, route: bytes, public: str, data: bytes) -> None:
        if data == b"hello":
            self.sessions.add(route)
        self.heard.append((public, len(data)))
        self.changed.set()

    def front_malformed(self, route: bytes, public: str, reason: str) -> None:
        self.malformed.append(route)
        self.changed.set()

    def front_disconnected(self, route: bytes) -> None:
        if route in self.sessions:
            self.heard.append(("gone", 0))
        self.sessions.discard(route)
        self.changed.set()

    def front_unblocked(self, route: bytes) -> None:
        raise AssertionError("nothing is sent here")

    def front_turn_over(self) -> None:
        self.changed.set()

    def front_admits(self, public: str) -> bool:
        return public not in self.out

    def front_has_session(self, route: bytes) -> bool:
        return route in self.sessions

    def front_look(self) -> None:
        self.changed.set()

    # who hears of those that are turned away

    def denied(self, address: str, reason: str) -> None:
        self.changed.set()

    def unknown_key(self, public: str, address: str) -> str:
        return ""

    def limited(self) -> None:
        raise AssertionError("so many are not tried here")

    def connection_cut(self, connection: Connection, reason: str) -> None:
        self.cuts.append((reason, connection.public, connection.address))

    def descriptors_exhausted(self) -> None:
        self.exhausted += 1
        self.changed.set()

    # clients

    def client(self, pair: KeyPair, kind: int = zmq.DEALER, address: str = "", says: bytes | None = b"hello") -> dict[str, bool]:
        """A client that says one thing or nothing; the result tells whether it is ``in``, and whether it was ``ended``."""
        keys = (pair.secret.encode(), pair.public.encode(), self.pair.public.encode())
        socket = client_socket(self.contexts[1], kind, *keys, max_bytes=FRAME_BYTES)
        events = watch(self.contexts[1], socket, LINK_EVENTS)
        told = {"in": False, "ended": False}

        def turn() -> bool:
            found = read_event(events)
            if found is not None:
                told["in" if found[0] == zmq.EVENT_HANDSHAKE_SUCCEEDED else "ended"] = True
                self.changed.set()
            return found is not None

        socket.connect(address or (self.front.endpoint if kind == zmq.DEALER else self.published_at))
        if says is not None:
            socket.send(says)
        self.readers.append(Reader(self.loop, events, turn))
        self.clients.append(socket)
        return told

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def known(self, of_publisher: bool = False) -> list[str]:
        """The keys of the connections that are known and not cut."""
        table = self.front._pulse._subscribers if of_publisher else self.front._sessions
        assert table is not None
        return sorted(each.public for each in table.connections if not each.cut)

    def plain(self) -> sockets.socket:
        """A socket connected to the front's port, which says nothing by itself."""
        return sockets.create_connection(("127.0.0.1", self.front.port), PATIENCE_S)

    def close(self) -> None:
        for client in self.clients:
            client.disable_monitor()
            client.close(linger=0)
        for reader in self.readers:
            reader.close()
        self.front.close(0)
        for each in self.contexts:
            each.term()


def run(test: Callable[[House], Coroutine[Any, Any, None]], local: Path | None = None) -> None:
    async def main() -> None:
        house = House(local)
        try:
            await test(house)
        finally:
            house.close()

    asyncio.run(main())


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pulse looks at bytes, however little memory has grown."""
    monkeypatch.setattr(Growth, "due", lambda *_args, **_kwargs: True)


class Relay:
    """Carries a connection to ``port``, and of what its client says no more than ``most_bytes``: its message has no end."""

    def __init__(self, port: int, most_bytes: int) -> None:
        self._port, self._left = port, most_bytes
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, there]
        answers = asyncio.ensure_future(self._answers(back, writer))
        with contextlib.suppress(ConnectionError):
            while self._left and (data := await reader.read(min(self._left, 65_536))):
                self._left -= len(data)
                there.write(data)
                await there.drain()
        await answers

    async def _answers(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await back.read(65_536):
                writer.write(data)
        writer.close()

    def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()


def test_all_connections_of_a_revoked_key_are_cut_and_no_others() -> None:
    async def test(house: House) -> None:
        stays, goes = generate(), generate()
        kept = [house.client(stays), house.client(stays, zmq.XSUB, says=b"\1t")]
        lost = [house.client(goes), house.client(goes), house.client(goes, zmq.XSUB, says=b"\1t")]
        await house.until(lambda: len(house.known()) == 3 and "" not in house.known())
        await house.until(lambda: len(house.known(True)) == 2 and "" not in house.known(True))
        house.out.add(goes.public)
        house.front.keys_changed(house.front_admits)
        await house.until(lambda: all(told["ended"] for told in lost))
        await house.until(lambda: len(house.sessions) == 1)
        assert not any(told["ended"] for told in kept)
        assert house.known() == house.known(True) == [stays.public]
        assert house.cuts == [(REVOKED, goes.public, "127.0.0.1")] * 3

    run(test)


@pytest.mark.parametrize("noticed", ["monitor", "send"])
def test_what_was_said_before_the_end_is_heard_before_it(noticed: str) -> None:
    async def test(house: House) -> None:
        house.client(generate())
        await house.until(lambda: len(house.heard) == 1)
        (route,) = house.sessions
        client = house.clients.pop()
        for size in (1, 2, 3):
            client.send(bytes(size))
        client.disable_monitor()
        client.close(linger=int(PATIENCE_S * 1000))
        # Nothing of the loop runs meanwhile: all has come when the end has.
        assert house.front._pairs[0].poll(int(PATIENCE_S * 1000))
        if noticed == "monitor":
            house.front._sessions.turn()
        else:
            while not house.front._last_words:
                readable(house.front._router)
                house.front.send(route, Bye(), [])
        await house.until(lambda: not house.sessions)
        assert [size for _, size in house.heard] == [5, 1, 2, 3, 0]

    run(test)


def test_who_is_cut_for_its_faults_is_told_and_not_heard_any_more() -> None:
    async def test(house: House) -> None:
        pair = generate()
        told, other = house.client(pair), house.client(generate())
        await house.until(lambda: len(house.heard) == 2)
        (route,) = [route for route, each in house.front._by_route.items() if each.public == pair.public]
        house.front.send(route, Bye(code="busy"), [])
        house.front.cut(route, FAULTS)
        house.front.cut(route, FAULTS)  # twice is once
        house.clients[0].send(b"more")
        await house.until(lambda: told["ended"])
        assert b"busy" in house.clients[0].recv(zmq.NOBLOCK)
        house.clients[1].send(b"still here")
        await house.until(lambda: len(house.heard) >= 4)
        assert sorted(size for _, size in house.heard) == [0, 5, 5, 10], "the hellos, one end, and who is still here"
        assert house.cuts == [(FAULTS, pair.public, "127.0.0.1")]
        assert not other["ended"]
        house.front.cut(route, FAULTS)  # it is gone already

    run(test)


def test_who_says_nothing_but_several_frames_can_be_cut() -> None:
    async def test(house: House) -> None:
        pair = generate()
        told = house.client(pair, says=None)
        house.clients[0].send_multipart([b"two", b"frames"])
        await house.until(lambda: len(house.malformed) == 1)
        house.front.cut(house.malformed[0], FAULTS)
        await house.until(lambda: told["ended"])
        assert house.cuts == [(FAULTS, pair.public, "127.0.0.1")]

    run(test)


def test_at_the_farewell_nobody_waits_for_who_has_gone_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "FAREWELL_S", PATIENCE_S)

    async def test(house: House) -> None:
        house.client(generate())
        await house.until(lambda: len(house.heard) == 1)
        client = house.clients.pop()
        client.send(b"more")
        client.disable_monitor()
        client.close(linger=int(PATIENCE_S * 1000))
        # Nothing of the loop runs meanwhile: all has come when the end has.
        assert house.front._pairs[0].poll(int(PATIENCE_S * 1000))
        house.front._sessions.turn()
        assert house.front._last_words
        began_s = house.loop.time()
        await house.front.farewell()
        assert house.loop.time() - began_s < PATIENCE_S, "it waited for nobody"
        assert [size for _, size in house.heard] == [5], "the owner hears of nobody any more"

    run(test)


def test_a_change_that_takes_nothing_from_anybody_cuts_nobody() -> None:
    async def test(house: House) -> None:
        told = [house.client(generate(), says=None), house.client(generate())]
        await house.until(lambda: all(each["in"] for each in told) and len(house.heard) == 1)
        house.out.add(generate().public)
        house.front.keys_changed(house.front_admits)
        assert [each["ended"] for each in told] == [False, False]
        assert house.cuts == []

    run(test)


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.XSUB])
def test_a_revoked_key_that_has_said_nothing_is_cut_with_the_newcomers(kind: int) -> None:
    async def test(house: House) -> None:
        silent, friend = generate(), generate()
        told = [house.client(silent, kind, says=None), house.client(friend)]
        await house.until(lambda: told[0]["in"] and len(house.heard) == 1)
        house.out.add(silent.public)
        house.front.keys_changed(house.front_admits)
        await house.until(lambda: told[0]["ended"])
        assert house.cuts == [(REVOKED, "", "127.0.0.1")]
        assert not told[1]["ended"]

    run(test)


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.XSUB])
def test_who_says_nothing_is_cut_and_who_has_a_session_is_not(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(house: House) -> None:
        friend = house.client(generate())
        await house.until(lambda: len(house.heard) == 1)
        silent = house.client(generate(), kind, says=None)
        await house.until(lambda: silent["in"])
        assert house.cuts == []
        monkeypatch.setattr(connections, "NEWCOMER_S", 0.0)
        monkeypatch.setattr(connections, "SESSION_S", 0.0)
        await house.until(lambda: silent["ended"])
        assert house.cuts == [(NO_SESSION, "", "127.0.0.1")]
        assert not friend["ended"]

    run(test)


def test_who_says_something_and_opens_no_session_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(house: House) -> None:
        pair = generate()
        told = house.client(pair, says=b"nonsense")
        await house.until(lambda: len(house.heard) == 1)
        monkeypatch.setattr(connections, "SESSION_S", 0.0)
        await house.until(lambda: told["ended"])
        assert house.cuts == [(NO_SESSION, pair.public, "127.0.0.1")]

    run(test)


@pytest.mark.parametrize("says", [b"", GREETING, b"GET / HTTP/1.1\r\n\r\n", bytes(300)], ids=["idle", "half", "http", "zeros"])
def test_what_becomes_no_handshake_is_ended(says: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "NEWCOMER_S", 0.0)

    async def test(house: House) -> None:
        with house.plain() as plain:
            plain.sendall(says)
            plain.setblocking(False)
            while await asyncio.wait_for(house.loop.sock_recv(plain, 4096), PATIENCE_S):
                continue
        await house.until(lambda: house.known() == [])
        assert house.cuts in ([], [(NO_SESSION, "", "127.0.0.1")]), "libzmq ends some of them itself"

    with contextlib.suppress(ConnectionResetError):  # it ended with bytes of ours unread
        run(test)


@pytest.mark.usefixtures("looks")
def test_a_message_without_an_end_is_cut_and_others_go_on() -> None:
    async def test(house: House) -> None:
        friend = house.client(generate())
        # What has come when the hello arrives is taken for libzmq's own talk (FORGIVEN_BYTES), which a slow look makes much.
        most_bytes = 4 * FRAME_BYTES + SLACK_BYTES + FORGIVEN_BYTES
        relay = Relay(house.front.port, most_bytes)
        pair = generate()
        told = house.client(pair, address=await relay.start())
        await house.until(lambda: len(house.heard) == 2)
        house.clients[-1].send_multipart([PART] * (most_bytes // len(PART) + 1))
        await house.until(lambda: told["ended"])
        assert house.cuts == [(STALLED, pair.public, "127.0.0.1")]
        house.clients[0].send(b"still here")
        await house.until(lambda: any(size == len(b"still here") for _, size in house.heard))
        assert not friend["ended"]
        relay.close()

    run(test)


@pytest.mark.usefixtures("looks")
def test_a_message_below_the_bound_may_wait_for_its_end() -> None:
    async def test(house: House) -> None:
        pair = generate()
        told = house.client(pair, says=None)
        await house.until(lambda: told["in"])
        client = house.clients[-1]
        for _ in range(100):
            client.send(PART)
        client.send_multipart([PART] * 10)
        client.send(b"hello")
        await house.until(lambda: bool(house.sessions))
        assert house.cuts == []

    run(test)


@pytest.mark.usefixtures("looks")
def test_a_message_without_an_end_is_cut_at_the_publisher_too() -> None:
    async def test(house: House) -> None:
        pair = generate()
        most_bytes = SUBSCRIBER_BYTES * 3 // 2
        relay = Relay(int(house.published_at.rpartition(":")[2]), most_bytes)
        told = house.client(pair, zmq.XSUB, address=await relay.start(), says=b"\1t")
        await house.until(lambda: house.known(True) == [pair.public])
        client = house.clients[-1]
        for _ in range(most_bytes // 100):
            client.send(b"\2" * 100, zmq.SNDMORE)
        client.send(b"")
        await house.until(lambda: told["ended"])
        assert house.cuts == [(STALLED, pair.public, "127.0.0.1")]
        relay.close()

    run(test)


def test_a_crowd_costs_its_own_oldest_and_lets_others_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_NEWCOMERS_PER_ADDRESS", 5)

    async def test(house: House) -> None:
        friend = house.client(generate())
        await house.until(lambda: len(house.heard) == 1)
        crowd = [house.plain() for _ in range(5)]
        await house.until(lambda: len(house.known()) == 6)
        assert house.cuts == []
        crowd.append(house.plain())
        await house.until(lambda: house.cuts == [(CROWD, "", "127.0.0.1")])
        newcomer = house.client(generate())
        await house.until(lambda: len(house.heard) == 2)
        assert not newcomer["ended"]
        assert not friend["ended"]
        for plain in crowd:
            plain.close()

    run(test)


@contextlib.contextmanager
def few_descriptors() -> Iterator[list[int]]:
    """All descriptors of this process are in use, until the list's are closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 40, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        yield taken
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_those_who_are_in_are_served_and_it_recovers_by_itself() -> None:
    async def test(house: House) -> None:
        told = house.client(generate())
        await house.until(lambda: len(house.heard) == 1)
        strangers = [sockets.socket() for _ in range(3)]
        with few_descriptors() as taken:
            for stranger in strangers:
                stranger.connect(("127.0.0.1", house.front.port))  # which takes no descriptor more, but at the other end
            await house.until(lambda: house.exhausted > 0)
            house.clients[0].send(b"still served")
            await house.until(lambda: len(house.heard) == 2)
            while taken[1:]:
                os.close(taken.pop())
            await house.until(lambda: not house.front._reserve.given)
        for stranger in strangers:
            stranger.close()
        house.client(generate())
        await house.until(lambda: len(house.heard) == 3)
        assert not told["ended"]

    run(test)


def test_programs_of_this_machine_come_by_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "bus.sock"
    path.write_text("left by a process that was killed")
    stays, goes = generate(), generate()

    async def test(house: House) -> None:
        told = [house.client(pair, address=f"ipc://{path}") for pair in (stays, goes)]
        house.client(stays)
        await house.until(lambda: len(house.sessions) == 3)
        routes = [connection.route for connection in house.front._sessions.connections]
        assert sorted(house.front.address_of(route) for route in routes) == ["127.0.0.1", "local", "local"]
        assert house.front.address_of(b"nobody's") == ""
        house.out.add(goes.public)
        house.front.keys_changed(house.front_admits)
        await house.until(lambda: told[1]["ended"])
        assert house.cuts == [(REVOKED, goes.public, "local")], "told apart, although neither has an address"
        assert not told[0]["ended"]
        assert house.front.port

    run(test, local=path)
    assert not path.exists()


def test_a_path_that_is_too_long_leaves_tcp(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(house: House) -> None:
        house.client(generate())
        await house.until(lambda: len(house.heard) == 1)

    run(test, local=tmp_path / ("x" * 100))
    run(test, local=tmp_path / "missing" / "bus.sock")
    assert [record.message for record in caplog.records] == ["programs on this machine come by TCP only"] * 2
