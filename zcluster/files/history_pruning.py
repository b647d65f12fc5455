"""Pruning of the history: which versions go, and what goes with them, in slices.

Rules kept here:
- the newest version of a tree never goes, nor the listings of any version that stays;
- a version's row goes first, in a transaction of its own; then what no version refers to is found (mark) and removed (sweep).
  A process that ends in between leaves garbage, which the first pruning of the next one finds;
- marks are bits by id (a million blobs: 125 KB); of the tree only one path's listings are in memory;
- what is recorded between two slices is marked as it comes (zcluster.files.blobs): the sweep never takes it;
- marking costs a look at every listing, so it waits until there is a quarter of garbage, or too much stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from zcluster.core.sync.entry import DIRECTORY, FILE, Entry, decode_listing
from zcluster.errors import ZClusterError
from zcluster.files.blobs import ASKED_DIGESTS, Blobs, Marks
from zcluster.files.history_schema import Database

GARBAGE_SHARE = 4
"""A quarter of what is stored."""
ROOM_SHARE = 8
"""When there is too much, versions go until an eighth is free, so that not each new version begins a pruning."""
VACUUM_PAGES = 256

_KEPT_ROOTS = """
SELECT root FROM versions AS v WHERE listed AND (kept OR wanted AND (NOT finished OR number >=
    (SELECT max(number) FROM versions WHERE tree = v.tree AND listed))) ORDER BY tree, number
