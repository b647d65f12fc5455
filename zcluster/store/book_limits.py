"""What a book refuses before it does anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zcluster.core.agents.row import FIELDS, Row, check_id, field_fault
from zcluster.errors import TooLarge, UsageError

MAX_ROWS = 10_000
"""Rows, changes or ids of one call."""


def check_rows(rows: Sequence[Row]) -> None:
    """Refuse what ``put`` must not be given."""
    check_count(rows)
    for row in rows:
        check_id(row.id)
        for name in FIELDS[1:]:
            _check(row.id, name, getattr(row, name))


def check_changes(changes: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Refuse what ``update`` must not be given."""
    check_count(changes)
    for id_, fields in changes:
        for name, value in fields.items():
            if name == "id" or name not in FIELDS:
                raise UsageError(f"{name[:80]!r} is no field of an agent that can be set")
            _check(id_, name, value)


def check_groups(groups: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Refuse what ``set_groups`` must not be given."""
    check_count(groups)
    for id_, names in groups:
        check_id(id_)
        _check(id_, "groups", names)


def check_count(items: Sequence[Any]) -> None:
    """Refuse a call with too many."""
    if len(items) > MAX_ROWS:
        raise TooLarge(f"{len(items)} agents in one call, at most {MAX_ROWS} are allowed")


def check_page(limit: int) -> None:
    """Refuse a page that is empty or too large."""
    if not 1 <= limit <= MAX_ROWS:
        raise UsageError(f"a page has 1 to {MAX_ROWS} rows, not {limit}")


def _check(id_: str, name: str, value: object) -> None:
    fault = field_fault(name, value)
    if fault is not None:
        raise type(fault)(f"agent {id_[:128]}: {fault.message}", hint=fault.hint)
