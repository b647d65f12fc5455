"""The store's database file: who may open it, its schema, its connections, and what its errors are to callers.

Rules kept here:
- one process at a time has the store (flock on a file beside it, which ends with its process, however that ends);
- the file is opened by SQLite only: another open and close in this process would drop SQLite's locks
  (https://www.sqlite.org/howtocorrupt.html, 2.2);
- a file that is broken, emptied or lost is an error that names it, its log too; a store is begun anew only where there was none.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from zcluster.errors import Busy, StoreFailed, ZClusterError
from zcluster.store.reserve import Reserve
from zcluster.store.sqlite_log import damaged_log

FORMAT = 1
WRITER_CACHE_KIB = 16_384
READER_CACHE_KIB = 8192
WAL_PAGES = 4096
"""16 MiB of log, then it is copied into the database."""
PAGE_BYTES = 4096
CHECKED_BYTES = 32 * 1024 * 1024
"""A database up to this size is checked whole when it is opened (some 50 ms); a larger one where it is read."""
LOCK_WAIT_S = 2.0

_SCHEMA = """
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 0), id TEXT NOT NULL, revision INTEGER NOT NULL, forgotten INTEGER NOT NULL,
    kept INTEGER NOT NULL, kept_bytes INTEGER NOT NULL, lease_ids INTEGER NOT NULL);
CREATE TABLE entries (
    key TEXT PRIMARY KEY, revision INTEGER NOT NULL, created INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL,
    slot INTEGER, digest BLOB, value BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX entries_slot ON entries (slot) WHERE slot IS NOT NULL;
CREATE INDEX entries_lease ON entries (lease) WHERE lease != 0;
CREATE TABLE commits (
    revision INTEGER PRIMARY KEY, changes INTEGER NOT NULL, bytes INTEGER NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL,
    body BLOB NOT NULL);
CREATE TABLE leases (id INTEGER PRIMARY KEY, ttl_s REAL NOT NULL);
CREATE TABLE prefixes (number INTEGER PRIMARY KEY, prefix TEXT NOT NULL UNIQUE);
CREATE TABLE digests (slot INTEGER PRIMARY KEY, digest BLOB NOT NULL);
"""
REPAIR = (
    "stop the node, move {name} and the files {stem}.* beside it away (keep them), start again: what other nodes know comes back "
    "from them; or put a copy back"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a database holds."""

    what: str
    format: int
    schema: str
    first: str
    """Writes the one row of ``state``; its parameter is the id."""
    writer_cache_kib: int = WRITER_CACHE_KIB
    repair: str = REPAIR
    """The hint of an error that says the file is broken; {name} and {stem} are the file's."""


STORE = Layout("store", FORMAT, _SCHEMA, "INSERT INTO state VALUES (0, ?, 0, 0, 0, 0, 0)")

_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_PRIMARY_CODE = 0xFF
"""The low byte of an extended result code (https://www.sqlite.org/rescode.html)."""


class StoreFile:
    """The files of the store at ``path``, locked for this process: the database, its lock and its reserve.

    Raises:
        Busy: another process has it open, or this one.
        StoreFailed: it cannot be opened, read or made.
    """

    def __init__(self, path: Path, layout: Layout = STORE) -> None:
        self.path = path
        self._layout = layout
        self.reserve = Reserve(path)
        self._lock = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _locked(path)
            self._open()
        except OSError as error:
            self.close()
            raise StoreFailed(f"cannot open {path}: {error.strerror}", hint="check its directory, owner and disk") from None
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        _check_files(self.path, self.reserve.path, self._layout.what)
        _check_log(self.path)
        try:
            self._connect()
        except sqlite3.Error as error:
            raise failure(error, f"opening the {self._layout.what}", self.path, self._layout.repair) from None
        self.reserve.make()

    def _connect(self) -> None:
        try:
            self.writer = _connected(self.path, self._layout, writing=True)
        except sqlite3.Error as error:
            # With the disk full not even the log's index can be made. A second try has the reserve's room.
            if primary_code(error) in _BROKEN or not self.reserve.path.exists():
                raise
            self.reserve.free()
            self.writer = _connected(self.path, self._layout, writing=True)
        self.reader = self.connect_reader()

    def connect_reader(self) -> sqlite3.Connection:
        """One more connection that only reads; to be closed before this."""
        return _connected(self.path, self._layout, writing=False)

    def close(self) -> None:
        """Close what is open; the writer last, since the last to close copies the log into the database."""
        for name in ("reader", "writer"):
            connection = getattr(self, name, None)
            if connection is not None:
                connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def failure(error: sqlite3.Error, what: str, path: Path, repair: str = REPAIR) -> ZClusterError:
    """What ``error``, met while doing ``what``, is to our callers."""
    code = primary_code(error)
    if is_full(error):
        return StoreFailed(f"{what} failed: the disk is full; nothing was changed", hint=f"free space on the disk of {path}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy(f"{what} failed: another program has {path} open", hint="close the other program, and try again")
    if code in _BROKEN:
        return StoreFailed(
            f"{what} failed: {path} is broken ({error})",
            hint=repair.format(name=path.name, stem=path.stem),
        )
    return StoreFailed(f"{what} failed: {error} ({path}); nothing was changed", hint="check the disk and the system's log")


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk is full; SQLite says so in its own way when it is the log's index that finds no room."""
    return primary_code(error) == sqlite3.SQLITE_FULL or _code(error) == sqlite3.SQLITE_IOERR_SHMSIZE


def primary_code(error: sqlite3.Error) -> int:
    """The SQLite result code."""
    return _code(error) & _PRIMARY_CODE


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR))


