"""What a source gives to its sinks: permission, listings, pieces of files, hashes of blocks.

Rules kept here:
- a sink pulls one version at a time, after GO; what it has begun it may finish, although newer versions come: the manifest
  of its version is kept for it, and content that is gone meanwhile is answered with -1;
- what one sink may ask for at once is bounded; beyond that it broke the protocol and its pull ends; a new pull has its GO
  when nothing is read any more for the one before, so that pulling again and again is no way round the bound;
- a frame is never larger than FRAME_BYTES before compression, and one LIST is answered with a few frames: the sink asks
  again for what is missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from zcluster.core.sync import bodies
from zcluster.core.sync.effects import Effects, HashBlocks, Place, Read
from zcluster.core.sync.entry import DIRECTORY, Change, Manifest, decode_listing, join, merged_changes
from zcluster.errors import PeerError
from zcluster.wire.trees import Blocks, Fetch, Finish, Go, Hashes, List, Listing, Parcel, Pull

FRAME_BYTES = 700_000
"""Of listings or changes in one frame: with its header it fits a frame of 1 MiB, however little it can be compressed."""
LIST_BYTES = 4 * FRAME_BYTES
"""A LIST is answered with about this much; one large directory may be more."""
CHANGE_BYTES = 200
"""What a change is reckoned at, beside its path."""
MAX_RECENT_CHANGES = 20_000
"""Changes that are kept for sinks which are a few versions behind; others compare listings."""
MAX_OPEN_FETCHES = 256
MAX_OPEN_BLOCKS = 4
"""BLOCKS that are not answered: a sink needs one at a time, and each may read a whole file."""
MAX_BLOCKS = 32_768
"""Of one BLOCKS: their hashes are half a MiB. In chunks it is a file of 30 GiB, the largest that a tree may have."""


@dataclass(frozen=True)
class Version:
    """A version that a source has published."""

    number: int
    epoch: int
    root: bytes
    mine: Manifest


@dataclass
class _Open:
    """What a session has asked for and not been given, by whichever of its pulls."""

    fetches: int = 0
    bytes: int = 0
    blocks: int = 0


@dataclass
class _Pull:
    """A sink's pull that has its GO."""

    version: Version
    open: _Open


