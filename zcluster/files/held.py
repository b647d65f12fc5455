"""What is held of a tree between two looks, and how single entries of it are read and exchanged.

Rules kept here:
- of an entry there are its bytes in its directory's listing and 16 bytes of stat, and no object;
- where one entry of many changes, the others are neither decoded nor encoded;
- nothing that is held is ever changed: an exchange makes new bytes.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from zcluster.core.sync.entry import EMPTY_LISTING, Entry, decode_listing, listing_digest

NEVER_NS = -(2**63)
"""The ctime of an entry that the next look must not take for unchanged."""
STAT = struct.Struct("<qq")
"""ctime_ns and inode: what a listing does not say about an entry."""
SIGNATURE_BYTES = 16
NO_SIGNATURE = bytes(SIGNATURE_BYTES)

Row = tuple[Entry, int, int]
"""An entry with its ctime_ns and inode."""

_ENCODER = msgspec.msgpack.Encoder()
_RAWS = msgspec.msgpack.Decoder(list[msgspec.Raw])
_ENTRY = msgspec.msgpack.Decoder(Entry)

T = TypeVar("T")


@dataclass(frozen=True)
class Held:
    """What is known of a tree. Never changed; a pass makes the next one."""

    listings: dict[str, bytes] = field(default_factory=dict)
    stats: dict[str, bytes] = field(default_factory=dict)
    young: dict[str, frozenset[str]] = field(default_factory=dict)
    refused: dict[str, tuple[tuple[tuple[str, str], ...], int]] = field(default_factory=dict)
    """By directory: the first refused paths with reasons, and how many there are."""
    root: bytes = listing_digest(EMPTY_LISTING)
    files: int = 0
    bytes: int = 0


def parse_stats(listing: bytes, stats: bytes) -> dict[str, Row]:
    """What is known of a directory: by name the entry, its ctime_ns and inode."""
    pairs = zip(decode_listing(listing), STAT.iter_unpack(memoryview(stats)[SIGNATURE_BYTES:]), strict=True)
    return {entry.name: (entry, ctime_ns, ino) for entry, (ctime_ns, ino) in pairs}


class Packed:
    """A directory as :func:`parse_stats` would give it, of which only some entries are wanted."""

    def __init__(self, listing: bytes, stats: bytes) -> None:
        self._listing, self._stats = listing, stats
        self._raws = _RAWS.decode(listing)

    def __len__(self) -> int:
        return len(self._raws)

    def index(self, name: str) -> int:
        """Where the entry ``name`` is; -1 when there is none."""
        at = bisect_left(self._raws, os.fsencode(name), key=lambda raw: _ENTRY.decode(raw).name.encode())
        return at if at < len(self._raws) and _ENTRY.decode(self._raws[at]).name == name else -1

    def row(self, index: int) -> Row:
        """The entry at ``index``."""
        ctime_ns, ino = STAT.unpack_from(self._stats, SIGNATURE_BYTES + index * STAT.size)
        return _ENTRY.decode(self._raws[index]), ctime_ns, ino

    def exchange(self, rows: Mapping[int, Row | None]) -> tuple[bytes, bytes]:
        """The listing and the stats with other rows at these indexes, each of the same name; None takes its entry out. There
        is no signature any more, unless every row is what it was."""
        changed = {index: row for index, row in rows.items() if row != self.row(index)}
        if not changed:
            return self._listing, self._stats
        raws, stats = list(self._raws), bytearray(self._stats)
        stats[:SIGNATURE_BYTES] = NO_SIGNATURE
        for index, row in sorted(changed.items(), reverse=True):
            start = SIGNATURE_BYTES + index * STAT.size
            if row is None:
                del raws[index], stats[start : start + STAT.size]
            else:
                raws[index] = msgspec.Raw(_ENCODER.encode(row[0]))
                STAT.pack_into(stats, start, *row[1:])
        return _ENCODER.encode(raws), bytes(stats)


def with_digest(listing: bytes, name: str, old: bytes, new: bytes) -> bytes:
    """``listing`` with another digest for its directory ``name``, which has the digest ``old``; empty when it has not.

    The bytes are exchanged in place: a directory of 10,000 directories, in one of which something changes, is not decoded
    for it. What is looked for begins with a whole string and goes on with a byte that no string continues with, so it is
    found in no other string; and where chance, or somebody, put it into a digest, the old digest does not follow.
    """
    begin = _ENCODER.encode(name) + b"\xa1d\x00\x00"
    end = b"\xc4\x20" + old
    at = listing.find(begin)
    while at >= 0:
        mode = at + len(begin)
        digest = mode + {0xCC: 2, 0xCD: 3}.get(listing[mode], 1)
        if listing.startswith(end, digest):
            digest += 2
            return b"".join((listing[:digest], new, listing[digest + len(new) :]))
        at = listing.find(begin, at + 1)
    return b""


def merged(old: dict[str, T], changes: Mapping[str, T | None]) -> dict[str, T]:
    """``old`` itself when there are no changes, else a new dictionary."""
    if not changes:
        return old
    new = old.copy()
    for key, value in changes.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = value
    return new
