"""Filters as SQL. The reference for what they mean is core/agents/match.py.

Rules kept here:
- what a caller said is a parameter, never text of a statement; columns come from the list of fields;
- each term is true or false, never null;
- where a filter is narrow (few rows have what one of its terms asks), those rows are looked at; else rows are looked at in
  the order that is asked for, until there are enough: both are fast where one of them would not be.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from zcluster.core.agents.fields import DEFAULT_GROUP, Field, field_of
from zcluster.core.agents.filter import Both, Compare, Condition, Either, Not, number_in
from zcluster.core.agents.match import glob_matches
from zcluster.core.agents.versions import natural_key, version_key
from zcluster.store.book_paging import MAX_SORTED_CHARS, Plan
from zcluster.store.book_schema import GROUPS

NARROW = 20_000
"""Fewer rows than this are sorted rather than met in order: some 50 ms, however many others there are."""
_INDEXES = {"status": "agents_status", "node": "agents_node", "version": "agents_version", "os.platform": "agents_platform"}
_HAS_GROUPS = "EXISTS (SELECT 1 FROM groups_of WHERE agent = agents.id)"


class Text:
    """SQL and its parameters."""

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}

    def param(self, value: object) -> str:
        """The name under which ``value`` stands in the statement."""
        name = f"p{len(self.params)}"
        self.params[name] = value
        return f":{name}"

    def where(self, condition: Condition | None) -> str:
        """The condition."""
        match condition:
            case None:
                return "1"
            case Compare():
                return self.compare(condition)
            case Not(of):
                return f"NOT ({self.where(of)})"
            case Both(parts):
                return " AND ".join(f"({self.where(part)})" for part in parts) or "1"
            case Either(parts):
                return " OR ".join(f"({self.where(part)})" for part in parts) or "0"

    def compare(self, asked: Compare) -> str:
        """One term."""
        field = field_of(asked.field)
        if asked.op == "!=":
            return f"NOT ({self.compare(Compare(asked.field, '=', asked.value))})"
        if field.kind == "groups":
            return self._group(asked)
        if field.kind == "open" and field.name != "os.platform":
            return self._open(field, asked)
        if asked.op == "~":
            return f"{column_of(field)} GLOB {self.param(asked.value)}"
        if field.kind == "version":
            key = self.param(version_key(asked.value))
            return f"version_key = {key}" if asked.op == "=" else f"(version_key != '' AND version_key {asked.op} {key})"
        if field.kind in ("time", "number"):
            number = self.param(number_in(asked.value))
            there = f" AND {field.column} != 0" if field.kind == "time" and asked.op != "=" else ""
            return f"({field.column} {asked.op} {number}{there})"
        if asked.op == "=":
            return f"{column_of(field)} = {self.param(asked.value)}"
        return f"(platform != '' AND natural_key(platform) {asked.op} {self.param(natural_key(asked.value))})"

    def _group(self, asked: Compare) -> str:
        value = self.param(asked.value)
        if asked.op == "=":
            has, is_default = (
                f"EXISTS (SELECT 1 FROM members WHERE name = {value} AND agent = agents.id)",
                asked.value == DEFAULT_GROUP,
            )
        else:
            has = f"EXISTS (SELECT 1 FROM groups_of, json_each(names) WHERE agent = agents.id AND value GLOB {value})"
            is_default = glob_matches(asked.value, DEFAULT_GROUP)
        return f"({has} OR NOT {_HAS_GROUPS})" if is_default else has

    def _open(self, field: Field, asked: Compare) -> str:
        found = self.value(field)
        text, number = self.param(asked.value), number_in(asked.value)
        numeric = "0" if number is None or asked.op == "~" else f"{found} {asked.op} {self.param(number)}"
        if asked.op in ("=", "~"):
            op = "=" if asked.op == "=" else "GLOB"
            return f"CASE typeof({found}) WHEN 'text' THEN {found} {op} {text} WHEN 'null' THEN '' {op} {text} ELSE {numeric} END"
        key = self.param(natural_key(asked.value))
        ordered = "0" if field.column == "metrics" else f"{found} != '' AND natural_key({found}) {asked.op} {key}"
        return f"CASE typeof({found}) WHEN 'text' THEN {ordered} WHEN 'null' THEN 0 ELSE {numeric} END"

    def value(self, field: Field) -> str:
        """The text or number in an open field; null where there is none."""
        path = self.param("$" + "".join(f'."{key}"' for key in field.path))
        found = f"json_extract({field.column}, {path})"
        if field.column == "labels":
            return found
        return f"CASE WHEN json_type({field.column}, {path}) IN ('object', 'array') THEN NULL ELSE {found} END"

    def sort_key(self, field: Field) -> str:
        """What rows are sorted by."""
        if field.kind == "version":
            return "version_key"
        if field.kind != "open":
            return field.column
        if field.name == "os.platform":
            return f"substr(platform, 1, {MAX_SORTED_CHARS})"
        found = self.value(field)
        return (
            f"CASE typeof({found}) WHEN 'text' THEN substr({found}, 1, {MAX_SORTED_CHARS}) WHEN 'null' THEN '' ELSE {found} END"
        )


def column_of(field: Field) -> str:
    """The column of a field that has one."""
    return "platform" if field.name == "os.platform" else field.column


def narrow(connection: sqlite3.Connection, where: Condition | None, text: Text) -> str:
    """A query for the ``n`` of fewer than NARROW rows, among which are all that meet ``where``; empty if no term gives one."""
    best, fewest = "", NARROW
    for term in _terms(where):
        probe = Text()
        count = connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM {_rows_of(term, probe)} LIMIT {NARROW})", probe.params
        ).fetchone()[0]
        if count < fewest:
            fewest = count
            best = f"SELECT agents.n AS m FROM {_rows_of(term, text)}"
    return best


def _terms(where: Condition | None) -> Iterator[Compare]:
    """The terms that every row has to meet and that an index answers."""
    for part in where.parts if isinstance(where, Both) else (where,):
        if isinstance(part, Both):
            yield from _terms(part)
        elif isinstance(part, Compare):
            indexed = part.field in _INDEXES and (part.op == "=" or (part.field == "version" and part.op not in ("!=", "~")))
            is_group = part.field in ("groups", "group") and part.op == "=" and part.value != DEFAULT_GROUP
            if indexed or is_group or (part.field == "id" and part.op == "="):
                yield part


def _rows_of(term: Compare, text: Text) -> str:
    if term.field in ("groups", "group"):
        return f"members CROSS JOIN agents ON agents.id = members.agent WHERE members.name = {text.param(term.value)}"
    return f"agents INDEXED BY {_INDEXES.get(term.field, 'agents_id')} WHERE {text.compare(term)}"


def page_query(connection: sqlite3.Connection, plan: Plan, columns: str) -> tuple[str, dict[str, Any]]:
    """The statement for a page and the first row after it: sort key, id, and the columns."""
    text = Text()
    key = text.sort_key(plan.sort)
    few = narrow(connection, plan.where, text)
    by_id = plan.sort.column == "id"
    source = f"({few}) CROSS JOIN agents ON agents.n = m" if few else "agents INDEXED BY agents_id" if by_id else "agents"
    where = f"({text.where(plan.where)})"
    down = " DESC" if plan.descending else ""
    if plan.after is not None:
        than = "<" if plan.descending else ">"
        after, id_ = map(text.param, plan.after)
        where += f" AND id {than} {id_}" if by_id else f" AND ({key}, id) {than} ({after}, {id_})"
    order = f"id{down}" if by_id else f"{key}{down}, id{down}"
    sql = f"SELECT {key}, id, {columns} FROM {source} WHERE {where} ORDER BY {order} LIMIT {text.param(plan.limit + 1)}"
    return sql, text.params


def count_query(
    connection: sqlite3.Connection, where: Condition | None, by: Field | None, most: int
) -> tuple[str, dict[str, Any]]:
    """The statement for counts by the values of ``by``."""
    text = Text()
    few = narrow(connection, where, text) if where is not None else ""
    source = f"({few}) CROSS JOIN agents ON agents.n = m" if few else "agents"
    condition = text.where(where)
    if by is None:
        return f"SELECT '', count(*) FROM {source} WHERE {condition}", text.params
    rows = f"FROM {source} WHERE {condition}"
    limit = text.param(most + 1)
    if by.kind == "groups":
        names = f"SELECT agents.n AS n, coalesce({GROUPS}, '[\"default\"]') AS names {rows}"
        sql = f"SELECT value, count(DISTINCT n) FROM ({names}) AS found, json_each(found.names) GROUP BY value LIMIT {limit}"
        return sql, text.params
    value = text.value(by) if by.kind == "open" and by.name != "os.platform" else column_of(by)
    return f"SELECT {value} AS v, count(*) {rows} GROUP BY v LIMIT {limit}", text.params
