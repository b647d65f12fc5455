"""The load: a closed and an open loop over anything that can be awaited for an answer.

Rules kept here:
- the closed loop keeps ``in_flight`` requests under way: each answer is followed by the next request at once;
- the open loop has a timetable: the latency of a request counts from its due time, also when all ``in_flight`` places
  were taken then, and requests that could not be sent at all count with what they had waited (no coordinated omission);
- an answer that is not what was sent is an error, and the latency of an error is not kept;
- a failing target does not make the loop spin: after an error a place waits before its next request.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Awaitable, Callable
from typing import Any

from zcluster.bench.child import Ready, read_line, say_line
from zcluster.bench.rounds import GRACE_S, RoundResult, RoundSpec, result_of
from zcluster.bench.stats import Histogram, Recorder
from zcluster.errors import ZClusterError
from zcluster.process.loop import new_loop

SETTLE_S = 0.1
ERROR_PAUSE_S = 0.01
CONNECT_S = 20.0

Start = Callable[[], Awaitable[object]]
"""Starts one request; what it returns is awaited for the answer."""
Check = Callable[[Any], bool]
"""Whether an answer is the right one."""


class Errors:
    """Failed requests by code, as far as they fall into the measured window."""

    def __init__(self, failures: tuple[type[Exception], ...]) -> None:
        self.failures = failures
        self.counts: dict[str, int] = {}

    def wrong(self) -> None:
        """Counts an answer that was not what was sent."""
        self.counts["wrong_answer"] = self.counts.get("wrong_answer", 0) + 1

    async def failed(self, error: Exception, *, counted: bool) -> None:
        """Counts ``error`` if it is to be counted, and waits as long as it asks for."""
        code = error.code if isinstance(error, ZClusterError) else type(error).__name__
        if counted:
            self.counts[code] = self.counts.get(code, 0) + 1
        retry_after_s = error.retry_after_s if isinstance(error, ZClusterError) else None
        await asyncio.sleep(retry_after_s or ERROR_PAUSE_S)


class _ClosedLoop:
    """``in_flight`` places, each of which calls again and again until told to stop."""

    def __init__(self, start: Start, check: Check, errors: Errors, now: Callable[[], float]) -> None:
        self.start = start
        self.check = check
        self.errors = errors
        self.now = now
        self.recorder = Recorder()
        self.running = True

    async def place(self) -> None:
        """One of the places. This is the hot loop: keep it lean."""
        start, check, now, recorder, errors = self.start, self.check, self.now, self.recorder, self.errors
        failures = errors.failures
        while self.running:
            began_s = now()
            try:
                answer = await start()
            except failures as error:
                await errors.failed(error, counted=recorder.on)
                continue
            took_s = now() - began_s
            if check(answer):
                recorder.record(took_s)
            elif recorder.on:
                errors.wrong()

    async def run(self, spec: RoundSpec) -> RoundResult:
        """Warm-up, measured window, end."""
        places = [asyncio.ensure_future(self.place()) for _ in range(spec.in_flight)]
        await asyncio.sleep(spec.start_at_s - self.now())
        opened_s = self.now()
        self.recorder.start()
        while (left_s := spec.start_at_s + spec.window_s - self.now()) > 0:
            await asyncio.sleep(min(left_s, SETTLE_S))
            self.recorder.settle()
        self.recorder.stop()
        seconds = self.now() - opened_s
        self.running = False
        await asyncio.gather(*places)
        return result_of(self.recorder.histogram(), seconds, self.errors.counts)


class _OpenLoop:
    """A timetable of requests, and ``in_flight`` places that take the next entry each."""

    def __init__(self, spec: RoundSpec, start: Start, check: Check, errors: Errors, now: Callable[[], float]) -> None:
        self.start = start
        self.check = check
        self.errors = errors
        self.now = now
        self.histogram = Histogram()
        self.window_at_s = spec.start_at_s
        self.until_s = spec.start_at_s + spec.window_s
        self.interval_s = 1.0 / spec.rate
        # Due times are computed from an index, not added up: no drift.
        self.index = -math.floor(spec.warm_up_s * spec.rate)
        self.end_index = math.ceil(spec.window_s * spec.rate)
        self.last_answer_s = self.until_s
        self.unsent = 0

    async def place(self) -> None:
        """One of the places."""
        now, histogram = self.now, self.histogram
        while self.index < self.end_index:
            index = self.index
            self.index += 1
            due_s = self.window_at_s + index * self.interval_s
            early_s = due_s - now()
            if early_s > 0:
                await asyncio.sleep(early_s)
            elif now() > self.until_s + GRACE_S:
                self.give_up(index)
                return
            counted = index >= 0
            try:
                answer = await self.start()
            except self.errors.failures as error:
                await self.errors.failed(error, counted=counted)
                continue
            answered_s = now()
            if not counted:
                continue
            self.last_answer_s = max(self.last_answer_s, answered_s)
            if self.check(answer):
                histogram.record_s(answered_s - due_s)
            else:
                self.errors.wrong()

    def give_up(self, index: int) -> None:
        """Counts the rest of the timetable, from ``index``, with what it has waited until now."""
        first = max(index, 0)
        self.index = self.end_index
        self.unsent += self.end_index - first
        now_s = self.now()
        waited_s = [now_s - (self.window_at_s + i * self.interval_s) for i in (first, self.end_index - 1)]
        self.histogram.record_ramp_s(waited_s[0], waited_s[1], self.end_index - first)

    async def run(self, spec: RoundSpec) -> RoundResult:
        """Warm-up, measured window, end."""
        await asyncio.gather(*(self.place() for _ in range(spec.in_flight)))
        seconds = self.last_answer_s - self.window_at_s
        return result_of(self.histogram, seconds, self.errors.counts, self.unsent)


async def make_load(
    spec: RoundSpec,
    start: Start,
    check: Check,
    failures: tuple[type[Exception], ...] = (ZClusterError,),
    now: Callable[[], float] = time.monotonic,
) -> RoundResult:
    """One round of load by ``start``, an open loop when ``spec`` has a rate.

    Args:
        spec: the round; its start is on the clock of ``now``.
        start: starts one request.
        check: tells whether an answer is right.
        failures: the errors of a request that are counted; any other one ends the round.
        now: the clock, in seconds; that of the running event loop.
    """
    if spec.rate > 0:
        return await _OpenLoop(spec, start, check, Errors(failures), now).run(spec)
    return await _ClosedLoop(start, check, Errors(failures), now).run(spec)


async def serve_rounds(start: Start, check: Check, failures: tuple[type[Exception], ...] = (ZClusterError,)) -> None:
    """In a loading process: says that it is ready, then runs the rounds that the parent asks for until its input ends."""
    say_line(Ready())
    while (spec := await asyncio.to_thread(read_line, RoundSpec)) is not None:
        say_line(await make_load(spec, start, check, failures))


def run_loop(main: Callable[[], Awaitable[None]], *, open_loop: bool) -> None:
    """Runs ``main`` in an event loop that fits the load.

    The closed loop runs on what the daemons run on, for zcluster and NATS alike. The open loop waits for due times, which
    epoll rounds up to a millisecond: select() waits for microseconds.
    """

    def make() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector()) if open_loop else new_loop()

    async def wait() -> None:
        await main()

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(wait())


async def first_answer(start: Start, check: Check, failures: tuple[type[Exception], ...] = (ZClusterError,)) -> None:
    """Returns when one request was answered rightly; raises the last error after CONNECT_S."""
    deadline_s = time.monotonic() + CONNECT_S
    while True:
        try:
            if check(await start()):
                return
            raise ZClusterError("the first request got a wrong answer", hint="run the same call with `zcluster dapi call`")
        except failures:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(0.05)
