"""A tree on this node's disk: its manifest, kept up to date by looking.

Rules kept here:
- the manifest says what was read, never what an event told: hints only choose which directories are looked at;
- one thread at a time looks; what others read (``listings``, ``stat_of``) is replaced as a whole after a look that
  succeeded, and never changed once handed out;
- a root that is missing or cannot be listed is an error, never an empty tree;
- memory is a listing and 16 bytes an entry, in one object each per directory: 1,000,000 files cost about 100 MiB.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from zcluster.core.sync.entry import DIRECTORY, EMPTY_LISTING, FILE, Change, Entry, decode_listing, join, listing_digest, parent
from zcluster.errors import ZClusterError
from zcluster.files.contents import Hashing, reason_of
from zcluster.files.held import NEVER_NS, NO_SIGNATURE, SIGNATURE_BYTES, STAT, Held, parse_stats
from zcluster.files.localcache import LocalCache
from zcluster.files.scanner import FileStat, TreeRules
from zcluster.files.treepass import MAX_REPORTED, Progress, TreePass
from zcluster.files.verifying import differences

Parsed = dict[str, tuple[Entry, int, int]]
"""Of a directory, by name: entry, ctime_ns, inode."""

MAX_CHANGES = 65_536
"""More changes than these are not listed one by one."""
MAX_PARSED = 65_536
"""Entries whose directories are kept parsed for stat_of (at least one directory is, whatever its size)."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What one scan found.

    ``errors`` and ``refused`` name the first MAX_REPORTED; the counts say how many there are. ``errors`` are of this scan,
    ``refused`` of the whole tree.
    """

    first: bool
    """Nothing was held before: ``delta`` is the whole manifest."""
    delta: dict[str, bytes | None]
    """By directory: its new listing, None for one that is gone. Empty: nothing has changed."""
    changes: list[Change] | None
    """Each path that is new, gone or different, in the order of paths, so that a directory comes before what is in it; a
    directory whose mode is the same is not different, whatever changed beneath it. None: a first scan, or more than
    MAX_CHANGES: compare manifests instead."""
    root: bytes
    """Digest of the root's listing."""
    errors: list[tuple[str, str]]
    error_count: int
    refused: list[tuple[str, str]]
    refused_count: int
    unsettled: frozenset[str]
    """Directories to be looked at again, YOUNG_NS from now: something there was too young or did not hold still."""
    complete: bool
    """Everything that was to be looked at was, so that what is gone is gone."""
    directories: int
    """How many were looked at."""
    hashed_files: int
    hashed_bytes: int
    files: int
    bytes: int
    """Of the whole manifest; links count as files of 0 bytes."""


