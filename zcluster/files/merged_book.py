"""Who brought which file of a merged tree, and what exactly was put in its place: a SQLite file in zcluster's directory there.

Rules kept here:
- what is about to be put in a place is written here first, durably: a file in a place is ours when it is what the book says
  was put there or is about to be; anything else is not from a worker, and never touched;
- a file that is being removed stays in the book until it is gone;
- one process, one connection (zcluster.files.treedir's lock sees to the process);
- a book that is broken is begun anew: hard links are known again by their inodes, only copies are not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zcluster.core.sync.ownership import Conflict, Merge
from zcluster.files.history_schema import failure

Identity = tuple[int, int, int]
"""Inode, mtime_ns, size."""

_WAITING, _OWNER, _REMOVING = 0, 1, 2
_FORMAT = 1
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE claims (path TEXT NOT NULL, worker TEXT NOT NULL, seq INTEGER NOT NULL, state INTEGER NOT NULL,
    ino INTEGER, mtime_ns INTEGER, size INTEGER, next_ino INTEGER, next_mtime_ns INTEGER, next_size INTEGER,
    PRIMARY KEY (path, worker)) WITHOUT ROWID;
CREATE INDEX claims_of_worker ON claims (worker, path);
PRAGMA user_version = {_FORMAT};
COMMIT;
"""


