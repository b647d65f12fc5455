"""How a sink gets the contents of a plan: small files many at a time, large ones block by block, never more than a window.

Rules kept here:
- what has been asked for and is not on the disk yet is at most the window;
- a small file is asked for whole; a large one (more than a chunk) only where its blocks differ from what is here: first the
  hashes of its chunks, then those of the blocks of chunks that differ, then the ranges that are left;
- where there is a pace, it is kept: nothing is asked for before it is time (zcluster.core.sync.pacing);
- a piece that cannot be had any more does not stop the others: the next pull brings what took its place;
- an answer that does not fit its question is the source's fault.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from zcluster.core.sync import bodies
from zcluster.core.sync.blocks import BLOCK_BYTES, BLOCK_HASH_BYTES, CHUNK_BYTES, block_count, fine_runs
from zcluster.core.sync.effects import Begin, Begun, Coarse, Effects, Fine, FinishLarge, Piece, Place, Put, failed
from zcluster.core.sync.entry import Entry
from zcluster.core.sync.pacing import Pace
from zcluster.errors import PeerError, ZClusterError
from zcluster.wire.trees import Blocks, Fetch, Hashes, Parcel

FETCH_FILES = 512
FETCH_PATH_CHARS = 100_000
"""Of the paths in one FETCH: however long they are, it fits a frame."""
FINE_BLOCKS = 32_768
"""Blocks of one BLOCKS: their hashes are half a MiB."""
MAX_RUNS = 4096
MAX_COMPARING = 2
"""Answers with hashes that wait to be compared: half a MiB each."""
COMPRESSED_MORE = 512
"""Bytes (and a 256th) that what cannot be compressed may take more than it has."""
NONE = -1
"""No id."""


@dataclass
class _Fetch:
    """A FETCH that is not answered in full."""

    pieces: list[Piece]
    entries: list[Entry]
    large: str = ""
    answered: int = 0


@dataclass
class _Large:
    """The large file that is being put together."""

    path: str
    entry: Entry
    begun: bool = False
    coarse: bytes = b""
    """Hashes of its chunks, once they have come."""
    runs: deque[tuple[int, int]] = field(default_factory=deque)
    """Of blocks whose hashes are still to be asked for."""
    asked: list[tuple[int, int]] = field(default_factory=list)
    ranges: deque[tuple[int, int]] = field(default_factory=deque)
    comparing: int = 0
    """Answers with hashes of blocks that are being compared."""
    known: bool = False
    """All ranges are known."""
    open_fetches: int = 0
    changed: bool = False
    ending: bool = False


class Fetching:
    """The contents of one plan on their way in.

    Args:
        wanted: the files that are not staged yet.
        last_id: ids of questions are above it: they grow over all pulls of a session.
        say: sends a message to the source.
        ended: called once: with None when all is staged that could be had, or with the error.
        pace: how fast contents may be asked for; None: as fast as the window lets.
        here: paths where there is a file already.
    """

    def __init__(
        self, place: Place, version: int, wanted: list[tuple[str, Entry]], window_bytes: int, chunk_bytes: int, effects: Effects,
        last_id: int, say: Callable[[Fetch | Blocks, bytes], None], ended: Callable[[ZClusterError | None, float], None],
        pace: Pace | None = None, here: Container[str] = (),
    ) -> None:  # fmt: skip
        self._here = here
        self._place, self._tree, self._version = place, place[0], version
        self._lane = f"{place[0]}/{place[1]}"
        self._effects, self._say, self._ended = effects, say, ended
        self._window_bytes = max(window_bytes, chunk_bytes)
        self._chunk_bytes = min(chunk_bytes, CHUNK_BYTES, pace.piece_bytes if pace is not None else CHUNK_BYTES)
        self._pace, self._paced = pace, False
        self._small = [each for each in wanted if each[1].size <= self._chunk_bytes]
        self._next_small = 0
        self._waiting_large = deque(each for each in wanted if each[1].size > self._chunk_bytes)
        self._large: _Large | None = None
        self._open: dict[int, _Fetch] = {}
        self._open_bytes = 0
        self._last_id, self._hashes_id = last_id, NONE
        self._over = False
        self.changed = 0
        """Pieces that could not be had any more."""
        self.files_left = len(wanted)
        self.bytes_left = sum(entry.size for _, entry in wanted)
        self.bytes_done = 0

    def start(self, now: float) -> None:
        """Begin."""
        self._go_on(now)

    @property
    def last_id(self) -> int:
        """The id of its last question."""
        return self._last_id

    @property
    def waits(self) -> bool:
        """Whether something was asked for that has not come."""
        return bool(self._open) or self._hashes_id != NONE

    def next_deadline(self) -> float:
        """When :meth:`handle_deadline` has to be called: infinite, unless it is the pace that lets it wait."""
        return self._pace.free_s if self._paced and self._pace is not None and not self._over else math.inf

    def handle_deadline(self, now: float) -> bool:
        """Go on where the pace let it wait; returns whether it did."""
        if now < self.next_deadline():
            return False
        self._go_on(now)
        return True

    def stop(self) -> None:
        """Ask for nothing more, and tell nobody."""
        self._over = True

    def parcel(self, message: Parcel, body: bytes | memoryview, now: float) -> None:
        """A PARCEL came.

        Raises:
            PeerError: it does not fit what was asked for.
        """
        fetch = self._open.get(message.id)
        if fetch is None or self._over:
            return
        end = message.first + len(message.sizes)
        if message.first != fetch.answered or end > len(fetch.pieces) or (message.last and end != len(fetch.pieces)):
            raise PeerError(f"a PARCEL with pieces {message.first} to {end}: {fetch.answered} of {len(fetch.pieces)} have come")
        said = sum(size for size in message.sizes if size > 0)
        if not message.sizes or said != message.raw_bytes or len(body) > said + said // 256 + COMPRESSED_MORE:
            # Now, and not when the disk comes to it: until then each of them would be held here.
            raise PeerError(f"a PARCEL of {len(body)} bytes for {len(message.sizes)} pieces of {said} bytes")
        pieces, entries = fetch.pieces[message.first : end], fetch.entries[message.first : end]
        for piece, size in zip(pieces, message.sizes, strict=True):
            if size not in (piece.size, -1):
                raise PeerError(f"a piece of {size} bytes, {piece.size} were asked for")
        fetch.answered = end
        if message.last:
            del self._open[message.id]
        gone = message.sizes.count(-1)
        self.changed += gone
        if gone and fetch.large and self._large is not None and self._large.path == fetch.large:
            self._large.changed = True
        put = Put(self._place, pieces, entries, message, body, fetch.large)
        weight = sum(max(1, piece.size) for piece in pieces)

        def then(result: object, now: float) -> None:
            self._was_put(result, weight, pieces, fetch.large, message.last, now)

        self._effects.do(self._lane, put, then)

    def hashes(self, message: Hashes, body: bytes | memoryview, now: float) -> None:
        """A HASHES came.

        Raises:
            PeerError: it does not fit what was asked for.
        """
        large = self._large
        if large is None or message.id != self._hashes_id or self._over:
            return
        self._hashes_id = NONE
        if message.failed:
            self.changed += 1
            self._drop_large(now)
            return
        if len(body) != BLOCK_HASH_BYTES * sum(count for _, count in large.asked):
            raise PeerError(f"{len(body)} bytes of hashes, not what was asked for")
        if not large.coarse:
            large.coarse = bytes(body)
            self._compare(large)
        else:
            action = Fine(self._place, large.path, large.asked, bytes(body))
            large.comparing += 1
            self._effects.do(self._lane, action, lambda result, now: self._was_fine(large, result, now))
            if large.comparing < MAX_COMPARING:
                # The source hashes the next ones while these are compared.
                self._ask_fine(large, now)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _go_on(self, now: float) -> None:
        """Ask for as much as the window takes."""
        if self._over:
            return
        self._paced = False
        while self._next_small < len(self._small) and self._may(now):
            self._fetch_small(now)
        if self._next_small >= len(self._small):
            self._go_on_large(now)
        idle = not self._open and not self._open_bytes and self._large is None and not self._waiting_large
        if idle and self._next_small >= len(self._small) and not self._over:
            self._over = True
            self._ended(None, now)

    def _may(self, now: float) -> bool:
        """Whether more may be asked for: the window has room, and it is time."""
        if self._open_bytes >= self._window_bytes:
            return False
        self._paced = self._pace is not None and not self._pace.may(now)
        return not self._paced

    def _fetch_small(self, now: float) -> None:
        fetch = _Fetch([], [])
        total = path_chars = 0
        while self._next_small < len(self._small) and len(fetch.pieces) < FETCH_FILES:
            path, entry = self._small[self._next_small]
            if fetch.pieces and (total + entry.size > self._chunk_bytes or path_chars > FETCH_PATH_CHARS):
                break
            path_chars += len(path)
            fetch.pieces.append(Piece(path, entry.digest, 0, entry.size))
            fetch.entries.append(entry)
            total += entry.size
            self._next_small += 1
        self._ask(fetch, now)

    def _ask(self, fetch: _Fetch, now: float) -> None:
        self._last_id += 1
        self._open[self._last_id] = fetch
        # An empty file costs a place in the window as well: without end of them there would be no bound.
        weight = sum(max(1, piece.size) for piece in fetch.pieces)
        self._open_bytes += weight
        if self._pace is not None:
            self._pace.take(weight, now)
        self._say(Fetch(tree=self._tree, version=self._version, id=self._last_id), bodies.pieces_body(fetch.pieces))

    def _was_put(self, result: object, weight: int, pieces: list[Piece], large: str, last: bool, now: float) -> None:
        self._open_bytes -= weight
        if self._over:
            return
        if (error := failed(result)) is not None:
            self._fail(error, now)
            return
        done = sum(piece.size for piece in pieces)
        self.bytes_done += done
        self.bytes_left = max(0, self.bytes_left - done)
        if not large:
            self.files_left -= len(pieces)
        elif self._large is not None and self._large.path == large and last:
            self._large.open_fetches -= 1
        self._go_on(now)

    def _fail(self, error: ZClusterError, now: float) -> None:
        if not self._over:
            self._over = True
            self._ended(error, now)

    # -- a large file ---------------------------------------------------------------------------------------------------

    def _go_on_large(self, now: float) -> None:
        large = self._large
        if large is None:
            if self._waiting_large:
                path, entry = self._waiting_large.popleft()
                begun = self._large = _Large(path, entry)
                begin = Begin(self._place, path, entry)
                self._effects.do(self._lane, begin, lambda result, now: self._was_begun(begun, result, now))
                if path in self._here:
                    # Its chunks will have to be compared: the source hashes them while this side begins.
                    self._ask_coarse(begun)
            return
        if large.changed:
            if not large.open_fetches:
                self._drop_large(now)
            return
        while large.ranges and self._may(now):
            self._fetch_ranges(large, now)
        if large.known and not large.ranges and not large.open_fetches and not large.ending:
            large.ending = True
            self._effects.do(self._lane, FinishLarge(self._place, large.path), self._was_finished)

    def _was_begun(self, large: _Large, result: object, now: float) -> None:
        if self._over or self._large is not large:
            return
        if (error := failed(result)) is not None:
            self._fail(error, now)
            return
        assert isinstance(result, Begun)
        large.begun = True
        if result.needs_hashes:
            if large.coarse:
                self._compare(large)
            elif self._hashes_id == NONE:
                self._ask_coarse(large)
            return
        self._hashes_id = NONE
        size = large.entry.size
        large.ranges.extend((start, min(self._chunk_bytes, size - start)) for start in range(0, size, self._chunk_bytes))
        large.known = True
        self._go_on(now)

    def _ask_coarse(self, large: _Large) -> None:
        self._ask_hashes(large, CHUNK_BYTES, [(0, block_count(large.entry.size, CHUNK_BYTES))])

    def _compare(self, large: _Large) -> None:
        """Compare chunks, when both their hashes and the file's beginning are there."""
        if large.begun and large.coarse:
            self._effects.do(self._lane, Coarse(self._place, large.path, large.coarse), self._was_coarse)

    def _ask_hashes(self, large: _Large, block_bytes: int, runs: list[tuple[int, int]]) -> None:
        self._last_id += 1
        self._hashes_id = self._last_id
        large.asked = runs
        message = Blocks(
            tree=self._tree, version=self._version, id=self._last_id, path=large.path, digest=large.entry.digest.hex(),
            block_bytes=block_bytes, runs=runs,
        )  # fmt: skip
        self._say(message, b"")

    def _was_coarse(self, result: object, now: float) -> None:
        """``result``: the chunks that do not match."""
        large = self._large
        if self._over or large is None:
            return
        if (error := failed(result)) is not None:
            self._fail(error, now)
            return
        assert isinstance(result, list)
        large.runs.extend(fine_runs(result, large.entry.size, FINE_BLOCKS))
        self._ask_fine(large, now)

    def _ask_fine(self, large: _Large, now: float) -> None:
        runs: list[tuple[int, int]] = []
        room = FINE_BLOCKS
        while large.runs and len(runs) < MAX_RUNS and large.runs[0][1] <= room:
            runs.append(large.runs.popleft())
            room -= runs[-1][1]
        if runs:
            self._ask_hashes(large, BLOCK_BYTES, runs)
        elif self._hashes_id == NONE:
            large.known = not large.comparing
        self._go_on(now)

    def _was_fine(self, large: _Large, result: object, now: float) -> None:
        """``result``: the ranges that are nowhere here."""
        if self._over or self._large is not large:
            return
        large.comparing -= 1
        if (error := failed(result)) is not None:
            self._fail(error, now)
            return
        assert isinstance(result, list)
        for offset, size in result:
            step = self._chunk_bytes
            large.ranges.extend((offset + start, min(step, size - start)) for start in range(0, size, step))
        if self._hashes_id == NONE:
            self._ask_fine(large, now)
        else:
            self._go_on(now)

    def _fetch_ranges(self, large: _Large, now: float) -> None:
        fetch = _Fetch([], [], large.path)
        total = 0
        while large.ranges and len(fetch.pieces) < FETCH_FILES:
            offset, size = large.ranges[0]
            if fetch.pieces and total + size > self._chunk_bytes:
                break
            large.ranges.popleft()
            fetch.pieces.append(Piece(large.path, large.entry.digest, offset, size))
            fetch.entries.append(large.entry)
            total += size
        large.open_fetches += 1
        self._ask(fetch, now)

    def _was_finished(self, result: object, now: float) -> None:
        if self._over:
            return
        if (error := failed(result)) is not None:
            self._fail(error, now)
            return
        self._drop_large(now)

    def _drop_large(self, now: float) -> None:
        """Done with this large file, whether it could be had or not."""
        self._large = None
        self.files_left -= 1
        self._go_on(now)
