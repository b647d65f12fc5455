"""Rows as they travel from a worker to the master: the body of ROWS, JSON and zstd.

Rules kept here:
- a chunk has at most CHUNK_BYTES of JSON and MAX_ROWS rows; a row that does not fit beside the others begins the next one;
- what is unpacked has exactly the size that was said, and never more than CHUNK_BYTES are made of it;
- each row has exactly the five parts of its type; a chunk with one that has not is refused whole, because then the sender is
  wrong, not an agent. What the fields hold is judged row by row, where they are taken (core/agents/ownership.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import zstandard
from msgspec import Meta

from zcluster.core.agents.row import (
    MAX_EPOCH,
    MAX_LABEL_KEY_CHARS,
    MAX_LABEL_VALUE_CHARS,
    MAX_LABELS,
    MAX_TEXT_CHARS,
    MAX_TIME_S,
    Held,
    Row,
    Status,
)
from zcluster.errors import PeerError
from zcluster.wire.trees import MAX_ID, RAW, ZSTD

CHUNK_BYTES = 262_144
"""The most JSON of one chunk."""
MAX_ROWS = 4096
"""The most rows of one chunk: each costs the master work of its own, however small it is."""
LEVEL = 1
MIN_BYTES = 512
"""Less than this is sent as it is."""

WireRow = tuple[str, str, Annotated[int, Meta(ge=0, le=MAX_ID)], str, dict[str, Any]]
"""``[id, op, epoch, held, fields]``."""
_DECODER = msgspec.json.Decoder(Annotated[list[WireRow], Meta(max_length=MAX_ROWS)])
_ENCODER = msgspec.json.Encoder()

Time = Annotated[float, Meta(ge=0, le=MAX_TIME_S)]
LabelKey = Annotated[str, Meta(min_length=1, max_length=MAX_LABEL_KEY_CHARS)]
LabelValue = Annotated[str, Meta(max_length=MAX_LABEL_VALUE_CHARS)]


class Fields(msgspec.Struct, gc=False):
    """The fields of a row that a worker says. What it says of node and groups does not count."""

    name: Annotated[str, Meta(max_length=MAX_TEXT_CHARS["name"])] = ""
    address: Annotated[str, Meta(max_length=MAX_TEXT_CHARS["address"])] = ""
    version: Annotated[str, Meta(max_length=MAX_TEXT_CHARS["version"])] = ""
    os: dict[str, Any] = {}
    status: Status = "never"
    first_seen: Time = 0.0
    last_seen: Time = 0.0
    labels: Annotated[dict[LabelKey, LabelValue], Meta(max_length=MAX_LABELS)] = {}
    metrics: dict[str, Any] = {}
    config: Annotated[str, Meta(max_length=MAX_TEXT_CHARS["config"])] = ""
    tree: Annotated[str, Meta(max_length=MAX_TEXT_CHARS["tree"])] = ""


class Said(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """One row as it came, when it is as it should be."""

    id: str
    op: str
    epoch: Annotated[int, Meta(ge=0, le=MAX_EPOCH)]
    held: Held
    fields: Fields


_SAID = msgspec.json.Decoder(Annotated[list[Said], Meta(max_length=MAX_ROWS)])


class SaidRows:
    """The rows of one chunk.

    Args:
        raw: their JSON.
        read: what it says, when each row is as it should be; None: each has to be looked at by itself.
    """

    __slots__ = ("_latest", "raw", "read")

    def __init__(self, raw: bytes, read: list[Said] | None) -> None:
        self.raw, self.read = raw, read
        self._latest = MAX_ID

    def cap_epochs(self, latest: int) -> None:
        """Let no row claim an epoch after ``latest`` (core/agents/ownership.py)."""
        self._latest = latest
        for row in self.read or ():
            if row.epoch > latest:
                row.epoch = latest

    def plain(self) -> list[WireRow]:
        """The rows, whatever their fields hold. Raises PeerError when something in them cannot be read."""
        try:
            rows: list[WireRow] = _DECODER.decode(self.raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise PeerError(f"a chunk of rows cannot be read: {error}") from None
        latest = self._latest
        return [row if row[2] <= latest else (row[0], row[1], latest, row[3], row[4]) for row in rows]

    def claims(self) -> Iterator[tuple[str, int, str]]:
        """Id, epoch and held of each row."""
        if self.read is not None:
            return ((row.id, row.epoch, row.held) for row in self.read)
        return ((row[0], row[2], row[3]) for row in self.plain())


class Packed(msgspec.Struct, frozen=True):
    """Rows that are ready to be sent."""

    count: int
    """How many of the rows that were given are dealt with: those in ``body``, and ``left_out``."""
    left_out: list[str]
    """Ids of rows that are larger than a whole chunk: they cannot be sent."""
    rows: int
    encoding: int
    raw_bytes: int
    body: bytes


def pack_rows(rows: Sequence[Row]) -> Packed:
    """The first of ``rows``, as many as fit in one chunk and at least one."""
    parts: list[bytes] = []
    left_out: list[str] = []
    size, count = 2, 0
    encode = _ENCODER.encode
    for row in rows[:MAX_ROWS]:
        data = encode(wire_row(row))
        if len(data) + 2 > CHUNK_BYTES:
            left_out.append(row.id)
        elif size + len(data) + bool(parts) > CHUNK_BYTES:
            break
        else:
            size += len(data) + bool(parts)
            parts.append(data)
        count += 1
    raw = b"[" + b",".join(parts) + b"]"
    if len(raw) < MIN_BYTES:
        return Packed(count, left_out, len(parts), RAW, len(raw), raw)
    packed = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(raw)
    return Packed(count, left_out, len(parts), ZSTD, len(raw), packed)


def wire_row(row: Row) -> tuple[str, str, int, str, dict[str, Any]]:
    """A row of the sender's book as it travels. Its node, groups and number are not in it: the master knows them better."""
    if row.status == "removed":
        return (row.id, "gone", row.epoch, row.held, {"last_seen": row.last_seen})
    fields = {
        "name": row.name, "address": row.address, "version": row.version, "os": row.os, "status": row.status,
        "first_seen": row.first_seen, "last_seen": row.last_seen, "labels": row.labels, "metrics": row.metrics,
        "config": row.config, "tree": row.tree,
    }  # fmt: skip
    return (row.id, "put", row.epoch, row.held, fields)


