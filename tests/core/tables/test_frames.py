"""Bodies and frames of tables at their limits."""

from __future__ import annotations

import random

import pytest

from zcluster.core.tables import source as module
from zcluster.core.tables.bodies import MAX_VALUE_BYTES, Item, body_of, read_body
from zcluster.core.tables.digests import DIGEST_BYTES, bucket_of, split_digests
from zcluster.core.tables.names import prefix_of, topic_of
from zcluster.core.tables.source import BATCH_RAW_BYTES, MAX_BODY_BYTES, Part, Questions, Source, pack_changes, pack_page
from zcluster.errors import PeerError
from zcluster.files.packing import pack
from zcluster.wire.tables import BUCKETS


def plain(raw: bytes) -> tuple[int, bytes]:
    return 0, raw


def item(revision: int, key: str, size: int) -> Item:
    return revision, f"t/{key}", b'"' + b"x" * (size - 2) + b'"'


def test_values_travel_byte_for_byte() -> None:
    items: list[Item] = [(1, "t/a", b'{ "b":1.0,\n"a" : [ ] }'), (2, "t/b", None), (2, "t/c", '"\u00e9\\u0000"'.encode())]
    assert read_body(body_of(items), "t/") == items


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{}", b"[1]", b'[[1,"t/a"]]', b'[[-1,"t/a",1]]', b'[[1,"t/a",1]', b'[[1,"u/a",1]]', b"\xff",
        b'[[1,"' + b"t/" * 300 + b'",1]]',
    ],
)
def test_what_is_no_body_is_refused(raw: bytes) -> None:
    with pytest.raises(PeerError):
        read_body(raw, "t/")


def test_a_value_at_its_limit() -> None:
    largest = item(1, "a", MAX_VALUE_BYTES)
    assert read_body(body_of([largest]), "t/") == [largest]
    with pytest.raises(PeerError, match="at most"):
        read_body(body_of([item(1, "a", MAX_VALUE_BYTES + 1)]), "t/")


def test_frames_hold_whole_commits_and_join() -> None:
    items = [item(revision, f"{revision}-{number}", 1000) for revision in range(10, 400) for number in range(3)]
    frames = pack_changes("t", "s", 9, items, 450, plain)
    base, seen = 9, list[Item]()
    for frame in frames:
        assert frame is not None
        message, body = frame
        assert message.base == base
        assert len(body) <= BATCH_RAW_BYTES
        seen += read_body(bytes(body), "t/")
        assert seen[-1][0] <= message.revision
        base = message.revision
    assert base == 450
    assert seen == items
    assert len(frames) > 2


def test_no_changes_are_a_frame_that_says_so() -> None:
    [frame] = pack_changes("t", "s", 9, [], 12, plain)
    assert frame is not None
    assert (frame[0].base, frame[0].revision, frame[1]) == (9, 12, b"[]")


def test_a_commit_that_fits_into_no_frame_is_left_out_and_seen_as_a_gap() -> None:
    chance = random.Random(1)
    big = [(2, f"t/{number}", b'"' + chance.randbytes(400_000).hex().encode() + b'"') for number in range(3)]
    told = Source("t", "s", 0, pack)
    frames = told.read([item(1, "a", 10), *big, item(3, "b", 10)], 3)
    assert [(message.base, message.revision) for message, _ in frames] == [(0, 1), (2, 3)]
    assert told.skipped == 1


def test_a_source_tells_everything_once_and_bases_join_over_other_revisions() -> None:
    told = Source("t", "s", 5, plain)
    assert told.read([], 8) == []
    [(first, _)] = told.read([item(9, "a", 10)], 9)
    assert (first.base, first.revision) == (5, 9)
    assert told.read([item(9, "a", 10)], 9) == []
    [(second, body)] = told.read([item(9, "a", 10), item(11, "b", 10)], 12)
    assert (second.base, second.revision) == (9, 12)
    assert read_body(bytes(body), "t/") == [item(11, "b", 10)]
    told.lost(20)
    [(third, _)] = told.read([item(21, "b", 10)], 21)
    assert third.base == 20


def test_pages_follow_each_other_without_a_gap() -> None:
    items = [item(1, f"{number:04}", 700) for number in range(1000)]
    after, seen, rest = "", list[Item](), items
    while True:
        page, body, count = pack_page(Part("t", "s", 4, rest, True, after), plain)
        assert page.after == after
        assert not page.more
        assert len(body) <= BATCH_RAW_BYTES
        seen += read_body(bytes(body), "t/")
        rest, after = rest[count:], page.last
        if not after:
            break
    assert seen == items


def test_a_page_of_an_incomplete_listing_ends_at_its_last_key() -> None:
    page, _, count = pack_page(Part("t", "s", 4, [item(1, "a", 10), item(1, "b", 10)], False), plain)
    assert (page.last, count) == ("t/b", 2)


def test_items_that_do_not_shrink_share_no_page() -> None:
    chance = random.Random(1)
    items: list[Item] = [(1, f"t/{number}", b'"' + chance.randbytes(450_000).hex().encode() + b'"') for number in range(2)]
    page, body, count = pack_page(Part("t", "s", 4, items, True), pack)
    assert (count, page.last) == (1, "t/0")
    assert len(body) <= MAX_BODY_BYTES


def test_an_item_that_fits_into_no_frame_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 100)
    page, body, count = pack_page(Part("t", "s", 4, [item(1, "a", 300), item(1, "b", 10)], True), plain)
    assert (count, page.last, body) == (1, "t/a", b"[]")


def test_parts_of_a_repair_say_that_more_follows() -> None:
    key = "t/a"
    part = Part("t", "s", 4, [(1, key, b"1")], True, "", (bucket_of(key),), more=True)
    assert pack_page(part, plain)[0].more
    assert not pack_page(Part("t", "s", 4, [(1, key, b"1")], True, "", (bucket_of(key),)), plain)[0].more


def test_digests_of_a_repair_have_their_length() -> None:
    assert len(split_digests(bytes(BUCKETS * DIGEST_BYTES))) == BUCKETS
    for size in (0, BUCKETS * DIGEST_BYTES - 1, BUCKETS * DIGEST_BYTES + 1):
        with pytest.raises(PeerError):
            split_digests(bytes(size))


def test_questions_wait_in_their_order_one_for_each_peer_and_table() -> None:
    questions: Questions[str] = Questions()
    for peer, table, text in ((1, "a", "x"), (2, "a", "y"), (1, "b", "z"), (1, "a", "newer"), (3, "a", "gone")):
        questions.add(peer, table, text)
    questions.forget(3)
    assert len(questions) == 3
    assert [questions.take() for _ in range(4)] == ["newer", "y", "z", None]


def test_names() -> None:
    assert (prefix_of("groups"), topic_of("groups")) == ("groups/", b"table.groups")