class LocalTree:
    """The tree beneath ``root``.

    Args:
        root: the directory; a symbolic link to one is legitimate and is resolved at each scan.
        rules: what of it is covered, and how its entries are described.
        cache: the file that :meth:`save` writes; None: nothing is kept.
        clock_ns: the clock that stamps this file system's files.
        sleep_s: waits, for a large file that is being written, for at most 25 ms.

    ``scan`` and ``verify`` belong to one thread at a time; all else may be used from others meanwhile.
    """

    def __init__(
        self,
        root: Path,
        rules: TreeRules,
        cache: Path | None,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        sleep_s: Callable[[float], None] = time.sleep,
    ) -> None:
        self._root, self._rules, self._cache_path, self._clock_ns = root, rules, cache, clock_ns
        self._hashing = Hashing(rules.hash, clock_ns, sleep_s)
        self._held = Held()
        self._started = False
        self._same_rules = True
        self._identity: tuple[int, int] | None = None
        self._cache: LocalCache | None = None
        self._unsaved: set[str] = set()
        self._state_lock = threading.Lock()
        """Of what a save takes together: ``_held``, ``_unsaved`` and ``_cache``."""
        self._saving_lock = threading.Lock()
        self._parsed: OrderedDict[str, tuple[bytes, bytes, Parsed]] = OrderedDict()
        self._parsed_entries = 0
        self._parsed_lock = threading.Lock()

    @property
    def listings(self) -> dict[str, bytes]:
        """The manifest; empty before the first scan. It never changes: the next scan makes another one."""
        return self._held.listings if self._started else {}

    @property
    def root(self) -> bytes:
        """Digest of the root's listing."""
        return self._held.root

    @property
    def files(self) -> int:
        """How many files and links the manifest has."""
        return self._held.files

    @property
    def size_bytes(self) -> int:
        """What they have together."""
        return self._held.bytes

    def scan(
        self,
        dirty: Iterable[str] | None,
        known: Mapping[str, Entry] | None = None,
        *,
        known_until_ns: int = 0,
        list_changes: bool = True,
        on_progress: Progress | None = None,
    ) -> Scan:
        """Look at the directories ``dirty``, or at all of them.

        Args:
            dirty: paths of directories; None, and always the first time: all. What appeared is looked at with all beneath
                it, what is gone is taken out with all beneath it. A path that is no directory is a file: where only
                known files of a directory are named, only these are looked at, and the directory is ``unsettled``.
            known: by path, the entries of files that our own writer has just put in place; they are not hashed when size
                and mtime are theirs and the ctime is not after ``known_until_ns``, the moment (by ``clock_ns``) after the
                last of them was renamed in. Any write since then gives a file a later ctime, or another mtime, or both,
                except one that forges the mtime within the same clock tick; and one whose mtime is itself that young
                is hashed.
            list_changes: whether Scan.changes is wanted; a sink has no use for it.
            on_progress: called every 1000 directories; what it raises (no OSError) ends the scan and leaves the manifest as
                it was.

        Raises:
            ZClusterError: the root is missing, is no directory, or cannot be listed.
            TooLarge: the tree has more files than its rules allow.
        """
        with self._open_root() as root_fd:
            first = not self._started
            held = self._recall() if first else self._held
            files_before, bytes_before = self._hashing.files, self._hashing.bytes
            run = TreePass(
                held, root_fd, self._rules, self._hashing, self._clock_ns,
                written=known or {}, until_ns=known_until_ns, same_rules=self._same_rules, on_progress=on_progress,
            )  # fmt: skip
            try:
                run.visit_all() if first or dirty is None else run.visit(dirty)
            except OSError as error:
                raise self._no_root(error) from None
            after = run.finish()
        with self._state_lock:
            self._unsaved.update(run.stats, run.delta)
            self._held = after
            self._started = True
        # What could not be looked at may still be as other rules had it.
        self._same_rules = self._same_rules or (run.complete and dirty is None)
        own = {path: run.delta[path] for path in run.different & run.delta.keys()}
        hashed = (self._hashing.files - files_before, self._hashing.bytes - bytes_before)
        changes = _changes(held.listings, own, run.glances) if list_changes and not first else None
        return _result(run, after, changes, first, hashed)

    def stat_of(self, path: str) -> FileStat | None:
        """What the file ``path`` was when it was hashed; None when the manifest has no such file."""
        found = self._parse(parent(path)).get(path.rpartition("/")[2])
        if found is None or found[0].kind != FILE:
            return None
        entry, ctime_ns, ino = found
        return FileStat(entry.size, entry.mtime_ns, ctime_ns, ino, entry.digest)

    def save(self) -> None:
        """Write what changed since the last save to the cache file; without one, nothing. Another thread may look meanwhile.

        Raises:
            OSError: the disk is full, or gone; the cache is then written anew the next time.
        """
        with self._saving_lock:
            with self._state_lock:
                cache, held = self._cache, self._held
                if cache is None or not self._started:
                    return
                # What is young now will have to be written once it is settled, and that is a change of its stats by itself.
                unsaved, self._unsaved = self._unsaved, set()
            stats = dict(held.stats)
            for path, names in held.young.items():
                stats[path] = _unbelieved(held.listings[path], stats[path], names)
            cache.save(held.listings, stats, sorted(unsaved))

    def verify(self, on_progress: Progress | None = None) -> Generator[tuple[str, str], None, None]:
        """Read every byte of what the manifest has; yields (path, reason) for each path that differs, nothing changes.

        Raises:
            ZClusterError: the root is missing.
        """
        with self._open_root() as root_fd:
            yield from differences(self.listings, root_fd, Hashing(self._rules.hash, self._clock_ns), on_progress)

    @contextmanager
    def _open_root(self) -> Generator[int, None, None]:
        try:
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._no_root(error) from None
        try:
            self._identify(os.fstat(fd))
            yield fd
        finally:
            os.close(fd)

    def _identify(self, st: os.stat_result) -> None:
        """A root that is another directory than before (something was mounted or moved there) is hashed anew: inode numbers
        of one file system say nothing about another."""
        identity = (st.st_dev, st.st_ino)
        if identity == self._identity:
            return
        held = self._held
        stats = {path: _unbelieved(listing, held.stats[path], None) for path, listing in held.listings.items()}
        self._identity = identity
        with self._state_lock:
            self._held = replace(held, stats=stats)
            self._unsaved = set(self._held.listings)
            if self._cache_path is not None:
                named = f"{identity} {self._rules.hash}".encode()
                self._cache = LocalCache(self._cache_path, named, repr(self._rules).encode())

    def _recall(self) -> Held:
        """What the cache remembers; nothing, when it does not fit."""
        if self._cache is None:
            return Held()
        listings, stats, same_rules = self._cache.load()
        try:
            files = size = 0
            for path, listing in listings.items():
                rows = parse_stats(listing, stats[path])
                files += sum(1 for entry, _, _ in rows.values() if entry.kind != DIRECTORY)
                size += sum(entry.size for entry, _, _ in rows.values())
            root = listing_digest(listings[""])
        except (msgspec.DecodeError, ValueError, KeyError, struct.error):
            return Held()
        self._same_rules = same_rules or not listings
        if not same_rules:
            stats = {path: NO_SIGNATURE + row[SIGNATURE_BYTES:] for path, row in stats.items()}
        return Held(listings=listings, stats=stats, root=root, files=files, bytes=size)

    def _no_root(self, error: OSError) -> ZClusterError:
        return ZClusterError(
            f"the tree's root {self._root} cannot be read: {reason_of(error)}",
            hint="mount or make the directory, or correct the tree's path; nothing was taken for deleted",
        )

    def _parse(self, directory: str) -> Parsed:
        held = self._held
        listing = held.listings.get(directory) if self._started else None
        if listing is None:
            return {}
        stats = held.stats[directory]
        with self._parsed_lock:
            parsed = self._parsed.get(directory)
            if parsed is not None and parsed[0] is listing and parsed[1] is stats:
                self._parsed.move_to_end(directory)
                return parsed[2]
        rows = parse_stats(listing, stats)
        with self._parsed_lock:
            self._forget(directory)
            self._parsed[directory] = (listing, stats, rows)
            self._parsed_entries += len(rows)
            while self._parsed_entries > MAX_PARSED and len(self._parsed) > 1:
                self._forget(next(iter(self._parsed)))
        return rows

    def _forget(self, directory: str) -> None:
        if (parsed := self._parsed.pop(directory, None)) is not None:
            self._parsed_entries -= len(parsed[2])