def check_size(raw_bytes: int, body_bytes: int) -> None:
    """Whether a chunk may be kept at all, before it is unpacked.

    Raises:
        PeerError: it would be, or is, larger than a chunk.
    """
    if raw_bytes > CHUNK_BYTES or body_bytes > CHUNK_BYTES + 1024:
        raise PeerError(f"a chunk of rows has {max(raw_bytes, body_bytes)} bytes, and at most {CHUNK_BYTES} are allowed")


def unpack_rows(encoding: int, raw_bytes: int, count: int, body: bytes | bytearray | memoryview) -> SaidRows:
    """The rows of a chunk. Reading them as they should be costs a third of reading anything.

    Raises:
        PeerError: it is no such chunk; nothing of it is usable.
    """
    check_size(raw_bytes, len(body))
    if encoding == ZSTD:
        raw = _unpack(body, raw_bytes)
    elif encoding == RAW:
        raw = bytes(body)
    else:
        raise PeerError(f"a chunk of rows has the unknown encoding {encoding}")
    if len(raw) != raw_bytes:
        raise PeerError(f"a chunk of rows has {len(raw)} bytes, and said {raw_bytes}")
    rows = _read(raw)
    found = len(rows.read if rows.read is not None else rows.plain())
    if found != count:
        raise PeerError(f"a chunk has {found} rows, and said {count}")
    return rows


def _read(raw: bytes) -> SaidRows:
    try:
        return SaidRows(raw, _SAID.decode(raw))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return SaidRows(raw, None)


def _unpack(body: bytes | bytearray | memoryview, raw_bytes: int) -> bytes:
    try:
        # The frame's own word for its size is checked before anything is made; a frame without one is none of ours.
        said = zstandard.frame_content_size(body)
        if said != raw_bytes:
            raise PeerError(f"a chunk of rows says {raw_bytes} bytes, and its compressed data says {said}")
        tool = zstandard.ZstdDecompressor(max_window_size=2 * CHUNK_BYTES)
        raw: bytes = tool.decompress(body, max_output_size=raw_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PeerError(f"a chunk of rows cannot be unpacked: {error}") from None
    return raw
