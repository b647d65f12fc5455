"""Jobs and the queue as people see them: plain rows.

Rules kept here:
- times on the queue's own clock are told as seconds from now; times of day as seconds since 1970;
- a fan-out is ``running`` when one of its parts is, or has ended;
- an error is told where there is no value;
- the live jobs are looked through once for an answer, however many rows it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

from zcluster.brokers.queue import MasterQueue
from zcluster.brokers.queuevalues import values_of
from zcluster.core.queue.job import Job, State
from zcluster.core.queue.jobid import job_id
from zcluster.errors import PeerError

TOP = 20
SHOWN_ARGS_BYTES = 4096


class Views:
    """Makes rows.

    Args:
        args: the arguments of a job as they may be shown, or None.
        names: the name of a public key.
    """

    def __init__(self, queue: MasterQueue, args: Callable[[Job], Any], names: Callable[[str], str]) -> None:
        self._queue, self._args, self._names = queue, args, names

    def id(self, job: Job) -> str:
        """The id of ``job``."""
        return job_id(self._queue.store.id, job.number)

    def id_of(self, number: int) -> str:
        """The id of the job ``number``."""
        return job_id(self._queue.store.id, number)

    def begun(self, jobs: Iterable[Job]) -> Set[int]:
        """The fan-outs that nodes have a part of; none when ``jobs`` have no fan-out that might be one."""
        if not any(job.parts and not job.final for job in jobs):
            return frozenset()
        return {part.parent for part in self._queue.queue.live.values()}

    def state(self, job: Job, begun: Set[int]) -> State:
        """Its state, as people understand it. ``begun``: of :meth:`begun`."""
        if not job.parts or job.final:
            return job.state
        return State.RUNNING if job.parts_left < job.parts or job.number in begun else State.QUEUED

    def rows(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """What a list shows."""
        begun = self.begun(jobs)
        return [self._row(job, begun) for job in jobs]

    def _row(self, job: Job, begun: Set[int]) -> dict[str, Any]:
        now, wall_s = self._queue.clocks()
        waits_s = job.due - now if job.due else job.at_s - wall_s if job.at_s else 0.0
        return {
            "id": self.id(job), "function": job.function, "target": job.target, "state": self.state(job, begun).word,
            "node": job.node, "attempt": job.attempt, "failures": job.failures, "deaths": job.deaths,
            "priority": job.priority, "caller": job.caller,
            "accepted_s": round(job.accepted_s, 3), "at_s": job.at_s or None, "due_in_s": round(max(0.0, waits_s), 3),
            "expires_in_s": round(job.expires - now, 3) if job.expires and not job.final else None, "retries": job.retries,
            "timeout_s": job.timeout_s, "retention_s": job.retention_s, "idempotency_key": job.idempotency_key,
            "sequence": job.sequence, "blocked": job.blocked, "error": _error(job),
            "parent": self.id_of(job.parent) if job.parent else None, "parts": job.parts, "parts_left": job.parts_left,
            "ended_s": round(job.steps[-1].at_s, 3) if job.final and job.steps else None,
        }  # fmt: skip

    def more(self, job: Job) -> dict[str, Any]:
        """What only the one job is asked for."""
        return {
            "size": len(job.body),
            "result_bytes": len(job.result) if job.state == State.DONE else 0,
            "args": self._args(job) if len(job.body) <= SHOWN_ARGS_BYTES else None,
            "steps": [
                {
                    "state": State(step.state).word, "at_s": round(step.at_s, 6), "node": step.node, "attempt": step.attempt,
                    "error": step.error,
                }
                for step in job.steps
            ],
        }  # fmt: skip

    async def outcomes(self, parts: Sequence[Job]) -> list[dict[str, Any]]:
        """Parts of a fan-out with what has come of them."""
        live = self._queue.queue.live
        newest = [part if (known := live.get(part.number, part)).final else known for part in parts]
        values = await values_of([job.result if job.state == State.DONE else b"" for job in newest])
        return [self._outcome(job, value) for job, value in zip(newest, values, strict=True)]

    def _outcome(self, job: Job, value: Any) -> dict[str, Any]:
        spoiled = isinstance(value, PeerError)
        return {
            "id": self.id(job), "node": job.target, "state": job.state.word, "attempt": job.attempt,
            "value": None if spoiled else value, "error": value.to_dict() if spoiled else _error(job),
            "ended_s": round(job.steps[-1].at_s, 3) if job.final else None,
        }  # fmt: skip

    async def stats(self, admin: bool) -> dict[str, Any]:
        """The queue as a whole."""
        queue, policy = self._queue.queue, self._queue.queue.policy
        now, wall_s = self._queue.clocks()
        running = sum(1 for job in queue.live.values() if job.state == State.RUNNING)
        states = {state.word: queue.counts[state] for state in State}
        states["running"], states["leased"] = running, max(0, states["leased"] - running)
        lanes = sorted(queue.lanes.lanes.values(), key=lambda lane: -len(lane.window))[:TOP]
        next_s = min(queue.next_due - now, queue.next_at_s - wall_s)
        out: dict[str, Any] = {
            "states": states,
            "live": queue.usage.jobs,
            "bytes": queue.usage.bytes,
            "delayed_next_in_s": round(max(0.0, next_s), 3) if next_s < 1e12 else None,
            "lanes": [{"lane": lane.name, "ready": len(lane.window), "more": lane.more} for lane in lanes],
            "paused": ["all" if pattern == "*" else pattern for pattern in queue.lanes.paused],
            "draining": queue.draining,
            "writable": not queue.read_only,
            "read_only_reason": queue.read_only,
            **self._queue.pace.told(),
            "stray": queue.stray,
            "in_memory": len(queue.live) + queue.lanes.in_windows,
            "limits": {"jobs": policy.jobs, "jobs_per_key": policy.jobs_per_key, "jobs_bytes": policy.jobs_bytes,
                       "result_bytes": policy.result_bytes},
        }  # fmt: skip
        if admin:
            keys = sorted(queue.usage.by_key.items(), key=lambda item: -item[1][0])[:TOP]
            out["keys"] = [{"name": self._names(key), "jobs": jobs, "bytes": size} for key, (jobs, size) in keys]
        return out


def _error(job: Job) -> dict[str, Any] | None:
    """Why it has no value: the error of the step that ended it."""
    if not job.final or job.state == State.DONE or not job.steps:
        return None
    return job.steps[-1].error
