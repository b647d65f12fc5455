"""The bodies of tree messages: MessagePack arrays, read strictly.

Rules kept here:
- what came from elsewhere either has exactly the documented shape and bounds, or is a PeerError;
- contents are never here: a PARCEL's body is bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from zcluster.core.sync.effects import Piece
from zcluster.core.sync.entry import MAX_SIZE, Change
from zcluster.errors import PeerError
from zcluster.wire.trees import MAX_ITEMS

_Path = Annotated[str, Meta(max_length=4096)]
_Size = Annotated[int, Meta(ge=0, le=MAX_SIZE)]
_Fetch = tuple[_Path, Annotated[bytes, Meta(max_length=32)], _Size, Annotated[int, Meta(ge=0, le=16_777_216)]]

_ENCODER = msgspec.msgpack.Encoder()
_PATHS = msgspec.msgpack.Decoder(Annotated[list[_Path], Meta(max_length=MAX_ITEMS)])
_LISTINGS = msgspec.msgpack.Decoder(list[tuple[_Path, bytes]])
_CHANGES = msgspec.msgpack.Decoder(list[Change])
_PIECES = msgspec.msgpack.Decoder(Annotated[list[_Fetch], Meta(max_length=MAX_ITEMS)])

T = TypeVar("T")


def paths_body(paths: list[str]) -> bytes:
    """The body of a LIST."""
    return _ENCODER.encode(paths)


def read_paths(body: bytes | memoryview) -> list[str]:
    """The paths that a LIST asks for."""
    return _read(_PATHS, body, "LIST")


def listings_body(listings: Iterable[tuple[str, bytes]]) -> bytes:
    """The body of a LISTING that answers a LIST."""
    return _ENCODER.encode(list(listings))


def read_listings(body: bytes | memoryview) -> list[tuple[str, bytes]]:
    """The directories and their listings; the listings themselves are still unchecked."""
    return _read(_LISTINGS, body, "LISTING")


def changes_body(changes: list[Change]) -> bytes:
    """The body of a LISTING that follows GO."""
    return _ENCODER.encode(changes)


def read_changes(body: bytes | memoryview) -> list[Change]:
    """The changes of such a LISTING; the paths are still unchecked."""
    return _read(_CHANGES, body, "LISTING")


def pieces_body(pieces: Iterable[Piece]) -> bytes:
    """The body of a FETCH."""
    return _ENCODER.encode([(piece.path, piece.digest, piece.offset, piece.size) for piece in pieces])


def read_pieces(body: bytes | memoryview) -> list[Piece]:
    """The pieces that a FETCH asks for."""
    return [Piece(*fields) for fields in _read(_PIECES, body, "FETCH")]


def _read(decoder: msgspec.msgpack.Decoder[T], body: bytes | memoryview, kind: str) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"malformed body of a {kind}: {error}") from None


def held_digest(held: Iterable[tuple[str, int, str]]) -> str:
    """What BEAT says of (tree, version, root in hexadecimal) of all copies that a worker holds; "" for none."""
    rows = sorted(held)
    return hashlib.blake2b(_ENCODER.encode(rows), digest_size=16).hexdigest() if rows else ""
