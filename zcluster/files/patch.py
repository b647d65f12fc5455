"""Putting a large file together from what is here already and the blocks that are not.

Rules kept here:
- blocks are BLOCK_BYTES long and aligned at the start of the new file; CHUNK_BLOCKS of them are a chunk. They are named by
  xxh3_128, and what is here counts only when its hash says so: a partial file of an earlier attempt is no exception;
- old data is looked for at the same place and at the distance from the end at which it was (a shift of the sizes'
  difference), so an insertion or a removal costs its own size;
- memory is one chunk, however large the file;
- the space is reserved before anything is fetched;
- the file is only given out after its whole content has the entry's digest. When every byte came in order, the digest was
  kept on the way, and nothing is read again;
- a partial file survives everything but a wrong digest, a full disk and old age.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import stat
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import xxhash

from zcluster.core.sync.blocks import BLOCK_BYTES, BLOCK_HASH_BYTES, CHUNK_BLOCKS, CHUNK_BYTES, block_count
from zcluster.core.sync.entry import HASHES, Entry, Hasher
from zcluster.errors import PeerError, UsageError, ZClusterError
from zcluster.files import durable
from zcluster.files.treedir import PARTIAL, TreeDir

_FICLONE = 0x40049409
_SAME_NAME_MAX = 4096


P = ParamSpec("P")
T = TypeVar("T")


class Host(Protocol):
    """What a patch belongs to (a Staging)."""

    treedir: TreeDir
    hash_name: str
    owner: tuple[int, int] | None

    def in_use(self, name: str) -> bool:
        """Whether somebody works on the partial file ``name``, or it waits to be committed."""

    def finished(self, patch: Patch) -> None:
        """The patch's file is complete and closed."""

    def failed(self, path: str, error: OSError) -> ZClusterError:
        """Sweep what was staged; the error to raise."""


class Source:
    """Data that may be part of the new file.

    Args:
        fd: where it is.
        size: how many bytes of it there are.
        shift: what is at ``offset`` of the new file is at ``offset + shift`` here.
        in_place: it is the new file itself: what matches need not be written.
    """

    def __init__(self, fd: int, size: int, shift: int, *, in_place: bool) -> None:
        self.fd = fd
        self.size = size
        self.shift = shift
        self.in_place = in_place

    def read(self, into: memoryview, offset: int, size: int) -> tuple[int, int]:
        """Read what this has of ``size`` bytes at ``offset`` of the new file to the same places of ``into``.

        Returns the part of ``into`` that was filled, as begin and end; equal when there is nothing.
        """
        begin = max(0, -(offset + self.shift))
        end = min(size, self.size - (offset + self.shift))
        done = begin
        while done < end:
            got = os.preadv(self.fd, [into[done:end]], offset + self.shift + done)
            if got == 0:
                break
            done += got
        return begin, max(begin, done)


