"""Latencies in bounded memory: a log-linear histogram, a recorder for hot loops, medians.

Rules kept here:
- a histogram has BUCKETS buckets whatever is put into it; a value is known to 1 part in 128, the greatest one exactly;
- a percentile is never too low: it is the upper edge of its bucket, and at most the greatest value;
- recording is O(1); a recorder holds at most SAMPLES_LIMIT exact samples before it goes on in its histogram.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence

from zcluster.errors import UsageError

_SUB_BITS = 7
_SUB = 1 << _SUB_BITS
MAX_NS = (1 << 42) - 1
"""The greatest latency that is told apart (73 minutes); greater ones are counted as this."""

BUCKETS = (42 - _SUB_BITS - 1) * _SUB + 2 * _SUB
SAMPLES_LIMIT = 2_000_000
RAMP_STEPS = 1_000
NS = 1_000_000_000


def bucket_of(value_ns: int) -> int:
    """The bucket of a latency of 0..MAX_NS nanoseconds."""
    shift = value_ns.bit_length() - _SUB_BITS - 1
    if shift <= 0:
        return value_ns
    return (shift << _SUB_BITS) + (value_ns >> shift)


def bucket_range_ns(bucket: int) -> tuple[int, int]:
    """The least and the greatest value that fall into ``bucket``."""
    if bucket < 2 * _SUB:
        return bucket, bucket
    shift = (bucket >> _SUB_BITS) - 1
    low = (bucket - (shift << _SUB_BITS)) << shift
    return low, low + (1 << shift) - 1


class Histogram:
    """Counts of latencies in log-linear buckets, each at most 0.8 % wide."""

    __slots__ = ("_counts", "count", "max_ns")

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self.count = 0
        self.max_ns = 0

    def record_ns(self, value_ns: int, times: int = 1) -> None:
        """Counts ``value_ns``, ``times`` times; below 0 counts as 0, above MAX_NS as MAX_NS."""
        value_ns = min(max(value_ns, 0), MAX_NS)
        self._counts[bucket_of(value_ns)] += times
        self.count += times
        if times and value_ns > self.max_ns:
            self.max_ns = value_ns

    def record_s(self, value_s: float) -> None:
        """Counts a latency in seconds."""
        self.record_ns(int(value_s * NS))

    def record_ramp_s(self, first_s: float, last_s: float, times: int) -> None:
        """Counts ``times`` latencies spread evenly from ``first_s`` to ``last_s``, in at most RAMP_STEPS steps."""
        steps = min(times, RAMP_STEPS)
        done = 0
        for step in range(steps):
            until = (step + 1) * times // steps
            share = step / (steps - 1) if steps > 1 else 0.0
            self.record_ns(int((first_s + (last_s - first_s) * share) * NS), until - done)
            done = until

    def merge(self, other: Histogram) -> None:
        """Adds the counts of ``other``."""
        for bucket, count in enumerate(other._counts):
            if count:
                self._counts[bucket] += count
        self.count += other.count
        self.max_ns = max(self.max_ns, other.max_ns)

    def percentile_ns(self, percent: float) -> int:
        """The latency that ``percent`` (0..100) of all values do not exceed; 0 when there is none."""
        if not 0 <= percent <= 100:
            raise UsageError(f"a percentile is from 0 to 100, not {percent}")
        needed = max(1, -int(-self.count * percent // 100))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= needed:
                return min(bucket_range_ns(bucket)[1], self.max_ns)
        return 0

    def percentile_s(self, percent: float) -> float:
        """:meth:`percentile_ns` in seconds."""
        return self.percentile_ns(percent) / NS

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """(least ns, greatest ns, count) of each bucket that is not empty, in order."""
        for bucket, count in enumerate(self._counts):
            if count:
                low, high = bucket_range_ns(bucket)
                yield low, high, count

    def to_counts(self) -> dict[str, int]:
        """The buckets that are not empty, as it travels; see :meth:`from_counts`."""
        return {str(bucket): count for bucket, count in enumerate(self._counts) if count}

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], max_ns: int) -> Histogram:
        """The histogram that :meth:`to_counts` and ``max_ns`` describe."""
        histogram = cls()
        for bucket, count in counts.items():
            histogram._counts[int(bucket)] += count
            histogram.count += count
        histogram.max_ns = max_ns
        return histogram


def _discard(_value_s: float) -> None:
    """Takes a latency outside the measured window."""


class Recorder:
    """Latencies of a hot loop: ``record`` is an array's append while measuring, and nothing before and after.

    ``record`` changes with :meth:`start`, :meth:`settle` and :meth:`stop`: look it up for each latency.
    """

    def __init__(self, samples_limit: int = SAMPLES_LIMIT) -> None:
        self._limit = samples_limit
        self._samples = array("d")
        self._histogram = Histogram()
        self.record: Callable[[float], None] = _discard

    @property
    def on(self) -> bool:
        """Whether latencies are being kept."""
        return self.record is not _discard

    def start(self) -> None:
        """Keeps latencies from now on."""
        self.record = self._samples.append

    def settle(self) -> None:
        """Bounds the memory; to be called a few times a second by the loop's owner."""
        if self.on and len(self._samples) >= self._limit:
            self.record = self._histogram.record_s

    def stop(self) -> None:
        """Keeps no latency that comes from now on."""
        self.record = _discard

    def histogram(self) -> Histogram:
        """Everything that was kept."""
        for sample in self._samples:
            self._histogram.record_s(sample)
        del self._samples[:]
        return self._histogram


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones; 0.0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
