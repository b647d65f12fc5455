"""What is read from the store's database: each answer of one moment, on a connection that only reads.

Rules kept here:
- a reader never waits for the writer, and sees whole commits only;
- an answer is read in one transaction: its entries and its revision belong together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import orjson

from zcluster.store.interface import MAX_PAGE_BYTES, Change, Entry, Listing
from zcluster.store.memory import compacted

_FIELDS = "key, value, revision, created, version, lease"
_LAST = "\U0010ffff"
_BODY = msgspec.msgpack.Decoder(list[tuple[str, bytes | None]])


class Reader:
    """Questions to the database. All raise sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def get(self, key: str) -> Entry | None:
        row = self._connection.execute(f"SELECT {_FIELDS} FROM entries WHERE key = ?", (key,)).fetchone()
        return Entry(*row) if row else None

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        sql = f"SELECT {_FIELDS} FROM entries WHERE key IN (SELECT value FROM json_each(?))"
        found = {row[0]: Entry(*row) for row in self._connection.execute(sql, (orjson.dumps(list(keys)).decode(),))}
        return {key: found[key] for key in keys if key in found}

    def scan(self, prefix: str, after: str, limit: int) -> Listing:
        start, compare = (prefix, ">=") if after < prefix else (after, ">")
        sql = f"SELECT {_FIELDS} FROM entries WHERE key {compare} ? AND key < ? ORDER BY key LIMIT ?"
        found: list[Entry] = []
        size = 0
        with self._moment() as (revision, _):
            for row in self._connection.execute(sql, (start, end_of(prefix), limit + 1)):
                if len(found) == limit or size >= MAX_PAGE_BYTES:
                    return Listing(found, revision, more=True)
                found.append(Entry(*row))
                size += len(row[0]) + len(row[1])
        return Listing(found, revision, more=False)

    def bucket(self, slot: int) -> Listing:
        sql = f"SELECT {_FIELDS} FROM entries WHERE slot = ? ORDER BY key"
        with self._moment() as (revision, _):
            return Listing([Entry(*row) for row in self._connection.execute(sql, (slot,))], revision, more=False)

    def changes(self, prefix: str, after: int, limit: int) -> tuple[list[Change], int]:
        found: list[Change] = []
        size = 0
        sql = "SELECT revision, body FROM commits WHERE revision > ? AND first < ? AND last >= ? ORDER BY revision"
        with self._moment() as (now, forgotten):
            if after < forgotten:
                raise compacted(after, forgotten)
            for revision, body in self._connection.execute(sql, (after, end_of(prefix), prefix)):
                some = [Change(revision, key, value) for key, value in _BODY.decode(body) if key.startswith(prefix)]
                if some and (len(found) >= limit or size >= MAX_PAGE_BYTES):
                    return found, found[-1].revision
                found += some
                size += sum(len(change.key) + len(change.value or b"") for change in some)
        return found, now

    @contextmanager
    def _moment(self) -> Iterator[tuple[int, int]]:
        """The revision, and the last one that was forgotten; what is read until the end is of the same moment."""
        self._connection.execute("BEGIN")
        try:
            yield self._connection.execute("SELECT revision, forgotten FROM state").fetchone()
        finally:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")


def end_of(prefix: str) -> str | bytes:
    """What all keys under ``prefix`` are less than and the keys after them are not. SQLite orders text by code points, as
    Python does, and each text before each blob."""
    stem = prefix.rstrip(_LAST)
    if not stem:
        return b""
    following = ord(stem[-1]) + 1
    return stem[:-1] + ("\ue000" if following == 0xD800 else chr(following))
