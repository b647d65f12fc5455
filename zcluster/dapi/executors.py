"""Where a call runs that is not over at once: a thread, or a task of the event loop.

Rules kept here:
- executors are persistent: a call costs a queue entry, never a new thread when one is idle;
- what a thread has to say goes through the Inbox, and many reports that come together wake the loop once;
- "never started" is true: whoever claims a call first, the thread that would run it or the loop that ends it, wins;
- large arguments are decoded in steps, with time for others in between;
- every started call reports its end exactly once, even when nobody listens any more;
- a thread that is stuck never keeps the process from exiting. The standard ThreadPoolExecutor cannot promise that:
  its threads are joined at exit (``threading._register_atexit``), so one stuck function would hold up SIGTERM for
  ever. Hence the small pool here, of daemon threads over one SimpleQueue.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from queue import SimpleQueue
from typing import Any

from zcluster.dapi.context import Context
from zcluster.dapi.jobs import AnyJob, Body, Call
from zcluster.dapi.outcome import Outcomes, encode, encode_in_steps
from zcluster.dapi.steps import Pace, Steps
from zcluster.dapi.weight import LARGE_BYTES


class Report(Enum):
    """What an executor says of a call."""

    OK = "ok"
    FAILED = "failed"
    ITEM = "item"
    STOPPED = "stopped"
    """It ended because it was stopped; nobody waits for a body."""


Tell = Callable[[Call, Report, Body], None]
"""How an executor on the loop's thread reports."""


class Inbox:
    """Reports from other threads, handed over on the loop's thread in the order they came.

    Args:
        wake: calls its argument soon on the loop's thread (``loop.call_soon_threadsafe``).
        tell: takes a report, on the loop's thread.
    """

    def __init__(self, wake: Callable[[Callable[[], None]], object], tell: Tell) -> None:
        self._wake = wake
        self._tell = tell
        self._waiting: deque[tuple[Call, Report, Body]] = deque()
        self._woken = False

    def post(self, call: Call, report: Report, body: Body = b"") -> None:
        """Report from any thread. After the loop is closed nobody listens: the report is dropped."""
        self._waiting.append((call, report, body))
        if self._woken:
            return
        self._woken = True
        try:
            self._wake(self.collect)
        except RuntimeError:
            self._waiting.clear()  # "Event loop is closed": the process is on its way out

    def collect(self) -> None:
        """Hand over everything that waits; on the loop's thread."""
        # Cleared before looking: a report that comes during the loop below is either seen by it or wakes us again.
        self._woken = False
        try:
            while self._waiting:
                self._tell(*self._waiting.popleft())
        finally:
            if self._waiting and not self._woken:  # the receiver raised: the others must still be delivered
                self._woken = True
                self._wake(self.collect)


