"""A link's driver moves a session to another connection: real sockets, and a master that the test plays."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import Mock

import pytest
import zmq

from zcluster.core.batch import Outgoing
from zcluster.core.doors import Candidate
from zcluster.core.link import Link, LinkPolicy
from zcluster.core.moving import MOVED
from zcluster.errors import NotAllowed, Unreachable, ZClusterError
from zcluster.keys import KeyPair, generate
from zcluster.net.context import new_context, readable, server_socket
from zcluster.net.link import LinkDriver
from zcluster.net.reader import Reader
from zcluster.net.zap import Zap
from zcluster.wire import VERSIONS, Beat, Bye, Hello, Message, Welcome, WireLimits, decode, encode
from zcluster.wire.agents import Listen, Note

PATIENCE_S = 60.0
LOGGER = logging.getLogger("zcluster.test")
HELLO = Hello(versions=list(VERSIONS), instance="i")


class Stage:
    """A ROUTER with its ZAP, and one owner of a link."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.context = new_context()
        self.pair, self.first, self.second = generate(), generate(), generate()
        self.admitted = {self.first.public, self.second.public}
        self.zap = Zap(self.loop, self.context, self.admitted.__contains__, self, LOGGER)
        self.router = server_socket(
            self.context, zmq.ROUTER, self.pair.secret.encode(), self.pair.public.encode(), max_bytes=65_536
        )
        self.router.bind("tcp://127.0.0.1:*")
        self.address = self.router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._reader = Reader(self.loop, self.router, self._turn)
        self.came: list[tuple[bytes, str, Message]] = []
        """Route, public key and message of what came."""
        self.told: list[Any] = []
        """What the owner was told: messages, and errors of the link's end."""
        self.outcomes: list[ZClusterError | None] = []
        self._outgoing: list[Outgoing] = []
        self._changed = asyncio.Event()
        places = [Candidate(self.address, self.pair.public)]
        self.driver = self._link(places)

    def _link(self, places: list[Candidate]) -> LinkDriver:
        return LinkDriver(
            self.context, Link(HELLO, places, LinkPolicy()), self, public=self.first.public, secret=self.first.secret,
            master_public=self.pair.public, jitter=lambda: 1.0, logger=LOGGER,
        )  # fmt: skip

    # -- the scene --------------------------------------------------------------------------------------------------

    async def until(self, check: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not check():
                self._changed.clear()
                await self._changed.wait()

    async def next(self, kind: type[Message]) -> tuple[bytes, str, Message]:
        """The next message that comes at the master; beats between are of no interest."""
        while True:
            await self.until(lambda: self.came)
            found = self.came.pop(0)
            if not isinstance(found[2], Beat):
                assert isinstance(found[2], kind), found
                return found

    def send(self, route: bytes, message: Message) -> None:
        """As the master."""
        self.router.send_multipart([route, encode(message)], zmq.NOBLOCK)
        self._reader.look_again()

    async def session(self) -> bytes:
        """Open it; its route."""
        self.driver.start()
        route, public, _ = await self.next(Hello)
        assert public == self.first.public
        self.send(route, welcome())
        await self.until(lambda: self.driver.up)
        return route

    def rekey(self, pair: KeyPair | None = None) -> None:
        """Move to a connection with the second pair, or this."""
        wanted = pair or self.second
        self.driver.use(wanted.public, wanted.secret)
        self.driver.rekey(self._moved)

    async def outcome(self) -> ZClusterError | None:
        await self.until(lambda: self.outcomes)
        return self.outcomes.pop(0)

    def to_the_end(self) -> None:
        """Wait for the end of the connection. Nothing of the loop runs meanwhile: all has come when the end has."""
        line, deadline_s = self.driver._line, time.monotonic() + PATIENCE_S
        assert line is not None
        while not self.told:
            assert time.monotonic() < deadline_s
            readable(self.zap._socket)  # libzmq ends nothing before its ZAP socket was read
            self.driver._monitor_turn(line)

    def close(self) -> None:
        self.driver.close()
        self._reader.close()
        self.zap.close()
        self.context.destroy(linger=0)

    def _moved(self, error: ZClusterError | None) -> None:
        self.outcomes.append(error)
        self._changed.set()

    def _turn(self) -> bool:
        while True:
            try:
                route, frame = self.router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            self.came.append((route.bytes, str(frame.get("User-Id")), decode(frame.bytes, WireLimits())[0]))
            self._changed.set()

    # -- who hears of those who are not let in ------------------------------------------------------------------------

    def denied(self, address: str, reason: str) -> None: ...

    def unknown_key(self, public: str, address: str) -> str:
        return "unknown"

    def limited(self) -> None: ...

    # -- the link's owner ---------------------------------------------------------------------------------------------

    def link_up(self, welcome: Welcome) -> None:
        self._changed.set()

    def link_down(self, error: ZClusterError, was_up: bool, retry_s: float) -> None:
        self.told.append(error)
        self._changed.set()

    def link_ended(self, error: ZClusterError) -> None:
        self.told.append(error)
        self._changed.set()

    def link_message(self, message: Message, data: bytes, offset: int) -> None:
        if isinstance(message, Note):
            self.told.append(message.id)
            self._changed.set()

    def link_beat(self) -> Beat:
        return Beat()

    def link_take(self) -> list[Outgoing]:
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def says(self, name: str) -> None:
        """The owner has something to say, and says it when it may."""
        self._outgoing.append((Listen(name=name), []))
        self.driver.flush()


def welcome(session: int = 7) -> Welcome:
    return Welcome(
        version=1, session=session, name="a", role="client", cluster="c", master="m", epoch=1, heartbeat_s=600.0,
        lease_heartbeats=3, body_bytes=1, inline_bytes=1, chunk_bytes=1024, window_bytes=1024,
    )  # fmt: skip


def note(number: int) -> Note:
    return Note(id=number, sender="s", key="k", to="a", text="", at_s=0.0)


Scene = Callable[[Stage], Coroutine[Any, Any, None]]


def played(scene: Scene) -> None:
    async def main() -> None:
        stage = Stage()
        try:
            await scene(stage)
        finally:
            stage.close()

    asyncio.run(main())


def test_a_session_goes_on_with_the_second_connection_and_nothing_is_lost_or_out_of_order() -> None:
    async def scene(stage: Stage) -> None:
        first = await stage.session()
        stage.says("1")
        await stage.next(Listen)
        stage.rekey()
        second, public, hello = await stage.next(Hello)
        assert (public, isinstance(hello, Hello) and hello.moves) == (stage.second.public, 7)
        assert stage.driver.public == stage.first.public
        stage.says("2")
        assert (await stage.next(Listen))[0] == first
        stage.send(second, welcome())
        assert (await stage.next(Bye))[0::2] == (first, MOVED)
        stage.says("3")
        stage.driver.say(Listen(name="4"))
        for number in (1, 2):
            stage.send(first, note(number))
        for number in (3, 4):
            stage.send(second, note(number))  # before the first has been left: it is not read yet
        await stage.until(lambda: stage.told == [1, 2])
        stage.send(first, MOVED)
        assert await stage.outcome() is None
        said = [await stage.next(Listen) for _ in range(2)]
        assert [(route, public) for route, public, _ in said] == [(second, stage.second.public)] * 2
        assert [message.name for _, _, message in said if isinstance(message, Listen)] == ["4", "3"]
        await stage.until(lambda: stage.told == [1, 2, 3, 4])
        assert (stage.driver.up, stage.driver.public) == (True, stage.second.public)

    played(scene)


def test_what_came_before_the_end_is_heard_before_it() -> None:
    async def scene(stage: Stage) -> None:
        route = await stage.session()
        for number in (1, 2, 3):
            stage.router.send_multipart([route, encode(note(number))])
        stage._reader.close(linger_ms=int(PATIENCE_S * 1000))
        stage.to_the_end()
        assert stage.told[:3] == [1, 2, 3]
        assert isinstance(stage.told[3], Unreachable)

    played(scene)


def test_an_owner_that_fails_at_the_last_words_hears_of_the_end_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Stage) -> None:
        route = await stage.session()
        monkeypatch.setattr(stage, "link_message", Mock(side_effect=ValueError("the owner's own")))
        stage.router.send_multipart([route, encode(note(1))])
        stage._reader.close(linger_ms=int(PATIENCE_S * 1000))
        with pytest.raises(ValueError, match="the owner's own"):
            stage.to_the_end()
        assert [type(told) for told in stage.told] == [Unreachable]

    played(scene)


