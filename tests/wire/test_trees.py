"""The messages of file sync: each field at its bounds and one beyond, what has a body, and bodies read strictly."""

from __future__ import annotations

import json
import random
import struct
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zcluster.core.sync import bodies
from zcluster.core.sync.effects import Piece
from zcluster.core.sync.entry import Change, Entry, checked_listing, encode_listing, listing_digest
from zcluster.core.sync.intake import Intake
from zcluster.core.sync.rules import Rules
from zcluster.errors import PeerError
from zcluster.wire import KINDS, PREFIX_BYTES, WireLimits, decode, encode
from zcluster.wire.frames import TAKES_ALL
from zcluster.wire.trees import (
    BODY_KINDS,
    BULK_KINDS,
    MAX_ITEMS,
    TREE_KINDS,
    Blocks,
    Fetch,
    Hashes,
    List,
    Listing,
    Parcel,
    TreeInfo,
    Trees,
)

LIMITS = WireLimits()
WIDE = WireLimits(frame_bytes=1 << 24, header_bytes=1 << 24)
"""For fields that are large at their bounds: a frame holds fewer of them."""
pack = msgspec.msgpack.encode


def frame(kind: int, header: Any, body: bytes = b"") -> bytes:
    data = json.dumps(header, ensure_ascii=False).encode()
    return struct.pack(">BBBBI", 0x5A, 1, kind, 0, len(data)) + data + body


def headers(frames: list[bytes], kind: int) -> list[dict[str, Any]]:
    """The headers of the golden frames of a kind."""
    found = [data for data in frames if data[2] == kind]
    return [json.loads(data[PREFIX_BYTES : PREFIX_BYTES + struct.unpack(">I", data[4:8])[0]]) for data in found]


def body_of(frames: list[bytes], kind: int, number: int = 0) -> bytes:
    """The body of a golden frame of a kind."""
    data = [data for data in frames if data[2] == kind][number]
    return data[decode(data, LIMITS)[1] :]


# -- fields ---------------------------------------------------------------------------------------------------------------


