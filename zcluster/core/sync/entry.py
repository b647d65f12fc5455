"""What a manifest is made of: entries, the listing of a directory, and its digest.

Rules kept here:
- a listing is the MessagePack of a directory's entries in the order of their names' UTF-8 bytes, each name once; the same
  directory has the same listing on every node, byte for byte;
- the digest of a listing is BLAKE2b-256 of those bytes, and a directory's entry carries it: so the root's digest covers
  every path, size, mode, time and content of a tree (a Merkle tree), and a listing that came from elsewhere is proven by
  the entry that named it;
- a listing that breaks a rule raises PeerError and nothing else.

A manifest is a mapping from a directory's path (``""`` for the root, ``a/b`` for others) to its listing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Protocol

import msgspec
import xxhash
from msgspec import Meta, Struct

from zcluster.errors import PeerError

Kind = Literal["f", "d", "l"]
FILE: Kind = "f"
DIRECTORY: Kind = "d"
LINK: Kind = "l"

MAX_NAME_BYTES = 255
MAX_TARGET_CHARS = 4096
MAX_SIZE = 2**53 - 1
MAX_MODE = 0o777
"""Permission bits only: set-user-id, set-group-id and sticky bits are never carried."""
DIRECTORY_DIGEST_BYTES = 32

Manifest = Mapping[str, bytes]


class Entry(Struct, array_like=True, frozen=True, gc=False):
    """One name of a directory.

    ``digest`` is the hash of a file's content (xxh3_128: 16 bytes, or BLAKE2b-256: 32), of a directory's listing, and empty
    for a symbolic link, whose ``target`` says all. ``size`` and ``mtime_ns`` are 0 for directories, ``mtime_ns`` and
    ``mode`` 0 for links (their size is 0 too).
    """

    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_BYTES)]
    kind: Kind
    size: Annotated[int, Meta(ge=0, le=MAX_SIZE)]
    mtime_ns: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    mode: Annotated[int, Meta(ge=0, le=MAX_MODE)]
    digest: Annotated[bytes, Meta(max_length=32)]
    target: Annotated[str, Meta(max_length=MAX_TARGET_CHARS)] = ""


class Change(Struct, array_like=True, frozen=True, gc=False):
    """What became of one path: ``old`` is None for a new one, ``new`` for one that is gone."""

    path: str
    old: Entry | None
    new: Entry | None


def merged_changes(changes: dict[str, Change], more: Iterable[Change]) -> None:
    """Add what came after ``changes``, by path, to them. A path that is again as it was stays, with both entries the same."""
    for change in more:
        before = changes.get(change.path)
        changes[change.path] = change if before is None else Change(change.path, before.old, change.new)


class Hasher(Protocol):
    """A hash that is fed piece by piece."""

    def update(self, data: Any, /) -> None: ...
    def digest(self) -> bytes: ...


class _Blake2b256:
    """BLAKE2b with 32 bytes, fed piece by piece."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=32)
        self.update = self._hash.update
        self.digest = self._hash.digest


HASHES: dict[str, Callable[[], Hasher]] = {"xxh3_128": xxhash.xxh3_128, "blake2b_256": _Blake2b256}
"""The content hashes, by the name that a tree's rules give. xxh3 is fast and forgeable: for what a master sends to workers
that trust it. What a worker sends up is named by BLAKE2b."""
HASH_BYTES = {"xxh3_128": 16, "blake2b_256": 32}

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Entry])

EMPTY_LISTING = b"\x90"


def content_digest(hash_name: str, data: bytes | bytearray | memoryview) -> bytes:
    """The digest of a file's whole content ``data``."""
    if hash_name == "xxh3_128":
        return xxhash.xxh3_128_digest(data)
    return hashlib.blake2b(data, digest_size=32).digest()


def encode_listing(entries: Iterable[Entry]) -> bytes:
    """The listing of a directory with these entries, in any order, each name once."""
    return _ENCODER.encode(sorted(entries, key=_by_name))


def decode_listing(listing: bytes | memoryview) -> list[Entry]:
    """The entries of a listing that this process made itself, or has checked before."""
    return _DECODER.decode(listing)


def listing_count(listing: bytes | bytearray | memoryview) -> int:
    """How many entries a listing says that it has: known before any of them is made (MessagePack's head of an array)."""
    head = bytes(listing[:5])
    if head[:1] == b"\xdc":
        return int.from_bytes(head[1:3], "big")
    if head[:1] == b"\xdd":
        return int.from_bytes(head[1:5], "big")
    return head[0] & 0x0F if head and head[0] & 0xF0 == 0x90 else 0


def checked_listing(listing: bytes | memoryview, digest: bytes) -> list[Entry]:
    """The entries of a listing that came from elsewhere, which is what ``digest`` names.

    Names are checked for order and uniqueness here; what names may be is zcluster.core.sync.paths' matter.

    Raises:
        PeerError: it is malformed, out of order, or has another digest.
    """
    if listing_digest(listing) != digest:
        raise PeerError("a listing does not have the digest that its directory's entry says")
    try:
        entries = _DECODER.decode(listing)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"a listing is malformed: {error}") from None
    before = b""
    for entry in entries:
        name = entry.name.encode("utf-8", "surrogatepass")
        if name <= before:
            raise PeerError("the names of a listing are not in order")
        before = name
    return entries


def listing_digest(listing: bytes | memoryview) -> bytes:
    """The digest of a listing, 32 bytes."""
    return hashlib.blake2b(listing, digest_size=DIRECTORY_DIGEST_BYTES).digest()


def count_files(changes: Iterable[Change]) -> tuple[int, int, int]:
    """How many files and links are added, changed and removed."""
    counts = [0, 0, 0]
    for change in changes:
        entry = change.new or change.old
        if entry is not None and entry.kind != DIRECTORY:
            counts[0 if change.old is None else 2 if change.new is None else 1] += 1
    return counts[0], counts[1], counts[2]


class Differences(Struct, frozen=True):
    """What became of a tree: how many files and links, and where they are not too many each of them (see Change)."""

    added: int
    changed: int
    removed: int
    changes: list[Change] | None

    @classmethod
    def of(cls, changes: list[Change]) -> Differences:
        """Those that ``changes`` are."""
        return cls(*count_files(changes), changes)


def join(directory: str, name: str) -> str:
    """The path of ``name`` in ``directory``."""
    return f"{directory}/{name}" if directory else name


def parent(path: str) -> str:
    """The directory of ``path``; the root's own is the root."""
    return path.rpartition("/")[0]


def _by_name(entry: Entry) -> bytes:
    return entry.name.encode()
