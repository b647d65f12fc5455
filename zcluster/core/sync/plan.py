"""What has to be done about what differs.

Rules kept here:
- what the rules do not cover, and what is extra-valid, is never fetched, replaced, moved or deleted, and neither is a directory
  that holds it: where it is in the way of something, that is ``blocked`` with its reason;
- deletions are last in a plan, the deepest first; what a plan copies from is read before anything is replaced;
- a name does not come beside one that differs from it by case only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from zcluster.core.sync.entry import DIRECTORY, FILE, LINK, Entry, parent
from zcluster.core.sync.paths import fold
from zcluster.core.sync.rules import Rules


class Difference(NamedTuple):
    """One path, as both sides have it. Of two directories the modes differ, not (only) what is in them."""

    path: str
    theirs: Entry | None
    mine: Entry | None


@dataclass(slots=True)
class Classes:
    """All that differs. Within each list a directory stands before what is in it."""

    missing: list[Difference] = field(default_factory=list)
    shared: list[Difference] = field(default_factory=list)
    extra: list[Difference] = field(default_factory=list)
    extra_valid: list[Difference] = field(default_factory=list)
    """``theirs`` is set where the source has something at the path all the same: it does not come here."""
    uncovered: list[Difference] = field(default_factory=list)
    """What a side has in its manifest although the rules do not cover it: left alone."""


@dataclass(slots=True)
class Plan:
    """What makes a copy equal to its source, in the order in which it is done.

    Stage ``fetch``, ``copies`` and ``link``; then ``move_away``, ``make_dirs``, what is staged, ``touch``, and
    at last the deletions. Directories get their modes when all is done in them. An entry's mode is what it has to be.
    """

    fetch: list[tuple[str, Entry]] = field(default_factory=list)
    """Files whose content has to come from the source."""
    copies: list[tuple[str, Entry, str]] = field(default_factory=list)
    """Files whose content is here already, at the last path, in a file that is to be replaced or deleted (a rename). Where it
    is not what its digest says any more, it is fetched."""
    link: list[tuple[str, Entry]] = field(default_factory=list)
    touch: list[tuple[str, Entry]] = field(default_factory=list)
    """Files and directories that have the right content, and another mode or time."""
    make_dirs: list[tuple[str, int]] = field(default_factory=list)
    """Path and mode, parents first."""
    move_away: list[str] = field(default_factory=list)
    """What is here where something of another kind must be: a file or link for a directory, or a directory for a file or
    link. What such a directory holds is in ``delete_files`` and ``delete_dirs``, and goes before it."""
    delete_files: list[str] = field(default_factory=list)
    """Files and links. Where one differs from a path that comes by case only, and the file system does not tell the two
    apart, it is a rename: that path must not go."""
    delete_dirs: list[str] = field(default_factory=list)
    """The deepest first. One that turns out to hold something is left: that is something that the rules do not cover."""
    kept: list[str] = field(default_factory=list)
    """What is only here, or is other here, and stays: extra-valid, not covered, or nothing is to be deleted."""
    blocked: list[tuple[str, str]] = field(default_factory=list)
    """Paths of the source that cannot be here (with all beneath), and why."""
    files: int = 0
    """Files and links that are put, copied or touched."""
    bytes: int = 0
    """Of ``fetch``."""
    deletes: int = 0
    """Files and links that go."""
    more_files: int = 0
    """By how much the number of files and links grows; below 0 when it shrinks."""
    more_bytes: int = 0
    """By how much the bytes of files grow."""

    @property
    def staged(self) -> Plan:
        """The same, where what is copied has been staged like what is fetched."""
        return replace(self, fetch=[*self.fetch, *((path, entry) for path, entry, _ in self.copies)], copies=[])

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.files or self.deletes or self.make_dirs or self.move_away or self.touch or self.delete_dirs)


def make_plan(classes: Classes, rules: Rules) -> Plan:
    """What makes the sink equal to the source, as far as the rules say."""
    return _Planner(classes, rules.delete).run()


class _Planner:
    """Makes one plan."""

    def __init__(self, classes: Classes, deleting: bool) -> None:
        self._classes, self._deleting = classes, deleting
        self._plan = Plan()
        self._pinned: set[str] = set()
        """Directories of the sink that hold something that stays."""
        self._blocked: set[str] = set()
        self._sources: dict[tuple[bytes, int], str] = {}

    def run(self) -> Plan:
        classes, plan = self._classes, self._plan
        self._keep()
        self._find_sources()
        if classes.missing:
            self._block_twins()
        for path, entry, own in classes.shared:
            if entry is not None and own is not None:
                self._replace(path, entry, own)
        for path, entry, _own in classes.missing:
            if entry is None:
                continue
            if self._blocked and (path in self._blocked or parent(path) in self._blocked):
                self._blocked.add(path)
            else:
                self._put(path, entry)
        if self._deleting:
            self._delete()
        plan.make_dirs.sort()
        touched = sum(1 for _, entry in plan.touch if entry.kind != DIRECTORY)
        plan.files = len(plan.fetch) + len(plan.copies) + len(plan.link) + touched
        plan.bytes = sum(entry.size for _, entry in plan.fetch)
        plan.deletes = len(plan.delete_files)
        self._count_growth()
        return plan

    def _count_growth(self) -> None:
        """What comes, without what is replaced or deleted for it."""
        plan, classes = self._plan, self._classes
        coming = {path for path, _ in (*plan.fetch, *plan.link)} | {path for path, _, _ in plan.copies}
        coming.update(path for path, _ in plan.make_dirs)
        going = set(plan.delete_files)
        for differences in (classes.missing, classes.shared, classes.extra):
            for path, entry, own in differences:
                if entry is not None and entry.kind != DIRECTORY and path in coming:
                    plan.more_files += 1
                    plan.more_bytes += entry.size
                if own is not None and own.kind != DIRECTORY and (path in coming or path in going):
                    plan.more_files -= 1
                    plan.more_bytes -= own.size

    def _keep(self) -> None:
        """Note what stays, and pin the directories above it."""
        classes = self._classes
        staying = [classes.extra_valid, classes.uncovered]
        if not self._deleting:
            staying.append(classes.extra)
        for differences in staying:
            for path, _entry, own in differences:
                if own is not None:
                    self._plan.kept.append(path)
                    self._pin(parent(path))

    def _pin(self, directory: str) -> None:
        while directory and directory not in self._pinned:
            self._pinned.add(directory)
            directory = parent(directory)

    def _find_sources(self) -> None:
        """Contents that are here in files which are to be replaced or deleted."""
        for differences in (self._classes.shared, self._classes.extra):
            for path, _entry, own in differences:
                if own is not None and own.kind == FILE and own.size:
                    self._sources[own.digest, own.size] = path

    def _block_twins(self) -> None:
        """Block names that would come beside one that differs by case only and stays; where that one goes it is a rename."""
        classes = self._classes
        here: dict[str, Difference] = {}
        for differences in (classes.extra, classes.uncovered, classes.extra_valid):
            for difference in differences:
                if difference.mine is not None:
                    here[fold(difference.path)] = difference
        if not here:
            return
        leaving = set(map(id, classes.extra)) if self._deleting else set()
        for path, _entry, _own in classes.missing:
            if self._blocked and parent(path) in self._blocked:
                self._blocked.add(path)
                continue
            twin = here.get(fold(path))
            if twin is not None and (id(twin) not in leaving or twin.path in self._pinned):
                self._block(path, f"{twin.path!r}, which differs from it by case only, is here and stays")

    def _block(self, path: str, reason: str) -> None:
        self._blocked.add(path)
        self._plan.blocked.append((path, reason))

    def _replace(self, path: str, entry: Entry, own: Entry) -> None:
        """``own`` is here where the source has ``entry``."""
        plan = self._plan
        if entry.kind == own.kind:
            same = entry.kind == DIRECTORY or (entry.kind == FILE and entry.digest == own.digest and entry.size == own.size)
            if same:
                plan.touch.append((path, entry))
                return
        elif own.kind == DIRECTORY and path in self._pinned:
            self._block(path, "a directory is in its way, with files that stay")
            plan.kept.append(path)
            return
        elif DIRECTORY in (entry.kind, own.kind):
            plan.move_away.append(path)
        self._put(path, entry)

    def _put(self, path: str, entry: Entry) -> None:
        if entry.kind == DIRECTORY:
            self._plan.make_dirs.append((path, entry.mode))
        elif entry.kind == LINK:
            self._plan.link.append((path, entry))
        elif self._sources and entry.size and (found := self._sources.get((entry.digest, entry.size))) is not None:
            self._plan.copies.append((path, entry, found))
        else:
            self._plan.fetch.append((path, entry))

    def _delete(self) -> None:
        plan, pinned = self._plan, self._pinned
        for path, _entry, own in self._classes.extra:
            if own is None:
                continue
            if own.kind != DIRECTORY:
                plan.delete_files.append(path)
            elif path in pinned:
                plan.kept.append(path)
            else:
                plan.delete_dirs.append(path)
        # Directories stand before what is in them.
        plan.delete_dirs.reverse()
