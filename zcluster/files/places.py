"""One end of a tree on this node's disks: what the actions of the machines do there.

Rules kept here:
- a place is open while it holds its TreeDir (and so the lock on it); everything goes through that directory's fd;
- its methods run in the lane's thread, one at a time; reading for sinks has a lane of its own and touches only the reader;
- a directory that is not the one at the path any more (a disk was mounted or went away) is opened anew before it is looked
  at: what is to be done about it is the guard's matter, not this one's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from zcluster.core.sync.effects import Looked
from zcluster.core.sync.entry import Entry
from zcluster.core.sync.rules import Rules
from zcluster.files.localtree import LocalTree
from zcluster.files.treedir import TreeDir
from zcluster.files.watcher import Watcher

Hint = Callable[[], None]


class Place:
    """What sources and sinks have in common: a directory that is open, watched and looked at.

    Args:
        root: the directory. tree: the tree's name.
        rules: of this end.
        cache: the file that remembers what was looked at.
        hint: called from another thread when something may have changed, once until :meth:`collect`.
        create: make the directory when it is missing.
    """

    lists_changes = False
    """Whether a look also says what became of each path."""

    def __init__(self, root: Path, tree: str, rules: Rules, cache: Path, hint: Hint, *, create: bool) -> None:
        self.root, self.tree, self.rules = root, tree, rules
        self._hint = hint
        self.treedir = self.open_dir(create=create)
        self.watcher: Watcher | None = None
        try:
            self.treedir.recover()
            self.local = LocalTree(self.treedir.root, rules, cache)
            self.watch()
        except BaseException:
            self.close()
            raise

    def open_dir(self, *, create: bool) -> TreeDir:
        """Open the directory."""
        return TreeDir(self.root, self.tree, create=create)

    def watch(self) -> None:
        """Watch the directory: from here on changes are hinted at. To be done before it is listed."""
        if self.watcher is not None:
            self.watcher.close()
        self.watcher = Watcher(self.treedir.root, self._hint, covers=lambda path: self.rules.covers(path, True))

    @property
    def watching(self) -> str:
        """Why changes are only found by the slow clock; empty: they are watched."""
        return self.watcher.reason if self.watcher is not None else "it is not watched"

    def look(
        self, dirty: frozenset[str] | None, known: dict[str, Entry] | None = None, known_until_ns: int = 0
    ) -> Looked:
        """List and compare these directories, or all.

        Raises:
            ZClusterError: the directory is missing, or has more than its rules allow.
        """
        began_s = time.monotonic()
        if dirty is not None:
            # What was hinted at since this look was decided, too: it need not wait for the next one.
            more = self.collect()
            dirty = dirty | more if more is not None else None
        if not self.treedir.root_ok():
            self.reopen()
            dirty = None
        before = self.local.listings
        scan = self.local.scan(dirty, known, known_until_ns=known_until_ns, list_changes=self.lists_changes)
        return Looked(
            mine=self.local.listings, root=scan.root, files=scan.files, bytes=scan.bytes, complete=scan.complete,
            marker_ok=self.treedir.marker_ok(), unsettled=scan.unsettled, errors=_printable(scan.errors),
            refused=_printable(scan.refused), refused_count=scan.refused_count, scan_s=time.monotonic() - began_s,
            before=before, changes=scan.changes, more=self.watcher is not None and self.watcher.pending,
        )  # fmt: skip

    def reopen(self) -> None:
        """The directory at the path is another one now: take that."""
        self.treedir.close()
        self.treedir = self.open_dir(create=False)
        self.treedir.recover()
        self.watch()

    def save(self) -> None:
        """Remember what was looked at, so that the next start need not hash it."""
        self.local.save()

    def close(self) -> None:
        """Let go of it."""
        if self.watcher is not None:
            self.watcher.close()
            self.watcher = None
        self.treedir.close()

    def collect(self) -> frozenset[str] | None:
        """The directories that were hinted at since the last time; None: everything."""
        return self.watcher.collect() if self.watcher is not None else None


def _printable(found: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Paths and reasons as text that can be sent: a byte of a name that is no UTF-8 becomes ``\\xff``."""
    return tuple((os.fsencode(path).decode("utf-8", "backslashreplace"), reason) for path, reason in found)
