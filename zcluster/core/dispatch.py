"""The master's queues: from an admitted request to its one outcome.

Rules kept here:
- a request is in one place: waiting in one queue, or running on one node under one leg; it ends exactly once, and an
  end is an answer to its caller;
- a node is given no more than its free slots, each caller no more than its share of them (Node.allowance);
- ``any`` goes to the worker with the smallest share of slots in use, to the master only when no worker has the function;
- when a node is lost, a running request that is idempotent, not bound to that node and not yet partly answered waits
  again (at most ``attempts`` times in all); every other one ends with NodeLost, once;
- a result counts only from the node and leg that it was given to.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from zcluster.core.catalog import Functions
from zcluster.core.counters import Counters
from zcluster.core.fairqueue import FairQueue
from zcluster.core.peers import Fan, Node, Peer, Request
from zcluster.core.relay import Gate, Relay
from zcluster.core.verdicts import encode_error, never_started, no_such_function, nobody_left, node_lost, not_served, overdue
from zcluster.core.wheel import Wheel
from zcluster.errors import ZClusterError
from zcluster.wire import Cancel, Credit, Grant, Of, Replies, ReplyGroup, Status, WorkGroup
from zcluster.wire.messages import RequestFlag


@dataclass(frozen=True)
class QueueLimits:
    """Bounds of the master's queues (config: queue.*)."""

    per_client: int = 131_072
    total: int = 524_288
    total_bytes: int = 268_435_456
    max_timeout_s: float = 86_400.0
    attempts: int = 3


