"""A node's side of requests: from WORK to exactly one result of each leg.

Rules kept here:
- legs of a session grow; a leg that is not larger than all before is a duplicate and is not run again;
- rights are checked here too, with the origin's role and all that it is held to: the master's check is not taken on trust;
- what is refused (draining, unknown function, no right) was never started, and the result says so;
- large bodies are gathered against credit (gathering.py), until their deadline;
- a cancel may come before its work (control goes first): that leg is then not started;
- a leg has one result; what a function says after that is dropped and counted.

Effects: Job (run this), Stop (cancel this), More (a stream may go on).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from zcluster.core.batch import Lanes, Outgoing
from zcluster.core.gathering import Gathering
from zcluster.core.rights import EXPLAINED, Rights
from zcluster.core.transfer import Outbound
from zcluster.core.wheel import Wheel
from zcluster.errors import Busy, Cancelled, Draining, NoSuchFunction, NotAllowed, PeerError, TimedOut, TooLarge, ZClusterError
from zcluster.wire import Cancel, Chunk, Credit, Mark, Of, ResultGroup, Results, Status, Work, WorkGroup
from zcluster.wire.messages import RequestFlag

MAX_CANCELLED = 65_536
"""Legs remembered as cancelled before they came; the node's slots bound it in practice."""


class Runnable(Protocol):
    """What this machine needs to know of a function."""

    @property
    def role(self) -> str: ...
    @property
    def stream(self) -> bool: ...
    @property
    def pool(self) -> str: ...


class Job(msgspec.Struct, eq=False, gc=False):
    """Run ``function`` on ``body``: one leg. ``deadline_s`` is on the clock of the events' ``now``."""

    id: int
    function: Any
    body: bytes | bytearray
    deadline_s: float
    caller: str
    role: str
    session: int
    request: int
    mark: Mark | None = None
    """Of a durable job."""
    held: tuple[str, ...] = ()
    """The names of all roles whose rights hold for it; empty where that is ``role`` alone."""

    @property
    def request_id(self) -> str:
        """The id that errors and all nodes' logs carry."""
        return f"{self.session}.{self.request}"


@dataclass(frozen=True)
class Stop:
    """Stop the job: its answer is no longer wanted."""

    id: int
    error: ZClusterError


@dataclass(frozen=True)
class More:
    """A stream may have produced up to ``upto`` items in all."""

    id: int
    upto: int


Effect = Job | Stop | More


class Limits(Protocol):
    """The limits that a node keeps (see config: limits.*)."""

    @property
    def body_bytes(self) -> int: ...
    @property
    def inline_bytes(self) -> int: ...
    @property
    def chunk_bytes(self) -> int: ...
    @property
    def window_bytes(self) -> int: ...
    @property
    def transfer_bytes(self) -> int: ...


