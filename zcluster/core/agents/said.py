"""What an agent said (KEEP), checked and as fields of its row.

Rules kept here:
- what is beyond a bound of core/agents/row.py is refused with its place, and nothing of that KEEP is taken;
- a full KEEP empties what it does not say.
"""

from __future__ import annotations

from typing import Any

from zcluster.core.agents.row import field_fault
from zcluster.errors import UsageError
from zcluster.wire.agents import Keep

_EMPTY: dict[str, Any] = {
    "name": "", "address": "", "version": "", "os": {}, "labels": {}, "metrics": {}, "config": "", "tree": "",
}  # fmt: skip


def fields_of(keep: Keep) -> dict[str, Any]:
    """The fields of the row that ``keep`` says."""
    said = {name: value for name in _EMPTY if (value := getattr(keep, name)) is not None}
    return {**_EMPTY, **said} if keep.full else said


def said_fault(fields: dict[str, Any]) -> UsageError | None:
    """What is wrong with what an agent said."""
    for name, value in fields.items():
        if value and (fault := field_fault(name, value)) is not None:
            return fault
    return None
