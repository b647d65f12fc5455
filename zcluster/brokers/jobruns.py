"""Leased jobs as work: the queue is a caller like any other, and what it calls goes the way of all requests.

Rules kept here:
- a job runs with the identity of who asked for it: each key has a caller of its own, with the rights that it has now;
- a job is given to its node when that has a free slot, and the job's deadline begins then;
- what comes back counts for the attempt that it was sent for, and for no other;
- large arguments and values go in chunks against credit, as between client and master.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec

from zcluster.core.batch import Body, Lanes, Outgoing
from zcluster.core.master import Master
from zcluster.core.peers import Identity, Node, Peer, Request
from zcluster.core.queue.job import Job
from zcluster.core.queue.jobid import job_id
from zcluster.core.queue.machine import JobQueue
from zcluster.core.rights import standing_of, word_of
from zcluster.core.transfer import Inbound, Outbound
from zcluster.core.verdicts import encode_error
from zcluster.errors import NotAllowed, PeerError, TooLarge
from zcluster.process.failpoints import failpoint
from zcluster.wire import Chunk, Credit, Grant, Message, Of, Replies, RequestGroup, Status
from zcluster.wire.messages import Mark, RequestFlag

MAX_RUN = 64
"""Jobs that are given to a node together."""
ITEMS_AHEAD = 64


@dataclass(eq=False)
class JobRoute:
    """Where answers to jobs of one key go: here."""

    runs: JobRuns
    peer: Peer = field(init=False)

    def receive(self, outgoing: Sequence[Outgoing], now: float) -> None:
        """What the machine sends to this caller."""
        self.runs.receive(self.peer, outgoing, now)


class Run(msgspec.Struct, eq=False):
    """One attempt that a node has."""

    job: Job
    attempt: int
    request: Request
    node: str
    outbound: Outbound | None = None
    inbound: Inbound | None = None
    items: list[bytes] | None = None
    items_bytes: int = 0


class JobRuns:
    """The attempts that nodes have.

    Args:
        asker: who asked for a job, with the rights that it runs with; None when the key is not in the ring.
        clocks: queue time and seconds since 1970, now.
    """

    def __init__(
        self, machine: Master, queue: JobQueue, store: str, asker: Callable[[Job], Identity | None],
        clocks: Callable[[], tuple[float, float]],
    ) -> None:  # fmt: skip
        self._machine, self._queue, self._store = machine, queue, store
        self._asker, self._clocks = asker, clocks
        self._routes: dict[tuple[str, ...], JobRoute] = {}
        """By key, role, and the roles whose rights hold."""
        self._runs: dict[Peer, dict[int, Run]] = {}

    @property
    def count(self) -> int:
        """How many attempts nodes have."""
        return sum(len(runs) for runs in self._runs.values())

    def keys_changed(self) -> None:
        """The ring is another: callers that have nothing under way are made anew when they are needed."""
        self._runs = {peer: runs for peer, runs in self._runs.items() if runs}
        self._routes = {which: route for which, route in self._routes.items() if route.peer in self._runs}

    def pump(self, now: float) -> None:
        """Give leased jobs to nodes with free slots. ``now`` is the loop's time."""
        starts = self._queue.starts
        if not starts:
            return
        queue_now, wall_s = self._clocks()
        for name in list(starts):
            node = self._machine.roster.nodes.get(name)
            if node is None or not node.usable or self._queue.lanes.is_paused(name):
                self._queue.withdraw(name, queue_now, wall_s)
                continue
            jobs = starts[name]
            while jobs and (room := node.free) > 0:
                first = jobs[0]
                peer = self._caller(first)
                room = min(room, MAX_RUN, node.allowance(peer.no, first.function) if peer is not None else room)
                if room <= 0:
                    break
                if len(first.body) > self._machine.limits.inline_bytes:
                    room = 1
                run = _prefix(jobs, first, room, self._machine.limits.inline_bytes)
                for _ in run:
                    jobs.popleft()
                self._start(run, node, peer, now, queue_now, wall_s)
            if not jobs:
                del starts[name]

    def stop(self, job: Job) -> None:
        """The job is not wanted any more: its node is told."""
        for peer, runs in self._runs.items():
            for id_, run in runs.items() if peer.identity.key == job.key else ():
                if run.job is job:
                    self._forget(peer, id_)
                    return

    def receive(self, peer: Peer, outgoing: Sequence[Outgoing], now: float) -> None:
        """What the machine says to the caller ``peer``."""
        queue_now, wall_s = self._clocks()
        for message, bodies in outgoing:
            self._received(peer, message, bodies, now, queue_now, wall_s)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _caller(self, job: Job) -> Peer | None:
        """The caller that ``job`` is called by."""
        identity = self._asker(job)
        if identity is None:
            return None
        which = (identity.key, identity.role, *identity.names)
        route = self._routes.get(which)
        if route is None or route.peer.identity != identity:
            roster = self._machine.roster
            roster.last_session += 1
            lanes: Lanes[Any] = Lanes(Replies, roster.limits.chunk_bytes)
            route = self._routes[which] = JobRoute(self)
            route.peer = Peer(roster.last_session, route, identity, "queue", frozenset(), lanes, 0.0)
            self._runs[route.peer] = {}
        return route.peer

    def _start(
        self, jobs: list[Job], node: Node, peer: Peer | None, now: float, queue_now: float, wall_s: float
    ) -> None:
        failpoint("queue.send")
        queue = self._queue
        for job in jobs:
            queue.started(job, wall_s)
        if peer is None:
            error = encode_error(NotAllowed("the key that asked for it was revoked", node=node.name), node.name, "")
            for job in jobs:
                queue.outcome(job.number, job.attempt, False, error, queue_now, wall_s)
            return
        first = jobs[0]
        large = len(first.body) > self._machine.limits.inline_bytes
        first_id = id_ = peer.last_id + 1
        flags = RequestFlag.LARGE if large else 0
        group = RequestGroup(first.function, node.name, 0, first.priority, flags, first_id, [len(job.body) for job in jobs])
        deadline_s = now + first.timeout_s
        word = standing_of(first.role).word or word_of(first.target)
        runs, requests = self._runs[peer], peer.requests
        made: list[Request] = []
        for job in jobs:
            mark = Mark(job_id(self._store, job.number), job.attempt, job.idempotency_key)
            body = b"" if large else job.body
            request = Request(peer, id_, group, body, len(job.body), deadline_s, now, node, node.queue, mark=mark, word=word)
            made.append(request)
            requests[id_] = request
            runs[id_] = Run(job, job.attempt, request, node.name)
            id_ += 1
        peer.last_id = id_ - 1
        if large:
            self._machine.dispatch.enqueue(made[0], node)
        else:
            self._machine.dispatch.enqueue_run(made, node.queue, now)

    def _received(
        self, peer: Peer, message: Message, bodies: Sequence[Body], now: float, queue_now: float, wall_s: float
    ) -> None:
        runs = self._runs[peer]
        if isinstance(message, Replies):
            at = 0
            for group in message.groups:
                id_, status = group.first_id, group.status
                for size in group.sizes:
                    # A body each, but for what has none.
                    body = bytes(bodies[at])
                    at += 1
                    run = runs.get(id_)
                    if run is None:
                        self._queue.stray += 1
                    elif status <= Status.ERROR:
                        del runs[id_]
                        ok = status == Status.VALUE
                        leaving = not ok and self._is_leaving(run.node)
                        self._queue.outcome(run.job.number, run.attempt, ok, body, queue_now, wall_s, leaving)
                    else:
                        self._other(peer, id_, run, group.leg, status, size, body, queue_now, wall_s)
                    if status != Status.ITEM:
                        id_ += 1
        elif isinstance(message, Credit):
            for grant in message.grants:
                self._send_more(peer, grant, now)
        elif isinstance(message, Chunk):
            run = runs.get(message.id)
            if run is not None and run.inbound is not None:
                self._gather(peer, message, run, run.inbound, bodies[0], queue_now, wall_s)

    def _other(
        self, peer: Peer, id_: int, run: Run, leg: int, status: int, size: int, body: bytes, queue_now: float, wall_s: float
    ) -> None:
        """A large value, or an item or the end of a stream: its items are the value, as a list."""
        if status == Status.LARGE_VALUE:
            if size > self._queue.policy.result_bytes:
                self._too_large(peer, id_, run, size, queue_now, wall_s)
                return
            run.inbound = Inbound(size, self._machine.limits.window_bytes)
            self._grant(peer, id_, leg, Of.REPLY_BODY, run.inbound.next_grant())
        elif status == Status.ITEM:
            run.items = [] if run.items is None else run.items
            run.items.append(body)
            run.items_bytes += len(body) + 1
            if run.items_bytes > self._queue.policy.result_bytes:
                self._too_large(peer, id_, run, run.items_bytes, queue_now, wall_s)
            elif len(run.items) % (ITEMS_AHEAD // 4) == 0:
                self._grant(peer, id_, leg, Of.ITEMS, len(run.items) + ITEMS_AHEAD)
        elif status == Status.END:
            del self._runs[peer][id_]
            value = b"[" + b",".join(run.items or ()) + b"]"
            self._queue.outcome(run.job.number, run.attempt, True, value, queue_now, wall_s)

    def _is_leaving(self, name: str) -> bool:
        """Whether a node has ended what it had for another reason than the job: it has said that it leaves, or it is here again
        already, in a new session of the same process."""
        machine = self._machine
        node = machine.roster.nodes.get(name)
        if name == machine.name:
            return machine.admission.draining
        return node is None or node.state == "left" or node.peer is not None

    def _too_large(self, peer: Peer, id_: int, run: Run, size: int, queue_now: float, wall_s: float) -> None:
        self._forget(peer, id_)
        limit = self._queue.policy.result_bytes
        error = TooLarge(f"a value of {size} bytes or more, at most {limit} are kept", hint="queue.result_bytes")
        self._queue.outcome(run.job.number, run.attempt, False, encode_error(error, run.node, ""), queue_now, wall_s)

    def _forget(self, peer: Peer, id_: int) -> None:
        run = self._runs[peer].pop(id_)
        self._machine.dispatch.cancel(run.request)

    def _grant(self, peer: Peer, id_: int, leg: int, of: int, upto: int | None) -> None:
        if upto is not None:
            self._machine.flow.client_credit(peer, Credit(grants=[Grant(id_, leg, of, upto)]))

    def _send_more(self, peer: Peer, grant: Grant, now: float) -> None:
        """The node takes more of a job's large arguments."""
        run = self._runs[peer].get(grant.id)
        if run is None or grant.of != Of.REQUEST_BODY:
            return
        if run.outbound is None:
            run.outbound = Outbound(run.job.body, grant.leg)
        run.outbound.grant(grant.leg, grant.upto)
        while (piece := run.outbound.next_chunk(self._machine.roster.limits.chunk_bytes)) is not None:
            self._machine.flow.client_chunk(peer, Chunk(grant.id, grant.leg, piece[0]), memoryview(piece[1]))

    def _gather(
        self, peer: Peer, chunk: Chunk, run: Run, inbound: Inbound, data: Body, queue_now: float, wall_s: float
    ) -> None:
        try:
            inbound.accept(chunk.offset, memoryview(data))
        except PeerError as error:
            self._forget(peer, chunk.id)
            body = encode_error(error, run.node, "")
            self._queue.outcome(run.job.number, run.attempt, False, body, queue_now, wall_s)
            return
        if inbound.complete:
            del self._runs[peer][chunk.id]
            self._queue.outcome(run.job.number, run.attempt, True, bytes(inbound.body), queue_now, wall_s)
        else:
            self._grant(peer, chunk.id, chunk.leg, Of.REPLY_BODY, inbound.next_grant())


def _prefix(jobs: Iterable[Job], first: Job, room: int, inline_bytes: int) -> list[Job]:
    """The first of ``jobs``, at most ``room``, that may go in one group; the very first may always."""
    found: list[Job] = []
    for job in islice(jobs, room):
        alike = job.function == first.function and job.key == first.key and job.role == first.role and job.target == first.target
        same = alike and job.timeout_s == first.timeout_s and job.priority == first.priority
        if found and not (same and len(job.body) <= inline_bytes):
            break
        found.append(job)
    return found
