"""Directories of files for the bench of file sync: made, changed, and compared.

Rules kept here:
- contents are random bytes of a seed: no program gains by compressing them, and each run has the same tree;
- a change is prepared beside the tree and renamed in: no program sees half of it, and preparing it is not measured;
- each change gives a file another second in its time, in the past: rsync takes a file of the same size and second for the
  same file, however much is written in a second;
- what is compared is everything that a tree promises: names, kinds, sizes, permissions, contents; ``.zcluster`` is not of it.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import xxhash

from zcluster.errors import UsageError, ZClusterError

PER_DIRECTORY = 100
PAGE_BYTES = 4096
PIECE_BYTES = 4 * 1024 * 1024
HIDDEN = ".zcluster"
OLD_S = 7 * 24 * 3600
"""How far back the times of a new tree's files lie."""
STEP_S = 2
STRIDES = (7919, 104_729, 1_299_709)
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})
SHM = Path("/dev/shm")
INODE_BYTES = 1280
"""What a file costs beside its content, at most: inode, name, and on a tmpfs the memory of both."""


Changes = list[tuple[Path, Path]]
"""(where the new file was prepared, its place in the tree)."""


@dataclass(frozen=True)
class Place:
    """A directory for a bench."""

    path: Path
    file_system: str
    """Its type, such as ``tmpfs`` or ``ext4``; empty when the system does not tell."""


def find_place(wanted: Path | None, need_bytes: int, temporary: Path) -> Place:
    """Where a bench can write ``need_bytes``.

    Args:
        wanted: the user's choice; None takes /dev/shm if that is a tmpfs with room, else ``temporary``.
        need_bytes: the most that will be there at once; see :func:`footprint_bytes`.
        temporary: the system's directory for temporary files.

    Raises:
        UsageError: there is no such directory, or not enough room.
    """
    if wanted is None:
        in_memory = file_system_of(SHM) == "tmpfs" and _free_bytes(SHM) >= need_bytes
        wanted = SHM if in_memory else temporary
    if not wanted.is_dir():
        raise UsageError(f"{wanted} is not a directory", hint="give --dir a directory that exists")
    free_bytes = _free_bytes(wanted)
    if free_bytes < need_bytes:
        raise UsageError(
            f"the bench needs {need_bytes / 2**30:,.1f} GiB in {wanted}, which has {free_bytes / 2**30:,.1f} GiB free",
            hint="give --dir another directory, or fewer --files, a smaller --size or fewer --workers",
        )
    return Place(wanted, file_system_of(wanted))


def file_system_of(path: Path) -> str:
    """The type of the file system that ``path`` is on; empty when the system does not tell."""
    path = path.resolve()
    found = [p for p in psutil.disk_partitions(all=True) if path.is_relative_to(p.mountpoint)]
    return str(max(found, key=lambda p: len(p.mountpoint)).fstype) if found else ""


