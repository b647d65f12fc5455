"""Who is told how jobs end.

Rules kept here:
- a follower is told each job once, after its end is on disk, and then no longer follows it;
- how the latest jobs ended stays in memory for a while (RECENT_JOBS, RECENT_BYTES): most are asked for just after their end;
- a key sees its own jobs, an administrator's all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Protocol

from zcluster.core.queue.job import Job

RECENT_JOBS = 4096
RECENT_BYTES = 4 * 1024 * 1024
RECENT_RESULT_BYTES = 65_536
"""A larger result is not kept in memory."""
MAX_FOLLOWED = 131_072
"""Jobs that one follower waits for."""


class Follower(Hashable, Protocol):
    """A session that waits for jobs."""

    @property
    def key(self) -> str: ...
    @property
    def admin(self) -> bool: ...


def may_see(key: str, admin: bool, job: Job) -> bool:
    """Whether a key may see ``job``."""
    return admin or job.key == key


class Following:
    """Followers by job, and the latest outcomes."""

    def __init__(self) -> None:
        self._by_job: dict[int, dict[Follower, None]] = {}
        self._by_follower: dict[Follower, set[int]] = {}
        self._recent: OrderedDict[int, Job] = OrderedDict()
        self._recent_bytes = 0

    def recent(self, number: int) -> Job | None:
        """A job that has just ended."""
        return self._recent.get(number)

    def forget(self, number: int) -> None:
        """The job is live again, or gone."""
        job = self._recent.pop(number, None)
        if job is not None:
            self._recent_bytes -= len(job.result)

    def count(self, follower: Follower) -> int:
        """How many jobs it follows."""
        return len(self._by_follower.get(follower, ()))

    @property
    def followed(self) -> int:
        """How many jobs somebody waits for."""
        return len(self._by_job)

    def follow(self, follower: Follower, number: int) -> None:
        """Tell ``follower`` of this job when it ends."""
        followers = self._by_job.get(number)
        if followers is None:
            self._by_job[number] = {follower: None}
        else:
            followers[follower] = None
        mine = self._by_follower.get(follower)
        if mine is None:
            self._by_follower[follower] = {number}
        else:
            mine.add(number)

    def unfollow(self, follower: Follower, numbers: Iterable[int]) -> None:
        """It no longer wants to be told."""
        mine = self._by_follower.get(follower)
        for number in numbers:
            followers = self._by_job.get(number)
            if followers is not None and follower in followers:
                del followers[follower]
                if not followers:
                    del self._by_job[number]
            if mine is not None:
                mine.discard(number)
        if mine is not None and not mine:
            del self._by_follower[follower]

    def gone(self, follower: Follower) -> None:
        """Its session is over."""
        self.unfollow(follower, list(self._by_follower.get(follower, ())))

    def ended(self, job: Job) -> Iterable[Follower]:
        """``job`` has ended, on disk: who is to be told."""
        number, size = job.number, len(job.result)
        if size <= RECENT_RESULT_BYTES:
            self._recent[number] = job
            self._recent_bytes += size
            while len(self._recent) > RECENT_JOBS or self._recent_bytes > RECENT_BYTES:
                self._recent_bytes -= len(self._recent.popitem(last=False)[1].result)
        followers = self._by_job.pop(number, None)
        if followers is None:
            return ()
        for follower in followers:
            mine = self._by_follower[follower]
            mine.discard(number)
            if not mine:
                del self._by_follower[follower]
        return followers
