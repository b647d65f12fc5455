"""The master: sessions, queues and answers put together.

Rules kept here:
- before HELLO nothing is served; a message of a kind that the peer's role may not send is refused and counted;
- every message that is refused as a whole is answered with a REFUSAL, so that nobody waits for silence (refusing.py);
- what a call changes leaves with the next :meth:`Master.take`: first control, then batches, then bulk, for each peer;
- a peer that does not read has at most ``outbox_bytes`` waiting for it; beyond that its session ends.

Events in: connections' messages, their ends, the ring's changes, time. Out: messages by route, and Events.
"""

from __future__ import annotations

from collections.abc import Callable

from zcluster.core.admission import Admission
from zcluster.core.attachments import Attachment, Attachments
from zcluster.core.backlog import Backlog
from zcluster.core.batch import Body, Outgoing
from zcluster.core.counters import Counters
from zcluster.core.dispatch import Dispatch
from zcluster.core.drained import Drained
from zcluster.core.flow import Flow
from zcluster.core.greeting import Greeting, may_request
from zcluster.core.limits import MasterLimits
from zcluster.core.moving import Moves, is_moved
from zcluster.core.peers import DRAINING, LOCAL, Event, Fan, Identity, Node, Peer, Request, Route
from zcluster.core.refusing import Refusing
from zcluster.core.rights import Rights
from zcluster.core.roster import Roster
from zcluster.core.treelink import TreeLink
from zcluster.errors import NotAllowed, PeerError, Unreachable, ZClusterError
from zcluster.wire import (
    Beat,
    Bye,
    Cancel,
    Chunk,
    Credit,
    Hello,
    Message,
    Requests,
    Results,
    Sealed,
    encode,
)

RATE_EVERY_S = 1.0
BLOCKED_MAX_S = 60.0
"""How long a peer may take nothing of what is sent to it before its session ends."""