class Claims:
    """The book of a merged tree in the file ``path``: an ownership.Book that lasts.

    Raises:
        ZClusterError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begun_anew = False
        try:
            self._connection = _opened(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise failure(error, "opening the book of a merged tree", path) from None
            self.begun_anew = True
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._connection = _opened(path)
        self._seq: int = self._rows("SELECT coalesce(max(seq), 0) FROM claims")[0][0]

    def close(self) -> None:
        self._connection.close()

    def owner(self, path: str) -> str:
        return next((row[0] for row in self._rows("SELECT worker FROM claims WHERE path = ? AND state = ?", path, _OWNER)), "")

    def waiting(self, path: str) -> Sequence[str]:
        return [
            row[0] for row in self._rows("SELECT worker FROM claims WHERE path = ? AND state = ? ORDER BY seq", path, _WAITING)
        ]

    def owned_beneath(self, path: str) -> Iterable[str]:
        return self._beneath(path, _OWNER)

    def waiting_beneath(self, path: str) -> Iterable[str]:
        return list(dict.fromkeys(self._beneath(path, _WAITING)))

    def claims(self, worker: str) -> Iterator[tuple[str, bool]]:
        """The paths of ``worker``, and whether it owns them; the book may be changed meanwhile."""
        after = ""
        while rows := self._rows(
            "SELECT path, state FROM claims WHERE worker = ? AND path > ? AND state < ? ORDER BY path LIMIT 1000",
            worker, after, _REMOVING,
        ):  # fmt: skip
            yield from ((path, state == _OWNER) for path, state in rows)
            after = rows[-1][0]

    def removing(self) -> list[tuple[str, str]]:
        """(path, worker) of files whose removal has begun."""
        return self._rows("SELECT path, worker FROM claims WHERE state = ? ORDER BY path", _REMOVING)

    def identities(self, path: str, worker: str = "") -> list[Identity]:
        """What was put there for this worker (for any), and what was about to be."""
        found = []
        sql = "SELECT ino, mtime_ns, size, next_ino, next_mtime_ns, next_size FROM claims WHERE path = ? AND ? IN (worker, '')"
        for row in self._rows(sql, path, worker):
            found += [part for part in (row[:3], row[3:]) if part[0] is not None]
        return found

    def settled(self, path: str, worker: str) -> Identity | None:
        """What was put there for this worker, None while something else is about to be."""
        sql = "SELECT ino, mtime_ns, size FROM claims WHERE path = ? AND worker = ? AND ino IS NOT NULL AND next_ino IS NULL"
        return next(iter(self._rows(sql, path, worker)), None)

    def take(self, worker: str, merge: Merge) -> None:
        """Write down, durably, what a merge of ``worker`` decided."""
        with self._write("FULL") as connection:
            for path, waiting in merge.waiting.items():
                for gone in set(self.waiting(path)) - set(waiting):
                    if merge.owners.get(path) != gone:
                        connection.execute("DELETE FROM claims WHERE path = ? AND worker = ?", (path, gone))
            for path, owner in merge.owners.items():
                connection.execute(
                    "UPDATE claims SET state = ? WHERE path = ? AND state = ? AND worker != ?", (_REMOVING, path, _OWNER, owner)
                )
            claims = [(path, one, _WAITING) for path, waiting in merge.waiting.items() for one in waiting]
            claims += [(path, owner, _OWNER) for path, owner in merge.owners.items() if owner]
            for path, one, state in claims:
                self._seq += 1
                # Who waited keeps its place in the order; who removed the file and has it again comes last.
                connection.execute(
                    "INSERT INTO claims (path, worker, seq, state) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                    " seq = CASE claims.state WHEN 2 THEN excluded.seq ELSE claims.seq END, state = excluded.state",
                    (path, one, self._seq, state),
                )

    def intend(self, placed: Iterable[tuple[str, str, Identity]]) -> None:
        """Write down, durably, what is about to be put in its place."""
        self._set("next_ino = ?, next_mtime_ns = ?, next_size = ?", placed, "FULL")

    def done(self, placed: Iterable[tuple[str, str, Identity]]) -> None:
        """Write down what was put in its place."""
        self._set("ino = ?, mtime_ns = ?, size = ?, next_ino = NULL, next_mtime_ns = NULL, next_size = NULL", placed, "NORMAL")

    def disown(self, paths: Iterable[tuple[str, str]]) -> None:
        """Write down that what lies in these places is not from a worker."""
        sql = "UPDATE claims SET ino = NULL, next_ino = NULL WHERE path = ? AND worker = ?"
        with self._write("NORMAL") as connection:
            connection.executemany(sql, paths)

    def removed(self, paths: Iterable[tuple[str, str]]) -> None:
        """Write down that these files are gone."""
        with self._write("NORMAL") as connection:
            connection.executemany("DELETE FROM claims WHERE path = ? AND worker = ? AND state = 2", paths)

    def conflicts(self, limit: int) -> list[Conflict]:
        """At most ``limit`` conflicts that there are now, by path. Of those where a file excludes a directory, ``owner`` and
        ``at`` are those of the first path that excludes it."""
        rows = self._rows(
            "SELECT path, worker, state FROM claims WHERE state = 0 OR (state = 1 AND ino IS NULL) ORDER BY path, seq LIMIT ?",
            limit,
        )
        return [
            Conflict(path, worker, *(self._in_the_way(path) if state == _WAITING else ("", path))) for path, worker, state in rows
        ]

    def conflict_counts(self) -> dict[str, int]:
        """How many conflicts each worker has, of those that have any."""
        rows = self._rows("SELECT worker, count(*) FROM claims WHERE state = 0 OR (state = 1 AND ino IS NULL) GROUP BY worker")
        return dict(rows)

    def _in_the_way(self, path: str) -> tuple[str, str]:
        above = path
        while above:
            if owner := self.owner(above):
                return owner, above
            above = above.rpartition("/")[0]
        beneath = next(iter(self.owned_beneath(path)), path)
        return self.owner(beneath), beneath

    def _beneath(self, path: str, state: int) -> Iterator[str]:
        after = f"{path}/"
        sql = "SELECT path FROM claims WHERE path > ? AND path < ? AND state = ? ORDER BY path LIMIT 100"
        while rows := self._rows(sql, after, f"{path}0", state):
            yield from (row[0] for row in rows)
            after = rows[-1][0]

    def _rows(self, sql: str, *values: object) -> list[Any]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise failure(error, "reading the book of a merged tree", self.path) from None

    def _set(self, what: str, placed: Iterable[tuple[str, str, Identity]], synchronous: str) -> None:
        values = [(*identity, path, worker) for path, worker, identity in placed]
        if values:
            with self._write(synchronous) as connection:
                connection.executemany(f"UPDATE claims SET {what} WHERE path = ? AND worker = ?", values)

    @contextmanager
    def _write(self, synchronous: str) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise failure(error, "writing the book of a merged tree", self.path) from None
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            connection.executescript(_SCHEMA)
        elif connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("the book does not hold together")
    except BaseException:
        connection.close()
        raise
    return connection
