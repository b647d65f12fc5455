"""A node's door for agents with a real machine of sessions, a book in memory, and agents that a test speaks for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from zcluster.config import Home
from zcluster.core.limits import MasterLimits
from zcluster.core.master import Master
from zcluster.core.peers import Event, Identity
from zcluster.errors import StoreFailed
from zcluster.keys import may_call, may_send
from zcluster.nodes.agentdoor import AgentDoor
from zcluster.nodes.desk import Desk
from zcluster.store.book_memory import MemoryBook
from zcluster.wire import Hello, Message, WireLimits, decode, encode
from zcluster.wire.agents import Door, Keep, Settings

WALL_S = 1_700_000_000.0
TURNS = 50


class Told:
    """The settings of agents, as a test says."""

    def __init__(self) -> None:
        self.settings: dict[str, Settings] = {}
        self.files: dict[str, bytes] = {}
        self.forgotten: list[str] = []
        self.faults = 0
        self.callback: Callable[[Sequence[str] | None], None] = lambda _ids: None

    async def of(self, agent: str, /) -> Settings:
        if self.faults:
            self.faults -= 1
            raise StoreFailed("the disk is full")
        return self.settings.get(agent, Settings(digest="none", groups=["default"]))

    async def file(self, digest: str, /) -> bytes | None:
        return self.files.get(digest)

    def on_change(self, callback: Callable[[Sequence[str] | None], None], /) -> None:
        self.callback = callback

    def forget(self, agent: str, /) -> None:
        self.forgotten.append(agent)


class Doorstep:
    """A node called ``n`` in the running loop; time is :attr:`now`."""

    def __init__(self, book: Any = None) -> None:
        self.now = 1000.0
        self.machine = Master("n", "test", 1, MasterLimits(), may_send, may_call, self.now)
        self.book = book if book is not None else MemoryBook("b")
        self.told = Told()
        self.doors: list[Door] = []
        self.events: list[Event] = []
        self.taken: list[tuple[str, str, int]] = []
        self.said: dict[str, list[tuple[Message, bytes]]] = {}
        desk = Desk(
            name="n", role="master", home=Home(Path("/nowhere")), loaded=cast(Any, None), clock=lambda: self.now,
            wall_s=lambda: WALL_S + self.now, wake=lambda: None, note=self.events.append, logger=logging.getLogger("test"),
            sampler=cast(Any, None), store=cast(Any, None), book=self.book, sessions=self.machine,
        )  # fmt: skip
        self.door = AgentDoor(desk, self.told, lambda: self.doors, lambda *what: self.taken.append(what))

    async def __aenter__(self) -> Doorstep:
        await self.door.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.door.close()

    def join(self, name: str, epoch: int = 1, *, route: str = "", instance: str = "i", role: str = "agent") -> None:
        """An agent says HELLO."""
        self._send(route or name, name, Hello(versions=[1], instance=instance, epoch=epoch), role)

    def keep(self, name: str, keep: Keep, *, route: str = "") -> None:
        """An agent says KEEP."""
        self._send(route or name, name, keep)

    def say(self, name: str, message: Message) -> None:
        """An agent says something."""
        self._send(name, name, message)

    def broken(self, route: str) -> None:
        """A connection breaks."""
        self.machine.disconnected(route, self.now)

    def pass_time(self, seconds: float) -> None:
        """Time passes for presence, as the alarm would tell."""
        self.now += seconds
        self.door.handle_deadline()

    async def written(self) -> None:
        """What was heard is in the book, and what is to be told is told."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.door.status.tell()
        assert await self.door.flush()

    def heard(self, route: str, kind: type[Message]) -> list[Any]:
        """What ``route`` was told of this kind, since the last time it was asked."""
        self._turn()
        told = self.said.get(route, [])
        self.said[route] = [each for each in told if not isinstance(each[0], kind)]
        return [message for message, _ in told if isinstance(message, kind)]

    def heard_bodies(self, route: str, kind: type[Message]) -> list[bytes]:
        """The bodies of what ``route`` was told of this kind."""
        self._turn()
        return [body for message, body in self.said.get(route, []) if isinstance(message, kind)]

    def names(self) -> list[str]:
        """The names of the events since the last time."""
        self.door.status.tell()
        found = [event.name for event in self.events]
        self.events.clear()
        return found

    def _send(self, route: str, name: str, message: Message, role: str = "agent") -> None:
        frame = encode(message)
        decoded, offset = decode(frame, WireLimits())
        self.machine.receive(route, Identity(f"key-{name}", name, role), decoded, frame, offset, self.now)
        self._turn()

    def _turn(self) -> None:
        for route, outgoing in self.machine.take(self.now):
            for message, bodies in outgoing:
                frame = encode(message, bodies) if not hasattr(message, "frame") else bytes(message.frame)
                decoded, offset = decode(frame, WireLimits())
                self.said.setdefault(str(route), []).append((decoded, frame[offset:]))
