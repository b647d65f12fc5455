"""The groups of agents in the book follow the assignments in the store.

Rules kept here:
- the store is the truth; the book has the revision up to which it follows, and goes on from there after a restart;
- when the changes since are no longer known, or the store is another one, everything is compared, in pages;
- whoever has committed an assignment may wait until the book has it: a filter then agrees with what was just done.
"""

from __future__ import annotations

import asyncio

from zcluster.core.groups import OF_KEY, ONLY_DEFAULT, Groups, groups_in
from zcluster.errors import Compacted, ZClusterError
from zcluster.nodes.desk import Desk
from zcluster.store.book_limits import MAX_ROWS
from zcluster.store.interface import Change

PAGE = 1_000
PAUSE_S = 1.0
REACHED_S = 5.0
"""How long a change waits for the book before it answers anyway: a book whose disk is full must not stop it."""


class BookFollower:
    """The task that tells the book."""

    def __init__(self, desk: Desk) -> None:
        self._store, self._book, self._logger = desk.store, desk.book, desk.logger
        self._revision = 0
        self._moved = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Follow no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def reached(self, revision: int) -> None:
        """Return when the book has what was committed by ``revision``, or after REACHED_S."""
        try:
            async with asyncio.timeout(REACHED_S), self._moved:
                await self._moved.wait_for(lambda: self._revision >= revision)
        except TimeoutError:
            self._logger.warning("the book of agents is behind the assignments of groups")

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
                return
            except Compacted:
                self._logger.info("groups of all agents are compared")
                await self._retried()
            except ZClusterError as error:
                self._logger.error("the book cannot follow the groups, trying again: %s", error)
                await asyncio.sleep(PAUSE_S)
            except Exception:
                self._logger.exception("following the groups failed, trying again")
                await asyncio.sleep(PAUSE_S)

    async def _retried(self) -> None:
        try:
            await self._rebuild()
        except ZClusterError as error:
            self._logger.error("the groups cannot be compared, trying again: %s", error)
            await asyncio.sleep(PAUSE_S)

    async def _follow(self) -> None:
        after = await self._book.groups_revision()
        if after > await self._store.revision():
            raise Compacted("the book is ahead: the store is another one")
        await self._advance(after)
        async for changes, upto in self._store.watch(OF_KEY, after):
            said = _said(changes)
            # A page of the store ends with a whole commit: it may hold more than the book takes at once.
            while len(said) > MAX_ROWS:
                await self._book.set_groups(said[:MAX_ROWS], after)
                said = said[MAX_ROWS:]
            await self._book.set_groups(said, upto)
            after = upto
            await self._advance(upto)

    async def _advance(self, revision: int) -> None:
        async with self._moved:
            self._revision = revision
            self._moved.notify_all()

    async def _rebuild(self) -> None:
        revision = await self._store.revision()
        after, more = "", True
        while more:
            page = await self._store.scan(OF_KEY, after=after, limit=PAGE)
            await self._book.set_groups([(e.key.removeprefix(OF_KEY), groups_in(e.value)) for e in page.entries], 0)
            after, more = page.entries[-1].key if page.entries else "", page.more
        cursor = ""
        while True:
            found = await self._book.find(select=["id", "groups"], limit=PAGE, cursor=cursor)
            ids = [str(row["id"]) for row in found.rows if tuple(row["groups"]) != ONLY_DEFAULT]
            said = await self._store.get_many([OF_KEY + id_ for id_ in ids])
            await self._book.set_groups([(id_, ()) for id_ in ids if OF_KEY + id_ not in said], 0)
            if found.next is None:
                break
            cursor = found.next
        await self._book.set_groups([], revision)


def _said(changes: list[Change]) -> list[tuple[str, Groups]]:
    """The groups that changes say, as the book keeps them: none for an agent that is in default alone."""
    return [(change.key.removeprefix(OF_KEY), () if change.value is None else groups_in(change.value)) for change in changes]
