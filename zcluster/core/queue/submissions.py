"""Submissions: from what is asked to jobs on disk, told to who asked.

Rules kept here:
- full is said at once; what was taken is told when it is on disk, or why it is not;
- jobs that wait for nothing but a node are given to one before they are on disk: their first attempt is in the commit that
  accepts them. One with an idempotency key, in a sequence or with a time waits for what the store says.
"""

from __future__ import annotations

from collections.abc import Callable

from zcluster.core.queue.batch import MAX_BATCH_JOBS, Done, Opened
from zcluster.core.queue.ends import Ends
from zcluster.core.queue.job import Job, State, Step
from zcluster.core.queue.lanes import Lanes
from zcluster.core.queue.policy import BUSY_S, MAX_WAITING_BYTES, MAX_WAITING_JOBS, Policy
from zcluster.core.queue.told import Owner, Submission
from zcluster.errors import Busy, Draining, KeyConflict, StoreFailed, ZClusterError


class Submissions(Ends):
    """Those that wait for the disk, and those in the batch that is under way."""

    def __init__(self, opened: Opened, policy: Policy, lanes: Lanes, jitter: Callable[[], float]) -> None:
        super().__init__(opened, policy, lanes, jitter)
        self.read_only = ""
        """Why no new jobs are taken, or empty."""
        self.draining = False
        """No new jobs are taken until somebody says so."""
        self.accepted_count = 0
        self._number = opened.last_number
        self._flying: list[Submission] = []
        self._waiting: list[Submission] = []
        self._waiting_jobs = self._waiting_bytes = 0

    def refusal(self, key: str, jobs: int, size: int) -> ZClusterError | None:
        """Why so many more jobs of ``key`` are not taken now, or None."""
        if self.resting:
            return Draining("the master is shutting down; nothing was submitted", hint="try again when it is back")
        if self.draining:
            return Draining("the queue takes no new jobs", hint="`zcluster queue drain --off` lets it")
        if self.read_only:
            return StoreFailed(f"the queue takes no new jobs: {self.read_only}", hint="they are taken again when there is room")
        if self._waiting_jobs + jobs > MAX_WAITING_JOBS or (self._waiting_bytes + size > MAX_WAITING_BYTES and self._waiting):
            return Busy(
                f"{self._waiting_jobs} submissions wait for the disk", hint="wait for those before", retry_after_s=BUSY_S
            )
        return self.usage.check(self.policy, key, jobs, size)

    def submit(self, owner: Owner, first_id: int, jobs: list[Job], parts: list[Job]) -> None:
        """Take jobs that :meth:`refusal` does not refuse. ``parts`` are those of the one fan-out in ``jobs``."""
        number = self._number
        size = 0
        for job in jobs:
            number += 1
            job.number = number
            size += len(job.body)
        for part in parts:
            number += 1
            part.number, part.parent = number, jobs[0].number
            size += len(part.body)
        self._number = number
        self._waiting.append(Submission(owner, first_id, jobs, parts, size))
        count = len(jobs) + len(parts)
        self._waiting_jobs += count
        self._waiting_bytes += size
        self.usage.add(jobs[0].key, count, size)
        if not _plain(jobs[0]):
            return  # whether there is a part to be run depends on what the store knows of the whole, too
        for part in parts:
            self.lanes.add(part)
        if not parts:
            self.lanes.add_run(jobs)

    def is_new(self, number: int) -> bool:
        """Whether this job is not on disk yet, and perhaps never will be."""
        new = self._flying or self._waiting
        return bool(new) and number >= new[0].jobs[0].number

    def take_waiting(self) -> list[Submission]:
        """The oldest submissions that wait, as many as one batch may have; none is larger than that."""
        taken, self._waiting = self._waiting, []
        while self._waiting_jobs > MAX_BATCH_JOBS:
            self._waiting.append(last := taken.pop())
            self._waiting_jobs -= len(last.jobs) + len(last.parts)
        self._waiting.reverse()
        self._waiting_jobs = sum(len(each.jobs) + len(each.parts) for each in self._waiting)
        self._waiting_bytes = sum(each.bytes for each in self._waiting)
        return taken

    def accept(self, submission: Submission, done: Done) -> None:
        """A submission is on disk, except for what ``done.known`` says."""
        first = submission.jobs[0]
        told = self.told
        self.accepted_count += len(submission.jobs)
        if _plain(first):
            for job in submission.all if submission.parts else submission.jobs:
                if job.state == State.LEASED:
                    self.start(job)
            if first.expires:
                self.next_expiry = min(self.next_expiry, first.expires)
            told.accepted.append(submission)
        else:
            for offset, job in enumerate(submission.jobs):
                self._accepted_one(submission, submission.first_id + offset, job, done)
        if self.watched:
            new = [job for job in submission.all if job.number not in done.known]
            told.changed += [(job, job.steps[-1] if job.steps else Step(State.QUEUED, job.accepted_s)) for job in new]

    def _accepted_one(self, submission: Submission, id_: int, job: Job, done: Done) -> None:
        known = done.known.get(job.number)
        mine = [job, *submission.parts]
        if known is None:
            for each in mine:
                each.blocked = each.number in done.blocked
                self.await_time(each)
                if each.ready:
                    self.lanes.add(each)
            self.told.known.append((submission.owner, id_, job, False))
            return
        self.usage.add(job.key, -len(mine), -sum(len(each.body) for each in mine))
        self.counts[State.QUEUED] -= len(mine)
        if known.key == job.key and known.digest == job.digest:
            self.told.known.append((submission.owner, id_, known, True))
            return
        conflict = KeyConflict(
            f"the idempotency key {job.idempotency_key!r} of {job.function} belongs to a job that asked for something else",
            hint="the same key goes with the same arguments and target; give another job another key",
        )
        self.told.refused.append((submission.owner, id_, 1, conflict))

    def refuse(self, submission: Submission, error: ZClusterError) -> None:
        """A submission did not get onto the disk."""
        jobs = submission.all
        self.told.refused.append((submission.owner, submission.first_id, len(submission.jobs), error))
        self.usage.add(jobs[0].key, -len(jobs), -submission.bytes)
        for job in jobs:
            if job.state == State.LEASED:
                self.lanes.released(job.node)
                del self.live[job.number]
            else:
                self.lanes.remove(job)


def _plain(job: Job) -> bool:
    """Whether nothing but a node is missing to a job that is new."""
    return not (job.idempotency_key or job.sequence or job.due or job.at_s)
