"""What else a session carries: parts that are attached to the machine of sessions, each with kinds of message of its own.

Rules kept here:
- each kind belongs to one part; a part hears of each session's beginning before its messages, and of its end after them;
- a part never sends by itself: what it tells a peer leaves with the machine's next turn;
- what a part raises is answered with a REFUSAL, and the session goes on;
- what comes before any session is answered on its route, and opens none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from zcluster.core.peers import Identity, Peer, Route
from zcluster.wire import Hello, Message


class Attachment(Protocol):
    """A part of a node that speaks on its sessions."""

    kinds: frozenset[int]

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """A session was opened; what is told now follows WELCOME."""

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        """A session has ended."""

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        """A message of one of ``kinds`` came; its body is ``data[offset:]``, the whole frame ``data``."""


class Attachments:
    """The parts of one machine."""

    def __init__(self) -> None:
        self.parts: list[Attachment] = []
        self.by_kind: dict[int, Attachment] = {}
        self.unannounced: dict[int, Callable[[Route, Identity, Message, float], None]] = {}
        """Who handles kinds that a connection without a session may begin with, beside HELLO."""

    def add(self, part: Attachment) -> None:
        """Attach ``part``."""
        taken = part.kinds & self.by_kind.keys()
        assert not taken, f"kinds {sorted(taken)} have a part already"
        self.parts.append(part)
        self.by_kind.update(dict.fromkeys(part.kinds, part))

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        for part in self.parts:
            part.opened(peer, hello, now)

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        for part in self.parts:
            part.closed(peer, reason, now)
