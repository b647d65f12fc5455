"""Who is told of jobs: sessions, by ACCEPTED and OUTCOMES, and calls of ``queue.submit``, by their answer.

Rules kept here:
- what is told in one turn leaves together, in messages of at most CHUNK_BYTES and MAX_TOGETHER jobs;
- a value beyond ``inline_bytes`` is announced only: the function ``queue.result`` gives it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from zcluster.core.peers import Peer
from zcluster.core.queue.job import Job
from zcluster.core.queue.told import Submission
from zcluster.errors import ZClusterError
from zcluster.wire.jobs import Accepted, AcceptedGroup, JobRefusal, KnownJob, LargeOutcome, OutcomeGroup, Outcomes

CHUNK_BYTES = 262_144
MAX_TOGETHER = 1024


class SessionOwner:
    """A session that submits or follows jobs."""

    __slots__ = ("_groups", "_known", "_refused", "admin", "key", "last_id", "peer")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.key = peer.identity.key
        self.admin = peer.identity.role == "admin"
        self.last_id = 0
        """Of its submissions."""
        self._groups: list[AcceptedGroup] = []
        self._known: list[KnownJob] = []
        self._refused: list[JobRefusal] = []

    def accepted(self, submission: Submission) -> None:
        """All jobs of a submission are on disk."""
        first_id, number, count = submission.first_id, submission.jobs[0].number, len(submission.jobs)
        last = self._groups[-1] if self._groups else None
        if last is not None and last.first_id + last.count == first_id and last.first_number + last.count == number:
            last.count += count
        else:
            self._groups.append(AcceptedGroup(first_id, number, count))

    def known(self, id_: int, job: Job, before: bool) -> None:
        """One submission has become ``job``, which was there ``before``."""
        if before:
            self._known.append(KnownJob(id_, job.number))
            return
        last = self._groups[-1] if self._groups else None
        if last is not None and last.first_id + last.count == id_ and last.first_number + last.count == job.number:
            last.count += 1
        else:
            self._groups.append(AcceptedGroup(id_, job.number, 1))

    def refused(self, first_id: int, count: int, error: ZClusterError) -> None:
        """Submissions were not accepted."""
        self._refused.append(JobRefusal(first_id, count, error.code, error.message, error.hint, error.retry_after_s))

    def take(self, store: str) -> Iterator[Accepted]:
        """What ACCEPTED is to say now."""
        for start in range(0, max(len(self._groups), len(self._known), len(self._refused)), MAX_TOGETHER):
            part = slice(start, start + MAX_TOGETHER)
            yield Accepted(store=store, groups=self._groups[part], known=self._known[part], refused=self._refused[part])
        self._groups, self._known, self._refused = [], [], []


class CallOwner:
    """A call that waits for one submission."""

    __slots__ = ("_future", "admin", "key")

    def __init__(self, key: str, admin: bool) -> None:
        self.key, self.admin = key, admin
        self._future: asyncio.Future[tuple[Job, bool]] = asyncio.get_running_loop().create_future()

    def accepted(self, submission: Submission) -> None:
        self.known(submission.first_id, submission.jobs[0], False)

    def known(self, id_: int, job: Job, before: bool) -> None:
        if not self._future.done():
            self._future.set_result((job, before))

    def refused(self, first_id: int, count: int, error: ZClusterError) -> None:
        if not self._future.done():
            self._future.set_exception(error)

    async def wait(self) -> tuple[Job, bool]:
        """The job, and whether it was there before. Raises why it was not accepted."""
        return await self._future


def outcomes(store: str, jobs: Sequence[Job], unknown: Sequence[int], inline_bytes: int) -> Iterator[tuple[Outcomes, bytes]]:
    """What OUTCOMES is to say of ``jobs``, which have ended, with the bodies."""
    groups: list[OutcomeGroup] = []
    large: list[LargeOutcome] = []
    bodies: list[bytes] = []
    size = count = 0
    last: OutcomeGroup | None = None
    for job in jobs:
        result = job.result
        length = len(result)
        if count >= MAX_TOGETHER or size + length > CHUNK_BYTES:
            yield Outcomes(store=store, groups=groups, large=large), b"".join(bodies)
            groups, large, bodies, size, count, last = [], [], [], 0, 0, None
        count += 1
        if length > inline_bytes:
            large.append(LargeOutcome(job.number, job.state, job.node, job.attempt, length))
            continue
        if (
            last is not None and last.first_number + len(last.sizes) == job.number and last.state == job.state
            and last.node == job.node and last.attempt == job.attempt
        ):  # fmt: skip
            last.sizes.append(length)
        else:
            last = OutcomeGroup(job.number, job.state, job.node, job.attempt, [length])
            groups.append(last)
        bodies.append(result)
        size += length
    for start in range(0, max(len(unknown), 1), MAX_TOGETHER):
        missing = list(unknown[start : start + MAX_TOGETHER])
        if groups or large or missing:
            yield Outcomes(store=store, groups=groups, large=large, unknown=missing), b"".join(bodies)
        groups, large, bodies = [], [], []
