"""The copy of the ring at a worker: who may come in by its door.

Rules kept here:
- the copy is what the table ``ring/`` of this worker's store says; another part keeps it as the master's;
- an entry that cannot be read admits nobody;
- an entry with an end admits nobody from then on, though the master cannot be heard that it is over;
- when the changes cannot be followed any more, everything is read anew.
"""

from __future__ import annotations

import asyncio
import contextlib
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
LOOK_S = 10.0
"""How long at most until the end of an entry is looked at again: the wall's clock may be set meanwhile."""


class Named(msgspec.Struct, frozen=True):
    """What an entry says."""

    name: str
    role: str
    id: str = ""
    """Who it is; empty, from an older master: the key itself."""
    until: float = 0.0
    """Of a key that was followed by another: when it ends, in seconds since 1970; 0 is never."""


_DECODER = msgspec.json.Decoder(Named)


class RingCopy:
    """A part of a worker with a door.

    Args:
        changed: told who has which public key, at each change.
        wall_s: seconds since 1970.
    """

    def __init__(
        self, store: Store, changed: Callable[[Mapping[str, Identity]], None], logger: logging.Logger, wall_s: Callable[[], float]
    ) -> None:
        self._store = store
        self._wall_s = wall_s
        self._changed = changed
        self._logger = logger
        self._ring: dict[str, Named] = {}
        self._told: dict[str, Identity] = {}
        self._changes = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def functions(self) -> dict[str, Function]:
        """None."""
        return {}

    async def start(self) -> None:
        """Read the copy, and follow it."""
        self._tasks = [
            asyncio.ensure_future(keep_running(self._run, self._logger, "following the copy of the ring")),
            asyncio.ensure_future(keep_running(self._end, self._logger, "ending keys of before at the door")),
        ]

    def apply(self, loaded: Loaded) -> None:
        """Nothing of the configuration file is used here."""

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
        ring: dict[str, Named] = {}
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

    def _take(self, ring: dict[str, Named], entries: Iterable[tuple[str, bytes | None]]) -> None:
        for key, value in entries:
            public = key.removeprefix(RING)
            ring.pop(public, None)
            if value is not None:
                try:
                    named = _DECODER.decode(value)
                except msgspec.DecodeError as error:
                    self._logger.error("an entry of the copy of the ring admits nobody: %s", error)
                else:
                    ring[public] = named

    def _tell(self) -> None:
        found = admitted(self._ring, self._wall_s())
        self._logger.info("the door admits", extra={"fields": {"keys": len(found)}})
        self._changed(found)
        self._told = found
        self._changes.set()

    async def _end(self) -> None:
        """Tell of entries whose end has come."""
        while True:
            self._changes.clear()
            now_s = self._wall_s()
            ends_s = [named.until for public, named in self._ring.items() if named.until and public in self._told]
            if ends_s and min(ends_s) <= now_s:
                self._tell()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(min(ends_s) - now_s, LOOK_S) if ends_s else None):
                    await self._changes.wait()


def admitted(ring: Mapping[str, Named], now_s: float) -> dict[str, Identity]:
    """By public key, who may come in at ``now_s``."""
    return {
        public: Identity(named.id or public, named.name, named.role)
        for public, named in ring.items()
        if not named.until or now_s < named.until
    }
