"""Staging a version of a tree, and committing it.

Rules kept here:
- content is checked against its digest before a byte of it is written, and written with its mode, time and owner into the
  tree's own staging directory, under a name that is new there;
- a full or failing disk leaves the tree as it was: what was staged is swept and the error says what to do;
- the order of a commit: the staged content durable, the journal durable, then the tree (see zcluster.files.apply), then the
  state, then the journal goes; nothing is reported before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Sequence
from typing import Protocol

from zcluster.core.sync.entry import DIRECTORY, FILE, HASH_BYTES, LINK, MAX_TARGET_CHARS, Entry, content_digest
from zcluster.errors import PeerError, ZClusterError
from zcluster.files import durable, journal
from zcluster.files.apply import Applied, is_inside
from zcluster.files.beneath import components, name_fault
from zcluster.files.patch import Patch
from zcluster.files.treedir import PARTIAL, TreeDir

_NEEDS_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Plan(Protocol):
    """What a commit needs to know (zcluster.core.sync.classify makes it). All paths are of the tree."""

    @property
    def make_dirs(self) -> Sequence[tuple[str, int]]:
        """Path and mode, parents first."""

    @property
    def fetch(self) -> Sequence[tuple[str, Entry]]:
        """Files whose content had to be staged."""

    @property
    def link(self) -> Sequence[tuple[str, Entry]]:
        """Symbolic links that had to be staged."""

    @property
    def touch(self) -> Sequence[tuple[str, Entry]]:
        """What has its content, and gets another mode or time."""

    @property
    def move_away(self) -> Sequence[str]:
        """What is no directory where one is made, and directories where a file is put."""

    @property
    def delete_files(self) -> Sequence[str]:
        """Files and links that go; also those in directories that become files."""

    @property
    def delete_dirs(self) -> Sequence[str]:
        """Directories that go when they are empty, the deepest first."""


class Staging:
    """A version that is being put together beside the tree. After a commit it is empty and may be used again.

    Args:
        treedir: the tree, recovered.
        version: which version this is, for the journal.
        hash_name: how digests are made, a name of zcluster.core.sync.entry.HASHES.
        owner: user and group id that files and new directories get; None: those of the process.
    """

    def __init__(self, treedir: TreeDir, version: int, hash_name: str, owner: tuple[int, int] | None = None) -> None:
        treedir.check_ready()
        self.version = version
        self.treedir = treedir
        self.hash_name = hash_name
        self.owner = owner
        self._staged: dict[str, dict[str, str]] = {}
        """By directory: the staged name of each name."""
        self._patches: list[Patch] = []
        """Those that are open."""
        self._complete: set[str] = set()
        """Names of patches' files that wait to be committed."""
        self._links: set[str] = set()
        """Paths of the links that are staged."""

    def put(self, path: str, entry: Entry, data: bytes | bytearray | memoryview) -> None:
        """Stage a file whose whole content is ``data``.

        Raises:
            PeerError: the path is refused, or the content is not what the entry says; nothing is written.
            ZClusterError: the disk is full or failed; all that was staged is gone, the tree is as it was.
        """
        if entry.kind != FILE or len(data) != entry.size or content_digest(self.hash_name, data) != entry.digest:
            raise PeerError(f"the content of {path[:200]!r} is not what its entry says")
        directory, name = self._place(path)
        treedir = self.treedir
        staged = treedir.staged_name()
        try:
            fd = os.open(staged, _NEW, 0o600, dir_fd=treedir.stage_fd)
            try:
                durable.write_all(fd, data)
                if self.owner is not None:
                    os.fchown(fd, *self.owner)
                os.fchmod(fd, entry.mode)
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            finally:
                os.close(fd)
        except OSError as error:
            raise self.failed(path, error, staged) from None
        self._keep(directory, name, staged)

    def put_link(self, path: str, entry: Entry) -> None:
        """Stage a symbolic link. Where it may point is the rules' matter; it is never followed here.

        Raises:
            PeerError: the path or the target is refused.
            ZClusterError: the disk is full or failed, as with `put`.
        """
        if entry.kind != LINK or not 0 < len(entry.target) <= MAX_TARGET_CHARS or "\0" in entry.target:
            raise PeerError(f"the entry of {path[:200]!r} is no symbolic link that could be made")
        directory, name = self._place(path)
        staged = self.treedir.staged_name()
        try:
            os.symlink(entry.target, staged, dir_fd=self.treedir.stage_fd)
            if self.owner is not None:
                os.chown(staged, *self.owner, dir_fd=self.treedir.stage_fd, follow_symlinks=False)
        except UnicodeEncodeError:
            raise PeerError(f"the target of {path[:200]!r} is not UTF-8") from None
        except OSError as error:
            raise self.failed(path, error, staged) from None
        self._keep(directory, name, staged)
        self._links.add(path)

    def begin(self, path: str, entry: Entry) -> Patch:
        """Begin or resume a large file.

        Raises:
            PeerError: the path or the entry is refused.
            ZClusterError: the disk is full or failed, as with `put`.
        """
        if entry.kind != FILE or len(entry.digest) != HASH_BYTES[self.hash_name]:
            raise PeerError(f"the entry of {path[:200]!r} is no file with a digest")
        self._place(path)
        patch = Patch(self, path, entry)
        self._patches.append(patch)
        return patch

    def forget(self, path: str) -> None:
        """Unstage what was staged for ``path``, if anything was.

        Raises:
            ZClusterError: the disk failed.
        """
        directory, _, name = path.rpartition("/")
        names = self._staged.get(directory, {})
        staged = names.pop(name, None)
        if directory in self._staged and not names:
            del self._staged[directory]
        self._links.discard(path)
        if staged is None:
            return
        self._complete.discard(staged)
        try:
            self.treedir.drop(staged)
        except OSError as error:
            raise durable.disk_error(f"what was staged for {path[:200]!r} cannot be removed", error) from None

    def forget_links(self) -> None:
        """Unstage all links.

        Raises:
            ZClusterError: the disk failed.
        """
        for path in list(self._links):
            self.forget(path)

    def abandon(self) -> None:
        """Forget the version. Partial large files stay for the next attempt.

        Raises:
            ZClusterError: the disk failed.
        """
        try:
            self._sweep(partials=False)
        except OSError as error:
            raise durable.disk_error("what was staged cannot be removed", error) from None

    def in_use(self, name: str) -> bool:
        """Whether a patch works on the partial file ``name``, or it waits to be committed."""
        return name in self._complete or any(patch.is_open and patch.name == name for patch in self._patches)

    def finished(self, patch: Patch) -> None:
        """A patch is complete: its file is part of the version."""
        self._patches.remove(patch)
        self._complete.add(patch.name)
        directory, _, name = patch.path.rpartition("/")
        self._keep(directory, name, patch.name)

    def failed(self, path: str, error: OSError, *torn: str) -> ZClusterError:
        """The disk did not take ``path``: all that was staged goes, partial files too when their space may help.

        Args:
            torn: further names in the staging directory that go.

        Returns:
            The error to raise.
        """
        self._sweep_after(error, *torn)
        return durable.disk_error(f"{path[:200]!r} cannot be staged", error)

    def commit(self, plan: Plan, state: bytes) -> Applied:
        """Make the tree what was staged and planned, durably.

        When content that the plan wants was not staged, that path is an error, and nothing is deleted. With any error the
        tree's state stays as it was.

        Args:
            plan: what to do.
            state: the tree's state afterwards, for `TreeDir.state`.

        Raises:
            ZClusterError: the disk is full or failed. Before the journal was durable the tree is as it was, and what was
                staged is gone; after that `TreeDir.recover` completes it.
            PeerError: a path of the plan is not UTF-8.
            UsageError: there is too much in one commit, or the tree has to be recovered first.
        """
        treedir = self.treedir
        treedir.check_ready()
        record, missing = self._record(plan, state)
        durable.reach("staged")
        try:
            self._make_durable()
            durable.reach("synced")
            journal.write(treedir.control_fd, record)
        except OSError as error:
            self._sweep_after(error)
            raise durable.disk_error(f"version {self.version} cannot be made durable; the tree is as it was", error) from None
        self._staged, self._complete, self._links = {}, set(), set()
        durable.reach("journaled")
        try:
            applied = treedir.carry_out(record)
        except OSError as error:
            raise durable.disk_error(f"version {self.version} is applied in part; recovery completes it", error) from None
        applied.errors.extend((path, "its content was not received") for path in missing)
        return applied

    def _record(self, plan: Plan, state: bytes) -> tuple[journal.Record, list[str]]:
        """The journal of what is staged and planned, and what is planned and not staged."""
        staged = {_join(directory, name) for directory, names in self._staged.items() for name in names}
        missing = [path for path, _entry in (*plan.fetch, *plan.link) if path not in staged]
        made = {path for path, _mode in plan.make_dirs}
        away_dirs = [path for path in plan.move_away if path in staged and path not in made]
        gone_files, gone_dirs = list(plan.delete_files), list(plan.delete_dirs)
        if missing:
            replaced = set(away_dirs)
            gone_files = [path for path in gone_files if is_inside(path, replaced)]
            gone_dirs = [path for path in gone_dirs if is_inside(path, replaced)]
        record = journal.Record(
            version=self.version,
            token=secrets.token_bytes(journal.TOKEN_BYTES),
            owner=self.owner,
            respelled=_respelled((*gone_dirs, *gone_files), (made, staged)),
            away_files=[path for path in plan.move_away if path in made],
            away_dirs=away_dirs,
            make_dirs=list(plan.make_dirs),
            renames=[
                (directory, [(taken, name) for name, taken in names.items()]) for directory, names in sorted(self._staged.items())
            ],
            touches=[(path, e.kind == DIRECTORY, e.mode, e.mtime_ns) for path, e in plan.touch if e.kind != LINK],
            delete_files=gone_files,
            delete_dirs=gone_dirs,
            state=None if missing else state,
        )
        return record, missing

    def _place(self, path: str) -> tuple[str, str]:
        """The directory and name of ``path``, which is checked."""
        directory, slash, name = path.rpartition("/")
        if directory not in self._staged or (slash and not directory) or name_fault(name):
            components(path)
        return directory, name

    def _keep(self, directory: str, name: str, staged: str) -> None:
        names = self._staged.setdefault(directory, {})
        if (before := names.get(name)) is not None:
            self.treedir.drop(before)
            self._complete.discard(before)
            self._links.discard(_join(directory, name))
        names[name] = staged

    def _make_durable(self) -> None:
        """All that is staged, by one syncfs, or file by file when it is little."""
        names = [staged for names in self._staged.values() for staged in names.values()]
        if not names:
            return
        if len(names) >= durable.FEW or not all(map(self._fsynced, names)):
            durable.syncfs(self.treedir.stage_fd)
            return
        durable.fsync_dir(self.treedir.stage_fd)

    def _fsynced(self, staged: str) -> bool:
        """fsync a staged file; a symbolic link is durable with its directory. False when its mode does not let us open it."""
        try:
            fd = os.open(staged, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.treedir.stage_fd)
        except PermissionError:
            return False
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return True
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        return True

    def _sweep_after(self, error: OSError, *torn: str) -> None:
        """Sweep because of ``error``, which is what matters: what a failing disk does not let go is swept at the next start."""
        with contextlib.suppress(OSError):
            self._sweep(*torn, partials=error.errno in _NEEDS_SPACE)

    def _sweep(self, *torn: str, partials: bool) -> None:
        gone = [*torn]
        gone += [name for names in self._staged.values() for name in names.values() if partials or not name.startswith(PARTIAL)]
        if partials:
            gone += [patch.name for patch in self._patches if patch.is_open]
        for patch in self._patches:
            patch.close()
        self._staged, self._patches, self._complete, self._links = {}, [], set(), set()
        for name in gone:
            self.treedir.drop(name)


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _respelled(gone: Iterable[str], new: Iterable[Iterable[str]]) -> list[tuple[str, str]]:
    """What goes and what comes that differ by case only, parents first."""
    folded = {path.casefold(): path for path in gone}
    if not folded:
        return []
    pairs = ((folded[path.casefold()], path) for paths in new for path in paths if path.casefold() in folded)
    return sorted(((old, path) for old, path in pairs if old != path), key=lambda pair: pair[1].count("/"))
