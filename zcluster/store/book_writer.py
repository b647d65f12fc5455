"""What is written to the book's database, by one thread: everything that waits is one transaction.

Rules kept here:
- nothing is answered before it is on the disk (one fsync for all that waited);
- a call is checked before it writes anything, so that one that is wrong changes nothing and the others with it go on;
- a transaction that finds the disk full is done again call by call; then the reserve is freed, and until it can be made again
  only purging is done;
- rows of a chunk go to SQLite as they are; only those that another node has, or that were removed, are decided here, and only
  when SQLite has written fewer rows than it was given.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from zcluster.core.agents.ownership import Holding, decide
from zcluster.core.agents.row import ID, Row
from zcluster.core.agents.rowcodec import SaidRows
from zcluster.errors import StoreFailed, ZClusterError
from zcluster.store.book import Cursor, RowText, Took
from zcluster.store.book_chunk import Params, chunk_params, follows
from zcluster.store.book_limits import check_changes, check_count, check_groups, check_rows
from zcluster.store.book_schema import PUT, TAKE, TAKE_OWN, derived, ids_text, json_text, params_of
from zcluster.store.reserve import Reserve
from zcluster.store.sqlite_file import failure, is_full

_OTHERS = (
    "SELECT id, node, epoch, held, status FROM agents WHERE id IN (SELECT value FROM json_each(?)) "
    "AND (node NOT IN ('', ?) OR status = 'removed')"
)
_GONE = (
    "UPDATE agents SET change = CASE WHEN status != 'removed' OR epoch < :epoch THEN :number ELSE change END, "
    "status = 'removed', was = '', epoch = max(epoch, :epoch) WHERE id = :id AND node = :node"
)
_ID, _NODE, _STATUS, _EPOCH, _HELD = 0, 8, 9, 16, 17
"""Places in a row's parameters (book_schema.COLUMNS)."""


@dataclass(frozen=True, slots=True)
class Call:
    """Something to be done in a transaction; ``deletes``: it only makes room."""

    do: Callable[[Turn], Any]
    deletes: bool = False


