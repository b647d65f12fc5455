"""What is written to the store's database, by one thread: many calls in one transaction, each with a revision of its own.

Rules kept here:
- everything that waits is one transaction, and nothing is answered before it is on the disk (one fsync for all of them);
- calls are decided one after the other against the rows they concern, which are read once: a call whose expectation does not
  hold changes nothing, and the others with it go on;
- a transaction that finds the disk full is done again call by call: one that is too large fails alone. Then the reserve is
  freed, and until it can be made again only what deletes is done;
- revisions and digests here change when the transaction has been committed, not before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import orjson

from zcluster.errors import StoreFailed
from zcluster.store.digest import bucket_of, digest_bytes, entry_digest
from zcluster.store.interface import KEEP_CHANGES_BYTES, Delete, Expect, Lease, Put
from zcluster.store.memory import conflict
from zcluster.store.reserve import Reserve
from zcluster.store.sqlite_file import failure, is_full
from zcluster.wire.tables import BUCKETS

TRIM_COMMITS = 5000
"""Old commits that one transaction forgets at most by itself."""
FEW_KEYS = 8
"""Up to so many are read one by one."""

_READ = "SELECT revision, created, version, lease, digest FROM entries WHERE key = ?"
_READ_MANY = "SELECT key, revision, created, version, lease, digest FROM entries WHERE key IN (SELECT value FROM json_each(?))"
_READ_LEASED = "SELECT key, revision, created, version, lease, digest FROM entries WHERE lease = ? AND lease != 0"
_WRITE = (
    "INSERT INTO entries (key, revision, created, version, lease, slot, digest, value) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, created = excluded.created, version = excluded.version, "
    "lease = excluded.lease, digest = excluded.digest, value = excluded.value"
)

Row = tuple[int, int, int, int, bytes | None]
"""Of an entry: revision, created, version, lease, digest."""


@dataclass(frozen=True, slots=True)
class Apply:
    """A commit."""

    ops: Sequence[Put | Delete]
    expect: Sequence[Expect]


@dataclass(frozen=True, slots=True)
class Grant:
    """A new lease."""

    ttl_s: float


@dataclass(frozen=True, slots=True)
class End:
    """The end of a lease."""

    lease: int


@dataclass(frozen=True, slots=True)
class Compact:
    """Forgetting old changes."""

    keep: int


Call = Apply | Grant | End | Compact
Result = int | Lease | Exception


@dataclass(slots=True)
class State:
    """The one row of the table of this name, but for the id."""

    revision: int
    forgotten: int
    kept: int
    kept_bytes: int
    lease_ids: int


@dataclass(slots=True)
class Done:
    """What became of some calls: a result each, the revision, and the digests that changed."""

    results: list[Result] = field(default_factory=list)
    revision: int = 0
    slots: dict[int, bytes] = field(default_factory=dict)


class Writer:
    """Writes through the one writing connection. ``prefixes`` are those with digests and their numbers, ``digests`` those of
    all their buckets, by slot (number of the prefix x BUCKETS + bucket)."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        reserve: Reserve,
        prefixes: dict[str, int],
        digests: dict[int, int],
        keep_changes: int,
    ) -> None:
        self._connection = connection
        self._path = path
        self._reserve = reserve
        self._prefixes = list(prefixes.items())
        self._digests = digests
        self._keep_changes = keep_changes
        self._full = False
        read = "SELECT revision, forgotten, kept, kept_bytes, lease_ids FROM state"
        self._state = State(*connection.execute(read).fetchone())

    def run(self, calls: Sequence[Call]) -> Done:
        """Do ``calls``; a call that could not be done has an error as its result."""
        if self._full:
            self._full = not self._reserve.make()
        done = Done()
        if self._full:
            results: list[Result] = [self._alone(call, done) for call in calls]
        else:
            try:
                results = self._transaction(calls, done)
            except sqlite3.Error as error:
                if is_full(error):
                    results = [self._alone(call, done) for call in calls]
                else:
                    results = [failure(error, "writing to the store", self._path) for _ in calls]
        done.results, done.revision = results, self._state.revision
        return done

    def _alone(self, call: Call, done: Done) -> Result:
        """Do ``call`` in a transaction of its own, if there is room for what it does."""
        if self._full and not _deletes(call):
            return StoreFailed(
                "the disk is full: only deleting goes on; nothing was changed", hint=f"free space on the disk of {self._path}"
            )
        try:
            return self._transaction([call], done)[0]
        except sqlite3.Error as error:
            if not is_full(error) or not _deletes(call):
                self._give_up(error)
                return failure(error, "writing to the store", self._path)
        self._reserve.free()
        self._full = True
        try:
            return self._transaction([call], done, make_room=True)[0]
        except sqlite3.Error as error:
            return failure(error, "deleting from the store", self._path)

    def _give_up(self, error: sqlite3.Error) -> None:
        if is_full(error):
            self._reserve.free()
            self._full = True

    def _transaction(self, calls: Sequence[Call], done: Done, *, make_room: bool = False) -> list[Result]:
        """All of ``calls`` or, with sqlite3.Error, nothing. ``make_room``: old changes are forgotten first."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            turn = Turn(connection, self._state, self._prefixes, self._digests)
            if make_room:
                turn.forget(self._state.kept // 2)
            turn.load(calls)
            results = [turn.call(call) for call in calls]
            turn.flush()
            if not make_room and (
                turn.state.kept > self._keep_changes + self._keep_changes // 10 or turn.state.kept_bytes > KEEP_CHANGES_BYTES
            ):
                turn.forget(self._keep_changes, TRIM_COMMITS)
            turn.finish()
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        self._state = turn.state
        self._digests.update(turn.digests)
        done.slots.update((slot, digest_bytes(digest)) for slot, digest in turn.digests.items())
        return results


class Turn:
    """One transaction: the rows it concerns, and what is to be written."""

    def __init__(
        self, connection: sqlite3.Connection, state: State, prefixes: list[tuple[str, int]], digests: dict[int, int]
    ) -> None:
        self.state = State(state.revision, state.forgotten, state.kept, state.kept_bytes, state.lease_ids)
        self.digests: dict[int, int] = {}
        """The slots that changed."""
        self._connection = connection
        self._prefixes = prefixes
        self._digests_before = digests
        self._rows: dict[str, Row | None] = {}
        self._written: dict[str, tuple[int | None, bytes] | None] = {}
        """Slot and value of what was put, None for what was deleted."""
        self._leased: dict[int, set[str]] = {}
        """What was put under a lease in this turn."""
        self._commits: list[tuple[int, int, int, str, str, bytes]] = []

    def load(self, calls: Sequence[Call]) -> None:
        """Read the rows that ``calls`` concern, at once."""
        keys = {item.key for call in calls if type(call) is Apply for items in (call.ops, call.expect) for item in items}
        if len(keys) <= FEW_KEYS:
            for key in keys:
                self._rows[key] = self._connection.execute(_READ, (key,)).fetchone()
            return
        self._rows = dict.fromkeys(keys)
        for row in self._connection.execute(_READ_MANY, (orjson.dumps(list(keys)).decode(),)):
            self._rows[row[0]] = row[1:]

    def call(self, call: Call) -> Result:
        """Do ``call``; an error: it did nothing."""
        if type(call) is Apply:
            for expected in call.expect:
                row = self._rows[expected.key]
                found = row[0] if row else 0
                if found != expected.revision:
                    return conflict(expected, found)
            return self._commit(call.ops)
        if isinstance(call, Grant):
            self.state.lease_ids += 1
            self._connection.execute("INSERT INTO leases VALUES (?, ?)", (self.state.lease_ids, call.ttl_s))
            return Lease(self.state.lease_ids, call.ttl_s)
        if isinstance(call, End):
            self._connection.execute("DELETE FROM leases WHERE id = ?", (call.lease,))
            return self._commit([Delete(key) for key in self._keys_under(call.lease)])
        if isinstance(call, Compact):
            self.flush()
            self.forget(call.keep)
        return self.state.revision

    def _keys_under(self, lease: int) -> list[str]:
        for row in self._connection.execute(_READ_LEASED, (lease,)):
            self._rows.setdefault(row[0], row[1:])
            self._leased.setdefault(lease, set()).add(row[0])
        keys = self._leased.pop(lease, set())
        return [key for key in keys if (row := self._rows[key]) is not None and row[3] == lease]

    def _commit(self, ops: Sequence[Put | Delete]) -> int:
        revision = self.state.revision + 1
        last = {op.key: op for op in ops} if len(ops) > 1 else {op.key: op for op in ops[:1]}
        body: list[tuple[str, bytes | None]] = []
        size = 0
        for key in sorted(last):
            op = last[key]
            if type(op) is Put:
                self._put(op, revision)
                body.append((key, op.value))
                size += len(key) + len(op.value)
            elif self._delete(key):
                body.append((key, None))
                size += len(key)
        if not body:
            return self.state.revision
        self._commits.append((revision, len(body), size, body[0][0], body[-1][0], msgspec.msgpack.encode(body)))
        self.state.revision = revision
        self.state.kept += len(body)
        self.state.kept_bytes += size
        return revision

    def _put(self, op: Put, revision: int) -> None:
        key, row = op.key, self._rows[op.key]
        slot: int | None = None
        digest: bytes | None = None
        for prefix, number in self._prefixes:
            if key.startswith(prefix):
                slot = number * BUCKETS + bucket_of(key)
                counted = entry_digest(key, op.value)
                digest = digest_bytes(counted)
                self._count(slot, counted, row)
                break
        created, version = (row[1], row[2] + 1) if row else (revision, 1)
        self._rows[key] = (revision, created, version, op.lease, digest)
        self._written[key] = (slot, op.value)
        if op.lease:
            self._leased.setdefault(op.lease, set()).add(key)

    def _delete(self, key: str) -> bool:
        row = self._rows[key]
        if row is None:
            return False
        for prefix, number in self._prefixes:
            if key.startswith(prefix):
                self._count(number * BUCKETS + bucket_of(key), 0, row)
                break
        self._rows[key] = None
        self._written[key] = None
        return True

    def _count(self, slot: int, digest: int, before: Row | None) -> None:
        if before is not None and before[4] is not None:
            digest ^= int.from_bytes(before[4], "big")
        now = self.digests.get(slot)
        self.digests[slot] = (self._digests_before.get(slot, 0) if now is None else now) ^ digest

    def flush(self) -> None:
        """Write what the calls up to here have done."""
        if not self._commits:
            return
        execute_many = self._connection.executemany
        written, rows = sorted(self._written), self._rows
        execute_many("DELETE FROM entries WHERE key = ?", ((key,) for key in written if rows[key] is None))
        execute_many(_WRITE, self._to_write(written))
        execute_many("INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?)", self._commits)
        self._written, self._commits, self._leased = {}, [], {}

    def _to_write(self, keys: list[str]) -> Iterator[tuple[object, ...]]:
        for key in keys:
            row, written = self._rows[key], self._written[key]
            if row is not None and written is not None:
                yield (key, row[0], row[1], row[2], row[3], written[0], row[4], written[1])

    def forget(self, keep: int, most: int = -1) -> None:
        """Forget the oldest commits, ``most`` at most, as long as ``keep`` changes stay; and those beyond KEEP_CHANGES_BYTES."""
        state = self.state
        read = "SELECT revision, changes, bytes FROM commits ORDER BY revision LIMIT ?"
        for revision, changes, size in self._connection.execute(read, (most,)):
            if state.kept - changes < keep and state.kept_bytes <= KEEP_CHANGES_BYTES:
                break
            state.forgotten = revision
            state.kept -= changes
            state.kept_bytes -= size
        self._connection.execute("DELETE FROM commits WHERE revision <= ?", (state.forgotten,))

    def finish(self) -> None:
        """Write the state and the digests."""
        state = self.state
        self._connection.execute(
            "UPDATE state SET revision = ?, forgotten = ?, kept = ?, kept_bytes = ?, lease_ids = ?",
            (state.revision, state.forgotten, state.kept, state.kept_bytes, state.lease_ids),
        )
        self._connection.executemany(
            "INSERT INTO digests VALUES (?, ?) ON CONFLICT (slot) DO UPDATE SET digest = excluded.digest",
            ((slot, digest_bytes(digest)) for slot, digest in sorted(self.digests.items())),
        )


def _deletes(call: Call) -> bool:
    """Whether ``call`` only makes room."""
    return isinstance(call, End | Compact) or (isinstance(call, Apply) and all(isinstance(op, Delete) for op in call.ops))
