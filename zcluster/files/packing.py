"""Compression of what travels, where it pays, and unpacking that nobody can abuse.

Rules kept here:
- whether compression pays is asked of a sample first: most large files are compressed already;
- what is unpacked has exactly the size that was said before: one byte more or less is the peer's fault, and no byte more is
  ever made;
- a thread has its own compressor and decompressor, used again and again (they are not thread-safe, and making one costs
  more than a small file).
"""

from __future__ import annotations

import threading

import zstandard

from zcluster.errors import PeerError
from zcluster.wire.trees import RAW, ZSTD

LEVEL = 1
SAMPLE_BYTES = 64 * 1024
MIN_BYTES = 128
"""Less than this is not worth a look."""
PAYS_SHARE = 0.9
"""What is left of data that is worth compressing."""
MAX_RAW_BYTES = 16 * 1024 * 1024
"""The most that one message may unpack to (zcluster.wire.trees.RawBytes)."""

Data = bytes | bytearray | memoryview


class _Tools(threading.local):
    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_RAW_BYTES)


_TOOLS = _Tools()


def pack(data: Data) -> tuple[int, Data]:
    """``data`` as it travels: (ZSTD, compressed) where that pays, else (RAW, ``data`` itself)."""
    size = len(data)
    if size < MIN_BYTES:
        return RAW, data
    compress = _TOOLS.compressor.compress
    if size > SAMPLE_BYTES:
        view = memoryview(data)
        # From the middle: a file's head says little of the rest.
        start = (size - SAMPLE_BYTES) // 2
        if len(compress(view[start : start + SAMPLE_BYTES])) >= SAMPLE_BYTES * PAYS_SHARE:
            return RAW, data
    packed = compress(data)
    return (ZSTD, packed) if len(packed) < size * PAYS_SHARE else (RAW, data)


def unpack(encoding: int, data: Data, raw_bytes: int) -> Data:
    """What ``data`` is unpacked, of which exactly ``raw_bytes`` bytes are expected; RAW data is given back as it is.

    Raises:
        PeerError: it is anything else, or larger than MAX_RAW_BYTES.
    """
    if not 0 <= raw_bytes <= MAX_RAW_BYTES:
        raise PeerError(f"a message would unpack to {raw_bytes} bytes, and at most {MAX_RAW_BYTES} are allowed")
    if encoding == RAW:
        if len(data) != raw_bytes:
            raise PeerError(f"a message has {len(data)} bytes, and said {raw_bytes}")
        return data
    if encoding != ZSTD:
        raise PeerError(f"a message has the unknown encoding {encoding}")
    try:
        # The frame's own word for its size is checked before anything is made; a frame without one is none of ours.
        said = zstandard.frame_content_size(data)
        if said != raw_bytes:
            raise PeerError(f"a message says {raw_bytes} bytes, and its compressed data says {said}")
        raw = _TOOLS.decompressor.decompress(data, max_output_size=raw_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PeerError(f"a message cannot be unpacked: {error}") from None
    if len(raw) != raw_bytes:
        raise PeerError(f"a message unpacks to {len(raw)} bytes, and said {raw_bytes}")
    return raw
