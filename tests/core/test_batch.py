"""Batches and lanes."""

from __future__ import annotations

from zcluster.core.batch import MAX_MEMBERS, Batch, Lanes
from zcluster.wire import Beat, Chunk, ResultGroup, Results


def batch(max_bytes: int = 1000) -> Batch[ResultGroup]:
    return Batch(Results, max_bytes)


def group(leg: int, size: int) -> ResultGroup:
    return ResultGroup(leg, 0, [size])


def test_what_is_alike_is_one_group() -> None:
    one = batch()
    one.begin(group(1, 2), b"ab")
    one.join(b"c")
    one.begin(group(9, 1), b"d")
    [(message, bodies)] = one.take()
    assert message == Results([ResultGroup(1, 0, [2, 1]), ResultGroup(9, 0, [1])])
    assert bodies == [b"ab", b"c", b"d"]
    assert not one
    assert one.take() == []


def test_a_message_is_sealed_at_its_limit() -> None:
    one = batch(100)
    one.begin(group(1, 50), b"x" * 50, 20)
    one.begin(group(2, 10), b"x" * 10, 20)
    assert one.last is None, "exactly full: sealed"
    one.begin(group(3, 1), b"x", 20)
    assert [len(bodies) for _, bodies in one.take()] == [2, 1]


def test_one_byte_more_than_fits_goes_into_the_next_message() -> None:
    one = batch(100)
    one.begin(group(1, 50), b"x" * 50, 20)
    one.begin(group(2, 11), b"x" * 11, 20)
    assert [len(bodies) for _, bodies in one.take()] == [1, 1]


def test_a_body_larger_than_a_message_goes_alone() -> None:
    one = batch(100)
    one.begin(group(1, 1), b"x", 10)
    one.begin(group(2, 500), b"x" * 500, 10)
    one.begin(group(3, 1), b"x", 10)
    assert [len(bodies) for _, bodies in one.take()] == [1, 1, 1]


def test_a_message_has_a_bounded_number_of_members() -> None:
    one = batch(10**9)
    one.begin(group(0, 0), b"")
    for _ in range(MAX_MEMBERS - 1):
        assert one.last is not None
        one.join(b"")
    assert one.last is None
    one.begin(group(5000, 0), b"")
    assert [len(bodies) for _, bodies in one.take()] == [MAX_MEMBERS, 1]


def test_lanes_leave_control_first_and_bulk_last() -> None:
    lanes: Lanes[ResultGroup] = Lanes(Results, 1000)
    lanes.add_bulk(Chunk(0, 1, 0), b"bulk")
    lanes.batch.begin(group(1, 1), b"x")
    lanes.control.append(Beat())
    assert lanes.waiting_bytes >= 5
    assert [type(message) for message, _ in lanes.take()] == [Beat, Results, Chunk]
    assert not lanes
    assert (lanes.waiting_bytes, lanes.bulk_bytes) == (0, 0)


def test_what_could_not_be_sent_goes_first_but_for_control() -> None:
    lanes: Lanes[ResultGroup] = Lanes(Results, 1000)
    lanes.batch.begin(group(1, 1), b"x")
    lanes.add_bulk(Chunk(0, 1, 0), b"bulk")
    unsent = lanes.take()
    lanes.put_back(unsent)
    assert lanes
    assert lanes.waiting_bytes == 5
    lanes.control.append(Beat())
    lanes.batch.begin(group(2, 1), b"y")
    assert [bodies for _, bodies in lanes.take()] == [[], [b"x"], [b"bulk"], [b"y"]]
    assert lanes.waiting_bytes == 0


def test_what_is_put_back_in_parts_keeps_its_order() -> None:
    lanes: Lanes[ResultGroup] = Lanes(Results, 1000)
    lanes.put_back([(Chunk(0, 1, 10), [b"later"])])
    lanes.put_back([(Chunk(0, 1, 0), [b"first"])])
    assert [bodies for _, bodies in lanes.take()] == [[b"first"], [b"later"]]
