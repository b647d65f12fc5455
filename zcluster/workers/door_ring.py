"""The copy of the ring at a worker: who may come in by its door.

Rules kept here:
- the copy is what the table ``ring/`` of this worker's store says; another part keeps it as the master's;
- an entry that cannot be read admits nobody;
- when the changes cannot be followed any more, everything is read anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

import msgspec

from zcluster.config import Loaded
from zcluster.core.peers import Identity
from zcluster.dapi.function import Function
from zcluster.errors import Compacted, ZClusterError
from zcluster.nodes.tasks import keep_running
from zcluster.store.interface import Store

RING = "ring/"
RETRY_S = 1.0


class Named(msgspec.Struct, frozen=True):
    """What an entry says."""

    name: str
    role: str
    id: str = ""
    """Who it is; empty, from an older master: the key itself."""


_DECODER = msgspec.json.Decoder(Named)


class RingCopy:
    """A part of a worker with a door.

    Args:
        changed: told who has which public key, at each change.
    """

    def __init__(self, store: Store, changed: Callable[[Mapping[str, Identity]], None], logger: logging.Logger) -> None:
        self._store = store
        self._changed = changed
        self._logger = logger
        self._ring: dict[str, Identity] = {}
        self._task: asyncio.Task[None] | None = None

    def functions(self) -> dict[str, Function]:
        """None."""
        return {}

    async def start(self) -> None:
        """Read the copy, and follow it."""
        self._task = asyncio.ensure_future(keep_running(self._run, self._logger, "following the copy of the ring"))

    def apply(self, loaded: Loaded) -> None:
        """Nothing of the configuration file is used here."""

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._follow(await self._read())
            except Compacted:
                self._logger.info("the copy of the ring is read anew: too much has changed")
            except ZClusterError as error:
                self._logger.error("the copy of the ring cannot be read, it is tried again: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _read(self) -> int:
        ring: dict[str, Identity] = {}
        first = await self._store.scan(RING)
        listing = first
        while True:
            self._take(ring, ((entry.key, entry.value) for entry in listing.entries))
            if not listing.more:
                break
            listing = await self._store.scan(RING, after=listing.entries[-1].key)
        self._ring = ring
        self._tell()
        # What changed while the later pages were read comes once more, which changes nothing.
        return first.revision

    async def _follow(self, revision: int) -> None:
        async for changes, _upto in self._store.watch(RING, revision):
            if changes:
                self._take(self._ring, ((change.key, change.value) for change in changes))
                self._tell()

    def _take(self, ring: dict[str, Identity], entries: Iterable[tuple[str, bytes | None]]) -> None:
        for key, value in entries:
            public = key.removeprefix(RING)
            ring.pop(public, None)
            if value is not None:
                try:
                    named = _DECODER.decode(value)
                except msgspec.DecodeError as error:
                    self._logger.error("an entry of the copy of the ring admits nobody: %s", error)
                else:
                    ring[public] = Identity(named.id or public, named.name, named.role)

    def _tell(self) -> None:
        self._logger.info("the door admits", extra={"fields": {"keys": len(self._ring)}})
        self._changed(self._ring)
