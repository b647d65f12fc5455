"""Arguments and results that are too large for a row: files in a directory beside the database.

Rules kept here:
- a file is whole and on the disk, and so is its name, before ``keep`` returns: its row is committed after that;
- a file is never written again: each has a name of its own, which holds the digest of what is in it, and what is read is checked;
- a file is removed after its row is gone; what a crash leaves between the two is removed by ``sweep``, when the store is opened;
- nothing outside the directory is touched, whatever a broken row says: a name is checked, links are not followed.

Everything here blocks, and is called from the store's thread; one process has the store (sqlite_file.py).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from zcluster.errors import StoreFailed
from zcluster.process.failpoints import failpoint

DIGEST_BYTES = 16
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}")
"""Random, so that nobody can put a file in the way; then blake2b_128 of the content."""
_TEMPORARY = re.compile(r"[0-9a-f]{16}\.new")
_READ_BYTES = 1024 * 1024


class JobFiles:
    """The files in ``directory``, which is made when it is not there.

    Raises:
        StoreFailed: it cannot be made or opened, or is no directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise self._failure("opening the files of jobs", error) from None
        try:
            # The directory's own name has to last as long as the rows that rely on it.
            _sync_directory(directory.parent)
        except OSError as error:
            os.close(self._fd)
            raise self._failure("opening the files of jobs", error) from None

    def keep(self, bodies: Sequence[bytes]) -> list[str]:
        """Write a file for each of ``bodies``; returns their names in this order, all of them on the disk.

        Raises:
            StoreFailed: the disk is full or broken; none of them is there.
        """
        names: list[str] = []
        try:
            for body in bodies:
                names.append(self._write(body))
            if names:
                os.fsync(self._fd)
        except OSError as error:
            self._unlink(names)
            raise self._failure("writing the files of jobs", error) from None
        return names

    def read(self, name: str) -> bytes:
        """What ``keep`` wrote as ``name``.

        Raises:
            StoreFailed: it is gone or cannot be read, or is not what was written.
        """
        self._check(name)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                chunks: list[bytes] = []
                while chunk := os.read(fd, _READ_BYTES):
                    chunks.append(chunk)
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise StoreFailed(
                f"the file {self.directory / name} of a job is missing",
                hint="put it back from a copy; `zcluster queue check` tells of all",
            ) from None
        except OSError as error:
            raise self._failure(f"reading {name}", error) from None
        body = b"".join(chunks)
        if _digest(body) != name.rpartition("-")[2]:
            raise StoreFailed(
                f"the file {self.directory / name} of a job is damaged", hint="put it back from a copy, and check the disk"
            )
        return body

    def remove(self, names: Iterable[str]) -> None:
        """Remove files whose rows are gone. One that cannot be removed, or is gone, is left: ``sweep`` finds it."""
        names = list(names)
        for name in names:
            self._check(name)
        self._unlink(names)

    def names(self) -> set[str]:
        """The files that are there. Raises StoreFailed."""
        return {name for name in self._entries() if _NAME.fullmatch(name)}

    def sweep(self, named: Collection[str]) -> int:
        """Remove the files that are not ``named`` by any row, and what was being written; returns how many. Files of other
        kinds are not ours, and stay. Raises StoreFailed: the directory cannot be read."""
        orphans = [
            name for name in self._entries() if (_NAME.fullmatch(name) and name not in named) or _TEMPORARY.fullmatch(name)
        ]
        self._unlink(orphans)
        return len(orphans)

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)

    def _write(self, body: bytes) -> str:
        token = secrets.token_hex(8)
        temporary = f"{token}.new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        try:
            try:
                view = memoryview(body)
                while view:
                    view = view[os.write(fd, view) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            failpoint("queue.file.before_rename")
            name = f"{token}-{_digest(body)}"
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError:
            self._unlink([temporary])
            raise
        failpoint("queue.file.after_rename")
        return name

    def _entries(self) -> list[str]:
        try:
            return os.listdir(self._fd)
        except OSError as error:
            raise self._failure("listing the files of jobs", error) from None

    def _unlink(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                os.unlink(name, dir_fd=self._fd)
            except OSError:
                # Gone already, or the disk is broken: no row names it, and the next opening tries again.
                continue

    def _check(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise StoreFailed(
                f"{name[:80]!r} is no file of a job: its row is damaged", hint="`zcluster queue check` tells what is intact"
            )

    def _failure(self, what: str, error: OSError) -> StoreFailed:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreFailed(
                f"{what} failed: the disk is full; nothing was changed", hint=f"free space on the disk of {self.directory}"
            )
        return StoreFailed(
            f"{what} failed: {error.strerror} ({self.directory}); nothing was changed",
            hint="check the directory's owner, and the disk",
        )


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).hexdigest()


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