class Serving:
    """The pulls of one tree's sinks.

    Args:
        place: the tree.
        window_bytes, chunk_bytes: the most that a sink may ask for at once, and in one piece.
        current: the version that a pull gets, or None while there is none.
        ask_permit: asked at each PULL; :meth:`grant` is called when the pull may begin, at once or later.
        release_permit: the session's pull is over.
    """

    def __init__(
        self, place: Place, effects: Effects, window_bytes: int, chunk_bytes: int, current: Callable[[], Version | None],
        ask_permit: Callable[[Place, int, float], None], release_permit: Callable[[Place, int, float], None],
    ) -> None:  # fmt: skip
        self._place, self._tree = place, place[0]
        self._lane = f"read:{place[0]}/{place[1]}"
        self._effects = effects
        # A sink may always have one piece open, however small the window is.
        self._window_bytes, self._chunk_bytes = max(window_bytes, chunk_bytes), chunk_bytes
        self._current = current
        self._ask, self._release = ask_permit, release_permit
        self._pulls: dict[int, _Pull] = {}
        self._asked: dict[int, Pull] = {}
        self._open: dict[int, _Open] = {}
        self._granted: set[int] = set()
        """Sessions that have their permit, and wait for what their last pull asked for."""
        self._recent: deque[tuple[int, bytes, list[Change]]] = deque()
        self._recent_changes = 0

    @property
    def busy(self) -> bool:
        """Whether anyone pulls."""
        return bool(self._pulls)

    # -- what a sink says -----------------------------------------------------------------------------------------------

    def pull(self, session: int, message: Pull, now: float) -> None:
        """PULL: GO follows when there is a permit."""
        self._asked[session] = message
        self._ask(self._place, session, now)

    def grant(self, session: int, now: float) -> None:
        """The session's pull may begin."""
        if session in self._asked and session in self._open:
            self._pulls.pop(session, None)
            self._granted.add(session)
            return
        message, version = self._asked.pop(session, None), self._current()
        if message is None or version is None:
            # Without a version the next announcement makes it ask again.
            self._release(self._place, session, now)
            return
        self._pulls[session] = _Pull(version, _Open())
        changes = self._since(message, version)
        known, root = changes is not None, version.root.hex()
        self._effects.say(session, Go(tree=self._tree, version=version.number, epoch=version.epoch, root=root, changes=known))
        if changes is not None:
            self._say_listings(session, version.number, 0, _change_frames(changes))

    def listings(self, session: int, message: List, body: bytes | memoryview) -> None:
        """LIST: listings of the version that the session pulls.

        Raises:
            PeerError: the version has no such directory.
        """
        pull = self._pulls.get(session)
        if pull is None or pull.version.number != message.version:
            failure = Listing(
                tree=self._tree, version=message.version, id=message.id, raw_bytes=0, last=True, failed="there is no such pull"
            )
            self._effects.say(session, failure)
            return
        listings = _gather(pull.version.mine, bodies.read_paths(body), message.deep)
        self._say_listings(session, message.version, message.id, _listing_frames(listings))

    def fetch(self, session: int, message: Fetch, body: bytes | memoryview, now: float) -> None:
        """FETCH: pieces of files.

        Raises:
            PeerError: more is asked for than is allowed at once.
        """
        pieces = bodies.read_pieces(body)
        pull = self._pulls.get(session)
        if pull is None or pull.version.number != message.version:
            self._effects.say(session, Parcel(tree=self._tree, id=message.id, raw_bytes=0, sizes=[-1] * len(pieces), last=True))
            return
        opened, total = pull.open, sum(piece.size for piece in pieces)
        too_large = any(piece.size > self._chunk_bytes for piece in pieces)
        if too_large or opened.fetches >= MAX_OPEN_FETCHES or opened.bytes + total > 2 * self._window_bytes:
            self.end(session, now)
            raise PeerError(f"a FETCH of {total} bytes with {opened.bytes} asked for: more than is allowed at once")
        self._open[session] = opened
        opened.fetches += 1
        opened.bytes += total

        def then(result: object, now: float) -> None:
            opened.fetches -= 1
            opened.bytes -= total
            self._was_read(session, opened, now)
            if self._pulls.get(session) is pull:
                self._say_parcels(session, message, result, len(pieces))

        self._effects.do(self._lane, Read(self._place, message.id, pieces), then)

    def blocks(self, session: int, message: Blocks, now: float) -> None:
        """BLOCKS: hashes of blocks of a file.

        Raises:
            PeerError: more is asked for than is allowed at once, or the digest is none.
        """
        if sum(count for _, count in message.runs) > MAX_BLOCKS:
            raise PeerError(f"a BLOCKS of more than {MAX_BLOCKS} blocks")
        try:
            digest = bytes.fromhex(message.digest)
        except ValueError:
            raise PeerError("a digest that is not hexadecimal") from None
        pull = self._pulls.get(session)

        def then(result: object, now: float) -> None:
            known = isinstance(result, bytes)
            answer = Hashes(tree=self._tree, id=message.id, failed="" if known else "the file has changed")
            if pull is not None:
                pull.open.blocks -= 1
                self._was_read(session, pull.open, now)
            if self._pulls.get(session) is pull:
                self._effects.say(session, answer, result if isinstance(result, bytes) else b"")

        if pull is None:
            then(None, now)
            return
        if pull.open.blocks >= MAX_OPEN_BLOCKS:
            self.end(session, now)
            raise PeerError(f"more than {MAX_OPEN_BLOCKS} BLOCKS at once")
        self._open[session] = pull.open
        pull.open.blocks += 1
        action = HashBlocks(self._place, message.path, digest, message.block_bytes, message.runs)
        self._effects.do(self._lane, action, then)

    def finish(self, session: int, message: Finish, now: float) -> None:
        """FINISH: the pull is over."""
        self.end(session, now)

    def end(self, session: int, now: float) -> None:
        """The session's pull is over, whatever it was doing."""
        self._asked.pop(session, None)
        self._granted.discard(session)
        self._pulls.pop(session, None)
        self._release(self._place, session, now)

    # -- what leads from one version to the next ------------------------------------------------------------------------

    def remember(self, version: int, root: bytes, changes: list[Change] | None) -> None:
        """Keep the changes that lead from ``version`` to the one after it; None: they are too many, or not known."""
        if changes is None:
            self._recent.clear()
            self._recent_changes = 0
            return
        self._recent.append((version, root, changes))
        self._recent_changes += len(changes)
        while self._recent and self._recent_changes > MAX_RECENT_CHANGES:
            self._recent_changes -= len(self._recent.popleft()[2])

    def changes_since(self, version: int) -> int | None:
        """How many changes a sink with ``version`` is behind; None when that is not known any more."""
        counts = [len(changes) for number, _, changes in self._recent if number >= version]
        known = any(number == version for number, _, _ in self._recent)
        return sum(counts) if known else None

    def _since(self, message: Pull, version: Version) -> list[Change] | None:
        """All changes since the version that the sink has, or None when they are not known any more."""
        if message.have == version.number and message.have_root == version.root.hex():
            return []
        found: dict[str, Change] | None = None
        for number, root, changes in self._recent:
            if found is None and number == message.have and root.hex() == message.have_root:
                found = {}
            if found is not None:
                merged_changes(found, changes)
        return None if found is None else [change for change in found.values() if change.old != change.new]

    def _was_read(self, session: int, opened: _Open, now: float) -> None:
        """Something that the session asked for has come from the disk; its next pull may wait for the last of it."""
        if opened.fetches or opened.blocks:
            return
        del self._open[session]
        if session in self._granted:
            self._granted.discard(session)
            self.grant(session, now)

    # -- answers --------------------------------------------------------------------------------------------------------

    def _say_listings(self, session: int, version: int, id_: int, frames: Iterable[bytes]) -> None:
        waiting: bytes | None = None
        for body in frames:
            if waiting is not None:
                self._say_listing(session, version, id_, waiting, False)
            waiting = body
        self._say_listing(session, version, id_, waiting if waiting is not None else b"\x90", True)

    def _say_listing(self, session: int, version: int, id_: int, body: bytes, last: bool) -> None:
        self._effects.say(session, Listing(tree=self._tree, version=version, id=id_, raw_bytes=len(body), last=last), body)

    def _say_parcels(self, session: int, message: Fetch, result: object, count: int) -> None:
        if not isinstance(result, list):
            self._effects.say(session, Parcel(tree=self._tree, id=message.id, raw_bytes=0, sizes=[-1] * count, last=True))
            return
        for parcel, body in result:
            self._effects.say(session, parcel, body)


