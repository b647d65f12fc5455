"""The loops of ``bench queue``: on virtual time, by windows, the plain loop, and Redis's producer."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from zcluster.bench.queueloops import Wait, Window, load_jobs
from zcluster.bench.queuerounds import QueueLine
from zcluster.bench.redis_contender import JOBS, RESULTS, Producer
from zcluster.bench.rounds import RoundSpec
from zcluster.bench.sqlite_contender import commit_jobs, open_plain
from zcluster.errors import JobDead, ZClusterError

Clock = Callable[[], float]
Run = Callable[[Callable[[Clock], Any]], Any]


def spec(clock: Clock, *, in_flight: int = 1, window_s: float = 2.0) -> RoundSpec:
    """A round whose window begins in half a second."""
    return RoundSpec(clock() + 0.5, window_s, 0.5, in_flight)


class Jobs:
    """Accepts each job after 0.1 s, and brings its value 0.3 s later; each third one is dead, each fourth one is wrong."""

    def __init__(self, *, bad: bool = False) -> None:
        self.bad = bad
        self.under_way = 0
        self.most = 0
        self.submitted = 0

    async def __call__(self) -> Wait:
        self.submitted += 1
        number = self.submitted
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.1)

        async def wait() -> str:
            await asyncio.sleep(0.3)
            self.under_way -= 1
            if self.bad and number % 3 == 0:
                raise JobDead("it killed its nodes")
            return "wrong" if self.bad and number % 4 == 0 else "right"

        return wait


def test_jobs_are_kept_under_way_and_both_latencies_are_of_the_window_only(run_virtual: Run) -> None:
    jobs = Jobs()

    async def main(clock: Clock) -> QueueLine:
        return await load_jobs(spec(clock, in_flight=8), jobs, "right".__eq__, now=clock)

    line = run_virtual(main)
    accept, done = line.accept.histogram(), line.done.histogram()
    assert jobs.most == 8
    assert jobs.under_way == 0
    assert line.seconds == pytest.approx(2.0)
    assert line.errors == {}
    # 8 places, a job each 0.4 s: five in the window, at most one more or less at its edges
    assert 8 * 4 <= done.count <= 8 * 6
    assert 8 * 4 <= accept.count <= 8 * 6
    assert jobs.submitted > done.count
    assert accept.percentile_s(50) == pytest.approx(0.1, rel=0.01)
    assert done.percentile_s(50) == pytest.approx(0.4, rel=0.01)


def test_a_job_that_fails_or_is_wrong_is_an_error_and_no_latency(run_virtual: Run) -> None:
    jobs = Jobs(bad=True)

    async def main(clock: Clock) -> QueueLine:
        return await load_jobs(spec(clock, window_s=8.0), jobs, "right".__eq__, now=clock)

    line = run_virtual(main)
    assert set(line.errors) == {"dead", "wrong_answer"}
    assert line.done.histogram().count + sum(line.errors.values()) == pytest.approx(20, abs=1)


def test_an_error_that_is_not_expected_ends_the_round(run_virtual: Run) -> None:
    async def submit() -> Wait:
        raise ZeroDivisionError

    async def main(clock: Clock) -> None:
        waiting = asyncio.ensure_future(load_jobs(spec(clock), submit, "right".__eq__, now=clock))
        with pytest.raises(ZeroDivisionError):
            await waiting

    run_virtual(main)


def test_a_window_opens_and_closes_by_its_time() -> None:
    now_s = 10.0
    window = Window(RoundSpec(11.0, 2.0, 1.0, 1), lambda: now_s)
    assert window.goes_on()
    window.done.record(1.0)
    window.failed("early")
    now_s = 11.0
    assert window.goes_on()
    assert window.on
    window.done.record(2.0)
    window.failed("failure")
    now_s = 12.9
    assert window.goes_on()
    now_s = 13.0
    assert not window.goes_on()
    window.done.record(3.0)
    window.failed("late")
    assert not window.goes_on()
    line = window.line()
    assert (line.done.histogram().count, line.done.histogram().max_ns, line.seconds) == (1, 2 * 10**9, 2.0)
    assert line.errors == {"failure": 1}


def test_the_plain_loop_commits_each_row_durably(tmp_path: Path) -> None:
    path = tmp_path / "plain.db"
    with closing(open_plain(str(path))) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        committed: list[int] = []
        connection.set_trace_callback(lambda sql: committed.append(1) if sql == "COMMIT" else None)
        line = commit_jobs(connection, b"x" * 100, RoundSpec(0.0, 0.0, 0.0, 1))
        # A window that is long over: one turn opens it, the next one closes it.
        assert line.done.histogram().count == line.accept.histogram().count == len(committed) == 1
    with closing(sqlite3.connect(path)) as again:
        assert again.execute("SELECT COUNT(*) FROM jobs").fetchone() == (0,)


class Streams:
    """Redis, as far as the producer uses it: what is added to the jobs comes back among the results."""

    def __init__(self) -> None:
        self.sent: list[list[dict[str, Any]]] = []
        self.results: asyncio.Queue[dict[bytes, bytes]] = asyncio.Queue()

    def pipeline(self, *, transaction: bool) -> Streams:
        assert not transaction
        self.sent.append([])
        return self

    def xadd(self, stream: str, fields: dict[str, Any]) -> None:
        assert stream == JOBS
        self.sent[-1].append(fields)

    async def execute(self) -> None:
        for fields in self.sent[-1]:
            self.results.put_nowait({b"n": str(fields["n"]).encode(), b"value": fields["value"]})
        await asyncio.sleep(0.01)

    async def xread(self, streams: dict[str, Any], *, count: int, block: int) -> list[Any]:
        assert set(streams) == {RESULTS}
        entries = [(b"1-0", await self.results.get())]
        while not self.results.empty():
            entries.append((b"1-0", self.results.get_nowait()))
        return [(RESULTS.encode(), entries)]


async def _while_running(producer: Producer, main: Awaitable[Any]) -> Any:
    tasks = [asyncio.ensure_future(producer.send()), asyncio.ensure_future(producer.read())]
    try:
        return await main
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def test_the_producer_of_redis_sends_what_waits_together(run_virtual: Run) -> None:
    async def main(_clock: Clock) -> None:
        streams = Streams()
        producer = Producer(streams, streams, b"value")

        async def whole() -> object:
            return await (await producer.submit())()

        async def body() -> None:
            assert await asyncio.gather(*(whole() for _ in range(256))) == [b"value"] * 256

        await _while_running(producer, body())
        assert [len(each) for each in streams.sent] == [256]

    run_virtual(main)


def test_a_result_that_belongs_to_no_job_is_an_error(run_virtual: Run) -> None:
    async def main(_clock: Clock) -> None:
        streams = Streams()
        streams.results.put_nowait({b"n": b"7", b"value": b"x"})
        with pytest.raises(ZClusterError, match="no job"):
            await Producer(streams, streams, b"x").read()

    run_virtual(main)
