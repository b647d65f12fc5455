"""What an agent's node tells it to be: its configuration at once, its files as they come.

Rules kept here:
- configuration is applied when it comes, and what changed is logged with the old and the new value; a value that is no value is
  left out and said: the rest counts;
- one piece of one file is asked for at a time; a piece that does not come is asked for again by the next settings;
- newer settings stop the fetching of older ones; what is being written is written to its end first, and known;
- a file that cannot be had or written keeps no other from being fetched.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from zcluster.agents.shared import SharedFiles, shared_fault
from zcluster.agents.state import AgentState
from zcluster.core.agents.keeping import DEFAULT_INTERVAL_S, MAX_INTERVAL_S, MIN_INTERVAL_S, tree_digest
from zcluster.errors import PeerError, TimedOut, ZClusterError
from zcluster.files.durable import disk_error
from zcluster.nodes.sampling import METRICS
from zcluster.wire.agents import Grab, Settings, Shared, SharedFile

PIECE_WITHIN_S = 30.0
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Live:
    """The configuration that an agent runs by."""

    interval: float = DEFAULT_INTERVAL_S
    metrics: tuple[str, ...] = METRICS
    log_level: str = ""
    """Empty: as it was started."""


def live_of(config: dict[str, Any]) -> tuple[Live, list[str]]:
    """The configuration in SETTINGS, and what of it is no value."""
    live, faults = Live(), []
    interval = config.get("interval", live.interval)
    if isinstance(interval, int | float) and not isinstance(interval, bool) and MIN_INTERVAL_S <= interval <= MAX_INTERVAL_S:
        live = replace(live, interval=float(interval))
    else:
        faults.append(f"interval {interval!r:.80}")
    metrics = config.get("metrics", list(live.metrics))
    if isinstance(metrics, list) and all(name in METRICS for name in metrics):
        live = replace(live, metrics=tuple(metrics))
    else:
        faults.append(f"metrics {metrics!r:.80}")
    level = config.get("log_level", "")
    if level in ("", *LEVELS):
        live = replace(live, log_level=level)
    else:
        faults.append(f"log_level {level!r:.80}")
    return live, faults


class Orders:
    """Applies SETTINGS.

    Args:
        files: where files go; None takes none (a simulated agent).
        grab: sends a GRAB.
        applied: called when the configuration, or the files held, are others than before.
    """

    def __init__(
        self, files: SharedFiles | None, state: AgentState, logger: logging.Logger, grab: Callable[[Grab], None],
        applied: Callable[[], None],
    ) -> None:  # fmt: skip
        self.live = Live()
        self.groups: list[str] = []
        self.digest = ""
        """Of the settings that were applied."""
        self.held: dict[str, str] = {}
        """The shared files that are here: name and digest."""
        self._files = files
        self._state = state
        self._logger = logger
        self._grab = grab
        self._applied = applied
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        """What the disk is busy with; it goes on when the task above is cancelled."""
        self._awaited = ("", 0)
        self._piece: asyncio.Future[tuple[Shared, bytes]] | None = None

    @property
    def tree(self) -> str:
        """Digest of the files held."""
        return tree_digest(self.held.items())

    def take(self, settings: Settings) -> None:
        """Apply ``settings``."""
        live, faults = live_of(settings.config)
        if faults:
            self._logger.warning("some of the configuration makes no sense and is left out: %s", "; ".join(faults))
        old, self.live = self.live, live
        for name in ("interval", "metrics", "log_level"):
            before, after = getattr(old, name), getattr(live, name)
            if before != after:
                self._logger.info("configuration applied", extra={"fields": {"setting": name, "old": before, "new": after}})
        if self.groups != settings.groups:
            self._logger.info("groups", extra={"fields": {"old": self.groups, "new": settings.groups}})
            self.groups = settings.groups
        self.digest = settings.digest
        self._applied()
        self.stop()
        if self._files is not None:
            self._task = asyncio.ensure_future(self._bring(self._files, settings))

    def shared(self, piece: Shared, body: bytes) -> None:
        """A piece of a shared file came."""
        if self._piece is None or self._piece.done() or piece.digest != self._awaited[0]:
            return
        if piece.code or piece.offset == self._awaited[1]:
            self._piece.set_result((piece, body))

    async def finished(self) -> None:
        """Wait until the files of the newest settings are here, or were given up, and nothing is being written."""
        if self._task is not None:
            await self._task
        await self._written()

    def stop(self) -> None:
        """Fetch no more: the session is over, or newer settings came."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _bring(self, files: SharedFiles, settings: Settings) -> None:
        try:
            await self._written()
            await self._write_extra(files, settings.config.get("extra", {}))
            wanted = {file.name: file for file in settings.files}
            for name in [name for name in self.held if name not in wanted]:
                await self._on_disk(self._remove(files, name))
            for file in wanted.values():
                if self.held.get(file.name) != file.digest:
                    await self._try(files, file)
        except OSError as error:
            self._logger.error(str(disk_error("files of this agent cannot be written", error)))
        except ZClusterError as error:
            self._logger.warning(str(error))

    async def _try(self, files: SharedFiles, file: SharedFile) -> None:
        try:
            await self._fetch(files, file)
        except OSError as error:
            self._logger.error(str(disk_error(f"the shared file {file.name!r} cannot be written", error)))
        except PeerError as error:
            self._logger.warning(str(error))

    async def _on_disk(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work`` to its end, also when this task is cancelled meanwhile: a thread cannot be stopped."""
        self._writing = asyncio.ensure_future(work)
        await asyncio.shield(self._writing)

    async def _written(self) -> None:
        if self._writing is not None:
            await asyncio.wait({self._writing})

    async def _remove(self, files: SharedFiles, name: str) -> None:
        await asyncio.to_thread(files.remove, name)
        del self.held[name]
        self._keep()
        self._logger.info("shared file removed", extra={"fields": {"file": name}})

    async def _write(self, files: SharedFiles, file: SharedFile, data: bytes) -> None:
        await asyncio.to_thread(files.write, file.name, file.digest, data)
        self.held[file.name] = file.digest
        self._keep()
        self._logger.info("shared file written", extra={"fields": {"file": file.name, "bytes": file.size}})

    async def _write_extra(self, files: SharedFiles, extra: Any) -> None:
        kept = self._state.kept
        text = json.dumps(extra, sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        if digest == kept.extra or (not extra and not kept.extra) or not isinstance(extra, dict):
            return
        await self._on_disk(self._write_config(files, extra, digest, len(text)))

    async def _write_config(self, files: SharedFiles, extra: dict[str, Any], digest: str, size_bytes: int) -> None:
        await asyncio.to_thread(files.write_config, extra)
        self._state.kept.extra = digest
        self._state.touch()
        self._logger.info("config.json written", extra={"fields": {"bytes": size_bytes}})

    async def _fetch(self, files: SharedFiles, file: SharedFile) -> None:
        if fault := shared_fault(file.name, file.size):
            self._logger.warning("the shared file %r is not taken: %s", file.name[:80], fault)
            return
        data = bytearray()
        while True:
            piece, body = await self._ask(file.digest, len(data))
            if piece.code or piece.size != file.size:
                raise PeerError(f"the node has no shared file {file.name!r} of {file.size} bytes ({piece.code or piece.size})")
            data += body
            if len(data) >= file.size:
                break
            if not body:
                raise PeerError(f"the shared file {file.name!r} ended early")
        await self._on_disk(self._write(files, file, bytes(data)))

    async def _ask(self, digest: str, offset: int) -> tuple[Shared, bytes]:
        self._awaited, self._piece = (digest, offset), asyncio.get_running_loop().create_future()
        self._grab(Grab(digest=digest, offset=offset))
        try:
            return await asyncio.wait_for(self._piece, PIECE_WITHIN_S)
        except TimeoutError:
            raise TimedOut(f"no piece of a shared file came within {PIECE_WITHIN_S:g} s") from None

    def _keep(self) -> None:
        self._state.kept.files = dict(self.held)
        self._state.touch()
        self._applied()
