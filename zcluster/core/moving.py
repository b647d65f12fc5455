"""A session moves to another connection, which another key of the same owner proves: make before break, both ends of it.

Rules kept here:
- the peer greets on a second connection (HELLO says which session ``moves``), and is answered there with the session's WELCOME;
  until then nothing has happened, and a refusal or a broken second connection leaves all as it was;
- BYE ``moved`` is the last message of the peer on the first connection, and then the last of the master there: each end has read
  all of the first before it goes on with the second, so that the messages of the session stay in their order;
- nothing is said on the second connection between its greeting and that echo;
- the session stays the same: its number, its requests, what waits for it. Nobody else hears of it;
- once the peer has said BYE ``moved``, the end of either connection is the end of the session, as of any broken connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zcluster.core.carrying import Via
from zcluster.core.peers import Identity, Peer, Route
from zcluster.errors import NotAllowed
from zcluster.wire import Bye, Hello

if TYPE_CHECKING:
    from zcluster.core.roster import Roster

MOVED = Bye(code="moved")
"""The last message on a connection that a session leaves."""


def is_moved(bye: Bye) -> bool:
    """Whether ``bye`` says that the session goes on elsewhere."""
    return bye.code == MOVED.code and not bye.draining


class Moves:
    """The master's end: the sessions of ``roster`` that are moving.

    One of a peer at a time: a newer greeting takes the place of the older. One connection is for one of them.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._to: dict[Peer, Route] = {}
        self._peers: dict[Route, Peer] = {}
        self._last_word: set[Peer] = set()
        """Those that have said their last on the first connection, and cannot be answered there yet: its pipe is full."""

    def greeted(self, route: Route, identity: Identity, hello: Hello) -> Peer:
        """HELLO of a session that moves came on ``route``; returns the session, for WELCOME.

        Raises:
            NotAllowed: this is not how the session can move.
        """
        peer = self._roster.session(identity.key, hello.moves)
        if peer is None or peer.identity != identity or peer.instance != hello.instance:
            raise NotAllowed("there is no such session of this key", hint="say HELLO without `moves`")
        if peer.route == route:
            return peer  # it has moved here already, and asks again
        if isinstance(route, Via) or isinstance(peer.route, Via):
            raise NotAllowed("a session that is carried does not move", hint="connect to the master itself")
        if route in self._roster.peers or self._peers.get(route, peer) is not peer or peer in self._last_word:
            raise NotAllowed("one of the connections is being left already", hint="say HELLO without `moves`")
        self.ended(peer)
        self._to[peer], self._peers[route] = route, peer
        return peer

    def disconnected(self, route: Route) -> None:
        """The connection ``route`` is gone, or begins a session of its own: if it was one to move to, nothing has happened."""
        peer = self._peers.get(route)
        if peer is not None:
            self.ended(peer)

    def ended(self, peer: Peer) -> None:
        """The session is over, or moves elsewhere."""
        route = self._to.pop(peer, None)
        if route is not None:
            del self._peers[route]
        self._last_word.discard(peer)

    def said_last(self, peer: Peer) -> bool:
        """BYE ``moved`` came on the session's connection; false when there is none to move to any more."""
        if peer not in self._to:
            return False
        self._last_word.add(peer)
        self.unblocked(peer)
        return True

    def unblocked(self, peer: Peer) -> None:
        """What was on the way to ``peer`` has left: if it waits to be answered, it moves now."""
        if peer in self._last_word and not peer.blocked:
            route = self._to[peer]
            self.ended(peer)
            self._roster.farewells[peer.route] = MOVED
            self._roster.reroute(peer, route)

