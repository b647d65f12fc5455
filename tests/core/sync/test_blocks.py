"""Blocks, runs and ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.sync.blocks import (
    BLOCK_BYTES,
    CHUNK_BLOCKS,
    CHUNK_BYTES,
    block_count,
    block_range,
    check_runs,
    fine_runs,
    ranges_to_fetch,
    runs_of,
)
from zcluster.errors import PeerError


def test_a_chunk_fits_a_frame_of_one_mebibyte_with_its_header() -> None:
    assert CHUNK_BYTES == BLOCK_BYTES * CHUNK_BLOCKS == 983_040
    assert CHUNK_BYTES + 32_768 <= 1 << 20


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 1), (16_384, 1), (16_385, 2), (1 << 30, 65_536)])
def test_blocks_are_counted(size: int, count: int) -> None:
    assert block_count(size) == count


def test_the_last_block_may_be_short() -> None:
    assert block_range(0, 10, 4) == (0, 4)
    assert block_range(2, 10, 4) == (8, 2)


def test_runs_are_merged_and_cut() -> None:
    assert runs_of([], 3) == []
    assert runs_of([1, 2, 3, 4, 7, 9, 10], 3) == [(1, 3), (4, 1), (7, 1), (9, 2)]
    assert runs_of(range(6), 3) == [(0, 3), (3, 3)]


def test_chunks_become_runs_of_their_blocks() -> None:
    size = CHUNK_BYTES * 2 + BLOCK_BYTES + 1
    assert fine_runs([0, 1], size, 1000) == [(0, 120)]
    assert fine_runs([0, 2], size, 1000) == [(0, 60), (120, 2)]
    assert fine_runs([0, 1], size, 60) == [(0, 60), (60, 60)]
    assert fine_runs([], size, 60) == []


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 5), st.data())
def test_ranges_are_exactly_the_missing_blocks(size: int, block: int, most: int, data: st.DataObject) -> None:
    missing = sorted(data.draw(st.sets(st.integers(0, block_count(size, block) - 1))))
    ranges = ranges_to_fetch(missing, size, block, most * block)
    covered = [offset for start, length in ranges for offset in range(start, start + length)]
    assert covered == [at for number in missing for at in range(number * block, min(size, (number + 1) * block))]
    assert all(0 < length <= most * block for _, length in ranges)


def test_runs_from_elsewhere_are_checked() -> None:
    assert check_runs([(0, 3), (1, 2)], 3 * BLOCK_BYTES, BLOCK_BYTES, 5) == 5
    for runs, most in [([(0, 4)], 9), ([(3, 1)], 9), ([(0, 0)], 9), ([(-1, 1)], 9), ([(0, 3), (0, 3)], 5)]:
        with pytest.raises(PeerError):
            check_runs(runs, 3 * BLOCK_BYTES, BLOCK_BYTES, most)
