"""The settings of the audit log: the table [audit].

Rule kept here: jobs are always audited; what is chosen here is which requests are, and how much is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zcluster.config.spec import about
from zcluster.config.units import GIB, MIB


@dataclass(frozen=True)
class AuditSettings:
    """The master's audit log: who asked for what, where it ran, how it ended. Durable jobs are always in it."""

    requests: str = field(
        default="admin",
        metadata=about(
            "choice",
            "Which requests are written to it. none: none of them. admin: those of functions that ask for the role admin. "
            "all: every request, which costs the master throughput.",
            choices=("none", "admin", "all"),
            live=True,
        ),
    )
    arguments: bool = field(
        default=True,
        metadata=about(
            "boolean", "Whether arguments of up to 4 KiB are written too. Those that a function declares secret never are.",
            live=True,
        ),
    )  # fmt: skip
    segment_bytes: int = field(
        default=4 * MIB,
        metadata=about("bytes", "Size at which a file of the log is full and the next begins.", unit="bytes", low=MIB, high=GIB),
    )
    segments: int = field(
        default=128,
        metadata=about(
            "integer", "Files of the log that are kept; the oldest goes when there are more.", unit="files", low=2, high=10_000
        ),
    )
