"""The messages of file sync, typed. docs/protocol.md ("Trees") says how they follow each other.

Rules kept here:
- the *source* of a tree is where its files are true (the master for ``down``, a worker for ``up``), the *sink* holds the
  copy; both ends of a session may be either, each for other trees;
- the sink pulls: nothing large is sent that was not asked for, so what is asked for is the credit;
- bodies are MessagePack, as the class says, compressed as ``encoding`` says; ``raw_bytes`` is their size before that, and
  a reader refuses anything that unpacks to another size.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

MAX_ID = 2**53 - 1
Count = Annotated[int, Meta(ge=0, le=MAX_ID)]
TreeName = Annotated[str, Meta(min_length=1, max_length=64)]
Path = Annotated[str, Meta(max_length=4096)]
Digest = Annotated[str, Meta(max_length=64)]
"""Hexadecimal."""
Words = Annotated[str, Meta(max_length=1000)]
Patterns = Annotated[list[Annotated[str, Meta(max_length=1024)]], Meta(max_length=256)]
RawBytes = Annotated[int, Meta(ge=0, le=16_777_216)]

RAW = 0
ZSTD = 1
Encoding = Annotated[int, Meta(ge=0, le=1)]

MAX_TREES = 256
MAX_REFUSED = 20
MAX_ITEMS = 4096
"""Files of one FETCH, directories of one LIST."""


class TreeInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tree that concerns a worker, and its rules."""

    tree: TreeName
    direction: Literal["down", "up"] = "down"
    path: Path = ""
    """Where the worker is to have it; empty: beneath the place that the worker keeps for trees. A worker accepts only places
    that its own configuration allows."""
    include: Patterns = []
    exclude: Patterns = []
    extra_valid: Patterns = []
    mode: Annotated[int, Meta(ge=-1, le=0o777)] = -1
    """Permission bits of its files; -1: as at the source."""
    owner: Annotated[str, Meta(max_length=128)] = ""
    delete: bool = True
    delete_share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    symlinks: Literal["refuse", "copy"] = "refuse"
    max_file_bytes: Count = 0
    max_files: Count = 0
    max_bytes: Count = 0
    hash: Literal["xxh3_128", "blake2b_256"] = "xxh3_128"
    on_change: Annotated[list[Annotated[str, Meta(max_length=4096)]], Meta(max_length=64)] = []
    on_change_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    rollback: bool = False
    """A version whose ``on_change`` fails is undone."""
    paused: bool = False


