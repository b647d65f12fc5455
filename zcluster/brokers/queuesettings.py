"""The settings ``queue.*`` as the queue's machine takes them."""

from __future__ import annotations

from zcluster.config import Settings
from zcluster.core.queue.admission import Defaults
from zcluster.core.queue.policy import Policy
from zcluster.core.queue.transitions import Backoff


def policy_of(settings: Settings) -> Policy:
    """How much may be queued, and how attempts follow each other."""
    queue = settings.queue
    backoff = Backoff(queue.backoff_base_s, queue.backoff_max_s)
    return Policy(
        jobs=queue.jobs, jobs_per_key=queue.jobs_per_key, jobs_bytes=queue.jobs_bytes, result_bytes=queue.result_bytes,
        backoff=backoff,
    )  # fmt: skip


def defaults_of(settings: Settings) -> Defaults:
    """What holds for jobs that do not say."""
    queue = settings.queue
    return Defaults(
        timeout_s=queue.job_timeout_s, expires_s=queue.job_expires_s, retention_s=queue.retention_s,
        body_bytes=settings.limits.body_bytes, max_retention_s=queue.max_retention_s,
    )  # fmt: skip
