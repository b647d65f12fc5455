"""What the master says to callers, and the credit it passes on.

Rules kept here:
- a request is answered once: who is not in its caller's table any more gets nothing;
- each part of a fan-out is answered by itself, and DONE follows the last of them;
- credit is passed on within the Gate's limit;
- the end of an audited request is written on its trail, with its answer or without.
"""

from __future__ import annotations

from zcluster.core.auditing import CANCELLED, Auditing, error_code
from zcluster.core.counters import Counters
from zcluster.core.peers import Fan, Node, Peer, Request
from zcluster.core.relay import Gate, Relay
from zcluster.core.verdicts import encode_error
from zcluster.errors import ZClusterError
from zcluster.wire import Grant, Of, Replies, ReplyGroup, Status


class Answers:
    """The way back of requests."""

    def __init__(self, transfer_bytes: int, window_bytes: int, counters: Counters) -> None:
        self.gate = Gate(transfer_bytes, window_bytes)
        self.touched: dict[Peer, None] = {}
        """The peers that may have something to be sent."""
        self.auditing = Auditing()
        self._count = counters.add

    def answer_error(self, request: Request, error: ZClusterError) -> None:
        """End ``request`` with ``error``."""
        node = request.node.name if request.node is not None else ""
        self.answer(request, Status.ERROR, node, encode_error(error, node, f"{request.caller.no}.{request.id}"))

    def answer(self, request: Request, status: int, node: str, body: bytes) -> None:
        """The last word on ``request``: its caller gets it, and its place is free."""
        fan, caller = request.fan, request.caller
        if fan is None:
            if caller.requests.pop(request.id, None) is None:
                return
            self._ended(request, status, node, body)
            self.reply(caller, request.id, status, node, 0, body)
            return
        if fan.left.pop(request, False) is False:
            return
        fan.by_leg.pop(request.leg, None)
        self._ended(request, status, node, body)
        self.reply(caller, fan.id, status, node, request.leg, body)
        self.end_fan(fan)

    def _ended(self, request: Request, status: int, node: str, body: bytes) -> None:
        """``request`` has its answer."""
        self._count("failed" if status == Status.ERROR else "done")
        if request.trail is not None:
            error = error_code(body) if status == Status.ERROR else ""
            self.auditing.part_ended(request.trail, node, request.attempts, error)

    def _cancelled(self, request: Request) -> None:
        """``request`` ends without an answer."""
        self._count("cancelled")
        if request.trail is not None:
            node = request.node.name if request.node is not None else ""
            self.auditing.part_ended(request.trail, node, request.attempts, CANCELLED)

    def _moved(self, request: Request, node: Node) -> None:
        """``node`` was lost with ``request``, which waits for another."""
        self._count("moved")
        if request.trail is not None:
            self.auditing.moved(request.trail, node.name)

    def end_fan(self, fan: Fan) -> None:
        """Tell the caller that a fan-out has all its answers, once it has.

        DONE goes by the bulk lane, so that it does not overtake the last chunk of a large value.
        """
        if not fan.left and fan.caller.requests.pop(fan.id, None) is not None:
            fan.caller.lanes.add_bulk(Replies([ReplyGroup(fan.id, Status.DONE, "", 0, [0])]), b"")
            self.touched[fan.caller] = None

    def reply(self, caller: Peer, id_: int, status: int, node: str, leg: int, body: bytes) -> None:
        """Queue one reply."""
        batch = caller.lanes.batch
        last = batch.last
        if (
            last is not None and last.status == status and last.node == node and not leg and not last.leg
            and status <= Status.ERROR and last.first_id + len(last.sizes) == id_
        ):  # fmt: skip
            batch.join(body)
        else:
            batch.begin(ReplyGroup(id_, status, node, leg, [len(body)]), body, 64 + 6 * len(node))
            self.touched[caller] = None

    def large_reply(self, request: Request, size: int) -> None:
        """Tell the caller that a value of ``size`` bytes waits for its credit."""
        self.close_relay(request)
        request.relay = Relay(request, Of.REPLY_BODY, size)
        request.started = True
        node = request.node
        id_ = request.fan.id if request.fan is not None else request.id
        batch = request.caller.lanes.batch
        batch.begin(ReplyGroup(id_, Status.LARGE_VALUE, node.name if node else "", request.leg, [size]), b"")
        batch.last = None
        self.touched[request.caller] = None

    def grant(self, relay: Relay) -> None:
        """Pass the receiver's credit on to the sender."""
        request = relay.owner
        if relay.of == Of.REQUEST_BODY:
            to, id_ = request.caller, request.fan.id if request.fan is not None else request.id
        elif request.node is not None and request.node.peer is not None:
            to, id_ = request.node.peer, 0
        else:
            return
        to.lanes.add_grant(Grant(id_, request.leg, relay.of, relay.granted))
        self.touched[to] = None

    def close_relay(self, request: Request) -> None:
        relay, request.relay = request.relay, None
        if relay is not None:
            for other in self.gate.close(relay):
                self.grant(other)
