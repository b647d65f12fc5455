"""Making what was written survive a power cut, and saying plainly why it could not be written.

Rules kept here:
- a batch is made durable together: by one syncfs(2), or, when it is small, by an fsync(2) for each file;
- a small file that is replaced is the old one or the new one whatever happens (`replace_file`);
- an error of the disk becomes an error of zcluster with a hint; none is swallowed.

`crash_point` is a seam for tests: when it is set, the steps of a commit call it with their names, in this order:
``staged`` ``synced`` ``journaled`` ``renaming`` (before each rename) ``renamed`` ``deleted`` ``state`` ``done``.
A sync process is reached through the environment: CRASH_VARIABLE names a file, and where that file says ``STEP COUNT`` the
process that comes to STEP for the COUNT-th time removes the file and ends itself by SIGKILL. Without the variable nothing of
this exists.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import signal
from collections.abc import Callable

from zcluster.errors import ZClusterError

FEW = 20
"""A batch of fewer files is synced file by file: below that an fsync each is cheaper than syncing a whole file system."""

CRASH_VARIABLE = "CRASH_POINT_OF_ZCLUSTER_TESTS"


def _crash_from(place: str) -> Callable[[str], None] | None:
    """What ends this process where the file ``place`` says; None without one."""
    if not place:
        return None

    def crash(step: str) -> None:
        try:
            with open(place, encoding="ascii") as file:
                wanted, count = file.read().split()
        except FileNotFoundError:
            return
        if wanted != step:
            return
        if int(count) > 1:
            with open(place, "w", encoding="ascii") as file:
                file.write(f"{wanted} {int(count) - 1}")
            return
        os.unlink(place)
        os.kill(os.getpid(), signal.SIGKILL)

    return crash


crash_point: Callable[[str], None] | None = _crash_from(os.environ.get(CRASH_VARIABLE, ""))
"""Called with the name of each step of a commit; None outside of tests."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_FALLOCATE = getattr(_LIBC, "fallocate64", _LIBC.fallocate)
_FALLOCATE.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

_HINTS = {
    errno.ENOSPC: "free some space on its file system; the next attempt starts from there",
    errno.EDQUOT: "raise the quota or free some space; the next attempt starts from there",
    errno.EFBIG: "raise the file size limit of the process (ulimit -f), or exclude the file",
    errno.EIO: "the disk reports errors: check it (dmesg), then `zcluster sync verify`",
    errno.EROFS: "the file system is mounted read-only: remount it writable",
    errno.EACCES: "give zcluster's user the right to write there",
    errno.EPERM: "give zcluster's user the right to write there",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files (fs.file-max)",
}


def reach(step: str) -> None:
    """Tell the test, if there is one, that a commit has come to ``step``."""
    if crash_point is not None:
        crash_point(step)


def disk_error(what: str, error: OSError) -> ZClusterError:
    """The error to raise for ``error``: ``what`` could not be done, why, and what to do next."""
    reason = error.strerror or str(error)
    return ZClusterError(f"{what}: {reason}", hint=_HINTS.get(error.errno or 0, "mend that; the next attempt starts from there"))


def syncfs(fd: int) -> None:
    """Write everything of the file system that ``fd`` is on to its disk (syncfs(2); reports EIO since Linux 5.8).

    Raises:
        OSError: the disk failed.
    """
    if _LIBC.syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def fsync_dir(fd: int) -> None:
    """fsync(2) of an open file or directory; a file system that has no such thing (EINVAL) needs none.

    Raises:
        OSError: the disk failed.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def reserve(fd: int, size: int) -> None:
    """Make the file ``size`` bytes long and reserve its space on the disk, so that a full disk is seen before the work.

    Where the file system cannot reserve (NFS), only the length is set. Data that is there stays (fallocate(2), mode 0).

    Raises:
        OSError: there is no space (ENOSPC), or the file may not be that large (EFBIG).
    """
    os.ftruncate(fd, size)
    if size == 0 or _FALLOCATE(fd, 0, 0, size) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code))


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of ``data`` at the file's position, however short each write(2) is.

    Raises:
        OSError: the disk is full, or failed.
    """
    done = os.write(fd, data)
    if done == len(data):
        return
    view = memoryview(data)
    while done < len(view):
        done += os.write(fd, view[done:])


def pwrite_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset`` of the file.

    Raises:
        OSError: the disk is full, or failed.
    """
    done = os.pwrite(fd, data, offset)
    if done == len(data):
        return
    view = memoryview(data)
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def replace_file(dir_fd: int, name: str, data: bytes) -> None:
    """Replace the file ``name`` of an open directory in one step, durably: temporary, fsync, rename, fsync of the directory.

    Raises:
        OSError: it could not be; the old file is as it was.
    """
    temporary = f".{secrets.token_hex(8)}.tmp"  # without the name, which may be as long as a name can be
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    try:
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except OSError:
        os.unlink(temporary, dir_fd=dir_fd)
        raise
    fsync_dir(dir_fd)


def read_file(dir_fd: int, name: str, limit_bytes: int) -> bytes | None:
    """The content of a regular file of an open directory; None when there is none, it is longer than the limit, or no file.

    Raises:
        OSError: the disk failed.
    """
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            return None
        raise
    try:
        info = os.fstat(fd)
        if (info.st_mode & 0o170000) != 0o100000 or info.st_size > limit_bytes:
            return None
        parts = []
        while part := os.read(fd, 1 << 20):
            parts.append(part)
            if sum(map(len, parts)) > limit_bytes:
                return None
        return b"".join(parts)
    finally:
        os.close(fd)
