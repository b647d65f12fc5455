"""A tree at its source, on disk: looked at, numbered, read for sinks, recorded and restored.

Rules kept here:
- a version's number is durable before it is returned;
- what is sent for a digest was read from a file that is still what the manifest recorded, or it is not sent;
- one read and one compression serve all sinks that ask for the same.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import msgspec

from zcluster.core.sync.blocks import CHUNK_BYTES
from zcluster.core.sync.classify import classify
from zcluster.core.sync.effects import HashBlocks, Number, Opened, Piece, Read, Record
from zcluster.core.sync.entry import FILE, Entry
from zcluster.core.sync.plan import Plan, make_plan
from zcluster.core.sync.rules import Rules
from zcluster.errors import ZClusterError
from zcluster.files.history import History
from zcluster.files.packing import pack
from zcluster.files.places import Hint, Place
from zcluster.files.reader import Reader
from zcluster.files.staging import Staging
from zcluster.wire import Frame
from zcluster.wire.trees import Parcel

SHARED_BYTES = 32 * 1024 * 1024
"""Parcels that are kept because other sinks may ask for the same."""
PIECE_COST_BYTES = 400
"""What a piece that is kept is reckoned at, beside its path and content."""
PRUNE_ROWS = 2000
Packed = list[tuple[Parcel, Frame]]


class SourcePlace(Place):
    """One tree whose files are true here.

    Args:
        history: where versions are numbered and, with ``keep``, kept.
    """

    lists_changes = True

    def __init__(
        self, root: Path, tree: str, rules: Rules, cache: Path, hint: Hint, history: History, *, keep: bool, create: bool
    ) -> None:
        self._history, self._keep = history, keep
        newest = history.newest(tree)
        self.known_before = newest is not None
        super().__init__(root, tree, rules, cache, hint, create=create and not self.known_before)
        self._reader = Reader(self.treedir.root, self.local.stat_of)
        self._shared: OrderedDict[tuple[Piece, ...], Packed] = OrderedDict()
        self._shared_bytes = 0

    def opened(self) -> Opened:
        """Look at everything, and tell what was published last."""
        if not self.known_before and not self.treedir.marker_ok():
            self.treedir.make_marker()
        newest = self._history.newest(self.tree)
        looked = self.look(None)
        return Opened(
            looked=looked, version=newest.number if newest else 0, epoch=newest.epoch if newest else 0,
            root=newest.root if newest else b"", files_before=newest.files if newest else 0, watching=self.watching,
            location=str(self.root),
        )  # fmt: skip

    def reopen(self) -> None:
        super().reopen()
        self._reader = Reader(self.treedir.root, self.local.stat_of)

    # -- versions -------------------------------------------------------------------------------------------------------

    def number(self, action: Number) -> int:
        """The next version's number. Whoever publishes this directory stands for it: it gets its marker, if it has none."""
        if not self.treedir.marker_ok():
            self.treedir.make_marker()
        return self._history.open_version(
            self.tree, epoch=action.epoch, root=action.root, files=action.files, bytes=action.bytes, added=action.added,
            changed=action.changed, removed=action.removed, cause="rollback" if action.cause == "rollback" else "change",
            at_s=time.time(), of=action.of, floor=action.floor,
        )  # fmt: skip

    def record(self, action: Record) -> str:
        """Keep a version; returns why it is not kept, or nothing."""
        if not self._keep:
            return ""
        history, tree, number = self._history, self.tree, action.number
        before, after = action.before, action.after
        delta: dict[str, bytes | None] = {path: listing for path, listing in after.items() if before.get(path) is not listing}
        if not history.record_listings(tree, number, delta):
            history.record_listings(tree, number, dict(after))
        changed = None
        if action.changes is not None:
            changed = [(change.path, change.new) for change in action.changes if change.new and change.new.kind == FILE]
        missing = history.missing_blobs(tree, number, changed)
        history.add_blobs(tree, number, ((path, entry, self._content(path, entry)) for path, entry in missing))
        version = history.finish(tree, number)
        while history.prune(PRUNE_ROWS):
            continue
        self.save()
        return "" if version.kept else version.reason

    def _content(self, path: str, entry: Entry) -> Iterator[bytes]:
        """The content of a file, as long as it is what the manifest says."""
        starts = range(0, max(1, entry.size), CHUNK_BYTES)
        pieces = [Piece(path, entry.digest, start, min(CHUNK_BYTES, entry.size - start)) for start in starts]
        for read in self._reader.read(pieces, CHUNK_BYTES):
            if -1 in read.sizes:
                raise OSError("it has changed")
            yield read.data

    def restore(self, version: int) -> None:
        """Put the files of an old version in the place of the present ones.

        Raises:
            UsageError: there is no such version, or it is not kept.
            ZClusterError: the disk is full or failed.
        """
        self._history.to_roll_back(self.tree, version)
        self.look(None)
        theirs = self._history.manifest(self.tree, version)
        plan = make_plan(classify(theirs, self.local.listings, self.rules), self.rules)
        staging = Staging(self.treedir, version, self.rules.hash)
        try:
            self._stage_old(staging, plan)
            applied = staging.commit(plan.staged, b"")
        except ZClusterError:
            staging.abandon()
            raise
        if applied.errors:
            path, reason = applied.errors[0]
            raise ZClusterError(f"{path}: {reason} ({len(applied.errors)} such)", hint="what could be restored is restored")

    def _stage_old(self, staging: Staging, plan: Plan) -> None:
        for path, entry in plan.link:
            staging.put_link(path, entry)
        copies = [(path, entry) for path, entry, _ in plan.copies]
        for path, entry in (*plan.fetch, *copies):
            if entry.size <= CHUNK_BYTES:
                staging.put(path, entry, b"".join(self._history.content(entry.digest)))
                continue
            patch = staging.begin(path, entry)
            offset = 0
            for part in self._history.content(entry.digest):
                patch.write(offset, part)
                offset += len(part)
            patch.finish()

    # -- reading for sinks ----------------------------------------------------------------------------------------------

    def read(self, action: Read) -> Packed:
        """The pieces of a FETCH as parcels, from another sink's reading where there is one."""
        key = tuple(action.pieces)
        packed = self._shared.get(key)
        if packed is not None:
            self._shared.move_to_end(key)
            return [(msgspec.structs.replace(parcel, id=action.id), body) for parcel, body in packed]
        packed = self._packed(action)
        if -1 not in {size for parcel, _ in packed for size in parcel.sizes}:
            self._shared[key] = packed
            self._shared_bytes += _held_bytes(key, packed)
            while self._shared_bytes > SHARED_BYTES:
                self._shared_bytes -= _held_bytes(*self._shared.popitem(last=False))
        return packed

    def _packed(self, action: Read) -> Packed:
        packed: Packed = []
        first = 0
        for read in self._reader.read(action.pieces, CHUNK_BYTES):
            encoding, data = pack(read.data)
            end = first + len(read.sizes)
            parcel = Parcel(
                tree=self.tree, id=action.id, encoding=encoding, raw_bytes=len(read.data), first=first, sizes=read.sizes,
                last=end == len(action.pieces),
            )  # fmt: skip
            packed.append((parcel, data))
            first = end
        return packed

    def hash_blocks(self, action: HashBlocks) -> bytes | None:
        """Hashes of blocks, or None when the file is not what the manifest said any more."""
        return self._reader.hash_blocks(action.path, action.digest, action.block_bytes, action.runs)


def _held_bytes(pieces: tuple[Piece, ...], packed: Packed) -> int:
    """About what sharing these takes: for small files most of it is not their content."""
    return sum(PIECE_COST_BYTES + len(piece.path) for piece in pieces) + sum(len(body) for _, body in packed)
