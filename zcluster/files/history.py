"""The versions of trees at the master: their numbers, what they held, and the way back to them.

Rules kept here:
- a version is on the disk before its number is returned, so before it is published; a number is given once: a row per tree
  counts them, and outlives the versions, a crash, and (with the ``floor`` that sinks report) the loss of the database;
- a version is ``kept`` only when all of its content is here; else ``reason`` says why, and going back to it is refused;
- what a version has in common with others is stored once;
- its size is bounded: the last ``keep_versions`` of each tree, ``keep_bytes`` for all trees together (as stored; between two
  prunings it may grow by what one version brings). Content that would not fit is not recorded: a tree whose files are larger
  than ``keep_bytes`` beside the other trees' newest, a file larger than a quarter of it. The newest version's manifest always is;
- memory is bounded by the largest directory, not by the tree.

Any thread may read; one disk thread at a time writes (records, prunes). `open_version` may come from another one meanwhile:
it waits for one batch (4 MiB) at most.

The order of calls for a change: `open_version` (now it may be published), `record_listings`, `missing_blobs` and `add_blobs`
until there are no more, `finish`; then `prune` until it returns False. A process that ends in between leaves a version that is
not kept; the next one makes up for what it lacks, or the same when it is recorded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec

from zcluster.core.sync.entry import FILE, Change, Entry, join
from zcluster.errors import NoSuchVersion, UsageError, ZClusterError
from zcluster.files.blobs import BATCH_BLOBS, MAX_BLOB_BYTES, Adding, Blobs
from zcluster.files.history_listings import Listings
from zcluster.files.history_pruning import Pruning
from zcluster.files.history_schema import VERSION_COLUMNS, Database, Restored, Version, version_of

Cause = Literal["change", "rollback", "start"]
Item = tuple[str, Entry]

MAX_LACKING = 256
"""What a version lacks is remembered up to so many files; with more, the next version looks at each of its files again."""
FILE_BYTES = 128
"""What a file costs beside its content (its entry, its rows)."""
FILE_SHARE = 4
"""The content of a file larger than keep_bytes / FILE_SHARE is not kept."""
MAX_NUMBER = 2**53 - 1
BYTES_SETTING = "sync.history_bytes"
RECORDING = "its content was not recorded to the end"

_LACKING = msgspec.msgpack.Decoder(list[tuple[str, Entry, str]])


@dataclass(slots=True)
class _Recording:
    """A version that is being recorded: what it lacks, with the reason, as far as that is remembered."""

    lacking: dict[str, tuple[Entry, str]] = field(default_factory=dict)
    overflow: bool = False
    why: str = ""
    """The first reason."""

    def lack(self, path: str, entry: Entry, why: str) -> None:
        self.why = self.why or why
        if len(self.lacking) < MAX_LACKING or path in self.lacking:
            self.lacking[path] = (entry, why)
        else:
            self.overflow = True


class History:
    """The history in the SQLite file ``path``, which nothing else may open.

    Args:
        keep_versions: how many versions of each tree are kept, at least 1.
        keep_bytes: how much all trees' versions may take together, as stored.

    Raises:
        Busy: another process has it open.
        ZClusterError: it cannot be opened. A broken one is moved aside instead: ``restored`` says so.
    """

    def __init__(self, path: Path, keep_versions: int, keep_bytes: int) -> None:
        _check_bounds(keep_versions, keep_bytes)
        self._keep_bytes = keep_bytes
        self._database = Database(path)
        self._blobs = Blobs(self._database)
        self._listings = Listings(self._blobs, self._database)
        self._pruning = Pruning(self._database, self._blobs, keep_versions, keep_bytes)
        self._recordings: dict[tuple[str, int], _Recording] = {}

    def set_bounds(self, keep_versions: int, keep_bytes: int) -> None:
        """New bounds, from the next version and the next pruning on."""
        _check_bounds(keep_versions, keep_bytes)
        self._keep_bytes = keep_bytes
        self._pruning.set_bounds(keep_versions, keep_bytes)

    @property
    def restored(self) -> Restored | None:
        """Set when the database was broken at start."""
        return self._database.restored

    @property
    def stored_bytes(self) -> int:
        """What all versions together take, as stored."""
        return self._blobs.stored_bytes

    def close(self) -> None:
        self._database.close()

    def open_version(
        self,
        tree: str,
        *,
        epoch: int,
        root: bytes,
        files: int,
        bytes: int,
        added: int,
        changed: int,
        removed: int,
        cause: Cause,
        at_s: float,
        of: int = 0,
        floor: int = 0,
    ) -> int:
        """Give a new version of ``tree`` its number, durably. ``floor`` is the highest number that anyone reported.

        Raises:
            ZClusterError: it could not be written: there is no version, and nothing may be published.
        """
        with self._database.write(f"opening a version of {tree!r}", durable=True) as connection:
            row = connection.execute("SELECT number FROM counters WHERE tree = ?", (tree,)).fetchone()
            number = max(row[0] if row else 0, floor) + 1
            if number > MAX_NUMBER:
                raise UsageError(f"the versions of {tree!r} have used up all numbers", hint="give the tree another name")
            reason = self._too_large(tree, files, bytes)
            connection.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (tree, number))
            values = (tree, number, epoch, root, at_s, cause, of, files, bytes, added, changed, removed)
            connection.execute(
                "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, 0, 0, 0, NULL)",
                (*values, reason or RECORDING, not reason),
            )
        return number

    def record_listings(self, tree: str, number: int, delta: Mapping[str, bytes | None]) -> bool:
        """Record the listings that are new in this version (None: that directory is gone).

        Returns:
            Whether its manifest is whole now. It is not when the version before was not recorded: give all listings then.

        Raises:
            ZClusterError: they could not be written.
        """
        version = self.version(tree, number)
        here, stored = self._listings.add(delta)
        whole = version.root in here or self._listings.has(version.root)
        self._set(tree, number, "listed = ?, stored = stored + ?", whole, stored)
        return whole

    def missing_blobs(self, tree: str, number: int, changed: Iterable[Item] | None) -> Iterator[Item]:
        """The files of the version whose content is not here yet, each content once a batch.

        ``changed`` are the files that are new or changed since the version before; they are enough when what that one lacks
        is known. Else, and with None, every file of the manifest is looked at. What must not be kept is remembered as lacking.
        """
        version = self.version(tree, number)
        # Not when the first file is asked for: add_blobs begins before that, and notes in it what is lacking.
        recording = self._recordings[tree, number] = _Recording()
        return self._missing(version, recording, changed) if version.wanted else iter(())

    def _missing(self, version: Version, recording: _Recording, changed: Iterable[Item] | None) -> Iterator[Item]:
        tree, number = version.tree, version.number
        before = self._lacking_before(tree, number) if changed is not None else None
        if changed is None or before is None:
            items = self._all_files(version.root) if version.listed else iter(())
        else:
            items = self._with_lacking(version.root, changed, before)
        while batch := list(islice(items, BATCH_BLOBS)):
            by_digest = {item[1].digest: item for item in batch if item[1].kind == FILE}
            for digest in self._blobs.claim(list(by_digest)):
                del by_digest[digest]
            for path, entry in by_digest.values():
                if entry.size * FILE_SHARE > self._keep_bytes or entry.size > MAX_BLOB_BYTES:
                    share = f"{path} has {entry.size} bytes, more than a quarter of {BYTES_SETTING} ({self._keep_bytes})"
                    recording.lack(path, entry, share)
                else:
                    yield path, entry

    def add_blobs(self, tree: str, number: int, items: Iterable[tuple[str, Entry, Iterable[bytes]]]) -> int:
        """Add contents (in chunks of any size); returns how many are here now. One that is not what its entry says, or
        whose chunks raise OSError, is skipped and remembered as lacking.

        Raises:
            ZClusterError: they could not be written (disk full); the version stays not kept.
        """
        recording = self._recordings.setdefault((tree, number), _Recording(overflow=True, why=RECORDING))
        adding = Adding(self._blobs, self._database)
        good = 0
        try:
            for path, entry, chunks in items:
                try:
                    why = adding.add(entry.digest, entry.size, chunks)
                except OSError as error:
                    why = f"it could not be read: {error.strerror or error}"
                if why:
                    recording.lack(path, entry, f"{path}: {why}")
                good += not why
            adding.flush()
        except ZClusterError as error:
            recording.overflow, recording.why = True, error.message
            raise
        self._set(tree, number, "stored = stored + ?", adding.stored_bytes)
        return good

    def finish(self, tree: str, number: int) -> Version:
        """End the recording of a version, durably: it is kept when its manifest is here and it lacks nothing."""
        recording = self._recordings.pop((tree, number), None)
        version = self.version(tree, number)
        if recording is not None and version.wanted:
            kept = version.listed and not recording.lacking and not recording.overflow
            why = recording.why if version.listed else "its manifest was not recorded"
            lacking = [(path, entry, reason) for path, (entry, reason) in recording.lacking.items()]
            known = None if recording.overflow or not version.listed else msgspec.msgpack.encode(lacking)
            what = "finished = 1, kept = ?, reason = ?, lacking = ?"
            self._set(tree, number, what, kept, "" if kept else why, known, durable=True)
        self._database.checkpoint()
        return self.version(tree, number)

    def content(self, digest: bytes) -> Iterator[bytes]:
        """The content of ``digest`` in parts of at most 1 MiB.

        Raises:
            ZClusterError: it is not here.
        """
        return self._blobs.content(digest)

    def versions(self, tree: str, *, before: int = 0, limit: int = 100) -> list[Version]:
        """At most ``limit`` versions, the newest first; with ``before`` only those with smaller numbers."""
        sql = f"SELECT {VERSION_COLUMNS} FROM versions WHERE tree = ? AND number < ? ORDER BY number DESC LIMIT ?"
        return [version_of(tree, row) for row in self._database.rows(sql, (tree, before or MAX_NUMBER + 1, limit))]

    def newest(self, tree: str) -> Version | None:
        """The newest version, or None. ``listed`` is False when the process ended before its manifest was recorded."""
        return next(iter(self.versions(tree, limit=1)), None)

    def version(self, tree: str, number: int) -> Version:
        """One version.

        Raises:
            NoSuchVersion: there is none of this number (any more).
        """
        sql = f"SELECT {VERSION_COLUMNS} FROM versions WHERE tree = ? AND number = ?"
        rows = self._database.rows(sql, (tree, number))
        if not rows:
            hint = f"zcluster sync history --tree {tree} lists those that are kept"
            raise NoSuchVersion(f"the tree {tree!r} has no version {number}", hint=hint)
        return version_of(tree, rows[0])

    def to_roll_back(self, tree: str, number: int) -> Version:
        """The version, when it can be rolled back to.

        Raises:
            NoSuchVersion: it is not there.
            UsageError: its content was not kept; the hint says what to change.
        """
        version = self.version(tree, number)
        if not version.kept:
            hint = f"raise {BYTES_SETTING}" if BYTES_SETTING in version.reason else "choose a version that is kept"
            raise UsageError(f"version {number} of {tree!r} cannot be rolled back to: {version.reason}", hint=hint)
        return version

    def manifest(self, tree: str, number: int) -> dict[str, bytes]:
        """All listings of a version, by directory.

        Raises:
            UsageError: there is no such version, or its listings were not recorded.
        """
        return {path: listing for path, listing, _ in self._listings.walk(self._listed(tree, number).root)}

    def changes(self, tree: str, number: int, *, after: str = "", limit: int = 10_000) -> list[Change]:
        """What the version changed, against the one before it that is here; the first has everything new. In the order of a
        walk, at most ``limit``, beginning behind the path ``after``. A directory that both have is there only for its mode.

        Raises:
            UsageError: there is no such version, or its listings were not recorded.
        """
        version = self._listed(tree, number)
        sql = "SELECT root FROM versions WHERE tree = ? AND number < ? AND listed ORDER BY number DESC LIMIT 1"
        rows = self._database.rows(sql, (tree, number))
        found = self._listings.compare(rows[0][0] if rows else None, version.root)
        if after:
            key = _walk_key(after)
            found = (change for change in found if _walk_key(change.path) > key)
        return list(islice(found, limit))

    def since(self, tree: str, number: int, *, limit: int = 10_000) -> list[Change] | None:
        """What the newest version changed since ``number``; None when that is not known, or more than ``limit``."""
        newest = self.newest(tree)
        rows = self._database.rows("SELECT root FROM versions WHERE tree = ? AND number = ? AND listed", (tree, number))
        if newest is None or not newest.listed or not rows:
            return None
        found = list(islice(self._listings.compare(rows[0][0], newest.root), limit + 1))
        return found if len(found) <= limit else None

    def prune(self, max_rows: int = 2000) -> bool:
        """Do a slice of what is due: drop versions beyond the bounds, find and remove what none refers to.

        Args:
            max_rows: about how many rows it may look at (one directory is a whole).

        Returns:
            Whether there is more to do.

        Raises:
            ZClusterError: it could not be written; the next call begins anew.
        """
        return self._pruning.step(max_rows)

    def forget(self, tree: str) -> None:
        """Drop all versions of a tree that is not declared any more; its numbers are never used again."""
        self._pruning.forget(tree)

    def trees(self) -> list[str]:
        """The trees that have versions."""
        return [tree for (tree,) in self._database.rows("SELECT DISTINCT tree FROM versions ORDER BY tree")]

    def _too_large(self, tree: str, files: int, content_bytes: int) -> str:
        """Why the content of such a version is not to be recorded, or empty."""
        others = self._database.rows(
            "SELECT coalesce(sum(bytes + files * ?), 0) FROM versions AS v WHERE tree != ? AND wanted AND number ="
            " (SELECT max(number) FROM versions WHERE tree = v.tree)",
            (FILE_BYTES, tree),
        )[0][0]
        if content_bytes + files * FILE_BYTES + others <= self._keep_bytes:
            return ""
        beside = f" beside the {others} bytes of other trees" if others else ""
        return f"{files} files of {content_bytes} bytes are larger than {BYTES_SETTING} ({self._keep_bytes}){beside}"

    def _listed(self, tree: str, number: int) -> Version:
        version = self.version(tree, number)
        if not version.listed:
            raise UsageError(f"the manifest of version {number} of {tree!r} was not recorded", hint="choose another version")
        return version

    def _set(self, tree: str, number: int, what: str, *values: Any, durable: bool = False) -> None:
        with self._database.write(f"recording version {number} of {tree!r}", durable=durable) as connection:
            connection.execute(f"UPDATE versions SET {what} WHERE tree = ? AND number = ?", (*values, tree, number))

    def _lacking_before(self, tree: str, number: int) -> list[tuple[str, Entry, str]] | None:
        """What the version before lacks, or None when that is not known."""
        sql = "SELECT lacking FROM versions WHERE tree = ? AND number < ? ORDER BY number DESC LIMIT 1"
        rows = self._database.rows(sql, (tree, number))
        return _LACKING.decode(rows[0][0]) if rows and rows[0][0] is not None else None

    def _with_lacking(self, root: bytes, changed: Iterable[Item], before: list[tuple[str, Entry, str]]) -> Iterator[Item]:
        yield from changed
        for path, entry, _ in before:
            if self._listings.find(root, path) == entry:
                yield path, entry

    def _all_files(self, root: bytes) -> Iterator[Item]:
        for path, _, entries in self._listings.walk(root):
            for entry in entries:
                if entry.kind == FILE:
                    yield join(path, entry.name), entry


def _check_bounds(keep_versions: int, keep_bytes: int) -> None:
    if keep_versions < 1 or keep_bytes < 0:
        raise UsageError("a history keeps at least one version, and not less than 0 bytes")


def _walk_key(path: str) -> list[bytes]:
    return [name.encode() for name in path.split("/")]
