"""The histogram, the recorder and the median."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.bench.stats import BUCKETS, MAX_NS, Histogram, Recorder, bucket_of, bucket_range_ns, median
from zcluster.errors import UsageError


def test_buckets_cover_all_values_without_gap_or_overlap() -> None:
    expected_low = 0
    for bucket in range(BUCKETS):
        low, high = bucket_range_ns(bucket)
        assert low == expected_low
        assert bucket_of(low) == bucket
        assert bucket_of(high) == bucket
        expected_low = high + 1
    assert expected_low == MAX_NS + 1


@given(st.integers(0, MAX_NS))
def test_a_bucket_is_narrower_than_one_part_in_128(value_ns: int) -> None:
    low, high = bucket_range_ns(bucket_of(value_ns))
    assert low <= value_ns <= high
    assert (high - low) * 128 <= max(low, 1) or low == high


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=200), st.floats(0, 100))
def test_a_percentile_is_not_below_the_true_one_and_close_above(values: list[int], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record_ns(value)
    needed = max(1, -int(-len(values) * percent // 100))
    true = sorted(values)[needed - 1]
    assert true <= histogram.percentile_ns(percent) <= true + true // 128
    assert histogram.percentile_ns(100) == max(values)


def test_values_outside_the_range_are_counted_at_its_ends() -> None:
    histogram = Histogram()
    histogram.record_ns(-5)
    histogram.record_ns(MAX_NS)
    histogram.record_ns(MAX_NS + 1)
    assert [(low, count) for low, _, count in histogram.buckets()] == [(0, 1), (bucket_range_ns(BUCKETS - 1)[0], 2)]
    assert histogram.max_ns == MAX_NS


def test_an_empty_histogram_has_percentile_0_and_a_wrong_percent_is_refused() -> None:
    assert Histogram().percentile_ns(99) == 0
    with pytest.raises(UsageError):
        Histogram().percentile_ns(100.1)


@given(st.lists(st.integers(0, 10**9), max_size=50), st.lists(st.integers(0, 10**9), max_size=50))
def test_merging_and_travelling_lose_nothing(left: list[int], right: list[int]) -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    for values, histogram in ((left, one), (right, other), (left + right, both)):
        for value in values:
            histogram.record_ns(value)
    one.merge(Histogram.from_counts(other.to_counts(), other.max_ns))
    assert list(one.buckets()) == list(both.buckets())
    assert (one.count, one.max_ns) == (both.count, both.max_ns)


@pytest.mark.parametrize("times", [0, 1, 2, 999, 1000, 1001, 123_457])
def test_a_ramp_counts_exactly_and_spans_its_ends(times: int) -> None:
    histogram = Histogram()
    histogram.record_ramp_s(2.0, 1.0, times)
    assert histogram.count == times
    if times:
        assert histogram.max_ns == 2_000_000_000
    if times > 1:
        assert next(histogram.buckets())[0] <= 1_000_000_000


def test_a_recorder_keeps_only_what_comes_between_start_and_stop() -> None:
    recorder = Recorder()
    recorder.record(1.0)
    recorder.start()
    recorder.record(2.0)
    recorder.stop()
    recorder.record(3.0)
    histogram = recorder.histogram()
    assert (histogram.count, histogram.max_ns) == (1, 2_000_000_000)


def test_a_recorder_goes_on_in_its_histogram_at_its_limit() -> None:
    recorder = Recorder(samples_limit=3)
    recorder.start()
    for _ in range(2):
        recorder.record(0.001)
    recorder.settle()
    assert recorder.record.__name__ == "append"
    recorder.record(0.001)
    recorder.settle()
    assert recorder.record.__name__ == "record_s"
    recorder.record(0.005)
    recorder.stop()
    histogram = recorder.histogram()
    assert (histogram.count, histogram.max_ns) == (4, 5_000_000)


def test_median() -> None:
    assert median([]) == 0.0
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
