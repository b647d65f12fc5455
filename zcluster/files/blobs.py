"""Content by digest, in the history's database: files and listings alike, each content once.

Rules kept here:
- a blob is there as a whole or not at all: its row comes in the transaction of its last part; a large one on its way is named
  in ``partial``, and what a killed process left of it is swept at the next start;
- content is checked against its size and digest while it is added: what is stored is what its name says;
- content passes through in parts of at most PART_BYTES, and at most BATCH_BYTES and one part wait in memory;
- an id is never given again while the process lives, so a mark set for an id means one content.

One thread at a time adds and removes (others may read meanwhile).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

import zstandard

from zcluster.core.sync.entry import HASH_BYTES, HASHES
from zcluster.errors import ZClusterError
from zcluster.files.history_schema import Database

PART_BYTES = 1024 * 1024
BATCH_BYTES = 4 * 1024 * 1024
BATCH_BLOBS = 512
MAX_BLOB_BYTES = 1 << 40
ASKED_DIGESTS = 500
"""Digests of one query (SQLite takes 32,766 values, older ones 999)."""

_PART_BITS = 24
_RAW = 0
_ZSTD = 1
_PROBE_BYTES = 8192
_PAYS = 0.9
"""Compressed content is kept as such from here on: below, unpacking costs more than the space is worth."""
_HASH_OF = {size: name for name, size in HASH_BYTES.items()}


class Marks:
    """A set of ids, one bit each: a million blobs in 125 KB."""

    def __init__(self, highest: int) -> None:
        self._bits = bytearray(highest // 8 + 1)

    def __contains__(self, number: int) -> bool:
        byte = number >> 3
        return byte < len(self._bits) and bool(self._bits[byte] >> (number & 7) & 1)

    def add(self, number: int) -> None:
        byte = number >> 3
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte + 1 - len(self._bits) + 4096))
        self._bits[byte] |= 1 << (number & 7)


class Blobs:
    """The contents in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._compressor = zstandard.ZstdCompressor(level=1)
        self.next_id = int(database.rows("SELECT coalesce(max(id), 0) FROM blobs")[0][0]) + 1
        self.stored_bytes = int(database.rows("SELECT coalesce(sum(stored), 0) FROM blobs")[0][0])
        """Of all blobs, as stored."""
        self._sweep_partial()
        self.used: Marks | None = None
        """While a pruning is under way: what it must leave alone. Whoever finds a blob here and counts on it marks it."""
        self.sweeping = False
        """Nothing else will be marked: what is not in ``used`` is garbage, of which some may be gone already."""

    def ids(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """The ids of those of ``digests`` that are here."""
        found: dict[bytes, int] = {}
        for first in range(0, len(digests), ASKED_DIGESTS):
            asked = digests[first : first + ASKED_DIGESTS]
            places = ",".join("?" * len(asked))
            found.update(self._database.rows(f"SELECT digest, id FROM blobs WHERE digest IN ({places})", asked))
        return found

    def claim(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Like `ids`, and what is found is safe from a sweep that is under way."""
        with self._database.lock:
            found = self.ids(digests)
            self.mark(found.values())
            return found

    def mark(self, numbers: Iterable[int]) -> None:
        """Keep these blobs from the sweep that is under way, if one is."""
        if self.used is not None:
            for number in numbers:
                self.used.add(number)

    def content(self, digest: bytes) -> Iterator[bytes]:
        """The content of ``digest``, in parts of at most PART_BYTES.

        Raises:
            ZClusterError: it is not here (any more), or not readable.
        """
        row = self._database.rows("SELECT id, parts FROM blobs WHERE digest = ?", (digest,))
        if not row:
            raise ZClusterError(f"the history has no content {digest.hex()}", hint="its version is gone, or was not kept")
        number, parts = row[0]
        for part in range(parts):
            found = self._database.rows("SELECT encoding, data FROM parts WHERE id = ?", (number << _PART_BITS | part,))
            if not found:
                raise ZClusterError(f"the content {digest.hex()} was pruned while it was read", hint="its version is gone")
            yield _unpacked(*found[0])

    def loaded(self, digest: bytes) -> bytes:
        """The content of ``digest`` as one piece (listings, which their directory bounds)."""
        return b"".join(self.content(digest))

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove these blobs, in one transaction."""
        with self._database.write("pruning the history", durable=False) as connection:
            freed = 0
            for number in numbers:
                for (stored,) in connection.execute("DELETE FROM blobs WHERE id = ? RETURNING stored", (number,)).fetchall():
                    freed += stored
                connection.execute("DELETE FROM parts WHERE id >= ? AND id < ?", (number << _PART_BITS, number + 1 << _PART_BITS))
        self.stored_bytes -= freed

    def packed(self, data: bytes | memoryview) -> tuple[int, bytes | memoryview]:
        """``data`` as it is stored: (encoding, bytes), compressed when a probe of its beginning says that it pays."""
        probe = data[:_PROBE_BYTES]
        small = self._compressor.compress(probe)
        if len(small) > len(probe) * _PAYS:
            return _RAW, data
        if len(probe) < len(data):
            small = self._compressor.compress(data)
        return (_ZSTD, small) if len(small) <= len(data) * _PAYS else (_RAW, data)

    def _sweep_partial(self) -> None:
        left = [number for (number,) in self._database.rows("SELECT id FROM partial")]
        if left:
            self.remove(left)
            with self._database.write("sweeping the history", durable=False) as connection:
                connection.execute("DELETE FROM partial")


class Adding:
    """Blobs on their way in, some hundred to a transaction; `flush` writes what waits."""

    def __init__(self, blobs: Blobs, database: Database) -> None:
        self._blobs = blobs
        self._database = database
        self._rows: dict[bytes, tuple[int, int, int, int]] = {}
        """By digest: id, size, stored bytes, parts."""
        self._parts: list[tuple[int, int, bytes | memoryview]] = []
        self._partial: set[int] = set()
        """Ids of blobs of which parts are written already: the one that is being added, at most."""
        self._waiting_bytes = 0
        self.stored_bytes = 0
        """Of what was added and is written."""

    def add(self, digest: bytes, size: int, chunks: Iterable[bytes]) -> str:
        """Add the content of ``digest`` from ``chunks``; returns "" or why it is not it. Errors of ``chunks`` pass through.

        Raises:
            ZClusterError: it could not be written (disk full): nothing of this batch was.
        """
        if digest in self._rows:
            return ""
        number = self._blobs.next_id
        self._blobs.next_id += 1
        hasher = HASHES[_HASH_OF[len(digest)]]()
        seen = stored = parts = 0
        try:
            for part in _cut(chunks):
                seen += len(part)
                if seen > size:
                    break
                hasher.update(part)
                encoding, data = self._blobs.packed(part)
                self._parts.append((number << _PART_BITS | parts, encoding, data))
                parts += 1
                stored += len(data)
                self._waiting_bytes += len(data)
                if self._waiting_bytes >= BATCH_BYTES:
                    self._flush(number)
        except BaseException:
            self._undo(number)
            raise
        if seen != size or hasher.digest() != digest:
            self._undo(number)
            return "it changed while it was read"
        self._rows[digest] = (number, size, stored, parts)
        if len(self._rows) >= BATCH_BLOBS:
            self.flush()
        return ""

    def add_whole(self, digest: bytes, data: bytes) -> None:
        """Add ``data`` whose digest was computed from it just now."""
        if digest in self._rows:
            return
        number = self._blobs.next_id
        self._blobs.next_id += 1
        stored = parts = 0
        for part in _cut((data,)):
            encoding, small = self._blobs.packed(part)
            self._parts.append((number << _PART_BITS | parts, encoding, small))
            parts += 1
            stored += len(small)
        self._waiting_bytes += stored
        self._rows[digest] = (number, len(data), stored, parts)
        if self._waiting_bytes >= BATCH_BYTES or len(self._rows) >= BATCH_BLOBS:
            self.flush()

    def flush(self) -> None:
        """Write what waits, in one transaction.

        Raises:
            ZClusterError: it could not be written: nothing of it was, and it is forgotten.
        """
        self._flush(0)

    def _flush(self, unfinished: int) -> None:
        """Write what waits; ``unfinished`` is the id of a blob whose parts so far are among it, or 0."""
        rows, parts = self._rows, self._parts
        self._rows, self._parts, self._waiting_bytes = {}, [], 0
        if not rows and not parts:
            return
        blobs = self._blobs
        with self._database.write("recording content", durable=False) as connection:
            known = blobs.claim(list(rows))
            if known:
                doubles = {rows[digest][0] for digest in known}
                parts = [part for part in parts if part[0] >> _PART_BITS not in doubles]
                _forget_partial(connection, doubles)
            fresh = [(row[0], digest, *row[1:]) for digest, row in rows.items() if digest not in known]
            connection.executemany("INSERT INTO parts VALUES (?, ?, ?)", parts)
            connection.executemany("INSERT INTO blobs VALUES (?, ?, ?, ?, ?)", fresh)
            whole = {row[0] for row in fresh} & self._partial
            connection.executemany("DELETE FROM partial WHERE id = ?", [(number,) for number in whole])
            if unfinished:
                connection.execute("INSERT OR IGNORE INTO partial VALUES (?)", (unfinished,))
        self._partial -= whole
        if unfinished:
            self._partial.add(unfinished)
        blobs.mark([row[0] for row in fresh])
        added = sum(row[3] for row in fresh)
        self.stored_bytes += added
        blobs.stored_bytes += added

    def _undo(self, number: int) -> None:
        """Take back the parts of a blob that turned out not to be what its name says."""
        self._parts = [part for part in self._parts if part[0] >> _PART_BITS != number]
        self._waiting_bytes = sum(len(part[2]) for part in self._parts)
        if number in self._partial:
            self._partial.discard(number)
            with self._database.write("recording content", durable=False) as connection:
                _forget_partial(connection, {number})


def _forget_partial(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    for number in numbers:
        connection.execute("DELETE FROM parts WHERE id >= ? AND id < ?", (number << _PART_BITS, number + 1 << _PART_BITS))
        connection.execute("DELETE FROM partial WHERE id = ?", (number,))


def _cut(chunks: Iterable[bytes]) -> Iterator[bytes | memoryview]:
    """``chunks`` of any size as parts of PART_BYTES, the last one shorter; an empty content has one empty part."""
    waiting: bytes | memoryview = b""
    for chunk in chunks:
        joined = memoryview(b"".join((waiting, chunk))) if waiting else memoryview(chunk)
        while len(joined) > PART_BYTES:
            yield joined[:PART_BYTES]
            joined = joined[PART_BYTES:]
        waiting = joined
    yield waiting


def _unpacked(encoding: int, data: bytes) -> bytes:
    if encoding == _RAW:
        return data
    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=PART_BYTES)
    except zstandard.ZstdError as error:
        raise ZClusterError(f"a stored content is not readable: {error}", hint="the history is damaged; move it away") from None
