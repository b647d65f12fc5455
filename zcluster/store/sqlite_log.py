"""Whether the log of a database (its ``-wal``) is damaged before its end.

SQLite reads a log as far as the checksums fit, and takes the rest for a commit that a crash cut off: after a damaged page in the
middle, everything that was committed later is left out without a word (https://www.sqlite.org/fileformat2.html#walformat).

Rules kept here:
- a log is damaged when whole commits follow each other behind a place that does not fit: a crash, or a disk that was full, leaves
  one cut-off commit, and behind it at most pieces of others that never were;
- damage to the last two commits cannot be told from a crash, and is not;
- only the log is opened, never the database, and before SQLite opens either.
"""

from __future__ import annotations

import struct
import sys
from array import array
from pathlib import Path

HEADER_BYTES = 32
FRAME_BYTES = 24
"""Before each page."""
MAX_FRAMES = 65_536
"""So many are looked at: a few seconds at most. A log is copied into the database long before (WAL_PAGES)."""
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
"""The lowest bit: checksums are of big-endian words."""
_MASK = 0xFFFFFFFF
Sums = tuple[int, int]


def damaged_log(log: Path) -> bool:
    """Whether commits in ``log`` lie behind damage. Raises OSError."""
    if not log.exists():
        return False
    with log.open("rb") as file:
        header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES or not any(header):
            return False
        magic, _, page, _, *salts, first, second = _HEADER.unpack(header)
        big = bool(magic & 1)
        if magic & ~1 != _MAGIC or (first, second) != _sums(header[:FRAME_BYTES], (0, 0), big):
            salts, page, big = [], 4096, False  # of a header that does not fit: the first frame tells
        whole, commits = bool(salts), 0
        sums: Sums = (first, second)
        for _ in range(MAX_FRAMES):
            frame = file.read(FRAME_BYTES + page)
            if len(frame) < FRAME_BYTES + page:
                return False
            _, size, *mine, first, second = _FRAME.unpack(frame[:FRAME_BYTES])
            salts = salts or mine
            fits = mine == salts and _sums(frame[FRAME_BYTES:], _sums(frame[:8], sums, big), big) == (first, second)
            if not fits:
                whole, commits = False, 0
            elif not whole and size:
                commits += 1
                if commits == 2:
                    return True
            sums = first, second
    return False


def _sums(data: bytes, sums: Sums, big: bool) -> Sums:
    """The checksum of ``data``, going on from ``sums``."""
    words = array("I", data)
    if big != (sys.byteorder == "big"):
        words.byteswap()
    first, second = sums
    pairs = iter(words)
    for word in pairs:
        first = (first + word + second) & _MASK
        second = (second + next(pairs) + first) & _MASK
    return first, second