def edges(annotation: Any, meta: msgspec.Meta | None = None) -> tuple[list[Any], list[Any]]:
    """Values at the bounds of a field's type, and values beyond them or of another type."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return edges(args[0], args[1])
    if origin is typing.Literal:
        return list(args), ["", "DOWN", "all", None, 1]
    if origin in (types.UnionType, typing.Union):
        good, bad = edges(next(each for each in args if each is not type(None)))
        return [None, *good], [each for each in bad if each is not None]
    if origin is tuple:
        good, bad = zip(*(edges(each) for each in args), strict=True)
        firsts = [each[0] for each in good]
        rows = [[*firsts[:at], value, *firsts[at + 1 :]] for at, values in enumerate(bad) for value in values]
        return [firsts], [*rows, firsts[:1], [*firsts, 0], []]
    if origin is list:
        assert meta is not None
        assert meta.max_length is not None
        (good, bad), least = edges(args[0]), meta.min_length or 0
        too_few = [[good[0]] * (least - 1)] if least else []
        return [[good[0]] * least, good, [good[0]] * meta.max_length], [
            [good[0]] * (meta.max_length + 1),
            *too_few,
            bad[:1],
            None,
        ]
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return [{"tree": "a"}], [{}, [], None]
    if annotation is str:
        assert meta is not None
        longest, least = meta.max_length or 0, meta.min_length or 0
        return ["é" * longest, "x" * least], ["é" * (longest + 1), *([""] if least else []), 1, None]
    if annotation is bool:
        return [False, True], [0, 1, "true", None]
    assert meta is not None
    step: float = 1 if annotation is int else 0.5
    low, high = (typing.cast("Any", each) for each in (meta.ge if meta.ge is not None else meta.gt, meta.le))
    ends = [low if meta.ge is not None else low + step] + ([high] if high is not None else [])
    beyond = [low - step if meta.ge is not None else low] + ([high + step] if high is not None else [])
    return ends, [*beyond, "1", None, *([1.5] if annotation is int else [])]


def fields() -> Iterator[Any]:
    """Every field of every message."""
    for cls in (*TREE_KINDS, TreeInfo):
        for name, annotation in typing.get_type_hints(cls, include_extras=True).items():
            if name in cls.__struct_fields__:
                yield pytest.param(cls, name, annotation, id=f"{cls.__name__}.{name}")


@pytest.mark.parametrize(("cls", "name", "annotation"), list(fields()))
def test_each_field_at_its_bounds_and_beyond(cls: Any, name: str, annotation: Any, frames: list[bytes]) -> None:
    kind = Trees.kind if cls is TreeInfo else cls.kind
    sample = headers(frames, kind)[0]

    def with_value(value: Any) -> bytes:
        changed = {"tree": "a", name: value}
        return frame(kind, sample | {"trees": [changed]} if cls is TreeInfo else sample | {name: value})

    good, bad = edges(annotation)
    for value in good:
        message: Any = decode(with_value(value), WIDE)[0]
        found = getattr(message.trees[0] if cls is TreeInfo else message, name)
        assert msgspec.json.decode(msgspec.json.encode(found)) == value
    for value in bad:
        with pytest.raises(PeerError, match=f"malformed header of a {KINDS[kind].__name__}: "):
            decode(with_value(value), WIDE)


@pytest.mark.parametrize("cls", TREE_KINDS)
def test_a_field_without_a_default_has_to_be_there(cls: Any, frames: list[bytes]) -> None:
    sample = headers(frames, cls.kind)[0]
    required = {field.name for field in msgspec.structs.fields(cls) if field.required}
    for name in sample:
        data = frame(cls.kind, {key: value for key, value in sample.items() if key != name})
        if name in required:
            with pytest.raises(PeerError, match=f"missing required field `{name}`"):
                decode(data, LIMITS)
        else:
            decode(data, LIMITS)
    assert required <= set(sample)


# -- which have a body ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", TREE_KINDS)
def test_a_body_is_where_one_may_be_and_nowhere_else(cls: Any, frames: list[bytes]) -> None:
    header = headers(frames, cls.kind)[0]
    data = frame(cls.kind, header)
    assert decode(data, LIMITS)[1] == len(data)
    if cls.kind in BODY_KINDS:
        assert decode(data + b"xyz", LIMITS)[1] == len(data)
    else:
        with pytest.raises(PeerError, match="do not add up"):
            decode(data + b"x", LIMITS)


def test_what_goes_by_the_bulk_lane_has_a_body() -> None:
    assert BULK_KINDS < BODY_KINDS < TAKES_ALL


def test_a_body_up_to_the_limit_of_a_frame() -> None:
    head = encode(Parcel(tree="a", id=1, raw_bytes=0, sizes=[]))
    room = LIMITS.frame_bytes - len(head)
    assert decode(head + bytes(room), LIMITS)[1] == len(head)
    with pytest.raises(PeerError, match="at most 1048576"):
        decode(head + bytes(room + 1), LIMITS)


def test_the_largest_parcels_and_hashes_of_the_page_fit_a_frame() -> None:
    """4096 items and a chunk of content, or the hashes of 61440 blocks: with their headers below 1 MiB."""
    parcel = Parcel(tree="é" * 64, id=2**53 - 1, encoding=1, raw_bytes=16_777_216, sizes=[16_777_216] * MAX_ITEMS, last=True)
    assert len(encode(parcel, [bytes(983_040)])) <= LIMITS.frame_bytes
    assert len(encode(Blocks(tree="é" * 64, version=2**53 - 1, id=1, path="é" * 4096, digest="f" * 64, block_bytes=16_384,
                             runs=[(2**53 - 1, 1_048_576)] * 4096))) <= LIMITS.frame_bytes  # fmt: skip
    hashes = Hashes(tree="é" * 64, id=2**53 - 1)
    assert len(encode(hashes, [bytes(16 * 61_440)])) <= LIMITS.frame_bytes


# -- bodies -----------------------------------------------------------------------------------------------------------------

ENTRY = Entry("a", "f", 1, 2, 3, bytes(16))
READERS: dict[str, Callable[[bytes], Any]] = {
    "paths": bodies.read_paths, "listings": bodies.read_listings, "changes": bodies.read_changes, "pieces": bodies.read_pieces,
}  # fmt: skip

WRITERS: dict[str, Callable[[Any], bytes]] = {
    "paths": bodies.paths_body, "listings": bodies.listings_body, "changes": bodies.changes_body, "pieces": bodies.pieces_body,
}  # fmt: skip


def golden_bodies(frames: list[bytes]) -> dict[str, bytes]:
    return {
        "paths": body_of(frames, List.kind, 1), "listings": body_of(frames, Listing.kind),
        "changes": body_of(frames, Listing.kind, 2), "pieces": body_of(frames, Fetch.kind),
    }  # fmt: skip


def test_the_golden_bodies_are_read_and_written_again_as_they_are(frames: list[bytes]) -> None:
    found = golden_bodies(frames)
    assert bodies.read_paths(found["paths"]) == ["www", "doc/de"]
    assert bodies.paths_body(bodies.read_paths(found["paths"])) == found["paths"]
    assert [path for path, _ in bodies.read_listings(found["listings"])] == ["", "www"]
    assert bodies.listings_body(bodies.read_listings(found["listings"])) == found["listings"]
    assert [change.path for change in bodies.read_changes(found["changes"])] == ["www", "www/index.html", "old.txt"]
    assert bodies.changes_body(bodies.read_changes(found["changes"])) == found["changes"]
    assert [(piece.path, piece.offset, piece.size) for piece in bodies.read_pieces(found["pieces"])] == [
        ("app.conf", 0, 12), ("www/index.html", 0, 17),
    ]  # fmt: skip
    assert bodies.pieces_body(bodies.read_pieces(found["pieces"])) == found["pieces"]


def test_the_golden_manifest_is_one_that_a_sink_accepts(frames: list[bytes]) -> None:
    found = golden_bodies(frames)
    intake = Intake(Rules.of(TreeInfo(tree="site", symlinks="copy", max_files=3, max_bytes=29)))
    for path, listing in bodies.read_listings(found["listings"]):
        intake.add(path, checked_listing(listing, listing_digest(listing)))
    assert (intake.files, intake.bytes) == (3, 29)
    for change in bodies.read_changes(found["changes"]):
        Intake(Rules.of(TreeInfo(tree="site"))).change(change)


GOOD_AND_BAD: list[tuple[str, Any, Any]] = [
    ("paths", ["a"] * MAX_ITEMS, ["a"] * (MAX_ITEMS + 1)),
    ("paths", ["é" * 4096], ["é" * 4097]),
    ("paths", [], ""),
    ("paths", [""], [b""]),
    ("listings", [], None),
    ("listings", [["", b"\x90"]], [["", b"\x90", 1]]),
    ("listings", [["", b""]], [["", "text"]]),
    ("listings", [["é" * 4096, b""]], [["é" * 4097, b""]]),
    ("listings", [["a", b""]], [["a"]]),
    ("listings", [["a", b""]], {"a": b""}),
    ("changes", [], {}),
    ("changes", [Change("a", ENTRY, None)], [["a", ENTRY]]),
    ("changes", [["a", None, None]], [[b"a", None, None]]),
    ("changes", [["a", None, ["n", "l", 0, 0, 0, b""]]], [["a", None, ["n", "p", 0, 0, 0, b""]]]),
    ("changes", [["a", None, ["n", "f", 2**53 - 1, -(2**63), 511, bytes(32)]]], [["a", None, ["n", "f", 2**53, 0, 0, b""]]]),
    ("changes", [["a", None, ["n", "f", 0, 2**63 - 1, 0, b""]]], [["a", None, ["n", "f", 0, 2**63, 0, b""]]]),
    ("changes", [["a", None, ["n", "f", 0, 0, 0, b""]]], [["a", None, ["n", "f", 0, 0, 512, b""]]]),
    ("changes", [["a", None, ["n" * 255, "f", 0, 0, 0, b""]]], [["a", None, ["n" * 256, "f", 0, 0, 0, b""]]]),
    ("changes", [["a", None, ["n", "f", 0, 0, 0, b""]]], [["a", None, ["", "f", 0, 0, 0, b""]]]),
    ("changes", [["a", None, ["n", "f", 0, 0, 0, bytes(32)]]], [["a", None, ["n", "f", 0, 0, 0, bytes(33)]]]),
    ("changes", [["a", None, ["n", "l", 0, 0, 0, b"", "é" * 4096]]], [["a", None, ["n", "l", 0, 0, 0, b"", "é" * 4097]]]),
    ("pieces", [["a", b"", 0, 0]] * MAX_ITEMS, [["a", b"", 0, 0]] * (MAX_ITEMS + 1)),
    ("pieces", [["a", bytes(32), 0, 0]], [["a", bytes(33), 0, 0]]),
    ("pieces", [["a", b"", 2**53 - 1, 0]], [["a", b"", 2**53, 0]]),
    ("pieces", [["a", b"", 0, 16_777_216]], [["a", b"", 0, 16_777_217]]),
    ("pieces", [["a", b"", 0, 0]], [["a", b"", -1, 0]]),
    ("pieces", [["a", b"", 0, 0]], [["a", b"", 0, -1]]),
    ("pieces", [["a", b"", 0, 0]], [["a", b"", 0, 1.0]]),
    ("pieces", [["a", b"", 0, 0]], [["a", "", 0, 0]]),
]


@pytest.mark.parametrize(("what", "good", "bad"), GOOD_AND_BAD)
def test_a_body_at_its_bounds_and_beyond(what: str, good: Any, bad: Any) -> None:
    assert len(READERS[what](pack(good))) == len(good)
    with pytest.raises(PeerError, match="malformed body of a"):
        READERS[what](pack(bad))


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x91", b"\x90\x90", b"\xdd\xff\xff\xff\xff", b"\x91" * 100_000, b"\x91\xa1\xff", b"\xc0"]
)
def test_what_is_no_body(what: str, data: bytes) -> None:
    with pytest.raises(PeerError):
        READERS[what](data)


def mutated(data: bytes, dice: random.Random) -> bytes:
    """``data`` with some bytes changed, inserted, removed, doubled or cut."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(5):
            case 0 if out:
                out[at % len(out)] = dice.choice([dice.randrange(256), 0xC0, 0x90, 0xA1, 0xCF, 0xDD, 0xDB, 0xC6])
            case 1:
                out[at:at] = dice.choice([b"\xc0", b"\x90", b"\xa0", b"\xc4\x00", b"\x93", b"\xd9\xff", b"\xcf" + b"\xff" * 8])
            case 2:
                del out[at : at + dice.randrange(1, 8)]
            case 3:
                out[at:at] = out[at : at + dice.randrange(1, 32)]
            case _:
                out = out[:at]
    return bytes(out)


