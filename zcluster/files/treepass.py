"""One pass over a tree: which directories are looked at, and what their looks make of the manifest.

Rules kept here:
- what is held is never changed; a pass makes a new one beside it, or fails and leaves all as it was;
- a directory goes only when a listing of its parent, which could be read, no longer has it: what could not be read stays,
  with all beneath it;
- where known files are named, only these are looked at, and their directory is to be looked at in whole a little later: what
  is new, renamed, or not told by a hint is found then;
- every directory is opened from its parent's open fd, without following a symbolic link; at most one fd for each level;
- nothing is unbounded: depth (zcluster.core.sync.paths), files and directories (max_files), and what is reported.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from heapq import heapify, heappop, heappush

from zcluster.core.sync.entry import DIRECTORY, Change, Entry, decode_listing, join, parent
from zcluster.errors import TooLarge
from zcluster.files.beneath import Beneath
from zcluster.files.contents import GONE, Hashing, reason_of
from zcluster.files.held import NO_SIGNATURE, SIGNATURE_BYTES, Held, Packed, Row, merged, parse_stats
from zcluster.files.rollup import RollUp, depth_of
from zcluster.files.rows import read_rows, read_some
from zcluster.files.scanner import Known, Look, TreeRules, compare

MAX_FILES = 10_000_000
"""Files (and, counted by themselves, directories) of a tree whose rules give no bound."""
MAX_REPORTED = 1000
"""Refused paths, and errors, that are named; the others are counted."""
PROGRESS_DIRECTORIES = 1000

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Progress = Callable[[int, int, int], None]
"""Called with the directories looked at, and the files and bytes hashed, so far; may raise to end the pass."""


class TreePass:
    """One pass. Visit directories, then :meth:`finish`.

    Args:
        held: what is known so far.
        root_fd: the open root; it stays the caller's.
        written, until_ns: see LocalTree.scan.
        same_rules: what is held was seen under these rules.
    """

    def __init__(
        self,
        held: Held,
        root_fd: int,
        rules: TreeRules,
        hashing: Hashing,
        clock_ns: Callable[[], int],
        *,
        written: Mapping[str, Entry],
        until_ns: int,
        same_rules: bool = True,
        on_progress: Progress | None = None,
    ) -> None:
        self._held, self._root_fd, self._rules, self._hashing, self._clock_ns = held, root_fd, rules, hashing, clock_ns
        self._written, self._until_ns, self._same_rules, self._on_progress = written, until_ns, same_rules, on_progress
        self._limit = rules.max_files or MAX_FILES
        self._seen_files = self._seen_directories = 0
        """Of what was looked at in whole, each once."""
        self._dropped: defaultdict[str, dict[str, bytes | None]] = defaultdict(dict)
        self._room = MAX_REPORTED - sum(len(kept) for kept, _ in held.refused.values())
        self.delta: dict[str, bytes | None] = {}
        self.different: set[str] = set()
        """Of ``delta``, the directories in which more has changed than digests of directories."""
        self.stats: dict[str, bytes | None] = {}
        self.glances: dict[str, list[Change]] = {}
        """Of ``different``, the directories of which only some files were looked at, and what became of these."""
        self._young: dict[str, frozenset[str]] = {}
        self._refused: dict[str, tuple[tuple[tuple[str, str], ...], int]] = {}
        self.directories = 0
        self.files, self.bytes = held.files, held.bytes
        self.errors: list[tuple[str, str]] = []
        self.error_count = 0
        self.unsettled: set[str] = set()
        self.complete = True

    def visit_all(self) -> None:
        """Look at every directory.

        Raises:
            OSError: the root itself cannot be listed.
            TooLarge: there are more files than the rules allow.
        """
        self._walk("", self._root_fd, True)

    def visit(self, dirty: Iterable[str]) -> None:
        """Look at the directories ``dirty``, or, where one is not known (any more), at the nearest that is above it; and at
        all beneath those that appeared. A path that is no directory is a file of the one above it: where only known files
        of a directory are named, only these are looked at, and the directory is unsettled. Raises as visit_all."""
        whole, files = self._sorted(dirty)
        todo = [(depth_of(path), path) for path in (*whole, *files)]
        heapify(todo)
        visited: set[str] = set()
        beneath = Beneath(self._root_fd)
        try:
            while todo:
                _, path = heappop(todo)
                if path in visited or (path and self._listing(path) is None):
                    continue
                visited.add(path)
                try:
                    fd = beneath.dir_fd(path)
                    if path in whole or not self._glance(path, fd, files[path]):
                        self._walk(path, fd, False)
                    else:
                        visited.discard(path)  # what is gone beneath it may still ask for a whole look
                except OSError as error:
                    if not path:
                        raise
                    above = parent(path)
                    if error.errno not in GONE or above in visited:
                        self._fail(path, error)
                    else:
                        whole.add(above)
                        heappush(todo, (depth_of(above), above))
        finally:
            beneath.close()

    def _sorted(self, dirty: Iterable[str]) -> tuple[set[str], dict[str, set[str]]]:
        """The directories to be looked at in whole, and by directory the names of files to be looked at."""
        whole: set[str] = set()
        files: dict[str, set[str]] = {}
        for path in dirty:
            above, _, name = path.rpartition("/")
            if path and path not in self._held.listings and above in self._held.listings:
                files.setdefault(above, set()).add(name)
            else:
                whole.add(self._nearest(path))
        return whole, {path: names for path, names in files.items() if path not in whole}

    def _glance(self, path: str, fd: int, names: set[str]) -> bool:
        """Look at some files of a directory only; false: that is not enough, it has to be looked at in whole."""
        held = self._held
        if path in self.stats or path in held.refused or not self._same_rules:
            return False
        packed = Packed(held.listings[path], held.stats[path])
        at = {name: packed.index(name) for name in names}
        if len(names) * 4 > len(packed) or -1 in at.values():
            return False
        old = {name: packed.row(index) for name, index in at.items()}
        if any(entry.kind == DIRECTORY for entry, _, _ in old.values()):
            return False
        rows = read_some(fd, sorted(names), clock_ns=self._clock_ns)
        if rows.directories or rows.failed:
            return False
        self._count()
        young = held.young.get(path, frozenset())
        known = Known(old, young & names, self._written, self._until_ns, self._same_rules)
        look = compare(path, fd, rows, known, self._rules, self._hashing)
        new = parse_stats(look.listing, look.stats)
        listing, stats = packed.exchange({index: new.get(name) for name, index in at.items()})
        self.files += look.files
        self.bytes += look.bytes
        self._uncount(entry for entry, _, _ in old.values())
        self._keep(path, replace(look, listing=listing, stats=stats, young=look.young | (young - names), unsettled=True))
        self.glances[path] = _differences(path, old, new)
        return True

    def _nearest(self, path: str) -> str:
        while path and path not in self._held.listings:
            path = parent(path)
        return path

    def _listing(self, path: str) -> bytes | None:
        if path in self.delta:
            return self.delta[path]
        return self._held.listings.get(path)

    def _walk(self, path: str, fd: int, full: bool) -> None:
        """Look at the directory ``path``, open as ``fd``, and, iteratively, at what has to be looked at beneath."""
        frames = [(path, fd, self._look(path, fd, full))]
        try:
            while frames:
                _, above_fd, children = frames[-1]
                child = next(children, None)
                if child is None:
                    frames.pop()
                    if frames:
                        os.close(above_fd)
                    continue
                try:
                    child_fd = os.open(child.rpartition("/")[2], _DIR_FLAGS, dir_fd=above_fd)
                except OSError as error:
                    self._fail(child, error)
                    continue
                frames.append((child, child_fd, iter(())))
                try:
                    beneath = self._look(child, child_fd, True)
                except OSError as error:
                    self._fail(child, error)
                    continue
                frames[-1] = (child, child_fd, beneath)
        finally:
            for _, open_fd, _ in frames[1:]:
                os.close(open_fd)

    def _look(self, path: str, fd: int, full: bool) -> Iterator[str]:
        """Look at one directory; the paths of the directories in it that have to be looked at too."""
        rows = read_rows(fd, at_root=not path, clock_ns=self._clock_ns)
        self._count()
        listing = self._listing(path)
        stats = self.stats.get(path) or self._held.stats.get(path, NO_SIGNATURE)
        signature = stats[:SIGNATURE_BYTES]
        if listing is not None and signature != NO_SIGNATURE and not rows.failed and signature == rows.signature():
            if not full or not rows.directories:
                return iter(())
            paths = (join(path, name) for name in rows.directories)
            return iter([one for one in paths if self._listing(one) is not None])
        old = parse_stats(listing, stats) if listing is not None else {}
        young = self._young[path] if path in self._young else self._held.young.get(path, frozenset())
        known = Known(old, young, self._written, self._until_ns, self._same_rules)
        look = compare(path, fd, rows, known, self._rules, self._hashing)
        self._take(path, look, old)
        return iter([join(path, name) for name in (look.directories if full else look.new_directories)])

    def _count(self) -> None:
        self.directories += 1
        if self.directories % PROGRESS_DIRECTORIES == 0 and self._on_progress is not None:
            self._on_progress(self.directories, self._hashing.files, self._hashing.bytes)

    def _take(self, path: str, look: Look, old: Mapping[str, Row]) -> None:
        """A directory, of which ``old`` was known, was looked at in whole."""
        before = self._uncount(entry for entry, _, _ in old.values())
        self.files += look.files
        self.bytes += look.bytes
        again = self.stats.get(path) is not None
        self._seen_files += look.files - (before if again else 0)
        self._seen_directories += not again
        if self._seen_files > self._limit or self._seen_directories > self._limit + 1:
            raise self._too_large()
        for name in look.gone_directories:
            self._remove(join(path, name))
        self.glances.pop(path, None)
        self._keep(path, look)

    def _keep(self, path: str, look: Look) -> None:
        if look.listing != self._listing(path):
            self.delta[path] = look.listing
            self.different.add(path)
        self.stats[path] = look.stats
        self._young[path] = look.young
        self._room += len(self._refused.get(path, self._held.refused.get(path, ((), 0)))[0])
        kept = tuple(look.refused[: max(0, self._room)])
        self._room -= len(kept)
        self._refused[path] = (kept, len(look.refused))
        for failed, reason in look.errors:
            self._report(failed, reason)
        self.complete = self.complete and look.complete
        if look.unsettled:
            self.unsettled.add(path)

    def _uncount(self, entries: Iterable[Entry]) -> int:
        files = [entry.size for entry in entries if entry.kind != DIRECTORY]
        self.files -= len(files)
        self.bytes -= sum(files)
        return len(files)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the tree has more than {self._limit} files or directories",
            hint="exclude what need not be synced, split the tree, or raise its max_files",
        )

    def _remove(self, path: str) -> None:
        """Take ``path`` out with all beneath it."""
        todo = [path]
        while todo:
            path = todo.pop()
            listing = self._listing(path)
            if listing is None:
                continue
            entries = decode_listing(listing)
            self._uncount(entries)
            todo += [join(path, entry.name) for entry in entries if entry.kind == DIRECTORY]
            self.glances.pop(path, None)
            self.delta[path] = None
            self.different.add(path)
            self.stats[path] = None
            self._young[path] = frozenset()
            self._refused[path] = ((), 0)

    def _report(self, path: str, reason: str) -> None:
        self.error_count += 1
        if len(self.errors) < MAX_REPORTED:
            self.errors.append((path, reason))

    def _fail(self, path: str, error: OSError) -> None:
        """The directory ``path``, which its parent's listing has, could not be looked at."""
        self.complete = False
        if error.errno in GONE:
            self.unsettled.add(parent(path))
        else:
            self._report(path, reason_of(error))
        if self._listing(path) is None:
            self._dropped[parent(path)][path.rpartition("/")[2]] = None

    def finish(self) -> Held:
        """The manifest with all that was seen; ``delta`` is then what differs from the one before.

        Raises:
            TooLarge: there are more files than the rules allow.
        """
        held = self._held
        root = RollUp(held, self.delta, self.stats, self.different).run(self._dropped)
        for path in [path for path, listing in self.delta.items() if listing == held.listings.get(path)]:
            del self.delta[path]
        self.stats = {path: stats for path, stats in self.stats.items() if stats != held.stats.get(path)}
        listings = merged(held.listings, self.delta)
        if self.files > self._limit or len(listings) > self._limit + 1:
            raise self._too_large()
        return Held(
            listings=listings,
            stats=merged(held.stats, self.stats),
            young=merged(held.young, {path: names or None for path, names in self._young.items()}),
            refused=merged(held.refused, {path: one if one[1] else None for path, one in self._refused.items()}),
            files=self.files,
            bytes=self.bytes,
            root=root,
        )


def _differences(path: str, old: Mapping[str, Row], new: Mapping[str, Row]) -> list[Change]:
    """What became of some files of a directory."""
    changes = [Change(join(path, name), was[0], new[name][0] if name in new else None) for name, was in old.items()]
    return [change for change in changes if change.old != change.new]
