"""What CHANGES and PAGE carry: ``[[revision, key, value], ...]`` as JSON.

Rules kept here:
- a value travels as the bytes that the source has stored, unchanged, so that digests agree byte for byte; null is "deleted"
  (no table holds a null);
- what is read has exactly this shape, keys of the table's prefix and bounded values, or it is a PeerError.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from zcluster.core.tables.digests import bucket_of
from zcluster.errors import PeerError
from zcluster.wire.tables import Changes, Key, Page
from zcluster.wire.trees import Count

Item = tuple[int, str, bytes | None]
"""Revision, key, and the value's JSON; None: deleted."""

MAX_VALUE_BYTES = 1_048_576
MAX_ITEMS = 65_536
"""Of one body: the least that an item takes is about 8 bytes."""
ITEM_BYTES = 24
"""What an item takes beside its key and value, about."""

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Annotated[list[tuple[Count, Key, msgspec.Raw]], Meta(max_length=MAX_ITEMS)])


def item_bytes(item: Item) -> int:
    """About how many bytes ``item`` takes in a body."""
    return ITEM_BYTES + len(item[1]) + (len(item[2]) if item[2] is not None else 4)


def body_of(items: Iterable[Item]) -> bytes:
    """The body for ``items``, before compression."""
    return _ENCODER.encode([(revision, key, None if value is None else msgspec.Raw(value)) for revision, key, value in items])


def read_body(raw: bytes | bytearray | memoryview, prefix: str) -> list[Item]:
    """The items in a body that was unpacked.

    Raises:
        PeerError: it is none.
    """
    try:
        rows = _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"malformed body of a table: {error}") from None
    items: list[Item] = []
    for revision, key, value in rows:
        if not key.startswith(prefix):
            raise PeerError(f"a key outside of {prefix}: {key[:80]!r}")
        if len(value) > MAX_VALUE_BYTES:
            raise PeerError(f"{key[:80]} has a value of {len(value)} bytes, at most {MAX_VALUE_BYTES} are allowed")
        data = bytes(value)
        items.append((revision, key, None if data == b"null" else data))
    return items


def check_changes(message: Changes, items: list[Item]) -> None:
    """Raises PeerError unless ``items`` can be the body of ``message``."""
    before = message.base + 1
    if message.revision < message.base:
        raise PeerError(f"CHANGES from {message.base} back to {message.revision}")
    for revision, key, _ in items:
        if not before <= revision <= message.revision:
            raise PeerError(f"{key[:80]} of revision {revision} makes no sense in CHANGES up to {message.revision}")
        before = revision


def check_page(message: Page, items: list[Item]) -> None:
    """Raises PeerError unless ``items`` can be the body of ``message``."""
    if message.last and message.last <= message.after:
        raise PeerError("a PAGE that ends before it begins")
    before, buckets = message.after, frozenset(message.buckets)
    for revision, key, value in items:
        if key <= before or (message.last and key > message.last):
            raise PeerError(f"{key[:80]!r} is not in its place in a PAGE")
        if value is None or revision > message.revision:
            raise PeerError(f"{key[:80]} is deleted, or newer than the PAGE that holds it")
        if buckets and bucket_of(key) not in buckets:
            raise PeerError(f"{key[:80]} is not in the buckets of its PAGE")
        before = key
