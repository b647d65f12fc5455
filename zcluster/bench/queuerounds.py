"""One round of jobs: what a loading process tells of it, and how the parent measures around it.

Rules kept here:
- a round has a warm-up and a measured window; a job counts for what happened of it within the window;
- CPU time and written bytes are read by the parent at the window's two ends, so the reading costs the measured processes nothing;
- a figure that could not be measured is None, and never 0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from zcluster.bench.child import RoundChild
from zcluster.bench.machine import cpu_seconds, mount_of
from zcluster.bench.rounds import DRAIN_S, LEAD_S, RoundSpec
from zcluster.bench.stats import Histogram

MASTER = "master"
IN_MEMORY = ("tmpfs", "ramfs")
"""File systems that have no disk."""


class Latencies(msgspec.Struct, frozen=True):
    """A histogram as it travels; see Histogram.to_counts."""

    counts: dict[str, int]
    max_ns: int

    @classmethod
    def of(cls, histogram: Histogram) -> Latencies:
        return cls(histogram.to_counts(), histogram.max_ns)

    def histogram(self) -> Histogram:
        return Histogram.from_counts(self.counts, self.max_ns)


class QueueLine(msgspec.Struct, frozen=True):
    """What a loading process has measured in a round."""

    accept: Latencies
    """From a job's submission until it was acknowledged, of those acknowledged within the window."""
    done: Latencies
    """From its submission until its value was there, of those that came within the window, with the right value."""
    seconds: float
    """How long the window really was."""
    errors: dict[str, int]
    """Failed jobs by error code, ``wrong_answer`` among them; they are in no other figure."""


@dataclass(frozen=True)
class QueueRound:
    """One round of one contender."""

    seconds: float
    accept: Histogram
    done: Histogram
    errors: dict[str, int]
    cpu_s: dict[str, float]
    """CPU seconds used in the window, by role."""
    written_bytes: float | None
    """What the processes of the role master had written to the disk in the window."""
    commits_per_s: float | None

    @property
    def accepted_per_s(self) -> float:
        return self.accept.count / self.seconds if self.seconds else 0.0

    @property
    def done_per_s(self) -> float:
        return self.done.count / self.seconds if self.seconds else 0.0


@dataclass
class QueueWatched:
    """The processes of a contender by role, the one that makes the load, and where its files are."""

    loader: RoundChild
    directory: Path
    pids: dict[str, list[int]] = field(default_factory=dict)
    commits: Callable[[], Awaitable[int]] | None = None
    """Tells how many commits there were so far; None: each job is one (see ``one_commit``), or nobody knows."""
    one_commit: bool = False


@dataclass(frozen=True)
class QueueLoad:
    """The load that every round of a work has."""

    in_flight: int
    window_s: float
    warm_up_s: float


async def run_queue_round(watched: QueueWatched, load: QueueLoad) -> QueueRound:
    """Runs one round and measures it."""
    start_at_s = time.monotonic() + LEAD_S + load.warm_up_s
    await watched.loader.tell(RoundSpec(start_at_s, load.window_s, load.warm_up_s, load.in_flight))
    await asyncio.sleep(start_at_s - time.monotonic())
    before = await Reading.now(watched)
    await asyncio.sleep(start_at_s + load.window_s - time.monotonic())
    after = await Reading.now(watched)
    line = await watched.loader.hear(QueueLine, DRAIN_S)
    return round_of(line, before, after, watched)


@dataclass(frozen=True)
class Reading:
    """What the parent has read of a contender's processes at one moment."""

    at_s: float
    cpu_s: dict[str, float]
    written_bytes: int | None
    commits: int | None

    @classmethod
    async def now(cls, watched: QueueWatched) -> Reading:
        """Reads them."""
        cpu_s = {role: cpu_seconds(pids) for role, pids in watched.pids.items()}
        written = None if in_memory(watched.directory) else written_bytes(watched.pids.get(MASTER, ()))
        return cls(time.monotonic(), cpu_s, written, None if watched.commits is None else await watched.commits())


def round_of(line: QueueLine, before: Reading, after: Reading, watched: QueueWatched) -> QueueRound:
    """The round. The parent wakes a little late at both ends: what it has read is scaled to the loader's window."""
    done = line.done.histogram()
    scale = line.seconds / (after.at_s - before.at_s)
    written = None
    if before.written_bytes is not None and after.written_bytes is not None:
        written = (after.written_bytes - before.written_bytes) * scale
    commits_per_s = None
    if watched.one_commit:
        commits_per_s = done.count / line.seconds
    elif before.commits is not None and after.commits is not None:
        commits_per_s = (after.commits - before.commits) / (after.at_s - before.at_s)
    return QueueRound(
        seconds=line.seconds,
        accept=line.accept.histogram(),
        done=done,
        errors=line.errors,
        cpu_s={role: (after.cpu_s[role] - used) * scale for role, used in before.cpu_s.items()},
        written_bytes=written,
        commits_per_s=commits_per_s,
    )


def written_bytes(pids: Iterable[int]) -> int | None:
    """What these processes have had written to disks so far (in whole pages), or None where the kernel does not tell."""
    total = 0
    for pid in pids:
        try:
            total += psutil.Process(pid).io_counters().write_bytes
        except (psutil.Error, AttributeError, NotImplementedError):
            return None
    return total


def filesystem_of(directory: Path) -> str:
    """The type of the file system that has ``directory``, such as ext4; empty when the system does not tell."""
    return mount_of(directory)[1]


def in_memory(directory: Path) -> bool:
    """Whether ``directory`` is on a file system without a disk, where fsync costs nothing."""
    return filesystem_of(directory) in IN_MEMORY
