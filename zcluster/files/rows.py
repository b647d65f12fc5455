"""A directory as the kernel lists it: names and raw stat rows.

Rules kept here:
- no object is kept for an entry: 40 bytes and its name, so that a directory of 100,000 files costs little to look at;
- no symbolic link is followed; zcluster's own directory in the root is not seen;
- a name that went while we looked is told from one that could not be looked at.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

import xxhash

from zcluster.core.sync.paths import OWN_DIRECTORY
from zcluster.files.contents import GONE, reason_of

_BATCH = 4096
_INT64 = 2**63 - 1


class Rows(NamedTuple):
    """A directory as the kernel lists it."""

    names: list[str]
    packed: bytes
    """For each name: mode, inode, size, mtime_ns, ctime_ns; of a directory only mode and inode, for what changes beneath it
    is not its own change."""
    directories: list[str]
    failed: list[tuple[str, str]]
    """Names whose stat failed, and why."""
    raced: bool
    """A name went while we looked."""
    before_ns: int
    after_ns: int

    def signature(self) -> bytes:
        """The same for the same names in the same order with the same rows."""
        names = os.fsencode("/".join(self.names))
        return xxhash.xxh3_128_digest(self.packed + names)


def read_some(fd: int, names: Iterable[str], *, clock_ns: Callable[[], int]) -> Rows:
    """The rows of some names of the open directory ``fd``; those that are gone are left out."""
    here: list[str] = []
    directories: list[str] = []
    failed: list[tuple[str, str]] = []
    row: list[int] = []
    before_ns = clock_ns()
    for name in names:
        try:
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            # Only this says that a name is gone: ESTALE may be of the directory itself.
            if error.errno != errno.ENOENT:
                failed.append((name, reason_of(error)))
            continue
        here.append(name)
        row += (st.st_mode, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        if stat.S_ISDIR(st.st_mode):
            directories.append(name)
    return Rows(here, _pack(row), directories, failed, False, before_ns, clock_ns())


def read_rows(fd: int, *, at_root: bool, clock_ns: Callable[[], int]) -> Rows:
    """List the open directory ``fd``.

    Raises:
        OSError: it cannot be listed.
    """
    names: list[str] = []
    directories: list[str] = []
    failed: list[tuple[str, str]] = []
    parts: list[bytes] = []
    raced = False
    before_ns = clock_ns()
    with os.scandir(fd) as found:
        while batch := list(islice(found, _BATCH)):
            row: list[int] = []
            for item in batch:
                name = item.name
                if at_root and name == OWN_DIRECTORY:
                    continue
                try:
                    st = item.stat(follow_symlinks=False)
                except OSError as error:
                    if error.errno in GONE:
                        raced = True
                    else:
                        failed.append((name, reason_of(error)))
                    continue
                mode = st.st_mode
                names.append(name)
                if mode & 0o170000 == 0o040000:
                    row += (mode, st.st_ino, 0, 0, 0)
                    directories.append(name)
                else:
                    row += (mode, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
            parts.append(_pack(row))
    return Rows(names, b"".join(parts), directories, failed, raced, before_ns, clock_ns())


def _pack(row: list[int]) -> bytes:
    try:
        return struct.pack(f"{len(row)}q", *row)
    except struct.error:  # an inode above 2**63, or a time beyond the year 2262
        return struct.pack(f"{len(row)}q", *(int64(value) for value in row))


def int64(value: int) -> int:
    """``value`` as it is kept: within 64 bits, whatever a file system says."""
    return value & _INT64 if value >= 0 else max(value, -_INT64)
