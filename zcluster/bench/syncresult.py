"""What the bench of file sync has measured: a run, a contender's runs, a work's figures.

Rules kept here:
- a figure of several rounds is the median of the rounds, and a ratio is of medians of the same rounds;
- what was not measured is None, and never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zcluster.bench.figures import Figure
from zcluster.bench.machine import Machine
from zcluster.bench.stats import median

MASTER, WORKER = "master", "worker"
"""The roles: who has the files, and who gets them. For rsync: the client that pushes, and its daemon."""
ROLES = (MASTER, WORKER)
ZCLUSTER = "zcluster"


@dataclass(frozen=True)
class Run:
    """One copy, from the change to the last target that has it."""

    seconds: float
    wire_bytes: int | None
    """What the connections carried, both ways, all targets together."""
    cpu_s: dict[str, float]
    """CPU seconds of all processes of a role, their children with them."""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """The greatest memory of a node of that role, its processes added."""
    peak_process_bytes: int | None = None
    """The greatest memory of one process."""


@dataclass(frozen=True)
class Contender:
    """One program's runs of a work."""

    name: str
    runs: tuple[Run, ...]

    @property
    def seconds(self) -> float:
        """The median of the runs."""
        return median([run.seconds for run in self.runs])

    @property
    def wire_bytes(self) -> float | None:
        """The median of the runs."""
        return _median_or_none([run.wire_bytes for run in self.runs])

    def cpu_s(self, role: str) -> float | None:
        """CPU seconds of a role, the median of the runs."""
        return _median_or_none([run.cpu_s.get(role) for run in self.runs])

    def peak_bytes(self, role: str) -> int | None:
        """The greatest memory of a node of that role in any run."""
        return max((run.peak_bytes[role] for run in self.runs if role in run.peak_bytes), default=None)

    @property
    def peak_process_bytes(self) -> int | None:
        """The greatest memory of one process in any run."""
        return max((run.peak_process_bytes for run in self.runs if run.peak_process_bytes is not None), default=None)


def _median_or_none(values: list[int | None] | list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known and len(known) == len(values) else None


@dataclass(frozen=True)
class WorkResult:
    """What was measured of one work."""

    name: str
    about: str
    """The work and its load, in one line."""
    contenders: tuple[Contender, ...]
    """zcluster first; none for a work that is not about a copy."""
    figures: tuple[Figure, ...]
    """Ratios and other figures, with their bars where the load is that of the bar."""

    def contender(self, name: str) -> Contender | None:
        """The contender of that name, or None."""
        return next((each for each in self.contenders if each.name == name), None)


@dataclass(frozen=True)
class SyncResult:
    """What ``zcluster bench sync`` has measured."""

    about: str
    machine: Machine
    works: tuple[WorkResult, ...]
    options: dict[str, object]
    """What was asked for, as plain values."""

    @property
    def met(self) -> bool:
        """Whether no bar was missed."""
        return all(figure.met is not False for work in self.works for figure in work.figures)