def _locked(path: Path) -> int:
    place = path.with_suffix(".lock")
    fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
    except BlockingIOError:
        holder = os.read(fd, 32).decode("ascii", "replace").strip()
        os.close(fd)
        raise Busy(f"{path} is in use by process {holder or '?'}", hint="stop it first: a store has one process") from None
    except OSError:
        os.close(fd)
        raise
    return fd


def _check_files(path: Path, reserve: Path, what: str) -> None:
    """Refuse to begin anew where a store was, and make the file where there was none."""
    size = path.stat().st_size if path.exists() else 0
    if size:
        return
    log = log_of(path)
    left = [place for place in (log, reserve) if place.exists() and place.stat().st_size]
    files = path.with_suffix(".files")  # of a queue (jobfiles.py)
    if files.is_dir() and any(files.iterdir()):
        left.append(files)
    if left:
        raise StoreFailed(
            f"{path} is {'empty' if path.exists() else 'missing'}, but {left[0].name} beside it shows that there was a {what}",
            hint=f"put {path.name} back, or move the files {path.stem}.* beside it away to begin anew",
        )
    # Made before SQLite opens it, for its mode: SQLite gives its log the same. Nobody holds a lock on it yet.
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _check_log(path: Path) -> None:
    """Refuse a log of which SQLite would leave out commits without a word."""
    log = log_of(path)
    if damaged_log(log):
        raise StoreFailed(
            f"opening {path.name} failed: {log} is broken, and what was committed after the damage would be left out",
            hint="put copies of both back; or give up what is behind the damage: "
            f"sqlite3 {path.name} 'PRAGMA wal_checkpoint(TRUNCATE)'",
        )


def log_of(path: Path) -> Path:
    """SQLite's log of the database at ``path``."""
    return path.with_name(path.name + "-wal")


def _connected(path: Path, layout: Layout, *, writing: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        if writing:
            _prepare(connection, path, layout)
        else:
            connection.execute("PRAGMA query_only = ON")
            connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
            connection.execute("SELECT * FROM state").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, layout: Layout) -> None:
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{layout.writer_cache_kib}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {4 * WAL_PAGES * PAGE_BYTES}")
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found == 0:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StoreFailed(f"{path} is a database, but not of a {layout.what}", hint="move it away, or give another path")
        connection.executescript(f"BEGIN IMMEDIATE; {layout.schema} PRAGMA user_version = {layout.format};")
        connection.execute(layout.first, (secrets.token_hex(16),))
        connection.execute("COMMIT")
    elif found != layout.format:
        raise StoreFailed(
            f"{path} has the format {found}, this zcluster reads {layout.format}",
            hint="use the zcluster that wrote it, or move it away",
        )
    elif path.stat().st_size <= CHECKED_BYTES:
        said = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        if said != "ok":
            broken = sqlite3.DatabaseError(said)
            broken.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise broken
