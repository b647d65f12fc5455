"""One pass over a tree: which directories are looked at, and what their looks make of the manifest.

Rules kept here:
- what is held is never changed; a pass makes a new one beside it, or fails and leaves all as it was;
- a directory goes only when a listing of its parent, which could be read, no longer has it: what could not be read stays,
  with all beneath it;
- digests go up from the deepest changed directory to the root, once a pass;
- every directory is opened from its parent's open fd, without following a symbolic link; at most one fd for each level;
- nothing is unbounded: depth (zcluster.core.sync.paths), files and directories (max_files), and what is reported.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TypeVar

import msgspec

from zcluster.core.sync.entry import (
    DIRECTORY,
    EMPTY_LISTING,
    Entry,
    decode_listing,
    encode_listing,
    join,
    listing_digest,
    parent,
)
from zcluster.errors import TooLarge
from zcluster.files.beneath import Beneath
from zcluster.files.contents import GONE, Hashing, reason_of
from zcluster.files.scanner import (
    NO_SIGNATURE,
    SIGNATURE_BYTES,
    STAT,
    Known,
    Look,
    TreeRules,
    compare,
    parse_stats,
    read_rows,
    read_some,
)

MAX_FILES = 10_000_000
"""Files (and, counted by themselves, directories) of a tree whose rules give no bound."""
MAX_REPORTED = 1000
"""Refused paths, and errors, that are named; the others are counted."""
PROGRESS_DIRECTORIES = 1000

_ENCODER = msgspec.msgpack.Encoder()
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

T = TypeVar("T")
Progress = Callable[[int, int, int], None]
"""Called with the directories looked at, and the files and bytes hashed, so far; may raise to end the pass."""


@dataclass(frozen=True)
class Held:
    """What is known of a tree. Never changed; a pass makes the next one."""

    listings: dict[str, bytes] = field(default_factory=dict)
    stats: dict[str, bytes] = field(default_factory=dict)
    young: dict[str, frozenset[str]] = field(default_factory=dict)
    refused: dict[str, tuple[tuple[tuple[str, str], ...], int]] = field(default_factory=dict)
    """By directory: the first refused paths with reasons, and how many there are."""
    root: bytes = listing_digest(EMPTY_LISTING)
    files: int = 0
    bytes: int = 0


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
        self._new_files = 0
        self._dropped: defaultdict[str, dict[str, bytes | None]] = defaultdict(dict)
        self._room = MAX_REPORTED - sum(len(kept) for kept, _ in held.refused.values())
        self.delta: dict[str, bytes | None] = {}
        self.different: set[str] = set()
        """Of ``delta``, the directories in which more has changed than digests of directories."""
        self.stats: dict[str, bytes | None] = {}
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
        todo = [(_depth(path), path) for path in (*whole, *files)]
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
                        heappush(todo, (_depth(above), above))
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
        listing = self._listing(path)
        stats = self.stats.get(path) or self._held.stats.get(path)
        if listing is None or stats is None or path in self._refused or path in self._held.refused:
            return False
        old = parse_stats(listing, stats)
        if len(names) * 4 > len(old) or any(name not in old or old[name][0].kind == DIRECTORY for name in names):
            return False
        rows = read_some(fd, names, clock_ns=self._clock_ns)
        if rows.directories or rows.failed:
            return False
        self._count()
        young = self._young[path] if path in self._young else self._held.young.get(path, frozenset())
        some = {name: old[name] for name in names}
        known = Known(some, young & names, self._written, self._until_ns, self._same_rules)
        look = compare(path, fd, rows, known, self._rules, self._hashing)
        rest = {name: row for name, row in old.items() if name not in names}
        self._take(path, look.among(rest, young - names), old)
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

    def _take(self, path: str, look: Look, old: Mapping[str, tuple[Entry, int, int]]) -> None:
        self._new_files += look.files
        self.files += look.files
        self.bytes += look.bytes
        self._uncount(entry for entry, _, _ in old.values())
        if self._new_files > self._limit or self.directories > self._limit + 1:
            raise self._too_large()
        for name in look.gone_directories:
            self._remove(join(path, name))
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

    def _uncount(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.kind != DIRECTORY:
                self.files -= 1
                self.bytes -= entry.size

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
        root = self._roll_up()
        held = self._held
        for path in [path for path, listing in self.delta.items() if listing == held.listings.get(path)]:
            del self.delta[path]
        self.stats = {path: stats for path, stats in self.stats.items() if stats != held.stats.get(path)}
        listings = _merged(held.listings, self.delta)
        if self.files > self._limit or len(listings) > self._limit + 1:
            raise self._too_large()
        return Held(
            listings=listings,
            stats=_merged(held.stats, self.stats),
            young=_merged(held.young, {path: names or None for path, names in self._young.items()}),
            refused=_merged(held.refused, {path: one if one[1] else None for path, one in self._refused.items()}),
            files=self.files,
            bytes=self.bytes,
            root=root,
        )

    def _roll_up(self) -> bytes:
        """Write the digests of changed directories into their parents, deepest first; the root's digest."""
        changed: defaultdict[int, set[str]] = defaultdict(set)
        patches: defaultdict[int, dict[str, dict[str, bytes | None]]] = defaultdict(dict)
        for path, listing in self.delta.items():
            if listing is not None:
                changed[_depth(path)].add(path)
        for path, names in self._dropped.items():
            patches[_depth(path)][path] = dict(names)
        for depth in range(max([*changed, *patches], default=0), -1, -1):
            for path, patch in patches[depth].items():
                if self._patch(path, patch):
                    changed[depth].add(path)
            if depth:
                for path in changed[depth]:
                    above, _, name = path.rpartition("/")
                    digest = listing_digest(self._listing(path) or EMPTY_LISTING)
                    patches[depth - 1].setdefault(above, {})[name] = digest
        return listing_digest(self._listing("") or EMPTY_LISTING) if changed[0] else self._held.root

    def _patch(self, path: str, patch: Mapping[str, bytes | None]) -> bool:
        """Set digests of entries of ``path``, or, where it is None, take the entry out; whether anything changed."""
        listing = self._listing(path)
        if listing is None:
            return False
        if len(patch) == 1:
            ((name, digest),) = patch.items()
            quick = digest is not None and with_digest(listing, name, self._digest_before(join(path, name)), digest)
            if quick:
                self.delta[path] = quick
                return quick != listing
        stats = self.stats.get(path) or self._held.stats[path]
        entries: list[Entry] = []
        rows: list[bytes] = []
        for index, entry in enumerate(decode_listing(listing)):
            digest = patch.get(entry.name, entry.digest)
            if digest is None:
                continue
            if digest != entry.digest:
                entry = Entry(entry.name, DIRECTORY, 0, 0, entry.mode, digest)
            entries.append(entry)
            start = SIGNATURE_BYTES + index * STAT.size
            rows.append(stats[start : start + STAT.size])
        if None in patch.values():
            # Not settled: the next look has to try again.
            self.stats[path] = NO_SIGNATURE + b"".join(rows)
            self.different.add(path)
        self.delta[path] = encode_listing(entries)
        return self.delta[path] != listing

    def _digest_before(self, path: str) -> bytes:
        return listing_digest(self._held.listings.get(path, EMPTY_LISTING))