class Dispatch:
    """Queues, legs and outcomes."""

    def __init__(self, limits: QueueLimits, transfer_bytes: int, counters: Counters) -> None:
        self.limits = limits
        self.gate = Gate(transfer_bytes)
        self.functions = Functions()
        self.waiting = 0
        self.waiting_bytes = 0
        self.running = 0
        self.rate_s = 0.0
        """Requests that ended in the last second: what a busy queue's waiting time is reckoned from."""
        self.touched: dict[Peer, None] = {}
        """The peers that may have something to be sent."""
        self._count = counters.add
        self._any: dict[str, FairQueue[Request]] = {}
        self._wheel: Wheel[Request] = Wheel()
        self._last_leg = 0
        self._dirty_nodes: dict[Node, None] = {}
        self._dirty_any: dict[str, None] = {}
        self._last_group: object = None
        self._last_node: Node | None = None

    # -- waiting ----------------------------------------------------------------------------------------------------

    def enqueue(self, request: Request, node: Node | None, *, front: bool = False) -> None:
        """Put ``request`` into the queue of ``node``, or of its function when any node will do."""
        function = request.group.function
        if node is not None:
            queue = node.queue
            self._dirty_nodes[node] = None
        else:
            found = self._any.get(function)
            queue = found if found is not None else self._any.setdefault(function, FairQueue())
            self._dirty_any[function] = None
        if request.fan is not None:
            request.fan.by_leg.pop(request.leg, None)
        request.node = node
        request.queue = queue
        queue.push(request, front=front)
        self._wheel.add(request.deadline_s, request)
        request.caller.waiting += 1
        self.waiting += 1
        self.waiting_bytes += len(request.body)

    def offer(self, node: Node) -> None:
        """``node`` can take work now (it joined, or came back)."""
        self._dirty_nodes[node] = None
        self._dirty_any.update(dict.fromkeys(name for name in self._any if name in node.functions))

    def dispatch(self, now: float) -> None:
        """Give waiting requests to nodes that have room."""
        while self._dirty_nodes:
            nodes, self._dirty_nodes = self._dirty_nodes, {}
            for node in nodes:
                self._serve(node, now)
                if self._any:
                    self._dirty_any.update(dict.fromkeys(name for name in self._any if name in node.functions))
        if self._dirty_any:
            names, self._dirty_any = self._dirty_any, {}
            for name in names:
                self._serve_any(name, now)

    def _serve(self, node: Node, now: float) -> None:
        queue = node.queue
        while queue and (free := node.free) > 0:
            run = queue.take(free, node.allowance)
            if not run:
                return
            for request in run:
                self._start(request, node, now)

    def _serve_any(self, function: str, now: float) -> None:
        queue = self._any.get(function)
        if queue is None:
            return
        candidates = self.functions.candidates(function)
        if len(candidates) == 1:
            node = candidates[0]
            while queue and (free := node.free) > 0 and (run := queue.take(free, node.allowance)):
                for request in run:
                    self._start(request, node, now)
        elif candidates:
            self._spread(queue, candidates, now)
        if not queue:
            del self._any[function]

    def _spread(self, queue: FairQueue[Request], nodes: list[Node], now: float) -> None:
        """One at a time to the least loaded, so that a burst does not pile up on one node."""
        heap = [(len(node.running) / node.slots, index) for index, node in enumerate(nodes)]
        heapq.heapify(heap)
        while heap and queue:
            node = nodes[heap[0][1]]
            run = queue.take(1, node.allowance) if node.free > 0 else []
            if run:
                self._start(run[0], node, now)
                heapq.heapreplace(heap, (len(node.running) / node.slots, heap[0][1]))
            else:
                heapq.heappop(heap)

    # -- running ----------------------------------------------------------------------------------------------------

    def _start(self, request: Request, node: Node, now: float) -> None:
        self._unqueued(request)
        group, peer = request.group, node.peer
        ttl_ms = int((request.deadline_s - now) * 1000)
        if ttl_ms <= 0 or peer is None:
            self._wheel.remove(request.deadline_s, request)
            self.answer_error(request, never_started(request, now))
            return
        if group.function not in node.functions:
            self._wheel.remove(request.deadline_s, request)
            self.answer_error(request, no_such_function(group.function, node.name))
            return
        self._last_leg = leg = self._last_leg + 1
        request.leg, request.node = leg, node
        request.attempts += 1
        node.running[leg] = request
        self.running += 1
        caller = request.caller
        node.by_caller[caller.no] = node.by_caller.get(caller.no, 0) + 1
        if request.fan is not None:
            request.fan.by_leg[leg] = request
        batch = peer.lanes.batch
        last = batch.last
        if (
            last is not None and self._last_group is group and self._last_node is node
            and last.first_request + len(last.sizes) == request.id and last.first_leg + len(last.sizes) == leg
        ):  # fmt: skip
            batch.join(request.body)
        else:
            batch.begin(
                WorkGroup(
                    group.function, caller.identity.name, caller.identity.role, ttl_ms, group.flags & RequestFlag.LARGE,
                    caller.no, request.id, leg, [request.size],
                ),
                request.body,
                256,
            )  # fmt: skip
            self._last_group, self._last_node = group, node
            self.touched[peer] = None
            if group.flags & RequestFlag.LARGE:
                request.relay = Relay(request, Of.REQUEST_BODY, request.size)
                batch.last = None

    def finish(self, request: Request, status: int, body: bytes) -> None:
        """A node has answered: the request ends with ``body``."""
        node = request.node
        assert node is not None
        self._off_node(request, node)
        self._wheel.remove(request.deadline_s, request)
        self.answer(request, status, node.name, body)

    def refused(self, request: Request, body: bytes) -> None:
        """A node would not start it: another may, unless it is for this one."""
        node = request.node
        assert node is not None
        self._off_node(request, node)
        if request.pinned or request.attempts >= self.limits.attempts:
            self._wheel.remove(request.deadline_s, request)
            self.answer(request, Status.ERROR, node.name, body)
        else:
            self.enqueue(request, None, front=True)

    def end_early(self, request: Request) -> Node | None:
        """Take ``request`` out, wherever it is, telling its node to stop; returns the node if it was running."""
        self._wheel.remove(request.deadline_s, request)
        if request.queue is not None:
            request.queue.remove(request)
            self._unqueued(request)
            return None
        node = request.node
        if node is None or node.running.get(request.leg) is not request:
            return None
        self._off_node(request, node)
        if node.peer is not None:
            node.peer.lanes.control.append(Cancel(ids=[request.leg]))
            self.touched[node.peer] = None
        return node

    def cancel(self, entry: Request | Fan) -> None:
        """The caller does not want it any more; it gets no answer."""
        for request in list(entry.left) if isinstance(entry, Fan) else [entry]:
            self.end_early(request)
            self._count("cancelled")
        entry.caller.requests.pop(entry.id, None)

    # -- time and loss ----------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        return self._wheel.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """End the requests whose deadline has passed."""
        for request in self._wheel.expired(now):
            self._count("timed_out")
            node = self.end_early(request)
            self.answer_error(request, never_started(request, now) if node is None else overdue(request, node.name))

    def node_lost(self, node: Node, reason: str, now: float) -> None:
        """The session of ``node`` ended: move or end what it had."""
        running, node.running = node.running, {}
        node.by_caller = {}
        self.running -= len(running)
        for request in reversed(running.values()):  # each goes to the front: the oldest last, so that it is first
            self._close_relay(request)
            if self._may_move(request, node, now):
                self._wheel.remove(request.deadline_s, request)
                self._count("moved")
                self.enqueue(request, None, front=True)
                continue
            self._wheel.remove(request.deadline_s, request)
            self._count("node_lost")
            self.answer_error(request, node_lost(request, node.name, reason))
        self.fail_queue(node, f"{node.name} is gone: {reason}")
        # The master may have to serve now what only this worker had.
        self._dirty_any.update(dict.fromkeys(name for name in self._any if name in node.functions))

    def fail_queue(self, node: Node, reason: str) -> None:
        """What waits for ``node`` will not be served."""
        for request in node.queue.drain():
            self._unqueued(request)
            self._wheel.remove(request.deadline_s, request)
            self.answer_error(request, not_served(request, reason))

    def fail_unprovided(self) -> None:
        """End the ``any`` requests for functions that no node has."""
        for function in [name for name in self._any if not self.functions.providers.get(name)]:
            for request in self._any.pop(function).drain():
                self._unqueued(request)
                self._wheel.remove(request.deadline_s, request)
                error = nobody_left(request) if request.attempts else no_such_function(function, "")
                self.answer_error(request, error)

    # -- answers ----------------------------------------------------------------------------------------------------

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
            self._count("failed" if status == Status.ERROR else "done")
            self.reply(caller, request.id, status, node, 0, body)
            return
        if fan.left.pop(request, False) is False:
            return
        fan.by_leg.pop(request.leg, None)
        self._count("failed" if status == Status.ERROR else "done")
        self.reply(caller, fan.id, status, node, request.leg, body)
        self.end_fan(fan)

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
            batch.begin(ReplyGroup(id_, status, node, leg, [len(body)]), body, 160)
            self.touched[caller] = None

    def large_reply(self, request: Request, size: int) -> None:
        """Tell the caller that a value of ``size`` bytes waits for its credit."""
        self._close_relay(request)
        request.relay = Relay(request, Of.REPLY_BODY, size)
        request.started = True
        node = request.node
        id_ = request.fan.id if request.fan is not None else request.id
        batch = request.caller.lanes.batch
        batch.begin(ReplyGroup(id_, Status.LARGE_VALUE, node.name if node else "", request.leg, [size]), b"")
        batch.last = None
        self.touched[request.caller] = None

    def large_done(self, request: Request) -> None:
        """The last piece of a large value has been passed on: the request ends without a further reply."""
        node = request.node
        assert node is not None
        self._off_node(request, node)
        self._wheel.remove(request.deadline_s, request)
        self._count("done")
        fan, caller = request.fan, request.caller
        if fan is None:
            caller.requests.pop(request.id, None)
            return
        fan.left.pop(request, None)
        fan.by_leg.pop(request.leg, None)
        self.end_fan(fan)

    def grant(self, relay: Relay) -> None:
        """Pass the receiver's credit on to the sender."""
        request = relay.owner
        if relay.of == Of.REQUEST_BODY:
            to, id_ = request.caller, request.fan.id if request.fan is not None else request.id
        elif request.node is not None and request.node.peer is not None:
            to, id_ = request.node.peer, 0
        else:
            return
        to.lanes.control.append(Credit(grants=[Grant(id_, request.leg, relay.of, relay.granted)]))
        self.touched[to] = None

    # -- inside -----------------------------------------------------------------------------------------------------

    def _unqueued(self, request: Request) -> None:
        request.queue = None
        request.caller.waiting -= 1
        self.waiting -= 1
        self.waiting_bytes -= len(request.body)

    def _off_node(self, request: Request, node: Node) -> None:
        del node.running[request.leg]
        self.running -= 1
        number = request.caller.no
        left = node.by_caller[number] - 1
        if left:
            node.by_caller[number] = left
        else:
            del node.by_caller[number]
        self._dirty_nodes[node] = None
        if request.relay is not None:
            self._close_relay(request)

    def _close_relay(self, request: Request) -> None:
        relay, request.relay = request.relay, None
        if relay is not None:
            for other in self.gate.close(relay):
                self.grant(other)

    def _may_move(self, request: Request, node: Node, now: float) -> bool:
        if request.pinned or request.started or request.attempts >= self.limits.attempts or request.deadline_s <= now:
            return False
        info = node.functions.get(request.group.function)
        return bool(request.group.flags & RequestFlag.IDEMPOTENT) or (info is not None and info.idempotent)
