"""How fast contents are asked for: never more than the rate gives, and a pull that waits for its pace is not stuck."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.sync import bodies
from zcluster.core.sync.effects import Begin, Begun, Do, Effects, FinishLarge, Put
from zcluster.core.sync.entry import Entry, content_digest
from zcluster.core.sync.fetching import Fetching
from zcluster.core.sync.pacing import BURST_S, MIN_RATE_BYTES, Pace
from zcluster.errors import ZClusterError
from zcluster.wire.trees import Blocks, Fetch, Parcel


@given(
    st.integers(MIN_RATE_BYTES, 10**7),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 10**6)), max_size=60),
)
def test_over_any_time_no_more_is_taken_than_the_rate_gives(rate: int, steps: list[tuple[float, int]]) -> None:
    pace, now, taken = Pace(rate), 0.0, list[tuple[float, int]]()
    for wait_s, size in steps:
        now += wait_s
        if pace.may(now):
            pace.take(size, now)
            taken.append((now, size))
    for first, (start_s, _) in enumerate(taken):
        # All but the last one of a span is paid for within it.
        span = taken[first:]
        for end in range(1, len(span)):
            paid = sum(size for _, size in span[:end])
            assert paid <= rate * (span[end][0] - start_s + BURST_S) * 1.0001 + 1


def test_a_rate_below_the_least_counts_as_the_least() -> None:
    assert Pace(1).rate_bytes == MIN_RATE_BYTES
    assert Pace(MIN_RATE_BYTES + 1).rate_bytes == MIN_RATE_BYTES + 1


class Pull:
    """The fetching of some files, with a source that answers at once."""

    def __init__(self, pace: Pace | None, sizes: dict[str, int]) -> None:
        self.effects = Effects()
        self.now = 0.0
        self.asked: list[tuple[float, int]] = []
        self.said: list[tuple[Fetch | Blocks, bytes]] = []
        self.ends: list[ZClusterError | None] = []
        wanted = [
            (name, Entry(name, "f", size, 0, 0o644, content_digest("blake2b_256", b"x" * size))) for name, size in sizes.items()
        ]
        self.fetching = Fetching(
            ("logs", "worker-1"), 1, wanted, 8 << 20, 983_040, self.effects, 0,
            lambda message, body: self.said.append((message, body)), lambda error, now: self.ends.append(error), pace,
        )  # fmt: skip

    def answer(self) -> None:
        """Answer all that was asked, and do all that was decided, until nothing is left."""
        while True:
            said, self.said = self.said, []
            effects = self.effects.take()
            if not said and not effects:
                return
            for message, body in said:
                assert isinstance(message, Fetch)
                sizes = [piece.size for piece in bodies.read_pieces(body)]
                self.asked.append((self.now, sum(sizes)))
                parcel = Parcel(tree="logs", id=message.id, raw_bytes=sum(sizes), sizes=sizes, last=True)
                self.fetching.parcel(parcel, b"x" * sum(sizes), self.now)
            for effect in effects:
                self.do(effect)

    def run(self) -> None:
        """From the beginning to the end, at the times that it asks for."""
        self.fetching.start(self.now)
        self.answer()
        while (due := self.fetching.next_deadline()) < math.inf:
            assert due > self.now
            assert not self.fetching.handle_deadline((self.now + due) / 2)
            self.now = due
            assert self.fetching.handle_deadline(due)
            self.answer()

    def do(self, effect: object) -> None:
        assert isinstance(effect, Do)
        match effect.action:
            case Put():
                self.effects.done(effect.job, 0, self.now)
            case Begin():
                self.effects.done(effect.job, Begun(False), self.now)
            case FinishLarge():
                self.effects.done(effect.job, None, self.now)
            case other:
                raise AssertionError(other)


def test_small_and_large_files_come_at_the_pace_and_all_of_them_come() -> None:
    sizes = {"a": 40_000, "empty": 0, **{f"s{number}": 30_000 for number in range(10)}, "large": 1_500_000}
    pull = Pull(Pace(100_000), sizes)
    pull.run()
    assert pull.ends == [None]
    assert sum(size for _, size in pull.asked) == sum(sizes.values())
    assert max(size for _, size in pull.asked) <= 100_000
    last_s = pull.asked[-1][0]
    assert (sum(sizes.values()) - 100_000) / 100_000 - BURST_S <= last_s <= sum(sizes.values()) / 100_000


def test_without_a_pace_all_is_asked_for_at_once() -> None:
    pull = Pull(None, {"a": 40_000, "large": 1_500_000})
    pull.run()
    assert (pull.ends, pull.now) == ([None], 0.0)


def test_two_pulls_of_a_worker_share_its_pace() -> None:
    pace = Pace(100_000)
    one, other = Pull(pace, {"a": 90_000, "b": 90_000, "c": 90_000}), Pull(pace, {"d": 90_000})
    one.fetching.start(0.0)
    one.answer()
    other.fetching.start(0.0)
    assert not other.said
    due = other.fetching.next_deadline()
    assert 0.0 < due < math.inf
    assert other.fetching.handle_deadline(due)
    assert other.said
    assert not one.fetching.handle_deadline(due), "the other one was first"


def test_a_pull_that_was_stopped_waits_for_nothing() -> None:
    pull = Pull(Pace(100_000), {"a": 90_000, "b": 90_000, "c": 90_000})
    pull.fetching.start(0.0)
    pull.answer()
    assert pull.fetching.next_deadline() < math.inf
    pull.fetching.stop()
    assert pull.fetching.next_deadline() == math.inf
