"""Agents at workers' doors come to the master to have another key, and go back.

Rules kept here:
- a worker vouches for its agents, so it must not say what their next key is: an agent says that to the master itself;
- an agent that cannot come, or is away, is asked again each ASK_S, at most AT_ONCE of them in one round;
- who has its next key is sent back where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from zcluster.nodes.desk import Desk
from zcluster.nodes.tasks import keep_running

ASK_S = 10.0
AT_ONCE = 100
BACK_S = 2.0
"""How long after it was told that its key is admitted an agent is sent back: it moves its session in this time."""

Bring = Callable[[str, str], Awaitable[str]]
"""Have an agent go to a node; returns where it was, empty when it does not go."""


class Visits:
    """Who is to come.

    Args:
        wanted: the names of agents that are to have another key, and have no session at this master.
    """

    def __init__(self, desk: Desk, wanted: Callable[[], Iterable[str]], bring: Bring) -> None:
        self._desk, self._wanted, self._bring = desk, wanted, bring
        self._came_from: dict[str, str] = {}
        self._asked = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Ask from now on."""
        self._spawn(keep_running(self._run, self._desk.logger, "asking agents to come for another key"))

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def look(self) -> None:
        """Somebody is to come: do not wait for the next round."""
        self._asked.set()

    def done(self, name: str) -> None:
        """This agent has its next key, or cannot have one: it may go back."""
        node = self._came_from.pop(name, "")
        if node:
            self._spawn(self._send_back(name, node))

    async def _run(self) -> None:
        while True:
            for name in [name for name, _ in zip(self._wanted(), range(AT_ONCE), strict=False)]:
                node = await self._bring(name, self._desk.name)
                if node:
                    self._came_from[name] = node
            try:
                async with asyncio.timeout(ASK_S if self._any_wanted() else None):
                    await self._asked.wait()
            except TimeoutError:
                continue
            self._asked.clear()

    def _any_wanted(self) -> bool:
        return next(iter(self._wanted()), None) is not None

    async def _send_back(self, name: str, node: str) -> None:
        await asyncio.sleep(BACK_S)
        await self._bring(name, node)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
