"""The book of agents in memory: the reference for what every book does."""

from __future__ import annotations

import copy
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from zcluster.core.agents.fields import Field, groups_of, scalar_at
from zcluster.core.agents.filter import Condition, checked
from zcluster.core.agents.match import matches
from zcluster.core.agents.ownership import LIVE, Holding, decide, epoch_after
from zcluster.core.agents.row import Row, Status
from zcluster.core.agents.rowcodec import SaidRows
from zcluster.errors import StoreFailed
from zcluster.store.book import Cursor, Found, RowText, Took
from zcluster.store.book_chunk import chunk_rows, follows
from zcluster.store.book_limits import check_changes, check_count, check_groups, check_page, check_rows
from zcluster.store.book_paging import MAX_VALUES, counted_by, plan_of, rank, row_dict, too_many_values

_QUIET = {"groups": [], "last_seen": 0.0, "first_seen": 0.0}
"""What does not go up by itself."""


class MemoryBook:
    """An AgentBook (book.py) in dictionaries."""

    def __init__(self, id_: str = "") -> None:
        self.id = id_ or secrets.token_hex(16)
        self._rows: dict[str, Row] = {}
        self._numbers: dict[str, int] = {}
        self._last = 0
        self._groups: dict[str, list[str]] = {}
        self._groups_revision = 0
        self._cursors: dict[str, Cursor] = {}
        self._was: dict[str, Status] = {}
        """What agents were when their node died."""
        self._closed = False

    async def put(self, rows: Sequence[Row]) -> int:
        self._check_open()
        check_rows(rows)
        for row in rows:
            if row.groups:
                self._groups[row.id] = list(row.groups)
            self._was.pop(row.id, None)
            self._write(row)
        return self._last

    async def update(self, changes: Sequence[tuple[str, dict[str, Any]]], *, of: str = "") -> int:
        self._check_open()
        check_changes(changes)
        for id_, fields in changes:
            if id_ in self._rows and (not of or self._rows[id_].node == of):
                if "groups" in fields:
                    self._assign(id_, fields["groups"])
                if "status" in fields:
                    self._was.pop(id_, None)
                self._write(msgspec.structs.replace(self._rows[id_], **fields))
        return self._last

    async def get(self, id_: str) -> Row | None:
        return (await self.get_many([id_])).get(id_)

    async def get_many(self, ids: Sequence[str]) -> dict[str, Row]:
        self._check_open()
        check_count(ids)
        return {id_: self._shown(self._rows[id_]) for id_ in ids if id_ in self._rows}

    async def changed(self, after: int, limit: int) -> tuple[list[Row], int, bool]:
        self._check_open()
        check_page(limit)
        order = sorted((number, id_) for id_, number in self._numbers.items() if number > after)
        more = len(order) > limit
        upto = order[limit - 1][0] if more else self._last
        return [self._shown(self._rows[id_]) for _, id_ in order[:limit]], upto, more

    async def take(
        self, node: str, source: str, base: int, upto: int, rows: Sequence[RowText] | SaidRows, alive: frozenset[str]
    ) -> Took:
        self._check_open()
        cursor = self._cursors.get(node, Cursor())
        took = Took(cursor)
        if source:
            if not follows(cursor, source, base, upto):
                return took
            if source != cursor.source:
                self._set_status((row for row in self._rows.values() if row.node == node and row.status in LIVE), "disconnected")
            took.cursor = self._cursors[node] = Cursor(source, upto)
        chunk = chunk_rows(rows, node)
        took.refused += chunk.invalid
        for row in chunk.put:
            took.taken += self._claim(row, alive, took)
        for id_, epoch in chunk.gone:
            took.taken += self._gone(node, id_, epoch)
        return took

    def _claim(self, row: Row, alive: frozenset[str], took: Took) -> bool:
        known = self._rows.get(row.id)
        current = None if known is None else Holding(known.node, known.epoch, known.held, known.status)
        claim = Holding(row.node, row.epoch, row.held, row.status)
        verdict = decide(current, claim, alive)
        if verdict != "accepted":
            took.refused.append((row.id, verdict))
            took.drop.append(row.id)
            return False
        row.epoch = epoch_after(current, claim)
        if known is not None:
            row.first_seen = min((seen for seen in (known.first_seen, row.first_seen) if seen), default=0.0)
            row.last_seen = max(known.last_seen, row.last_seen)
            if known.node not in ("", row.node):
                took.moved.append((row.id, known.node, row.node))
        self._was.pop(row.id, None)
        self._write(row)
        return True

    def _gone(self, node: str, id_: str, epoch: int) -> bool:
        known = self._rows.get(id_)
        if known is None or known.node != node:
            return False
        self._was.pop(id_, None)
        self._write(msgspec.structs.replace(known, status="removed", epoch=max(known.epoch, epoch)))
        return True

    async def cursor(self, node: str) -> Cursor:
        self._check_open()
        return self._cursors.get(node, Cursor())

    async def find(
        self, where: Condition | None = None, *, select: Sequence[str] | None = None, sort: str = "id", limit: int = 100,
        cursor: str = "", count: bool = False,
    ) -> Found:  # fmt: skip
        self._check_open()
        plan = plan_of(where, select, sort, limit, cursor)
        rows = self._matching(plan.where)
        total = len(rows) if count else None
        rows.sort(key=lambda row: rank(plan.key(row)), reverse=plan.descending)
        if plan.after is not None:
            after, down = rank(plan.after), plan.descending
            rows = [row for row in rows if (rank(plan.key(row)) < after if down else rank(plan.key(row)) > after)]
        page = rows[: plan.limit]
        more = plan.next(plan.key(page[-1])) if len(rows) > len(page) else None
        return Found([row_dict(row, plan.fields) for row in page], more, total)

    async def count(self, where: Condition | None = None, *, by: str = "") -> dict[str, int]:
        self._check_open()
        field = counted_by(by)
        rows = self._matching(checked(where))
        if field is None:
            return {"": len(rows)}
        counts = Counter(value for row in rows for value in _values(row, field))
        if len(counts) > MAX_VALUES:
            raise too_many_values(field)
        return dict(counts)

    async def nodes_of(self, ids: Sequence[str]) -> dict[str, str]:
        rows = await self.get_many(ids)
        return {id_: row.node for id_, row in rows.items() if row.node and row.status != "removed"}

    async def nodes_of_group(self, group: str) -> list[str]:
        self._check_open()
        rows = map(self._shown, self._rows.values())
        return sorted({row.node for row in rows if row.node and row.status != "removed" and group in row.groups})

    async def set_groups(self, groups: Sequence[tuple[str, Sequence[str]]], revision: int) -> None:
        self._check_open()
        check_groups(groups)
        for id_, names in groups:
            self._assign(id_, names)
        self._groups_revision = revision

    async def groups_revision(self) -> int:
        self._check_open()
        return self._groups_revision

    async def node_gone(self, node: str, now: float) -> int:
        self._check_open()
        live = [row for row in self._rows.values() if row.node == node and row.status in LIVE]
        for row in live:
            seen = max(row.last_seen, now) if row.status == "active" else row.last_seen
            self._was[row.id] = row.status
            self._write(msgspec.structs.replace(row, status="disconnected", last_seen=seen))
        return len(live)

    async def node_back(self, node: str) -> int:
        self._check_open()
        back = [row for row in self._rows.values() if row.node == node and row.id in self._was]
        for row in back:
            self._write(msgspec.structs.replace(row, status=self._was.pop(row.id)))
        return len(back)

    async def purge(self, ids: Sequence[str]) -> int:
        self._check_open()
        check_count(ids)
        for id_ in ids:
            self._numbers.pop(id_, None)
            self._was.pop(id_, None)
        return sum(self._rows.pop(id_, None) is not None for id_ in ids)

    async def close(self) -> None:
        self._closed = True

    # -- inside -----------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise StoreFailed("the book is closed")

    def _assign(self, id_: str, groups: Sequence[str]) -> None:
        if list(groups):
            self._groups[id_] = list(groups)
        else:
            self._groups.pop(id_, None)

    def _write(self, row: Row) -> None:
        row = msgspec.structs.replace(copy.deepcopy(row), groups=[])
        known = self._rows.get(row.id)
        self._rows[row.id] = row
        if known is None or msgspec.structs.replace(known, **_QUIET) != msgspec.structs.replace(row, **_QUIET):
            self._last += 1
            self._numbers[row.id] = self._last

    def _shown(self, row: Row) -> Row:
        row = msgspec.structs.replace(copy.deepcopy(row), groups=list(self._groups.get(row.id, [])))
        row.groups = groups_of(row)
        return row

    def _matching(self, where: Condition | None) -> list[Row]:
        return [row for row in map(self._shown, self._rows.values()) if matches(where, row)]

    def _set_status(self, rows: Iterable[Row], status: Status) -> None:
        for row in list(rows):
            self._was.pop(row.id, None)
            self._write(msgspec.structs.replace(row, status=status))


def _values(row: Row, field: Field) -> list[str]:
    if field.kind == "groups":
        return list(dict.fromkeys(groups_of(row)))
    found = scalar_at(row, field)
    return ["" if found is None else str(found)]
