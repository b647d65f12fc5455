"""Trees on disk that tests stage into, commit to and look at."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from zcluster.core.sync.entry import DIRECTORY, FILE, LINK, Entry, content_digest
from zcluster.files.apply import Applied
from zcluster.files.staging import Staging
from zcluster.files.treedir import TreeDir

MTIME_NS = 1_700_000_000_123_456_789


@dataclass
class Steps:
    """A plan, as a commit wants it."""

    make_dirs: list[tuple[str, int]] = field(default_factory=list)
    fetch: list[tuple[str, Entry]] = field(default_factory=list)
    link: list[tuple[str, Entry]] = field(default_factory=list)
    touch: list[tuple[str, Entry]] = field(default_factory=list)
    move_away: list[str] = field(default_factory=list)
    delete_files: list[str] = field(default_factory=list)
    delete_dirs: list[str] = field(default_factory=list)


class Workbench:
    """A tree at ``root``, and what to make versions of it from."""

    hash_name = "xxh3_128"
    steps = Steps

    def __init__(self, home: Path) -> None:
        self.home = home
        self.root = home / "tree"
        self._open: list[TreeDir] = []

    def open(self, *, create: bool = True) -> TreeDir:
        """The tree, recovered."""
        treedir = TreeDir(self.root, "t", create=create)
        self._open.append(treedir)
        treedir.recover()
        return treedir

    def close(self) -> None:
        for treedir in self._open:
            treedir.close()
        self._open = []

    def file(self, path: str, data: bytes, mode: int = 0o644, mtime_ns: int = MTIME_NS) -> Entry:
        digest = content_digest(self.hash_name, data)
        return Entry(path.rpartition("/")[2], FILE, len(data), mtime_ns, mode, digest)

    def link(self, path: str, target: str) -> Entry:
        return Entry(path.rpartition("/")[2], LINK, 0, 0, 0, b"", target)

    def directory(self, path: str, mode: int) -> Entry:
        return Entry(path.rpartition("/")[2], DIRECTORY, 0, 0, mode, bytes(32))

    def staging(self, treedir: TreeDir, owner: tuple[int, int] | None = None) -> Staging:
        return Staging(treedir, 7, self.hash_name, owner)

    def apply(self, treedir: TreeDir, files: dict[str, bytes], links: dict[str, str] | None = None, **steps: Any) -> Applied:
        """Stage these files and links, and commit them with the other steps."""
        staging = self.staging(treedir)
        plan = Steps(**steps)
        for path, data in files.items():
            entry = self.file(path, data)
            staging.put(path, entry, data)
            plan.fetch.append((path, entry))
        for path, target in (links or {}).items():
            entry = self.link(path, target)
            staging.put_link(path, entry)
            plan.link.append((path, entry))
        return staging.commit(plan, b"state")

    def contents(self) -> dict[str, bytes | str | None]:
        """What the tree holds: bytes of files, targets of links, None for directories."""
        return contents_of(self.root)

    def staged(self) -> list[str]:
        return sorted(os.listdir(self.root / ".zcluster/stage"))


def contents_of(root: Path) -> dict[str, bytes | str | None]:
    found: dict[str, bytes | str | None] = {}
    for directory, dirs, files in os.walk(root):
        if directory == str(root) and ".zcluster" in dirs:
            dirs.remove(".zcluster")
        for name in (*dirs, *files):
            path = Path(directory, name)
            mode = path.lstat().st_mode
            key = str(path.relative_to(root))
            if stat.S_ISLNK(mode):
                found[key] = os.readlink(path)
            elif stat.S_ISREG(mode):
                found[key] = path.read_bytes()
            else:
                found[key] = None
    return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    """A place for one tree; what is opened is closed afterwards."""
    workbench = Workbench(tmp_path)
    yield workbench
    workbench.close()
