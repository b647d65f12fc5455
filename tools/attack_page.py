"""Writes the table of what was measured into docs/security.md, from the files that ``make attack`` has left.

``python tools/attack_page.py DIR`` reads DIR/*.json, prints the table, writes it between the marks of the page, and exits with
1 when a row is not held. Rows that were not measured this time keep what the page says of them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zcluster.bench.figures import Figure, figure_cells
from zcluster.bench.machine import describe_machine

PAGE = Path(__file__).resolve().parents[1] / "docs" / "security.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NAMES = (
    "mutants", "multipart", "crowds", "strangers", "revoked", "squatters", "subscriptions", "stopped", "floods", "bodies",
    "descriptors",
)  # fmt: skip
"""The rows, in their order."""
ROW = "<!-- {} -->"


def row_of(name: str, outcome: Mapping[str, Any]) -> str:
    """One row of the table."""
    figures = [Figure(**figure) for figure in outcome["figures"]]
    held = "held" if outcome["held"] else "**NOT HELD**"
    measured = "<br>".join(one_figure(figure) for figure in figures)
    return f"| {outcome['what']} | {outcome['must']} | {measured} | {held} {ROW.format(name)} |"


def one_figure(figure: Figure) -> str:
    """A figure in the cell of a table."""
    value, _, met = figure_cells(figure)
    text = f"{figure.name}: {value.strip()}"
    return f"**{text}**" if met == "NOT MET" else text


def table_of(outcomes: Mapping[str, Mapping[str, Any]], before: Mapping[str, str]) -> str:
    """The whole table; what was not measured is as before, or not measured."""
    lines = ["| attack | must | measured | |", "|---|---|---|---|"]
    for name in NAMES:
        missing = f"| {name} | | not measured | {ROW.format(name)} |"
        lines.append(row_of(name, outcomes[name]) if name in outcomes else before.get(name, missing))
    return "\n".join(lines)


def rows_before(page: str) -> dict[str, str]:
    """The rows that the page has, by name."""
    lines = page.partition(BEGIN)[2].partition(END)[0].splitlines()
    return {name: line for name in NAMES for line in lines if ROW.format(name) in line}


def written(page: str, outcomes: Mapping[str, Mapping[str, Any]], about: str) -> str:
    """The page with the table of now."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} has no {BEGIN} and {END}")
    return f"{head}{begin}\n{about}\n\n{table_of(outcomes, rows_before(page))}\n{end}{tail}"


def about_now() -> str:
    """What it was measured on."""
    machine = describe_machine()
    where = f"{machine.cores} cores of {machine.cpu}, {machine.memory_bytes / 2**30:.0f} GiB, {machine.kernel}"
    day = time.strftime("%Y-%m-%d")
    return f"Measured on {day}: {where}, {machine.python}, pyzmq {machine.pyzmq}, libzmq {machine.libzmq}."


def main(arguments: Sequence[str]) -> int:
    """Print the table and write it; 1 when a row is not held."""
    outcomes = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in Path(arguments[0]).glob("*.json")}
    for name in NAMES:
        if name in outcomes:
            outcome = outcomes[name]
            print(f"{'held    ' if outcome['held'] else 'NOT HELD'}  {outcome['what']} ({outcome['seconds']:.0f} s)")
            for each in outcome["figures"]:
                print("          ", " | ".join(filter(None, (each["name"], *figure_cells(Figure(**each))))))
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), outcomes, about_now()), encoding="utf-8")
    return 0 if outcomes and all(outcome["held"] for outcome in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
