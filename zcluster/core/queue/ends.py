"""How jobs end, and how they go on: what is in memory of that until it is committed.

Rules kept here:
- a job that changes is ``dirty`` until the batch with its change is on disk; what it was before is kept, for the counts;
- only what is committed is told, counted, and forgotten.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from zcluster.core.peers import Event
from zcluster.core.queue import transitions
from zcluster.core.queue.batch import MAX_BATCH_JOBS, Batch, Opened
from zcluster.core.queue.following import Following
from zcluster.core.queue.job import Job, State
from zcluster.core.queue.lanes import Lanes
from zcluster.core.queue.policy import Policy, Usage
from zcluster.core.queue.told import Told
from zcluster.core.queue.transitions import Loss
from zcluster.core.queue.verdict import FREE_PAUSE_S, Verdict
from zcluster.errors import Cancelled, FunctionFailed, JobDead, JobExpired, MasterLost, NodeLost, StoreFailed, ZClusterError

_COUNTED = {State.RUNNING: State.LEASED}
"""What a state is counted as in the store."""


AT_ONCE = frozenset({"master_lost", "node_unavailable", "draining"})
"""What ended an attempt that is followed by another without a pause: nothing is overloaded by it."""


class Ends:
    """The jobs in memory, and their changes."""

    def __init__(self, opened: Opened, policy: Policy, lanes: Lanes, jitter: Callable[[], float]) -> None:
        self.policy = policy
        self.lanes = lanes
        self.told = Told()
        self.following = Following()
        self.usage = Usage(opened.usage)
        self.counts = {state: opened.counts.get(state, 0) for state in State}
        self.live: dict[int, Job] = {}
        """Jobs that nodes have or are to get, and those with changes that are not committed."""
        self.starts: dict[str, deque[Job]] = {}
        """Leased jobs that their nodes are to get now."""
        self.watched = False
        self.resting = False
        """The master is about to end: no new jobs are taken, and none is given to a node."""
        self.ended_count = 0
        self.next_due, self.next_at_s = opened.next_due, opened.next_at_s
        self.next_expiry, self.next_purge = opened.next_expiry, opened.next_purge
        self._jitter = jitter
        self._dirty: dict[int, Job] = {}
        self._was: dict[int, State] = {}
        """The committed state of jobs that are dirty or under way."""

    # -- changes ----------------------------------------------------------------------------------------------------

    def touch(self, job: Job, was: State) -> None:
        """``job`` changes: it was ``was`` until now."""
        number = job.number
        self.live[number] = self._dirty[number] = job
        self._was.setdefault(number, was)

    def lose(self, job: Job, loss: Loss, error: Mapping[str, Any], after_s: float | None, now: float, wall_s: float) -> None:
        """An attempt of a job that a node had, or was to get, ended without an outcome.

        Args:
            after_s: the pause that the function asked for.
        """
        self.touch(job, job.state)
        if after_s is None:
            after_s = self._pause_s(job, loss, error)
        due = now + after_s if after_s else 0.0
        if transitions.is_last(job, loss):
            error = _dead(job, loss, error)
        transitions.lose(job, loss, error, _encoded(error), due, wall_s, now)

    def fail(self, job: Job, error: ZClusterError | Mapping[str, Any], now: float, wall_s: float) -> None:
        """It ended with an error that no other attempt would cure."""
        told = error.to_dict() if isinstance(error, ZClusterError) else error
        self.touch(job, job.state)
        transitions.fail(job, told, _encoded(told), wall_s, now)

    def spoil(self, job: Job, why: str, now: float, wall_s: float) -> None:
        """Its arguments cannot be read: it cannot run."""
        error = StoreFailed(f"the arguments of {job.function} cannot be read: {why}", hint="`zcluster queue check` tells more")
        self.fail(job, error, now, wall_s)

    def ended_badly(self, job: Job, verdict: Verdict, now: float, wall_s: float) -> None:
        """A node, or the way to it, has answered with an error."""
        if verdict.stopping and self.resting:
            return
        self.lanes.released(job.node)
        if verdict.loss is None:
            self.fail(job, verdict.error, now, wall_s)
        else:
            self.lose(job, verdict.loss, verdict.error, verdict.after_s, now, wall_s)

    def restarted(self, job: Job, master: str, now: float, wall_s: float) -> None:
        """The master has begun with a job that was given to a node: whether it ran is unknown."""
        if job.node == master:
            error: ZClusterError = NodeLost(f"{master} ended with it; whether it ran is unknown", node=master)
        else:
            error = MasterLost("the master was started again; whether it ran is unknown", node=job.node)
        self.lose(job, Loss.DEATH if job.node == master else Loss.NOTHING, error.to_dict(), None, now, wall_s)

    def expire(self, job: Job, now: float, wall_s: float) -> None:
        """Its time is over while it waits."""
        if job.number in self.live:
            return
        self.lanes.remove(job)
        self.touch(job, State.QUEUED)
        what = f"after {job.attempt} attempts" if job.attempt else "before it could begin"
        error = JobExpired(f"{job.function} expired {what}", hint="give it a later --expires").to_dict()
        transitions.expire(job, error, _encoded(error), wall_s, now)

    def cancel(self, job: Job, now: float, wall_s: float) -> None:
        """Nobody wants it any more: a live job that is in memory."""
        if job.state in (State.LEASED, State.RUNNING):
            self.lanes.released(job.node)
            if job.state == State.RUNNING:
                self.told.stops.append(job)
            else:
                self.starts[job.node].remove(job)
        else:
            self.lanes.remove(job)
        self.touch(job, job.state)
        ran = "; whether it ran is unknown" if job.attempt else "; it never started"
        error = Cancelled(f"{job.function} was cancelled{ran}").to_dict()
        transitions.cancel(job, error, _encoded(error), wall_s, now)

    def put_back(self, job: Job, lifetime_s: float, now: float, wall_s: float) -> None:
        """Somebody puts a final job back into the queue."""
        self.following.forget(job.number)
        self.touch(job, job.state)
        transitions.put_back(job, now + lifetime_s if job.expires else 0.0, wall_s)
        self.usage.add(job.key, 1, job.size)

    def gather(self, parent: Job, tally: Mapping[int, int], now: float, wall_s: float) -> None:
        """All parts of a fan-out have ended."""
        if parent.number in self.live:
            return
        self.touch(parent, State.QUEUED)
        counts = {State(state).word: count for state, count in sorted(tally.items())}
        result = _encoded({"parts": parent.parts, **counts})
        bad = [state for state in (State.CANCELLED, State.DEAD, State.FAILED, State.EXPIRED) if tally.get(state)]
        if not bad:
            transitions.gather(parent, State.DONE, result, None, wall_s, now)
            return
        summary = ", ".join(f"{count} {word}" for word, count in counts.items())
        state = State.FAILED if bad[0] == State.DEAD else bad[0]
        kind = {State.CANCELLED: Cancelled, State.EXPIRED: JobExpired}.get(state, FunctionFailed)
        error = kind(f"{parent.function}: of {parent.parts} parts {summary}", hint="`zcluster queue show` lists them")
        transitions.gather(parent, state, result, error.to_dict(), wall_s, now)

    @property
    def dirty(self) -> Mapping[int, Job]:
        """The jobs with changes that are not in a batch yet."""
        return self._dirty

    # -- commits ----------------------------------------------------------------------------------------------------

    def take_updates(self, batch: Batch) -> None:
        """The changes into ``batch``, with what they do to the counts. Those that are too many for it go with the next: leases
        are the first, and fan-outs the last, since one that comes back without its parts would end at once."""
        changed = list(self._dirty.values())
        if len(changed) > MAX_BATCH_JOBS:
            changed.sort(key=lambda job: (job.parts > 0, job.state != State.LEASED))
        batch.update = changed[:MAX_BATCH_JOBS]
        self._dirty = {job.number: job for job in changed[MAX_BATCH_JOBS:]}
        counts, usage = batch.counts, batch.usage
        for job in batch.update:
            was, state = self._was[job.number], job.state
            was = _COUNTED.get(was, was)
            if was != state:
                counts[was] = counts.get(was, 0) - 1
                counts[state] = counts.get(state, 0) + 1
            if (was >= State.DONE) != (state >= State.DONE):
                step = -1 if state >= State.DONE else 1
                jobs, size = usage.get(job.key, (0, 0))
                usage[job.key] = (jobs + step, size + step * job.size)

    def committed(self, job: Job) -> None:
        """A change of ``job`` is on disk."""
        number, state = job.number, job.state
        self._was.pop(number, None)
        if self.watched and job.steps:
            self.told.changed.append((job, job.steps[-1]))
        if state == State.LEASED:
            self.start(job)
            return
        del self.live[number]
        if state >= State.DONE:
            self._final(job)
        else:
            self.await_time(job)
            if job.ready:
                self.lanes.add(job)

    def start(self, job: Job) -> None:
        """Its lease is on disk: its node is to get it."""
        starts = self.starts.get(job.node)
        if starts is None:
            self.starts[job.node] = deque((job,))
        else:
            starts.append(job)

    def await_time(self, job: Job) -> None:
        """``job`` waits: in the store for its time, or in its lane until it expires."""
        self.next_due = min(self.next_due, job.due or math.inf)
        self.next_at_s = min(self.next_at_s, job.at_s or math.inf)
        self.next_expiry = min(self.next_expiry, job.expires or math.inf)

    def _final(self, job: Job) -> None:
        self.usage.add(job.key, -1, -job.size)
        self.ended_count += 1
        if not job.parent:
            self.next_purge = min(self.next_purge, job.ended + job.retention_s)
        self.told.ended.append(job)
        if job.state == State.DEAD:
            # No more than that: every client may follow the events, and what is in a job is its asker's.
            fields = {"job": job.number, "function": job.function, "attempts": job.attempt}
            self.told.events.append(Event("job_dead", fields, "warning"))
        for follower in self.following.ended(job):
            self.told.outcomes.setdefault(follower, []).append(job)

    def _pause_s(self, job: Job, loss: Loss, error: Mapping[str, Any]) -> float:
        if loss is not Loss.NOTHING:
            return self.policy.backoff.pause_s(job.failures + 1, self._jitter())
        if error.get("code") in AT_ONCE:
            return 0.0
        return FREE_PAUSE_S + self.policy.backoff.pause_s(job.attempt, self._jitter())


def _dead(job: Job, loss: Loss, error: Mapping[str, Any]) -> Mapping[str, Any]:
    """The outcome of a job whose last attempt ended with ``error``."""
    poison = loss is Loss.DEATH and job.deaths + 1 >= transitions.MAX_DEATHS
    what = f"{job.deaths + 1} nodes were lost with it" if poison else "no attempt is left"
    said = str(error.get("message", ""))[:1000]
    told = JobDead(
        f"{job.function} is dead after {job.attempt} attempts, {what}; the last: {said}", node=job.node,
        hint="`zcluster queue show` tells of each attempt, `zcluster queue retry` puts it back",
    ).to_dict()  # fmt: skip
    return {**told, "cause": dict(error)}


def _encoded(error: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(error)
