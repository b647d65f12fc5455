"""One look at one directory: what is there, what of it is new, and the hashes of what is.

Rules kept here:
- a directory whose raw stat rows are what they were at the last settled look costs one listing and one hash compare: no
  entry of it is looked at, no object is kept for it;
- only what stat says is new is hashed: another size, mtime, ctime or inode. A content that came with the same size and
  mtime still has another ctime (inode(7): no call sets it);
- a file too young for its timestamps to be trusted is hashed again at the next look: a second write within the same clock
  tick would leave no trace. The same for what changed while it was read, which is not believed at all;
- what cannot be read is neither new nor gone: its old entry stays;
- what no tree may hold is refused with a reason and is never part of a listing;
- no symbolic link is followed.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from zcluster.core.sync.entry import (
    DIRECTORY,
    FILE,
    LINK,
    Entry,
    Kind,
    encode_listing,
    join,
)
from zcluster.core.sync.paths import MAX_DEPTH, MAX_PATH_BYTES, case_twins, link_fault, name_fault
from zcluster.files.contents import GONE, Hashing, is_young, reason_of
from zcluster.files.held import NEVER_NS, NO_SIGNATURE, STAT
from zcluster.files.rows import Rows, int64

_ROW = struct.Struct("5q")
_TWIN = "another name differs from it by case only"
_ODD_KINDS = {
    stat.S_IFSOCK: "it is a socket",
    stat.S_IFIFO: "it is a fifo",
    stat.S_IFBLK: "it is a device",
    stat.S_IFCHR: "it is a device",
}


class FileStat(NamedTuple):
    """What a file was when it was hashed, and its digest."""

    size: int
    mtime_ns: int
    ctime_ns: int
    ino: int
    digest: bytes


class TreeRules(Protocol):
    """What a look needs of :class:`zcluster.core.sync.rules.Rules`."""

    @property
    def covers(self) -> Callable[[str, bool], bool]: ...
    @property
    def symlinks(self) -> str: ...
    @property
    def max_file_bytes(self) -> int: ...
    @property
    def max_files(self) -> int: ...
    @property
    def hash(self) -> str: ...
    def mode_of(self, kind: Kind, mode: int) -> int: ...


@dataclass
class Look:
    """A directory compared with what was known of it."""

    listing: bytes
    stats: bytes
    """Signature, then STAT for each entry of ``listing``, in its order."""
    young: frozenset[str]
    directories: list[str]
    new_directories: list[str]
    """Never seen before, or another inode than before: all beneath them has to be looked at."""
    gone_directories: list[str]
    files: int = 0
    bytes: int = 0
    """Of the files and links in ``listing``."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    unsettled: bool = False
    complete: bool = True


@dataclass(frozen=True)
class Known:
    """What is known of a directory before a look.

    ``old`` and ``young`` are of the look before: its entries with ctime_ns and inode, and the names whose digest is not to
    be trusted. ``written`` is, by path, what our own writer has put there until ``until_ns``; see LocalTree.scan.
    """

    old: Mapping[str, tuple[Entry, int, int]]
    young: frozenset[str] = frozenset()
    written: Mapping[str, Entry] = field(default_factory=dict)
    until_ns: int = 0
    same_rules: bool = True
    """The look before was under the same rules: what it covered is covered."""


def compare(path: str, fd: int, rows: Rows, known: Known, rules: TreeRules, hashing: Hashing) -> Look:
    """Make the listing of the directory ``path`` (open as ``fd``), which is as ``rows`` say now."""
    return _Comparison(path, fd, rows, known, rules, hashing).run()