def _gather(mine: Manifest, paths: list[str], deep: bool) -> Iterator[tuple[str, bytes]]:
    """The listings of ``paths`` and, when ``deep``, of what is beneath, parents first, until it is enough for one answer."""
    room = LIST_BYTES
    stack = list(reversed(paths))
    while stack and room > 0:
        path = stack.pop()
        listing = mine.get(path)
        if listing is None:
            raise PeerError(f"a LIST of a directory that the version does not have: {path[:200]!r}")
        yield path, listing
        room -= len(listing) + len(path)
        if deep:
            stack += [join(path, entry.name) for entry in reversed(decode_listing(listing)) if entry.kind == DIRECTORY]


def _listing_frames(listings: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """Bodies of LISTINGs; a listing that is larger than a frame goes on in the next ones, under the same path."""
    frame: list[tuple[str, bytes]] = []
    room = FRAME_BYTES
    for path, listing in listings:
        start = 0
        while start < len(listing):
            part = listing[start : start + max(1024, room)]
            frame.append((path, part))
            start += len(part)
            room -= len(part) + len(path)
            if room <= 0:
                yield bodies.listings_body(frame)
                frame, room = [], FRAME_BYTES
    if frame:
        yield bodies.listings_body(frame)


def _change_frames(changes: list[Change]) -> Iterator[bytes]:
    frame: list[Change] = []
    room = FRAME_BYTES
    for change in changes:
        frame.append(change)
        room -= len(change.path) * 4 + CHANGE_BYTES
        if room <= 0:
            yield bodies.changes_body(frame)
            frame, room = [], FRAME_BYTES
    if frame:
        yield bodies.changes_body(frame)
