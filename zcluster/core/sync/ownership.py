"""Whose file it is, where several workers' files are merged into one directory.

Rules kept here:
- a path belongs to the first worker that brought it, until that worker removes it; then to the next one that has it, in the
  order of arrival;
- a path cannot be a file and a directory at once: a worker's ``a/b`` waits while another one's file ``a`` is there, and the
  reverse; of two that wait for the same room with different paths the outer one comes first;
- whoever waits is in conflict with the owner, reported with both names; nothing is ever overwritten;
- only files and symbolic links have owners; directories come and go with what is in them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zcluster.core.sync.entry import DIRECTORY, Change, parent

MAX_CONFLICTS = 1000
"""Conflicts of one merge that are told one by one; beyond, they are counted only."""


class Book(Protocol):
    """Who has what so far."""

    def owner(self, path: str) -> str:
        """The worker that the file ``path`` belongs to, or empty."""

    def waiting(self, path: str) -> Sequence[str]:
        """The workers that have a file ``path`` and do not own it, in the order of arrival."""

    def owned_beneath(self, path: str) -> Iterable[str]:
        """The paths beneath ``path`` that have an owner; the reader stops early."""

    def waiting_beneath(self, path: str) -> Iterable[str]:
        """The paths beneath ``path`` for which somebody waits."""


@dataclass(frozen=True, slots=True)
class Place:
    """Bring the file ``path`` of ``worker`` to its place, also when it is there in an older state."""

    path: str
    worker: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the file ``path`` that ``worker`` brought."""

    path: str
    worker: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """``worker`` has a file ``path`` that is not in its place, because ``at`` (that path, one above or one beneath) belongs to
    ``owner``; with an empty ``owner`` it is not from a worker."""

    path: str
    worker: str
    owner: str
    at: str

    def __str__(self) -> str:
        if not self.owner:
            return f"{self.path} of {self.worker}: {self.at} is there and not from a worker"
        return f"{self.path} of {self.worker}: {self.at} belongs to {self.owner}"


@dataclass(slots=True)
class Merge:
    """What is to be done, in this order, and what the book is to say afterwards."""

    actions: list[Place | Remove] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    """By path, only what changed; empty: nobody."""
    waiting: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By path, only what changed, in the order of arrival."""
    conflicts: list[Conflict] = field(default_factory=list)
    """The new ones, at most MAX_CONFLICTS."""
    conflict_count: int = 0


def merge(worker: str, changes: Iterable[Change], book: Book) -> Merge:
    """What ``changes`` of a worker's copy mean for the merged directory.

    The order of the changes does not matter; a change that was taken into account before changes nothing but for a `Place`.
    """
    return _Merging(worker, book).run(changes)


class _Merging:
    """One merge: the book, and over it what has changed so far."""

    def __init__(self, worker: str, book: Book) -> None:
        self._worker = worker
        self._book = book
        self._result = Merge()
        self._given: list[str] = []
        """Paths that got an owner in this merge, in order."""

    def run(self, changes: Iterable[Change]) -> Merge:
        removed, brought = [], []
        for change in changes:
            if change.new is not None and change.new.kind != DIRECTORY:
                brought.append(change.path)
            elif change.old is not None and change.old.kind != DIRECTORY:
                removed.append(change.path)
        removed.sort()
        released = [path for path in removed if self._remove(path)]
        for path in released:
            self._hand_over(path)
        for path in sorted(brought):
            self._bring(path)
        # Last, so that a worker which removes and adds files in one directory does not lose the directory in between.
        for path in released:
            for waiting in (*_above(path), *self._waiting_beneath(path)):
                self._hand_over(waiting)
        return self._result

    def _remove(self, path: str) -> bool:
        """Take the worker's file out of the book; returns whether it owned the path."""
        if self._owner(path) == self._worker:
            self._result.owners[path] = ""
            self._result.actions.append(Remove(path, self._worker))
            return True
        waiting = self._waiting(path)
        if self._worker in waiting:
            self._result.waiting[path] = tuple(one for one in waiting if one != self._worker)
        return False

    def _bring(self, path: str) -> None:
        if self._owner(path) == self._worker:
            self._result.actions.append(Place(path, self._worker))
            return
        waiting = self._waiting(path)
        if self._worker in waiting:
            return
        at = self._blocker(path)
        if not at and not waiting:
            self._give(path, self._worker)
            return
        self._result.waiting[path] = (*waiting, self._worker)
        if not at:
            self._hand_over(path)
            at = path
        self._conflict(Conflict(path, self._worker, self._owner(at), at))

    def _hand_over(self, path: str) -> None:
        """Give the path to the first that waits for it, if nothing is in the way."""
        waiting = self._waiting(path)
        if waiting and not self._blocker(path):
            self._result.waiting[path] = waiting[1:]
            self._give(path, waiting[0])

    def _give(self, path: str, worker: str) -> None:
        self._result.owners[path] = worker
        insort(self._given, path)
        self._result.actions.append(Place(path, worker))

    def _conflict(self, conflict: Conflict) -> None:
        self._result.conflict_count += 1
        if len(self._result.conflicts) < MAX_CONFLICTS:
            self._result.conflicts.append(conflict)

    def _blocker(self, path: str) -> str:
        """The path that has an owner and excludes a file ``path``, or empty."""
        for at in (path, *_above(path)):
            if self._owner(at):
                return at
        return self._owned_beneath(path)

    def _owner(self, path: str) -> str:
        known = self._result.owners.get(path)
        return self._book.owner(path) if known is None else known

    def _waiting(self, path: str) -> tuple[str, ...]:
        known = self._result.waiting.get(path)
        return tuple(self._book.waiting(path)) if known is None else known

    def _owned_beneath(self, path: str) -> str:
        inside = f"{path}/"
        at = bisect_left(self._given, inside)
        if at < len(self._given) and self._given[at].startswith(inside):
            return self._given[at]
        return next((one for one in self._book.owned_beneath(path) if self._owner(one)), "")

    def _waiting_beneath(self, path: str) -> list[str]:
        """As the book says: what came in this merge waits for others than for what this worker released."""
        return list(self._book.waiting_beneath(path))


def _above(path: str) -> list[str]:
    """The directories that ``path`` is in, the outermost first, without the root."""
    found = []
    while path := parent(path):
        found.append(path)
    return found[::-1]
