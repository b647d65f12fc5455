"""zcluster's file sync as a contender: a cluster of its own whose master has one tree.

Rules kept here:
- a copy has arrived when the master's ``sync.status`` says of every worker that it is current, at a version that is newer
  than the one before the change, and the changed files are in every copy; a worker says so when it has made them durable;
- the clock starts before the first file is changed: noticing the change is part of the work;
- a node is all its processes: what the process that syncs uses is its node's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil  # type: ignore[import-untyped]

from zcluster.bench.cluster import LocalCluster
from zcluster.bench.machine import cpu_seconds, peak_memory_bytes, resident_bytes
from zcluster.bench.sockets import carried_bytes
from zcluster.bench.syncresult import MASTER, WORKER, ZCLUSTER, Run
from zcluster.bench.trees import Changes, SourceTree, files_there
from zcluster.clients import AsyncClient
from zcluster.errors import TimedOut

TREE = "bench"
CURRENT = "current"
READY_S = 60.0
COPY_S = 1800.0
LEAST_POLL_S, MOST_POLL_S = 0.002, 0.25
POLL_SHARE = 0.01
"""How long to wait between two looks, as a share of the time so far: the figure is too long by that at most."""


def tree_config(path: Path) -> str:
    """The table of the configuration that declares the tree."""
    return f"[[sync.tree]]\nname = {json.dumps(TREE)}\npath = {json.dumps(str(path), ensure_ascii=False)}\n"


def family(pid: int) -> list[int]:
    """A process and all that descend from it, as far as they run."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


class Synced:
    """A cluster that syncs ``source``; use it as ``async with``: entering returns when all that is there has arrived.

    Args:
        directory: where the cluster's own directory is made, and with it the copies.
        source: the tree.
        workers: how many workers have a copy.
    """

    name = ZCLUSTER

    def __init__(self, directory: Path, source: SourceTree, workers: int) -> None:
        self._source = source
        self.cluster = LocalCluster(
            workers, cluster_name="bench", config=tree_config(source.root), parent=directory, ready_s=READY_S
        )
        self.client: AsyncClient
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Synced:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.cluster)
            self.client = await stack.enter_async_context(AsyncClient(key=self.cluster.admin_key))
            await self.arrived(0, [])
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    @property
    def copies(self) -> dict[str, Path]:
        """Each worker's copy of the source's files."""
        trees = self.cluster.home / "trees"
        return {f"{self.name}, {name}": trees / name / TREE / "data" for name in self.cluster.worker_names}

    # -- what the cluster says

    async def tree(self) -> dict[str, Any]:
        """What ``sync.trees`` says of the tree: version, files, bytes, scanned_at_s, scan_s, and more."""
        found: list[dict[str, Any]] = await self.client.call("sync.trees", target=MASTER)
        return next(tree for tree in found if tree["name"] == TREE)

    async def status(self) -> list[dict[str, Any]]:
        """The rows of ``sync.status``, one a worker: worker, state, version, applied_at_s, reason, and more."""
        rows: list[dict[str, Any]] = await self.client.call("sync.status", {"tree": TREE}, target=MASTER)
        return rows

    async def arrived(self, version: int, changes: Changes) -> list[dict[str, Any]]:
        """Returns the rows of the status when every worker has ``changes``, and more than ``version`` (0: any).

        Raises:
            TimedOut: it took more than COPY_S; the hint has each worker's state and reason.
        """
        began_s = time.perf_counter()
        waiting = dict(self.copies)
        while True:
            rows = await self.status()
            if len(rows) == len(self.copies) and all(row["state"] == CURRENT and row["version"] > version for row in rows):
                waiting = {name: copy for name, copy in waiting.items() if not files_there(changes, self._source.data, copy)}
                if not waiting:
                    return rows
            waited_s = time.perf_counter() - began_s
            if waited_s > COPY_S:
                says = "; ".join(f"{row['worker']}: {row['state']} {row.get('reason', '')}".strip() for row in rows)
                raise TimedOut(f"the copies are not current after {COPY_S:g} s", hint=says or "sync.status is empty")
            await asyncio.sleep(min(max(waited_s * POLL_SHARE, LEAST_POLL_S), MOST_POLL_S))

    # -- what its processes use

    def pids(self, role: str) -> list[int]:
        """All processes of the nodes of a role."""
        return [pid for node in self._nodes(role) for pid in node]

    def _nodes(self, role: str) -> list[list[int]]:
        return [family(pid) for name, pid in self.cluster.pids.items() if (name == MASTER) == (role == MASTER)]

    def wire_bytes(self) -> int | None:
        """What all connections of the workers have carried so far, both ways."""
        return carried_bytes(self.pids(WORKER))

    def memory_bytes(self, role: str) -> int:
        """The memory in RAM now of the greatest node of that role, its processes added."""
        return max((sum(resident_bytes(pid) for pid in node) for node in self._nodes(role)), default=0)

    def _forget_peaks(self) -> None:
        """Lets the kernel count peaks of memory from here; where it may not, they count from the start."""
        for pid in (*self.pids(MASTER), *self.pids(WORKER)):
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    # -- a run

    async def measure(self, act: Callable[[], None], changes: Changes) -> Run:
        """Does ``act``, which changes the source, and returns what it took until every worker has ``changes``."""
        version = int((await self.tree())["version"])
        cpu_before = {role: cpu_seconds(self.pids(role)) for role in (MASTER, WORKER)}
        wire_before = self.wire_bytes()
        self._forget_peaks()
        began_s = time.perf_counter()
        await asyncio.to_thread(act)
        await self.arrived(version, changes)
        seconds = time.perf_counter() - began_s
        wire_after = self.wire_bytes()
        known = wire_before is not None and wire_after is not None
        nodes = {role: self._nodes(role) for role in (MASTER, WORKER)}
        return Run(
            seconds,
            (wire_after or 0) - (wire_before or 0) if known else None,
            {role: cpu_seconds(self.pids(role)) - cpu_before[role] for role in nodes},
            {role: max(sum(peak_memory_bytes([pid]) for pid in node) for node in each) for role, each in nodes.items()},
            peak_memory_bytes(pid for each in nodes.values() for node in each for pid in node),
        )
