"""Messages between clients from Python: ``AsyncClient.messages`` and ``AsyncClient.send``.

    async with zcluster.AsyncClient() as c:
        async for m in c.messages():
            print(m.sender, m.text)

Rules kept here:
- a client listens under one name at a time, again by itself after a lost connection; a newer ``messages`` ends the older;
- a message that was kept is confirmed when it is handed to the program, and handed to it once;
- what the program does not read waits here, bounded; what does not fit is dropped and counted (``Message.missed``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from zcluster.errors import UsageError, ZClusterError, error_from_dict
from zcluster.wire import Message as WireMessage
from zcluster.wire.agents import Listen, Note

MAX_WAITING = 10_000
MAX_WAITING_CHARS = 32 * 1024 * 1024
LISTENING = "listening"


@dataclass(frozen=True)
class Message:
    """What another client said.

    Attributes:
        sender: the name that it goes by; it is only said.
        key: the name of its key; it is proven.
        to: the name it was sent to, or ``all``.
        text: what it said. at_s: when, in seconds since 1970, by the master's clock.
        id: grows with each message of a cluster.
        kept: whether it waited for this client.
        missed: how many before it were dropped because the program did not read them in time.
    """

    sender: str
    key: str
    to: str
    text: str
    at_s: float
    id: int
    kept: bool = False
    missed: int = 0


class Link(Protocol):
    """What carries it: a ClientLink."""

    name: str
    """Of the client's key; empty without a session."""
    notes: Messages | None

    def say(self, message: WireMessage) -> None: ...


class Messages:
    """The messages for one name: ``async for`` over it. With ``async with`` the name is taken before the block begins.

    Raises:
        UsageError: it is no name. Conflict: the name is another's.
    """

    def __init__(self, link: Callable[[], Link], as_name: str = "") -> None:
        self._link = link
        self._on: Link | None = None
        self._as_name = as_name
        self._asked = ""
        self._waiting: deque[Message] = deque()
        self._waiting_chars = 0
        self._missed = 0
        self._last_kept = 0
        self._error: ZClusterError | None = None
        self._ended = False
        self._accepted = asyncio.Event()
        self._news = asyncio.Event()

    @property
    def name(self) -> str:
        """The name under which it listens; empty until it does."""
        return self._asked if self._accepted.is_set() else ""

    async def __aenter__(self) -> Messages:
        self._begin()
        await self._accepted.wait()
        if self._error is not None:
            raise self._error
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> Message:
        self._begin()
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        message = self._waiting.popleft()
        self._waiting_chars -= len(message.text)
        if message.kept:
            self._confirm(message.id)
        return message

    async def aclose(self) -> None:
        """Listen no longer."""
        link, self._on = self._on, None
        if link is not None and link.notes is self:
            link.notes = None
            if link.name:
                link.say(Listen(name=""))
        self.end()

    # -- the link's side ------------------------------------------------------------------------------------------------

    def session_up(self) -> None:
        """There is a session: listen on it."""
        if self._on is not None:
            self._asked = self._as_name or self._on.name
            self._on.say(Listen(name=self._asked))

    def received(self, note: Note) -> None:
        """The master says something."""
        if not note.id:
            self._answered(note)
            return
        message = Message(note.sender, note.key, note.to, note.text, note.at_s, note.id, note.kept, self._missed)
        if message.kept:
            if message.id <= self._last_kept:  # it came before the connection was lost, and is here
                if not any(waiting.id == message.id for waiting in self._waiting):
                    self._confirm(message.id)
                return
            self._last_kept = message.id
        elif len(self._waiting) >= MAX_WAITING or self._waiting_chars + len(message.text) > MAX_WAITING_CHARS:
            self._missed += 1
            return
        self._missed = 0
        self._waiting.append(message)
        self._waiting_chars += len(message.text)
        self._news.set()

    def fail(self, error: ZClusterError) -> None:
        """It ends with ``error``, after what is here."""
        self._error = error
        self._accepted.set()
        self._news.set()

    def end(self) -> None:
        """It ends, after what is here."""
        self._ended = True
        self._accepted.set()
        self._news.set()

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._on is not None or self._ended or self._error is not None:
            return
        link = self._link()
        if link.notes is not None:
            link.notes.end()
        link.notes, self._on = self, link
        if link.name:
            self.session_up()

    def _answered(self, note: Note) -> None:
        if note.to != self._asked:
            return
        if note.code == LISTENING:
            self._accepted.set()
            return
        if self._on is not None and self._on.notes is self:
            self._on.notes = None  # it is not asked for again on the next session
        self.fail(error_from_dict({"code": note.code, "message": note.text}))

    def _confirm(self, id_: int) -> None:
        if self._on is not None and self._on.name:
            self._on.say(Listen(name=self._asked, seen=id_))


def checked_keep(keep_s: object) -> float:
    """``keep_s`` as a number of seconds; raises UsageError when it is none."""
    if not isinstance(keep_s, int | float) or isinstance(keep_s, bool):
        raise UsageError(f"keep_s is a number of seconds, not {str(keep_s)[:40]!r}", hint="such as 3600")
    return float(keep_s)
