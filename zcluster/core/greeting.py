"""How a session of the master begins: HELLO, and what is answered.

Rules kept here:
- who comes is who its key says; a role that may not send HELLO opens no session;
- whoever is refused is told why, once, on its route; the session that was there before is not touched;
- what a session is told first is WELCOME, and behind it what holds at this moment (that the master shuts down, its functions).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from zcluster.core.peers import DRAINING, LOCAL, Event, Identity, Peer, Route
from zcluster.core.rights import BUILT_IN
from zcluster.core.roster import AGENT_ROLE, NODE_ROLES
from zcluster.errors import NotAllowed, UnsupportedVersion, ZClusterError
from zcluster.wire import KINDS, VERSION, VERSIONS, Bye, Hello, Requests, Welcome

if TYPE_CHECKING:
    from zcluster.core.master import Master


class Greeting:
    """Opens the sessions of ``master``.

    Args:
        may_send: whether a role may send a kind of message, by its name.
    """

    def __init__(self, master: Master, may_send: Callable[[str, str], bool]) -> None:
        self._master = master
        self._may_send = may_send
        self._kinds_of_role: dict[str, frozenset[int]] = {}

    def hello(self, route: Route, identity: Identity, hello: Hello, now: float) -> None:
        """``identity`` says HELLO on ``route``."""
        master, kinds = self._master, self._kinds(identity.role)
        if master.refusing.bars(route, identity, now):
            return
        try:
            self._check(route, identity, hello, kinds)
            if hello.moves:
                master.roster.farewells[route] = self._welcome(master.moves.greeted(route, identity, hello))
                return
            same = master.roster.peers.get(route)
            if same is not None and same.identity == identity and same.instance == hello.instance:
                master.counters.add("duplicate_hello")
                master.say(same, self._welcome(same))
                return
            peer = master.roster.join(route, identity, hello, kinds, now)
            master.moves.disconnected(route)
        except ZClusterError as error:
            master.counters.add(f"hello_{error.code}")
            master.note(Event("hello_refused", {"name": identity.name, "code": error.code, "reason": error.message}, "warning"))
            master.roster.farewells[route] = Bye(code=error.code, message=error.message, hint=error.hint)
            return
        master.say(peer, self._welcome(peer))
        if master.admission.draining:
            master.say(peer, DRAINING)
        master.opened(peer, hello, now)

    def _check(self, route: Route, identity: Identity, hello: Hello, kinds: frozenset[int]) -> None:
        if Hello.kind not in kinds:
            if identity.grant and identity.role not in BUILT_IN:
                hint = "`zcluster rights ls` lists those that it has; SIGHUP lets the master read its file again"
                raise NotAllowed(f"the master's configuration does not define the role {identity.grant}", hint=hint)
            raise NotAllowed(f"a key of role {identity.role} opens no session here")
        if VERSION not in hello.versions:
            speaks = f"the peer speaks {hello.versions}, this master {list(VERSIONS)}"
            raise UnsupportedVersion(speaks, hint="upgrade the older")
        if identity.role in NODE_ROLES and identity.name == self._master.name and route != LOCAL:
            raise NotAllowed(f"{identity.name} is this master", hint="give the node a key of its own")

    def _kinds(self, role: str) -> frozenset[int]:
        known = self._kinds_of_role.get(role)
        if known is None:
            known = frozenset(kind for kind, cls in KINDS.items() if self._may_send(role, cls.__name__.lower()))
            self._kinds_of_role[role] = known
        return known

    def _welcome(self, peer: Peer) -> Welcome:
        master = self._master
        limits, session = master.limits, master.limits.session
        heartbeat_s = session.agent_heartbeat_s if peer.identity.role == AGENT_ROLE else session.heartbeat_s
        return Welcome(
            version=VERSION, session=peer.no, name=peer.identity.name, role=peer.identity.role, cluster=master.cluster,
            master=master.name, epoch=master.epoch, software=master.software, heartbeat_s=heartbeat_s,
            lease_heartbeats=session.lease_heartbeats, body_bytes=limits.body_bytes, inline_bytes=limits.inline_bytes,
            chunk_bytes=session.chunk_bytes, window_bytes=limits.window_bytes, frame_bytes=limits.frame_bytes,
        )  # fmt: skip


def may_request(peer: Peer) -> bool:
    """Whether the peer may make requests."""
    return Requests.kind in peer.kinds
