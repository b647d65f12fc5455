"""The closed and the open loop, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from zcluster.bench.loops import ERROR_PAUSE_S, make_load
from zcluster.bench.rounds import GRACE_S, RoundResult, RoundSpec
from zcluster.bench.stats import Histogram
from zcluster.errors import Busy, FunctionFailed

Run = Callable[[Callable[[Callable[[], float]], Any]], Any]


class Server:
    """Answers each request after ``service_s``; from ``stall_at_s`` to ``stall_until_s`` it answers nothing."""

    def __init__(self, clock: Callable[[], float], service_s: float, stall: tuple[float, float] = (0.0, 0.0)) -> None:
        self.clock = clock
        self.service_s = service_s
        self.stall = stall
        self.busy = 0
        self.most_busy = 0
        self.served = 0

    async def __call__(self) -> str:
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        await asyncio.sleep(self.service_s)
        if self.stall[0] <= self.clock() < self.stall[1]:
            await asyncio.sleep(self.stall[1] - self.clock())
        self.busy -= 1
        self.served += 1
        return "right"


def right(answer: object) -> bool:
    """The check of these tests."""
    return answer == "right"


def spec(clock: Callable[[], float], *, in_flight: int, rate: float = 0.0, window_s: float = 2.0) -> RoundSpec:
    """A round that starts now with half a second of warm-up."""
    return RoundSpec(clock() + 0.5, window_s, 0.5, in_flight, rate)


def histogram(result: RoundResult) -> Histogram:
    """The latencies of a result."""
    return Histogram.from_counts(result.counts, result.max_ns)


def test_closed_loop_keeps_in_flight_requests_under_way_and_counts_the_window_only(run_virtual: Run) -> None:
    async def main(clock: Callable[[], float]) -> tuple[Server, RoundResult]:
        server = Server(clock, 0.1)
        return server, await make_load(spec(clock, in_flight=8), server, right, now=clock)

    server, result = run_virtual(main)
    assert server.most_busy == 8
    assert result.errors == {}
    assert result.seconds == pytest.approx(2.0)
    # 8 places, an answer each 0.1 s: 20 in the window, one more or less at its edges
    assert 8 * 19 <= result.requests <= 8 * 21
    assert server.served > result.requests
    assert histogram(result).percentile_s(50) == pytest.approx(0.1, rel=0.01)


def test_closed_loop_counts_errors_apart_and_waits_after_each(run_virtual: Run) -> None:
    async def main(clock: Callable[[], float]) -> tuple[int, RoundResult]:
        calls = 0

        async def fail() -> str:
            nonlocal calls
            calls += 1
            raise FunctionFailed("no")

        return calls, await make_load(spec(clock, in_flight=1), fail, right, now=clock)

    _, result = run_virtual(main)
    assert result.requests == 0
    assert 2.0 / ERROR_PAUSE_S * 0.9 <= result.errors["function_failed"] <= 2.0 / ERROR_PAUSE_S + 1


def test_busy_is_waited_for_as_long_as_it_says(run_virtual: Run) -> None:
    async def main(clock: Callable[[], float]) -> RoundResult:
        async def busy() -> str:
            raise Busy("full", retry_after_s=0.5)

        return await make_load(spec(clock, in_flight=1), busy, right, now=clock)

    assert 3 <= run_virtual(main).errors["busy"] <= 5


def test_an_error_that_is_not_expected_ends_the_round(run_virtual: Run) -> None:
    async def main(clock: Callable[[], float]) -> RoundResult:
        async def broken() -> str:
            raise ZeroDivisionError

        return await make_load(spec(clock, in_flight=1, rate=10.0), broken, right, now=clock)

    with pytest.raises(ZeroDivisionError):
        run_virtual(main)


@pytest.mark.parametrize("rate", [0.0, 50.0])
def test_a_wrong_answer_is_an_error_and_no_latency(run_virtual: Run, rate: float) -> None:
    async def main(clock: Callable[[], float]) -> RoundResult:
        async def lie() -> str:
            await asyncio.sleep(0.02)
            return "wrong"

        return await make_load(spec(clock, in_flight=1, rate=rate), lie, right, now=clock)

    result = run_virtual(main)
    assert result.requests == 0
    assert 99 <= result.errors["wrong_answer"] <= 101


def test_open_loop_sends_by_timetable(run_virtual: Run) -> None:
    async def main(clock: Callable[[], float]) -> RoundResult:
        return await make_load(spec(clock, in_flight=64, rate=100.0), Server(clock, 0.01), right, now=clock)

    result = run_virtual(main)
    assert result.requests == 200
    assert result.unsent == 0
    assert histogram(result).percentile_s(99) == pytest.approx(0.01, rel=0.02)


def test_open_loop_counts_latency_from_the_due_time_through_a_stall(run_virtual: Run) -> None:
    """The server stalls for one second: the requests that were due in it have waited, though none was under way."""

    async def main(clock: Callable[[], float]) -> RoundResult:
        server = Server(clock, 0.001, stall=(clock() + 1.0, clock() + 2.0))
        return await make_load(spec(clock, in_flight=1, rate=100.0), server, right, now=clock)

    result = run_virtual(main)
    assert result.requests == 200
    waited = histogram(result)
    # about 100 of the 200 were due in the stall and waited 0 to 1 s: a closed loop would have seen one slow request
    assert waited.percentile_s(75) == pytest.approx(0.55, abs=0.1)
    assert waited.percentile_s(100) == pytest.approx(1.0, abs=0.02)


def test_open_loop_that_cannot_keep_up_gives_up_and_says_how_many_were_not_sent(run_virtual: Run) -> None:
    async def main(clock: Callable[[], float]) -> tuple[float, Server, RoundResult]:
        server = Server(clock, 1.0)
        result = await make_load(spec(clock, in_flight=1, rate=1000.0), server, right, now=clock)
        return clock(), server, result

    ended_s, server, result = run_virtual(main)
    assert ended_s <= 1000.0 + 2.5 + GRACE_S + 1.1
    assert server.served < 12
    # nothing that was due in the window is left out of the latencies
    assert histogram(result).count == 2000
    assert result.requests + result.unsent == 2000
    assert result.unsent > 1900
    assert histogram(result).percentile_s(50) > GRACE_S


def test_open_loop_keeps_to_its_places(run_virtual: Run) -> None:
    async def main(clock: Callable[[], float]) -> Server:
        server = Server(clock, 0.1)
        await make_load(spec(clock, in_flight=3, rate=1000.0, window_s=0.1), server, right, now=clock)
        return server

    assert run_virtual(main).most_busy == 3
