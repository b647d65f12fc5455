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

from zcluster.core.answers import Answers
from zcluster.core.catalog import Functions
from zcluster.core.counters import Counters
from zcluster.core.fairqueue import FairQueue
from zcluster.core.peers import Fan, Node, Peer, Request
from zcluster.core.rights import Rights
from zcluster.core.verdicts import never_started, no_such_function, nobody_left, node_lost, not_served, overdue
from zcluster.core.wheel import Wheel
from zcluster.core.workgroups import begin_group, join_marked
from zcluster.wire import Status
from zcluster.wire.messages import RequestFlag


@dataclass(frozen=True)
class QueueLimits:
    """Bounds of the master's queues (config: queue.*)."""

    per_client: int = 131_072
    total: int = 524_288
    total_bytes: int = 268_435_456
    max_timeout_s: float = 86_400.0
    attempts: int = 3


class Dispatch(Answers):
    """Queues, legs and outcomes."""

    def __init__(
        self, limits: QueueLimits, transfer_bytes: int, window_bytes: int, counters: Counters, rights: Rights | None = None
    ) -> None:
        super().__init__(transfer_bytes, window_bytes, counters)
        self.limits = limits
        self.rights = rights or Rights()
        self.functions = Functions()
        self.waiting = 0
        self.waiting_bytes = 0
        self.running = 0
        self.rate_s = 0.0
        """Requests that ended in the last second: what a busy queue's waiting time is reckoned from."""
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
        queue = self.queue_of(request.group.function, node)
        if request.fan is not None:
            request.fan.by_leg.pop(request.leg, None)
        request.node = node
        self.park(request, queue, front=front)

    def park(self, request: Request, queue: FairQueue[Request], *, front: bool = False) -> None:
        """Let ``request`` wait in ``queue``, with its deadline."""
        request.queue = queue
        queue.push(request, front=front)
        self._wheel.add(request.deadline_s, request)
        request.caller.waiting += 1
        self.waiting += 1
        self.waiting_bytes += len(request.body)

    def unpark(self, request: Request) -> None:
        """``request`` waits no longer where it did."""
        assert request.queue is not None
        request.queue.remove(request)
        self._unqueued(request)
        self._wheel.remove(request.deadline_s, request)

    def enqueue_run(self, requests: list[Request], queue: FairQueue[Request], now: float) -> None:
        """Put requests of one group into ``queue`` (see queue_of), to which they were made.

        When nobody waits there and the node has room for all of them they start at once: the queue would only be passed
        through.
        """
        first, count = requests[0], len(requests)
        self._wheel.add_run(first.deadline_s, requests)
        first.caller.waiting += count
        self.waiting += count
        self.waiting_bytes += sum(first.group.sizes)
        node = first.node
        if node is not None and not queue and min(node.free, node.allows(first)) >= count:
            self._start_run(requests, node, now)
        else:
            queue.push_run(requests)
            if node is not None:
                self._dirty_nodes[node] = None

    def queue_of(self, function: str, node: Node | None) -> FairQueue[Request]:
        """The queue of ``node``, or of ``function`` when any node will do; it will be served by the next dispatch."""
        if node is not None:
            self._dirty_nodes[node] = None
            return node.queue
        self._dirty_any[function] = None
        queue = self._any.get(function)
        if queue is None:
            queue = self._any[function] = FairQueue()
        return queue

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
            run = queue.take(free, node.allows)
            if not run:
                return
            self._start_run(run, node, now)

    def _serve_any(self, function: str, now: float) -> None:
        queue = self._any.get(function)
        if queue is None:
            return
        candidates = self.functions.candidates(function)
        if len(candidates) == 1:
            node = candidates[0]
            while queue and (free := node.free) > 0 and (run := queue.take(free, node.allows)):
                self._start_run(run, node, now)
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
            run = queue.take(1, node.allows) if node.free > 0 else []
            if run:
                self._start_run(run, node, now)
                heapq.heapreplace(heap, (len(node.running) / node.slots, heap[0][1]))
            else:
                heapq.heappop(heap)

    # -- running ----------------------------------------------------------------------------------------------------

    def _start_run(self, run: list[Request], node: Node, now: float) -> None:
        """Give requests of one caller for one function to ``node``: what is alike in them is looked at once."""
        caller, peer = run[0].caller, node.peer
        count, group, ttl_ms, quick = len(run), None, 0, node.is_quick(run[0].group.function)
        caller.waiting -= count
        self.waiting -= count
        self.waiting_bytes -= sum([len(request.body) for request in run])
        running, leg = node.running, self._last_leg
        for request in run:
            request.queue = None
            if request.group is not group:
                group = request.group
                ttl_ms = int((request.deadline_s - now) * 1000) if peer is not None else 0
            if ttl_ms <= 0 or peer is None or group.function not in node.functions:
                count -= 1
                self._wheel.remove(request.deadline_s, request)
                late = ttl_ms <= 0
                self.answer_error(request, never_started(request, now) if late else no_such_function(group.function, node.name))
                continue
            leg += 1
            request.leg, request.node = leg, node
            request.quick = quick
            request.attempts += 1
            running[leg] = request
            if request.fan is not None:
                request.fan.by_leg[leg] = request
            batch, unmarked = peer.lanes.batch, request.mark is None
            last = batch.last
            if (
                unmarked and last is not None and self._last_group is group and self._last_node is node
                and last.first_request + len(last.sizes) == request.id and last.first_leg + len(last.sizes) == leg
            ):  # fmt: skip
                batch.join(request.body)
            elif unmarked or not join_marked(request, batch, ttl_ms):
                begin_group(request, batch, ttl_ms, self.rights)
                self._last_group, self._last_node = group if unmarked else None, node
        self._last_leg = leg
        if count:
            self.running += count
            node.took(caller, count, now, quick=quick)
            if peer is not None:
                self.touched[peer] = None

    def finish_run(self, node: Node, leg: int, status: int, sizes: list[int], data: bytes, offset: int) -> int:
        """Values or errors of consecutive legs of ``node``; returns the offset behind their bodies.

        The same as finish for each, at half its cost: what one caller's requests have in common is done once.
        """
        running, remove = node.running, self._wheel.remove
        name, count, quick, ended, stray = node.name, 0, 0, 0, 0
        caller: Peer | None = None
        for size in sizes:
            end = offset + size
            request = running.get(leg)
            if request is None:
                stray += 1
            elif request.fan is not None or request.relay is not None or request.trail is not None:
                self.finish(request, status, data[offset:end])
            else:
                if request.caller is not caller:
                    self._free_slots(node, caller, count, quick)
                    caller, count, quick = request.caller, 0, 0
                    batch = caller.lanes.batch
                del running[leg]
                count += 1
                quick += request.quick
                remove(request.deadline_s, request)
                id_ = request.id
                if caller.requests.pop(id_, None) is not None:
                    ended += 1
                    last = batch.last
                    # The common case of self.reply, without the call: the reply follows the one before.
                    if (
                        last is not None and last.first_id + len(last.sizes) == id_ and last.status == status
                        and last.node == name and not last.leg
                    ):  # fmt: skip
                        batch.join(data[offset:end])
                    else:
                        self.reply(caller, id_, status, name, 0, data[offset:end])
            leg, offset = leg + 1, end
        self._free_slots(node, caller, count, quick)
        self._count("failed" if status == Status.ERROR else "done", ended)
        if stray:
            self._count("stray_result", stray)
        return offset

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
        if request.pinned or request.started or request.attempts >= self.limits.attempts:
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
            node.peer.lanes.add_cancel(request.leg)
            self.touched[node.peer] = None
        return node

    def cancel(self, entry: Request | Fan) -> None:
        """The caller does not want it any more; it gets no answer."""
        requests: list[Request]
        if isinstance(entry, Fan):  # which lets go of its parts: they hold it
            requests, entry.left, entry.by_leg = list(entry.left), {}, {}
        else:
            requests = [entry]
        for request in requests:
            self.end_early(request)
            self._cancelled(request)
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
        """The session of ``node`` ended: move or end what ran there. What waits for it stays (see fail_queue)."""
        running, node.running = node.running, {}
        node.by_caller, node.quick = {}, {}
        self.running -= len(running)
        for request in reversed(running.values()):  # each goes to the front: the oldest last, so that it is first
            self.close_relay(request)
            if self._may_move(request, node, now):
                self._wheel.remove(request.deadline_s, request)
                self._moved(request, node)
                self.enqueue(request, None, front=True)
                continue
            self._wheel.remove(request.deadline_s, request)
            self._count("node_lost")
            self.answer_error(request, node_lost(request, node.name, reason))
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

    def large_done(self, request: Request) -> None:
        """The last piece of a large value has been passed on: the request ends without a further reply."""
        node = request.node
        assert node is not None
        self._off_node(request, node)
        self._wheel.remove(request.deadline_s, request)
        self._ended(request, Status.VALUE, node.name, b"")
        fan, caller = request.fan, request.caller
        if fan is None:
            caller.requests.pop(request.id, None)
            return
        fan.left.pop(request, None)
        fan.by_leg.pop(request.leg, None)
        self.end_fan(fan)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _unqueued(self, request: Request) -> None:
        request.queue = None
        request.caller.waiting -= 1
        self.waiting -= 1
        self.waiting_bytes -= len(request.body)

    def _off_node(self, request: Request, node: Node) -> None:
        del node.running[request.leg]
        self._free_slots(node, request.caller, 1, int(request.quick))
        if request.relay is not None:
            self.close_relay(request)

    def _free_slots(self, node: Node, caller: Peer | None, count: int, quick: int) -> None:
        if caller is None or not count:
            return
        self.running -= count
        node.gave_back(caller.no, count, quick)
        if node.queue or self._any:
            self._dirty_nodes[node] = None

    def _may_move(self, request: Request, node: Node, now: float) -> bool:
        if request.pinned or request.started or request.attempts >= self.limits.attempts or request.deadline_s <= now:
            return False
        info = node.functions.get(request.group.function)
        return bool(request.group.flags & RequestFlag.IDEMPOTENT) or (info is not None and info.idempotent)
