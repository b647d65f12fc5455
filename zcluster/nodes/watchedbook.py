"""A book that tells of each write: a worker's rows go up when they change, whoever changed them.

Rules kept here:
- it is told after the write has been done, and only when it was;
- everything else is the book's own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zcluster.core.agents.filter import Condition
from zcluster.core.agents.row import Row
from zcluster.core.agents.rowcodec import SaidRows
from zcluster.store.book import AgentBook, Cursor, Found, RowText, Took


class WatchedBook:
    """``book``, and ``written`` is called after each write to it."""

    def __init__(self, book: AgentBook, written: Callable[[], None]) -> None:
        self._book, self._written = book, written
        self.id = book.id

    async def put(self, rows: Sequence[Row]) -> int:
        number = await self._book.put(rows)
        self._written()
        return number

    async def update(self, changes: Sequence[tuple[str, dict[str, Any]]], *, of: str = "") -> int:
        number = await self._book.update(changes, of=of)
        self._written()
        return number

    async def take(
        self, node: str, source: str, base: int, upto: int, rows: Sequence[RowText] | SaidRows, alive: frozenset[str]
    ) -> Took:
        took = await self._book.take(node, source, base, upto, rows, alive)
        self._written()
        return took

    async def node_gone(self, node: str, now: float) -> int:
        count = await self._book.node_gone(node, now)
        self._written()
        return count

    async def node_back(self, node: str) -> int:
        count = await self._book.node_back(node)
        self._written()
        return count

    async def set_groups(self, groups: Sequence[tuple[str, Sequence[str]]], revision: int) -> None:
        await self._book.set_groups(groups, revision)

    async def purge(self, ids: Sequence[str]) -> int:
        return await self._book.purge(ids)

    async def get(self, id_: str) -> Row | None:
        return await self._book.get(id_)

    async def get_many(self, ids: Sequence[str]) -> dict[str, Row]:
        return await self._book.get_many(ids)

    async def changed(self, after: int, limit: int) -> tuple[list[Row], int, bool]:
        return await self._book.changed(after, limit)

    async def cursor(self, node: str) -> Cursor:
        return await self._book.cursor(node)

    async def find(
        self, where: Condition | None = None, *, select: Sequence[str] | None = None, sort: str = "id", limit: int = 100,
        cursor: str = "", count: bool = False,
    ) -> Found:  # fmt: skip
        return await self._book.find(where, select=select, sort=sort, limit=limit, cursor=cursor, count=count)

    async def count(self, where: Condition | None = None, *, by: str = "") -> dict[str, int]:
        return await self._book.count(where, by=by)

    async def nodes_of(self, ids: Sequence[str]) -> dict[str, str]:
        return await self._book.nodes_of(ids)

    async def nodes_of_group(self, group: str) -> list[str]:
        return await self._book.nodes_of_group(group)

    async def groups_revision(self) -> int:
        return await self._book.groups_revision()

    async def close(self) -> None:
        await self._book.close()