class WorkEnd:
    """The table of a node's legs."""

    def __init__(
        self,
        node: str,
        functions: Mapping[str, Runnable],
        may_call: Callable[[str, str], bool],
        limits: Limits,
        slots: int,
        rights: Rights | None = None,
        master: bool = False,
    ) -> None:
        self.rights = rights or Rights(copy=True)
        """The definitions of roles that this node has; the master tells a worker of its own."""
        self._master = master
        self.node = node
        self.slots = slots
        self.draining = False
        self.dropped_results = 0
        self.stray = 0
        self._functions = functions
        self._may_call = may_call
        self._limits = limits
        self._lanes: Lanes[ResultGroup] = Lanes(Results, limits.chunk_bytes)
        self._last_leg = 0
        self._next_result = 0
        self._running: dict[int, Job] = {}
        self._gathering: Gathering[Job] = Gathering(limits)
        self._wheel: Wheel[Job] = Wheel()
        self._leaving: dict[int, tuple[Job, Outbound]] = {}
        self._cancelled: set[int] = set()
        """Legs that were cancelled before they came."""

    @property
    def limits(self) -> Limits:
        """Hold for what comes from now on."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = self._gathering.limits = limits

    @property
    def in_flight(self) -> int:
        return len(self._running) + len(self._gathering)

    @property
    def busy(self) -> bool:
        """Whether anything here has a deadline."""
        return bool(self._running or self._gathering or self._leaving)

    def runs(self, leg: int) -> bool:
        """Whether the job of ``leg`` was given out, and its end is still wanted."""
        return leg in self._running

    # -- from the master --------------------------------------------------------------------------------------------

    def work(self, message: Work, data: bytes, offset: int, now: float) -> list[Effect]:
        """Requests to run; returns the jobs to start, in order."""
        out: list[Effect] = []
        for group in message.groups:
            error = self._group_error(group)
            function = self._functions.get(group.function)
            large = group.flags & RequestFlag.LARGE
            deadline_s = now + group.ttl_ms / 1000
            leg, request, marks = group.first_leg, group.first_request, group.marks
            for size in group.sizes:
                end = offset if large else offset + size
                if leg <= self._last_leg:
                    self.stray += 1
                elif leg in self._cancelled:
                    self._last_leg = leg
                    self._cancelled.discard(leg)
                else:
                    self._last_leg = leg
                    if error is None and len(self._running) + len(self._gathering) >= self.slots:
                        error = Busy("all slots of the node are taken", node=self.node, retry_after_s=0.1)
                    if error is not None:
                        self._refuse(leg, error, f"{group.session}.{request}")
                    else:
                        job = Job(leg, function, data[offset:end], deadline_s, group.caller, group.role, group.session, request)
                        if marks is not None:
                            job.mark = marks[leg - group.first_leg]
                        if group.held is not None:
                            job.held = tuple(group.held.roles)
                        if large:
                            self._wheel.add(deadline_s, job)
                            self._gathering.begin(job, size)
                        else:
                            self._running[leg] = job
                            out.append(job)
                leg, request, offset = leg + 1, request + 1, end
        return out

    def cancel(self, message: Cancel) -> list[Effect]:
        """The master no longer wants these."""
        out: list[Effect] = []
        for leg in message.ids:
            self._forget_leaving(leg)
            if self._running.pop(leg, None) is not None:
                self._gathering.read(leg)
                out.append(Stop(leg, Cancelled("cancelled: its answer is no longer wanted", node=self.node)))
            elif leg > self._last_leg:
                self._cancelled_before(leg)
            else:
                self._forget_gathering(leg)
        return out

    def credit(self, message: Credit) -> list[Effect]:
        """Credit for large results and for streams."""
        out: list[Effect] = []
        for grant in message.grants:
            leaving = self._leaving.get(grant.leg)
            if grant.of == Of.ITEMS and grant.leg in self._running:
                out.append(More(grant.leg, grant.upto))
            elif grant.of == Of.REPLY_BODY and leaving is not None:
                outbound = leaving[1]
                outbound.grant(grant.leg, grant.upto)
                while (piece := outbound.next_chunk(self.limits.chunk_bytes)) is not None:
                    self._lanes.add_bulk(Chunk(0, grant.leg, piece[0]), piece[1])
                if outbound.sent == len(outbound.body):
                    self._forget_leaving(grant.leg)
            else:
                self.stray += 1
        return out

    def chunk(self, message: Chunk, data: memoryview) -> list[Effect]:
        """A piece of a large body; a complete one starts its job."""
        leg = message.leg
        job = self._gathering.job(leg)
        if job is None:
            self.stray += 1
            return []
        try:
            body = self._gathering.accept(leg, message.offset, data, unread=job.function.pool == "inline")
        except PeerError as error:
            self._forget_gathering(leg)
            self._result(leg, Status.ERROR, self._error_body(error, job.request_id))
            return []
        if body is None:
            return []
        self._wheel.remove(job.deadline_s, job)
        job.body = body
        self._running[job.id] = job
        return [job]

    def session_lost(self) -> list[Effect]:
        """The session ended: nobody waits for these any more. Legs begin again with the next session."""
        stopped: list[Effect] = [Stop(leg, Cancelled("the session with the master ended")) for leg in self._running]
        self._lanes = Lanes(Results, self.limits.chunk_bytes)
        self._gathering = Gathering(self.limits)
        self._leaving.clear()
        self._running.clear()
        self._cancelled.clear()
        self._wheel = Wheel()
        self._last_leg = self._next_result = 0
        return stopped

    # -- from the runner --------------------------------------------------------------------------------------------

    def finished(self, leg: int, ok: bool, body: bytes | bytearray) -> None:
        """The job ended: with a value, an error, or the end of its stream."""
        job = self._running.pop(leg, None)
        self._gathering.read(leg)
        if job is None:
            self.dropped_results += 1
        elif not ok:
            self._result(leg, Status.ERROR, body)
        elif job.function.stream:
            self._result(leg, Status.END, b"")
        elif len(body) <= self.limits.inline_bytes:
            self._result(leg, Status.VALUE, body)
        elif len(body) > self.limits.body_bytes:
            limit = self.limits.body_bytes
            error = TooLarge(f"a result of {len(body)} bytes, at most {limit} are allowed", hint="limits.body_bytes")
            self._result(leg, Status.ERROR, self._error_body(error, job.request_id))
        else:
            # The arguments are no longer needed, and the job stays until its result has left.
            job.body = b""
            self._leaving[leg] = (job, Outbound(body, leg))
            self._wheel.add(job.deadline_s, job)
            self._lanes.batch.begin(ResultGroup(leg, Status.LARGE_VALUE, [len(body)]), b"")
            self._lanes.batch.last = None

    def item(self, leg: int, body: bytes | bytearray) -> None:
        """An item of a stream; the runner has seen to it that there is credit and that it is not too large."""
        if leg not in self._running:
            self.dropped_results += 1
            return
        self._lanes.batch.begin(ResultGroup(leg, Status.ITEM, [len(body)]), body)
        self._lanes.batch.last = None

    # -- time and output --------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        return self._wheel.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Give up bodies that did not arrive, and results that nobody fetched, by their deadline."""
        for job in self._wheel.expired(now):
            self._leaving.pop(job.id, None)
            if self._gathering.forget(job.id) is not None:
                error = TimedOut("its arguments did not arrive by the deadline; it was never started", node=self.node)
                self._result(job.id, Status.ERROR, self._error_body(error, job.request_id))

    def take(self) -> list[Outgoing]:
        """What is to be sent now, in order."""
        grants = self._gathering.take()
        for start in range(0, len(grants), 1024):
            self._lanes.control.append(Credit(grants=grants[start : start + 1024]))
        return self._lanes.take() if self._lanes else []

    # -- inside -----------------------------------------------------------------------------------------------------

    def _group_error(self, group: WorkGroup) -> ZClusterError | None:
        if self.draining:
            return Draining(f"{self.node} is shutting down; it was never started", node=self.node)
        function = self._functions.get(group.function)
        if function is None:
            return NoSuchFunction(
                f"{self.node} has no function {group.function!r}", node=self.node, hint="`zcluster dapi ls` lists the functions"
            )
        if not self._may_call(group.role, function.role):
            return NotAllowed(f"{group.caller} ({group.role}) may not call {group.function}", node=self.node)
        if (group.held is not None or self.rights.rules) and (
            fault := self.rights.fault_here(group.role, group.held, group.function, self.node, master=self._master)
        ):
            return NotAllowed(f"{group.caller} may not call {group.function}: {fault}", node=self.node, hint=EXPLAINED)
        if group.flags & RequestFlag.LARGE and group.sizes[0] > self.limits.body_bytes:
            return TooLarge(f"a body of {group.sizes[0]} bytes, at most {self.limits.body_bytes}", node=self.node)
        return None

    def _cancelled_before(self, leg: int) -> None:
        if len(self._cancelled) >= MAX_CANCELLED:
            self._cancelled = {early for early in self._cancelled if early > self._last_leg}
        if len(self._cancelled) < MAX_CANCELLED:
            self._cancelled.add(leg)

    def _forget_gathering(self, leg: int) -> None:
        job = self._gathering.forget(leg)
        if job is not None:
            self._wheel.remove(job.deadline_s, job)

    def _forget_leaving(self, leg: int) -> None:
        entry = self._leaving.pop(leg, None)
        if entry is not None:
            self._wheel.remove(entry[0].deadline_s, entry[0])

    def _refuse(self, leg: int, error: ZClusterError, request_id: str) -> None:
        status = Status.REFUSED if isinstance(error, Draining | Busy) else Status.ERROR
        self._result(leg, status, self._error_body(error, request_id))

    def _error_body(self, error: ZClusterError, request_id: str) -> bytes:
        return msgspec.json.encode({**error.to_dict(), "node": self.node, "request_id": request_id})

    def _result(self, leg: int, status: int, body: bytes | bytearray) -> None:
        batch = self._lanes.batch
        last = batch.last
        if last is not None and leg == self._next_result and last.status == status:
            batch.join(body)
        else:
            batch.begin(ResultGroup(leg, status, [len(body)]), body)
        self._next_result = leg + 1
