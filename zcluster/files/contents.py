"""The digest of a file that holds still.

Rules kept here:
- a digest is believed only when stat says the same before and after the read, and as many bytes were read as it says; a file
  that changes meanwhile is read again, at most MAX_READS times;
- what was stamped so recently that a further write in the same clock tick would leave no trace is *young*: whoever asked has
  to ask again;
- memory is one buffer of PIECE_BYTES, however large the file.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

from zcluster.core.sync.entry import HASHES, content_digest

YOUNG_NS = 20_000_000
"""Two ticks of the coarsest clock that a kernel stamps files with (CONFIG_HZ=100)."""
COARSE_YOUNG_NS = 2_020_000_000
"""The same for a file system that keeps whole seconds only (or two, as FAT)."""
LARGE_BYTES = 64 * 1024 * 1024
"""A young file of this size is waited for (a little over YOUNG_NS) before it is read: cheaper than to read it twice."""
PIECE_BYTES = 1024 * 1024
SMALL_BYTES = 64 * 1024
MAX_READS = 3
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
"""What open says of a name that is no longer what it was when its directory was listed."""

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Hashed(NamedTuple):
    """What became of one file; without a digest, ``fault`` says why."""

    digest: bytes
    stat: os.stat_result | None
    young: bool
    fault: str = ""
    moving: bool = False
    """There is no digest because it does not hold still; another look may have more luck at once."""


def is_young(stamp_ns: int, before_ns: int, after_ns: int) -> bool:
    """Whether a file stamped ``stamp_ns`` could be written again, between or soon after these moments, without a trace.

    A stamp of the future is no young one (the clock was set back): it would be young for ever.
    """
    window_ns = COARSE_YOUNG_NS if stamp_ns % 1_000_000_000 == 0 else YOUNG_NS
    return before_ns - window_ns <= stamp_ns <= after_ns + window_ns


def reason_of(error: OSError) -> str:
    """``error`` in words that do not name the path again."""
    return error.strerror or type(error).__name__


class Hashing:
    """Hashes files for one tree. One thread at a time.

    Args:
        hash_name: one of HASHES.
        clock_ns: now, by the clock that stamps files (of a remote file system: its server's, within YOUNG_NS).
        sleep_s: waits that many seconds.
    """

    def __init__(self, hash_name: str, clock_ns: Callable[[], int], sleep_s: Callable[[float], None] = time.sleep) -> None:
        self._hash_name = hash_name
        self._clock_ns = clock_ns
        self._sleep_s = sleep_s
        self._buffer = memoryview(bytearray(PIECE_BYTES))
        self.files = 0
        self.bytes = 0
        """What was hashed so far."""

    def hash_file(self, dir_fd: int, name: str) -> Hashed:
        """Hash the file ``name`` of an open directory; one that changes while it is read is read again, MAX_READS times."""
        try:
            fd = os.open(name, _READ_FLAGS, dir_fd=dir_fd)
        except OSError as error:
            return Hashed(b"", None, False, reason_of(error), moving=error.errno in GONE)
        try:
            return self._hash_open(fd)
        except OSError as error:
            return Hashed(b"", None, False, reason_of(error))
        finally:
            os.close(fd)

    def _hash_open(self, fd: int) -> Hashed:
        before = os.fstat(fd)
        for _ in range(MAX_READS):
            if not stat.S_ISREG(before.st_mode):
                break
            now_ns = self._clock_ns()
            young = is_young(before.st_ctime_ns, now_ns, now_ns)
            if young and before.st_size >= LARGE_BYTES:
                self._sleep_s(YOUNG_NS * 1.25 / 1e9)
                waited, before = before, os.fstat(fd)
                if not same_file(waited, before):
                    continue
                now_ns = self._clock_ns()
                young = is_young(before.st_ctime_ns, now_ns, now_ns)
            digest = self._digest(fd, before)
            after = os.fstat(fd)
            if digest and same_file(before, after):
                self.files += 1
                self.bytes += after.st_size
                return Hashed(digest, after, young)
            before = after
        return Hashed(b"", None, True, "it changes while it is read", moving=True)

    def _digest(self, fd: int, st: os.stat_result) -> bytes:
        """The digest of ``st.st_size`` bytes; empty when there are more or fewer, or when it changes on the way."""
        size = st.st_size
        if size < SMALL_BYTES:
            data = os.pread(fd, size + 1, 0)
            return content_digest(self._hash_name, data) if len(data) == size else b""
        hasher = HASHES[self._hash_name]()
        offset = 0
        while count := os.preadv(fd, [self._buffer], offset):
            hasher.update(self._buffer[:count])
            offset += count
            if offset > size or (offset % LARGE_BYTES == 0 and not same_file(st, os.fstat(fd))):
                return b""
        return hasher.digest() if offset == size else b""


def same_file(one: os.stat_result, two: os.stat_result) -> bool:
    """Whether these are of one file that nobody has written meanwhile."""
    return (
        one.st_ctime_ns == two.st_ctime_ns
        and one.st_mtime_ns == two.st_mtime_ns
        and one.st_size == two.st_size
        and one.st_ino == two.st_ino
    )