"""
_ALL_ROOTS = "SELECT root FROM versions WHERE listed ORDER BY tree, number"
_OLDEST = """
SELECT tree, number, stored FROM versions AS v
WHERE number < (SELECT max(number) FROM versions WHERE tree = v.tree AND listed) ORDER BY at_s, tree, number LIMIT ?
"""


class Phase(Enum):
    IDLE = "idle"
    MARKING = "marking"
    SWEEPING = "sweeping"
    GIVING_BACK = "giving back"


class Pruning:
    """The pruning of ``database``, one `step` after the other."""

    def __init__(self, database: Database, blobs: Blobs, keep_versions: int, keep_bytes: int) -> None:
        self._database = database
        self._blobs = blobs
        self._keep_versions = keep_versions
        self._keep_bytes = keep_bytes
        self._phase = Phase.IDLE
        self._walked = {True: Marks(0), False: Marks(0)}
        """Listings that were walked for their files' contents too (True), or only for directories (False)."""
        self._stack: list[tuple[bytes, bool]] = []
        self._swept_to = 0
        self._sweep_end = 0
        self._garbage_bytes = 0
        """Estimate: what the versions that went brought with them."""
        self._due = True
        """At the first time: what an ended process left is not known."""

    def set_bounds(self, keep_versions: int, keep_bytes: int) -> None:
        """New bounds, for what is dropped from now on."""
        self._keep_versions = keep_versions
        self._keep_bytes = keep_bytes

    def step(self, max_rows: int) -> bool:
        """A slice of about ``max_rows`` rows; returns whether there is more."""
        try:
            return self._step(max_rows)
        except ZClusterError:
            self._end()
            self._due = True
            if self._database.free_reserve():
                return True
            raise

    def forget(self, tree: str) -> None:
        """Drop all versions of ``tree``."""
        with self._database.write(f"forgetting the tree {tree!r}", durable=False) as connection:
            gone = connection.execute("DELETE FROM versions WHERE tree = ? RETURNING number", (tree,)).fetchall()
        self._due = self._due or bool(gone)

    def _step(self, max_rows: int) -> bool:
        if self._phase is Phase.IDLE:
            return self._begin(max_rows)
        if self._phase is Phase.MARKING:
            self._mark(max_rows)
        elif self._phase is Phase.SWEEPING:
            self._sweep(max_rows)
        elif not self._database.give_back(VACUUM_PAGES):
            self._phase = Phase.IDLE
            self._database.checkpoint()
            self._database.make_reserve()
            return self._begin(max_rows)
        return True

    def _begin(self, max_rows: int) -> bool:
        """Drop what is beyond the bounds; begin to mark when that is worth it."""
        dropped = self._drop_by_number(max_rows)
        stored = self._blobs.stored_bytes
        if stored - self._garbage_bytes > self._keep_bytes and not self._due:
            dropped += self._drop_by_bytes(max_rows)
        worth = self._garbage_bytes and (self._garbage_bytes * GARBAGE_SHARE >= stored or stored > self._keep_bytes)
        if not (self._due or worth):
            return dropped >= max_rows
        highest = self._blobs.next_id
        self._walked = {True: Marks(highest), False: Marks(highest)}
        self._blobs.used = Marks(highest)
        self._sweep_end, self._swept_to = highest, 0
        self._garbage_bytes, self._due = 0, False
        self._phase = Phase.MARKING
        return True

    def _drop_by_number(self, max_rows: int) -> int:
        rows = []
        for (tree,) in self._database.rows("SELECT DISTINCT tree FROM versions"):
            last = self._database.rows(
                "SELECT number FROM versions WHERE tree = ? ORDER BY number DESC LIMIT 1 OFFSET ?", (tree, self._keep_versions)
            )
            if last:
                sql = "SELECT tree, number, stored FROM versions WHERE tree = ? AND number <= ? ORDER BY number LIMIT ?"
                rows += self._database.rows(sql, (tree, last[0][0], max_rows))
        return self._drop(rows)

    def _drop_by_bytes(self, max_rows: int) -> int:
        """Drop the oldest versions until what they brought is enough."""
        wanted = self._blobs.stored_bytes - self._garbage_bytes - self._keep_bytes * (ROOM_SHARE - 1) // ROOM_SHARE
        chosen = []
        for row in self._database.rows(_OLDEST, (max_rows,)):
            chosen.append(row)
            wanted -= row[2]
            if wanted <= 0:
                break
        # They may have brought nothing and hold much all the same (what the newest has no more): look again then.
        self._due = bool(chosen)
        return self._drop(chosen)

    def _drop(self, rows: list[tuple[str, int, int]]) -> int:
        if rows:
            with self._database.write("pruning the history", durable=False) as connection:
                connection.executemany("DELETE FROM versions WHERE tree = ? AND number = ?", [row[:2] for row in rows])
            self._garbage_bytes += sum(row[2] for row in rows)
        return len(rows)

    def _mark(self, max_rows: int) -> None:
        """Walk listings until the slice is over; versions that came meanwhile are walked before the sweep begins."""
        with self._database.lock:
            if not self._stack and not self._refill():
                self._blobs.sweeping = True
                self._phase = Phase.SWEEPING
                return
            rows = 0
            while self._stack and rows < max_rows:
                digest, deep = self._stack.pop()
                rows += 1 + self._visit(digest, deep)

    def _refill(self) -> bool:
        """Put the next roots that were not walked yet on the stack: those with contents first; returns whether there are any."""
        for sql, deep in ((_KEPT_ROOTS, True), (_ALL_ROOTS, False)):
            roots = [root for (root,) in self._database.rows(sql)]
            ids = self._blobs.ids(roots)
            self._stack = [(root, deep) for root in dict.fromkeys(roots) if root in ids and not self._is_walked(ids[root], deep)]
            if self._stack:
                return True
        return False

    def _is_walked(self, number: int, deep: bool) -> bool:
        return number in self._walked[True] or (not deep and number in self._walked[False])

    def _visit(self, digest: bytes, deep: bool) -> int:
        """Mark one listing, what it names, and put its directories on the stack; returns how many entries it has."""
        number = self._blobs.ids([digest]).get(digest)
        if number is None or self._is_walked(number, deep):
            return 0
        self._walked[deep].add(number)
        self._blobs.mark([number])
        entries = decode_listing(self._blobs.loaded(digest))
        for asked in _runs(entries, deep):
            found = self._blobs.claim([entry.digest for entry in asked])
            for entry in asked:
                child = found.get(entry.digest)
                if entry.kind == DIRECTORY and child is not None and not self._is_walked(child, deep):
                    self._stack.append((entry.digest, deep))
        return len(entries)

    def _sweep(self, max_rows: int) -> None:
        """Remove what is not marked among the next ids."""
        used = self._blobs.used
        with self._database.lock:
            sql = "SELECT id FROM blobs WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
            ids = [number for (number,) in self._database.rows(sql, (self._swept_to, self._sweep_end, max_rows))]
            garbage = [number for number in ids if used is not None and number not in used]
            if garbage:
                self._blobs.remove(garbage)
            if len(ids) < max_rows:
                self._end()
                self._phase = Phase.GIVING_BACK
            else:
                self._swept_to = ids[-1]

    def _end(self) -> None:
        self._phase = Phase.IDLE
        self._stack = []
        self._blobs.used = None
        self._blobs.sweeping = False


def _runs(entries: list[Entry], deep: bool) -> Iterator[list[Entry]]:
    """The directories, and when ``deep`` the files, in runs for one query."""
    chosen = [entry for entry in entries if entry.kind == DIRECTORY or (deep and entry.kind == FILE)]
    for first in range(0, len(chosen), ASKED_DIGESTS):
        yield chosen[first : first + ASKED_DIGESTS]
