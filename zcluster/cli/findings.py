"""What a command that looks for faults has found: one line for each thing that it looked at.

Rules kept here:
- in the order in which it looked; the first that is wrong is the one to begin with, and is told again below the table;
- the exit code is 0 when all is well, 1 when something has failed, 3 when there are only warnings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zcluster.cli.options import MACHINE_FORMATS
from zcluster.cli.output import Column, cell, emit_list, put
from zcluster.errors import EXIT_FAILED, EXIT_OK, EXIT_PARTIAL

State = Literal["ok", "warn", "FAIL", "skip"]
COLUMNS = (
    Column("check", "CHECK"),
    Column("state", "STATE", colours={"ok": "green", "warn": "yellow", "FAIL": "red"}),
    Column("message", "FOUND"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: State
    message: str
    hint: str = ""
    """What to do; empty when nothing is to be done."""

    def item(self) -> dict[str, Any]:
        """As data: ``ok`` is null for what was not looked at."""
        ok = None if self.state == "skip" else self.state == "ok"
        return {"check": self.check, "ok": ok, "state": self.state.lower(), "message": self.message, "hint": self.hint}


def first_fault(findings: Sequence[Finding]) -> Finding | None:
    """The first that failed, else the first warning."""
    faults = [finding for finding in findings if finding.state in ("FAIL", "warn")]
    return next((finding for finding in faults if finding.state == "FAIL"), faults[0] if faults else None)


def emit_findings(findings: Sequence[Finding], output: str | None) -> int:
    """Print them; returns the exit code."""
    if output in MACHINE_FORMATS or output == "name":
        emit_list([finding.item() for finding in findings], COLUMNS, output, name_key="check")
    else:
        emit_list([{**finding.item(), "state": finding.state} for finding in findings], COLUMNS, output)
        put("\n".join(["", *_conclusion(first_fault(findings))]))
    states = {finding.state for finding in findings}
    return EXIT_FAILED if "FAIL" in states else EXIT_PARTIAL if "warn" in states else EXIT_OK


def _conclusion(fault: Finding | None) -> list[str]:
    if fault is None:
        return ["nothing is wrong"]
    word = "wrong" if fault.state == "FAIL" else "warning"
    return [f"{word}: {cell(fault.message)}", *([f"do: {cell(fault.hint)}"] if fault.hint else [])]
