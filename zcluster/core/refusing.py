"""Messages that the master refuses as a whole, and who sends too many of them.

Rules kept here:
- each is counted and answered, a REFUSAL in a session and one farewell a turn outside of one, so that nobody waits for silence;
- whose faults are too many (faults.py) is told so once, and loses the session and the connection: the driver takes it, to
  be cut when what is said to it has left. Until BARRED_S later each new connection of that key goes the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zcluster.core.carrying import Via
from zcluster.core.faults import BARRED_S, OUTSIDE, Faults
from zcluster.core.peers import LOCAL, Identity, Peer, Route
from zcluster.errors import Busy, PeerError, UnsupportedVersion, ZClusterError
from zcluster.wire import VERSIONS, Bye, Message, Refusal

if TYPE_CHECKING:
    from zcluster.core.master import Master


class Refusing:
    """Refuses for ``master``.

    Args:
        most: how many messages of one key may be refused at once.
    """

    def __init__(self, master: Master, most: int) -> None:
        self._master = master
        self.faults = Faults(most)
        self._cuts: dict[Route, None] = {}
        """Connections that the driver has not taken yet. What still comes by them must not take the place of the BYE."""

    def unreadable(self, route: Route, identity: Identity, error: PeerError, now: float) -> None:
        """A message of ``route`` could not be read."""
        if route in self._cuts:
            return
        master = self._master
        master.counters.add("unsupported_version" if isinstance(error, UnsupportedVersion) else "malformed")
        refusal = Refusal(code=error.code, message=error.message, hint=error.hint, versions=list(VERSIONS))
        peer = master.roster.peers.get(route)
        if peer is None:
            master.roster.farewells[route] = refusal
        else:
            master.say(peer, refusal)
        self._fault(route, identity, now)

    def outside(self, route: Route, identity: Identity, now: float) -> None:
        """A message that is no HELLO came where there is no session."""
        if route in self._cuts:
            return
        self._master.counters.add("no_session")
        self._master.roster.farewells[route] = Bye(code="no_session", message="say HELLO first")
        self._fault(route, identity, now, OUTSIDE)

    def message(self, peer: Peer, message: Message, error: ZClusterError, now: float) -> None:
        """``message``, which can be read, is not for ``peer`` to send."""
        self._master.counters.add(f"refused_{error.code}")
        self._master.say(peer, Refusal(code=error.code, about=message.kind, message=error.message, hint=error.hint))
        self._fault(peer.route, peer.identity, now)

    def bars(self, route: Route, identity: Identity, now: float) -> bool:
        """Whether the HELLO that came on ``route`` is refused because of the faults of its key."""
        if route in self._cuts:
            return True
        if not self.faults.barred(_whose(route, identity), now):
            return False
        self._master.counters.add("hello_busy")
        self._cut(route, now)
        return True

    def take_cuts(self) -> list[Route]:
        """The connections to be cut."""
        cuts = list(self._cuts)
        self._cuts.clear()
        return cuts

    def _fault(self, route: Route, identity: Identity, now: float, cost: float = 1.0) -> None:
        if route != LOCAL and self.faults.another(_whose(route, identity), now, cost):
            self._cut(route, now)

    def _cut(self, route: Route, now: float) -> None:
        master, hint = self._master, f"its connections are cut; try again after {BARRED_S:g} s"
        error = Busy("too many messages of this key were refused", hint=hint)
        peer = master.roster.peers.get(route)
        if peer is None:
            master.roster.farewells[route] = Bye(code=error.code, message=error.message, hint=error.hint)
        else:
            master.end(peer, error, now)
        self._cuts[route] = None


def _whose(route: Route, identity: Identity) -> str:
    """Whose bucket it is. What a worker carries counts for itself: a hostile one shuts nobody out elsewhere."""
    return f"{route.session} {identity.key}" if isinstance(route, Via) else identity.key
