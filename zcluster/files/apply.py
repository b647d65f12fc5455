"""Carrying out a journal: everything that changes a tree happens here.

Rules kept here:
- the order: directories are made, staged files renamed in, modes and times set; deletions come last;
- done again after a crash, with any part of it done already, it leads to the same tree;
- a path that cannot be done is reported with its reason, and the rest goes on; what the plan does not name is never removed;
- a file that makes way for a directory is put back when the directory cannot be made;
- nothing is reported before it is durable.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from zcluster.errors import PeerError
from zcluster.files import durable
from zcluster.files.beneath import Beneath
from zcluster.files.journal import Record

AWAY = "away."
CASE = "case."
"""How names begin in the staging directory of what a commit takes out of the way for a moment."""

_OWNER_ALL = 0o700
_REASONS = {
    errno.EISDIR: "a directory is in the way, with files that the rules do not cover",
    errno.ENOTEMPTY: "a directory is in the way, with files that the rules do not cover",
    errno.EEXIST: "a directory is in the way, with files that the rules do not cover",
    errno.EXDEV: "it is on another file system than its tree",
    errno.ELOOP: "a symbolic link is in its way",
    errno.ENOTDIR: "something that is no directory is in its way",
    errno.EPERM: "the system does not permit it (immutable, or of another owner)",
    errno.EACCES: "zcluster's user may not write there",
    errno.EBUSY: "a file system is mounted there",
}


@dataclass(slots=True)
class Applied:
    """What a commit did.

    Args:
        paths: what was put in place, touched, made or removed.
        dirs: the directories whose names changed.
        errors: (path, reason) of what could not be done.
        kept: directories that were to go, and hold what the rules do not cover.
    """

    paths: list[str] = field(default_factory=list)
    dirs: set[str] = field(default_factory=set)
    errors: list[tuple[str, str]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def reason_of(error: OSError | PeerError) -> str:
    """Why a path could not be done, in words."""
    if isinstance(error, PeerError):
        return error.message
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)


class Carrier:
    """Carries out one record.

    Args:
        beneath: the tree.
        stage_fd: its staging directory.
        record: what to do.
    """

    def __init__(self, beneath: Beneath, stage_fd: int, record: Record) -> None:
        self.applied = Applied()
        self.leftovers: list[str] = []
        """Names in the staging directory that are of no use any more."""
        self._beneath = beneath
        self._stage_fd = stage_fd
        self._record = record
        self._modes: dict[str, int] = {}
        """The modes that directories get in the end; meanwhile we may write in them."""
        self._touched_files: list[str] = []
        self._aside = record.token.hex()

    def run(self) -> Applied:
        """Do all of it, and make it durable.

        Raises:
            OSError: it could not be made durable; it has to be done again.
        """
        record = self._record
        self._beneath.forget()
        for number, (old, new) in enumerate(record.respelled):
            self._respell(number, old, new)
        blocked = set(record.away_dirs)
        for number, path in enumerate(record.away_files):
            self._move_aside(number, path)
        for path, mode in record.make_dirs:
            self._make_dir(path, mode)
        self._put_back()
        self._beneath.forget()
        for directory, pairs in record.renames:
            if blocked:
                pairs = [pair for pair in pairs if _join(directory, pair[1]) not in blocked]
            self._rename_all(directory, pairs)
        if blocked:
            self._replace_dirs(blocked)
        durable.reach("renamed")
        self._beneath.forget()
        for path, is_dir, mode, mtime_ns in record.touches:
            self._touch(path, is_dir, mode, mtime_ns)
        self._delete(
            [path for path in record.delete_files if not is_inside(path, blocked)],
            [path for path in record.delete_dirs if not is_inside(path, blocked) and path not in blocked],
        )
        durable.reach("deleted")
        self._set_modes()
        self._make_durable()
        return self.applied

    def _fail(self, path: str, error: OSError | PeerError) -> None:
        self.applied.errors.append((path, reason_of(error)))

    def _dir(self, path: str) -> int:
        """The fd of a directory that names are going to change in; its owner may write there until the end."""
        fd = self._beneath.dir_fd(path)
        if path not in self.applied.dirs:
            info = os.fstat(fd)
            mode = stat.S_IMODE(info.st_mode)
            if mode & _OWNER_ALL != _OWNER_ALL and info.st_uid == os.geteuid():
                os.fchmod(fd, mode | _OWNER_ALL)
                self._modes.setdefault(path, mode)
            self.applied.dirs.add(path)
        return fd

    def _at(self, path: str) -> tuple[int, str]:
        _fd, name = self._beneath.at(path)
        return self._dir(path.rpartition("/")[0]), name

    def _lstat_at(self, fd: int, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _respell(self, number: int, old: str, new: str) -> None:
        """Where the file system does not tell cases apart, ``old`` and ``new`` are one file: give it its new name first."""
        aside = f"{CASE}{self._aside}.{number}"
        try:
            new_fd, new_name = self._at(new)
            if self._lstat_at(self._stage_fd, aside) is None:
                if not self._same_file(old, new):
                    return
                old_fd, old_name = self._at(old)
                if old_name == new_name:
                    return  # only a directory above it was spelled otherwise
                os.rename(old_name, aside, src_dir_fd=old_fd, dst_dir_fd=self._stage_fd)
            os.rename(aside, new_name, src_dir_fd=self._stage_fd, dst_dir_fd=new_fd)
            self.leftovers.append(aside)  # between two names of one file, rename(2) does nothing
            self._beneath.forget(old)
        except (FileNotFoundError, NotADirectoryError):
            return  # its directory does not exist (yet): then there is no such twin
        except (OSError, PeerError) as error:
            self._fail(new, error)

    def _same_file(self, old: str, new: str) -> bool:
        try:
            was, is_now = self._beneath.lstat(old), self._beneath.lstat(new)
        except (OSError, PeerError):
            return False
        return (was.st_dev, was.st_ino) == (is_now.st_dev, is_now.st_ino)

    def _move_aside(self, number: int, path: str) -> None:
        """Take a file out of the way of a directory; kept in the staging directory until the directory is there."""
        try:
            fd, name = self._at(path)
            info = self._lstat_at(fd, name)
            if info is not None and not stat.S_ISDIR(info.st_mode):
                os.rename(name, self._away(number), src_dir_fd=fd, dst_dir_fd=self._stage_fd)
        except (OSError, PeerError) as error:
            self._fail(path, error)

    def _away(self, number: int) -> str:
        return f"{AWAY}{self._aside}.{number}"

    def _put_back(self) -> None:
        """Files that made way for a directory that could not be made come back; the others are of no use any more."""
        for number, path in enumerate(self._record.away_files):
            aside = self._away(number)
            if self._lstat_at(self._stage_fd, aside) is None:
                continue
            try:
                fd, name = self._at(path)
                if self._lstat_at(fd, name) is None:
                    os.rename(aside, name, src_dir_fd=self._stage_fd, dst_dir_fd=fd)
                else:
                    self.leftovers.append(aside)
            except (OSError, PeerError) as error:
                self._fail(path, error)

    def _make_dir(self, path: str, mode: int) -> None:
        try:
            fd, name = self._at(path)
            try:
                os.mkdir(name, mode | _OWNER_ALL, dir_fd=fd)
                if self._record.owner is not None:
                    os.chown(name, *self._record.owner, dir_fd=fd, follow_symlinks=False)
                self.applied.paths.append(path)
            except FileExistsError:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISLNK(info.st_mode):
                    self._replace_link(fd, name, mode)
                elif not stat.S_ISDIR(info.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, "") from None
            self._modes[path] = mode
        except (OSError, PeerError) as error:
            self._fail(path, error)

    def _replace_link(self, fd: int, name: str, mode: int) -> None:
        """A symbolic link holds nothing: it makes way for a directory, as it does for a file that is renamed over it."""
        os.unlink(name, dir_fd=fd)
        os.mkdir(name, mode | _OWNER_ALL, dir_fd=fd)
        if self._record.owner is not None:
            os.chown(name, *self._record.owner, dir_fd=fd, follow_symlinks=False)

    def _rename_all(self, directory: str, pairs: list[tuple[str, str]]) -> None:
        """Rename staged files into one directory."""
        try:
            fd = self._dir(directory)
        except (OSError, PeerError) as error:
            for _staged, name in pairs:
                self._not_renamed(directory, name, _staged, error)
            return
        rename, stage_fd, paths, point = os.rename, self._stage_fd, self.applied.paths, durable.crash_point
        prefix = f"{directory}/" if directory else ""
        for staged, name in pairs:
            if point is not None:
                point("renaming")
            try:
                rename(staged, name, src_dir_fd=stage_fd, dst_dir_fd=fd)
            except OSError as error:
                self._not_renamed(directory, name, staged, error)
            else:
                paths.append(prefix + name)

    def _not_renamed(self, directory: str, name: str, staged: str, error: OSError | PeerError) -> None:
        """What is not in the staging directory any more was renamed before a crash; all else is an error."""
        path = _join(directory, name)
        if self._lstat_at(self._stage_fd, staged) is None:
            self.applied.paths.append(path)
            return
        self.leftovers.append(staged)
        self._fail(path, error)

    def _replace_dirs(self, blocked: set[str]) -> None:
        """Directories that become files: what the plan covers in them goes first, then the file takes the name."""
        still = {path for path in blocked if self._is_dir(path)}  # the others became files before a crash
        covered = [path for path in self._record.delete_dirs if is_inside(path, still) and path not in still]
        self._delete([path for path in self._record.delete_files if is_inside(path, still)], covered)
        for directory, pairs in self._record.renames:
            for staged, name in pairs:
                path = _join(directory, name)
                if path in blocked:
                    self._rmdir_for_file(path)
                    self._rename_all(directory, [(staged, name)])

    def _is_dir(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(self._beneath.lstat(path).st_mode)
        except (OSError, PeerError):
            return False

    def _rmdir_for_file(self, path: str) -> None:
        """Remove an emptied directory; that it could not be, the rename over it will tell."""
        try:
            fd, name = self._at(path)
            info = self._lstat_at(fd, name)
            if info is not None and stat.S_ISDIR(info.st_mode):
                os.rmdir(name, dir_fd=fd)
            self._beneath.forget(path)
            self.applied.dirs.discard(path)
            self._modes.pop(path, None)
        except (OSError, PeerError):
            return

    def _touch(self, path: str, is_dir: bool, mode: int, mtime_ns: int) -> None:
        """Set mode and time of what has the right content already. It is opened as what it is, so nothing else is changed."""
        try:
            if is_dir:
                try:
                    self._beneath.dir_fd(path)
                except PermissionError:
                    self._unlock(path, mode)
                self._modes[path] = mode
                self.applied.paths.append(path)
                return
            info = self._beneath.lstat(path)
            if not stat.S_ISREG(info.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file any more")
            fd = self._beneath.open(path, os.O_PATH)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise OSError(errno.EINVAL, "it is no regular file any more")
                here = f"/proc/self/fd/{fd}"
                if self._record.owner is not None:
                    os.chown(here, *self._record.owner)
                os.chmod(here, mode)
                os.utime(here, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)
            self._touched_files.append(path)
            self.applied.paths.append(path)
        except (OSError, PeerError) as error:
            self._fail(path, error)

    def _unlock(self, path: str, mode: int) -> None:
        """A directory of ours whose own mode keeps us out: it came like that from its source."""
        fd = self._beneath.open(path, os.O_PATH | os.O_DIRECTORY)
        try:
            os.chmod(f"/proc/self/fd/{fd}", mode | _OWNER_ALL)
        finally:
            os.close(fd)

    def _delete(self, files: Iterable[str], dirs: Iterable[str]) -> None:
        applied, respelled = self.applied, dict(self._record.respelled)
        for path in files:
            if path in respelled and self._same_file(path, respelled[path]):
                continue
            try:
                fd, name = self._at(path)
                os.unlink(name, dir_fd=fd)
                applied.paths.append(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # gone already: by us before a crash, or with its directory
            except (OSError, PeerError) as error:
                self._fail(path, error)
        for path in dirs:
            if path in respelled and self._same_file(path, respelled[path]):
                continue
            try:
                fd, name = self._at(path)
                os.rmdir(name, dir_fd=fd)
                self._beneath.forget(path)
                applied.dirs.discard(path)
                self._modes.pop(path, None)
                applied.paths.append(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, PeerError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    applied.kept.append(path)
                else:
                    self._fail(path, error)

    def _set_modes(self) -> None:
        """Directories get their modes when nothing is to be done in them any more, the deepest first."""
        self._beneath.forget()
        for path, mode in sorted(self._modes.items(), key=lambda item: item[0].count("/"), reverse=True):
            try:
                os.fchmod(self._beneath.dir_fd(path), mode)
            except FileNotFoundError:
                continue
            except (OSError, PeerError) as error:
                self._fail(path, error)

    def _make_durable(self) -> None:
        root_fd, dirs, files = self._beneath.root_fd, self.applied.dirs | set(self._modes), self._touched_files
        if len(dirs) + len(files) >= durable.FEW or not all(map(self._fsynced, [*files, *dirs])):
            durable.syncfs(root_fd)

    def _fsynced(self, path: str) -> bool:
        """fsync a file or directory; False when it cannot be opened (any more)."""
        try:
            fd = self._beneath.open(path, os.O_RDONLY | os.O_NONBLOCK) if path else os.dup(self._beneath.root_fd)
        except (OSError, PeerError):
            return False
        try:
            durable.fsync_dir(fd)
        finally:
            os.close(fd)
        return True


def is_inside(path: str, tops: Set[str]) -> bool:
    """Whether ``path`` is beneath one of the directories ``tops``."""
    while tops and path:
        path = path.rpartition("/")[0]
        if path in tops:
            return True
    return False


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
