"""Merging workers' copies into one directory: an ``up`` tree with keep = "merged".

Rules kept here:
- each worker's copy lies in ``.zcluster/workers/WORKER`` of the merged directory; a file's place there gets a hard link to it,
  or a copy where links are refused; the link is made in the staging directory and renamed over, so a place holds the old file
  or the new one;
- whose file a place holds is decided by zcluster.core.sync.ownership, and written down (zcluster.files.merged_book) before it
  is done;
- what no worker brought is never touched: it is a conflict "not from a worker";
- a copy that is missing altogether removes nothing;
- whatever dies when: `merge_all` brings places and book together again.

One thread at a time uses a merged tree. Directories come and go with their files; they belong to nobody.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest

from zcluster.core.sync.entry import FILE, LINK, Change, Entry, join, parent
from zcluster.core.sync.ownership import MAX_CONFLICTS, Conflict, Place, Remove, merge
from zcluster.errors import UsageError
from zcluster.files import durable
from zcluster.files.beneath import CONTROL_NAME, Beneath, name_fault
from zcluster.files.merged_book import Claims, Identity
from zcluster.files.treedir import TreeDir

WORKERS_NAME = "workers"
BOOK_NAME = "owners.db"
BATCH_FILES = 256
"""Files that are staged, written down and renamed together."""
CHANGES = 1000
"""Changes of one merge of `merge_all`."""
COPY_BYTES = 1024 * 1024
MAX_ERRORS = 100

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
_IN_THE_WAY = frozenset({errno.ENOTDIR, errno.ELOOP, errno.EEXIST})


@dataclass(slots=True)
class Merged:
    """What a merge did. Conflicts and errors are told one by one up to MAX_CONFLICTS and MAX_ERRORS."""

    placed: int = 0
    removed: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    conflict_count: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    """(path, why): what could not be done, and is done by the next `merge_all`."""

    def conflict(self, *found: Conflict) -> None:
        self.conflict_count += len(found)
        self.conflicts += found[: max(0, MAX_CONFLICTS - len(self.conflicts))]

    def error(self, path: str, why: str) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append((path, why))


class MergedTree:
    """The merged directory that ``treedir`` holds open (and keeps: `close` does not close it).

    Raises:
        ZClusterError: its book cannot be opened.
    """

    def __init__(self, treedir: TreeDir) -> None:
        self._treedir = treedir
        self._book = Claims(treedir.root / CONTROL_NAME / BOOK_NAME)
        self._copies: dict[str, Beneath] = {}

    @property
    def begun_anew(self) -> bool:
        """Whether the book was broken: copies (not links) of before are taken for files that are not from a worker."""
        return self._book.begun_anew

    def close(self) -> None:
        self._book.close()
        self._let_go()

    def apply(self, worker: str, changes: Iterable[Change]) -> Merged:
        """Bring changes of a worker's copy, which are on the disk there already, to their places.

        Raises:
            ZClusterError: the book could not be written; `merge_all` makes up for what was not done.
        """
        result = Merged()
        try:
            self._apply(worker, changes, result)
        finally:
            self._let_go()
        return result

    def merge_all(self, workers: Sequence[str]) -> Merged:
        """Compare the copies of ``workers``, in the order of their arrival, with the places, and make up for all differences.

        Claims of other workers stay as they are (`forget` drops them).
        """
        result = Merged()
        try:
            self._remove(self._book.removing(), result)
            for worker in workers:
                if self._copy(worker) is None:
                    if next(self._book.claims(worker), None) is not None:
                        result.error("", f"the copy of {worker} is missing: its files stay in their places")
                    continue
                for changes in (self._gone(worker), self._there(worker, result)):
                    while some := list(islice(changes, CHANGES)):
                        self._apply(worker, some, result)
        finally:
            self._let_go()
        return result

    def forget(self, worker: str) -> Merged:
        """Remove all files of a worker that is no more; those that wait for their places get them."""
        result = Merged()
        try:
            while some := list(islice(self._book.claims(worker), CHANGES)):
                self._apply(worker, [Change(path, _entry(path), None) for path, _ in some], result)
        finally:
            self._let_go()
        return result

    def conflicts(self, limit: int = MAX_CONFLICTS) -> list[Conflict]:
        """At most ``limit`` of the conflicts that there are, by path."""
        return self._book.conflicts(limit)

    def conflict_counts(self) -> dict[str, int]:
        """How many conflicts each worker has, of those that have any."""
        return self._book.conflict_counts()

    def _apply(self, worker: str, changes: Iterable[Change], result: Merged) -> None:
        self._treedir.check_ready()
        self._treedir.beneath.forget()
        decided = merge(worker, changes, self._book)
        self._book.take(worker, decided)
        result.conflict(*decided.conflicts)
        result.conflict_count += decided.conflict_count - len(decided.conflicts)
        self._remove([(action.path, action.worker) for action in decided.actions if isinstance(action, Remove)], result)
        places = iter(dict.fromkeys(action for action in decided.actions if isinstance(action, Place)))
        while some := list(islice(places, BATCH_FILES)):
            self._place(some, result)

    def _remove(self, files: list[tuple[str, str]], result: Merged) -> None:
        gone = []
        for path, worker in files:
            try:
                found = self._found(path)
                if found is not None and found in self._book.identities(path, worker):
                    self._treedir.beneath.unlink(path)
                    result.removed += 1
                    self._remove_empty(parent(path))
                gone.append((path, worker))
            except OSError as error:
                result.error(path, error.strerror or str(error))
        self._book.removed(gone)

    def _place(self, places: list[Place], result: Merged) -> None:
        """Stage, write down, rename, write down."""
        staged: list[tuple[str, str, Identity, str]] = []
        there: list[tuple[str, str, Identity]] = []
        foreign: list[tuple[str, str]] = []
        for place in places:
            try:
                source = self._source(place)
                if source is None:
                    result.error(place.path, f"it is not in the copy of {place.worker} any more")
                    continue
                in_the_way = self._make_room(place, source)
                if in_the_way:
                    foreign.append((place.path, place.worker))
                    result.conflict(Conflict(place.path, place.worker, "", in_the_way))
                elif self._found(place.path) == source:
                    there.append((place.path, place.worker, source))
                else:
                    staged.append((place.path, place.worker, *self._stage(place)))
            except OSError as error:
                result.error(place.path, error.strerror or str(error))
        self._book.disown(foreign)
        self._book.intend((path, worker, identity) for path, worker, identity, _ in staged)
        for path, worker, identity, name in staged:
            try:
                directory_fd, last = self._treedir.beneath.at(path)
                os.rename(name, last, src_dir_fd=self._treedir.stage_fd, dst_dir_fd=directory_fd)
                there.append((path, worker, identity))
                result.placed += 1
            except OSError as error:
                self._treedir.drop(name)
                result.error(path, error.strerror or str(error))
        self._book.done(there)

    def _make_room(self, place: Place, source: Identity) -> str:
        """Make the directories of a place; returns the path of what is not from a worker and in the way, or empty."""
        beneath = self._treedir.beneath
        made = ""
        for name in parent(place.path).split("/") if parent(place.path) else ():
            made = join(made, name)
            try:
                beneath.dir_fd(made)
            except FileNotFoundError:
                beneath.mkdir(made, 0o755)
            except OSError as error:
                if error.errno in _IN_THE_WAY:
                    return made
                raise
        try:
            if stat.S_ISDIR(beneath.lstat(place.path).st_mode):
                beneath.rmdir(place.path)
                return ""
        except FileNotFoundError:
            return ""
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return place.path
            raise
        found = self._found(place.path)
        ours = found == source or found in self._book.identities(place.path)
        return "" if ours else place.path

    def _stage(self, place: Place) -> tuple[Identity, str]:
        """A link to the worker's file, or a copy, in the staging directory: its identity and its name there."""
        copy = self._copy(place.worker)
        assert copy is not None
        source_fd, last = copy.at(place.path)
        name, stage_fd = self._treedir.staged_name(), self._treedir.stage_fd
        try:
            os.link(last, name, src_dir_fd=source_fd, dst_dir_fd=stage_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _copy_file(copy, place.path, stage_fd, name)
        return _identity(os.stat(name, dir_fd=stage_fd, follow_symlinks=False)), name

    def _gone(self, worker: str) -> Iterator[Change]:
        """What the book says that the worker has, and its copy does not."""
        for path, _ in self._book.claims(worker):
            if self._source(Place(path, worker)) is None:
                yield Change(path, _entry(path), None)

    def _there(self, worker: str, result: Merged) -> Iterator[Change]:
        """What the worker's copy has and the book does not know, or the place does not hold."""
        copy = self._copy(worker)
        assert copy is not None
        directories = [""]
        while directories:
            directory = directories.pop()
            with os.scandir(copy.dir_fd(directory)) as found:
                names = sorted((item.name, item.is_dir(follow_symlinks=False), item.is_symlink()) for item in found)
            for name, is_dir, is_link in names:
                path = join(directory, name)
                if name_fault(name):
                    if directory or name != CONTROL_NAME:
                        result.error(path, f"a name that no tree has, in the copy of {worker}")
                elif is_dir:
                    directories.append(path)
                elif not self._in_place(path, worker):
                    yield Change(path, None, _entry(path, is_link))

    def _in_place(self, path: str, worker: str) -> bool:
        """Whether nothing is to be done for this file: it waits, or its place holds it."""
        owner = self._book.owner(path)
        if owner != worker:
            return worker in self._book.waiting(path)
        source, found = self._source(Place(path, worker)), self._found(path)
        if source is None or found is None:
            return source is None
        if found != self._book.settled(path, worker):
            return False
        # A copy has an inode of its own; so has what was linked before the file was replaced, at the same size and time even.
        return found == source or (found[1:] == source[1:] and self._same_content(path, worker))

    def _same_content(self, path: str, worker: str) -> bool:
        """Whether a place holds what the worker's copy has, both looked at byte by byte."""
        copy = self._copy(worker)
        assert copy is not None
        pairs = zip_longest(_pieces(self._treedir.beneath, path), _pieces(copy, path))
        return all(one == other for one, other in pairs)

    def _source(self, place: Place) -> Identity | None:
        """What the worker's copy has at this path now, None when it is no file or link."""
        copy = self._copy(place.worker)
        return None if copy is None else _look(copy, place.path)

    def _found(self, path: str) -> Identity | None:
        return _look(self._treedir.beneath, path)

    def _remove_empty(self, directory: str) -> None:
        while directory:
            try:
                self._treedir.beneath.rmdir(directory)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    return
                raise
            directory = parent(directory)

    def _copy(self, worker: str) -> Beneath | None:
        """The worker's copy, None when there is none."""
        known = self._copies.get(worker)
        if known is not None:
            return known
        if fault := name_fault(worker):
            raise UsageError(f"no worker has {fault}: {worker[:100]!r}")
        try:
            workers_fd = os.open(WORKERS_NAME, _DIR_FLAGS, dir_fd=self._treedir.control_fd)
            try:
                fd = os.open(worker, _DIR_FLAGS, dir_fd=workers_fd)
            finally:
                os.close(workers_fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise durable.disk_error(f"the copy of {worker} cannot be opened", error) from None
        self._copies[worker] = Beneath(fd)
        return self._copies[worker]

    def _let_go(self) -> None:
        for copy in self._copies.values():
            copy.close()
            os.close(copy.root_fd)
        self._copies = {}


def _look(beneath: Beneath, path: str) -> Identity | None:
    """The identity of the file or link ``path``, None when there is none (or something else)."""
    try:
        info = beneath.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    return _identity(info) if stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode) else None


def _pieces(beneath: Beneath, path: str) -> Iterator[bytes]:
    """The content of a file, or the target of a link."""
    if stat.S_ISLNK(beneath.lstat(path).st_mode):
        yield os.fsencode(beneath.readlink(path))
        return
    fd = beneath.open(path, os.O_RDONLY)
    try:
        while data := os.read(fd, COPY_BYTES):
            yield data
    finally:
        os.close(fd)


def _identity(info: os.stat_result) -> Identity:
    return info.st_ino, info.st_mtime_ns, info.st_size


def _entry(path: str, is_link: bool = False) -> Entry:
    """An entry that says what kind of thing ``path`` is: more is not needed to know whose it is."""
    return Entry(path.rpartition("/")[2], LINK if is_link else FILE, 0, 0, 0, b"")


def _copy_file(copy: Beneath, path: str, stage_fd: int, name: str) -> None:
    """Copy a file or link, with its mode and times, where it cannot be linked."""
    info = copy.lstat(path)
    if stat.S_ISLNK(info.st_mode):
        os.symlink(copy.readlink(path), name, dir_fd=stage_fd)
    else:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=stage_fd)
        try:
            for data in _pieces(copy, path):
                durable.write_all(target, data)
            os.fchmod(target, stat.S_IMODE(info.st_mode) & 0o777)
            os.fsync(target)
        finally:
            os.close(target)
    os.utime(name, ns=(info.st_mtime_ns, info.st_mtime_ns), dir_fd=stage_fd, follow_symlinks=False)
