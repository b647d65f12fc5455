"""The files that an agent gets: the shared files of its groups, and ``config.json`` with the ``extra`` of its configuration.

Rules kept here:
- a file gets its name only when all of it is there and its digest is right: a program that reads it sees the old one or the
  new one;
- names are plain names in one directory, and nothing is followed out of it; ``config.json`` is the agent's own;
- only what the agent wrote is ever removed.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from zcluster.errors import PeerError
from zcluster.files.beneath import name_fault
from zcluster.files.durable import fsync_dir, read_file, replace_file

CONFIG_NAME = "config.json"
MAX_FILE_BYTES = 524_288


def content_digest(data: bytes) -> str:
    """The digest by which a shared file is asked for."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def shared_fault(name: str, size: int) -> str:
    """Why a shared file is not taken, or empty."""
    if fault := name_fault(name):
        return fault
    if name == CONFIG_NAME:
        return f"{CONFIG_NAME} is the agent's own"
    return "" if size <= MAX_FILE_BYTES else f"{size} bytes, at most {MAX_FILE_BYTES} are allowed"


class SharedFiles:
    """The directory. Methods block: they are called in a thread.

    Raises:
        OSError: from each method, what the disk says.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let the directory go."""
        os.close(self._fd)

    def held(self, written: dict[str, str]) -> dict[str, str]:
        """Of the files that were written, those that are still what they were."""
        out = {}
        for name, digest in written.items():
            if not shared_fault(name, 0):
                data = read_file(self._fd, name, MAX_FILE_BYTES)
                if data is not None and content_digest(data) == digest:
                    out[name] = digest
        return out

    def has_config(self) -> bool:
        """Whether there is a ``config.json``."""
        return os.access(CONFIG_NAME, os.F_OK, dir_fd=self._fd)

    def write(self, name: str, digest: str, data: bytes) -> None:
        """Write a shared file.

        Raises:
            PeerError: it is not what was asked for, or has a name that is not taken.
        """
        if fault := shared_fault(name, len(data)):
            raise PeerError(f"the shared file {name[:80]!r} is refused: {fault}")
        if content_digest(data) != digest:
            raise PeerError(f"the shared file {name!r} is not what its digest says")
        replace_file(self._fd, name, data)

    def remove(self, name: str) -> None:
        """Remove a file that was written here."""
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            return
        fsync_dir(self._fd)

    def write_config(self, extra: dict[str, Any]) -> None:
        """Write ``config.json``."""
        replace_file(self._fd, CONFIG_NAME, json.dumps(extra, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n")