def footprint_bytes(files: int, size_bytes: int, copies: int) -> int:
    """What ``copies`` copies of ``files`` files of ``size_bytes`` need on a disk, whole pages, and what names cost."""
    pages = -(-size_bytes // PAGE_BYTES)
    return files * (pages * PAGE_BYTES + INODE_BYTES) * copies


def _free_bytes(path: Path) -> int:
    """What can be written at ``path``; on a tmpfs not more than the machine's memory has."""
    try:
        free = shutil.disk_usage(path).free
    except OSError:
        return 0
    return min(free, int(psutil.virtual_memory().available)) if file_system_of(path) == "tmpfs" else free


# -- making and changing


class SourceTree:
    """The tree that is synced: ``files`` files of ``size_bytes`` beneath ``root``/data.

    Args:
        root: a directory of its own, which is made.
        beside: where changes are prepared; on the same file system, outside of ``root``.
        files: how many files; 100 to a directory, or 1,000 where there are more than 100,000.
        size_bytes: the length of each.
    """

    def __init__(self, root: Path, beside: Path, files: int, size_bytes: int) -> None:
        self.root = root
        self.data = root / "data"
        self.files = files
        self._beside = beside
        self._size_bytes = size_bytes
        self._random = random.Random(4711)
        self._began_s = int(os.stat(root.parent).st_mtime) - OLD_S
        self._steps = 0
        self._next = 0
        # A prime that does not divide the number of files: each file has its turn, and neighbours are in other directories.
        self._stride = next(prime for prime in STRIDES if files % prime)
        self._per_directory = PER_DIRECTORY if files <= 100_000 else 10 * PER_DIRECTORY
        root.mkdir()
        beside.mkdir()

    def file(self, number: int) -> Path:
        """The path of a file, from 0 on."""
        return self.data / self._name(number)

    def _name(self, number: int) -> str:
        return f"d{number // self._per_directory:05d}/f{number:07d}"

    def sample(self) -> Changes:
        """The last file of each directory, as the changes that :func:`files_there` takes."""
        last = range(self._per_directory - 1, self.files, self._per_directory)
        return [(self.file(number), self.file(number)) for number in (*last, self.files - 1)]

    def prepare(self) -> None:
        """Makes all files beside the tree; :meth:`show` moves them in."""
        made = self._beside / "data"
        for number in range(self.files):
            path = made / self._name(number)
            if number % self._per_directory == 0:
                path.parent.mkdir(parents=True)
            self._write(path)

    def show(self) -> None:
        """All prepared files become the tree, in one rename."""
        (self._beside / "data").rename(self.data)

    def hide(self) -> None:
        """The reverse of :meth:`show`."""
        self.data.rename(self._beside / "data")

    def prepare_changes(self, count: int) -> Changes:
        """New contents, of the same length, for the next ``count`` files: (prepared, its place), for :meth:`apply`."""
        self._steps += 1
        changes: Changes = []
        for _ in range(min(count, self.files)):
            place = self.file(self._next)
            self._next = (self._next + self._stride) % self.files
            prepared = self._beside / f"change-{len(changes)}"
            self._write(prepared)
            changes.append((prepared, place))
        return changes

    def prepare_pages(self, share: float) -> Changes:
        """The first file with ``share`` of its pages of 4 KiB replaced, each at random; for :meth:`apply`."""
        self._steps += 1
        prepared = self._beside / "change-0"
        shutil.copyfile(self.file(0), prepared)
        size = prepared.stat().st_size
        pages = -(-size // PAGE_BYTES)
        with prepared.open("r+b") as file:
            for page in self._random.sample(range(pages), max(1, int(pages * share))):
                file.seek(page * PAGE_BYTES)
                file.write(self._random.randbytes(min(PAGE_BYTES, size - page * PAGE_BYTES)))
        self._stamp(prepared)
        return [(prepared, self.file(0))]

    def prepare_insert(self, insert_bytes: int) -> Changes:
        """The first file with ``insert_bytes`` put into its middle; for :meth:`apply`."""
        self._steps += 1
        prepared = self._beside / "change-0"
        size = self.file(0).stat().st_size
        with self.file(0).open("rb") as old, prepared.open("wb") as new:
            _copy(old.fileno(), new.fileno(), size // 2)
            os.write(new.fileno(), self._random.randbytes(insert_bytes))
            _copy(old.fileno(), new.fileno(), size - size // 2)
        self._stamp(prepared)
        return [(prepared, self.file(0))]

    @staticmethod
    def apply(changes: Changes) -> None:
        """The prepared files replace those in the tree, one rename each."""
        for prepared, place in changes:
            os.replace(prepared, place)

    def _write(self, path: Path) -> None:
        with path.open("wb") as file:
            for begin in range(0, self._size_bytes, PIECE_BYTES):
                file.write(self._random.randbytes(min(PIECE_BYTES, self._size_bytes - begin)))
        self._stamp(path)

    def _stamp(self, path: Path) -> None:
        at_s = self._began_s + self._steps * STEP_S
        os.utime(path, (at_s, at_s))


def _copy(source: int, target: int, count: int) -> None:
    while count:
        done = os.sendfile(target, source, None, count)
        if not done:
            raise ZClusterError("a file of the bench is shorter than it was", hint="does something else write there?")
        count -= done


def files_there(changes: Changes, source: Path, copy: Path) -> bool:
    """Whether ``copy`` has what was changed at ``source``, by size and time: cheap enough to be asked while waiting."""
    for _prepared, place in changes:
        try:
            theirs, mine = place.stat(), (copy / place.relative_to(source)).stat()
        except FileNotFoundError:
            return False
        if (theirs.st_size, theirs.st_mtime_ns) != (mine.st_size, mine.st_mtime_ns):
            return False
    return True


# -- comparing


def tree_digest(root: Path) -> str:
    """A digest of everything beneath ``root`` but ``.zcluster``: paths, kinds, permissions, sizes, contents, targets of links.

    Raises:
        OSError: something cannot be read.
    """
    digest = xxhash.xxh3_128()
    for path, name, mode in _walk(os.fspath(root), ""):
        digest.update(f"{name}\0{mode:o}\0".encode("utf-8", "surrogateescape"))
        if stat.S_ISLNK(mode):
            digest.update(os.fsencode(os.readlink(path)))
        elif stat.S_ISREG(mode):
            size = 0
            content = xxhash.xxh3_128()
            with open(path, "rb", buffering=0) as file:
                while piece := file.read(PIECE_BYTES):
                    size += len(piece)
                    content.update(piece)
            digest.update(f"{size}\0".encode() + content.digest())
    return digest.hexdigest()


def _walk(root: str, prefix: str) -> Iterator[tuple[str, str, int]]:
    """(path, name from the root, mode) of all beneath, in the order of names."""
    waiting = [(root, prefix)]
    while waiting:
        directory, prefix = waiting.pop()
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if not prefix and entry.name == HIDDEN:
                continue
            mode = entry.stat(follow_symlinks=False).st_mode
            yield entry.path, prefix + entry.name, mode
            if stat.S_ISDIR(mode):
                waiting.append((entry.path, prefix + entry.name + "/"))


def check_same(source: Path, copies: dict[str, Path]) -> None:
    """Raises ZClusterError when one of ``copies`` (by the name of who made it) is not what ``source`` is."""
    wanted = tree_digest(source)
    for name, copy in copies.items():
        try:
            found = tree_digest(copy)
        except OSError as error:
            raise ZClusterError(f"the copy of {name} cannot be read: {error}", hint="its figures are worth nothing") from error
        if found != wanted:
            raise ZClusterError(f"the copy of {name} is not what was copied: {copy}", hint="its figures are worth nothing")
