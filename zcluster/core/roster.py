"""Sessions and nodes as the master sees them.

Rules kept here:
- who a peer is comes from its key alone; a message on a route whose key differs from the session's is not its;
- one live session per node key: a newer one replaces the older, which is told so. Keys of people (client, admin) may
  have several sessions, up to a limit, because their programs share a key, and as many again through workers' doors;
- sessions are numbered and a number is never used again;
- any message renews the lease; silence of two intervals makes a node ``silent``, of ``lease_heartbeats`` ends it: ``dead``;
- agents are many and say something once in their interval: their leases are longer (``agent_heartbeat_s``);
- a node is its key: one of the same name with another key begins anew and has nothing of the one before;
- a lease ends only here; what ends with it is done by the callback ``on_gone``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zcluster.core.batch import Lanes
from zcluster.core.counters import Counters
from zcluster.core.peers import Event, Identity, Node, Peer, Route
from zcluster.errors import Busy, SessionReplaced, ZClusterError
from zcluster.wire import Beat, Bye, Hello, Message, Replies, Work

NODE_ROLES = frozenset({"worker", "master"})
AGENT_ROLE = "agent"
SHARED_ROLES = frozenset({"client", "admin"})
SILENT_AFTER_HEARTBEATS = 2


@dataclass(frozen=True)
class SessionLimits:
    """Bounds and times of sessions (config: session.*)."""

    heartbeat_s: float = 1.0
    lease_heartbeats: int = 3
    max_sessions: int = 20_000
    max_sessions_per_key: int = 256
    max_nodes: int = 20_000
    chunk_bytes: int = 262_144
    agent_heartbeat_s: float = 10.0
    """What an agent's WELCOME says: a node with 5,000 agents cannot hear each of them every second."""


