"""Clusters with trees, for the tests of file sync: what a directory holds, and waiting until a copy holds the same.

Rules kept here: two directories are the same when every name, kind, content, mode and time (of files) and target is; nothing
may be left in a copy's staging directory but parts of large files.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from waiting import eventually

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient

CONTROL = ".zcluster"
PART = "part."
Held = dict[str, tuple[object, ...]]


def held(root: Path, *, contents: bool = True) -> Held:
    """What is in a directory, by path, at first without contents if those are not wanted; zcluster's own is left out."""
    found: Held = {}
    for directory, names, files in os.walk(os.fsencode(root)):
        if Path(os.fsdecode(directory)) == root and CONTROL.encode() in names:
            names.remove(CONTROL.encode())
        for name in (*names, *files):
            path = os.path.join(directory, name)
            info = os.lstat(path)
            mode = stat.S_IMODE(info.st_mode)
            key = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            if stat.S_ISLNK(info.st_mode):
                found[key] = ("link", os.readlink(path))
            elif stat.S_ISDIR(info.st_mode):
                found[key] = ("directory", mode)
            elif not contents:
                found[key] = ("file", mode, info.st_mtime_ns, info.st_size)
            else:
                content = Path(os.fsdecode(path)).read_bytes()
                found[key] = ("file", mode, info.st_mtime_ns, len(content), hashlib.blake2b(content, digest_size=16).hexdigest())
    return found


def same(one: Path, other: Path) -> bool:
    """Whether two directories hold the same; a name that goes while one is read is a difference."""
    try:
        return held(one, contents=False) == held(other, contents=False) and held(one) == held(other)
    except OSError:
        return False


def strays(root: Path) -> list[str]:
    """What is in the staging directory of a tree beside parts of large files."""
    stage = root / CONTROL / "stage"
    return [name for name in os.listdir(stage) if not name.startswith(PART)] if stage.exists() else []


def write(root: Path, files: Mapping[str, bytes | str]) -> None:
    """Write files, with the directories that they need."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)


def tree_table(name: str, path: Path, more: str = "") -> str:
    """A [[sync.tree]] table."""
    return f'[[sync.tree]]\nname = "{name}"\npath = "{path}"\n{more}\n\n'


class Tree:
    """One tree of a running cluster.

    Args:
        path: where it is at the master.
    """

    def __init__(self, cluster: LocalCluster, client: AsyncClient, name: str, path: Path) -> None:
        self.cluster, self.client, self.name, self.path = cluster, client, name, path

    def copy(self, worker: str = "worker-1") -> Path:
        """Where a worker has its copy."""
        return self.cluster.home / "trees" / worker / self.name

    async def row(self, worker: str = "worker-1") -> dict[str, Any]:
        """The line of status."""
        (row,) = await self.client.sync.status(self.name, worker)
        return row

    async def at_master(self) -> dict[str, Any]:
        """The line of the tree."""
        return next(row for row in await self.client.sync.trees() if row["name"] == self.name)

    async def current(self, worker: str = "worker-1") -> None:
        """Wait until the copy is what the source is: on the disks, and as the master tells it."""

        def holds() -> bool:
            return same(self.path, self.copy(worker))

        await eventually(holds, f"{worker} has the same")

        async def told() -> bool:
            row = await self.row(worker)
            return row["state"] == "current" and not row["reason"] and not row["files_behind"]

        await eventually(told, f"{worker} is told to be current")
        assert strays(self.copy(worker)) == []

    async def state(self, state: str, reason: str = "", worker: str = "worker-1") -> dict[str, Any]:
        """Wait until the copy is in a state, with a reason that has these words; the line of status."""
        seen: dict[str, Any] = {}

        async def told() -> bool:
            seen.update(await self.row(worker))
            return bool(seen["state"] == state and reason in (seen["reason"] or "") + (seen["error"] or ""))

        try:
            await eventually(told, f"{worker} is {state}: {reason}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {seen}") from None
        return seen
