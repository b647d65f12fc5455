"""The source's side of a table: which frames tell of its changes, and in whose turn questions are answered.

Rules kept here:
- frames hold whole commits, so that a copy is a state that the source has had after each of them; several commits share a frame
  up to BATCH_RAW_BYTES;
- each frame begins where the one before ended, so that a copy that missed one sees the gap;
- a commit that fits into no frame is left out: copies see the gap, ask, and are given pages;
- of one peer there is at most one question for each table; a newer one takes the place of one that has not been begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Generic, TypeVar

from zcluster.core.batch import Body
from zcluster.core.tables.bodies import Item, body_of, item_bytes
from zcluster.core.tables.digests import EMPTY_DIGEST, table_digest
from zcluster.wire.tables import Changes, Head, Page

BATCH_RAW_BYTES = 262_144
"""A frame with several commits, or a page of several items, is no larger, before compression."""
MAX_RAW_BYTES = 8_388_608
"""The largest commit that is put into one frame, before compression."""
MAX_BODY_BYTES = 1_048_576 - 16_384
"""The largest body of a frame, compressed: with its header the frame has at most 1 MiB."""

Pack = Callable[[bytes], tuple[int, Body]]
"""Compresses where that pays: (encoding, data)."""
Told = tuple[Changes, Body]
W = TypeVar("W")


class Source:
    """How far the source's changes were told.

    Args:
        revision: the store's, when the source begins to tell; copies ask for what is older.
    """

    def __init__(self, table: str, store: str, revision: int, pack: Pack) -> None:
        self.table, self.store = table, store
        self.position = revision
        """Up to here changes were read."""
        self.told = revision
        """Where the last frame ended: there is no change between here and ``position``."""
        self.head: Head | None = None
        self.dirty = True
        """Whether there were changes since ``head``."""
        self.skipped = 0
        """Commits that fitted into no frame."""
        self._pack = pack

    @property
    def empty(self) -> bool:
        """Whether the table was empty when ``head`` was made: its copies need no publications until it is not."""
        return self.head is not None and self.head.digest == EMPTY_DIGEST

    def read(self, items: Sequence[Item], upto: int) -> list[Told]:
        """Changes were read, complete up to ``upto``; returns the frames that tell those which were not told yet."""
        fresh = [item for item in items if item[0] > self.position]
        self.position = max(self.position, upto)
        if not fresh:
            return []
        self.dirty = True
        frames = pack_changes(self.table, self.store, self.told, fresh, self.position, self._pack)
        self.told = self.position
        self.skipped += sum(frame is None for frame in frames)
        return [frame for frame in frames if frame is not None]

    def lost(self, revision: int) -> None:
        """The changes up to ``revision`` are no longer known: copies will see the gap."""
        self.position = self.told = max(self.position, revision)
        self.dirty = True

    def looked(self, digests: Sequence[bytes], revision: int) -> Head:
        """These are the digests at ``revision``, and the changes up to there were read."""
        self.head = Head(table=self.table, store=self.store, revision=revision, digest=table_digest(digests))
        self.dirty = self.position != revision
        return self.head


def pack_changes(
    table: str, store: str, base: int, items: Sequence[Item], upto: int, pack: Pack, raw_bytes: int = BATCH_RAW_BYTES
) -> list[Told | None]:
    """``items`` (oldest first, whole commits, complete up to ``upto``) as frames after ``base``; None for a commit that fits
    into none."""
    return list(each_frame(table, store, base, items, upto, pack, raw_bytes))


def each_frame(
    table: str, store: str, base: int, items: Sequence[Item], upto: int, pack: Pack, raw_bytes: int = BATCH_RAW_BYTES
) -> Iterator[Told | None]:
    """As pack_changes, each frame made only when it is wanted."""
    waiting: list[Item] = []
    size = 0
    for revision, group in groupby(items, key=lambda item: item[0]):
        commit = list(group)
        commit_bytes = sum(map(item_bytes, commit))
        if waiting and size + commit_bytes > raw_bytes:
            yield _changes(table, store, base, waiting, revision - 1, size, pack)
            base, waiting, size = revision - 1, [], 0
        waiting += commit
        size += commit_bytes
    yield _changes(table, store, base, waiting, upto, size, pack)


def _changes(table: str, store: str, base: int, items: list[Item], revision: int, size: int, pack: Pack) -> Told | None:
    if size > MAX_RAW_BYTES:
        return None
    raw = body_of(items)
    encoding, body = pack(raw)
    if len(body) > MAX_BODY_BYTES:
        return None
    message = Changes(table=table, store=store, base=base, revision=revision, encoding=encoding, raw_bytes=len(raw))
    return message, body


@dataclass(frozen=True)
class Part:
    """What a page is cut from: ``items`` are all keys after ``after`` (of ``buckets``, if any) up to the last of them, or to
    the end when ``whole``, at ``revision``."""

    table: str
    store: str
    revision: int
    items: Sequence[Item]
    whole: bool
    after: str = ""
    buckets: Sequence[int] = ()
    more: bool = False
    """Whether other pages of the same answer follow this part."""


def pack_page(part: Part, pack: Pack) -> tuple[Page, Body, int]:
    """The first page of ``part``, and how many of its items it speaks of.

    An item that fits into no frame is not in it although the page speaks of its key; then the page is that item's alone, and
    has no items.
    """
    count, size = 0, 0
    for item in part.items:
        size += item_bytes(item)
        if count and size > BATCH_RAW_BYTES:
            break
        count += 1
    while True:
        items = list(part.items[:count])
        raw = body_of(items) if sum(map(item_bytes, items)) <= MAX_RAW_BYTES else b""
        encoding, body = pack(raw)
        if items and (not raw or len(body) > MAX_BODY_BYTES):
            if count > 1:
                count //= 2
                continue
            raw = body_of([])
            encoding, body = pack(raw)
        last = "" if part.whole and count == len(part.items) else part.items[count - 1][1]
        page = Page(
            table=part.table, store=part.store, revision=part.revision, after=part.after, last=last,
            buckets=list(part.buckets), more=bool(part.buckets) and (part.more or count < len(part.items)), encoding=encoding,
            raw_bytes=len(raw),
        )  # fmt: skip
        return page, body, count


class Questions(Generic[W]):
    """The questions that wait, in the order in which they came; one for each peer and table."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, str], W] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, peer_no: int, table: str, question: W) -> None:
        """A question of a session; it takes the place of one that waits."""
        self._waiting[peer_no, table] = question

    def forget(self, peer_no: int) -> None:
        """The session is over."""
        for key in [key for key in self._waiting if key[0] == peer_no]:
            del self._waiting[key]

    def take(self) -> W | None:
        """The next one, or None."""
        if not self._waiting:
            return None
        return self._waiting.pop(next(iter(self._waiting)))