class Roster:
    """The table of sessions and nodes."""

    def __init__(
        self,
        limits: SessionLimits,
        counters: Counters,
        emit: Callable[[Event], None],
        on_gone: Callable[[Peer, str, float], None],
    ) -> None:
        self.limits = limits
        self.peers: dict[Route, Peer] = {}
        self.nodes: dict[str, Node] = {}
        self.last_session = 0
        self.farewells: dict[Route, Message] = {}
        """What is said to routes that have no session (yet, or any more)."""
        self._by_key: dict[str, dict[int, Peer]] = {}
        self._counters = counters
        self._emit = emit
        self._on_gone = on_gone
        self._sweep_due_s = 0.0

    def expect(self, names_and_roles: dict[str, str], now: float) -> None:
        """These nodes were here before the master started; they are given a lease's time to come back."""
        for name, role in names_and_roles.items():
            if name not in self.nodes and len(self.nodes) < self.limits.max_nodes:
                self.nodes[name] = Node(name, role, "joining", now)
                self.nodes[name].reason = "expected back after the master's start"

    def remembered(self, master: str) -> dict[str, str]:
        """Names and roles of the nodes that a restarted ``master`` should expect back."""
        gone = ("dead", "left")
        return {name: node.role for name, node in self.nodes.items() if node.state not in gone and name != master}

    def join(self, route: Route, identity: Identity, hello: Hello, kinds: frozenset[int], now: float) -> Peer:
        """Open a session for ``identity`` on ``route``.

        Raises:
            Busy: too many sessions, of this key or in all.
        """
        mine = self._by_key.get(identity.key, {})
        # Those that came another way do not count: a worker can open sessions with any key, and must not keep its owner out.
        self._check_room(identity, sum(type(peer.route) is type(route) for peer in mine.values()))
        if identity.role not in SHARED_ROLES:
            for older in list(mine.values()):
                self._replace(older, hello, now)
        if (same := self.peers.get(route)) is not None:
            again = same.identity.key == identity.key
            self.leave(same, "said HELLO again" if again else "another key came by its route", now)
        self.last_session += 1
        lanes: Lanes[Any] = Lanes(Work if identity.role in NODE_ROLES else Replies, self.limits.chunk_bytes)
        peer = Peer(self.last_session, route, identity, hello.instance, kinds, lanes, now)
        self.peers[route] = peer
        self._by_key.setdefault(identity.key, {})[peer.no] = peer
        if identity.role in NODE_ROLES:
            self._attach(peer, hello, now)
        self._emit(Event("session_opened", {"session": peer.no, "name": identity.name, "role": identity.role}))
        return peer

    def session(self, key: str, no: int) -> Peer | None:
        """The session of this number, when it is one of ``key``."""
        return self._by_key.get(key, {}).get(no)

    def sessions(self, key: str) -> list[Peer]:
        """The sessions of ``key``, the newest last."""
        return list(self._by_key.get(key, {}).values())

    def reroute(self, peer: Peer, route: Route) -> None:
        """The session goes on, on the connection ``route``."""
        del self.peers[peer.route]
        peer.route = route
        self.peers[route] = peer
        self._counters.add("session_moved")

    def leave(self, peer: Peer, reason: str, now: float, state: str = "dead") -> None:
        """The session ends; its node, if it is one, becomes ``state``."""
        if self.peers.get(peer.route) is not peer:
            return
        del self.peers[peer.route]
        of_key = self._by_key[peer.identity.key]
        del of_key[peer.no]
        if not of_key:
            del self._by_key[peer.identity.key]
        node = peer.node
        if node is not None and node.peer is peer:
            node.peer = None
            self.set_state(node, state, reason, now)
        fields = {"session": peer.no, "name": peer.identity.name, "role": peer.identity.role, "reason": reason}
        self._emit(Event("session_closed", fields))
        self._on_gone(peer, reason, now)

    def seen(self, peer: Peer, now: float) -> None:
        """A message came: the lease is renewed."""
        peer.last_seen_s = now
        node = peer.node
        if node is not None:
            node.last_seen_s = now
            if node.state == "silent":
                self.set_state(node, "ready", "heard again", now)

    def beat(self, peer: Peer, beat: Beat) -> None:
        """Take note of what a heartbeat says."""
        node = peer.node
        if node is not None:
            node.load, node.cpu_percent, node.memory_percent = beat.load, beat.cpu_percent, beat.memory_percent
            if beat.slots is not None:
                node.slots = beat.slots
            node.agents = beat.agents

    def drop_keys(self, admitted: Callable[[Identity], bool], now: float) -> list[Peer]:
        """End the sessions whose key is no longer admitted; returns them."""
        gone = [peer for peer in self.peers.values() if not admitted(peer.identity)]
        for peer in gone:
            self.farewells[peer.route] = Bye(code="not_allowed", message="this key is no longer admitted")
            self.leave(peer, "its key was revoked", now)
        return gone

    def forget(self, known: Callable[[str], bool]) -> list[Node]:
        """Drop the nodes that have no session and are not ``known``; returns them."""
        gone = [node for node in self.nodes.values() if node.peer is None and not known(node.name)]
        for node in gone:
            del self.nodes[node.name]
        return gone

    def set_state(self, node: Node, state: str, reason: str, now: float) -> None:
        """Change a node's state, and say so when it is a change."""
        if node.state != state:
            node.state, node.reason, node.since_s = state, reason, now
            level = "warning" if state in ("silent", "dead") else "info"
            self._emit(Event(f"node_{state}", {"name": node.name, "role": node.role, "reason": reason}, level))

    def next_deadline(self) -> float:
        return self._sweep_due_s

    def handle_deadline(self, now: float) -> None:
        """End the leases that have run out. Runs ten times an interval, so that an end is at most that late."""
        interval_s = self.limits.heartbeat_s
        late_s = now - self._sweep_due_s
        if late_s > interval_s and self._sweep_due_s:
            # This process stood still (it was stopped, or the machine slept) and has not read what the others said meanwhile.
            for peer in self.peers.values():
                peer.last_seen_s += late_s
        self._sweep_due_s = now + interval_s / 10
        silent_s, lease_s = interval_s * SILENT_AFTER_HEARTBEATS, interval_s * self.limits.lease_heartbeats
        agent_lease_s = self.limits.agent_heartbeat_s * self.limits.lease_heartbeats
        for peer in list(self.peers.values()):
            silence_s = now - peer.last_seen_s
            if silence_s < silent_s or (silence_s < agent_lease_s and peer.identity.role == AGENT_ROLE):
                continue
            if silence_s >= lease_s:
                self._counters.add("lease_ended")
                self.leave(peer, f"silent for {silence_s:.1f} s", now)
            elif peer.node is not None and peer.node.state == "ready":
                self.set_state(peer.node, "silent", f"silent for {silence_s:.1f} s", now)

    def end_expectation(self, now: float) -> list[Node]:
        """The grace after the master's start is over: nodes that did not come back are dead."""
        gone = [node for node in self.nodes.values() if node.state == "joining" and node.peer is None]
        for node in gone:
            self.set_state(node, "dead", "not back since the master's start", now)
        return gone

    def _check_room(self, identity: Identity, mine: int) -> None:
        limits = self.limits
        if len(self.peers) >= limits.max_sessions:
            raise Busy(f"{len(self.peers)} sessions are open", hint="session.max_sessions", retry_after_s=1.0)
        if identity.role in SHARED_ROLES and mine >= limits.max_sessions_per_key:
            raise Busy(f"{identity.name} has {mine} sessions open", hint="session.max_sessions_per_key", retry_after_s=1.0)
        if identity.role in NODE_ROLES and identity.name not in self.nodes and len(self.nodes) >= limits.max_nodes:
            raise Busy(f"{len(self.nodes)} nodes are known", hint="remove keys of nodes that are gone", retry_after_s=1.0)

    def _replace(self, older: Peer, hello: Hello, now: float) -> None:
        if older.instance != hello.instance:
            error: ZClusterError = SessionReplaced(
                f"another process with the key of {older.identity.name} opened a session",
                hint="give each process its own key: `zcluster keys new NAME --role worker`",
            )
            self.farewells[older.route] = Bye(code=error.code, message=error.message, hint=error.hint)
            self._counters.add("session_replaced")
            self._emit(Event("session_replaced", {"session": older.no, "name": older.identity.name}, "warning"))
        self.leave(older, "replaced by a newer session of its key", now)

    def _attach(self, peer: Peer, hello: Hello, now: float) -> None:
        name, role = peer.identity.name, peer.identity.role
        node = self.nodes.get(name)
        if node is None or node.key not in ("", peer.identity.key):
            node = self.nodes[name] = Node(name, role, "joining", now)
        peer.node, node.peer, node.key = node, peer, peer.identity.key
        node.role, node.slots, node.version = role, hello.slots, hello.software
        node.door, node.agents = tuple(hello.door), 0
        node.functions = {info.name: info for info in hello.functions}
        node.last_seen_s = now
        self.set_state(node, "ready", "", now)