def test_it_moves_as_often_as_it_is_asked_to() -> None:
    async def scene(stage: Stage) -> None:
        at = await stage.session()
        for pair in (stage.second, stage.first, stage.second):
            stage.rekey(pair)
            route, public, _ = await stage.next(Hello)
            assert public == pair.public
            stage.send(route, welcome())
            await stage.next(Bye)
            stage.send(at, MOVED)
            assert await stage.outcome() is None
            at = route
        stage.says("still here")
        assert (await stage.next(Listen))[0] == at

    played(scene)


def test_a_second_key_that_is_not_admitted_changes_nothing() -> None:
    async def scene(stage: Stage) -> None:
        first = await stage.session()
        stage.rekey(generate())
        assert isinstance(await stage.outcome(), NotAllowed)
        stage.says("still here")
        assert (await stage.next(Listen))[0] == first
        assert stage.told == []

    played(scene)


def test_a_master_that_refuses_the_move_changes_nothing() -> None:
    async def scene(stage: Stage) -> None:
        first = await stage.session()
        stage.rekey()
        second, _, _ = await stage.next(Hello)
        stage.send(second, Bye(code="not_allowed", message="no such session"))
        assert isinstance(await stage.outcome(), NotAllowed)
        stage.says("still here")
        assert (await stage.next(Listen))[0] == first

    played(scene)


def test_a_master_with_another_key_is_tried_with_that() -> None:
    async def scene(stage: Stage) -> None:
        first = await stage.session()
        stage.driver.redirect([Candidate(stage.address, public) for public in (stage.pair.public, generate().public)])
        stage.rekey()
        second, _, _ = await stage.next(Hello)
        stage.send(second, welcome())
        await stage.next(Bye)
        stage.send(first, MOVED)
        assert await stage.outcome() is None

    played(scene)


@pytest.mark.parametrize("said", [Bye(code="unreachable", message="the end"), Bye(code="not_allowed", message="out")])
def test_the_end_of_the_session_ends_the_move_too(said: Bye) -> None:
    async def scene(stage: Stage) -> None:
        first = await stage.session()
        stage.rekey()
        await stage.next(Hello)
        stage.send(first, said)
        assert isinstance(await stage.outcome(), ZClusterError)
        assert [str(error.message) for error in stage.told] == [said.message]
        assert not stage.driver.up

    played(scene)


def test_who_leaves_while_it_moves_is_told_so() -> None:
    async def scene(stage: Stage) -> None:
        await stage.session()
        stage.rekey()
        await stage.next(Hello)
        stage.driver.close()
        assert isinstance(await stage.outcome(), Unreachable)

    played(scene)


def test_without_a_session_there_is_nothing_to_move() -> None:
    async def scene(stage: Stage) -> None:
        stage.rekey()
        await asyncio.sleep(0)
        assert stage.outcomes == []

    played(scene)