def with_digest(listing: bytes, name: str, old: bytes, new: bytes) -> bytes:
    """``listing`` with another digest for its directory ``name``, which has the digest ``old``; empty when it has not.

    The bytes are exchanged in place: a directory of 10,000 directories, in one of which something changes, is not decoded
    for it. What is looked for begins with a whole string and goes on with a byte that no string continues with, so it is
    found in no other string; and where chance, or somebody, put it into a digest, the old digest does not follow.
    """
    begin = _ENCODER.encode(name) + b"\xa1d\x00\x00"
    end = b"\xc4\x20" + old
    at = listing.find(begin)
    while at >= 0:
        mode = at + len(begin)
        digest = mode + {0xCC: 2, 0xCD: 3}.get(listing[mode], 1)
        if listing.startswith(end, digest):
            digest += 2
            return b"".join((listing[:digest], new, listing[digest + len(new) :]))
        at = listing.find(begin, at + 1)
    return b""


def _depth(path: str) -> int:
    return path.count("/") + 1 if path else 0


def _merged(old: dict[str, T], changes: Mapping[str, T | None]) -> dict[str, T]:
    """``old`` itself when there are no changes, else a new dictionary."""
    if not changes:
        return old
    new = old.copy()
    for key, value in changes.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = value
    return new
