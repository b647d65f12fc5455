"""Working beneath one open directory without ever leaving it, whatever is swapped under us meanwhile.

Rules kept here:
- no component of a path is followed when it is a symbolic link, and none is ``..``: the kernel sees to it (openat2(2) with
  RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS), or, where it cannot, each component is opened by itself
  with O_NOFOLLOW and O_DIRECTORY;
- what is done to a name is done relative to its directory's fd and never follows the name itself;
- a path that no honest peer sends raises PeerError before any system call;
- zcluster's own directory is never entered, by whatever spelling a file system takes for it;
- open directories are bounded, the least recently used is closed first.

A directory that somebody moves elsewhere while it is open is still that directory: `forget` all before a batch, so that the
window is one batch.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import OrderedDict

from zcluster.errors import PeerError, UsageError

CONTROL_NAME = ".zcluster"
"""zcluster's own directory in the root of each tree."""

MAX_PATH_BYTES = 4096
MAX_OPEN = 64
MIN_OPEN = 4
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEVER = frozenset({"", ".", ".."})

_SYS_OPENAT2 = 437
"""The same number on every architecture (Linux 5.6)."""
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_AGAIN_MAX = 8


class _How(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_SYSCALL = ctypes.CDLL(None, use_errno=True).syscall
_SYSCALL.restype = ctypes.c_long
_SYSCALL.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_HOW_DIR = _How(_DIR_FLAGS, 0, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)


def name_fault(name: str) -> str:
    """Why ``name`` is never the name of a synced file, or empty. (What a tree may hold is decided in the core; this is the
    last line of defence, and only what would lead out of the tree or into zcluster's own directory is refused.)"""
    if name in _NEVER:
        return f"the name {name!r}"
    if "\0" in name or "/" in name:
        return "a NUL or a slash in a name"
    if name[0] == "." and name.casefold() == CONTROL_NAME:
        return f"the reserved name {CONTROL_NAME}"
    try:
        if len(name.encode()) > 255:
            return "a name of more than 255 bytes"
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    return ""


def components(path: str) -> list[str]:
    """The names that ``path`` is made of.

    Raises:
        PeerError: it is no relative, normal path, or one that leads into zcluster's own directory.
    """
    names = path.split("/")
    for name in names:
        if fault := name_fault(name):
            raise PeerError(f"a path is refused: {fault} in {path[:200]!r}")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise PeerError(f"a path is refused: more than {MAX_PATH_BYTES} bytes")
    return names


def _openat2_dir(root_fd: int, path: bytes) -> int:
    for _attempt in range(_AGAIN_MAX):
        fd = int(_SYSCALL(_SYS_OPENAT2, root_fd, path, ctypes.byref(_HOW_DIR), ctypes.sizeof(_How)))
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), os.fsdecode(path))


def _probe() -> bool:
    """Whether the kernel, and what filters its calls, lets us use openat2."""
    fd = os.open("/", _DIR_FLAGS)
    try:
        os.close(_openat2_dir(fd, b"."))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


HAS_OPENAT2 = _probe()


class Beneath:
    """What is beneath one open directory, by relative paths; ``""`` is the directory itself.

    Args:
        root_fd: the open directory; it stays the caller's.
        max_open: how many directories are held open, at least MIN_OPEN.
        forbidden: (device, inode) of directories that are never entered.
        openat2: whether to use openat2(2).

    All methods raise PeerError for a hostile path, and OSError for what the disk says: ELOOP or ENOTDIR where a component
    is a symbolic link.
    """

    def __init__(
        self,
        root_fd: int,
        *,
        max_open: int = MAX_OPEN,
        forbidden: frozenset[tuple[int, int]] = frozenset(),
        openat2: bool = HAS_OPENAT2,
    ) -> None:
        if max_open < MIN_OPEN:
            raise UsageError(f"max_open is {max_open}, and must be at least {MIN_OPEN}")
        self.root_fd = root_fd
        self._max_open = max_open
        self._forbidden = forbidden
        self._openat2 = openat2
        self._fds: OrderedDict[str, int] = OrderedDict()

    @property
    def open_count(self) -> int:
        """How many directories are held open."""
        return len(self._fds)

    def dir_fd(self, path: str) -> int:
        """The fd of the directory ``path``, which stays ours and open while MIN_OPEN - 1 others are asked for."""
        if not path:
            return self.root_fd
        fd = self._fds.get(path)
        if fd is not None:
            self._fds.move_to_end(path)
            return fd
        names = components(path)
        fd = _openat2_dir(self.root_fd, path.encode()) if self._openat2 else self._step_by_step(names)
        info = os.fstat(fd)
        if (info.st_dev, info.st_ino) in self._forbidden:
            os.close(fd)
            raise PeerError(f"a path is refused: {path[:200]!r} leads into zcluster's own directory")
        if len(self._fds) >= self._max_open:
            os.close(self._fds.popitem(last=False)[1])
        self._fds[path] = fd
        return fd

    def _step_by_step(self, names: list[str]) -> int:
        fd = os.open(names[0], _DIR_FLAGS, dir_fd=self.root_fd)
        for name in names[1:]:
            try:
                deeper = os.open(name, _DIR_FLAGS, dir_fd=fd)
            finally:
                os.close(fd)
            fd = deeper
        return fd

    def at(self, path: str) -> tuple[int, str]:
        """The fd of the directory that ``path`` is in (as `dir_fd`), and its name there."""
        directory, slash, name = path.rpartition("/")
        if slash and not directory:
            raise PeerError(f"a path is refused: {path[:200]!r} is absolute")
        if fault := name_fault(name):
            raise PeerError(f"a path is refused: {fault} in {path[:200]!r}")
        return self.dir_fd(directory), name

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """Open a file; a symbolic link at its end is refused (ELOOP). The fd is the caller's."""
        fd, name = self.at(path)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=fd)

    def lstat(self, path: str) -> os.stat_result:
        """What ``path`` is; of a symbolic link, the link."""
        fd, name = self.at(path)
        return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def readlink(self, path: str) -> str:
        """The target of a symbolic link."""
        fd, name = self.at(path)
        return os.readlink(name, dir_fd=fd)

    def mkdir(self, path: str, mode: int) -> None:
        """Make one directory (its mode is subject to the umask)."""
        fd, name = self.at(path)
        os.mkdir(name, mode, dir_fd=fd)

    def unlink(self, path: str) -> None:
        """Remove what is no directory."""
        fd, name = self.at(path)
        os.unlink(name, dir_fd=fd)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        fd, name = self.at(path)
        os.rmdir(name, dir_fd=fd)
        self.forget(path)

    def forget(self, path: str = "") -> None:
        """Close the directory ``path`` and all beneath it that are held open."""
        inside = f"{path}/"
        for known in [known for known in self._fds if not path or known == path or known.startswith(inside)]:
            os.close(self._fds.pop(known))

    def close(self) -> None:
        """Close all that is held open; the root's fd stays open."""
        self.forget()
