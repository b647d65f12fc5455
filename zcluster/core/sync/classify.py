"""What differs between two manifests: the one place where a path is found missing, different, extra or extra-valid.

Rules kept here:
- a path is *missing* (the source has it, the sink has not), *shared* (both have it and it differs), *extra* (only the sink
  has it) or *extra-valid* (the sink may have it of its own);
- a directory whose digest is the same on both sides is not looked into;
- a list of changes leads to a plan only where the sink is exactly what they start from, or end at.

All of it is pure and iterative: however deep a tree is, the stack does not grow. zcluster.core.sync.plan says what is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from zcluster.core.sync.entry import (
    DIRECTORY,
    EMPTY_LISTING,
    Change,
    Differences,
    Entry,
    Manifest,
    count_files,
    decode_listing,
    join,
)
from zcluster.core.sync.paths import fold
from zcluster.core.sync.plan import Classes, Difference, Plan, make_plan
from zcluster.core.sync.rules import Rules

__all__ = ["Classes", "Difference", "Plan", "changes_between", "classify", "differences", "make_plan",
           "plan_of_changes", "wanted_listings"]  # fmt: skip


def wanted_listings(theirs: Manifest, mine: Manifest) -> tuple[list[str], list[str]]:
    """The directories whose listings are needed before :func:`classify`, given those that are in ``theirs`` already.

    Returns:
        Directories that both have with other digests, and directories that are not in ``mine`` (all beneath them is needed
        as well). Both empty: ``theirs`` is complete. That the roots differ is the caller's knowledge.
    """
    shallow: list[str] = []
    deep: list[str] = []
    if "" not in theirs:
        return ([""], []) if "" in mine else ([], [""])
    stack = [("", "" in mine)]
    while stack:
        directory, in_mine = stack.pop()
        here = {entry.name: entry for entry in decode_listing(mine[directory]) if entry.kind == DIRECTORY} if in_mine else {}
        for entry in decode_listing(theirs[directory]):
            if entry.kind != DIRECTORY:
                continue
            path, same = join(directory, entry.name), here.get(entry.name)
            if same is not None and same.digest == entry.digest:
                continue
            if path in theirs:
                stack.append((path, same is not None))
            else:
                (deep if same is None else shallow).append(path)
    return shallow, deep


def classify(theirs: Manifest, mine: Manifest, rules: Rules) -> Classes:
    """All that differs between the source's manifest and the sink's.

    Args:
        theirs: has every listing that :func:`wanted_listings` asks for; without its root's it is taken to be as ``mine``.
        mine: complete, or empty for a copy of which nothing is there.
        rules: the sink's.
    """
    sorter = _Sorter(rules)
    if "" in theirs and theirs[""] != mine.get(""):
        stack = sorter.stack
        stack.append(("", True, "" in mine))
        while stack:
            path, in_theirs, in_mine = stack.pop()
            sorter.directory(path, theirs[path] if in_theirs else b"", mine[path] if in_mine else b"")
    return sorter.classes


def changes_between(before: Manifest, after: Manifest) -> list[Change]:
    """What became of each path between two complete manifests of one tree; directories where their own mode or kind changed."""
    classes = classify(after, before, _EVERYTHING)
    found = (classes.missing, classes.shared, classes.extra)
    return [Change(path, old, new) for differences in found for path, new, old in differences]


MAX_LISTED = 65_536
"""More changes than these are counted and not listed: a million of them would take half a GiB."""


def differences(before: Manifest, after: Manifest, max_listed: int = MAX_LISTED) -> Differences:
    """The same as :func:`changes_between`, counted, and listed where they are few enough; memory is bounded."""
    counts = [0, 0, 0]
    changes: list[Change] | None = []
    for path in chain(after, (path for path in before if path not in after)):
        old, new = before.get(path, EMPTY_LISTING), after.get(path, EMPTY_LISTING)
        if old is new or old == new:
            continue
        found = _between(path, old, new)
        for index, count in enumerate(count_files(found)):
            counts[index] += count
        if changes is not None:
            changes += found
            if len(changes) > max_listed:
                changes = None
    return Differences(counts[0], counts[1], counts[2], sorted(changes, key=_by_path) if changes is not None else None)


def _between(directory: str, before: bytes, after: bytes) -> list[Change]:
    """What became of each name of a directory; a directory in it only where it is new, gone or has another mode."""
    old = {entry.name: entry for entry in decode_listing(before)}
    changes: list[Change] = []
    for entry in decode_listing(after):
        was = old.pop(entry.name, None)
        same_directory = was is not None and was.kind == entry.kind == DIRECTORY and was.mode == entry.mode
        if was != entry and not same_directory:
            changes.append(Change(join(directory, entry.name), was, entry))
    return changes + [Change(join(directory, name), was, None) for name, was in old.items()]


def _by_path(change: Change) -> str:
    return change.path


class _Sorter:
    """Puts what differs into its class, and notes which directories are to be looked into."""

    __slots__ = ("classes", "rules", "stack")

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.classes = Classes()
        self.stack: list[tuple[str, bool, bool]] = []

    def directory(self, path: str, theirs: bytes, mine: bytes) -> None:
        prefix = f"{path}/" if path else ""
        left = {entry.name: entry for entry in decode_listing(mine)} if mine else {}
        if theirs:
            take = left.pop
            for entry in decode_listing(theirs):
                own = take(entry.name, None)
                if own is None or own != entry:
                    self.theirs(prefix + entry.name, entry, own)
        for name, own in left.items():
            self.only_mine(prefix + name, own)

    def exempt(self, path: str, entry: Entry | None, own: Entry | None) -> bool:
        """Whether the rules leave ``path`` alone, be it as the source's kind of thing or as the sink's; then it is noted."""
        rules, classes = self.rules, self.classes
        difference = Difference(path, entry, own)
        if rules.extra_valid:
            for one in (entry, own):
                if one is not None and rules.is_extra_valid(path, one.kind == DIRECTORY):
                    classes.extra_valid.append(difference)
                    if own is not None and own.kind == DIRECTORY and rules.is_extra_valid(path, True):
                        self.stack.append((path, False, True))
                    return True
        for one in (entry, own):
            if one is not None and not rules.covers(path, one.kind == DIRECTORY):
                classes.uncovered.append(difference)
                return True
        return False

    def theirs(self, path: str, entry: Entry, own: Entry | None) -> None:
        """The source has ``entry`` at ``path``, and the sink something else or nothing."""
        if self.exempt(path, entry, own):
            return
        is_dir = entry.kind == DIRECTORY
        if own is None:
            self.classes.missing.append(Difference(path, entry, None))
            if is_dir:
                self.stack.append((path, True, False))
            return
        own_is_dir = own.kind == DIRECTORY
        if not (is_dir and own_is_dir) or entry.mode != own.mode:
            self.classes.shared.append(Difference(path, entry, own))
        if (is_dir or own_is_dir) and not (is_dir and own_is_dir and entry.digest == own.digest):
            self.stack.append((path, is_dir, own_is_dir))

    def only_mine(self, path: str, own: Entry) -> None:
        if self.exempt(path, None, own):
            return
        self.classes.extra.append(Difference(path, None, own))
        if own.kind == DIRECTORY:
            self.stack.append((path, False, True))


_EVERYTHING = Rules()


def plan_of_changes(changes: Iterable[Change], mine: Manifest, rules: Rules) -> Plan | None:
    """The plan that carries out ``changes``, in any order, on ``mine``.

    Returns:
        None when that is no way to get there: ``mine`` is neither what they start from nor what they lead to, they contradict
        each other, or names would differ by case only. Then the listings have to be compared.
    """
    classes = _ByChanges(changes, mine, rules).run()
    return None if classes is None else make_plan(classes, rules)


class _ByChanges:
    """Classes from a list of changes."""

    def __init__(self, changes: Iterable[Change], mine: Manifest, rules: Rules) -> None:
        listed = list(changes)
        self._changes = {change.path: change for change in listed}
        self._double = len(self._changes) != len(listed)
        self._mine = mine
        self._sorter = _Sorter(rules)
        self._directories: dict[str, dict[str, Entry] | None] = {}
        self._folded: dict[str, dict[str, str]] = {}

    def run(self) -> Classes | None:
        if self._double:
            return None
        # A directory's path comes before what is in it.
        for path in sorted(self._changes):
            if not self._take(self._changes[path]):
                return None
        return self._sorter.classes

    def _take(self, change: Change) -> bool:
        """Put one change into its class; False: there is no such way."""
        path, old, new = change.path, change.old, change.new
        if not path or (old is None and new is None):
            return False
        directory, _, name = path.rpartition("/")
        here = self._list(directory)
        own = here.get(name) if here is not None else None
        sorter = self._sorter
        if new is not None and not self._has_place(directory, here is not None):
            return False
        if _same(own, new):
            return True
        if (new is not None or own is not None) and sorter.exempt(path, new, own):
            return True
        if not _same(own, old):
            return False
        if own is not None and own.kind == DIRECTORY and (new is None or new.kind != DIRECTORY) and not self._empties(path):
            return False
        if new is None:
            if own is not None:
                sorter.only_mine(path, own)
            return True
        if own is None and self._has_twin(directory, name):
            return False
        sorter.theirs(path, new, own)
        return True

    def _list(self, directory: str) -> dict[str, Entry] | None:
        if directory not in self._directories:
            listing = self._mine.get(directory)
            self._directories[directory] = None if listing is None else {entry.name: entry for entry in decode_listing(listing)}
        return self._directories[directory]

    def _has_place(self, directory: str, is_here: bool) -> bool:
        """Whether ``directory`` is one afterwards."""
        above = self._changes.get(directory)
        if above is not None:
            return above.new is not None and above.new.kind == DIRECTORY
        return is_here or not directory

    def _empties(self, directory: str) -> bool:
        """Whether nothing that the rules cover is left in a directory which goes; what they do not cover is noted."""
        for name, entry in (self._list(directory) or {}).items():
            path = join(directory, name)
            change = self._changes.get(path)
            gone = change is not None and change.new is None
            if not gone and not self._sorter.exempt(path, None, entry):
                return False
        return True

    def _has_twin(self, directory: str, name: str) -> bool:
        """Whether a name that differs from ``name`` by case only is there afterwards."""
        folded = self._folded.get(directory)
        if folded is None:
            folded = self._folded[directory] = {}
            for other in self._list(directory) or ():
                change = self._changes.get(join(directory, other))
                if change is None or change.new is not None:
                    folded[fold(other)] = other
        return folded.setdefault(fold(name), name) != name


def _same(one: Entry | None, other: Entry | None) -> bool:
    """Whether two entries say the same of a path itself; a directory's digest is of what is in it."""
    if one is None or other is None:
        return one is other
    if one.kind == DIRECTORY and other.kind == DIRECTORY:
        return one.mode == other.mode
    return one == other
