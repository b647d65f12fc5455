"""Private files on disk: made whole or not at all, readable by their owner only.

Rules kept here:
- a file is written under a temporary name (O_EXCL, 0600), synced, and then gets its name in one step; then its directory is
  synced. A process killed anywhere leaves the old file, or the new one, and perhaps a temporary that `sweep` removes;
- `write_new` never replaces a file, `replace` always does; the superuser leaves a file with the owner that it had;
- reading never blocks on a FIFO, and is bounded;
- a lock is an flock on a file of its own: it ends with its process, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zcluster.errors import Busy, InvalidKey

LOCK_WAIT_S = 10.0
"""How long another process's change is waited for."""

LOCK_POLL_S = 0.01
STALE_S = 3600.0
"""A temporary older than this has no writer any more."""

_TEMPORARY = ".tmp"


def make_private_dir(path: Path) -> bool:
    """Make ``path`` a directory of mode 0700; returns whether it was made. An existing one loses the rights of others.

    Raises:
        InvalidKey: it cannot be made, or is no directory of this user.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
            made = True
        except FileExistsError:
            made = False
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            path.chmod(mode & 0o700)
        if not path.is_dir():
            raise InvalidKey(f"{path} is not a directory", hint="move it away, or use another --home")
    except OSError as error:
        raise _failed("cannot make the directory", path, error) from None
    if made:
        _sync_dir(path.parent)
    return made


def read_private(path: Path, limit_bytes: int, *, forbid: int) -> tuple[bytes, os.stat_result]:
    """The content of ``path`` and the stat of what was read.

    Args:
        path: a regular file (or a link to one).
        limit_bytes: the largest content that is read.
        forbid: permission bits that the file must not have, such as 0o077.

    Raises:
        FileNotFoundError: there is no such file.
        InvalidKey: it cannot be read, is larger, is no regular file, or others have a forbidden permission.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _failed("cannot read", path, error) from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidKey(f"{path} is not a regular file", hint="give the path of a file")
        if found.st_mode & forbid:
            mode = stat.S_IMODE(found.st_mode)
            raise InvalidKey(f"{path} is open to other users (mode {mode:04o})", hint=f"run: chmod 600 {path}")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise _failed("cannot read", path, error) from None
    finally:
        os.close(fd)
    if len(data) > limit_bytes:
        raise InvalidKey(f"{path} is larger than {limit_bytes} bytes", hint="restore it from a backup")
    return data, found


def write_new(path: Path, data: bytes) -> None:
    """Write ``data`` to the new file ``path``, mode 0600, whole or not at all.

    Raises:
        InvalidKey: the file exists already, or cannot be written.
    """
    try:
        temporary = _write_temporary(path, data, mtime_ns=None)
        try:
            # link and not rename: it fails when the name is taken, in the same step
            os.link(temporary, path)
        finally:
            temporary.unlink()
        _sync_dir(path.parent)
    except FileExistsError:
        raise InvalidKey(f"{path} exists already", hint="move it away or choose another file; nothing was changed") from None
    except OSError as error:
        raise _failed("cannot write", path, error) from None


def replace(path: Path, data: bytes, *, mtime_ns: int | None = None) -> None:
    """Write ``data`` to ``path``, mode 0600, in place of what is there; with ``mtime_ns`` as its time of change.

    Raises:
        InvalidKey: it cannot be written; what was there is still there.
    """
    try:
        owner = os.stat(path) if os.geteuid() == 0 and path.exists() else None
        temporary = _write_temporary(path, data, mtime_ns=mtime_ns, owner=owner)
        try:
            os.replace(temporary, path)
        except OSError:
            temporary.unlink()
            raise
        _sync_dir(path.parent)
    except OSError as error:
        raise _failed("cannot write", path, error) from None


def sweep(directory: Path, now_s: float) -> list[Path]:
    """Remove the temporaries that killed processes left in ``directory``; returns them.

    Args:
        directory: where to look.
        now_s: the time, as time.time() has it; only what is older than STALE_S by then is removed.
    """
    stale = []
    for path in sorted(directory.glob(f".*{_TEMPORARY}")):
        try:
            if now_s - path.lstat().st_mtime > STALE_S:
                path.unlink()
                stale.append(path)
        except FileNotFoundError:
            continue
    return stale


@contextmanager
def locked(path: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock file ``path`` against other processes, threads and calls.

    Raises:
        Busy: another holder kept it for ``wait_s`` seconds.
        InvalidKey: the lock file cannot be made.
    """
    try:
        fd = _open_lock(path)
    except OSError as error:
        raise _failed("cannot lock", path, error) from None
    try:
        give_up_s = time.monotonic() + wait_s
        while not _try_lock(fd):
            if time.monotonic() >= give_up_s:
                raise Busy(f"{path} is locked by another process", hint="try again when it is done", retry_after_s=1.0)
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(fd)


def _open_lock(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:  # who owns the directory has to open it too
        found = os.stat(path.parent)
        os.fchown(fd, found.st_uid, found.st_gid)
    return fd


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_temporary(path: Path, data: bytes, mtime_ns: int | None, owner: os.stat_result | None = None) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_TEMPORARY}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            if owner is not None:
                os.fchown(fd, owner.st_uid, owner.st_gid)
            file.write(data)
            file.flush()
            if mtime_ns is not None:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            os.fsync(fd)
    except BaseException:
        # an interrupt too: it holds a secret
        temporary.unlink()
        raise
    return temporary


def _sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failed(what: str, path: Path, error: OSError) -> InvalidKey:
    hints = {
        errno.EACCES: "run it as the user who owns the home, or use another --home",
        errno.EPERM: "run it as the user who owns it, on a file system that has hard links",
        errno.EROFS: "the file system is read-only: use another place",
        errno.ENOSPC: "the file system is full: free some space",
        errno.ENOENT: "make its directory first",
        errno.EOPNOTSUPP: "this file system has no hard links: write to a local disk and copy the file",
    }
    return InvalidKey(f"{what} {path}: {error.strerror or type(error).__name__}", hint=hints.get(error.errno or 0, ""))
