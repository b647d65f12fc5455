"""Compression of what travels: when it pays, and what is refused."""

from __future__ import annotations

import os
import threading
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from zcluster.errors import PeerError
from zcluster.files.packing import MAX_RAW_BYTES, MIN_BYTES, SAMPLE_BYTES, pack, unpack
from zcluster.wire.trees import RAW, ZSTD


@given(st.binary(max_size=2000), st.integers(1, 200))
def test_what_was_packed_unpacks(piece: bytes, times: int) -> None:
    data = piece * times
    encoding, packed = pack(data)
    assert bytes(unpack(encoding, packed, len(data))) == data


@pytest.mark.parametrize("size", [0, MIN_BYTES - 1])
def test_little_is_not_compressed(size: int) -> None:
    data = bytes(size)
    assert pack(data) == (RAW, data)


@pytest.mark.parametrize("size", [MIN_BYTES, SAMPLE_BYTES, SAMPLE_BYTES + 1, 1_000_000])
def test_text_is_compressed_and_noise_is_not(size: int) -> None:
    encoding, packed = pack((b"the same again, " * size)[:size])
    assert encoding == ZSTD
    assert len(packed) < size * 0.9
    noise = os.urandom(size)
    encoding, packed = pack(memoryview(noise))
    assert encoding == RAW
    assert bytes(packed) == noise


def test_a_sample_says_that_it_does_not_pay() -> None:
    data = bytes(SAMPLE_BYTES) + os.urandom(8 * SAMPLE_BYTES) + bytes(SAMPLE_BYTES)
    assert pack(data) == (RAW, data)


@pytest.mark.parametrize("said", [0, 999, 1001, -1, MAX_RAW_BYTES + 1])
def test_another_size_than_said_is_refused(said: int) -> None:
    for encoding, data in ((RAW, bytes(1000)), pack(bytes(1000))):
        with pytest.raises(PeerError):
            unpack(encoding, data, said)


def test_the_largest_message_and_one_byte_more() -> None:
    compressed = zstandard.compress(bytes(MAX_RAW_BYTES))
    assert len(unpack(ZSTD, compressed, MAX_RAW_BYTES)) == MAX_RAW_BYTES
    with pytest.raises(PeerError):
        unpack(ZSTD, zstandard.compress(bytes(MAX_RAW_BYTES + 1)), MAX_RAW_BYTES + 1)


def bomb(raw_bytes: int, said: int) -> bytes:
    """A frame of many zeros, with a content size of ``said`` in its header (RFC 8878, 3.1.1.1)."""
    frame = zstandard.ZstdCompressor(level=3, write_content_size=False).compress(bytes(raw_bytes))
    body = frame[6:]  # behind magic number, descriptor and window
    return frame[:4] + bytes([0x80 | (frame[4] & 0x07)]) + frame[5:6] + said.to_bytes(4, "little") + body


def test_a_bomb_is_refused_in_bounded_memory() -> None:
    lying = bomb(64 * 1024 * 1024, 1000)
    assert zstandard.frame_content_size(lying) == 1000
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * 1024 * 1024))
    tracemalloc.start()
    try:
        for data in (lying, silent):
            with pytest.raises(PeerError):
                unpack(ZSTD, data, 1000)
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300), st.integers(0, 400))
def test_garbage_is_refused(data: bytes, said: int) -> None:
    with pytest.raises(PeerError):
        unpack(ZSTD, data, said)


@pytest.mark.parametrize("cut", [1, 5, 10])
def test_a_cut_or_lengthened_message_is_refused(cut: int) -> None:
    data = os.urandom(500) * 4
    encoding, packed = pack(data)
    assert encoding == ZSTD
    for broken in (bytes(packed)[:-cut], bytes(packed) + bytes(cut), bytes(packed) + zstandard.compress(b"more")):
        with pytest.raises(PeerError):
            unpack(ZSTD, broken, len(data))


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(PeerError, match="encoding 2"):
        unpack(2, b"", 0)


def test_threads_do_not_share_their_tools() -> None:
    faults: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(200):
                data = b"%d " % (seed * number) * 500
                encoding, packed = pack(data)
                assert bytes(unpack(encoding, packed, len(data))) == data
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
