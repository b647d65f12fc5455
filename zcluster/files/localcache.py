"""What was known of a tree when the process ended: so that a restart hashes nothing that stat says is unchanged.

Rules kept here:
- it is a hint of what was hashed before; each use of it is checked against stat, so losing it costs time and nothing else;
- it is bound to one root (device and inode) and one hash; what does not fit, or is broken in any way, is thrown away and is
  never an error;
- only changed directories are written, behind what is there; when too much of the file is outdated it is written anew
  beside the old one and renamed. A save ends with a mark; what comes behind the last mark was never saved.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import xxhash

_MAGIC = b"zcluster tree 1\n"
_HEAD = struct.Struct("<16s16s16s")
"""Magic, identity of root and hash, rules."""
_RECORD = struct.Struct("<IIIQ")
"""Bytes of path, listing and stats, then the xxh3_64 of all three. A directory that is gone has neither listing nor stats."""
_MARK = _RECORD.pack(0xFFFFFFFF, 0, 0, 0x5A434C5553544552)
_SLACK_BYTES = 1024 * 1024
_WRITE_BYTES = 1024 * 1024


class LocalCache:
    """The cache of one tree in the file ``path``. Used by one thread at a time.

    Args:
        identity: names the root and the hash.
        rules: names all else that a listing depends on.
    """

    def __init__(self, path: Path, identity: bytes, rules: bytes) -> None:
        self._path = path
        self._head = _HEAD.pack(_MAGIC, xxhash.xxh3_128_digest(identity), xxhash.xxh3_128_digest(rules))
        self._end = 0
        """Where the next save goes; 0: the file has to be written anew."""

    def load(self) -> tuple[dict[str, bytes], dict[str, bytes], bool]:
        """Listings, stats, and whether they were made under the same rules; empty when there is nothing that can be used."""
        self._end = 0
        try:
            with self._path.open("rb") as file:
                head = file.read(_HEAD.size)
                if len(head) != _HEAD.size or head[:32] != self._head[:32]:
                    return {}, {}, False
                listings, stats, end = _read(file)
        except (OSError, UnicodeDecodeError, MemoryError):
            return {}, {}, False
        same_rules = head == self._head
        self._end = end if same_rules else 0
        return listings, stats, same_rules

    def save(self, listings: Mapping[str, bytes], stats: Mapping[str, bytes], changed: Iterable[str]) -> None:
        """Write what is known of the directories ``changed`` since the last save, or of all.

        Raises:
            OSError: the disk is full, or gone. The next save writes all.
        """
        live = sum(len(path) + len(listing) + len(stats[path]) + _RECORD.size for path, listing in listings.items())
        end, self._end = self._end, 0
        if not end or end > 2 * live + _SLACK_BYTES:
            self._end = self._write_anew(listings, stats)
            return
        with self._path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size < end:
                return
            file.truncate(end)
            file.seek(end)
            _write(file, changed, listings, stats)
            file.flush()
            self._end = file.tell()

    def _write_anew(self, listings: Mapping[str, bytes], stats: Mapping[str, bytes]) -> int:
        fresh = self._path.with_name(self._path.name + ".new")
        with suppress(FileNotFoundError):
            fresh.unlink()
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb", _WRITE_BYTES) as file:
            file.write(self._head)
            _write(file, listings, listings, stats)
            file.flush()
            end = file.tell()
        fresh.replace(self._path)
        return end


def _write(file: BinaryIO, paths: Iterable[str], listings: Mapping[str, bytes], stats: Mapping[str, bytes]) -> None:
    for path in paths:
        name = path.encode()
        listing, stat = listings.get(path, b""), stats.get(path, b"")
        check = xxhash.xxh3_64_intdigest(name + listing + stat)
        file.write(_RECORD.pack(len(name), len(listing), len(stat), check))
        file.write(name + listing + stat)
    file.write(_MARK)


def _read(file: BinaryIO) -> tuple[dict[str, bytes], dict[str, bytes], int]:
    """All that was saved, and where it ends."""
    listings: dict[str, bytes] = {}
    stats: dict[str, bytes] = {}
    size = os.fstat(file.fileno()).st_size
    end = 0
    pending: list[tuple[str, bytes, bytes]] = []
    while len(head := file.read(_RECORD.size)) == _RECORD.size:
        if head == _MARK:
            for path, listing, stat in pending:
                if listing:
                    listings[path], stats[path] = listing, stat
                else:
                    listings.pop(path, None)
                    stats.pop(path, None)
            pending.clear()
            end = file.tell()
            continue
        names, entries, rows, check = _RECORD.unpack(head)
        if names + entries + rows > size:
            break
        data = file.read(names + entries + rows)
        if xxhash.xxh3_64_intdigest(data) != check or len(data) != names + entries + rows:
            break
        pending.append((data[:names].decode(), data[names : names + entries], data[names + entries :]))
    return listings, stats, end
