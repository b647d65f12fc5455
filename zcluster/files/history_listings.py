"""The listings of versions, in the history's database: walked from a root, and compared.

Rules kept here:
- a listing that is here has all listings beneath it here too: the deepest are added first, and one whose directories are not
  all here is not added;
- equal digests are equal subtrees: what two versions share is neither read nor stored twice;
- walks are iterative, and hold the listings of one path from the root at most.

The order of a walk: a directory before what is in it, names in the order of their UTF-8 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from zcluster.core.sync.entry import DIRECTORY, Change, Entry, decode_listing, join, listing_digest
from zcluster.files.blobs import Adding, Blobs
from zcluster.files.history_schema import Database

Pair = tuple[str, Entry | None, Entry | None]


class Listings:
    """The listings among ``blobs``."""

    def __init__(self, blobs: Blobs, database: Database) -> None:
        self._blobs = blobs
        self._database = database

    def add(self, delta: Mapping[str, bytes | None]) -> tuple[set[bytes], int]:
        """Add listings by path (None: that directory is gone); returns the digests now here, and the bytes stored.

        A listing that names a directory which is neither here nor in ``delta`` is left out, and so are those above it.

        Raises:
            ZClusterError: it could not be written.
        """
        adding = Adding(self._blobs, self._database)
        here: set[bytes] = set()
        for path in sorted(delta, key=_depth, reverse=True):
            listing = delta[path]
            if listing is None:
                continue
            if self._whole_beneath(listing, here):
                digest = listing_digest(listing)
                here.add(digest)
                adding.add_whole(digest, listing)
        adding.flush()
        return here, adding.stored_bytes

    def has(self, digest: bytes) -> bool:
        """Whether the listing ``digest`` is here, and all beneath it."""
        return self._all_here({digest})

    def walk(self, root: bytes) -> Iterator[tuple[str, bytes, list[Entry]]]:
        """Each directory of the version ``root``: its path, its listing, its entries."""
        stack = [("", root)]
        while stack:
            path, digest = stack.pop()
            listing = self._blobs.loaded(digest)
            entries = decode_listing(listing)
            yield path, listing, entries
            stack.extend((join(path, entry.name), entry.digest) for entry in reversed(entries) if entry.kind == DIRECTORY)

    def compare(self, old_root: bytes | None, new_root: bytes) -> Iterator[Change]:
        """What differs between two versions (None: nothing was before). A directory that is in both appears only when its own
        mode changed: what changed in it appears by itself."""
        levels = [] if old_root == new_root else [self._pairs("", old_root, new_root)]
        while levels:
            pair = next(levels[-1], None)
            if pair is None:
                levels.pop()
                continue
            path, old, new = pair
            old_digest = old.digest if old is not None and old.kind == DIRECTORY else None
            new_digest = new.digest if new is not None and new.kind == DIRECTORY else None
            if old_digest is None or new_digest is None or (old is not None and new is not None and old.mode != new.mode):
                yield Change(path, old, new)
            if old_digest != new_digest:
                levels.append(self._pairs(path, old_digest, new_digest))

    def find(self, root: bytes, path: str) -> Entry | None:
        """The entry of ``path`` in the version ``root``, or None."""
        digest: bytes | None = root
        found: Entry | None = None
        for name in path.split("/"):
            found = next((entry for entry in self._entries(digest) if entry.name == name), None)
            digest = found.digest if found is not None and found.kind == DIRECTORY else None
        return found

    def _pairs(self, path: str, old: bytes | None, new: bytes | None) -> Iterator[Pair]:
        """The names in which two listings of one directory differ, in order."""
        before = {entry.name: entry for entry in self._entries(old)}
        after = {entry.name: entry for entry in self._entries(new)}
        names = [name for name, entry in after.items() if before.get(name) != entry]
        names += [name for name in before if name not in after]
        for name in sorted(names, key=str.encode):
            yield join(path, name), before.get(name), after.get(name)

    def _entries(self, digest: bytes | None) -> list[Entry]:
        return [] if digest is None else decode_listing(self._blobs.loaded(digest))

    def _whole_beneath(self, listing: bytes, here: set[bytes]) -> bool:
        return self._all_here({entry.digest for entry in decode_listing(listing) if entry.kind == DIRECTORY} - here)

    def _all_here(self, digests: set[bytes]) -> bool:
        """Whether these are here and no garbage that a sweep under way may take in parts."""
        if not digests:
            return True
        used = self._blobs.used if self._blobs.sweeping else None
        found = self._blobs.ids(list(digests))
        return len(found) == len(digests) and (used is None or all(number in used for number in found.values()))


def _depth(path: str) -> int:
    return path.count("/") + 1 if path else 0
