"""The settings of the master's queues: the table [queue].

Rules kept here:
- each queue is bounded, in number and in bytes; what is refused at a bound is told to who asked;
- all of it is live: SIGHUP applies it, to what is accepted from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zcluster.config.spec import about
from zcluster.config.units import GIB, KIB, MIB


@dataclass(frozen=True)
class QueueSettings:
    """The master's queues: of requests that wait for a node, and of durable jobs."""

    per_client: int = field(
        default=131072,
        metadata=about("integer", "Requests of one session that may wait.", unit="requests", low=1, high=10000000, live=True),
    )
    total: int = field(
        default=524288,
        metadata=about("integer", "Requests that may wait altogether.", unit="requests", low=1, high=100000000, live=True),
    )
    total_bytes: int = field(
        default=256 * MIB,
        metadata=about("bytes", "Memory for the bodies of waiting requests.", unit="bytes", low=MIB, high=1024 * GIB, live=True),
    )
    max_timeout_s: float = field(
        default=86400.0,
        metadata=about(
            "duration", "Longest deadline that a request may ask for.", unit="seconds", low=1, high=30 * 86400, live=True
        ),
    )
    attempts: int = field(
        default=3,
        metadata=about(
            "integer",
            "Times that an idempotent request is started before it fails with NodeLost.",
            unit="attempts",
            low=1,
            high=10,
            live=True,
        ),
    )
    jobs: int = field(
        default=5_000_000,
        metadata=about(
            "integer", "Durable jobs that have not ended, altogether.", unit="jobs", low=1, high=100_000_000, live=True
        ),
    )
    jobs_per_key: int = field(
        default=2_000_000,
        metadata=about(
            "integer", "Durable jobs of one key that have not ended.", unit="jobs", low=1, high=100_000_000, live=True
        ),
    )
    jobs_bytes: int = field(
        default=4 * GIB,
        metadata=about(
            "bytes", "Disk for the arguments of jobs that have not ended.", unit="bytes", low=MIB, high=1024 * GIB, live=True
        ),
    )
    result_bytes: int = field(
        default=16 * MIB,
        metadata=about(
            "bytes", "Largest value of a job that is kept; a larger one fails it.", unit="bytes", low=KIB, high=GIB, live=True
        ),
    )
    job_timeout_s: float = field(
        default=3600.0,
        metadata=about(
            "duration", "Deadline of each attempt of a job that asks for none.", unit="seconds", low=0.1, high=86_400, live=True
        ),
    )
    job_expires_s: float = field(
        default=7 * 86_400.0,
        metadata=about(
            "duration", "When a job that does not say so expires if it has not begun.", unit="seconds", low=1, high=366 * 86_400,
            live=True,
        ),
    )
    retention_s: float = field(
        default=86_400.0,
        metadata=about(
            "duration", "How long the outcome of a job that asks for nothing else is kept.", unit="seconds", low=0,
            high=366 * 86_400, live=True,
        ),
    )
    max_retention_s: float = field(
        default=31 * 86_400.0,
        metadata=about(
            "duration", "Longest retention that a job may ask for.", unit="seconds", low=0, high=366 * 86_400, live=True
        ),
    )
    backoff_base_s: float = field(
        default=1.0,
        metadata=about(
            "duration", "First back-off before another attempt of a job; it doubles each time, with full jitter.",
            unit="seconds", low=0.01, high=3600, live=True,
        ),
    )
    backoff_max_s: float = field(
        default=300.0,
        metadata=about("duration", "Longest back-off between two attempts.", unit="seconds", low=0.01, high=86_400, live=True),
    )
