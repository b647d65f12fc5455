"""A node's databases: the store and the book of agents, in one directory that one process holds.

Rules kept here:
- the directory is locked before anything in it is opened, and let go after everything is closed;
- whoever finds it locked waits for a bounded time: a worker that replaces another with the same key begins before that one has
  ended;
- a directory that cannot be written is an error that names it: what a node has acknowledged must outlive it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zcluster.errors import UsageError
from zcluster.keys import make_private_dir
from zcluster.process import OneProcess
from zcluster.store.book import AgentBook
from zcluster.store.book_opening import open_book
from zcluster.store.interface import Store
from zcluster.store.opening import open_store

LOCK_EVERY_S = 0.05
LOCK_WITHIN_S = 30.0


@dataclass(frozen=True)
class NodeData:
    """What is open."""

    store: Store
    book: AgentBook
    lock: OneProcess

    async def close(self) -> None:
        """Close everything and let the directory go."""
        await self.book.close()
        await self.store.close()
        self.lock.close()


def lock_data(directory: Path) -> OneProcess:
    """Make ``directory`` and hold it.

    Raises:
        UsageError: another process holds it.
        InvalidKey: it cannot be made.
    """
    make_private_dir(directory)
    return OneProcess(directory / "lock")


async def lock_when_free(directory: Path) -> OneProcess:
    """As lock_data, waiting for the process that holds it, for LOCK_WITHIN_S at most."""
    tries = int(LOCK_WITHIN_S / LOCK_EVERY_S)
    for _ in range(tries):
        try:
            return lock_data(directory)
        except UsageError:
            await asyncio.sleep(LOCK_EVERY_S)
    return lock_data(directory)


async def open_data(directory: Path, lock: OneProcess, digests: Sequence[str]) -> NodeData:
    """Open the databases in ``directory``, which ``lock`` holds.

    Raises:
        StoreFailed: one of them cannot be read.
    """
    store = await open_store(directory / "store.db", digests=digests)
    try:
        book = await open_book(directory / "agents.db")
    except BaseException:
        await store.close()
        raise
    return NodeData(store, book, lock)
