"""A worker's copy in a tree whose workers' files are merged, and what all these copies share: the merged directory.

Rules kept here:
- the merged directory is opened with the first copy and let go with the last one; one copy at a time is merged into it;
- what a copy holds is merged when it is opened and after each full look, if it is what its version left, and after each
  commit: a copy that was lost or damaged, or that holds no version yet, takes nothing out of the merged directory;
- when another copy's merge changes what of this one is in conflict, this one is looked at again, so that it is told.

Hard links make the merged directory cheap, and change the ctime of what they lead to: what was merged is hashed once more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from zcluster.core.sync.classify import changes_between
from zcluster.core.sync.effects import Committed, Looked
from zcluster.core.sync.entry import Entry, Manifest
from zcluster.core.sync.ownership import Conflict
from zcluster.core.sync.plan import Plan
from zcluster.core.sync.rules import Rules
from zcluster.files.merged import Merged, MergedTree
from zcluster.files.places import Hint
from zcluster.files.sinkplace import SinkPlace, read_state
from zcluster.files.treedir import TreeDir

MAX_TOLD = 100
"""Conflicts that are told one by one; all are counted."""


class MergedRoot:
    """The merged directory of a tree.

    Raises:
        ZClusterError: it cannot be opened, or another process has it.
    """

    def __init__(self, path: Path, tree: str) -> None:
        self._treedir = TreeDir(path, tree, create=True)
        self._lock = threading.Lock()
        self._told: dict[str, Hint] = {}
        self._conflicts: dict[str, tuple[tuple[Conflict, ...], int]] = {}
        try:
            self._treedir.recover()
            self._merged = MergedTree(self._treedir)
        except BaseException:
            self._treedir.close()
            raise

    def join(self, worker: str, told: Hint) -> None:
        """A worker's copy is open; ``told`` is called when its conflicts have changed by another one's merge."""
        with self._lock:
            self._told[worker] = told

    def leave(self, worker: str) -> bool:
        """A worker's copy is closed; with the last one the directory is let go. Returns whether it was the last one."""
        with self._lock:
            self._told.pop(worker, None)
            if self._told:
                return False
            self._merged.close()
            self._treedir.close()
            return True

    def merge(self, worker: str, before: Manifest | None, after: Manifest) -> Merged:
        """Bring what became of a worker's copy to the merged directory; without ``before`` all of it is compared.

        Raises:
            ZClusterError: the disk is full or failed.
        """
        with self._lock:
            if before is None:
                merged = self._merged.merge_all([worker])
            else:
                merged = self._merged.apply(worker, changes_between(before, after))
            told = self._news(worker) if merged.conflict_count or self._conflicts or before is None else []
        for tell in told:
            tell()
        return merged

    def conflicts(self, worker: str) -> tuple[tuple[Conflict, ...], int]:
        """What of a worker's copy is not merged: the first MAX_TOLD, and how many there are."""
        return self._conflicts.get(worker, ((), 0))

    def _news(self, worker: str) -> list[Hint]:
        found: dict[str, list[Conflict]] = {}
        for conflict in self._merged.conflicts():
            found.setdefault(conflict.worker, []).append(conflict)
        counts = self._merged.conflict_counts()
        before = self._conflicts
        self._conflicts = {name: (tuple(found.get(name, ())[:MAX_TOLD]), count) for name, count in counts.items()}
        return [
            tell for name, tell in self._told.items() if name != worker and before.get(name) != self._conflicts.get(name)
        ]


class MergedPlace(SinkPlace):
    """One worker's copy.

    Args:
        shared: the merged directory.
        left: called when it is closed.
    """

    def __init__(
        self, shared: MergedRoot, worker: str, root: Path, tree: str, rules: Rules, cache: Path, hint: Hint, owner: str,
        left: Callable[[], None],
    ) -> None:  # fmt: skip
        self._shared, self._worker, self._left = shared, worker, left
        self._merged: Manifest | None = None
        """What of the copy has been merged; None: it has to be compared."""
        self._faults: tuple[tuple[str, str], ...] = ()
        self._news = False
        shared.join(worker, self._tell)
        super().__init__(root, tree, rules, cache, hint, owner)

    def look(
        self, dirty: frozenset[str] | None, known: dict[str, Entry] | None = None, known_until_ns: int = 0
    ) -> Looked:
        looked = super().look(dirty, known, known_until_ns)
        if dirty is None and self._is_right(looked):
            self._merge(looked.mine, whole=True)
        return self._with_conflicts(looked)

    def collect(self) -> frozenset[str] | None:
        found = super().collect()
        if self._news and found is not None:
            self._news = False
            return found | {""}
        return found

    def close(self) -> None:
        super().close()
        self._left()

    def _commit(self, plan: Plan, version: int, state: bytes) -> Committed:
        committed = super()._commit(plan, version, state)
        self._merge(committed.looked.mine, whole=False)
        return replace(committed, looked=self._with_conflicts(committed.looked))

    def _merge(self, mine: Manifest, *, whole: bool) -> None:
        before, self._merged = (None if whole else self._merged), None
        done = self._shared.merge(self._worker, before, mine)
        self._faults = tuple((path, f"it is not merged: {why}") for path, why in done.errors)
        if not done.errors:
            self._merged = mine

    def _is_right(self, looked: Looked) -> bool:
        """Whether the copy is what its version left. Where nothing is deleted it may hold more than that."""
        version, _, root = read_state(self.treedir.state())
        return version > 0 and looked.complete and (looked.root == root or not self.rules.delete)

    def _with_conflicts(self, looked: Looked) -> Looked:
        conflicts, count = self._shared.conflicts(self._worker)
        return replace(looked, conflicts=conflicts, conflict_count=count, errors=(*looked.errors, *self._faults))

    def _tell(self) -> None:
        """Called in another copy's lane."""
        self._news = True
        self._hint()
