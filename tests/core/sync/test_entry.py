"""Listings and their digests: the same bytes on every node, and nothing believed that is not proven."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.sync.entry import (
    DIRECTORY,
    EMPTY_LISTING,
    FILE,
    HASH_BYTES,
    HASHES,
    LINK,
    MAX_SIZE,
    MAX_TARGET_CHARS,
    Entry,
    checked_listing,
    content_digest,
    decode_listing,
    encode_listing,
    join,
    listing_digest,
    parent,
)
from zcluster.errors import PeerError

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
ENTRIES = st.builds(
    Entry,
    name=NAMES,
    kind=st.sampled_from([FILE, DIRECTORY, LINK]),
    size=st.integers(0, MAX_SIZE),
    mtime_ns=st.integers(-(2**63), 2**63 - 1),
    mode=st.integers(0, 0o777),
    digest=st.binary(max_size=32),
    target=st.text(st.characters(codec="utf-8"), max_size=20),
)


@given(st.lists(ENTRIES, unique_by=lambda entry: entry.name), st.randoms())
def test_a_listing_is_the_same_whatever_the_order(entries: list[Entry], random: Any) -> None:
    listing = encode_listing(entries)
    random.shuffle(entries)
    assert encode_listing(entries) == listing
    back = checked_listing(listing, listing_digest(listing))
    assert back == decode_listing(listing) == sorted(entries, key=lambda entry: entry.name.encode())


def test_an_empty_listing() -> None:
    assert encode_listing([]) == EMPTY_LISTING
    assert checked_listing(EMPTY_LISTING, listing_digest(EMPTY_LISTING)) == []


def test_the_bytes_of_a_listing_are_pinned() -> None:
    """Another implementation, and every later version, has to make these."""
    entries = [
        Entry("b", FILE, 3, 1_700_000_000_000_000_000, 0o644, bytes(range(16))),
        Entry("a", DIRECTORY, 0, 0, 0o755, bytes(32)),
        Entry("c", LINK, 0, 0, 0, b"", "b"),
    ]
    listing = encode_listing(entries)
    assert listing.hex() == (
        "93"
        "97a161a1640000cd01edc420" + "00" * 32 + "a0"
        "97a162a16603cf17979cfe362a0000cd01a4c410000102030405060708090a0b0c0d0e0fa0"
        "97a163a16c000000c400a162"
    )
    assert listing_digest(listing) == hashlib.blake2b(listing, digest_size=32).digest()


def proven(entries: list[Any]) -> list[Entry]:
    listing = msgspec.msgpack.encode(entries)
    return checked_listing(listing, listing_digest(listing))


FINE: list[Any] = ["a", "f", 1, 0, 0o644, b"x", ""]


def test_a_listing_with_another_digest_is_refused() -> None:
    listing = msgspec.msgpack.encode([FINE])
    assert len(checked_listing(listing, listing_digest(listing))) == 1
    with pytest.raises(PeerError, match="digest"):
        checked_listing(listing, bytes(32))
    with pytest.raises(PeerError, match="digest"):
        checked_listing(listing[:-1], listing_digest(listing))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, ""), (0, "x" * 256), (0, 1), (1, "s"), (1, ""), (2, -1), (2, MAX_SIZE + 1), (2, 1.5), (3, 2**63),
        (4, -1), (4, 0o1000), (5, bytes(33)), (5, 5), (6, "x" * (MAX_TARGET_CHARS + 1)), (6, None),
    ],
)  # fmt: skip
def test_a_malformed_entry_is_refused(place: int, value: object) -> None:
    assert proven([FINE])
    with pytest.raises(PeerError, match="malformed"):
        proven([[*FINE[:place], value, *FINE[place + 1 :]]])


@pytest.mark.parametrize("names", [["b", "a"], ["a", "a"], ["é", "z"], ["a", "B"]])
def test_names_out_of_order_or_twice_are_refused(names: list[str]) -> None:
    with pytest.raises(PeerError, match="order"):
        proven([[name, *FINE[1:]] for name in names])


@given(st.binary(max_size=200))
def test_garbage_is_a_peer_error_and_nothing_else(garbage: bytes) -> None:
    try:
        entries = checked_listing(garbage, listing_digest(garbage))
    except PeerError:
        return
    assert all(isinstance(entry, Entry) for entry in entries)


def test_nesting_without_end_is_a_peer_error() -> None:
    garbage = b"\x91" * 100_000
    with pytest.raises(PeerError):
        checked_listing(garbage, listing_digest(garbage))


def test_a_name_that_is_not_utf8_is_a_peer_error() -> None:
    listing = b"\x91\x97\xa1\xff\xa1f\x01\x00\x01\xc4\x00\xa0"
    with pytest.raises(PeerError):
        checked_listing(listing, listing_digest(listing))


@given(st.lists(st.binary(max_size=50)))
def test_contents_have_one_digest_however_they_are_fed(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    for name, make in HASHES.items():
        hasher = make()
        for piece in pieces:
            hasher.update(piece)
        assert hasher.digest() == content_digest(name, whole)
        assert len(content_digest(name, whole)) == HASH_BYTES[name]


def test_contents_are_named_by_the_hash_that_is_asked_for() -> None:
    assert content_digest("xxh3_128", b"abc") == xxhash.xxh3_128(b"abc").digest()
    assert content_digest("blake2b_256", memoryview(b"abc")) == hashlib.blake2b(b"abc", digest_size=32).digest()


def test_paths_are_put_together_and_taken_apart() -> None:
    assert (join("", "a"), join("a/b", "c")) == ("a", "a/b/c")
    assert (parent("a/b/c"), parent("a"), parent("")) == ("a/b", "", "")
