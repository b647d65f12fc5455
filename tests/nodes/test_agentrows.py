"""What a node hears of its agents, written while others write into the same book."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from zcluster.core.agents.row import Row
from zcluster.core.peers import Event
from zcluster.nodes.agentrows import AgentRows
from zcluster.store.book_memory import MemoryBook

PATIENCE_S = 30.0


class SlowDisk(MemoryBook):
    """A book that writes one thing after the other, each when the disk has it; questions do not wait."""

    def __init__(self) -> None:
        super().__init__("b")
        self.writing = asyncio.Lock()
        self.disk = asyncio.Event()
        self.disk.set()
        self.looked = asyncio.Event()
        self.purging = asyncio.Event()

    async def get_many(self, ids: Sequence[str]) -> dict[str, Row]:
        found = await super().get_many(ids)
        self.looked.set()
        return found

    async def put(self, rows: Sequence[Row]) -> int:
        async with self.writing:
            return await super().put(rows)

    async def update(self, changes: Sequence[tuple[str, dict[str, Any]]], *, of: str = "") -> int:
        async with self.writing:
            return await super().update(changes, of=of)

    async def purge(self, ids: Sequence[str]) -> int:
        async with self.writing:
            self.purging.set()
            await self.disk.wait()
            return await super().purge(ids)


def test_a_session_that_begins_while_its_dropped_row_is_being_forgotten_has_a_row() -> None:
    async def main() -> None:
        book, events, numbered = SlowDisk(), list[Event](), list[tuple[str, str, int]]()
        await book.put([Row(id="a", node="n", held="session", status="disconnected", epoch=3)])
        rows = AgentRows(book, "n", lambda: 1000.0, events.append, lambda *what: numbered.append(what))
        book.disk.clear()
        dropping = asyncio.create_task(book.purge(["a"]))
        await book.purging.wait()
        rows.joined("a", 7)
        rows.set("a", {"name": "web"}, seen=True)
        book.looked.clear()
        writing = asyncio.create_task(rows.flush())
        await book.looked.wait()  # it still sees the row that is about to go
        book.disk.set()
        async with asyncio.timeout(PATIENCE_S):
            assert await dropping == 1
            assert await writing
        row = await book.get("a")
        assert row is not None, "its session is live: nobody would say so again"
        assert (row.node, row.held, row.status, row.epoch, row.name) == ("n", "session", "active", 7, "web")
        assert (row.first_seen, numbered) == (1000.0, [("a", "n", 7)])

    asyncio.run(main())