def _unbelieved(listing: bytes, stats: bytes, names: frozenset[str] | None) -> bytes:
    """``stats`` such that the next look hashes these names, or all."""
    rows = bytearray(stats)
    rows[:SIGNATURE_BYTES] = NO_SIGNATURE
    for index, entry in enumerate(decode_listing(listing)):
        if entry.kind == FILE and (names is None or entry.name in names):
            _, ino = STAT.unpack_from(rows, SIGNATURE_BYTES + index * STAT.size)
            STAT.pack_into(rows, SIGNATURE_BYTES + index * STAT.size, NEVER_NS, ino)
    return bytes(rows)


def _result(run: TreePass, after: Held, changes: list[Change] | None, first: bool, hashed: tuple[int, int]) -> Scan:
    refused = [one for kept, _ in after.refused.values() for one in kept]
    return Scan(
        first=first,
        delta=dict(after.listings) if first else run.delta,
        changes=changes,
        root=after.root,
        files=after.files,
        bytes=after.bytes,
        errors=run.errors,
        error_count=run.error_count,
        refused=refused[:MAX_REPORTED],
        refused_count=sum(count for _, count in after.refused.values()),
        unsettled=frozenset(run.unsettled),
        complete=run.complete,
        directories=run.directories,
        hashed_files=hashed[0],
        hashed_bytes=hashed[1],
    )


def _changes(
    before: Mapping[str, bytes], delta: Mapping[str, bytes | None], glances: Mapping[str, list[Change]]
) -> list[Change] | None:  # fmt: skip
    """What ``delta`` does to each path, of some directories found already; None: more than MAX_CHANGES."""
    changes: list[Change] = []
    for directory, listing in delta.items():
        if directory in glances:
            changes += glances[directory]
            continue
        old = {entry.name: entry for entry in decode_listing(before.get(directory, EMPTY_LISTING))}
        for entry in decode_listing(listing or EMPTY_LISTING):
            was = old.pop(entry.name, None)
            if was != entry and not _alike(was, entry):
                changes.append(Change(join(directory, entry.name), was, entry))
        changes += [Change(join(directory, name), was, None) for name, was in old.items()]
        if len(changes) > MAX_CHANGES:
            return None
    return sorted(changes, key=lambda change: change.path) if len(changes) <= MAX_CHANGES else None


def _alike(was: Entry | None, entry: Entry) -> bool:
    return was is not None and was.kind == entry.kind == DIRECTORY and was.mode == entry.mode
