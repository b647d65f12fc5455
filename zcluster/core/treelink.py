"""The master's bus and its sync process: which sessions there are, and the frames between them.

Rules kept here:
- only workers' sessions are told of, and a session's beginning is told before its frames, its end after them;
- frames of file sync are passed on unopened; what comes back is sent on the session it names, or dropped when that is over;
- bulk frames go by the bulk lane, so that they delay neither control nor requests.
"""

from __future__ import annotations

from dataclasses import dataclass

from zcluster.core.peers import Peer
from zcluster.wire import Hello, Message
from zcluster.wire.trees import TREE_KINDS


@dataclass(frozen=True)
class SessionUp:
    """A worker has a session."""

    session: int
    name: str


@dataclass(frozen=True)
class SessionDown:
    """A worker's session is over."""

    session: int
    reason: str


@dataclass(frozen=True)
class Held:
    """A BEAT said what the worker's copies are."""

    session: int
    digest: str


@dataclass(frozen=True)
class FrameIn:
    """A frame of file sync."""

    session: int
    frame: bytes


Notice = SessionUp | SessionDown | Held | FrameIn


class TreeLink:
    """What the sync process is to know, in order, and the way back. It is attached to the machine of sessions."""

    kinds = frozenset(cls.kind for cls in TREE_KINDS)

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self._peers: dict[int, Peer] = {}

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """A session was opened."""
        if peer.identity.role == "worker":
            self._peers[peer.no] = peer
            self.notices.append(SessionUp(peer.no, peer.identity.name))

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        """A session has ended."""
        if self._peers.pop(peer.no, None) is not None:
            self.notices.append(SessionDown(peer.no, reason))

    def again(self) -> list[Notice]:
        """What a sync process that has just started is to know: the sessions that are open."""
        self.notices.clear()
        return [SessionUp(no, peer.identity.name) for no, peer in self._peers.items()]

    def beat(self, peer: Peer, digest: str) -> None:
        """A BEAT came."""
        if peer.no in self._peers and digest:
            self.notices.append(Held(peer.no, digest))

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        """A frame of file sync came."""
        if peer.no in self._peers:
            self.notices.append(FrameIn(peer.no, data))

    def peer(self, session: int) -> Peer | None:
        """The peer of a worker's session, or None when it is over."""
        return self._peers.get(session)
