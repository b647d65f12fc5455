"""Slots of shared memory: given out by their sender only, free again once, and never more than they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from zcluster.files.slots import COUNT, MIN_BYTES, SIZE, SLOT_BYTES, Slots, make_shared


@pytest.fixture
def ends() -> Iterator[tuple[Slots, Slots]]:
    fd = make_shared()
    yield Slots(fd, first=True), Slots(fd, first=False)
    os.close(fd)


Ends = tuple[Slots, Slots]


def seen(end: Slots, slot: int, size: int = MIN_BYTES) -> bytes:
    return bytes(end.view(slot, size) or b"")


@pytest.mark.parametrize("size", [MIN_BYTES, SLOT_BYTES])
def test_what_one_end_puts_the_other_one_sees(ends: Ends, size: int) -> None:
    data = os.urandom(size)
    for sender, receiver in (ends, ends[::-1]):
        slot = sender.put([data[:1], memoryview(data)[1:9], bytearray(data[9:])], size)
        assert seen(receiver, slot, size) == data


@pytest.mark.parametrize("size", [0, MIN_BYTES - 1, SLOT_BYTES + 1])
def test_what_is_too_small_or_too_large_gets_no_slot(ends: Ends, size: int) -> None:
    assert ends[0].put([bytes(size)], size) == -1
    assert sorted(ends[0].put([bytes(MIN_BYTES)], MIN_BYTES) for _ in range(COUNT)) == list(range(COUNT))


def test_without_room_there_is_no_slot_until_one_is_freed(ends: Ends) -> None:
    one, other = ends
    datas = [bytes([number]) * MIN_BYTES for number in range(COUNT)]
    slots = [one.put([data], MIN_BYTES) for data in datas]
    assert one.put([b"x" * MIN_BYTES], MIN_BYTES) == -1
    assert [seen(other, slot) for slot in slots] == datas, "nothing was put over what is still read"
    assert other.put([b"y" * MIN_BYTES], MIN_BYTES) >= 0, "each direction has its own"
    assert [seen(other, slot) for slot in slots] == datas
    assert one.freed(slots[5])
    assert one.put([b"x" * MIN_BYTES], MIN_BYTES) == slots[5]
    assert one.put([b"x" * MIN_BYTES], MIN_BYTES) == -1


def test_a_slot_that_is_freed_twice_is_given_out_once(ends: Ends) -> None:
    one = ends[0]
    slots = [one.put([bytes(MIN_BYTES)], MIN_BYTES) for _ in range(COUNT)]
    assert one.freed(slots[0])
    assert not one.freed(slots[0])
    assert one.put([bytes(MIN_BYTES)], MIN_BYTES) == slots[0]
    assert one.put([bytes(MIN_BYTES)], MIN_BYTES) == -1


@pytest.mark.parametrize("slot", [-1, 0, COUNT - 1, COUNT])
def test_a_slot_that_nobody_has_cannot_be_freed(ends: Ends, slot: int) -> None:
    assert not ends[0].freed(slot)


@pytest.mark.parametrize(
    ("slot", "size", "there"),
    [(0, 1, 1), (COUNT - 1, SLOT_BYTES, 1), (-1, 1, 0), (COUNT, 1, 0), (0, 0, 0), (0, -1, 0), (0, SLOT_BYTES + 1, 0)],
)  # fmt: skip
def test_only_what_a_slot_holds_is_seen(ends: Ends, slot: int, size: int, there: int) -> None:
    view = ends[1].view(slot, size)
    assert (view is not None and len(view) == size) is bool(there)


def test_the_memory_is_as_large_as_all_slots_and_ends_with_its_process() -> None:
    fd = make_shared()
    try:
        assert os.fstat(fd).st_size == SIZE == 2 * COUNT * SLOT_BYTES
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
