"""What a named bench is told and what it tells: options, figures with their bars, a result.

Rules kept here:
- a figure carries the bar that it has to reach, if there is one, and says whether it does;
- a figure exactly at its bar has reached it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from zcluster.bench.machine import Machine
from zcluster.errors import UsageError

MIB = 1024 * 1024
Say = Callable[[str], None]
"""Takes lines for the user about what is going on; they are talk, not data."""
Rows = list[tuple[str, ...]]
"""A table's cells; the first row is its head."""


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    """What it has to reach; None: nothing."""
    at_most: bool = True
    """Whether the bar is a ceiling (else a floor)."""

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None without a bar."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar


def number_text(value: float, digits: int = 4) -> str:
    """A number in ``digits`` digits, or in all of them before the point when it has more."""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:,.{digits}g}"


def bar_text(figure: Figure) -> str:
    """What a figure has to reach, or ``-``."""
    if figure.bar is None:
        return "-"
    return f"{'at most' if figure.at_most else 'at least'} {number_text(figure.bar)} {figure.unit}"


def figure_cells(figure: Figure) -> tuple[str, str, str]:
    """What was measured, the bar, and whether it is met, as cells of a table."""
    met = "" if figure.met is None else ("met" if figure.met else "NOT MET")
    return f"{number_text(figure.value)} {figure.unit}", bar_text(figure), met


@dataclass(frozen=True)
class SpecialResult:
    """What a named bench has measured."""

    name: str
    about: str
    """What was done, in one line."""
    machine: Machine
    figures: tuple[Figure, ...]
    options: dict[str, object] = field(default_factory=dict)
    """What was asked for, as plain values."""

    @property
    def met(self) -> bool:
        """Whether no bar was missed."""
        return all(figure.met is not False for figure in self.figures)


@dataclass(frozen=True)
class SpecialOptions:
    """What a named bench may be told; each uses what it needs."""

    workers: int = 0
    """Workers of the cluster; 0: as many as the bench's bar is about."""
    in_flight: int = 0
    """Requests under way at once; 0: as the bench's bar says."""
    duration_s: float = 5.0
    rounds: int = 5

    def __post_init__(self) -> None:
        for name, value, most in (("workers", self.workers, 5_000), ("in-flight", self.in_flight, 100_000)):
            if not 0 <= value <= most:
                raise UsageError(f"--{name} is from 0 to {most}, not {value}", hint=f"give --{name} within that range")
        if not 0.1 <= self.duration_s <= 3600:
            raise UsageError(f"--duration is from 0.1 to 3600 s, not {self.duration_s:g}")
        if not 1 <= self.rounds <= 100:
            raise UsageError(f"--rounds is from 1 to 100, not {self.rounds}")
