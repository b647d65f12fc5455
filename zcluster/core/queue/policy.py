"""How much may be queued, and by whom.

Rule kept here: full is Busy at once, with how long to wait; what was accepted is never dropped for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from zcluster.core.queue.lanes import WINDOW
from zcluster.core.queue.transitions import Backoff
from zcluster.errors import Busy

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Arguments of submissions that wait for the disk."""
MAX_WAITING_JOBS = 65_536
BUSY_S = 1.0
FULL_S = 30.0


@dataclass(frozen=True)
class Policy:
    """Bounds of the queue (config: queue.*)."""

    jobs: int = 5_000_000
    jobs_per_key: int = 2_000_000
    jobs_bytes: int = 4 * 1024**3
    result_bytes: int = 16 * 1024 * 1024
    window_jobs: int = WINDOW
    """Of a lane, in memory at most. Fixed when the queue begins."""
    backoff: Backoff = field(default_factory=Backoff)


class Usage:
    """The live jobs and the bytes of their arguments, by key and in all."""

    def __init__(self, usage: Mapping[str, tuple[int, int]]) -> None:
        self.by_key = {key: [jobs, size] for key, (jobs, size) in usage.items() if jobs or size}
        self.jobs = sum(jobs for jobs, _ in usage.values())
        self.bytes = sum(size for _, size in usage.values())

    def add(self, key: str, jobs: int, size: int) -> None:
        """So many more (or fewer) jobs of ``key``."""
        mine = self.by_key.get(key)
        if mine is None:
            mine = self.by_key[key] = [0, 0]
        mine[0] += jobs
        mine[1] += size
        if not mine[0]:
            del self.by_key[key]
        self.jobs += jobs
        self.bytes += size

    def check(self, policy: Policy, key: str, jobs: int, size: int) -> Busy | None:
        """Why so many more jobs may not be queued now, or None."""
        mine = self.by_key.get(key, (0, 0))[0]
        if self.jobs + jobs > policy.jobs:
            what, hint = f"{self.jobs} jobs have not ended, at most {policy.jobs} may be", "queue.jobs"
        elif mine + jobs > policy.jobs_per_key:
            what, hint = f"{mine} jobs of this key have not ended, at most {policy.jobs_per_key} may be", "queue.jobs_per_key"
        elif self.bytes + size > policy.jobs_bytes:
            what, hint = f"{self.bytes} bytes of arguments are queued, at most {policy.jobs_bytes} may be", "queue.jobs_bytes"
        else:
            return None
        return Busy(f"the queue is full: {what}", hint=f"try again when jobs have ended ({hint})", retry_after_s=FULL_S)
