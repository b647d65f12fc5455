"""What a listing from the other side may say, checked as it comes.

Rules kept here:
- nothing of a listing is used before all of it is checked: names, case twins, kinds, links, and what each kind's entry has;
- sizes and counts are bounded by the tree's rules and by MAX_ENTRIES and MAX_HELD_BYTES, so a manifest without end is refused
  in bounded memory; what is kept here is a few numbers;
- what only a hostile or broken source says is a PeerError, what is more than the rules allow is TooLarge; both name the path;
- order, uniqueness and digests are checked before (zcluster.core.sync.entry.checked_listing); what the rules do not cover is
  left alone later (zcluster.core.sync.classify).
"""

from __future__ import annotations

from zcluster.core.sync.entry import DIRECTORY, DIRECTORY_DIGEST_BYTES, FILE, HASH_BYTES, LINK, Change, Entry, join
from zcluster.core.sync.paths import MAX_DEPTH, MAX_PATH_BYTES, case_twins, link_fault, name_fault, path_fault
from zcluster.core.sync.rules import Rules
from zcluster.errors import PeerError, TooLarge

MAX_ENTRIES = 8_000_000
"""Of one manifest, whatever the rules allow."""
MAX_HELD_BYTES = 1 << 30
"""Of one manifest's listings, about, whatever the rules allow."""
BYTES_PER_FILE = 512
"""Of listings, for each file that the rules allow."""
MIN_HELD_BYTES = 1 << 20
MIN_DIRECTORIES = 1024
"""Directories are bounded as files are, but never below this."""
_ENTRY_BYTES = 64
"""What an entry takes beside its name and its link's target."""

_HINT = "the tree's limits are max_files, max_bytes and max_file_bytes"


class Intake:
    """The checks of one manifest, or of one list of changes."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._digest_bytes = HASH_BYTES[rules.hash]
        self._max_files = min(rules.max_files or MAX_ENTRIES, MAX_ENTRIES)
        self._max_directories = max(MIN_DIRECTORIES, self._max_files)
        self._max_held_bytes = min(MAX_HELD_BYTES, max(MIN_HELD_BYTES, BYTES_PER_FILE * self._max_files))
        self.files = 0
        """Files and links so far."""
        self.bytes = 0
        """Of the contents of files so far."""
        self._directories = 0
        self._held_bytes = 0

    def expect(self, path: str, count: int) -> None:
        """Check how many entries the directory ``path`` says that it has, before they take memory.

        Raises:
            TooLarge: they are more than the rules allow, whatever they are.
        """
        most = self._max_files + self._max_directories
        if self.files + self._directories + count > most:
            raise TooLarge(f"the tree has more than {most} files and directories (at {path[:200]!r})", hint=_HINT)

    def add(self, path: str, entries: list[Entry]) -> None:
        """Check the entries of the directory ``path``, which is one that an entry before has named, or the root.

        Raises:
            PeerError: the source says what no tree may have.
            TooLarge: it says more than the rules allow.
        """
        prefix_bytes = len(path.encode()) + 1 if path else 0
        if entries and path and path.count("/") + 2 > MAX_DEPTH:
            raise _refused(path, f"it has more than {MAX_DEPTH} levels")
        for entry in entries:
            name = entry.name
            if fault := name_fault(name):
                raise _refused(join(path, name), fault)
            if prefix_bytes + len(name) * 4 > MAX_PATH_BYTES and prefix_bytes + len(name.encode()) > MAX_PATH_BYTES:
                raise _refused(join(path, name), f"it has more than {MAX_PATH_BYTES} bytes")
            self._entry(path, entry)
        twins = case_twins([entry.name for entry in entries])
        if twins:
            first, second = sorted(twins)[:2]
            raise _refused(join(path, first), f"{second!r} differs from it by case only")

    def change(self, change: Change) -> None:
        """Check one change of a list.

        Raises:
            PeerError, TooLarge: see :meth:`add`.
        """
        path, old, new = change.path, change.old, change.new
        if fault := path_fault(path):
            raise _refused(path, fault)
        directory, _, name = path.rpartition("/")
        if (old is None and new is None) or any(entry is not None and entry.name != name for entry in (old, new)):
            raise _refused(path, "the change is not one of it")
        if new is not None:
            self._entry(directory, new)
        elif old is not None:
            self._count(directory, old, 0)

    def _entry(self, directory: str, entry: Entry) -> None:
        kind = entry.kind
        if kind == FILE:
            if len(entry.digest) != self._digest_bytes or entry.target:
                raise _refused(join(directory, entry.name), "its entry is not a file's")
            limit = self._rules.max_file_bytes
            if limit and entry.size > limit:
                path = join(directory, entry.name)
                raise TooLarge(f"{path[:200]!r} has {entry.size} bytes, a file of this tree at most {limit}", hint=_HINT)
        elif kind == DIRECTORY:
            if len(entry.digest) != DIRECTORY_DIGEST_BYTES or entry.target or entry.size or entry.mtime_ns:
                raise _refused(join(directory, entry.name), "its entry is not a directory's")
        elif kind == LINK:
            self._link(join(directory, entry.name), entry)
        self._count(directory, entry, entry.size)

    def _link(self, path: str, entry: Entry) -> None:
        if self._rules.symlinks != "copy":
            raise _refused(path, "it is a symbolic link, and this tree has none")
        if entry.digest or entry.size or entry.mtime_ns or entry.mode:
            raise _refused(path, "its entry is not a link's")
        if fault := link_fault(path, entry.target):
            raise _refused(path, fault)

    def _count(self, directory: str, entry: Entry, size: int) -> None:
        self._held_bytes += _ENTRY_BYTES + len(entry.name) + len(entry.target)
        if entry.kind == DIRECTORY:
            self._directories += 1
        else:
            self.files += 1
            self.bytes += size
        if self.files > self._max_files:
            raise self._too_much(directory, entry, f"more than {self._max_files} files")
        if self._directories > self._max_directories:
            raise self._too_much(directory, entry, f"more than {self._max_directories} directories")
        if self._rules.max_bytes and self.bytes > self._rules.max_bytes:
            raise self._too_much(directory, entry, f"more than {self._rules.max_bytes} bytes of files")
        if self._held_bytes > self._max_held_bytes:
            raise self._too_much(directory, entry, f"a manifest of more than {self._max_held_bytes} bytes")

    def _too_much(self, directory: str, entry: Entry, what: str) -> TooLarge:
        return TooLarge(f"the tree has {what} (at {join(directory, entry.name)[:200]!r})", hint=_HINT)


def check_totals(rules: Rules, files: int, size_bytes: int) -> None:
    """Check what a copy is going to hold: a walk sees only what differs, so its own counts do not bound the whole.

    Args:
        files, size_bytes: what is here, with the plan's ``more_files`` and ``more_bytes``.

    Raises:
        TooLarge: it is more than the rules allow.
    """
    if rules.max_files and files > rules.max_files:
        raise TooLarge(f"the tree would have {files} files, at most {rules.max_files} are allowed", hint=_HINT)
    if rules.max_bytes and size_bytes > rules.max_bytes:
        raise TooLarge(f"the tree would have {size_bytes} bytes, at most {rules.max_bytes} are allowed", hint=_HINT)


def _refused(path: str, fault: str) -> PeerError:
    return PeerError(f"the source has {path[:200]!r}: {fault}", hint="look at what the source's tree holds there")
