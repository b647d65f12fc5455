"""The source's side of content: pieces of files, and the hashes of their blocks.

Rules kept here:
- what is given is of the content that the manifest names: the file's size, times and inode are those that were recorded when
  it was hashed, before the read and after it; anything else is "not to be had", never other bytes. (A write within the same
  clock tick leaves no trace here; the sink finds it by the digest.)
- no symbolic link is followed, and nothing outside the root is opened;
- one read of a large file serves all who ask for hashes of its blocks: they are remembered by content, in bounded memory.

All methods may be called from several threads at once.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import xxhash

from zcluster.core.sync.blocks import BLOCK_HASH_BYTES, block_count, check_runs
from zcluster.errors import PeerError
from zcluster.files.beneath import Beneath
from zcluster.files.contents import PIECE_BYTES
from zcluster.files.scanner import FileStat

CACHE_BYTES = 32 * 1024 * 1024
"""Of remembered hashes: those of 32 GiB in blocks of 16 KiB."""
MAX_BLOCKS = 65_536
"""Of one question for hashes: 1 MiB of them."""
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

StatOf = Callable[[str], FileStat | None]


class Wanted(Protocol):
    """A piece of a file that a sink asks for: ``size`` bytes from ``offset`` of the content with this digest."""

    @property
    def path(self) -> str: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...


class Pieces(NamedTuple):
    """Some pieces, in the order in which they were asked for."""

    sizes: list[int]
    """Of each piece; -1: it cannot be had, for the file is gone or has another content."""
    data: bytes
    """All of them, one behind the other."""


class _Hashes:
    """The hashes of the blocks of one content, as far as they are known."""

    def __init__(self, blocks: int) -> None:
        self.lock = threading.Lock()
        self.hashes = bytearray(blocks * BLOCK_HASH_BYTES)
        self.known = bytearray(blocks)
        self.bytes = blocks * (BLOCK_HASH_BYTES + 1) + 200


class Reader:
    """Reads files of the tree beneath ``root``.

    Args:
        root: the tree's root; a symbolic link to one is resolved at each call.
        stat_of: what the manifest recorded of a file (LocalTree.stat_of).
        cache_bytes: the most memory for remembered hashes; the content asked for last is kept whatever it takes.
    """

    def __init__(self, root: Path, stat_of: StatOf, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._root, self._stat_of, self._cache_bytes = root, stat_of, cache_bytes
        self._cache: OrderedDict[tuple[bytes, int, int], _Hashes] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()
        self.hashed_bytes = 0
        """What was read for hashes so far."""

    def read(self, items: Sequence[Wanted], max_bytes: int) -> Iterator[Pieces]:
        """The pieces ``items``, in batches of at most ``max_bytes`` (but at least one piece; what one piece may ask for is
        the caller's matter). Nothing is raised for what cannot be had."""
        root_fd = self._open_root()
        if root_fd < 0:
            yield Pieces([-1] * len(items), b"")
            return
        beneath = Beneath(root_fd)
        sizes: list[int] = []
        parts: list[bytes] = []
        total = 0
        try:
            for item in items:
                if sizes and total + item.size > max_bytes:
                    yield Pieces(sizes, b"".join(parts))
                    sizes, parts, total = [], [], 0
                data = self._piece(beneath, item)
                if data is None:
                    sizes.append(-1)
                else:
                    sizes.append(len(data))
                    parts.append(data)
                    total += len(data)
            if sizes:
                yield Pieces(sizes, b"".join(parts))
        finally:
            beneath.close()
            os.close(root_fd)

    def hash_blocks(self, path: str, digest: bytes, block_bytes: int, runs: Iterable[tuple[int, int]]) -> bytes | None:
        """xxh3_128 of each block of ``runs`` (first, how many), one behind the other; None: the file has changed or is gone.

        Raises:
            PeerError: a run is empty or not of the file, or they are more than MAX_BLOCKS together.
        """
        held = self._stat_of(path)
        if held is None or held.digest != digest:
            return None
        runs = list(runs)
        check_runs(runs, held.size, block_bytes, MAX_BLOCKS)
        known = self._remembered((digest, held.size, block_bytes), block_count(held.size, block_bytes))
        with known.lock:
            missing = [run for run in runs if 0 in known.known[run[0] : run[0] + run[1]]]
            if missing and not self._hash(path, held, block_bytes, missing, known):
                return None
            pieces = [known.hashes[first * BLOCK_HASH_BYTES : (first + count) * BLOCK_HASH_BYTES] for first, count in runs]
        return b"".join(pieces)

    def _open_root(self) -> int:
        try:
            return os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return -1

    def _piece(self, beneath: Beneath, item: Wanted) -> bytes | None:
        held = self._stat_of(item.path)
        size, offset = item.size, item.offset
        if held is None or held.digest != item.digest or offset < 0 or size < 0 or offset + size > held.size:
            return None
        try:
            directory, _, name = item.path.rpartition("/")
            fd = os.open(name, _FLAGS, dir_fd=beneath.dir_fd(directory))
        except OSError:
            return None
        try:
            if not _is(fd, held):
                return None
            data = os.pread(fd, size, offset)
            while len(data) < size:  # a signal, or more than the kernel reads at once
                more = os.pread(fd, size - len(data), offset + len(data))
                if not more:
                    return None
                data += more
            return data if _is(fd, held) else None
        except OSError:
            return None
        finally:
            os.close(fd)

    def _remembered(self, key: tuple[bytes, int, int], blocks: int) -> _Hashes:
        with self._lock:
            known = self._cache.get(key)
            if known is None:
                known = self._cache[key] = _Hashes(blocks)
                self._cached_bytes += known.bytes
            self._cache.move_to_end(key)
            while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= oldest.bytes
        return known

    def _hash(self, path: str, held: FileStat, block_bytes: int, runs: list[tuple[int, int]], known: _Hashes) -> bool:
        """Hash ``runs`` into ``known``; False, and nothing is remembered, when the file has changed."""
        root_fd = self._open_root()
        if root_fd < 0:
            return False
        beneath = Beneath(root_fd)
        try:
            fd = beneath.open(path, _FLAGS)
        except (OSError, PeerError):
            return False
        finally:
            beneath.close()
            os.close(root_fd)
        try:
            if not _is(fd, held):
                return False
            found = [(first, _hash_run(fd, first, count, block_bytes, held.size)) for first, count in runs]
            if not _is(fd, held):
                return False
        except OSError:
            return False
        finally:
            os.close(fd)
        for first, hashes in found:
            blocks = len(hashes) // BLOCK_HASH_BYTES
            known.hashes[first * BLOCK_HASH_BYTES : first * BLOCK_HASH_BYTES + len(hashes)] = hashes
            known.known[first : first + blocks] = b"\x01" * blocks
            self.hashed_bytes += min(blocks * block_bytes, held.size - first * block_bytes)
        return True


def _is(fd: int, held: FileStat) -> bool:
    """Whether the open file is the one that was recorded."""
    st = os.fstat(fd)
    return (
        st.st_ctime_ns == held.ctime_ns
        and st.st_mtime_ns == held.mtime_ns
        and st.st_size == held.size
        and st.st_ino == held.ino
        and stat.S_ISREG(st.st_mode)
    )


def _hash_run(fd: int, first: int, count: int, block_bytes: int, size: int) -> bytes:
    """The hashes of ``count`` blocks of an open file of ``size`` bytes, read one behind the other."""
    at_once = max(1, PIECE_BYTES // block_bytes)
    buffer = memoryview(bytearray(min(at_once, count) * block_bytes))
    digest = xxhash.xxh3_128_digest
    out: list[bytes] = []
    offset, end = first * block_bytes, min((first + count) * block_bytes, size)
    while offset < end:
        piece = buffer[: min(len(buffer), end - offset)]
        filled = 0
        while filled < len(piece):
            got = os.preadv(fd, [piece[filled:]], offset + filled)
            if not got:
                raise OSError(f"the file ends at {offset + filled}, and has had {size} bytes")
            filled += got
        out += [digest(piece[start : start + block_bytes]) for start in range(0, len(piece), block_bytes)]
        offset += len(piece)
    return b"".join(out)
