"""Frames: what decode takes, at each limit and one beyond it, and that everything else is the peer's fault."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zcluster.errors import PeerError, UnsupportedVersion
from zcluster.wire import (
    KINDS,
    PREFIX_BYTES,
    VERSION,
    Beat,
    Cancel,
    Catalog,
    Chunk,
    Credit,
    FunctionInfo,
    Grant,
    Hello,
    Message,
    Replies,
    ReplyGroup,
    RequestGroup,
    Requests,
    ResultGroup,
    Results,
    Status,
    WireLimits,
    Work,
    WorkGroup,
    decode,
    encode,
)
from zcluster.wire.frames import TAKES_ALL
from zcluster.wire.messages import MAX_ID, RequestFlag

LIMITS = WireLimits()
HELLO = b'{"versions":[1],"instance":"a"}'


def frame(kind: int, header: bytes, body: bytes = b"", *, version: int = VERSION, reserved: int = 0, magic: int = 0x5A) -> bytes:
    return struct.pack(">BBBBI", magic, version, kind, reserved, len(header)) + header + body


def refused(data: bytes, limits: WireLimits = LIMITS) -> PeerError:
    with pytest.raises(PeerError) as caught:
        decode(data, limits)
    return caught.value


def requests(*sizes: int, flags: int = 0, first_id: int = 1) -> Requests:
    return Requests([RequestGroup("f", "any", 0, 5, flags, first_id, list(sizes))])


# -- round trips --------------------------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=400)
@given(data=st.data())
def test_any_message_comes_back_as_it_was(
    data: st.DataObject, any_framed: st.SearchStrategy[tuple[Message, list[bytes]]]
) -> None:
    message, bodies = data.draw(any_framed)
    whole = encode(message, bodies)
    decoded, offset = decode(whole, LIMITS)
    assert decoded == message
    assert type(decoded) is type(message)
    assert whole[offset:] == b"".join(bodies)


def test_bodies_may_be_any_buffer() -> None:
    message = requests(1, 2, 3)
    whole = encode(message, [b"a", bytearray(b"bc"), memoryview(b"xdefx")[1:4]])
    assert whole.endswith(b"abcdef")
    assert decode(whole, LIMITS)[0] == message


def test_a_golden_frame_of_every_kind_is_read(frames: list[bytes]) -> None:
    assert {decode(data, LIMITS)[0].kind for data in frames} == set(KINDS)


# -- the prefix ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", range(PREFIX_BYTES))
def test_a_frame_shorter_than_its_prefix(length: int) -> None:
    assert f"frame of {length} bytes is shorter" in refused(frame(1, HELLO)[:length]).message


def test_every_truncation_of_a_frame_is_refused(frames: list[bytes]) -> None:
    for data in frames:
        message, start = decode(data, LIMITS)
        for length in range(len(data)):
            if message.kind in TAKES_ALL and length >= start:
                continue  # such a message takes what there is
            refused(data[:length])


def test_bytes_behind_a_frame_are_refused(frames: list[bytes]) -> None:
    for data in frames:
        if decode(data, LIMITS)[0].kind not in TAKES_ALL:
            assert "do not add up" in refused(data + b"x").message


@pytest.mark.parametrize("magic", [0, 0x59, 0x5B, 0x7A, 0xFF])
def test_another_first_byte(magic: int) -> None:
    assert "does not begin with 'Z'" in refused(frame(1, HELLO, magic=magic)).message


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_told_apart(version: int) -> None:
    error = refused(frame(1, HELLO, version=version))
    assert isinstance(error, UnsupportedVersion)
    assert error.code == "unsupported_version"
    assert "[1]" in error.hint


def test_a_wrong_version_of_an_unknown_kind_is_still_a_version() -> None:
    assert isinstance(refused(frame(200, b"", version=9, reserved=1)), UnsupportedVersion)


@pytest.mark.parametrize("kind", sorted(set(range(256)) - set(KINDS)))
def test_an_unknown_kind(kind: int) -> None:
    assert refused(frame(kind, b"{}")).message == f"unknown kind of message: {kind}"


@pytest.mark.parametrize("reserved", [1, 128, 255])
def test_the_reserved_byte(reserved: int) -> None:
    assert "reserved byte" in refused(frame(1, HELLO, reserved=reserved)).message


def test_the_kinds_are_those_of_their_classes() -> None:
    assert {kind: cls.kind for kind, cls in KINDS.items()} == {kind: kind for kind in KINDS}


# -- the limits of a frame ----------------------------------------------------------------------------------------------


def test_a_frame_at_its_limit_and_one_byte_more() -> None:
    start = len(encode(requests(1)))
    body = bytes(1000)
    data = encode(requests(1000), [body])
    assert decode(data, WireLimits(frame_bytes=len(data)))[1] == len(data) - 1000
    error = refused(data, WireLimits(frame_bytes=len(data) - 1))
    assert error.message == f"frame of {len(data)} bytes, at most {len(data) - 1} are allowed"
    assert start < len(data)


def test_a_header_at_its_limit_and_one_byte_more() -> None:
    data = frame(1, HELLO)
    assert isinstance(decode(data, WireLimits(header_bytes=len(HELLO)))[0], Hello)
    assert "header of" in refused(data, WireLimits(header_bytes=len(HELLO) - 1)).message


def test_the_default_limits_hold() -> None:
    padded = HELLO + b" " * (LIMITS.header_bytes - len(HELLO))
    assert isinstance(decode(frame(1, padded), LIMITS)[0], Hello)
    assert "header of" in refused(frame(1, padded + b" ")).message
    head = encode(Chunk(1, 1, 0))
    assert decode(head + bytes(LIMITS.frame_bytes - len(head)), LIMITS)[1] == len(head)
    assert "at most 1048576" in refused(head + bytes(LIMITS.frame_bytes - len(head) + 1)).message


@pytest.mark.parametrize("announced", [len(HELLO) + 1, 2**31, 2**32 - 1])
def test_a_header_longer_than_its_frame(announced: int) -> None:
    data = struct.pack(">BBBBI", 0x5A, VERSION, 1, 0, announced) + HELLO
    assert f"header of {announced} bytes in a frame of {len(data)}" in refused(data).message


# -- sizes --------------------------------------------------------------------------------------------------------------


BATCHES: list[Any] = [
    lambda sizes: Requests([RequestGroup("f", "any", 0, 5, 0, 1, sizes)]),
    lambda sizes: Work([WorkGroup("f", "c", "client", 1, 0, 1, 1, 1, sizes)]),
    lambda sizes: Results([ResultGroup(1, Status.VALUE, sizes)]),
    lambda sizes: Replies([ReplyGroup(1, Status.VALUE, "n", 0, sizes)]),
]


@pytest.mark.parametrize("make", BATCHES)
@pytest.mark.parametrize(
    ("sizes", "present", "fits"), [([3, 2], 5, True), ([3, 2], 4, False), ([3, 2], 6, False), ([0], 0, True)]
)
def test_sizes_have_to_add_up(make: Any, sizes: list[int], present: int, fits: bool) -> None:
    data = encode(make(sizes), [bytes(present)])
    if fits:
        assert decode(data, LIMITS)[0] == make(sizes)
    else:
        assert f"do not add up to the {present} bytes" in refused(data).message


@pytest.mark.parametrize("make", BATCHES)
def test_sizes_that_add_up_to_more_than_a_frame_can_hold(make: Any) -> None:
    assert "do not add up" in refused(encode(make([MAX_ID] * 4096))).message


@pytest.mark.parametrize("make", BATCHES)
def test_a_group_has_1_to_4096_members(make: Any) -> None:
    assert decode(encode(make([0] * 4096)), LIMITS)[0] == make([0] * 4096)
    refused(encode(make([0] * 4097)))
    refused(encode(make([])))


LARGE: list[Any] = [
    lambda sizes: Requests([RequestGroup("f", "any", 0, 5, RequestFlag.LARGE, 1, sizes)]),
    lambda sizes: Work([WorkGroup("f", "c", "client", 1, RequestFlag.LARGE, 1, 1, 1, sizes)]),
    lambda sizes: Results([ResultGroup(1, Status.LARGE_VALUE, sizes)]),
    lambda sizes: Replies([ReplyGroup(1, Status.LARGE_VALUE, "n", 1, sizes)]),
]


@pytest.mark.parametrize("make", LARGE)
def test_a_large_body_is_alone_in_its_group_and_not_in_the_frame(make: Any) -> None:
    assert decode(encode(make([MAX_ID])), LIMITS)[0] == make([MAX_ID])
    assert "do not add up" in refused(encode(make([5]), [b"12345"])).message
    assert "exactly one member" in refused(encode(make([5, 5]))).message
    assert "not empty" in refused(encode(make([0]))).message


@pytest.mark.parametrize("message", [Beat(), Cancel(ids=[1]), Hello(versions=[1], instance="a"), Catalog(idempotent=[])])
def test_messages_without_bodies_have_none(message: Message) -> None:
    refused(encode(message, [b"x"]))


def test_the_members_of_a_message_are_bounded() -> None:
    groups = requests(*[0] * 2048).groups
    decode(encode(Requests(groups * 2)), LIMITS)
    assert "more than 4096 members" in refused(encode(Requests([*groups * 2, *requests(0).groups]))).message


# -- the bounds of fields -----------------------------------------------------------------------------------------------


GOOD_AND_BAD: list[tuple[Message, Message]] = [
    (Cancel(ids=[0, MAX_ID]), Cancel(ids=[MAX_ID + 1])),
    (Cancel(ids=[0]), Cancel(ids=[-1])),
    (Cancel(ids=[1] * 4096), Cancel(ids=[1] * 4097)),
    (requests(0, first_id=MAX_ID), requests(0, first_id=MAX_ID + 1)),
    (requests(0, flags=254), requests(0, flags=256)),
    (requests(0), requests(-1)),
    (requests(MAX_ID, flags=1), requests(MAX_ID + 1, flags=1)),
    (Requests(requests(0).groups * 4096), Requests(requests(0).groups * 4097)),
    (Credit(grants=[Grant(0, 0, 2, MAX_ID)]), Credit(grants=[Grant(0, 0, 2, MAX_ID + 1)])),
    (Credit(grants=[Grant(0, 0, 2, 0)]), Credit(grants=[Grant(0, 0, 3, 0)])),
    (Credit(grants=[Grant(0, 0, 0, 0)] * 4096), Credit(grants=[Grant(0, 0, 0, 0)] * 4097)),
    (Results([ResultGroup(1, 6, [0])]), Results([ResultGroup(1, 7, [0])])),
    (Replies([ReplyGroup(1, 5, "n", 0, [0])]), Replies([ReplyGroup(1, 6, "n", 0, [0])])),
    (Chunk(MAX_ID, MAX_ID, MAX_ID), Chunk(MAX_ID, MAX_ID + 1, 0)),
    (Beat(slots=65536), Beat(slots=65537)),
    (Hello(versions=[1] * 16, instance=""), Hello(versions=[1] * 17, instance="")),
    (Hello(versions=[1], instance="ß" * 128), Hello(versions=[1], instance="ß" * 129)),
    (Hello(versions=[1], instance="a"), Hello(versions=[], instance="a")),
    (
        Hello(versions=[1], instance="a", functions=[FunctionInfo(name="f")] * 4096),
        Hello(versions=[1], instance="a", functions=[FunctionInfo(name="f")] * 4097),
    ),
    (
        Hello(versions=[1], instance="a", functions=[FunctionInfo(name="f", doc="d" * 4000)]),
        Hello(versions=[1], instance="a", functions=[FunctionInfo(name="f", doc="d" * 4001)]),
    ),
    (Catalog(idempotent=["f"] * 65536), Catalog(idempotent=["f"] * 65537)),
    (Requests([RequestGroup("f" * 128, "any", 0, 5, 0, 1, [0])]), Requests([RequestGroup("f" * 129, "any", 0, 5, 0, 1, [0])])),
    (Requests([RequestGroup("f", "t" * 8192, 0, 5, 0, 1, [0])]), Requests([RequestGroup("f", "t" * 8193, 0, 5, 0, 1, [0])])),
    (Requests([RequestGroup("f", "", 86_400_000, 9, 0, 1, [0])]), Requests([RequestGroup("f", "", 86_400_001, 9, 0, 1, [0])])),
    (Requests([RequestGroup("f", "", 0, 9, 0, 1, [0])]), Requests([RequestGroup("f", "", 0, 10, 0, 1, [0])])),
]


@pytest.mark.parametrize(("good", "bad"), GOOD_AND_BAD, ids=[f"{number}" for number in range(len(GOOD_AND_BAD))])
def test_a_field_at_its_bound_and_one_beyond(good: Message, bad: Message) -> None:
    assert decode(encode(good), LIMITS)[0] == good
    assert refused(encode(bad)).message.startswith(f"malformed header of a {type(bad).__name__}: ")


@pytest.mark.parametrize("first_id", [MAX_ID - 1, MAX_ID])
def test_the_last_id_of_a_group_is_bounded_too(first_id: int) -> None:
    assert decode(encode(requests(0, 0, first_id=MAX_ID - 1)), LIMITS)[0] == requests(0, 0, first_id=MAX_ID - 1)
    sizes = [0] * (MAX_ID - first_id + 2)
    assert "go beyond" in refused(encode(requests(*sizes, first_id=first_id))).message


# -- headers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [17, 19, 20, 100, 4300, 4301, 100_000])
def test_huge_integers_are_refused_where_a_bound_is(digits: int) -> None:
    big = b"9" * digits
    refused(frame(6, b'{"ids":[' + big + b"]}"))
    refused(frame(16, b'[[["f","any",0,5,0,' + big + b",[0]]]]"))
    refused(frame(3, b'{"in_flight":' + big + b"}"))
    refused(frame(3, b'{"in_flight":-' + big + b"}"))


@pytest.mark.parametrize("digits", [310, 4301, 100_000])
def test_numbers_beyond_a_float_are_refused(digits: int) -> None:
    refused(frame(3, b'{"load":' + b"9" * digits + b"}"))
    refused(frame(3, b'{"load":1e' + b"9" * digits + b"}"))


def test_versions_may_be_any_integer_and_break_nothing() -> None:
    hello, _ = decode(frame(1, b'{"versions":[1,-5,' + b"9" * 4300 + b'],"instance":"a"}'), LIMITS)
    assert isinstance(hello, Hello)
    assert hello.versions[:2] == [1, -5]
    refused(frame(1, b'{"versions":[' + b"9" * 4301 + b'],"instance":"a"}'))


@pytest.mark.parametrize(
    "token", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"01", b"+1", b".5", b"0x1", b'"1"', b"true", b"null"]
)
def test_what_is_no_number_is_refused(token: bytes) -> None:
    refused(frame(3, b'{"load":' + token + b"}"))


@pytest.mark.parametrize("token", [b"1.0", b"1e0", b"true", b'"1"', b"null", b"[1]"])
def test_what_is_no_integer_is_refused(token: bytes) -> None:
    refused(frame(6, b'{"ids":[' + token + b"]}"))


@pytest.mark.parametrize("depth", [10_000, 200_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_refused(depth: int, opening: bytes, closing: bytes) -> None:
    limits = WireLimits(frame_bytes=10_000_000, header_bytes=10_000_000)
    deep = opening * depth + b"1" + closing * depth
    refused(frame(1, HELLO[:-1] + b',"unknown":' + deep + b"}"), limits)
    refused(frame(1, b'{"versions":' + deep + b',"instance":"a"}'), limits)
    refused(frame(16, deep), limits)
    refused(frame(16, opening * depth), limits)


def test_unknown_fields_are_ignored_and_of_two_the_last_counts() -> None:
    extended, _ = decode(frame(1, HELLO[:-1] + b',"since_version_2":{"deep":[1,{"er":null}]}}'), LIMITS)
    assert extended == Hello(versions=[1], instance="a")
    twice, _ = decode(frame(1, HELLO[:-1] + b',"instance":"b"}'), LIMITS)
    assert twice == Hello(versions=[1], instance="b")


def test_elements_behind_the_known_ones_are_ignored_and_missing_ones_are_not() -> None:
    longer, _ = decode(frame(16, b'[[["f","any",0,5,0,1,[0],"since version 2"]],"and this"]'), LIMITS)
    assert longer == requests(0)
    refused(frame(16, b'[[["f","any",0,5,0,1]]]'))
    refused(frame(16, b"[]"))


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf5\x80\x80\x80",
        b"\xe2\x82",
        b"\\ud800",
        b"\\udc00",
        b"\\ud800\\u0041",
        b"\\x",
        b"\n",
    ],
)
def test_text_that_is_not_utf_8_is_refused(text: bytes) -> None:
    refused(frame(1, b'{"versions":[1],"instance":"' + text + b'"}'))
    refused(frame(16, b'[[["f","' + text + b'",0,5,0,1,[0]]]]'))


@pytest.mark.parametrize(
    "header", [b"", b" ", b"nul", b"null", b"1", b'""', b"{", b"}", b"{}x", b"{} {}", b"\xef\xbb\xbf{}", b"\x00"]
)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_headers_that_are_no_message(kind: int, header: bytes) -> None:
    refused(frame(kind, header))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_object_is_no_array_and_an_array_is_no_object(kind: int) -> None:
    array = bool(KINDS[kind].__struct_config__.array_like)
    refused(frame(kind, b"{}" if array else b"[]"))


def test_no_header_is_echoed_at_length() -> None:
    """What a peer sends comes back in a refusal: it must not be able to make that long."""
    long = b"[" + b'"' + b"x" * 100_000 + b'"' + b"]"
    assert len(refused(frame(6, b'{"ids":' + long + b"}")).message) <= 2000


def test_one_limit_is_enough_for_every_decoder(frames: list[bytes]) -> None:
    for data in frames:
        header_bytes = struct.unpack(">I", data[4:8])[0]
        assert decode(data, WireLimits(frame_bytes=len(data), header_bytes=header_bytes))[0].kind == data[2]
        assert msgspec.json.decode(data[8 : 8 + header_bytes]) is not None