class Master:
    """The machine of the master."""

    def __init__(
        self,
        name: str,
        cluster: str,
        epoch: int,
        limits: MasterLimits,
        may_send: Callable[[str, str], bool],
        may_call: Callable[[str, str], bool],
        now: float,
        software: str = "",
        expected: dict[str, str] | None = None,
        rights: Rights | None = None,
    ) -> None:
        self.name, self.cluster, self.epoch, self.software = name, cluster, epoch, software
        self.limits = limits
        self.counters = Counters()
        self.events: list[Event] = []
        self.rights = rights or Rights()
        self._greeting = Greeting(self, may_send)
        self.roster = Roster(limits.session, self.counters, self.note, self._gone)
        self.moves = Moves(self.roster)
        self.refusing = Refusing(self, limits.faults)
        self.attached = Attachments()
        self.trees = TreeLink()
        self.attach(self.trees)
        self.dispatch = Dispatch(limits.queue, limits.transfer_bytes, limits.window_bytes, self.counters, self.rights)
        self.flow = Flow(self.dispatch, limits.body_bytes, limits.inline_bytes, self.counters)
        self.admission = Admission(
            self.roster.nodes, name, self.dispatch, may_call, limits.body_bytes, limits.inline_bytes, self.counters, self.note
        )
        self.backlog = Backlog(self.admission.admit, self._cancel)
        self.drained = Drained(self.roster.nodes, self.dispatch)
        self.admission.grace_until_s = now + limits.session.heartbeat_s * limits.session.lease_heartbeats
        self._grace_over = False
        self.roster.nodes[name] = Node(name, "master", "joining", now)
        self.roster.expect(expected or {}, now)
        self._now = now
        self._rate_due_s = now + RATE_EVERY_S
        self._done_before = 0
        self._lost: dict[Node, str] = {}
        """Nodes whose session ended in this turn, with the reason."""
        self._catalog_changed = False
        self._catalog_told = self.dispatch.functions.catalog()

    # -- events -----------------------------------------------------------------------------------------------------

    def receive(self, route: Route, identity: Identity, message: Message, data: bytes, offset: int, now: float) -> None:
        """A message from the connection ``route``, whose key belongs to ``identity``; its bodies begin at ``offset``."""
        if message.kind == Hello.kind and isinstance(message, Hello):
            self._greeting.hello(route, identity, message, now)
            return
        peer = self.roster.peers.get(route)
        if peer is None or (peer.identity is not identity and peer.identity != identity):
            first = self.attached.unannounced.get(message.kind)
            if first is not None and peer is None:
                first(route, identity, message, now)
                return
            self.refusing.outside(route, identity, now)
            return
        self.roster.seen(peer, now)
        if message.kind not in peer.kinds:
            error = NotAllowed(f"a {peer.identity.role} may not send {type(message).__name__.upper()}")
            self.refusing.message(peer, message, error, now)
            return
        self._handle(peer, message, data, offset, now)

    def malformed(self, route: Route, identity: Identity, error: PeerError, now: float) -> None:
        """A message of ``route``, whose key belongs to ``identity``, could not be read."""
        self.refusing.unreadable(route, identity, error, now)

    def disconnected(self, route: Route, now: float) -> None:
        """The connection is gone."""
        self.moves.disconnected(route)
        peer = self.roster.peers.get(route)
        if peer is not None:
            self.roster.leave(peer, "its connection ended", now)

    def keys_changed(self, admitted: Callable[[Identity], bool], now: float) -> list[Route]:
        """The ring changed: sessions of keys that are out end now; returns their routes."""
        return [peer.route for peer in self.roster.drop_keys(admitted, now)]

    def forget_nodes(self, known: Callable[[str], bool]) -> None:
        """Nodes that are away and whose key is no longer in the ring are forgotten."""
        for node in self.roster.forget(known):
            self.dispatch.fail_queue(node, f"{node.name} is no longer a node of this cluster")

    def drain(self) -> None:
        """Take no new requests; peers are told."""
        self.admission.draining = True
        for peer in self.roster.peers.values():
            self.say(peer, DRAINING)

    def close(self, now: float) -> None:
        """End everything that is left, with an error that says so, and say BYE to everyone."""
        self.backlog.admit_all()
        error = Unreachable("the master shut down before the answer; whether it ran is unknown", hint="call again")
        for peer in list(self.roster.peers.values()):
            for entry in list(peer.requests.values()):
                for request in list(entry.left) if isinstance(entry, Fan) else [entry]:
                    self.dispatch.end_early(request)
                    self.dispatch.answer_error(request, error)
            peer.lanes.add_bulk(Bye(code="unreachable", message="the master shut down"), b"")  # behind the errors above
            self.dispatch.touched[peer] = None

    # -- time and output --------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When :meth:`handle_deadline` has to be called at the latest."""
        if self.backlog:
            return self._now
        mine = min(self.roster.next_deadline(), self._rate_due_s)
        theirs = self.dispatch.next_deadline()
        return mine if theirs is None else min(mine, theirs)

    def handle_deadline(self, now: float) -> None:
        """End what is due: deadlines of requests, leases of sessions, the grace after the start."""
        self.dispatch.handle_deadline(now)
        self.roster.handle_deadline(now)
        if not self._grace_over and now >= self.admission.grace_until_s:
            self._grace_over = True
            for node in self.roster.end_expectation(now):
                self.dispatch.fail_queue(node, f"{node.name} is not back since the master's start")
            self.dispatch.fail_unprovided()
        if now >= self._rate_due_s:
            for peer in [peer for peer in self.roster.peers.values() if peer.blocked]:
                self._check_outbox(peer, now)
            done = self.counters.values.get("done", 0) + self.counters.values.get("failed", 0)
            self.dispatch.rate_s, self._done_before = float(done - self._done_before), done
            self._rate_due_s = now + RATE_EVERY_S

    def take(self, now: float) -> list[tuple[Route, list[Outgoing]]]:
        """What is to be sent now, by route. Peers that are blocked keep theirs."""
        if self._catalog_changed:
            self._tell_catalog()
        out: list[tuple[Route, list[Outgoing]]] = []
        if self.roster.farewells:
            out = [(route, [(message, [])]) for route, message in self.roster.farewells.items()]
            self.roster.farewells.clear()
        self._now = now
        self.backlog.admit_some()
        self._dispatch(now)
        while touched := self.dispatch.touched:
            self.dispatch.touched = {}
            for peer in touched:
                if peer.blocked:
                    self._check_outbox(peer, now)
                elif peer.lanes:
                    bulk_bytes = peer.lanes.bulk_bytes
                    out.append((peer.route, peer.lanes.take()))
                    if bulk_bytes:
                        self._released(bulk_bytes)
            # What was released may be granted again, and what a lost node had may go to another: in this turn too.
            self._dispatch(now)
        return out

    def attach(self, part: Attachment) -> None:
        """Let ``part`` speak on the sessions, those that are opened from now on."""
        self.attached.add(part)

    def tell(self, peer: Peer, message: Message, body: Body = b"") -> None:
        """Send ``message`` of an attached part's kind to ``peer``, in the next turn. Nothing when its session is over."""
        if self.roster.peers.get(peer.route) is peer:
            peer.lanes.add_tree(message if type(message) is Sealed else Sealed(encode(message, (body,))))
            self.dispatch.touched[peer] = None

    def end(self, peer: Peer, error: ZClusterError, now: float) -> None:
        """End the session of ``peer``, which is told why."""
        self.roster.farewells[peer.route] = Bye(code=error.code, message=error.message, hint=error.hint)
        self.roster.leave(peer, error.message, now)

    def unblock(self, route: Route) -> None:
        """The driver can send to ``route`` again."""
        peer = self.roster.peers.get(route)
        if peer is not None:
            peer.blocked = False
            self.moves.unblocked(peer)
            self.dispatch.touched[peer] = None

    def block(self, route: Route, unsent: list[Outgoing]) -> None:
        """The driver could not send to ``route``: ``unsent`` comes back, and waits here until :meth:`unblock`."""
        peer = self.roster.peers.get(route)
        if peer is not None:
            if not peer.blocked:
                peer.blocked, peer.blocked_s = True, self._now
            peer.lanes.put_back(unsent)
            self.counters.add("peer_blocked")

    def apply(self, limits: MasterLimits) -> None:
        """Take new limits; those of sessions hold for sessions opened from now on."""
        self.limits = limits
        self.refusing.faults.most = limits.faults
        self.roster.limits = limits.session
        self.dispatch.limits = limits.queue
        self.dispatch.gate.limit_bytes, self.dispatch.gate.window_bytes = limits.transfer_bytes, limits.window_bytes
        self.flow.body_bytes = self.admission.body_bytes = limits.body_bytes
        self.flow.inline_bytes = self.admission.inline_bytes = limits.inline_bytes

    # -- inside -----------------------------------------------------------------------------------------------------

    def _handle(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        node = peer.node
        part = self.attached.by_kind.get(message.kind)
        if part is not None:
            try:
                part.received(peer, message, data, offset, now)
            except ZClusterError as error:
                self.refusing.message(peer, message, error, now)
            return
        match message:
            case Requests():
                self.backlog.requests(peer, message, data, offset, now)
            case Results() if node is not None:
                self.flow.results(node, message, data, offset)
            case Beat():
                self.roster.beat(peer, message)
                self.trees.beat(peer, message.trees)
                self.say(peer, Beat())
                if node is not None:
                    self.dispatch.offer(node)
            case Cancel():
                self.backlog.cancels(peer, message)
            case Credit() if node is not None:
                self.flow.node_credit(node, message)
            case Credit():
                self.flow.client_credit(peer, message)
            case Chunk() if node is not None:
                self.flow.node_chunk(node, message, memoryview(data)[offset:])
            case Chunk():
                self.flow.client_chunk(peer, message, memoryview(data)[offset:])
            case Bye(draining=True):
                peer.draining = True
                if node is not None:
                    self.dispatch.fail_queue(node, f"{node.name} is shutting down")
                    self.note(Event("node_draining", {"name": node.name}))
            case Bye() if is_moved(message):
                if self.moves.said_last(peer):
                    self.dispatch.touched[peer] = None
                else:
                    self.roster.leave(peer, "its connection ended while it moved", now)
            case Bye():
                self.roster.leave(peer, "left", now, state="left")
            case _:
                self.refusing.message(peer, message, PeerError(f"{type(message).__name__.upper()} makes no sense here"), now)

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """A session was opened and greeted: what else it is told."""
        self.attached.opened(peer, hello, now)
        self.drained.opened(peer)
        if peer.node is not None:
            self.dispatch.functions.provide(peer.node)
            self.dispatch.offer(peer.node)
            self._catalog_changed = True
        elif may_request(peer):
            self.say(peer, self.dispatch.functions.catalog())

    def _gone(self, peer: Peer, reason: str, now: float) -> None:
        self.moves.ended(peer)
        self.attached.closed(peer, reason, now)
        self.backlog.drop(peer)
        for entry in list(peer.requests.values()):
            self.dispatch.cancel(entry)
        if peer.lanes.bulk_bytes:
            self._released(peer.lanes.bulk_bytes)
        # Nothing of this session is sent any more: its route may have another one, and its bulk is released.
        self.dispatch.touched.pop(peer, None)
        node = peer.node
        if node is None or node.peer is not None:
            return
        self.dispatch.functions.withdraw(node)
        self.dispatch.node_lost(node, reason, now)
        self._lost[node] = reason
        self._catalog_changed = True

    def _cancel(self, peer: Peer, message: Cancel) -> None:
        for id_ in message.ids:
            entry = peer.requests.get(id_)
            if entry is not None:
                self.dispatch.cancel(entry)

    def _dispatch(self, now: float) -> None:
        if self._lost:
            # What waits for a node survives when its next session opens in the same turn, as it does after a broken
            # connection: HELLO comes before the end of the old connection is noticed.
            lost, self._lost = self._lost, {}
            for node, reason in lost.items():
                if node.peer is None:
                    self.dispatch.fail_queue(node, f"{node.name} is gone: {reason}")
            if now >= self.admission.grace_until_s:
                self.dispatch.fail_unprovided()
        self.dispatch.dispatch(now)

    def _released(self, length: int) -> None:
        for relay in self.dispatch.gate.release(length):
            self.dispatch.grant(relay)

    def _check_outbox(self, peer: Peer, now: float) -> None:
        if peer.lanes.waiting_bytes > self.limits.outbox_bytes or now - peer.blocked_s > BLOCKED_MAX_S:
            self.counters.add("slow_reader")
            self.note(Event("slow_reader", {"name": peer.identity.name, "waiting_bytes": peer.lanes.waiting_bytes}, "warning"))
            self.roster.leave(peer, "it does not read what is sent to it", now)

    def _tell_catalog(self) -> None:
        self._catalog_changed = False
        catalog = self.dispatch.functions.catalog()
        if catalog == self._catalog_told:
            return
        self._catalog_told = catalog
        for peer in self.roster.peers.values():
            if peer.node is None and may_request(peer):
                self.say(peer, catalog)

    def say(self, peer: Peer, message: Message) -> None:
        """Tell ``peer`` before all else that waits for it, in the next turn."""
        peer.lanes.control.append(message)
        self.dispatch.touched[peer] = None

    def note(self, event: Event) -> None:
        """Something has happened at this node: counted, and told with the events."""
        self.counters.add(f"event_{event.name}")
        self.events.append(event)

__all__ = ["LOCAL", "Master", "MasterLimits", "Request"]
