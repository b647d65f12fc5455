"""What an attack is, and what it has measured.

Rules kept here:
- an attack is held when each of its figures is;
- what a busy machine can spoil (times, and ratios of times) is told by its unit: a small round does not judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ground import Shared

from zcluster.bench.figures import Figure, figure_cells

MIB = 1024 * 1024
TIMES = frozenset({"ms", "s", "x"})
"""Units of what the machine has a say in."""


def at_most(name: str, value: float, limit: float, unit: str = "") -> Figure:
    """A figure with a ceiling."""
    return Figure(name, value, unit, limit)


def none(name: str, value: float) -> Figure:
    """A figure that must be 0."""
    return Figure(name, value, "", 0)


def some(name: str, value: float, least: float = 1) -> Figure:
    """A figure that shows that the attack took place."""
    return Figure(name, value, "", least, at_most=False)


def told(name: str, value: float, unit: str = "") -> Figure:
    """A figure that nothing is asked of."""
    return Figure(name, value, unit)


def ratio(name: str, value: float, quiet: float, limit: float) -> Figure:
    """How many times its quiet value a time has become."""
    return at_most(name, value / max(quiet, 1e-6), limit, "x")


@dataclass(frozen=True)
class Attack:
    """One row of the table."""

    name: str
    what: str
    """The attack, as the table of docs/security.md says it."""
    must: str
    run: Callable[[Shared | None], Sequence[Figure]]
    """Runs it, in small on the shared cluster or (None) in full on its own, and says what was measured."""


def broken(figures: Sequence[Figure], *, times: bool) -> list[str]:
    """The figures that are not met; without ``times`` only those that no busy machine can spoil."""
    missed = [figure for figure in figures if figure.met is False and (times or figure.unit not in TIMES)]
    return [f"{figure.name}: {' '.join(figure_cells(figure)[:2])}" for figure in missed]


def as_json(attack: Attack, figures: Sequence[Figure], seconds: float) -> dict[str, Any]:
    """A row's outcome for a file."""
    return {
        "name": attack.name, "what": attack.what, "must": attack.must, "seconds": round(seconds, 1),
        "held": not broken(figures, times=True), "figures": [asdict(figure) for figure in figures],
    }  # fmt: skip
