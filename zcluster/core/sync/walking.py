"""How a sink gets to know a version: listing by listing, only where it differs from what it has.

Rules kept here:
- a listing is believed because its digest is what its directory's entry says, from the version's root downwards;
- what is the same here is never asked for; what is not here at all is asked for with all that is beneath;
- names, sizes and counts are checked as they come, so that a manifest without end is refused in bounded memory.
"""

from __future__ import annotations

from itertools import islice

from zcluster.core.sync.entry import DIRECTORY, Manifest, checked_listing, join, listing_count, listing_digest
from zcluster.core.sync.intake import Intake
from zcluster.core.sync.rules import Rules
from zcluster.errors import PeerError
from zcluster.wire.trees import MAX_ITEMS

MAX_PATH_CHARS = 100_000
"""Of the paths in one LIST: however long they are, it fits a frame."""
MAX_LISTING_BYTES = 256 * 1024 * 1024
"""Of one directory."""


class Walk:
    """The listings of one version, as they come in."""

    def __init__(self, root: bytes, mine: Manifest, mine_root: bytes, rules: Rules) -> None:
        self.theirs: dict[str, bytes] = {}
        self._mine = mine
        self._intake = Intake(rules)
        self._digests: dict[str, bytes] = {}
        """Of directories whose listing is needed."""
        self._shallow: dict[str, None] = {}
        self._deep: dict[str, None] = {}
        self._part: tuple[str, bytearray] | None = None
        self._answered = False
        if root != mine_root:
            self._need("", root)

    @property
    def complete(self) -> bool:
        """Whether all that differs is known."""
        return not self._digests

    def next_question(self) -> tuple[list[str], bool]:
        """Directories to ask for next, and whether with all beneath."""
        chosen = self._deep or self._shallow
        paths: list[str] = []
        room = MAX_PATH_CHARS
        for path in islice(chosen, MAX_ITEMS):
            room -= len(path)
            if paths and room < 0:
                break
            paths.append(path)
        self._answered = False
        return paths, chosen is self._deep

    def add(self, listings: list[tuple[str, bytes]], last: bool) -> None:
        """Take a LISTING's body. A listing may come in parts; it is whole when another follows or the answer ends.

        Raises:
            PeerError: it was not asked for, is not what its digest says, or has what a tree may not have.
            TooLarge: it is beyond what the tree's rules allow.
        """
        for path, part in listings:
            if self._part is not None and self._part[0] == path:
                if len(self._part[1]) + len(part) > MAX_LISTING_BYTES:
                    raise PeerError(f"a listing of more than {MAX_LISTING_BYTES} bytes")
                self._part[1].extend(part)
            else:
                self._take_part()
                self._part = (path, bytearray(part))
        if last:
            self._take_part()
            if not self._answered:
                raise PeerError("a LIST was answered with nothing")

    def _take_part(self) -> None:
        if self._part is None:
            return
        (path, listing), self._part = self._part, None
        digest = self._digests.pop(path, None)
        if digest is None:
            raise PeerError(f"a listing that nobody needs: {path[:200]!r}")
        self._shallow.pop(path, None)
        self._deep.pop(path, None)
        self._intake.expect(path, listing_count(listing))
        entries = checked_listing(memoryview(listing), digest)
        self._intake.add(path, entries)
        self._answered = True
        self.theirs[path] = bytes(listing)
        for entry in entries:
            if entry.kind == DIRECTORY:
                self._need(join(path, entry.name), entry.digest)

    def _need(self, path: str, digest: bytes) -> None:
        mine = self._mine.get(path)
        if mine is None:
            self._digests[path] = digest
            self._deep[path] = None
        elif listing_digest(mine) != digest:
            self._digests[path] = digest
            self._shallow[path] = None
