"""Answers where agents are, for requests whose target names them.

Rules kept here:
- the book is asked off the loop, for all questions that wait at once, as far as it takes them; what it cannot answer becomes the
  requests' error;
- an agent that nobody knows is NoSuchAgent, a group that there is not NoSuchGroup, one without agents NoSuchNode.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from zcluster.core.locating import AGENT, GROUP, Locate
from zcluster.core.master import Master
from zcluster.errors import NoSuchAgent, NoSuchGroup, NoSuchNode, ZClusterError
from zcluster.store.book import AgentBook
from zcluster.store.book_limits import MAX_ROWS
from zcluster.store.interface import Store


class Locator:
    """Takes the machine's questions to the book.

    Args:
        wake: called when there are answers.
    """

    def __init__(self, machine: Master, book: AgentBook, store: Store, wake: Callable[[], None]) -> None:
        self._machine, self._book, self._store, self._wake = machine, book, store, wake
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Begin with the questions that wait, unless that has been done."""
        if self._machine.admission.parking.questions and (self._task is None or self._task.done()):
            self._task = asyncio.ensure_future(self._answer())

    async def nodes_of(self, target: str) -> list[str]:
        """The nodes that ``agent:ID`` or ``group:G`` means now. Raises NoSuchAgent, NoSuchGroup, NoSuchNode."""
        ids = [target.removeprefix(AGENT)] if target.startswith(AGENT) else []
        found = await self._nodes(Locate(target, []), await self._book.nodes_of(ids) if ids else {})
        if isinstance(found, ZClusterError):
            raise found
        return found

    async def close(self) -> None:
        """Ask no more; requests that wait end with the machine."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _answer(self) -> None:
        parking = self._machine.admission.parking
        while parking.questions:
            questions, parking.questions = parking.questions[:MAX_ROWS], parking.questions[MAX_ROWS:]
            try:
                ids = [locate.target.removeprefix(AGENT) for locate in questions if locate.target.startswith(AGENT)]
                held = await self._book.nodes_of(ids) if ids else {}
            except ZClusterError as error:
                for locate in questions:
                    self._machine.admission.located(locate, error)
                self._wake()
                continue
            for locate in questions:
                self._machine.admission.located(locate, await self._nodes(locate, held))
            self._wake()

    async def _nodes(self, locate: Locate, held: dict[str, str]) -> list[str] | ZClusterError:
        if locate.target.startswith(AGENT):
            id_ = locate.target.removeprefix(AGENT)
            node = held.get(id_)
            if node:
                return [node]
            return NoSuchAgent(f"no node holds an agent {id_!r}", hint="`zcluster agents ls` lists the agents")
        group = locate.target.removeprefix(GROUP)
        try:
            nodes = await self._book.nodes_of_group(group)
            if nodes:
                return nodes
            if group != "default" and await self._store.get(f"groups/name/{group}") is None:
                return NoSuchGroup(f"there is no group {group!r}", hint="`zcluster groups ls` lists the groups")
        except ZClusterError as error:
            return error
        return NoSuchNode(f"no node holds an agent of the group {group!r}", hint="`zcluster groups show` counts its agents")
