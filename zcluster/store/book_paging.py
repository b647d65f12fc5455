"""What ``find`` is asked, checked: fields, order, page.

Rules kept here:
- a page begins after the last row of the one before (its sort value and id), never at a number: rows that come or go between
  two pages are not shown twice, and nothing is left out that was there all the time;
- of a text in an open field (os, labels, metrics) the first MAX_SORTED_CHARS count for the order;
- a cursor is bound to its order; one of another order, or that nobody made, is an error.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from zcluster.core.agents.fields import KINDS, Field, field_of, scalar_at, shown
from zcluster.core.agents.filter import Condition, checked
from zcluster.core.agents.row import Row
from zcluster.core.agents.versions import version_key
from zcluster.errors import TooLarge, UsageError

MAX_LIMIT = 10_000
MAX_SELECT = 64
MAX_CURSOR_CHARS = 4096
MAX_SORTED_CHARS = 256
MAX_VALUES = 10_000
"""How many values of a column ``count`` tells apart."""

Key = str | float | int
_CURSOR = msgspec.json.Decoder(tuple[str, Key, str])


@dataclass(frozen=True, slots=True)
class Plan:
    """A question that may be asked."""

    where: Condition | None
    fields: tuple[Field, ...]
    sort: Field
    descending: bool
    limit: int
    after: tuple[Key, str] | None
    """Sort value and id of the last row of the page before."""

    def key(self, row: Row) -> tuple[Key, str]:
        """Where the row stands."""
        return sort_value(row, self.sort), row.id

    def next(self, key: tuple[Key, str]) -> str:
        """The cursor of the page that follows the row with this key."""
        data = msgspec.json.encode((("-" if self.descending else "") + self.sort.name, *key))
        return base64.urlsafe_b64encode(data).decode().rstrip("=")


def plan_of(where: Condition | None, select: Sequence[str] | None, sort: str, limit: int, cursor: str) -> Plan:
    """The question. Raises UsageError: it cannot be asked."""
    if not 1 <= limit <= MAX_LIMIT:
        raise UsageError(f"a page has 1 to {MAX_LIMIT} rows, not {limit}")
    if select is not None and len(select) > MAX_SELECT:
        raise UsageError(f"{len(select)} fields are selected, at most {MAX_SELECT} may be")
    fields = tuple(field_of(name) for name in (KINDS if select is None else select))
    by = field_of(sort.removeprefix("-") or "id")
    if by.kind in ("groups", "object"):
        raise UsageError(f"{by.name} is not one value: nothing can be sorted by it", hint="sort by a field, or by labels.NAME")
    return Plan(checked(where), fields, by, sort.startswith("-"), limit, _after(cursor, sort) if cursor else None)


def counted_by(by: str) -> Field | None:
    """The field by whose values ``count`` counts; None for ``""``. Raises UsageError."""
    field = field_of(by) if by else None
    if field is not None and field.kind in ("time", "object"):
        raise UsageError(f"agents cannot be counted by {by}", hint="count by status, node, groups, version or labels.NAME")
    return field


def too_many_values(field: Field) -> TooLarge:
    """``count`` finds more values than it tells apart."""
    return TooLarge(f"{field.name} has more than {MAX_VALUES} values", hint="count by another field, or with a filter")


def sort_value(row: Row, field: Field) -> Key:
    """What counts for the order of rows by ``field``; what is missing is empty text."""
    found = scalar_at(row, field)
    if field.kind == "version":
        return version_key(str(found))
    if isinstance(found, str):
        return found[:MAX_SORTED_CHARS]
    return "" if found is None else found


def rank(key: tuple[Key, str]) -> tuple[bool, Any, str]:
    """A key that Python can compare: numbers before texts."""
    return isinstance(key[0], str), key[0], key[1]


def row_dict(row: Row, fields: Sequence[Field]) -> dict[str, Any]:
    """The row as an answer holds it."""
    return {field.name: shown(row, field) for field in fields}


def _after(cursor: str, sort: str) -> tuple[Key, str]:
    wrong = UsageError("the cursor is none of this question", hint="use the cursor of the page before, with the same order")
    if len(cursor) > MAX_CURSOR_CHARS:
        raise wrong
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        made_by, key, id_ = _CURSOR.decode(data)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise wrong from None
    descending = "-" if sort.startswith("-") else ""
    if made_by != descending + field_of(sort.removeprefix("-") or "id").name:
        raise wrong
    return key, id_
