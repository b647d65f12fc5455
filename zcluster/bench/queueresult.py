"""What the bench of the queue has measured: rounds of contenders, a work's figures.

Rules kept here:
- a figure of several rounds is the median of the rounds, and a ratio is of medians of the same rounds;
- what was not measured is None, and never 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zcluster.bench.contenders import CLIENT, MASTER, WORKER
from zcluster.bench.figures import Figure
from zcluster.bench.machine import Machine
from zcluster.bench.queuerounds import QueueRound
from zcluster.bench.stats import Histogram, median

ROLES = (MASTER, WORKER, CLIENT)
PERCENTILES = (50.0, 99.0)


@dataclass(frozen=True)
class QueueContender:
    """What was measured of one contender in one work."""

    name: str
    rounds: tuple[QueueRound, ...]
    peak_bytes: dict[str, int]
    """The greatest VmHWM of the processes of each role; a role that was not watched is absent."""

    @property
    def accepted_per_s(self) -> float:
        """Jobs acknowledged a second."""
        return median([each.accepted_per_s for each in self.rounds])

    @property
    def done_per_s(self) -> float:
        """Jobs whose value was there, a second."""
        return median([each.done_per_s for each in self.rounds])

    @property
    def commits_per_s(self) -> float | None:
        """Durable commits a second; None when nobody knows."""
        return _median_or_none([each.commits_per_s for each in self.rounds])

    @property
    def bytes_per_job(self) -> float | None:
        """Bytes written to the disk for a job that was done."""
        return _median_or_none([_each(each.written_bytes, each.done.count) for each in self.rounds])

    def accept_s(self, percent: float) -> float | None:
        """A percentile of the time until a job was acknowledged."""
        return self._percentile_s(lambda each: each.accept, percent)

    def done_s(self, percent: float) -> float | None:
        """A percentile of the time until a job's value was there."""
        return self._percentile_s(lambda each: each.done, percent)

    def _percentile_s(self, of: Callable[[QueueRound], Histogram], percent: float) -> float | None:
        return _median_or_none([of(each).percentile_s(percent) if of(each).count else None for each in self.rounds])

    def cpu_us(self, role: str) -> float | None:
        """CPU microseconds of a role's processes for a job that was done, all rounds together; None when not measured."""
        done = sum(each.done.count for each in self.rounds)
        if not done or any(role not in each.cpu_s for each in self.rounds):
            return None
        return sum(each.cpu_s[role] for each in self.rounds) * 1e6 / done

    @property
    def errors(self) -> dict[str, int]:
        """Failed jobs by code."""
        total: dict[str, int] = {}
        for each in self.rounds:
            for code, count in each.errors.items():
                total[code] = total.get(code, 0) + count
        return total


def _each(value: float | None, count: int) -> float | None:
    return None if value is None or not count else value / count


def _median_or_none(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known and len(known) == len(values) else None


@dataclass(frozen=True)
class QueueLevel:
    """What was measured with one number of jobs under way."""

    in_flight: int
    contenders: tuple[QueueContender, ...]
    """Their memory is of all levels together."""


@dataclass(frozen=True)
class QueueWork:
    """What was measured of one work."""

    name: str
    about: str
    """The work and its load, in one line."""
    contenders: tuple[QueueContender, ...]
    """zcluster first; none for a work without rounds."""
    figures: tuple[Figure, ...]
    """Ratios and other figures, with their bars where the load is that of the bar."""
    sweep: tuple[QueueLevel, ...] = ()
    """All numbers of jobs under way, from the least to the greatest; none when there was one only."""


@dataclass(frozen=True)
class QueueResult:
    """What ``zcluster bench queue`` has measured."""

    about: str
    machine: Machine
    works: tuple[QueueWork, ...]
    options: dict[str, object]
    """What was asked for, as plain values."""

    @property
    def met(self) -> bool:
        """Whether no bar was missed."""
        return all(figure.met is not False for work in self.works for figure in work.figures)
