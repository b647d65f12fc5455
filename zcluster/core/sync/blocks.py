"""Blocks of large files: how they are numbered, grouped and asked for.

Rules kept here:
- block ``n`` is the bytes from ``n * block_bytes`` on; only the last block of a file may be shorter, and none is empty;
- a chunk is a run of CHUNK_BLOCKS blocks: what is compared first, and what is sent in one frame of 1 MiB with room for its
  header;
- ranges and runs come out ascending, merged where they touch, and cut where they are larger than what may be asked for;
- runs that came from elsewhere are checked before anything is read for them.
"""

from __future__ import annotations

from collections.abc import Iterable

from zcluster.errors import PeerError

BLOCK_BYTES = 16_384
CHUNK_BLOCKS = 60
CHUNK_BYTES = BLOCK_BYTES * CHUNK_BLOCKS
BLOCK_HASH_BYTES = 16
"""xxh3_128 of a block."""

Run = tuple[int, int]
"""First block, and how many."""


def block_count(size: int, block_bytes: int = BLOCK_BYTES) -> int:
    """How many blocks a file of ``size`` bytes has."""
    return -(-size // block_bytes)


def block_range(block: int, size: int, block_bytes: int = BLOCK_BYTES) -> tuple[int, int]:
    """Offset and size of a block of a file of ``size`` bytes."""
    offset = block * block_bytes
    return offset, min(block_bytes, size - offset)


def runs_of(blocks: Iterable[int], max_count: int) -> list[Run]:
    """The runs that ascending block numbers (each once) make, each of at most ``max_count`` blocks."""
    out: list[Run] = []
    first = count = 0
    for block in blocks:
        if count and block == first + count and count < max_count:
            count += 1
            continue
        if count:
            out.append((first, count))
        first, count = block, 1
    if count:
        out.append((first, count))
    return out


def fine_runs(chunks: Iterable[int], size: int, max_count: int) -> list[Run]:
    """The blocks of the ascending ``chunks`` of a file of ``size`` bytes, in runs of at most ``max_count`` blocks."""
    end = block_count(size)
    blocks = (block for chunk in chunks for block in range(chunk * CHUNK_BLOCKS, min((chunk + 1) * CHUNK_BLOCKS, end)))
    return runs_of(blocks, max_count)


def ranges_to_fetch(missing_blocks: Iterable[int], size: int, block_bytes: int, max_bytes: int) -> list[tuple[int, int]]:
    """The ranges (offset, size) that ascending ``missing_blocks`` of a file of ``size`` bytes are, merged and cut.

    Args:
        max_bytes: the most of one range; ranges are cut between blocks, so it is at least ``block_bytes``.
    """
    out = []
    for first, count in runs_of(missing_blocks, max_bytes // block_bytes):
        offset = first * block_bytes
        out.append((offset, min(count * block_bytes, size - offset)))
    return out


def check_runs(runs: Iterable[Run], size: int, block_bytes: int, max_blocks: int) -> int:
    """Check the runs that the other side asks hashes for, and say how many blocks they are.

    Raises:
        PeerError: a run is empty or ends behind the file's last block, or all together are more than ``max_blocks``.
    """
    end, total = block_count(size, block_bytes), 0
    for first, count in runs:
        if first < 0 or count < 1 or first + count > end:
            raise PeerError(f"blocks {first} to {first + count} of a file that has {end}")
        total += count
        if total > max_blocks:
            raise PeerError(f"more than {max_blocks} blocks asked for at once")
    return total
