"""A synced tree on disk: its root held open, and zcluster's own directory in it.

Rules kept here:
- the root is resolved once, when it is opened (a symlinked root is legitimate), and held; after that nothing is followed;
- zcluster's directory is 0700 and ours: one process at a time has the tree (flock, which ends with its process);
- the marker is only written when the tree is first made, or on demand: a root without one is a disk that is not mounted;
- recovery carries a complete journal through, abandons an incomplete one, and can itself be killed at any moment;
- what a dead process left in the staging directory is swept and never in the way; young partial large files stay.

    <root>/.zcluster/   tree (the marker)  lock  state  journal  stage/
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from zcluster.errors import Busy, ConfigError, UsageError, ZClusterError
from zcluster.files import durable, journal
from zcluster.files.apply import CASE, Applied, Carrier
from zcluster.files.beneath import CONTROL_NAME, Beneath

MARKER_NAME = "tree"
LOCK_NAME = "lock"
STAGE_NAME = "stage"
PARTIAL = "part."
"""How the names of large files begin that are being put together."""

PARTIAL_KEPT_S = 7 * 86400.0
PARTIALS_KEPT = 16
PARTIAL_KEPT_BYTES = 64 << 30
"""Partial files that survive a restart: as old, as many and as large together; the newest one always may."""
MAX_DISTRUSTED = 1024
_MARKER_MAX_BYTES = 4096
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Recovered:
    """What recovery found.

    Args:
        applied: what it carried through, None when there was no complete journal.
        version: of that journal, 0 without one.
        swept: how many names of dead processes it removed from the staging directory.
        partials: how many partial large files it kept.
    """

    applied: Applied | None
    version: int
    swept: int
    partials: int


class TreeDir:
    """The root of a tree, held open and locked until `close`.

    Args:
        root: where the tree is; resolved here, once.
        tree: its name, which the marker has to say.
        create: make the root (with its parents) and the marker when they are missing.

    Raises:
        Busy: another process has the tree.
        ConfigError: it is the root of another tree.
        ZClusterError: it is missing, is no directory, or cannot be opened or locked.
    """

    def __init__(self, root: Path, tree: str, *, create: bool) -> None:
        self.root = Path(os.path.realpath(root))
        self.tree = tree
        self.recovered = False
        """Whether a commit may begin: `recover` has been called, and no commit has failed half-way since."""
        self.distrusted: set[bytes] = set()
        """Digests of large files whose parts all matched and whose whole did not: next time nothing old is taken for them."""
        self._fds: list[int] = []
        self._prefix = secrets.token_hex(4)
        self._staged_count = 0
        try:
            self._open(create)
        except OSError as error:
            self.close()
            raise durable.disk_error(f"the tree {tree!r} at {self.root} cannot be opened", error) from None
        except ZClusterError:
            self.close()
            raise

    def _open(self, create: bool) -> None:
        if create:
            self.root.mkdir(parents=True, exist_ok=True)
        self.root_fd = self._hold(os.open(self.root, _DIR_FLAGS))
        self.control_fd = self._hold(self._own_dir(self.root_fd, CONTROL_NAME))
        self._lock()
        self.stage_fd = self._hold(self._own_dir(self.control_fd, STAGE_NAME))
        info = os.fstat(self.control_fd)
        self.beneath = Beneath(self.root_fd, forbidden=frozenset({(info.st_dev, info.st_ino)}))
        if (named := self._marked_name()) not in (None, self.tree):
            raise ConfigError(
                f"{self.root} belongs to the tree {named!r}, not to {self.tree!r}",
                hint=f"give the tree another path, or remove {CONTROL_NAME}/{MARKER_NAME} there",
            )
        if create and self.marker() is None:
            self.make_marker()

    def _hold(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _own_dir(self, parent_fd: int, name: str) -> int:
        """Open a directory of ours, made when it is missing; nobody else may write there."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        except FileExistsError:
            made = False
        else:
            made = True
        fd = os.open(name, _DIR_FLAGS, dir_fd=parent_fd)
        info = os.fstat(fd)
        if info.st_uid != os.geteuid():
            os.close(fd)
            raise ZClusterError(
                f"{self.root}/{CONTROL_NAME} belongs to user {info.st_uid}, not to zcluster's user {os.geteuid()}",
                hint="chown it, or remove it (the tree is then compared anew)",
            )
        if stat.S_IMODE(info.st_mode) != 0o700:
            os.fchmod(fd, 0o700)
        if made:
            durable.fsync_dir(parent_fd)
        return fd

    def _lock(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = self._hold(os.open(LOCK_NAME, flags, 0o600, dir_fd=self.control_fd))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise Busy(
                f"another process (pid {holder}) has the tree {self.tree!r} at {self.root}",
                hint="end that process, or give this tree another path",
                retry_after_s=1.0,
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let go of the tree; staged files stay until the next `recover`."""
        if hasattr(self, "beneath"):
            self.beneath.close()
        self.recovered = False
        while self._fds:
            os.close(self._fds.pop())

    def root_ok(self) -> bool:
        """Whether the directory that is held open is still the one at the tree's path."""
        try:
            there, here = os.stat(self.root, follow_symlinks=False), os.fstat(self.root_fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def marker(self) -> str | None:
        """The marker's content, None when there is none (or one that cannot be one)."""
        try:
            data = durable.read_file(self.control_fd, MARKER_NAME, _MARKER_MAX_BYTES)
        except OSError as error:
            raise durable.disk_error(f"the marker of the tree {self.tree!r} cannot be read", error) from None
        return None if data is None else data.decode("utf-8", "replace")

    def _marked_name(self) -> str | None:
        try:
            content = json.loads(self.marker() or "null")
        except (ValueError, RecursionError):
            return None
        name = content.get("tree") if isinstance(content, dict) else None
        return name if isinstance(name, str) else None

    def marker_ok(self) -> bool:
        """Whether the tree is at its path, and its marker names it."""
        return self.root_ok() and self._marked_name() == self.tree

    def make_marker(self) -> None:
        """Write the marker: from here on this directory is the tree."""
        data = json.dumps({"schema": 1, "tree": self.tree}).encode() + b"\n"
        try:
            durable.replace_file(self.control_fd, MARKER_NAME, data)
        except OSError as error:
            raise durable.disk_error(f"the marker of the tree {self.tree!r} cannot be written", error) from None

    def state(self) -> bytes | None:
        """What the last commit without errors recorded as the tree's state; None before one, or when it is damaged."""
        try:
            return journal.read_state(self.control_fd).state
        except OSError as error:
            raise durable.disk_error(f"the state of the tree {self.tree!r} cannot be read", error) from None

    def staged_name(self) -> str:
        """A name in the staging directory that nobody else uses."""
        self._staged_count += 1
        return f"{self._prefix}.{self._staged_count}"

    def distrust(self, digest: bytes) -> None:
        """Remember that what is here for ``digest`` led to something else."""
        if len(self.distrusted) >= MAX_DISTRUSTED:
            self.distrusted.clear()
        self.distrusted.add(digest)

    def recover(self, now_s: float | None = None) -> Recovered:
        """Bring the tree to the old or the new version after a process died, and sweep what it left.

        Args:
            now_s: the time, to tell how old partial files are; None: now.

        Raises:
            ZClusterError: the disk does not let us carry a journal through; it is tried again at the next call.
        """
        try:
            record = journal.read(self.control_fd)
            if record is not None and record.token == journal.read_state(self.control_fd).token:
                record = None  # it was carried through, and a power cut brought it back
            applied = None if record is None else self.carry_out(record)
            journal.remove(self.control_fd)
            swept, partials = self._sweep(time.time() if now_s is None else now_s)
        except OSError as error:
            raise durable.disk_error(f"the tree {self.tree!r} cannot be recovered", error) from None
        self.recovered = True
        return Recovered(applied, 0 if record is None else record.version, swept, partials)

    def carry_out(self, record: journal.Record) -> Applied:
        """Do what a journal that is on disk says, durably, and end it.

        With errors the state stays as it was: the version is not held in full.

        Raises:
            OSError: the journal stays, and `recover` has to be called before the next commit.
        """
        self.recovered = False
        carrier = Carrier(self.beneath, self.stage_fd, record)
        applied = carrier.run()
        state = record.state
        if state is None or applied.errors:
            state = journal.read_state(self.control_fd).state
        journal.write_state(self.control_fd, record.token, state)
        durable.reach("state")
        journal.remove(self.control_fd)
        for name in carrier.leftovers:
            self.drop(name)
        self.beneath.forget()
        durable.reach("done")
        self.recovered = True
        return applied

    def drop(self, name: str) -> None:
        """Remove one name of the staging directory, if it is there."""
        try:
            os.unlink(name, dir_fd=self.stage_fd)
        except FileNotFoundError:
            return

    def check_ready(self) -> None:
        """Refuse to stage before recovery, or when the tree's path leads elsewhere now.

        Raises:
            UsageError: `recover` was not called, or a commit failed since.
            ZClusterError: the directory at the tree's path is another one now.
        """
        if not self.recovered:
            raise UsageError(f"the tree {self.tree!r} has not been recovered", hint="call recover() first")
        if not self.root_ok():
            raise ZClusterError(
                f"the directory of the tree {self.tree!r} at {self.root} is gone or was replaced",
                hint="mount or restore it, then restart the node's sync",
            )

    def _sweep(self, now_s: float) -> tuple[int, int]:
        """Remove what dead processes left; returns how many names went and how many partial files stayed."""
        swept, partials = 0, []
        with os.scandir(self.stage_fd) as found:
            for item in found:
                info = item.stat(follow_symlinks=False)
                if item.name.startswith(PARTIAL) and stat.S_ISREG(info.st_mode):
                    partials.append((info.st_ctime, info.st_blocks * 512, item.name))
                else:
                    swept += self._sweep_one(item.name, stat.S_ISDIR(info.st_mode))
        kept, kept_bytes = 0, 0
        for changed_s, size, name in sorted(partials, reverse=True):
            kept_bytes += size
            if now_s - changed_s <= PARTIAL_KEPT_S and kept < PARTIALS_KEPT and (not kept or kept_bytes <= PARTIAL_KEPT_BYTES):
                kept += 1
            else:
                swept += self._sweep_one(name, False)
        swept += self._sweep_control()
        return swept, kept

    def _sweep_control(self) -> int:
        """Temporaries of files that were being replaced in zcluster's directory."""
        names = [name for name in os.listdir(self.control_fd) if name.endswith(".tmp")]
        return sum(self._sweep_one(name, False, self.control_fd) for name in names)

    def _sweep_one(self, name: str, is_dir: bool, dir_fd: int | None = None) -> int:
        """Remove one leftover. What cannot be removed is not in the way: names are never used twice."""
        dir_fd = self.stage_fd if dir_fd is None else dir_fd
        try:
            if not is_dir:
                os.unlink(name, dir_fd=dir_fd)
            elif name.startswith(CASE):
                os.rmdir(name, dir_fd=dir_fd)  # it may hold a user's files: only when it is empty
            else:
                shutil.rmtree(name, dir_fd=dir_fd)
        except OSError as error:
            if error.errno == errno.EIO:
                raise
            return 0
        return 1
