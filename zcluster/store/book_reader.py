"""What is asked of the book's database, on a connection that only reads.

Rules kept here:
- an answer is read in one transaction: what it says is of one moment;
- a question that takes longer than QUESTION_S ends with TimedOut: the next one waits for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from zcluster.core.agents.fields import DEFAULT_GROUP, Field
from zcluster.core.agents.filter import Condition
from zcluster.core.agents.row import Row
from zcluster.core.agents.versions import natural_key
from zcluster.errors import TimedOut
from zcluster.store.book import Cursor, Found
from zcluster.store.book_paging import MAX_VALUES, Plan, row_dict, too_many_values
from zcluster.store.book_schema import ALL, ids_text, reading
from zcluster.store.book_sql import NARROW, count_query, page_query

QUESTION_S = 20.0
LOOK_EVERY_OPS = 20_000
"""About a millisecond of SQLite's steps."""
_ROW, _made = reading(ALL)
_HELD = "agents.node = nodes.node AND status != 'removed'"
_NODES = (
    "WITH RECURSIVE nodes (node) AS (SELECT min(node) FROM agents UNION ALL "
    "SELECT (SELECT min(node) FROM agents WHERE node > nodes.node) FROM nodes WHERE nodes.node IS NOT NULL) "
    "SELECT node FROM nodes WHERE node != '' AND "
)
"""The nodes one by one from the index: as many steps as nodes, not as agents."""

T = TypeVar("T")


class Reader:
    """Questions to the database. All raise sqlite3.Error; TimedOut, if ``clock`` says that it is time."""

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._clock = clock
        self._until_s = 0.0
        connection.create_function("natural_key", 1, natural_key, deterministic=True)
        connection.set_progress_handler(lambda: self._clock() > self._until_s, LOOK_EVERY_OPS)

    def answer(self, question: Callable[[], T]) -> T:
        """What ``question`` finds, in time."""
        self._until_s = self._clock() + QUESTION_S
        try:
            return question()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            raise TimedOut(
                f"the question takes longer than {QUESTION_S:.0f} s, and was ended",
                hint="ask by status, node, group, version or os.platform, or in the order of ids",
            ) from None

    def get_many(self, ids: Sequence[str]) -> dict[str, Row]:
        sql = f"SELECT {_ROW} FROM agents WHERE id IN (SELECT value FROM json_each(?))"
        found = {row.id: row for row in map(_made, self._connection.execute(sql, (ids_text(ids),)))}
        return {id_: found[id_] for id_ in ids if id_ in found}

    def changed(self, after: int, limit: int) -> tuple[list[Row], int, bool]:
        sql = f"SELECT change, {_ROW} FROM agents WHERE change > ? ORDER BY change LIMIT ?"
        with self._moment():
            found = self._connection.execute(sql, (after, limit + 1)).fetchall()
            more = len(found) > limit
            upto = found[limit - 1][0] if more else self._connection.execute("SELECT last FROM state").fetchone()[0]
        return [_made(values[1:]) for values in found[:limit]], upto, more

    def cursor(self, node: str) -> Cursor:
        found = self._connection.execute("SELECT source, upto FROM cursors WHERE node = ?", (node,)).fetchone()
        return Cursor(*found) if found else Cursor()

    def find(self, plan: Plan, count: bool) -> Found:
        columns, made = reading(tuple(dict.fromkeys(field.column for field in plan.fields)) or ("id",))
        with self._moment():
            sql, params = page_query(self._connection, plan, columns)
            found = self._connection.execute(sql, params).fetchall()
            total = self.count(plan.where, None).get("", 0) if count else None
        page = found[: plan.limit]
        more = plan.next(page[-1][:2]) if len(found) > len(page) else None
        return Found([row_dict(made(values[2:]), plan.fields) for values in page], more, total)

    def count(self, where: Condition | None, by: Field | None) -> dict[str, int]:
        sql, params = count_query(self._connection, where, by, MAX_VALUES)
        counts: dict[str, int] = {}
        for value, number in self._connection.execute(sql, params):
            key = "" if value is None else str(value)
            counts[key] = counts.get(key, 0) + number
        if by is not None and len(counts) > MAX_VALUES:
            raise too_many_values(by)
        return counts

    def nodes_of(self, ids: Sequence[str]) -> dict[str, str]:
        sql = "SELECT id, node FROM agents WHERE id IN (SELECT value FROM json_each(?)) AND node != '' AND status != 'removed'"
        return dict(self._connection.execute(sql, (ids_text(ids),)))

    def nodes_of_group(self, group: str) -> list[str]:
        member = "EXISTS (SELECT 1 FROM members WHERE name = :group AND agent = agents.id)"
        if group == DEFAULT_GROUP:
            member = f"({member} OR NOT EXISTS (SELECT 1 FROM groups_of WHERE agent = agents.id))"
        elif self._members(group) < NARROW:
            sql = (
                "SELECT DISTINCT node FROM members CROSS JOIN agents ON agents.id = members.agent "
                "WHERE members.name = ? AND node != '' AND status != 'removed'"
            )
            return sorted(node for (node,) in self._connection.execute(sql, (group,)))
        sql = f"{_NODES} EXISTS (SELECT 1 FROM agents INDEXED BY agents_node WHERE {_HELD} AND {member})"
        return [node for (node,) in self._connection.execute(sql, {"group": group})]

    def groups_revision(self) -> int:
        return int(self._connection.execute("SELECT groups FROM state").fetchone()[0])

    def _members(self, group: str) -> int:
        sql = "SELECT count(*) FROM (SELECT 1 FROM members WHERE name = ? LIMIT ?)"
        return int(self._connection.execute(sql, (group, NARROW)).fetchone()[0])

    @contextmanager
    def _moment(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