def _on_disk(method: Callable[Concatenate[Patch, P], T]) -> Callable[Concatenate[Patch, P], T]:
    """Turn what the disk says into an error of zcluster, when the patch's host has swept."""

    @functools.wraps(method)
    def guarded(patch: Patch, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(patch, *args, **kwargs)
        except OSError as error:
            raise patch.host.failed(patch.path, error) from None

    return guarded


class Patch:
    """A large file that is being put together. Staging.begin makes them; call `coarse` and `fine` when `needs_hashes`.

    Args:
        host: the staging that it is for.
        path: which file of the tree.
        entry: what it has to become.

    All methods raise ZClusterError when the disk is full or fails: then all that was staged is gone.
    """

    def __init__(self, host: Host, path: str, entry: Entry) -> None:
        self.host = host
        self.path = path
        self.entry = entry
        self.size = entry.size
        self.bytes_kept = 0
        """How many bytes were found here."""
        self.name = ""
        """Of the partial file in the staging directory."""
        self._treedir = host.treedir
        self._buffer: memoryview | None = None
        self._running: Hasher | None = None
        self._running_to = 0
        self._old_fd = self._out_fd = -1
        self._sources: list[Source] = []
        self._start()

    @_on_disk
    def _start(self) -> None:
        try:
            resumed = self._open_partial()
            self._prepare(resumed and self.entry.digest not in self._treedir.distrusted)
        except OSError:
            self.discard()
            raise

    @property
    def is_open(self) -> bool:
        """Whether it is neither finished nor closed."""
        return self._out_fd >= 0

    @property
    def needs_hashes(self) -> bool:
        """Whether there is anything here to compare; without, all of the file is to be fetched, best in order."""
        return bool(self._sources)

    @property
    def chunks(self) -> int:
        """How many coarse hashes the file has."""
        return block_count(self.size, CHUNK_BYTES)

    def _open_partial(self) -> bool:
        """Open the partial file of this content that nobody works on; returns whether there was one with data."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        stage_fd = self._treedir.stage_fd
        for number in range(_SAME_NAME_MAX):
            name = f"{PARTIAL}{self.entry.digest.hex()}.{number}"
            if self.host.in_use(name):
                continue
            self.name = name
            try:
                info = os.stat(name, dir_fd=stage_fd, follow_symlinks=False)
            except FileNotFoundError:
                self._out_fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=stage_fd)
                return False
            if stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and info.st_uid == os.geteuid():
                os.chmod(name, 0o600, dir_fd=stage_fd)  # it was finished once, and is opened to be written again
                self._out_fd = os.open(name, flags, dir_fd=stage_fd)
                return info.st_size > 0
            self._treedir.drop(name)
            self._out_fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=stage_fd)
            return False
        raise UsageError(f"{_SAME_NAME_MAX} files of the same content are being put together at once")

    def _prepare(self, resumed: bool) -> None:
        """Find what there is to compare, and reserve the space."""
        old_size = 0
        if self.entry.digest not in self._treedir.distrusted:
            old_size = self._open_old()
        cloned = False
        if resumed:
            self._sources.append(Source(self._out_fd, os.fstat(self._out_fd).st_size, 0, in_place=True))
        elif old_size:
            cloned = self._clone()
        else:
            os.ftruncate(self._out_fd, 0)
        durable.reserve(self._out_fd, self.size)
        if old_size:
            self._sources.append(Source(self._out_fd if cloned else self._old_fd, old_size, 0, in_place=cloned))
            if old_size != self.size:
                self._sources.append(Source(self._old_fd, old_size, old_size - self.size, in_place=False))
        if not self._sources:
            self._running = HASHES[self.host.hash_name]()

    def _open_old(self) -> int:
        """Open the tree's own file at the path; returns its size, 0 when it is of no use."""
        try:
            self._old_fd = self._treedir.beneath.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.EIO:
                raise
            return 0
        info = os.fstat(self._old_fd)
        return info.st_size if stat.S_ISREG(info.st_mode) and info.st_size >= BLOCK_BYTES else 0

    def _clone(self) -> bool:
        """Let the new file share the old one's blocks, where the file system can (FICLONE)."""
        try:
            fcntl.ioctl(self._out_fd, _FICLONE, self._old_fd)
        except OSError:
            return False
        return True

    def _view(self) -> memoryview:
        if self._buffer is None:
            self._buffer = memoryview(bytearray(CHUNK_BYTES))
        return self._buffer

    @_on_disk
    def coarse(self, hashes: bytes, first: int = 0) -> list[int]:
        """Compare chunks, and keep those that are here.

        Args:
            hashes: 16 bytes for each chunk of the new file, from chunk ``first`` on.
            first: the first chunk that they are of.

        Returns:
            The chunks that are not here as a whole.

        Raises:
            PeerError: there are hashes of chunks that the file does not have.
            ZClusterError: the disk is full, or failed.
        """
        count = _count(hashes)
        if first < 0 or first + count > self.chunks:
            raise PeerError(f"hashes of chunks beyond the end of {self.path!r}")
        self._check_open()
        view, missing = self._view(), []
        for index in range(count):
            offset = (first + index) * CHUNK_BYTES
            size = min(CHUNK_BYTES, self.size - offset)
            wanted = hashes[index * BLOCK_HASH_BYTES : (index + 1) * BLOCK_HASH_BYTES]
            for source in self._sources:
                filled = source.read(view, offset, size)
                if filled == (0, size) and xxhash.xxh3_128_digest(view[:size]) == wanted:
                    self._keep(source, view[:size], offset)
                    break
            else:
                missing.append(first + index)
        return missing

    @_on_disk
    def fine(self, first_block: int, hashes: bytes) -> list[tuple[int, int]]:
        """Compare blocks, and keep those that are here.

        Args:
            first_block: the first block that the hashes are of.
            hashes: 16 bytes for each block of the new file from there on.

        Returns:
            What is to be fetched: (offset, size), ascending, neighbours merged.

        Raises:
            PeerError: there are hashes of blocks that the file does not have.
            ZClusterError: the disk is full, or failed.
        """
        count = _count(hashes)
        if first_block < 0 or first_block + count > block_count(self.size):
            raise PeerError(f"hashes of blocks beyond the end of {self.path!r}")
        self._check_open()
        ranges: list[tuple[int, int]] = []
        for begin in range(0, count, CHUNK_BLOCKS):
            window = hashes[begin * BLOCK_HASH_BYTES : (begin + CHUNK_BLOCKS) * BLOCK_HASH_BYTES]
            for offset, size in self._fine_window(first_block + begin, window):
                if ranges and sum(ranges[-1]) == offset:
                    ranges[-1] = (ranges[-1][0], ranges[-1][1] + size)
                else:
                    ranges.append((offset, size))
        return ranges

    def _fine_window(self, first: int, hashes: bytes) -> list[tuple[int, int]]:
        """`fine` for at most a chunk's worth of blocks; the ranges are not merged."""
        base = first * BLOCK_BYTES
        size = min(len(hashes) // BLOCK_HASH_BYTES * BLOCK_BYTES, self.size - base)
        wanted = [(at, min(at + BLOCK_BYTES, size)) for at in range(0, size, BLOCK_BYTES)]
        view, digest_of = self._view(), xxhash.xxh3_128_digest
        for source in self._sources:
            if not wanted:
                break
            filled_from, filled_to = source.read(view, base, size)
            missing, run_from, run_to = [], 0, 0
            for at, end in wanted:
                block = at // BLOCK_BYTES * BLOCK_HASH_BYTES
                if at < filled_from or end > filled_to or digest_of(view[at:end]) != hashes[block : block + BLOCK_HASH_BYTES]:
                    missing.append((at, end))
                elif at == run_to and run_to > run_from:
                    run_to = end
                else:
                    self._keep(source, view[run_from:run_to], base + run_from)
                    run_from, run_to = at, end
            self._keep(source, view[run_from:run_to], base + run_from)
            wanted = missing
        return [(base + at, end - at) for at, end in wanted]

    def _keep(self, source: Source, data: memoryview, offset: int) -> None:
        """Take data of which the hash was right; the source that had it is asked first the next time."""
        if not data:
            return
        self.bytes_kept += len(data)
        if not source.in_place:
            durable.pwrite_all(self._out_fd, data, offset)
        if self._sources[0] is not source:
            self._sources = [source, *(other for other in self._sources if other is not source)]

    @_on_disk
    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write what was fetched.

        Raises:
            PeerError: it lies beyond the file's size.
            ZClusterError: the disk is full, or failed.
        """
        end = offset + len(data)
        if offset < 0 or end > self.size:
            raise PeerError(f"data beyond the end of {self.path!r}")
        self._check_open()
        durable.pwrite_all(self._out_fd, data, offset)
        if self._running is not None:
            if offset == self._running_to:
                self._running.update(data)
                self._running_to = end
            else:
                self._running = None

    @_on_disk
    def finish(self) -> None:
        """Check the whole content, and hand the file to its Staging; it gets its mode, time and owner.

        Raises:
            PeerError: the content is not what the entry says; the partial file is gone, and the next attempt fetches all.
            ZClusterError: the disk failed.
        """
        self._check_open()
        if self._digest() != self.entry.digest:
            self._treedir.distrust(self.entry.digest)
            self.discard()
            raise PeerError(f"the content of {self.path!r} does not have its digest", hint="the next time all of it is fetched")
        self._treedir.distrusted.discard(self.entry.digest)
        if self.host.owner is not None:
            os.fchown(self._out_fd, *self.host.owner)
        os.fchmod(self._out_fd, self.entry.mode)
        os.utime(self._out_fd, ns=(self.entry.mtime_ns, self.entry.mtime_ns))
        self.close()
        self.host.finished(self)

    def _digest(self) -> bytes:
        if self._running is not None and self._running_to == self.size:
            return self._running.digest()
        whole, view, offset = HASHES[self.host.hash_name](), self._view(), 0
        while offset < self.size:
            got = os.preadv(self._out_fd, [view[: min(CHUNK_BYTES, self.size - offset)]], offset)
            if got == 0:
                raise OSError(errno.EIO, "a staged file became shorter")
            whole.update(view[:got])
            offset += got
        return whole.digest()

    def _check_open(self) -> None:
        if not self.is_open:
            raise UsageError(f"the patch of {self.path!r} is closed")

    def close(self) -> None:
        """Let go of the files; the partial file stays for the next attempt."""
        for fd in (self._old_fd, self._out_fd):
            if fd >= 0:
                os.close(fd)
        self._old_fd = self._out_fd = -1
        self._sources = []
        self._buffer = None

    def discard(self) -> None:
        """Let go of the files, and remove the partial one."""
        self.close()
        if self.name:
            self._treedir.drop(self.name)
        self.name = ""


def _count(hashes: bytes) -> int:
    if len(hashes) % BLOCK_HASH_BYTES:
        raise PeerError(f"{len(hashes)} bytes of hashes are no whole number of them")
    return len(hashes) // BLOCK_HASH_BYTES
