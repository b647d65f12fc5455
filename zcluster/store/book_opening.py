"""Opening a book of agents: the one place that knows which backend it is."""

from __future__ import annotations

from pathlib import Path

from zcluster.store.book import AgentBook
from zcluster.store.book_sqlite import SqliteBook


async def open_book(path: Path) -> AgentBook:
    """The book at ``path``, made when there is none.

    Raises:
        StoreFailed: it cannot be read or made.
        Busy: another process has it open.
    """
    return await SqliteBook.open(path)
