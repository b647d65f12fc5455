"""The loops that submit jobs and wait for their values: one for programs of an event loop, one for those that block.

Rules kept here:
- ``in_flight`` jobs are under way: each value is followed by the next submission at once;
- what is recorded is what happened within the window, be the job's submission before it;
- a value that is not what was submitted is an error, and the latency of an error is not kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from zcluster.bench.child import Ready, read_line, say_line
from zcluster.bench.loops import SETTLE_S, Check, Errors
from zcluster.bench.queuerounds import Latencies, QueueLine
from zcluster.bench.rounds import RoundSpec
from zcluster.bench.stats import Recorder
from zcluster.errors import ZClusterError

Wait = Callable[[], Awaitable[object]]
"""Waits for the value of a job."""
Submit = Callable[[], Awaitable[Wait]]
"""Submits a job; returns when it is acknowledged."""


class Window:
    """The measured window of a round, and what falls into it."""

    def __init__(self, spec: RoundSpec, now: Callable[[], float] = time.monotonic) -> None:
        self.accept, self.done = Recorder(), Recorder()
        self.errors: dict[str, int] = {}
        self.over = False
        self._spec = spec
        self._now = now
        self._opened_s = 0.0
        self._seconds = 0.0

    @property
    def on(self) -> bool:
        """Whether what happens now counts."""
        return self.done.on

    def goes_on(self) -> bool:
        """Opens and closes the window when it is time; False from its end on. A program that blocks asks it for each job."""
        now_s = self._now()
        if self.on:
            self.settle()
            if now_s >= self._spec.start_at_s + self._spec.window_s:
                self.close()
        elif not self.over and now_s >= self._spec.start_at_s:
            self.open()
        return not self.over

    def open(self) -> None:
        self._opened_s = self._now()
        self.accept.start()
        self.done.start()

    def settle(self) -> None:
        """Bounds the memory; to be called a few times a second."""
        self.accept.settle()
        self.done.settle()

    def close(self) -> None:
        self._seconds = self._now() - self._opened_s
        self.accept.stop()
        self.done.stop()
        self.over = True

    def failed(self, code: str) -> None:
        """Counts a failed job."""
        if self.on:
            self.errors[code] = self.errors.get(code, 0) + 1

    def line(self) -> QueueLine:
        """What was measured; to be called once, when the window is over and no job is under way."""
        accept, done = (Latencies.of(recorder.histogram()) for recorder in (self.accept, self.done))
        return QueueLine(accept, done, self._seconds, self.errors)


async def load_jobs(
    spec: RoundSpec,
    submit: Submit,
    check: Check,
    failures: tuple[type[Exception], ...] = (ZClusterError,),
    now: Callable[[], float] = time.monotonic,
) -> QueueLine:
    """One round of jobs.

    Args:
        spec: the round; its start is on the clock of ``now``.
        submit: submits one job.
        check: tells whether a value is right.
        failures: the errors of a job that are counted; any other one ends the round.
        now: the clock, in seconds; that of the running event loop.
    """
    window, errors = Window(spec, now), Errors(failures)
    window.errors = errors.counts

    async def place() -> None:
        while not window.over:
            began_s = now()
            try:
                wait = await submit()
                window.accept.record(now() - began_s)
                value = await wait()
            except failures as error:
                await errors.failed(error, counted=window.on)
                continue
            if check(value):
                window.done.record(now() - began_s)
            else:
                window.failed("wrong_answer")

    places = [asyncio.ensure_future(place()) for _ in range(spec.in_flight)]
    ends_s = spec.start_at_s + spec.window_s
    await asyncio.sleep(spec.start_at_s - now())
    window.open()
    while (left_s := ends_s - now()) > 0:
        await asyncio.sleep(min(left_s, SETTLE_S))
        window.settle()
    window.close()
    await asyncio.gather(*places)
    return window.line()


async def serve_jobs(submit: Submit, check: Check, failures: tuple[type[Exception], ...] = (ZClusterError,)) -> None:
    """In a loading process: says that it is ready, then runs the rounds that the parent asks for until its input ends."""
    say_line(Ready())
    while (spec := await asyncio.to_thread(read_line, RoundSpec)) is not None:
        say_line(await load_jobs(spec, submit, check, failures))


def serve_blocking(run: Callable[[RoundSpec], QueueLine]) -> None:
    """The same for a program without an event loop."""
    say_line(Ready())
    while (spec := read_line(RoundSpec)) is not None:
        say_line(run(spec))
