"""What an agent keeps over a restart: the number of its last session, the doors that it knows, the files that it wrote.

Rules kept here:
- one small file, replaced in one step; a broken one is as good as none, and said;
- an agent whose directory cannot be written runs without it: its clock alone then numbers its sessions.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import msgspec

from zcluster.files.durable import disk_error, read_file, replace_file
from zcluster.wire.agents import Door

FILE = "agent.json"
MAX_BYTES = 4 << 20


class Kept(msgspec.Struct, kw_only=True):
    """The content of the file."""

    schema: int = 1
    epoch: int = 0
    doors: list[Door] = []
    files: dict[str, str] = {}
    """Names and digests of the shared files that the agent wrote."""
    extra: str = ""
    """Digest of the ``config.json`` that it wrote."""


class AgentState:
    """The file in ``directory``, read when this is made.

    Args:
        directory: made when it is missing; None keeps nothing.
    """

    def __init__(self, directory: Path | None, logger: logging.Logger) -> None:
        self.kept = Kept()
        self._logger = logger
        self._fd: int | None = None
        self._changed = False
        self._task: asyncio.Task[None] | None = None
        if directory is not None:
            self._open(directory)

    def touch(self) -> None:
        """``kept`` has changed: write it soon, in a thread; changes that come together are written once."""
        if self._fd is not None:
            self._changed = True
            if self._task is None or self._task.done():
                self._task = asyncio.ensure_future(self._write())

    async def finish(self) -> None:
        """Wait until what changed is written, and let the directory go."""
        if self._task is not None:
            await self._task
        self.close()

    def close(self) -> None:
        """Let the directory go."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    async def _write(self) -> None:
        while self._changed and self._fd is not None:
            await asyncio.sleep(0)
            self._changed = False
            try:
                await asyncio.to_thread(replace_file, self._fd, FILE, msgspec.json.encode(self.kept))
            except OSError as error:
                self._logger.warning(str(disk_error("the agent's state cannot be written", error)))

    def _open(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            data = read_file(self._fd, FILE, MAX_BYTES)
            if data is not None:
                self.kept = msgspec.json.decode(data, type=Kept)
            elif not os.access(directory, os.W_OK):
                self._logger.warning("%s cannot be written: this agent keeps nothing over a restart", directory)
        except OSError as error:
            self._logger.warning(str(disk_error(f"{directory} cannot be used: this agent keeps nothing over a restart", error)))
            self.close()
        except msgspec.DecodeError as error:
            self._logger.warning("%s is broken and begun anew: %s", directory / FILE, error)
