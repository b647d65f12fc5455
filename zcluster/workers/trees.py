"""A worker's file sync as its main process sees it.

Rules kept here:
- a worker that no tree concerns has no sync process; the master's first TREES that names one starts it;
- what the master said last of its trees is kept, so that a sync process which is started again hears it at once;
- frames of the sync process leave behind what the session itself has to say: control first, bulk last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from zcluster.config import Home, Loaded
from zcluster.core.batch import Outgoing
from zcluster.dapi.function import Function, function
from zcluster.errors import UsageError
from zcluster.files.host import SyncProcess
from zcluster.wire import Message, Sealed, Welcome
from zcluster.wire.trees import BULK_KINDS, TREE_KINDS, Trees

TREE_NUMBERS = frozenset(cls.kind for cls in TREE_KINDS)
MASTER = 0
"""The number of a worker's one session, between its two processes."""
LONG_S = 3600.0
TreeName = Annotated[str, msgspec.Meta(max_length=64)]


class WorkerTrees:
    """The sync process of a worker."""

    def __init__(self, node: str, loaded: Loaded, wake: Callable[[], None], logger: logging.Logger) -> None:
        self._node, self._loaded, self._wake, self._logger = node, loaded, wake, logger
        self._process: SyncProcess | None = None
        self._trees: bytes | None = None
        self._master = ""
        self._control: list[Outgoing] = []
        self._bulk: list[Outgoing] = []
        self.held = ""
        """What BEAT says of the copies."""

    @property
    def pid(self) -> int:
        """Of the sync process; 0 without one."""
        return self._process.pid if self._process is not None else 0

    # -- the session ----------------------------------------------------------------------------------------------------

    def link_up(self, welcome: Welcome) -> None:
        """The master can be reached; it says TREES next, if there are any."""
        self._master, self._trees = welcome.master, None
        if self._process is not None:
            self._process.session_up(MASTER, self._master)

    def link_down(self) -> None:
        """The session is gone, and what was to be said on it."""
        self._master = ""
        self._control, self._bulk = [], []
        if self._process is not None:
            self._process.session_down(MASTER)

    def receive(self, message: Message, data: bytes) -> bool:
        """A message of the master; true when it was one of file sync."""
        if message.kind not in TREE_NUMBERS:
            return False
        if isinstance(message, Trees):
            self._trees = data
            if self._process is None and not message.trees:
                return True
            if self._process is None:
                self._process = SyncProcess(self, self._setup, self._logger)
            if not self._process.running:
                self._process.start()
                return True
        if self._process is not None:
            self._process.frame(MASTER, data)
        return True

    def receive_bulk(self, frame: memoryview) -> None:
        """A bulk frame of file sync: passed on as it is, the sync process reads it."""
        if self._process is not None and self._master:
            self._process.frame(MASTER, frame)

    def take(self, outgoing: list[Outgoing]) -> list[Outgoing]:
        """``outgoing`` and what the sync process has to say."""
        if not self._control and not self._bulk:
            return outgoing
        control, bulk = self._control, self._bulk
        self._control, self._bulk = [], []
        return [*control, *outgoing, *bulk]

    def apply(self, loaded: Loaded) -> None:
        """Take a new configuration."""
        before, self._loaded = self._setup(), loaded
        if self._process is not None and self._process.running and self._setup() != before:
            self._process.restart()

    def close(self) -> None:
        """End the sync process."""
        if self._process is not None:
            self._process.close()

    # -- the sync process's owner ---------------------------------------------------------------------------------------

    def sync_started(self) -> None:
        assert self._process is not None
        if self._master:
            self._process.session_up(MASTER, self._master)
            if self._trees is not None:
                self._process.frame(MASTER, self._trees)

    def sync_frame(self, session: int, frame: memoryview) -> None:
        if self._master:
            sealed = Sealed(frame)
            (self._bulk if sealed.kind in BULK_KINDS else self._control).append((sealed, []))
            self._wake()

    def sync_held(self, digest: str) -> None:
        self.held = digest

    def sync_event(self, name: str, fields: dict[str, Any], level: str) -> None:
        self._logger.log(logging.WARNING if level == "warning" else logging.INFO, name, extra={"fields": fields})

    def _setup(self) -> dict[str, Any]:
        settings = self._loaded.settings
        home = Home.of(self._loaded.home)
        sync = {"scan_s": settings.sync.scan_s, "window_bytes": settings.sync.window_bytes}
        return {
            "role": "worker", "node": self._node, "home": str(home.path), "data": str(home.data_dir),
            "roots": list(settings.worker.tree_roots), "on_change": settings.worker.on_change == "allow", "sync": sync,
            "frame_bytes": settings.limits.frame_bytes, "level": settings.log.level, "format": settings.log.format,
        }  # fmt: skip

    # -- functions ------------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """The functions ``sync.*`` of a worker."""

        @function("sync.diff", idempotent=True, timeout_s=LONG_S)
        async def diff(tree: TreeName = "") -> dict[str, Any]:
            """What differs between this worker's copies and the master's trees: missing, shared, extra, extra-valid."""
            return dict(await self._ask("diff", tree=tree))

        @function("sync.verify", idempotent=True, timeout_s=LONG_S)
        async def verify(tree: TreeName = "") -> dict[str, Any]:
            """Read every byte of this worker's copies again, and tell what is not as it should be."""
            return dict(await self._ask("verify", tree=tree))

        return {found.name: found for found in (Function(call, own_errors=True) for call in (diff, verify))}

    async def _ask(self, op: str, **arguments: Any) -> Any:
        if self._process is None:
            raise UsageError(f"no tree concerns {self._node}", hint="the master's [[sync.tree]] says which workers have a tree")
        return await self._process.ask(op, **arguments)
