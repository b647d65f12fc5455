"""Whether a row is what a filter asks for: the reference for what the book's SQL has to find.

Rules kept here:
- each question is answered yes or no; what is missing is empty text to ``=``, ``!=`` and ``~``, and has no order;
- a number equals a number, a text a text; ``true`` and ``false`` are 1 and 0;
- ``<`` and its like compare numbers with numbers (of metrics nothing else), versions and other texts with their numbers as
  numbers (versions.py);
- ``group`` asks whether one of the groups is it; a time of 0 is missing;
- a glob has ``*`` and ``?``, and costs at most its length times that of the text.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from zcluster.core.agents.fields import Field, Scalar, field_of, groups_of, scalar_at
from zcluster.core.agents.filter import Both, Compare, Condition, Either, Not, number_in
from zcluster.core.agents.row import Row
from zcluster.core.agents.versions import natural_key, version_key

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def matches(where: Condition | None, row: Row) -> bool:
    """Whether the row is what ``where`` (see filter.checked) asks for."""
    match where:
        case None:
            return True
        case Compare():
            return _compare(where, row)
        case Not(of):
            return not matches(of, row)
        case Both(parts):
            return all(matches(part, row) for part in parts)
        case Either(parts):
            return any(matches(part, row) for part in parts)


def glob_matches(glob: str, text: str) -> bool:
    """Whether all of ``text`` is as ``glob`` says."""
    at = place = 0
    star, mark = -1, 0
    while place < len(text):
        if at < len(glob) and glob[at] == "*":
            star, mark = at, place
            at += 1
        elif at < len(glob) and glob[at] in ("?", text[place]):
            at += 1
            place += 1
        elif star >= 0:
            mark += 1
            at, place = star + 1, mark
        else:
            return False
    return not glob[at:].strip("*")


def _compare(asked: Compare, row: Row) -> bool:
    if asked.op == "!=":
        return not _compare(Compare(asked.field, "=", asked.value), row)
    field = field_of(asked.field)
    if field.kind == "groups":
        groups = groups_of(row)
        return any(glob_matches(asked.value, group) for group in groups) if asked.op == "~" else asked.value in groups
    found = scalar_at(row, field)
    if asked.op == "~":
        return not isinstance(found, int | float) and glob_matches(asked.value, found or "")
    if asked.op == "=":
        return _equal(field, found, asked.value)
    return _ordered(field, found, asked)


def _equal(field: Field, found: Scalar | None, value: str) -> bool:
    if field.kind == "version":
        return version_key(str(found)) == version_key(value)
    if isinstance(found, str) or found is None:
        return (found or "") == value
    return number_in(value) == found


def _ordered(field: Field, found: Scalar | None, asked: Compare) -> bool:
    order = _ORDERS[asked.op]
    if (
        found is None
        or (field.column == "metrics" and isinstance(found, str))
        or (field.kind in ("version", "time") and not found)
    ):
        return False
    if isinstance(found, str):
        key = version_key if field.kind == "version" else natural_key
        return key(found) != "" and order(key(found), key(asked.value))
    number = number_in(asked.value)
    return number is not None and order(found, number)
