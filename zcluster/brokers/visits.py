"""Agents at workers' doors come to the master to have another key, and go back.

Rules kept here:
- a worker vouches for its agents, so it must not say what their next key is: an agent says that to the master itself;
- each ASK_S at most AT_ONCE agents are asked, those first whose turn was the longest time ago; one that was told to come and did
  not is asked again after AGAIN_S, because it leaves its node to try;
- who has its next key is sent back where it was.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterable

from zcluster.nodes.desk import Desk
from zcluster.nodes.tasks import keep_running

ASK_S = 10.0
AGAIN_S = 120.0
AT_ONCE = 100
BACK_S = 2.0
"""How long after it was told that its key is admitted an agent is sent back: it moves its session in this time."""

Bring = Callable[[str, str], Awaitable[str]]
"""Have an agent go to a node; returns where it was, empty when it does not go."""


class Visits:
    """Who is to come.

    Args:
        wanted: the names of agents that are to come, and have no session at this master.
    """

    def __init__(self, desk: Desk, wanted: Callable[[], Iterable[str]], bring: Bring) -> None:
        self._desk, self._wanted, self._bring = desk, wanted, bring
        self._came_from: dict[str, str] = {}
        self._not_before_s: dict[str, float] = {}
        """Of those that had their turn, and are wanted still."""
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
            for name in self._whose_turn():
                self._not_before_s[name] = self._desk.clock()
                node = await self._bring(name, self._desk.name)
                if node:
                    self._came_from[name] = node
                    self._not_before_s[name] += AGAIN_S
            try:
                async with asyncio.timeout(ASK_S if self._any_wanted() else None):
                    await self._asked.wait()
            except TimeoutError:
                continue
            self._asked.clear()

    def _whose_turn(self) -> list[str]:
        now_s, before = self._desk.clock(), self._not_before_s
        wanted = {name: before.get(name, 0.0) for name in self._wanted()}
        self._not_before_s = {name: wanted[name] for name in before if name in wanted}
        return heapq.nsmallest(AT_ONCE, (name for name, due_s in wanted.items() if due_s <= now_s), key=wanted.__getitem__)

    def _any_wanted(self) -> bool:
        return next(iter(self._wanted()), None) is not None

    async def _send_back(self, name: str, node: str) -> None:
        await asyncio.sleep(BACK_S)
        await self._bring(name, node)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