@settings(derandomize=True, deadline=None, max_examples=2000)
@given(seed=st.integers(0, 2**32 - 1), what=st.sampled_from(sorted(READERS)))
def test_no_body_breaks_its_reader(seed: int, what: str, frames: list[bytes]) -> None:
    data = mutated(golden_bodies(frames)[what], random.Random(seed))
    try:
        found = READERS[what](data)
    except PeerError:
        return
    assert READERS[what](WRITERS[what](found)) == found


@settings(derandomize=True, deadline=None, max_examples=2000)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_listing_that_is_believed_is_in_order(seed: int) -> None:
    """Also one that is what its digest says: whoever made it may be hostile."""
    entries = [Entry(name, "f", 1, 2, 3, bytes(16)) for name in ("a", "ab", "b", "é", "日")]
    data = mutated(encode_listing(entries), random.Random(seed))
    try:
        found = checked_listing(data, listing_digest(data))
    except PeerError:
        return
    names = [entry.name.encode() for entry in found]
    assert names == sorted(set(names))
    assert b"" not in names


@pytest.mark.parametrize("names", [["b", "a"], ["a", "a"], ["a", "b", "b"], ["\U00010000", "\uffff"]])
def test_a_listing_out_of_order_is_not_believed(names: list[str]) -> None:
    listing = pack([Entry(name, "f", 1, 2, 3, bytes(16)) for name in names])
    with pytest.raises(PeerError, match="not in order"):
        checked_listing(listing, listing_digest(listing))


def test_what_is_nested_behind_the_known_elements_is_refused() -> None:
    """An array may be longer than it is known to be; what is skipped there must not end the process."""
    deep = b"\x91" * 100_000 + b"\xc0"
    listing = b"\x91\x98\xa1a\xa1f\x00\x00\x00\xc4\x00\xa0" + deep
    with pytest.raises(PeerError, match="malformed"):
        checked_listing(listing, listing_digest(listing))
    with pytest.raises(PeerError, match="malformed"):
        bodies.read_changes(b"\x91\x94\xa1a\xc0\xc0" + deep)


def test_a_listing_with_another_digest_is_not_believed() -> None:
    data = encode_listing([ENTRY])
    assert checked_listing(data, listing_digest(data)) == [ENTRY]
    with pytest.raises(PeerError, match="does not have the digest"):
        checked_listing(data + b"\x90", listing_digest(data))
    with pytest.raises(PeerError, match="does not have the digest"):
        checked_listing(data, listing_digest(data)[:16])


def test_pieces_come_back_as_they_were() -> None:
    pieces = [Piece("a/é", bytes(16), 983_040, 5), Piece("b", bytes(32), 0, 0)]
    assert bodies.read_pieces(bodies.pieces_body(pieces)) == pieces