class _Comparison:
    """One run of :func:`compare`."""

    def __init__(self, path: str, fd: int, rows: Rows, known: Known, rules: TreeRules, hashing: Hashing) -> None:
        self._path, self._fd, self._rows = path, fd, rows
        self._known, self._rules, self._hashing = known, rules, hashing
        self._old, self._was_young = known.old, known.young
        self._found: list[tuple[Entry, int, int]] = []
        self._young: set[str] = set()
        self._look = Look(b"", b"", frozenset(), [], [], [], unsettled=rows.raced)
        self._bytes_above = len(os.fsencode(path)) + 1
        self._depth = path.count("/") + 1 if path else 0

    def run(self) -> Look:
        look, rows = self._look, self._rows
        covers = self._rules.covers
        rest = [item for item in self._keep_unchanged() if covers(join(self._path, item[0]), stat.S_ISDIR(item[1][0]))]
        twins = self._twins([name for name, _ in rest])
        for name, row in rest:
            mode = row[0]
            is_dir = stat.S_ISDIR(mode)
            path = join(self._path, name)
            if name in twins:
                look.refused.append((path, _TWIN))
            elif fault := self._fault(name, mode, row[2]):
                look.refused.append((path, fault))
            elif is_dir:
                self._directory(name, mode, row[1])
            elif stat.S_ISLNK(mode):
                self._link(path, name, row)
            else:
                self._file(path, name, row)
        for name, reason in rows.failed:
            self._failed(name, reason)
        return self._finish()

    def _keep_unchanged(self) -> list[tuple[str, tuple[int, ...]]]:
        """Take over the files that stat says are unchanged, which are most; the names and rows of all else."""
        rows = zip(self._rows.names, _ROW.iter_unpack(self._rows.packed), strict=True)
        if not self._known.same_rules:
            return list(rows)
        rest = []
        old, young, found = self._old, self._was_young, self._found
        for name, row in rows:
            was = old.get(name)
            if was is not None:
                entry = was[0]
                # The kind and the mode cannot have changed without the ctime.
                if (
                    was[1] == row[4] and was[2] == row[1] and entry.size == row[2] and entry.mtime_ns == row[3]
                    and entry.kind == FILE and name not in young
                ):  # fmt: skip
                    found.append(was)
                    continue
            rest.append((name, row))
        return rest

    def _twins(self, rest: list[str]) -> set[str]:
        """The names that differ from another one by case only; those among the unchanged are refused here."""
        if all(name in self._old for name in rest):
            return set()  # the look before has found none among them
        twins = case_twins([*rest, *(found[0].name for found in self._found)])
        if twins:
            refused = [found for found in self._found if found[0].name in twins]
            self._found = [found for found in self._found if found[0].name not in twins]
            self._look.refused += [(join(self._path, found[0].name), _TWIN) for found in refused]
        return twins

    def _finish(self) -> Look:
        look = self._look
        self._found.sort(key=lambda found: found[0].name.encode())
        look.listing = encode_listing(found[0] for found in self._found)
        settled = not (look.unsettled or look.errors or self._young)
        signature = self._rows.signature() if settled else NO_SIGNATURE
        look.stats = signature + b"".join([STAT.pack(ctime_ns, ino) for _, ctime_ns, ino in self._found])
        look.young = frozenset(self._young)
        look.unsettled = look.unsettled or bool(self._young)
        look.directories = [entry.name for entry, _, _ in self._found if entry.kind == DIRECTORY]
        here = frozenset(look.directories)
        look.gone_directories = [
            name for name, (entry, _, _) in self._old.items() if entry.kind == DIRECTORY and name not in here
        ]
        look.files = len(self._found) - len(here)
        look.bytes = sum(found[0].size for found in self._found)
        return look

    def _fault(self, name: str, mode: int, size: int) -> str:
        if fault := name_fault(name):
            return fault
        if self._depth >= MAX_DEPTH:
            return f"it is more than {MAX_DEPTH} levels deep"
        if self._bytes_above + len(name.encode()) > MAX_PATH_BYTES:
            return f"its path has more than {MAX_PATH_BYTES} bytes"
        if odd := _ODD_KINDS.get(stat.S_IFMT(mode)):
            return odd
        if stat.S_ISLNK(mode) and self._rules.symlinks != "copy":
            return "it is a symbolic link, and the tree's symlinks are refused"
        limit = self._rules.max_file_bytes
        if limit and stat.S_ISREG(mode) and size > limit:
            return f"it has {size} bytes, and max_file_bytes is {limit}"
        return ""

    def _keep(self, name: str, *, believe: bool) -> None:
        """Leave the old entry of ``name``, if it had one; ``believe``: it is unchanged when its stat is."""
        if (old := self._old.get(name)) is not None:
            entry, ctime_ns, ino = old
            believe = believe and name not in self._was_young
            self._found.append((entry, ctime_ns if believe else NEVER_NS, ino))

    def _failed(self, name: str, reason: str) -> None:
        path = join(self._path, name)
        was = self._old.get(name)
        if not self._rules.covers(path, was is not None and was[0].kind == DIRECTORY):
            return
        self._look.errors.append((path, reason))
        self._look.complete = False
        self._keep(name, believe=True)

    def _directory(self, name: str, mode: int, ino: int) -> None:
        old = self._old.get(name)
        digest = b""
        if old is not None and old[0].kind == DIRECTORY:
            digest = old[0].digest
        if not digest or old is None or old[2] != ino:
            self._look.new_directories.append(name)
        entry = Entry(name, DIRECTORY, 0, 0, self._rules.mode_of(DIRECTORY, mode), digest)
        self._found.append((entry, 0, ino))

    def _link(self, path: str, name: str, row: tuple[int, ...]) -> None:
        try:
            target = os.readlink(name, dir_fd=self._fd)
        except OSError as error:
            if error.errno in (*GONE, errno.EINVAL):
                self._look.unsettled = True
            else:
                self._look.errors.append((path, reason_of(error)))
            self._look.complete = False
            self._keep(name, believe=False)
            return
        if fault := link_fault(path, target):
            self._look.refused.append((path, fault))
            return
        if is_young(row[4], self._rows.before_ns, self._rows.after_ns):
            self._young.add(name)
        self._found.append((Entry(name, LINK, 0, 0, 0, b"", target), row[4], row[1]))

    def _file(self, path: str, name: str, row: tuple[int, ...]) -> None:
        mode, ino, size, mtime_ns, ctime_ns = row
        mode = self._rules.mode_of(FILE, mode)
        old = self._old.get(name)
        if old is not None and name not in self._was_young:
            entry = old[0]
            if old[1] == ctime_ns and old[2] == ino and entry.size == size and entry.mtime_ns == mtime_ns and entry.kind == FILE:
                if entry.mode != mode:
                    entry = Entry(name, FILE, size, mtime_ns, mode, entry.digest)
                self._found.append((entry, ctime_ns, ino))
                return
        written = self._known.written.get(path)
        if written is not None and self._is_ours(written, row):
            self._found.append((Entry(name, FILE, size, mtime_ns, mode, written.digest), ctime_ns, ino))
            return
        self._hash(path, name)

    def _is_ours(self, written: Entry, row: tuple[int, ...]) -> bool:
        """Whether the file is as our writer left it. A write since then gave it a later ctime, or, within the same tick, at
        least another mtime than the one that was set; so only a young mtime leaves a doubt, and then it is hashed."""
        _, _, size, mtime_ns, ctime_ns = row
        return (
            written.kind == FILE
            and written.size == size
            and written.mtime_ns == mtime_ns
            and ctime_ns <= self._known.until_ns
            and not is_young(mtime_ns, self._rows.before_ns, self._rows.after_ns)
        )

    def _hash(self, path: str, name: str) -> None:
        look = self._look
        hashed = self._hashing.hash_file(self._fd, name)
        st = hashed.stat
        if st is None:
            if hashed.moving:
                look.unsettled = True
            else:
                look.errors.append((path, hashed.fault))
            look.complete = False
            self._keep(name, believe=False)
            return
        if fault := self._fault(name, st.st_mode, st.st_size):
            look.refused.append((path, fault))
            return
        if hashed.young:
            self._young.add(name)
        mode = self._rules.mode_of(FILE, st.st_mode)
        entry = Entry(name, FILE, st.st_size, int64(st.st_mtime_ns), mode, hashed.digest)
        self._found.append((entry, int64(st.st_ctime_ns), int64(st.st_ino)))
