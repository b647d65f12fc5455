"""The prefixes with digests of a store's database: their numbers, and what opening with other prefixes changes.

Rules kept here:
- a prefix keeps its number as long as its digests are kept; a bucket's slot is number x BUCKETS + bucket;
- opening with the same prefixes reads the digests and nothing else; a new prefix costs one pass over its keys, once;
- entries and digests agree after each commit, whatever prefixes the store was opened with before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from zcluster.store.digest import bucket_of, digest_bytes, entry_digest
from zcluster.store.sqlite_reader import end_of
from zcluster.wire.tables import BUCKETS


def number_prefixes(connection: sqlite3.Connection, prefixes: Sequence[str]) -> tuple[dict[str, int], dict[int, int]]:
    """Keep the digests of ``prefixes`` and no others; returns their numbers and all digests by slot. Raises sqlite3.Error."""
    known: dict[str, int] = dict(connection.execute("SELECT prefix, number FROM prefixes").fetchall())
    if set(known) != set(prefixes):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for prefix in sorted(set(known) - set(prefixes)):
                _drop(connection, prefix, known.pop(prefix))
            for prefix in sorted(set(prefixes) - set(known)):
                known[prefix] = min(set(range(len(known) + 1)) - set(known.values()))
                _count(connection, prefix, known[prefix])
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    digests = {slot: int.from_bytes(digest, "big") for slot, digest in connection.execute("SELECT slot, digest FROM digests")}
    return known, digests


def _drop(connection: sqlite3.Connection, prefix: str, number: int) -> None:
    connection.execute("UPDATE entries SET slot = NULL, digest = NULL WHERE key >= ? AND key < ?", (prefix, end_of(prefix)))
    connection.execute("DELETE FROM digests WHERE slot BETWEEN ? AND ?", (number * BUCKETS, number * BUCKETS + BUCKETS - 1))
    connection.execute("DELETE FROM prefixes WHERE number = ?", (number,))


def _count(connection: sqlite3.Connection, prefix: str, number: int) -> None:
    counted = [0] * BUCKETS
    first = number * BUCKETS

    def digest_of(key: str, value: bytes) -> bytes:
        digest = entry_digest(key, value)
        counted[bucket_of(key)] ^= digest
        return digest_bytes(digest)

    connection.execute("INSERT INTO prefixes VALUES (?, ?)", (number, prefix))
    connection.create_function("slot_of", 1, lambda key: first + bucket_of(key), deterministic=True)
    connection.create_function("digest_of", 2, digest_of)
    # SQLite calls digest_of once for each row that it updates.
    connection.execute(
        "UPDATE entries SET slot = slot_of(key), digest = digest_of(key, value) WHERE key >= ? AND key < ?",
        (prefix, end_of(prefix)),
    )
    connection.executemany(
        "INSERT INTO digests VALUES (?, ?)",
        ((first + bucket, digest_bytes(digest)) for bucket, digest in enumerate(counted) if digest),
    )