class Trees(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to worker: all trees that concern it; replaces the list before."""

    kind: ClassVar[int] = 32
    epoch: Count
    chunk_bytes: Annotated[int, Meta(ge=16_384, le=16_777_216)]
    """The most bytes of content that one FETCH item may ask for, on either side."""
    window_bytes: Annotated[int, Meta(ge=16_384, le=1_073_741_824)]
    """The most bytes of content that a sink may have asked for and not received, on either side."""
    trees: Annotated[list[TreeInfo], Meta(max_length=MAX_TREES)] = []


class State(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Source to sink: the version that the tree has now."""

    kind: ClassVar[int] = 33
    tree: TreeName
    version: Count
    epoch: Count
    root: Digest
    files: Count = 0
    bytes: Count = 0
    held: Words = ""
    """Why the source publishes nothing newer; empty: it does."""


class Pull(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sink to source: may it fetch ``version``, having ``have``?"""

    kind: ClassVar[int] = 34
    tree: TreeName
    version: Count
    have: Count = 0
    have_root: Digest = ""
    """The root of the version that the sink holds, unchanged since; empty: it holds none."""


class Go(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Source to sink: it may fetch now. With ``changes``, LISTINGs of what changed since the version it has follow."""

    kind: ClassVar[int] = 35
    tree: TreeName
    version: Count
    epoch: Count
    root: Digest
    changes: bool = False


class List(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sink to source: the listings of these directories (body: array of paths), ``deep``: and of all beneath them."""

    kind: ClassVar[int] = 36
    tree: TreeName
    version: Count
    id: Count
    deep: bool = False


class Listing(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Source to sink, answer to LIST: body: array of [path, listing]; or after GO: array of changes [path, old, new]."""

    kind: ClassVar[int] = 37
    tree: TreeName
    version: Count
    id: Count = 0
    """Of the LIST; 0 for changes after GO."""
    encoding: Encoding = RAW
    raw_bytes: RawBytes
    last: bool = False
    failed: Words = ""
    """The source cannot answer (the version is gone); it is the last."""


class Fetch(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sink to source: these pieces of files (body: array of [path, digest of the whole content, offset, size])."""

    kind: ClassVar[int] = 38
    tree: TreeName
    version: Count
    id: Count


class Parcel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Source to sink, answer to FETCH: the pieces one after the other, in its order."""

    kind: ClassVar[int] = 39
    tree: TreeName
    id: Count
    encoding: Encoding = RAW
    raw_bytes: RawBytes
    first: Count = 0
    """Which item of the FETCH the first size is of."""
    sizes: Annotated[list[Annotated[int, Meta(ge=-1, le=16_777_216)]], Meta(max_length=MAX_ITEMS)]
    """-1: that item cannot be had any more, the file has changed."""
    last: bool = False


class Blocks(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sink to source: the hashes (xxh3_128) of ``count`` blocks of a file from block ``first`` on."""

    kind: ClassVar[int] = 40
    tree: TreeName
    version: Count
    id: Count
    path: Path
    digest: Digest
    block_bytes: Annotated[int, Meta(ge=16_384, le=1_048_576)]
    runs: Annotated[list[tuple[Count, Annotated[int, Meta(ge=1, le=1_048_576)]]], Meta(min_length=1, max_length=4096)]
    """Runs of blocks: [first, how many]."""


class Hashes(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Source to sink, answer to BLOCKS: body: 16 bytes for each block, in its order; the last block of a file may be short."""

    kind: ClassVar[int] = 41
    tree: TreeName
    id: Count
    failed: Words = ""
    """The file has changed."""


class Report(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Worker to master: how its copy (or its own tree) is."""

    kind: ClassVar[int] = 42
    tree: TreeName
    state: Annotated[str, Meta(max_length=32)]
    version: Count = 0
    root: Digest = ""
    target: Count = 0
    """The version that it is on its way to."""
    files_behind: Count = 0
    bytes_behind: Count = 0
    bytes_done: Count = 0
    bytes_per_s: Annotated[float, Meta(ge=0)] = 0.0
    reason: Words = ""
    error: Words = ""
    age_s: Annotated[float, Meta(ge=0)] | None = None
    """How long ago that version was applied; null: before this process began."""
    clean: bool = False
    """Whether its copy is what that version left."""
    refused_count: Count = 0
    """Of its own tree: how many names are left out."""
    refused: Annotated[list[tuple[Path, Words]], Meta(max_length=MAX_REFUSED)] = []
    """The first of them, and why."""


class Finish(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sink to source: the pull is over; ``code`` is empty when the version is applied and durable."""

    kind: ClassVar[int] = 43
    tree: TreeName
    version: Count
    code: Annotated[str, Meta(max_length=128)] = ""
    message: Words = ""


class Order(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to worker: look again, or go on although a guard holds the tree."""

    kind: ClassVar[int] = 44
    tree: TreeName
    order: Literal["now", "confirm"]


TreeMessage = Trees | State | Pull | Go | List | Listing | Fetch | Parcel | Blocks | Hashes | Report | Finish | Order
TREE_KINDS: tuple[type[TreeMessage], ...] = (
    Trees, State, Pull, Go, List, Listing, Fetch, Parcel, Blocks, Hashes, Report, Finish, Order,
)  # fmt: skip
BULK_KINDS = frozenset({Listing.kind, Parcel.kind, Hashes.kind})
"""They go by the bulk lane; all others are control."""
BODY_KINDS = frozenset({List.kind, Listing.kind, Fetch.kind, Parcel.kind, Hashes.kind})
"""They take all bytes behind their header."""
