"""Long work of a node's loop in short steps, with time for everybody else in between.

Large arguments take tens of milliseconds to look through, to decode and to encode again, each in one call into C during which no
other thread of the process runs either.

Rules kept here:
- one piece of work at a time on the loop, and one in threads: steps of several never follow each other without a rest;
- after LONG_S of work there is a rest: enough for a request of somebody else to come, and for its answer to leave;
- work that is short has no rest.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

LONG_S = 0.02
REST_S = 0.005
"""At least."""
REST_SHARE = 0.25
"""Of the work before it."""

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work that yields after each step, and returns what came of it."""


def at_once(steps: Steps[T]) -> T:
    """Do all of it, one step after the other."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: T = done.value
            return found


class _Worked:
    """How long work took lately; time that passes without any is taken off."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._worked_s = self._ended_s = 0.0

    def rest_s(self) -> float:
        """How long the rest is to be that is due now; it counts as taken."""
        now = self._clock()
        worked_s = max(0.0, self._worked_s - (now - self._ended_s))
        self._worked_s, self._ended_s = (0.0 if worked_s >= LONG_S else worked_s), now
        return max(REST_S, REST_SHARE * worked_s) if worked_s >= LONG_S else 0.0

    def step(self, steps: Steps[T]) -> None:
        """Do the next step; raises what it raises, StopIteration behind the last."""
        began_s = self._clock()
        try:
            next(steps)
        finally:
            ended_s = self._clock()
            self._worked_s = max(0.0, self._worked_s - (began_s - self._ended_s)) + ended_s - began_s
            self._ended_s = ended_s


class Pace:
    """Goes through the steps of one node.

    Args:
        clock: seconds, monotonic.
        rest: waits that many seconds without holding up the loop.
        rest_here: holds up the calling thread for that many seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        rest: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rest_here: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rest = rest
        self._rest_here = rest_here
        self._on_loop, self._in_threads = _Worked(clock), _Worked(clock)
        self._turn, self._turn_in_threads = asyncio.Lock(), threading.Lock()

    async def on_loop(self, steps: Steps[T]) -> T:
        """Do it on the loop; others' work is done before or after. Raises what the steps raise."""
        async with self._turn:
            while True:
                if rest_s := self._on_loop.rest_s():
                    await self._rest(rest_s)
                try:
                    self._on_loop.step(steps)
                except StopIteration as done:
                    found: T = done.value
                    return found

    def in_thread(self, steps: Steps[T]) -> T:
        """Do it in the calling thread; other threads' work is done before or after. Raises what the steps raise."""
        with self._turn_in_threads:
            while True:
                if rest_s := self._in_threads.rest_s():
                    self._rest_here(rest_s)
                try:
                    self._in_threads.step(steps)
                except StopIteration as done:
                    found: T = done.value
                    return found
