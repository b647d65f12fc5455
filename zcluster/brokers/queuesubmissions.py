"""From JOBS, and calls of ``queue.submit``, to the machine of the queue.

Rules kept here:
- each group of a message is answered, whatever is wrong with another;
- where an agent is only the book knows: what asks for it waits, and how many may is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from itertools import groupby
from typing import Any

from zcluster.brokers.queueowners import CallOwner, SessionOwner
from zcluster.core.auditing import Trail
from zcluster.core.locating import check_target, names_agents
from zcluster.core.master import Master
from zcluster.core.peers import Identity, Peer
from zcluster.core.queue.admission import Ask, JobAdmission
from zcluster.core.queue.machine import JobQueue
from zcluster.core.queue.told import Owner
from zcluster.core.rights import right_denied
from zcluster.errors import Busy, NotAllowed, TooLarge, ZClusterError
from zcluster.wire.jobs import JobFlag, JobGroup

MAX_LOCATING = 1000
"""Groups of submissions that wait for the book of agents."""
Locate = Callable[[str], Awaitable[list[str]]]


class Submissions:
    """Makes jobs of what sessions and calls ask for.

    Args:
        locate: the nodes that ``agent:ID`` or ``group:G`` means.
        tasks: where work that goes on is kept, until it is done.
    """

    def __init__(
        self, machine: Master, queue: JobQueue, admission: JobAdmission, locate: Locate,
        clocks: Callable[[], tuple[float, float]], tasks: set[asyncio.Task[None]], wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self._machine, self._queue, self._admission = machine, queue, admission
        self._locate, self._clocks, self._tasks, self._wake = locate, clocks, tasks, wake

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def received(self, owner: SessionOwner, identity: Identity, group: JobGroup, data: bytes, offset: int) -> int:
        """A group of JOBS; returns the offset behind its bodies."""
        keys = group.keys or [""] * len(group.sizes)
        bodies: list[tuple[bytes, str]] = []
        for size, key in zip(group.sizes, keys, strict=True):
            bodies.append((data[offset : offset + size], key))
            offset += size
        if group.first_id <= owner.last_id:
            self._machine.counters.add("duplicate_submission", len(bodies))
            return offset
        owner.last_id = group.first_id + len(bodies) - 1
        ask = Ask(
            group.function, group.target, bool(group.flags & JobFlag.FAN_OUT), group.priority, group.delay_ms / 1000,
            group.at_ms / 1000, group.expires_ms / 1000, group.retries, group.timeout_ms / 1000, group.retention_ms / 1000,
            group.sequence,
        )  # fmt: skip
        limit = self._machine.limits.inline_bytes
        if max(group.sizes) > limit:
            error = TooLarge(f"arguments of {max(group.sizes)} bytes, at most {limit} go with JOBS", hint="call queue.submit")
            self._queue.told.refused.append((owner, group.first_id, len(bodies), error))
            return offset
        if names_agents(ask.target):
            if len(self._tasks) >= MAX_LOCATING:
                busy = Busy("too many submissions wait for where agents are", hint="send fewer at once", retry_after_s=1.0)
                self._queue.told.refused.append((owner, group.first_id, len(bodies), busy))
                return offset
            self._run(self._submit_located(owner, group.first_id, ask, identity, bodies))
            return offset
        try:
            self._submit(owner, group.first_id, ask, self._admission.lanes(ask, identity), identity, bodies)
        except ZClusterError as error:
            self._queue.told.refused.append((owner, group.first_id, len(bodies), error))
            self._audit(owner.peer, group, identity, error)
        return offset

    def _audit(self, peer: Peer, group: JobGroup, identity: Identity, error: ZClusterError) -> None:
        """What somebody may not do is told, and in the audit log, however it was tried."""
        self._tell_denied(identity, group.function, group.target, error)
        if isinstance(error, NotAllowed) and self._machine.dispatch.auditing.requests != "none":
            request_id, who = f"{peer.no}.{group.first_id}", identity
            role, since_s = who.grant or who.role, peer.last_seen_s
            trail = Trail(request_id, who.name, who.key, role, group.function, group.target, b"", frozenset(), since_s)
            self._machine.dispatch.auditing.part_ended(trail, "", 0, error.code)

    async def submit(self, owner: CallOwner, ask: Ask, identity: Identity, body: bytes, key: str) -> None:
        """Take one job, whose ``owner`` is told. Raises why not."""
        try:
            lanes = await self._located(ask, identity) if names_agents(ask.target) else self._admission.lanes(ask, identity)
        except NotAllowed as error:
            self._tell_denied(identity, ask.function, ask.target, error)
            raise
        self._submit(owner, 1, ask, lanes, identity, [(body, key)])

    def _tell_denied(self, who: Identity, function: str, target: str, error: ZClusterError) -> None:
        if isinstance(error, NotAllowed):
            self._machine.note(right_denied(who, function, target, error))

    async def _submit_located(
        self, owner: SessionOwner, first_id: int, ask: Ask, identity: Identity, bodies: Sequence[tuple[bytes, str]]
    ) -> None:
        try:
            self._submit(owner, first_id, ask, await self._located(ask, identity), identity, bodies)
        except ZClusterError as error:
            self._queue.told.refused.append((owner, first_id, len(bodies), error))
            self._tell_denied(identity, ask.function, ask.target, error)
        self._wake()

    async def _located(self, ask: Ask, identity: Identity) -> list[str]:
        check_target(ask.target, ask.fan_out)
        return self._admission.nodes_lanes(ask, await self._locate(ask.target), identity)

    def _submit(
        self, owner: Owner, first_id: int, ask: Ask, lanes: list[str], identity: Identity, bodies: Sequence[tuple[bytes, str]]
    ) -> None:
        """Take jobs, or raise why not; with several bodies some may have been taken then."""
        now, wall_s = self._clocks()
        queue, admission = self._queue, self._admission
        for _, run in groupby(bodies, key=_is_keyed):
            alike = list(run)
            jobs = admission.make(ask, lanes[0], identity, alike, now, wall_s)
            size = sum([len(body) for body, _ in alike]) * (len(lanes) + 1 if ask.fan_out else 1)
            error = queue.refusal(identity.key, len(jobs) * (len(lanes) + 1 if ask.fan_out else 1), size)
            if error is not None:
                queue.told.refused.append((owner, first_id, len(jobs), error))
            elif ask.fan_out:
                for offset, job in enumerate(jobs):
                    queue.submit(owner, first_id + offset, [job], admission.spread(job, lanes))
            else:
                queue.submit(owner, first_id, jobs, [])
            first_id += len(jobs)


def _is_keyed(body: tuple[bytes, str]) -> bool:
    return bool(body[1])
