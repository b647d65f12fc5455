"""The encoding of a message: one ZeroMQ frame.

Rules kept here (docs/protocol.md says them in full)::

    byte 0      'Z' (0x5A)
    byte 1      protocol version
    byte 2      kind of the message
    byte 3      0 (reserved)
    bytes 4-7   length H of the header, unsigned, big-endian
    H bytes     header: JSON, UTF-8
    the rest    bodies, one after the other, as long as the header's sizes say

- a frame that breaks a rule raises :class:`PeerError` (theirs is the blame) and nothing else;
- the sizes in a header add up to exactly the bytes that follow it, and the ids of a group end by MAX_ID;
- decoding never copies bodies: it says where they begin.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from zcluster.errors import PeerError, UnsupportedVersion
from zcluster.wire.jobs import SIZED_KINDS, Jobs
from zcluster.wire.messages import (
    KINDS,
    MAX_ID,
    TAKES_ALL,
    Message,
    Replies,
    RequestFlag,
    Requests,
    Results,
    Sealed,
    Status,
    Work,
    WorkGroup,
)

MAGIC = 0x5A
VERSION = 1
VERSIONS = (1,)
"""The versions this node speaks (N, and N-1 once there is one)."""
PREFIX = struct.Struct(">BBBBI")
PREFIX_BYTES = PREFIX.size
KIND_AT = 2
"""Where a frame says its kind."""

MAX_MEMBERS = 4096
"""Requests, results or replies in one message: what is done for one message is bounded, however small they are."""
REQUEST_KINDS = frozenset({Requests.kind, Work.kind})
RESULT_KINDS = frozenset({Results.kind, Replies.kind})
NUMBERED_KINDS = frozenset({Requests.kind, Jobs.kind})
BATCH_KINDS = REQUEST_KINDS | RESULT_KINDS | SIZED_KINDS

_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[int, msgspec.json.Decoder[Any]] = {kind: msgspec.json.Decoder(cls) for kind, cls in KINDS.items()}


@dataclass(frozen=True)
class WireLimits:
    """Bounds of a frame: ``frame_bytes`` in all, of which ``header_bytes`` at most are header."""

    frame_bytes: int = 1048576
    header_bytes: int = 524288


Frame = bytes | bytearray | memoryview


def frame_of(message: Message, bodies: Sequence[Frame]) -> Frame:
    """What is to be sent for ``message``; a sealed one is sent as it is."""
    return message.frame if type(message) is Sealed else encode(message, bodies)


def encode(message: Message, bodies: Iterable[bytes | bytearray | memoryview] = ()) -> bytes:
    """The frame of ``message`` with ``bodies`` behind its header. The caller keeps sizes and bodies in step."""
    header = _ENCODER.encode(message)
    return b"".join((PREFIX.pack(MAGIC, VERSION, message.kind, 0, len(header)), header, *bodies))


def decode(frame: bytes | memoryview, limits: WireLimits) -> tuple[Message, int]:
    """The message in ``frame``, and the offset at which its bodies begin.

    Raises:
        UnsupportedVersion: the frame's version is none of VERSIONS.
        PeerError: anything else is wrong with it.
    """
    total = len(frame)
    if total > limits.frame_bytes:
        raise PeerError(f"frame of {total} bytes, at most {limits.frame_bytes} are allowed")
    if total < PREFIX_BYTES:
        raise PeerError(f"frame of {total} bytes is shorter than its prefix of {PREFIX_BYTES}")
    magic, version, kind, reserved, header_bytes = PREFIX.unpack_from(frame)
    if magic != MAGIC:
        raise PeerError("frame does not begin with 'Z'")
    if version not in VERSIONS:
        raise UnsupportedVersion(f"protocol version {version} is not spoken here", hint=f"speak one of {list(VERSIONS)}")
    decoder = _DECODERS.get(kind)
    if decoder is None or reserved:
        raise PeerError(f"unknown kind of message: {kind}" if decoder is None else "the reserved byte is not 0")
    start = PREFIX_BYTES + header_bytes
    if start > total or header_bytes > limits.header_bytes:
        raise PeerError(f"header of {header_bytes} bytes in a frame of {total}")
    try:
        message: Message = decoder.decode(frame[PREFIX_BYTES:start])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"malformed header of a {KINDS[kind].__name__}: {error}") from None
    if _body_bytes(message, total - start) != total - start:
        raise PeerError(f"the sizes in a {KINDS[kind].__name__} do not add up to the {total - start} bytes that follow")
    return message, start


def _body_bytes(message: Any, present: int) -> int:
    """How many body bytes ``message`` announces; ``present`` for a chunk, which takes all there is."""
    kind = message.kind
    if kind in BATCH_KINDS and sum([len(group.sizes) for group in message.groups]) > MAX_MEMBERS:
        raise PeerError(f"more than {MAX_MEMBERS} members in one message")
    if kind in NUMBERED_KINDS:
        # A group's last id is written nowhere, so no type bounds it; beyond MAX_ID it would spoil the frames it goes on in.
        for group in message.groups:
            if group.first_id + len(group.sizes) > MAX_ID + 1:
                raise PeerError(f"the ids from {group.first_id} on go beyond {MAX_ID}")
    if kind == Work.kind or kind == Jobs.kind:
        _one_for_each(message)
    if kind in REQUEST_KINDS:
        return sum([_inline(group.sizes, group.flags & RequestFlag.LARGE) for group in message.groups])
    if kind in RESULT_KINDS:
        return sum([_inline(group.sizes, group.status == Status.LARGE_VALUE) for group in message.groups])
    if kind in SIZED_KINDS:
        return sum([sum(group.sizes) for group in message.groups])
    return present if kind in TAKES_ALL else 0


def _one_for_each(message: Work | Jobs) -> None:
    """Marks and idempotency keys belong to members by their place: where there are any, there is one for each."""
    for group in message.groups:
        each = group.marks if isinstance(group, WorkGroup) else group.keys
        if each is not None and len(each) != len(group.sizes):
            raise PeerError(f"a group of {len(group.sizes)} members has {len(each)} marks or keys")


def _inline(sizes: Sequence[int], large: int) -> int:
    if not large:
        return sum(sizes)
    if len(sizes) != 1 or not sizes[0]:
        raise PeerError("a group with a large body has exactly one member, and it is not empty")
    return 0
