"""The sync process of a worker: its member, its disks, and what its main process may ask.

Rules kept here:
- where trees may be, and whether commands of the master's configuration run here, comes from this node's own setup;
- what is asked about all trees is asked tree by tree, so that one that cannot be compared does not hide the others.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from zcluster.core.sync.effects import Effects
from zcluster.core.sync.member import Member
from zcluster.core.sync.plan import Classes, Difference
from zcluster.core.sync.sink import Sink, SinkLimits
from zcluster.core.sync.source import SourceLimits
from zcluster.errors import NoSuchTree, UsageError, ZClusterError
from zcluster.files.declare import chunk_bytes
from zcluster.files.disks import Disks, Layout
from zcluster.files.engine import Engine
from zcluster.files.history import History

MAX_SHOWN = 1000
NS = 1_000_000_000


class WorkerSide:
    """What a sync process is on a worker.

    Args:
        setup: what the main process says at its start (see WorkerTrees).
    """

    def __init__(self, engine: Engine, setup: dict[str, Any]) -> None:
        self._engine = engine
        sync, node, home = setup["sync"], setup["node"], Path(setup["home"])
        data = Path(setup["data"]) / "sync" / node
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = home / "trees" / node
        layout = Layout(data=data, home=home, default_root=own, allowed=(own, *map(Path, setup["roots"])))
        # Its own versions are numbered here, and kept nowhere: what they held is at the master.
        engine.disks = Disks(layout, History(data / "versions.db", 1, 0), keep=False, hint=engine.hinted)
        chunk = chunk_bytes(setup["frame_bytes"])
        self._member = Member(
            Effects(), SinkLimits(sync["window_bytes"], chunk, sync["scan_s"]),
            SourceLimits(0, sync["window_bytes"], chunk, sync["scan_s"]), commands=setup["on_change"],
        )  # fmt: skip
        engine.machine = self._member
        engine.held = self._member.held
        engine.operations = {"diff": self._diff, "verify": self._verify}

    async def _diff(self, tree: str) -> dict[str, Any]:
        found = []
        for name in self._names(tree, list(self._member.sinks)):
            sink = self._member.sinks[name]
            answer: asyncio.Future[object] = self._engine.loop.create_future()

            def then(result: object, now: float, answer: asyncio.Future[object] = answer) -> None:
                if not answer.done():
                    answer.set_result(result)

            self._engine.event(lambda sink=sink, then=then: sink.diff(then, self._engine.loop.time()))  # type: ignore[misc]
            result = await answer
            if isinstance(result, ZClusterError):
                raise result
            assert isinstance(result, Classes)
            found.append(_diff(sink, result))
        return {"trees": found}

    async def _verify(self, tree: str) -> dict[str, Any]:
        found = []
        for name in self._names(tree, [*self._member.sinks, *self._member.sources]):
            place = self._engine.disks.place((name, ""))
            wrong = await self._engine.in_lane(f"{name}/", lambda place=place: list(place.local.verify()))  # type: ignore[misc]
            rows = [{"path": path, "reason": reason} for path, reason in wrong[:MAX_SHOWN]]
            local = place.local
            more = len(wrong) - len(rows)
            found.append({"tree": name, "files": local.files, "bytes": local.size_bytes, "wrong": rows, "more": more})
        return {"trees": found}

    def _names(self, tree: str, names: list[str]) -> list[str]:
        if tree and tree not in names and tree in self._member.sources:
            raise UsageError(
                f"the tree {tree!r} is this worker's own, the copy is at the master",
                hint=f"`zcluster sync status --tree {tree}` says how it is",
            )
        if tree and tree not in names:
            raise NoSuchTree(f"this worker has no copy of a tree {tree!r}", hint=f"it has: {', '.join(names) or 'none'}")
        return [tree] if tree else names


def _diff(sink: Sink, classes: Classes) -> dict[str, Any]:
    if not sink.rules.delete:
        # Where nothing is deleted a copy may have whatever it has.
        classes = replace(classes, extra=[], extra_valid=[*classes.extra_valid, *classes.extra])
    row: dict[str, Any] = {"tree": sink.place[0], "version": sink.version}
    more = 0
    for name in ("missing", "shared", "extra", "extra_valid"):
        differences: list[Difference] = [each for each in getattr(classes, name) if not _directories(each)]
        row[name] = [_row(each) for each in differences[:MAX_SHOWN]]
        more += max(0, len(differences) - MAX_SHOWN)
    return {**row, "more": more}


def _directories(each: Difference) -> bool:
    return all(entry is None or entry.kind == "d" for entry in (each.theirs, each.mine))


def _row(each: Difference) -> dict[str, Any]:
    theirs, mine = each.theirs, each.mine
    return {
        "path": each.path,
        "size": theirs.size if theirs is not None else None,
        "mtime_s": round(theirs.mtime_ns / NS, 3) if theirs is not None else None,
        "copy_size": mine.size if mine is not None else None,
        "copy_mtime_s": round(mine.mtime_ns / NS, 3) if mine is not None else None,
    }
