"""The history's database file: its schema, its one connection, its transactions, and what happens when it is broken.

Rules kept here:
- one process, one connection: SQLite's exclusive locking mode refuses a second process, and nothing else in this process
  opens the file (closing it again would drop the POSIX locks of the first: https://www.sqlite.org/howtocorrupt.html 2.2);
- a transaction that must outlive a power cut (``durable``) is synced before `Database.write` ends; the others are written in
  order before the next durable one, so what a durable one builds on is on the disk too
  (https://www.sqlite.org/pragma.html#pragma_synchronous: FULL and NORMAL in WAL mode);
- any thread may call; a lock makes their statements and transactions take turns;
- a file that SQLite cannot read is moved aside, never deleted, and what can be saved of its counters is.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zcluster.errors import Busy, ZClusterError

FORMAT = 1
PAGE_BYTES = 16_384
"""Large enough that a file of 4 KiB lies in one page with three others, not in two pages of its own."""
CACHE_KIB = 8192
WAL_PAGES = 2048
"""32 MiB of log, then it is copied into the database."""
CHECKED_BYTES = 64 * 1024 * 1024
"""A database up to this size is checked whole at each start (about 0.1 s); a larger one in its tables but for the contents."""
RESERVE_BYTES = 4 * 1024 * 1024
"""Kept allocated beside the database: on a full disk even deleting needs room in the log."""
LOCK_WAIT_S = 2.0

_SCHEMA = """
CREATE TABLE counters (tree TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE versions (
    tree TEXT NOT NULL, number INTEGER NOT NULL, epoch INTEGER NOT NULL, root BLOB NOT NULL, at_s REAL NOT NULL,
    cause TEXT NOT NULL, of INTEGER NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL,
    added INTEGER NOT NULL, changed INTEGER NOT NULL, removed INTEGER NOT NULL,
    kept INTEGER NOT NULL, reason TEXT NOT NULL, wanted INTEGER NOT NULL, listed INTEGER NOT NULL,
    finished INTEGER NOT NULL,    stored INTEGER NOT NULL, lacking BLOB, PRIMARY KEY (tree, number)) WITHOUT ROWID;
CREATE TABLE blobs (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, stored INTEGER NOT NULL,
    parts INTEGER NOT NULL);
CREATE TABLE parts (id INTEGER PRIMARY KEY, encoding INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE partial (id INTEGER PRIMARY KEY);
"""

_FULL = sqlite3.SQLITE_FULL
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_PRIMARY_CODE = 0xFF
"""The low byte of an extended result code (https://www.sqlite.org/rescode.html)."""


@dataclass(frozen=True, slots=True)
class Restored:
    """The database was broken: it lies at ``moved_to`` now, for ``reason``; a new one goes on above ``counters``."""

    moved_to: Path
    reason: str
    counters: dict[str, int] = field(default_factory=dict)
    """The last number of each tree, as far as it could still be read."""


VERSION_COLUMNS = "number, epoch, root, at_s, cause, of, files, bytes, added, changed, removed, kept, reason, listed, wanted"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a tree. ``of`` is the version that a rollback went back to, else 0."""

    tree: str
    number: int
    epoch: int
    root: bytes
    at_s: float
    cause: str
    of: int
    files: int
    bytes: int
    added: int
    changed: int
    removed: int
    kept: bool
    """All of its content is here: it can be rolled back to."""
    reason: str
    """Why it is not kept."""
    listed: bool
    """Its manifest is here."""
    wanted: bool
    """Its content is to be recorded."""


def version_of(tree: str, row: Sequence[Any]) -> Version:
    """The version that a row of VERSION_COLUMNS says."""
    return Version(*(tree, *row[:11], bool(row[11]), row[12], bool(row[13]), bool(row[14])))


class Database:
    """The one connection to ``path``.

    Raises:
        Busy: another process has it open.
        ZClusterError: it cannot be opened or made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.restored: Restored | None = None
        self._reserve = path.with_name(path.name + ".reserve")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._connection = self._open()
        except OSError as error:
            raise ZClusterError(f"cannot open {path}: {error.strerror}", hint="check its directory and its owner") from None
        self.make_reserve()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query that has few."""
        with self.lock:
            try:
                return self._connection.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise failure(error, "reading the history", self.path) from None

    @contextmanager
    def write(self, what: str, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """A transaction for ``what`` (words for errors): all of it or nothing; it is synced when ``durable``.

        Raises:
            ZClusterError: it could not be written (nothing of it was), the disk is full for example.
        """
        with self.lock:
            try:
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise failure(error, what, self.path) from None
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def checkpoint(self) -> None:
        """Copy the log into the database, so that opening a version does not have to."""
        self.rows("PRAGMA wal_checkpoint(PASSIVE)")

    def give_back(self, pages: int) -> bool:
        """Give up to ``pages`` free pages back to the file system; returns whether there are more than a quarter free still."""
        free, all_pages = int(self.rows("PRAGMA freelist_count")[0][0]), int(self.rows("PRAGMA page_count")[0][0])
        if free * 4 <= all_pages:
            return False
        self.rows(f"PRAGMA incremental_vacuum({pages})")
        return True

    def make_reserve(self) -> None:
        """Allocate the reserve again if there is room; without room the disk is as good as full, and nothing is lost by it."""
        try:
            fd = os.open(self._reserve, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError:
            self.free_reserve()
        finally:
            os.close(fd)

    def free_reserve(self) -> bool:
        """Free the reserve, so that deleting has room; returns whether there was one."""
        try:
            self._reserve.unlink()
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        with self.lock:
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(self.path)
        except sqlite3.Error as error:
            if _code(error) not in _BROKEN:
                raise failure(error, "opening the history", self.path) from None
            self.restored = _move_aside(self.path, str(error))
        try:
            connection = _connect(self.path)
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO counters VALUES (?, ?)", sorted(self.restored.counters.items()))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise failure(error, "making a new history", self.path) from None
        return connection


def failure(error: sqlite3.Error, what: str, path: Path) -> ZClusterError:
    """What ``error``, met while doing ``what``, is to our callers."""
    code = _code(error)
    if code == _FULL:
        return ZClusterError(f"{what} failed: the disk is full", hint=f"free space on the disk of {path}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy(f"{what} failed: another process has {path} open", hint="stop the other process of this home")
    if code in _BROKEN:
        return ZClusterError(f"{what} failed: {path} is broken ({error})", hint="stop zcluster, move the file away, start again")
    return ZClusterError(f"{what} failed: {error}", hint=f"check the disk of {path}")


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & _PRIMARY_CODE


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that has the file for itself, its schema made or checked; closed again when anything is wrong."""
    # Made before SQLite opens it, for its mode: SQLite gives its log the same. Nobody holds a lock on it yet.
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_PAGES * PAGE_BYTES}")
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
    elif found != FORMAT:
        raise ZClusterError(
            f"{path} has the format {found}, this zcluster reads {FORMAT}", hint="use the zcluster that wrote it, or move it away"
        )
    else:
        _check(connection, path)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    for table in ("counters", "versions", "partial", "blobs"):
        for _ in connection.execute(f"SELECT * FROM {table}"):
            continue
    if path.stat().st_size <= CHECKED_BYTES:
        said = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        if said != "ok":
            broken = sqlite3.DatabaseError(said)
            broken.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise broken


def _move_aside(path: Path, reason: str) -> Restored:
    """Rename the broken database and its log; the copy of an earlier time is replaced, so that they do not pile up."""
    counters = _salvage(path)
    moved_to = path.with_name(path.name + ".broken")
    for suffix in ("", "-wal", "-shm"):
        target = moved_to.with_name(moved_to.name + suffix)
        target.unlink(missing_ok=True)
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(target)
    return Restored(moved_to, reason, counters)


def _salvage(path: Path) -> dict[str, int]:
    """The counters that can still be read: numbers go on above them."""
    found: dict[str, int] = {}
    connection = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None)
    try:
        for tree, number in connection.execute("SELECT tree, number FROM counters"):
            if isinstance(tree, str) and isinstance(number, int):
                found[tree] = number
    except sqlite3.Error:
        # What was read before the broken page is all there is; the floor that callers give covers the rest.
        return found
    finally:
        connection.close()
    return found
