"""The messages of replicated tables, typed. docs/protocol.md ("Tables") says how they follow each other.

Rules kept here:
- a *table* is a part of the master's store that workers have copies of: keys, and JSON values or nothing (deleted);
- a table has a revision that grows with each commit, and a store id: a copy of another store is worth nothing;
- the master says what changed to everyone at once (published on the topic ``table.NAME``); a copy that missed something asks;
- bodies are JSON as the class says, compressed as ``encoding`` says; ``raw_bytes`` is their size before that.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from zcluster.wire.trees import Count, Encoding, RawBytes

TableName = Annotated[str, Meta(min_length=1, max_length=32)]
StoreId = Annotated[str, Meta(max_length=64)]
Key = Annotated[str, Meta(max_length=512)]
BUCKETS = 1024
"""Into how many buckets the keys of a table fall, by xxh3_64(key) modulo this."""


class Head(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to worker after WELCOME, and published each interval: how far the table is."""

    kind: ClassVar[int] = 48
    table: TableName
    store: StoreId
    revision: Count
    digest: Annotated[str, Meta(max_length=32)]
    """Of all its buckets, hexadecimal: equal revisions have equal digests."""


class Changes(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Published, and master to worker as an answer to ASK: all that changed after ``base`` up to ``revision``.

    Body: ``[[revision, key, value], ...]`` in the order of revisions; a value of null deletes.
    """

    kind: ClassVar[int] = 49
    table: TableName
    store: StoreId
    base: Count
    revision: Count
    encoding: Encoding = 0
    raw_bytes: RawBytes


class Ask(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Worker to master: what the copy needs next. One is open at a time for each table."""

    kind: ClassVar[int] = 50
    table: TableName
    store: StoreId = ""
    want: Literal["changes", "page", "repair"]
    """``changes``: after ``revision``. ``page``: the keys after ``after``. ``repair``: the buckets whose digest differs from
    those in the body (BUCKETS times 16 bytes)."""
    revision: Count = 0
    after: Key = ""


class Page(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to worker: the answer to a ``page`` or ``repair``. Body as of CHANGES; it holds all keys there are in
    (``after``, ``last``], or all keys of ``buckets``."""

    kind: ClassVar[int] = 51
    table: TableName
    store: StoreId
    revision: Count
    """Of the table when the page was read."""
    after: Key = ""
    last: Key = ""
    """The last key that it speaks of; empty: to the end of the table."""
    buckets: Annotated[list[Annotated[int, Meta(ge=0, le=BUCKETS - 1)]], Meta(max_length=BUCKETS)] = []
    more: bool = False
    """Whether other pages of this answer follow by themselves (repair of several buckets)."""
    encoding: Encoding = 0
    raw_bytes: RawBytes


TableMessage = Head | Changes | Ask | Page
TABLE_KINDS: tuple[type[TableMessage], ...] = (Head, Changes, Ask, Page)
TABLE_BULK = frozenset({Changes.kind, Page.kind})
TABLE_BODIES = frozenset({Changes.kind, Ask.kind, Page.kind})
