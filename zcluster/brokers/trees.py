"""The master's file sync as its main process sees it: the sync process, the frames between it and the sessions, and the
functions ``sync.*``.

Rules kept here:
- without a tree in the configuration there is no sync process, and the functions say so;
- what the sync process tells becomes the master's events, counted and logged like its own;
- what changes something asks for the role admin; looking is for every caller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import msgspec

from zcluster.config import Home, Loaded
from zcluster.core.master import Master
from zcluster.core.peers import Event
from zcluster.core.treelink import FrameIn, Held, Notice, SessionDown, SessionUp
from zcluster.dapi.function import Function, function
from zcluster.errors import UsageError
from zcluster.files.host import SyncProcess
from zcluster.wire import Sealed

TreeName = Annotated[str, msgspec.Meta(max_length=64)]
WorkerName = Annotated[str, msgspec.Meta(max_length=64)]
LONG_S = 3600.0
"""Longest run of what works through a whole tree."""


class MasterTrees:
    """The sync process of a master.

    Args:
        workers: the names of the workers that have a key.
        wake: called when there is something to send.
    """

    def __init__(
        self, machine: Master, loaded: Loaded, workers: Callable[[], list[str]], wake: Callable[[], None], logger: logging.Logger
    ) -> None:
        self._machine, self._loaded, self._workers, self._wake = machine, loaded, workers, wake
        self._process = SyncProcess(self, self._setup, logger)

    @property
    def pid(self) -> int:
        """Of the sync process; 0 without one."""
        return self._process.pid

    def start(self) -> None:
        """Start the sync process, when there is a tree."""
        if self._loaded.settings.sync.tree:
            self._process.start()

    def apply(self, loaded: Loaded) -> None:
        """Take a new configuration: what it says of trees holds from now on."""
        before, self._loaded = self._loaded.settings.sync, loaded
        if loaded.settings.sync == before:
            return
        if loaded.settings.sync.tree:
            self._process.restart()
        elif self._process.running:
            self._process.stop()

    def nodes_changed(self) -> None:
        """The ring has changed."""
        self._process.nodes(self._workers())

    def close(self) -> None:
        """End the sync process."""
        self._process.close()

    def tell(self) -> None:
        """Pass on what the bus has for the sync process."""
        notices, self._machine.trees.notices = self._machine.trees.notices, []
        if self._process.running:
            for notice in notices:
                self._pass(notice)

    def _pass(self, notice: Notice) -> None:
        process = self._process
        match notice:
            case FrameIn():
                process.frame(notice.session, notice.frame)
            case SessionUp():
                process.session_up(notice.session, notice.name)
            case SessionDown():
                process.session_down(notice.session, notice.reason)
            case Held():
                process.held(notice.session, notice.digest)

    # -- the sync process's owner ---------------------------------------------------------------------------------------

    def sync_started(self) -> None:
        self.nodes_changed()
        for notice in self._machine.trees.again():
            self._pass(notice)

    def sync_frame(self, session: int, frame: memoryview) -> None:
        peer = self._machine.trees.peer(session)
        if peer is not None:
            self._machine.tell(peer, Sealed(frame))
            self._wake()

    def sync_held(self, digest: str) -> None:
        """A master holds no copies that it would have to tell of."""

    def sync_event(self, name: str, fields: dict[str, Any], level: str) -> None:
        self._machine.note(Event(name, fields, level))
        self._wake()

    def _setup(self) -> dict[str, Any]:
        settings = self._loaded.settings
        home = Home.of(self._loaded.home)
        sync = asdict(settings.sync)
        trees = sync.pop("tree")
        return {
            "role": "master", "node": self._machine.name, "home": str(home.path), "data": str(home.data_dir),
            "epoch": self._machine.epoch, "trees": list(trees), "sync": sync, "frame_bytes": settings.limits.frame_bytes,
            "level": settings.log.level, "format": settings.log.format,
        }  # fmt: skip

    # -- functions ------------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """The functions ``sync.*`` of a master."""
        made = [*self._questions(), *self._orders(), *self._past()]
        return {found.name: found for found in (Function(call, own_errors=True) for call in made)}

    async def _ask(self, op: str, **arguments: Any) -> Any:
        if not self._process.running and not self._loaded.settings.sync.tree:
            raise UsageError("the master's configuration declares no tree", hint="add a [[sync.tree]] to its zcluster.toml")
        return await self._process.ask(op, **arguments)

    def _questions(self) -> list[Callable[..., Any]]:
        @function("sync.status", idempotent=True)
        async def status(tree: TreeName = "", worker: WorkerName = "") -> list[dict[str, Any]]:
            """A row for each worker and tree: what it holds, how far it is behind, and why."""
            return list(await self._ask("status", tree=tree, worker=worker)) if self._loaded.settings.sync.tree else []

        @function("sync.trees", idempotent=True)
        async def trees() -> list[dict[str, Any]]:
            """The trees of the master's configuration, and how each of them is."""
            return list(await self._ask("trees")) if self._loaded.settings.sync.tree else []

        return [status, trees]

    def _orders(self) -> list[Callable[..., Any]]:
        @function("sync.now", idempotent=True)
        async def now(tree: TreeName = "") -> dict[str, Any]:
            """Look at everything now, and try again what failed."""
            return {"trees": await self._ask("now", tree=tree)}

        @function("sync.pause", idempotent=True, role="admin")
        async def pause(tree: TreeName = "", worker: WorkerName = "") -> dict[str, Any]:
            """Let no copy of the tree (of the worker) begin to fetch until sync.resume; survives restarts."""
            return {"trees": await self._ask("pause", tree=tree, worker=worker)}

        @function("sync.resume", idempotent=True, role="admin")
        async def resume(tree: TreeName = "", worker: WorkerName = "") -> dict[str, Any]:
            """Undo sync.pause."""
            return {"trees": await self._ask("resume", tree=tree, worker=worker)}

        @function("sync.confirm", idempotent=True, role="admin")
        async def confirm(tree: TreeName, worker: WorkerName = "") -> dict[str, Any]:
            """What a guard holds back is right: publish it."""
            return {"trees": await self._ask("confirm", tree=tree, worker=worker)}

        return [now, pause, resume, confirm]

    def _past(self) -> list[Callable[..., Any]]:
        @function("sync.history", idempotent=True)
        async def history(tree: TreeName = "") -> list[dict[str, Any]]:
            """The versions that are known, the newest first."""
            return list(await self._ask("history", tree=tree)) if self._loaded.settings.sync.tree else []

        @function("sync.show", idempotent=True)
        async def show(version: int, tree: TreeName = "") -> dict[str, Any]:
            """One version, and what it changed."""
            return dict(await self._ask("show", version=version, tree=tree))

        @function("sync.rollback", role="admin", timeout_s=LONG_S)
        async def rollback(version: int, tree: TreeName = "") -> dict[str, Any]:
            """Make the state of an old version the newest one."""
            return dict(await self._ask("rollback", version=version, tree=tree))

        return [history, show, rollback]