class Writer:
    """The one who writes."""

    def __init__(self, connection: sqlite3.Connection, path: Path, reserve: Reserve) -> None:
        self._connection = connection
        self._path = path
        self._reserve = reserve
        self._full = False
        self._last, self._groups = connection.execute("SELECT last, groups FROM state").fetchone()

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Do all of ``calls``; each gets its result or its error."""
        if self._reserve.gone and self._reserve.make():
            self._full = False
        if not self._full:
            try:
                return self._transaction(calls)
            except Exception as error:  # one call's own fault is met again below, and told to its caller
                self._give_up(error)
        return [self._alone(call) for call in calls]

    def _alone(self, call: Call) -> Any:
        if self._full and not call.deletes:
            return StoreFailed(
                "the disk is full: only forgetting agents goes on; nothing was changed",
                hint=f"free space on the disk of {self._path}",
            )
        try:
            return self._transaction([call])[0]
        except sqlite3.Error as error:
            self._give_up(error)
            return failure(error, "writing to the book of agents", self._path)
        except Exception as error:
            return error

    def _give_up(self, error: Exception) -> None:
        if isinstance(error, sqlite3.Error) and is_full(error):
            self._reserve.free()
            self._full = True

    def _transaction(self, calls: Sequence[Call]) -> list[Any]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            turn = Turn(connection, self._last, self._groups)
            results = [_done(call, turn) for call in calls]
            connection.execute("UPDATE state SET last = ?, groups = ?", (turn.last, turn.groups_revision))
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        self._last, self._groups = turn.last, turn.groups_revision
        return results


def _done(call: Call, turn: Turn) -> Any:
    try:
        return call.do(turn)
    except ZClusterError as error:
        return error


class Turn:
    """One transaction."""

    def __init__(self, connection: sqlite3.Connection, last: int, groups_revision: int) -> None:
        self.last = last
        self.groups_revision = groups_revision
        self._connection = connection

    def put(self, rows: Sequence[Row]) -> int:
        check_rows(rows)
        self._many(PUT, (params_of(row, number) for number, row in enumerate(rows, self.last + 1)))
        self._assign({row.id: row.groups for row in rows if row.groups})
        return self.last

    def update(self, changes: Sequence[tuple[str, dict[str, Any]]], of: str) -> int:
        check_changes(changes)
        if of:
            there = self._there((id_ for id_, _ in changes), of)
            changes = [change for change in changes if change[0] in there]
        run: list[dict[str, Any]] = []
        names: tuple[str, ...] = ()
        groups: dict[str, Sequence[str]] = {}
        for id_, fields in changes:
            columns = derived(fields)
            if "groups" in fields:
                groups[id_] = fields["groups"]
            if ID.fullmatch(id_) is None:
                continue
            if tuple(columns) != names:
                self._update(names, run)
                run, names = [], tuple(columns)
            if columns:
                run.append({**columns, "_id": id_, "_number": self.last + 1 + len(run)})
        self._update(names, run)
        there = self._there(groups)
        self._assign({id_: names for id_, names in groups.items() if id_ in there})
        return self.last

    def _update(self, names: tuple[str, ...], run: Sequence[dict[str, Any]]) -> None:
        if not run:
            return
        loud = [name for name in names if name not in ("first_seen", "last_seen")]
        number = f"CASE WHEN {_differ(loud)} THEN :_number ELSE change END" if loud else "change"
        known, gone = (", was = ''", " OR was != ''") if "status" in names else ("", "")
        sets = ", ".join(f"{name} = :{name}" for name in names)
        self._many(f"UPDATE agents SET {sets}, change = {number}{known} WHERE id = :_id AND ({_differ(names)}{gone})", run)

    def take(
        self, node: str, source: str, base: int, upto: int, rows: Sequence[RowText] | SaidRows, alive: AbstractSet[str]
    ) -> Took:
        found = self._connection.execute("SELECT source, upto FROM cursors WHERE node = ?", (node,)).fetchone()
        cursor = Cursor(*found) if found else Cursor()
        took = Took(cursor)
        if source:
            if not follows(cursor, source, base, upto):
                return took
            if source != cursor.source:
                self._status_of(self._live(node), "disconnected")
            took.cursor = Cursor(source, upto)
            self._connection.execute("REPLACE INTO cursors VALUES (?, ?, ?)", (node, source, upto))
        put, gone, took.refused = chunk_params(rows, node, self.last)
        took.taken = len(put)
        if self._many(TAKE_OWN, put) < len(put):
            self._decide(put, node, alive, took)
        for id_, epoch in gone:
            params = {"id": id_, "epoch": epoch, "node": node, "number": self.last + 1}
            took.taken += self._connection.execute(_GONE, params).rowcount
            self._count()
        return took

    def _decide(self, put: list[Params], node: str, alive: AbstractSet[str], took: Took) -> None:
        """Some of the rows were not written: they are as they were, or another node's, or removed."""
        ids = ids_text(params[_ID] for params in put)
        others = {id_: Holding(*rest) for id_, *rest in self._connection.execute(_OTHERS, (ids, node))}
        accepted = []
        for params in put if others else ():
            current = others.get(params[_ID])
            if current is None:
                continue
            verdict = decide(current, Holding(node, params[_EPOCH], params[_HELD], params[_STATUS]), alive)
            if verdict != "accepted":
                took.refused.append((params[_ID], verdict))
                took.drop.append(params[_ID])
                took.taken -= 1
                continue
            accepted.append(params)
            if current.node not in ("", node):
                took.moved.append((params[_ID], current.node, node))
        self._many(TAKE, accepted)

    def set_groups(self, groups: Sequence[tuple[str, Sequence[str]]], revision: int) -> None:
        check_groups(groups)
        self._assign(dict(groups))
        self.groups_revision = revision

    def node_gone(self, node: str, now: float) -> int:
        live = self._live(node)
        self._many(
            "UPDATE agents SET was = status, status = 'disconnected', change = :number, "
            "last_seen = CASE WHEN status = 'active' THEN max(last_seen, :now) ELSE last_seen END WHERE id = :id",
            ({"id": id_, "number": number, "now": now} for number, id_ in enumerate(live, self.last + 1)),
        )
        return len(live)

    def node_back(self, node: str) -> int:
        back = [
            id_ for (id_,) in self._connection.execute("SELECT id FROM agents WHERE node = ? AND was != '' ORDER BY n", (node,))
        ]
        sql = "UPDATE agents SET status = was, was = '', change = :number WHERE id = :id"
        self._many(sql, ({"id": id_, "number": number} for number, id_ in enumerate(back, self.last + 1)))
        return len(back)

    def purge(self, ids: Sequence[str]) -> int:
        check_count(ids)
        sql = "DELETE FROM agents WHERE id IN (SELECT value FROM json_each(?))"
        return self._connection.execute(sql, (ids_text(ids),)).rowcount

    # -- inside -----------------------------------------------------------------------------------------------------

    def _many(self, sql: str, params: Iterable[Any]) -> int:
        """How many rows were written."""
        written = self._connection.executemany(sql, params).rowcount
        self._count()
        return written

    def _count(self) -> None:
        """Numbers that nothing was changed by are not used."""
        newest = self._connection.execute("SELECT max(change) FROM agents").fetchone()[0]
        self.last = max(self.last, newest or 0)

    def _live(self, node: str) -> list[str]:
        sql = "SELECT id FROM agents WHERE node = ? AND status IN ('active', 'silent') ORDER BY n"
        return [id_ for (id_,) in self._connection.execute(sql, (node,))]

    def _status_of(self, ids: Sequence[str], status: str) -> None:
        sql = "UPDATE agents SET status = :status, was = '', change = :number WHERE id = :id"
        self._many(sql, ({"id": id_, "status": status, "number": number} for number, id_ in enumerate(ids, self.last + 1)))

    def _there(self, ids: Iterable[str], of: str = "") -> AbstractSet[str]:
        """Those that have rows; ``of`` this node, if it is given."""
        sql = "SELECT id FROM agents WHERE id IN (SELECT value FROM json_each(:ids)) AND (node = :of OR :of = '')"
        return {id_ for (id_,) in self._connection.execute(sql, {"ids": ids_text(ids), "of": of})}

    def _assign(self, groups: dict[str, Sequence[str]]) -> None:
        """The groups of these agents; what stays as it is is not written."""
        if not groups:
            return
        sql = "SELECT agent, names FROM groups_of WHERE agent IN (SELECT value FROM json_each(?))"
        known = dict(self._connection.execute(sql, (ids_text(groups),)))
        wanted = {id_: json_text(list(names)) if names else "" for id_, names in groups.items()}
        changed = sorted(id_ for id_, text in wanted.items() if text != known.get(id_, ""))
        execute_many = self._connection.executemany
        before = [(name, id_) for id_ in changed if id_ in known for name in orjson.loads(known[id_])]
        execute_many("DELETE FROM members WHERE name = ? AND agent = ?", before)
        execute_many("INSERT OR IGNORE INTO members VALUES (?, ?)", [(name, id_) for id_ in changed for name in groups[id_]])
        execute_many("REPLACE INTO groups_of VALUES (?, ?)", [(id_, wanted[id_]) for id_ in changed if wanted[id_]])
        execute_many("DELETE FROM groups_of WHERE agent = ?", [(id_,) for id_ in changed if not wanted[id_]])


def _differ(names: Sequence[str]) -> str:
    return f"({', '.join(names)}) IS NOT ({', '.join(':' + name for name in names)})"
