"""The cluster of a work about agents: workers that begin with books of agents, and what the master's events say of them.

Rules kept here:
- a worker's book is written before its process starts; its start is in no figure;
- when a worker joined and when all its rows were committed is what the master's own events say;
- a node that ends by itself ends the bench, with its last words.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from zcluster.bench.cluster import MASTER, LocalCluster
from zcluster.bench.figures import Say
from zcluster.bench.machine import cpu_seconds
from zcluster.clients import AsyncClient
from zcluster.config import Home
from zcluster.errors import TimedOut, ZClusterError
from zcluster.keys import make_private_dir

READY_S = 120.0
SYNC_S = 300.0
POLL_S = 0.01
CALL_S = 600.0


@dataclass(frozen=True)
class Load:
    """How much a work has to do."""

    agents: int
    workers: int
    """0: the master alone."""
    promised: bool = True
    """Whether it is the load that the bars are about."""

    def text(self) -> str:
        """The load in words."""
        nodes = f", {self.workers} worker{'s' if self.workers > 1 else ''}" if self.workers else ""
        return f"{self.agents:,} agent{'s' if self.agents > 1 else ''}{nodes}"


@dataclass(frozen=True)
class Bench:
    """What a work is given to be measured."""

    load: Load
    directory: Path
    """A directory of its own."""
    rounds: int
    duration_s: float
    say: Say

    def bar(self, value: float) -> float | None:
        """The bar, if the load is the one that it is about."""
        return value if self.load.promised else None

    def told(self, number: int, what: str) -> None:
        """Says what a round took."""
        self.say(f"round {number + 1} of {self.rounds}: {what}")


@dataclass(frozen=True)
class Synced:
    """A worker's rows came to the master."""

    seconds: float
    """From its session's begin until all were committed."""
    cpu_s: dict[str, float]
    """CPU seconds of the master and of this worker meanwhile."""


class Fleet:
    """A cluster without workers at first; use it as ``async with``.

    Args:
        directory: where the cluster's own directory is made.
        settings: settings of all nodes.
    """

    def __init__(self, directory: Path) -> None:
        self.cluster = LocalCluster(0, cluster_name="bench", parent=directory, ready_s=READY_S)
        self.client: AsyncClient
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Fleet:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.cluster)
            self.client = await stack.enter_async_context(AsyncClient(key=self.cluster.admin_key, timeout=CALL_S))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    @property
    def master_book(self) -> Path:
        """The directory of the master's databases."""
        return Home.of(self.cluster.home).data_dir / "node"

    def add_worker(self, name: str, book: Path | None = None) -> None:
        """Starts a worker that has a copy of the closed ``book`` (its directory); does not wait."""
        self.cluster.new_key(name, "worker")
        if book is not None:
            nodes = Home.of(self.cluster.home).data_dir / "nodes"
            make_private_dir(nodes)
            shutil.copytree(book, nodes / name)
        self.cluster.start_worker(name)

    async def synced(self, names: Iterable[str]) -> dict[str, Synced]:
        """Returns when all rows of these workers, which were just started, are committed at the master.

        Raises:
            TimedOut: it took more than SYNC_S.
        """
        began: dict[str, float] = {}
        cpu: dict[str, dict[str, float]] = {}
        found: dict[str, Synced] = {}
        waiting = set(names)
        position = 0

        async def look() -> bool:
            nonlocal position
            asked = {"after": position, "names": ["join", "agents_synced"], "limit": 1000}
            answer: dict[str, Any] = await self.client.call("events.since", asked, target=MASTER)
            position = answer["next"]
            for event in answer["events"]:
                name = event["fields"].get("name" if event["name"] == "join" else "node")
                if event["name"] == "join":
                    began[name], cpu[name] = event["at_s"], self._cpu(name)
                elif name in waiting:
                    used = {node: now - cpu[name][node] for node, now in self._cpu(name).items()}
                    found[name] = Synced(event["at_s"] - began[name], used)
                    waiting.discard(name)
            self.check(waiting)
            return not waiting

        await until(look, f"the rows of {', '.join(sorted(waiting))} are not at the master", SYNC_S)
        return found

    def _cpu(self, name: str) -> dict[str, float]:
        return {node: cpu_seconds([self.cluster.pids[node]]) for node in (MASTER, name) if node in self.cluster.pids}

    def check(self, names: Iterable[str]) -> None:
        """Raises ZClusterError when a node of ``names`` does not run."""
        for name in names:
            if name not in self.cluster.pids:
                raise ZClusterError(f"{name} ended early", hint=self.cluster.logs(name)[-500:].strip() or "it printed nothing")

    async def count(self, text: str = "") -> int:
        """How many agents the master knows that this filter means."""
        answer = await self.client.agents.count(text)
        return int(answer["total"])

    async def know(self, count: int, text: str = "") -> None:
        """Returns when the master knows ``count`` agents that this filter means. Raises TimedOut after SYNC_S."""

        async def look() -> bool:
            self.check([MASTER])
            return await self.count(text) == count

        await until(look, f"the master does not know {count:,} agents with {text or 'any state'}", SYNC_S)


async def until(look: Callable[[], Awaitable[bool]], what: str, most_s: float) -> None:
    """Returns when ``look`` says so, asked every POLL_S. Raises TimedOut with ``what`` after ``most_s``."""
    deadline_s = time.monotonic() + most_s
    while not await look():
        if time.monotonic() > deadline_s:
            raise TimedOut(f"{what} after {most_s:g} s")
        await asyncio.sleep(POLL_S)
