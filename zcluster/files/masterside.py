"""The sync process of a master: its hub, its disks, and what its main process may ask.

Rules kept here:
- which trees are paused survives a restart: it is on the disk before the answer;
- history is read and written in lanes, never on the loop.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from zcluster.core.sync.effects import Effects, Restore
from zcluster.core.sync.entry import Change
from zcluster.core.sync.hub import Hub
from zcluster.core.sync.sink import SinkLimits
from zcluster.core.sync.source import SourceLimits
from zcluster.core.sync.status import status_rows, tree_rows
from zcluster.errors import Busy, NoSuchTree, UsageError, ZClusterError
from zcluster.files.declare import chunk_bytes, declare_all
from zcluster.files.disks import Disks, Layout
from zcluster.files.engine import Engine
from zcluster.files.history import History
from zcluster.files.history_schema import Version
from zcluster.keys.private import read_private, replace

MAX_SHOWN = 1000
MAX_VERSIONS = 1000
MAX_PAUSED_BYTES = 1024 * 1024


class MasterSide:
    """What a sync process is on a master.

    Args:
        setup: what the main process says at its start (see MasterTrees).
    """

    def __init__(self, engine: Engine, setup: dict[str, Any]) -> None:
        self._engine = engine
        self._rolling_back: set[str] = set()
        sync, data, home = setup["sync"], Path(setup["data"]) / "sync", Path(setup["home"])
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._paused_file = data / "paused.json"
        self._history = History(data / "history.db", sync["history_versions"], sync["history_bytes"])
        declared = declare_all(setup["trees"], sync, data / "extra")
        merged = frozenset(name for name, tree in declared.items() if tree.keep == "merged")
        layout = Layout(data=data, home=home, default_root=home, allowed=None, merged=merged)
        engine.disks = Disks(layout, self._history, keep=True, hint=engine.hinted)
        chunk = chunk_bytes(setup["frame_bytes"])
        self._hub = Hub(
            declared, Effects(), SinkLimits(sync["window_bytes"], chunk, sync["scan_s"]),
            SourceLimits(setup["epoch"], sync["window_bytes"], chunk, sync["scan_s"]), sync["pulls"], setup["node"],
            engine.loop.time(), self._read_paused(), sync["up_rate_bytes"],
        )  # fmt: skip
        engine.machine = self._hub
        engine.notes = {"held": self._held, "nodes": self._nodes}
        engine.operations = {
            "status": self._status, "trees": self._trees, "now": self._now, "pause": self._pause, "resume": self._resume,
            "confirm": self._confirm, "history": self._versions, "show": self._show, "rollback": self._rollback,
        }  # fmt: skip

    # -- what the main process tells ------------------------------------------------------------------------------------

    def _held(self, note: dict[str, Any]) -> None:
        self._hub.beat(note["session"], note["digest"], self._engine.loop.time())

    def _nodes(self, note: dict[str, Any]) -> None:
        self._hub.nodes(note["names"])

    # -- what it asks ---------------------------------------------------------------------------------------------------

    async def _status(self, tree: str, worker: str) -> list[dict[str, Any]]:
        return status_rows(self._hub, tree, worker, self._engine.loop.time(), time.time())

    async def _trees(self) -> list[dict[str, Any]]:
        return tree_rows(self._hub, self._engine.loop.time(), time.time())

    async def _now(self, tree: str) -> list[str]:
        """Answers when the master's own trees have been looked at."""
        done = asyncio.Event()
        names: list[str] = []
        left = 0

        def looked(now: float) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                done.set()

        def ask() -> None:
            nonlocal left, names
            left = sum(1 for name in self._hub.named(tree) if name in self._hub.sources)
            if not left:
                done.set()
            names = self._hub.look_now(tree, looked, self._engine.loop.time())

        self._engine.event(ask)
        await done.wait()
        return names

    async def _pause(self, tree: str, worker: str) -> list[str]:
        return await self._set_paused(tree, worker, True)

    async def _resume(self, tree: str, worker: str) -> list[str]:
        return await self._set_paused(tree, worker, False)

    async def _set_paused(self, tree: str, worker: str, paused: bool) -> list[str]:
        names: list[str] = []
        self._engine.event(lambda: names.extend(self._hub.pause(tree, worker, paused, self._engine.loop.time())))
        pairs = sorted(self._hub.paused)
        await self._engine.in_lane("paused", lambda: replace(self._paused_file, orjson.dumps(pairs)))
        return names

    async def _confirm(self, tree: str, worker: str) -> list[str]:
        names: list[str] = []
        self._engine.event(lambda: names.extend(self._hub.confirm(tree, worker, self._engine.loop.time())))
        return names

    # -- history --------------------------------------------------------------------------------------------------------

    async def _versions(self, tree: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for name in self._hub.named(tree):
            if name in self._hub.sources:
                versions = await self._engine.in_lane("past", partial(self._history.versions, name, limit=MAX_VERSIONS))
                found += [_version(version) for version in versions]
        return sorted(found, key=lambda row: (row["at_s"], row["version"]), reverse=True)

    async def _show(self, version: int, tree: str) -> dict[str, Any]:
        name = self._one_tree(tree)

        def show() -> dict[str, Any]:
            found = self._history.version(name, version)
            changes = self._history.changes(name, version, limit=MAX_SHOWN + 1)
            return {**_version(found), "changes": [_change(change) for change in changes[:MAX_SHOWN]], "more": (
                max(0, found.added + found.changed + found.removed - MAX_SHOWN) if len(changes) > MAX_SHOWN else 0
            )}  # fmt: skip

        return dict(await self._engine.in_lane("past", show))

    async def _rollback(self, version: int, tree: str) -> dict[str, Any]:
        name = self._one_tree(tree)
        if name in self._rolling_back:
            raise Busy(f"the tree {name} is being rolled back already", hint="wait for that one", retry_after_s=1.0)
        self._rolling_back.add(name)
        try:
            return await self._roll_back(version, name)
        finally:
            self._rolling_back.discard(name)

    async def _roll_back(self, version: int, name: str) -> dict[str, Any]:
        action = Restore((name, ""), version)
        done = asyncio.Event()
        source, put_back = self._hub.sources[name], 0
        source.restoring()
        try:
            await self._engine.in_lane(f"{name}/", lambda: self._engine.disks.do(action))
            put_back = version
        finally:
            self._engine.event(lambda: source.restored(put_back, lambda now: done.set(), self._engine.loop.time()))
        await done.wait()
        if source.held:
            raise UsageError(f"version {version} was restored and is held: {source.held}")
        return {"tree": name, "version": source.version, "of": version}

    def _one_tree(self, tree: str) -> str:
        names = [name for name in self._hub.named(tree) if name in self._hub.sources]
        if len(names) == 1:
            return names[0]
        if tree:
            raise UsageError(f"the tree {tree!r} is brought up by workers: it has no versions here")
        if not names:
            raise NoSuchTree("no tree of this master goes down to its workers")
        raise UsageError(f"there are {len(names)} trees: {', '.join(names)}", hint="say which: --tree NAME")

    def _read_paused(self) -> frozenset[tuple[str, str]]:
        if not self._paused_file.exists():
            return frozenset()
        try:
            pairs = orjson.loads(read_private(self._paused_file, MAX_PAUSED_BYTES, forbid=0o022)[0])
            return frozenset((str(tree), str(worker)) for tree, worker in pairs)
        except (ZClusterError, orjson.JSONDecodeError, TypeError, ValueError) as error:
            self._engine.logger.error("%s cannot be read, so nothing is paused: %s", self._paused_file, error)
            return frozenset()


def _version(version: Version) -> dict[str, Any]:
    return {
        "tree": version.tree, "version": version.number, "epoch": version.epoch, "root": version.root.hex(),
        "at_s": round(version.at_s, 3), "cause": version.cause, "of": version.of, "files": version.files, "bytes": version.bytes,
        "added": version.added, "changed": version.changed, "removed": version.removed, "kept": version.kept,
        "reason": version.reason,
    }  # fmt: skip


def _change(change: Change) -> dict[str, Any]:
    entry = change.new if change.new is not None else change.old
    assert entry is not None
    word = "added" if change.old is None else "removed" if change.new is None else "changed"
    kinds = {"f": "file", "d": "directory", "l": "link"}
    return {
        "path": change.path, "change": word, "kind": kinds[entry.kind],
        "size": change.new.size if change.new is not None else None,
        "old_size": change.old.size if change.old is not None else None,
    }  # fmt: skip
