"""Results, credit and chunks on their way through the master.

Rules kept here:
- what a worker says of a leg counts only while that leg runs on that worker; everything else is stray, and counted;
- credit and chunks reach only the other end of the same leg;
- a peer that sends what was not granted has broken the protocol: its request ends with an error.
"""

from __future__ import annotations

from zcluster.core.counters import Counters
from zcluster.core.dispatch import Dispatch
from zcluster.core.peers import Fan, Node, Peer, Request
from zcluster.errors import PeerError, TooLarge
from zcluster.wire import Chunk, Credit, Grant, Of, Results, Status
from zcluster.wire.messages import RequestFlag


class Flow:
    """Moves answers, credit and chunks between the two ends of a leg."""

    def __init__(self, dispatch: Dispatch, body_bytes: int, inline_bytes: int, counters: Counters) -> None:
        self.body_bytes = body_bytes
        self.inline_bytes = inline_bytes
        self._dispatch = dispatch
        self._count = counters.add

    def results(self, node: Node, message: Results, data: bytes, offset: int) -> None:
        """Results of a node."""
        for group in message.groups:
            leg, status = group.first_leg, group.status
            if status <= Status.ERROR and max(group.sizes) <= self.inline_bytes:
                offset = self._dispatch.finish_run(node, leg, status, group.sizes, data, offset)
                continue
            for size in group.sizes:
                end = offset if status == Status.LARGE_VALUE else offset + size
                request = node.running.get(leg)
                if request is None:
                    self._count("stray_result")
                else:
                    self._other_result(request, status, size, data[offset:end])
                if status != Status.ITEM:
                    leg += 1
                offset = end

    def _other_result(self, request: Request, status: int, size: int, body: bytes) -> None:
        dispatch, node = self._dispatch, request.node
        assert node is not None
        match status:
            case _ if len(body) > self.inline_bytes:
                self._broken(request, PeerError(f"{len(body)} bytes in one piece, at most {self.inline_bytes} are allowed"))
            case Status.ITEM if request.items >= request.items_upto:
                self._broken(request, PeerError(f"an item beyond the {request.items_upto} that were granted"))
            case Status.ITEM:
                request.items += 1
                request.started = True
                id_ = request.fan.id if request.fan is not None else request.id
                dispatch.reply(request.caller, id_, Status.ITEM, node.name, request.leg, body)
                request.caller.lanes.batch.last = None
            case Status.VALUE | Status.ERROR | Status.END:
                dispatch.finish(request, status, body)
            case Status.REFUSED:
                dispatch.refused(request, body)
            case Status.LARGE_VALUE if size > self.body_bytes:
                dispatch.end_early(request)
                dispatch.answer_error(request, TooLarge(f"a value of {size} bytes, at most {self.body_bytes} are allowed"))
            case Status.LARGE_VALUE:
                dispatch.large_reply(request, size)
            case _:
                self._count("stray_result")

    def client_credit(self, peer: Peer, message: Credit) -> None:
        """A client takes more of a large value or of a stream."""
        for grant in message.grants:
            request = _running(peer, grant.id, grant.leg)
            node = request.node if request is not None else None
            if request is None or node is None or node.peer is None:
                self._count("stray_credit")
            elif grant.of == Of.ITEMS:
                if grant.upto > request.items_upto:
                    request.items_upto = grant.upto
                    node.peer.lanes.add_grant(Grant(0, grant.leg, Of.ITEMS, grant.upto))
                    self._dispatch.touched[node.peer] = None
            elif grant.of == Of.REPLY_BODY:
                self._want(request, grant)
            else:
                self._count("stray_credit")  # nobody grants credit to itself

    def node_credit(self, node: Node, message: Credit) -> None:
        """A node takes more of a large argument."""
        for grant in message.grants:
            request = node.running.get(grant.leg)
            if request is None or grant.of != Of.REQUEST_BODY:
                self._count("stray_credit")
            else:
                self._want(request, grant)

    def client_chunk(self, peer: Peer, message: Chunk, data: memoryview) -> None:
        """A piece of a large argument."""
        request = _running(peer, message.id, message.leg)
        node = request.node if request is not None else None
        if request is None or node is None or node.peer is None or not request.group.flags & RequestFlag.LARGE:
            self._count("stray_chunk")
            return
        if self._accepted(request, Of.REQUEST_BODY, message.offset, len(data)) is None:
            return
        node.peer.lanes.add_bulk(Chunk(0, message.leg, message.offset), data)
        self._dispatch.touched[node.peer] = None

    def node_chunk(self, node: Node, message: Chunk, data: memoryview) -> None:
        """A piece of a large value."""
        request = node.running.get(message.leg)
        if request is None:
            self._count("stray_chunk")
            return
        last = self._accepted(request, Of.REPLY_BODY, message.offset, len(data))
        if last is None:
            return
        caller = request.caller
        id_ = request.fan.id if request.fan is not None else request.id
        caller.lanes.add_bulk(Chunk(id_, message.leg, message.offset), data)
        self._dispatch.touched[caller] = None
        if last:
            self._dispatch.large_done(request)

    def _want(self, request: Request, grant: Grant) -> None:
        relay = request.relay
        if relay is None or relay.of != grant.of:
            self._count("stray_credit")
        elif self._dispatch.gate.want(relay, grant.upto):
            self._dispatch.grant(relay)

    def _accepted(self, request: Request, of: int, offset: int, length: int) -> bool | None:
        """Whether the chunk is the last of its body; None when it may not be taken."""
        relay = request.relay
        if relay is None or relay.of != of:
            # Of a body whose transfer has ended meanwhile: a worker may answer before it has all of its argument.
            self._count("stray_chunk")
            return None
        try:
            last = relay.accept(offset, length)
        except PeerError as error:
            self._broken(request, error)
            return None
        if self._dispatch.gate.go_on(relay):
            self._dispatch.grant(relay)
        return bool(last)

    def _broken(self, request: Request, error: PeerError) -> None:
        """A peer broke the rules of this request: it ends."""
        self._count("protocol_error")
        self._dispatch.end_early(request)
        self._dispatch.answer_error(request, error)


def _running(peer: Peer, id_: int, leg: int) -> Request | None:
    """The request of ``peer`` that runs under ``leg``."""
    entry = peer.requests.get(id_)
    request = entry.by_leg.get(leg) if isinstance(entry, Fan) else entry
    return request if request is not None and request.queue is None and request.leg == leg else None