class DaemonThreads:
    """Up to ``max_threads`` threads, made on demand and kept; entries beyond that wait in order."""

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0

    @property
    def threads(self) -> int:
        """How many threads there are."""
        return self._threads

    def submit(self, work: Callable[[], None]) -> None:
        """Run ``work`` in a thread. ``work`` must not raise.

        Raises:
            RuntimeError, MemoryError: the system gives no further thread; ``work`` will not run.
        """
        with self._lock:
            self._unfinished += 1
            grow = self._threads < min(self._unfinished, self._max_threads)
            if grow:
                self._threads += 1
                number = self._threads
        if grow:
            try:
                threading.Thread(target=self._loop, name=f"zcluster-call-{number}", daemon=True).start()
            except (RuntimeError, MemoryError):
                with self._lock:
                    self._unfinished -= 1
                    self._threads -= 1
                raise
        self._queue.put(work)

    def close(self) -> None:
        """Let idle threads end, and busy ones after what they do; waits for none of them."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _loop(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            finally:
                del work  # an idle thread must not keep the last call's arguments alive
                with self._lock:
                    self._unfinished -= 1


def claimed_arguments(job: AnyJob, claim: threading.Lock, pace: Pace) -> tuple[Any, ...] | None:
    """In a thread: claim ``job`` and decode its arguments; None when the loop has ended it. Raises what is wrong with them.

    A job with large ones is claimed when they have been read: until then it may be stopped, and has not started.
    """
    large = len(job.body) > LARGE_BYTES
    if claim.locked() or not (large or claim.acquire(blocking=False)):
        return None
    try:
        values = pace.in_thread(job.function.decode_large(job.body)) if large else job.function.decode(job.body)
    except BaseException:
        if large and not claim.acquire(blocking=False):
            return None
        raise
    return None if large and not claim.acquire(blocking=False) else values


class ThreadCall:
    """A plain function in a thread."""

    __slots__ = ("_claim", "_context", "_inbox", "_outcomes", "_pace", "deadline_s", "job")

    def __init__(self, job: AnyJob, deadline_s: float, outcomes: Outcomes, pace: Pace, inbox: Inbox) -> None:
        self.job = job
        self.deadline_s = deadline_s
        self._outcomes = outcomes
        self._pace = pace
        self._inbox = inbox
        self._claim = threading.Lock()
        self._context: Context | None = outcomes.context(job, deadline_s) if job.function.wants_context else None

    def work(self) -> None:
        """Run it; in the thread."""
        if len(self.job.body) > LARGE_BYTES:
            self._work_large()
        elif self._claim.acquire(blocking=False):
            self._post(self._outcomes.run(self.job, self._context))

    def _work_large(self) -> None:
        try:
            values = claimed_arguments(self.job, self._claim, self._pace)
        except BaseException as error:
            self._post((False, self._outcomes.failed(self.job, error)))
            return
        if values is not None:
            self._post(self._outcomes.run_decoded(self.job, values, self._context))

    def _post(self, outcome: tuple[bool, Body]) -> None:
        ok, body = outcome
        self._inbox.post(self, Report.OK if ok else Report.FAILED, body)

    def stop(self) -> bool:
        """Set its context's flag; a thread cannot be stopped."""
        started = not self._claim.acquire(blocking=False)
        if self._context is not None:
            self._context.mark_cancelled()
        return started

    def grant(self, items_upto: int) -> None:
        """Not a stream."""


class TaskCall:
    """An async function in a task of the loop. Base of the others that run there."""

    def __init__(self, job: AnyJob, deadline_s: float, outcomes: Outcomes, pace: Pace, tell: Tell) -> None:
        self.job = job
        self.deadline_s = deadline_s
        self._outcomes = outcomes
        self._pace = pace
        self._tell = tell
        self._started = False
        self._stopped = False
        self._task: asyncio.Task[None] | None = None
        self._context: Context | None = outcomes.context(job, deadline_s) if job.function.wants_context else None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the task."""
        self._task = loop.create_task(self._work(), name=f"zcluster-call-{self.job.id}")

    def stop(self) -> bool:
        """Cancel the task."""
        self._stopped = True
        if self._context is not None:
            self._context.mark_cancelled()
        if self._task is not None:
            self._task.cancel()
        return self._started

    def grant(self, items_upto: int) -> None:
        """Not a stream."""

    async def _work(self) -> None:
        try:
            ok, body = await self._outcome()
        except GeneratorExit:
            raise  # the loop was closed under us: there is nobody to tell
        except BaseException as error:
            # CancelledError without our stop is the function's own doing (or the loop's end): a failure like any other.
            if self._stopped and isinstance(error, asyncio.CancelledError):
                self._tell(self, Report.STOPPED, b"")
            else:
                self._tell(self, Report.FAILED, self._outcomes.failed(self.job, error))
            return
        self._tell(self, Report.OK if ok else Report.FAILED, body)

    async def _outcome(self) -> tuple[bool, Body]:
        function, values = self.job.function, await self._decoded()
        self._started = True
        value: Any = await function.call(values, self._context)
        return self._outcomes.result(self.job, encode(function.name, value))

    async def _decoded(self) -> tuple[Any, ...]:
        function, body = self.job.function, self.job.body
        if len(body) > LARGE_BYTES:
            return await self._pace.on_loop(function.decode_large(body))
        return function.decode(body)


class InlineCall(TaskCall):
    """An inline function with large arguments: others have their turn while they are read."""

    async def _outcome(self) -> tuple[bool, Body]:
        return self._outcomes.result(self.job, await self._pace.on_loop(self._steps()))

    def _steps(self) -> Steps[Body]:
        function = self.job.function
        values = yield from function.decode_large(self.job.body)
        yield
        self._started = True
        return (yield from encode_in_steps(function.name, function.call(values, self._context)))
