"""Calls in processes of their own: for work that holds the interpreter, leaks, or must be killed at its deadline.

Rules kept here:
- at most ``processes`` processes, made at first use (spawned) and kept; a call beyond that waits here, in order, so that
  "never started" is known and not guessed;
- a process is started and killed in a thread, for both take longer than the loop may stand still;
- a call that is stopped takes its process with it; a process that dies takes its call with it; no other call notices.

Each process is a pebble pool of one. A pool of several shares one pipe and one lock among its processes, and is broken
as a whole when an idle one of them is killed; and after a cancel it could take the next call for the cancelled one. A
pool of one is thrown away and made anew after anything unusual, and only the call that it ran is concerned.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TYPE_CHECKING

from zcluster.dapi import child
from zcluster.dapi.executors import Inbox, Report
from zcluster.dapi.jobs import AnyJob
from zcluster.dapi.outcome import Outcomes
from zcluster.errors import FunctionFailed

if TYPE_CHECKING:
    from pebble import ProcessPool

CLOSE_S = 2.0
"""How long close() waits for killed processes to be gone."""

CANNOT_START = (OSError, RuntimeError, MemoryError, ImportError)
"""What starting a process or a thread raises when the system has no room for one."""

_Answer = tuple[bool, bytes, str]


class ProcessCall:
    """A plain function in a process."""

    __slots__ = ("_executor", "deadline_s", "job", "slot", "started", "stopped")

    def __init__(self, job: AnyJob, deadline_s: float, executor: Processes) -> None:
        self.job = job
        self.deadline_s = deadline_s
        self._executor = executor
        self.slot: _Slot | None = None
        self.started = False
        self.stopped = False

    def stop(self) -> bool:
        """Kill its process."""
        self.stopped = True
        self._executor.withdraw(self)
        return self.started

    def grant(self, items_upto: int) -> None:
        """Not a stream."""


class _Process:
    """One process: being started, running, or dead. It is used for one call at a time.

    ``settled`` is set when its start is over, well or not; ``pool`` is None when there is nothing to kill.
    """

    __slots__ = ("pool", "settled")

    def __init__(self) -> None:
        self.pool: ProcessPool | None = None
        self.settled = threading.Event()

    @property
    def alive(self) -> bool:
        """Whether it can take a call. Asked when it has none."""
        return self.pool is not None and self.pool.active

    def start(self, modules: Sequence[str], entry_points: bool, order: child.Order) -> Future[_Answer]:
        """Start it, with ``order`` as its first call; in a thread. Raises one of CANNOT_START when that is not possible."""
        try:
            self.pool = _new_pool(modules, entry_points)
            return self.run(order)
        except CANNOT_START:
            if self.pool is not None:
                _stop(self.pool)  # it may have opened pipes
                self.pool = None
            raise
        finally:
            self.settled.set()

    def run(self, order: child.Order) -> Future[_Answer]:
        """Have it run ``order``."""
        assert self.pool is not None
        future: Future[_Answer] = self.pool.schedule(child.run, args=(order,))
        return future

    def kill(self) -> None:
        """Kill it, when it has been started; in a thread."""
        self.settled.wait()
        if self.pool is not None:
            _stop(self.pool)


class _Slot:
    """A place for one process; None when there is none yet."""

    __slots__ = ("process",)

    def __init__(self) -> None:
        self.process: _Process | None = None


class Processes:
    """The processes of one runner. All methods belong to the loop's thread.

    Args:
        processes: how many at once.
        modules: what the processes load, see :func:`zcluster.dapi.loader.load_functions`.
        entry_points: whether they load the installed entry points too.
        node: this node's name.
        outcomes: makes the bodies.
        inbox: takes the reports.
        clock: the runner's clock, seconds.
    """

    def __init__(
        self,
        processes: int,
        modules: Sequence[str],
        entry_points: bool,
        *,
        node: str,
        outcomes: Outcomes,
        inbox: Inbox,
        clock: Callable[[], float],
    ) -> None:
        self._modules = tuple(modules)
        self._entry_points = entry_points
        self._node = node
        self._outcomes = outcomes
        self._inbox = inbox
        self._clock = clock
        self._slots = [_Slot() for _ in range(processes)]
        self._idle = list(self._slots)
        self._waiting: deque[ProcessCall] = deque()
        self._killers: list[threading.Thread] = []
        self._closed = False

    def submit(self, call: ProcessCall) -> None:
        """Run ``call`` when a process is free."""
        self._waiting.append(call)
        self._advance()

    def released(self, call: ProcessCall) -> None:
        """The end of ``call`` was reported: its process is free for the next."""
        if call.slot is not None:
            self._idle.append(call.slot)
            call.slot = None
        self._advance()

    def withdraw(self, call: ProcessCall) -> None:
        """Forget a call that waits, kill the process of one that runs."""
        if not call.started:
            self._waiting.remove(call)
        elif call.slot is not None:
            # Free for the next call only when it is gone: never more processes than allowed.
            self._discard(call.slot, partial(self._inbox.post, call, Report.STOPPED))

    def close(self) -> None:
        """Kill all processes; returns when they are gone, after at most CLOSE_S."""
        self._closed = True
        self._waiting.clear()
        until_s = time.monotonic() + CLOSE_S
        for slot in self._slots:
            self._discard(slot)
        for killer in self._killers:
            killer.join(max(0.0, until_s - time.monotonic()))

    def _advance(self) -> None:
        while self._waiting and self._idle and not self._closed:
            call = self._waiting.popleft()
            call.slot = self._idle.pop()
            call.started = True
            try:
                self._run(call.slot, call)
            except CANNOT_START as error:
                self._discard(call.slot)
                self._not_started(call, error)

    def _run(self, slot: _Slot, call: ProcessCall) -> None:
        order = self._order(call)
        if slot.process is not None and not slot.process.alive:  # it died while it had nothing to do
            self._discard(slot)
        if slot.process is not None:
            slot.process.run(order).add_done_callback(partial(self._done, call))
            return
        process = _Process()
        args = (process, call, order)
        threading.Thread(target=self._start, args=args, name="zcluster-spawn", daemon=True).start()
        slot.process = process  # only now: there is nothing to kill when there is no thread to start it

    def _start(self, process: _Process, call: ProcessCall, order: child.Order) -> None:
        # In a thread of its own. A stopped call is reported by its killer, which waits for the start to be over.
        try:
            future = process.start(self._modules, self._entry_points, order)
        except CANNOT_START as error:
            if not call.stopped:
                self._not_started(call, error)
            return
        future.add_done_callback(partial(self._done, call))

    def _order(self, call: ProcessCall) -> child.Order:
        job = call.job
        return child.Order(
            name=job.function.name,
            body=job.body,
            caller=job.caller,
            role=job.role,
            node=self._node,
            request_id=job.request_id,
            remaining_s=call.deadline_s - self._clock(),
            mark=job.mark,
            held=job.held,
        )

    def _discard(self, slot: _Slot, gone: Callable[[], None] | None = None) -> None:
        """Take the process out of ``slot`` and kill it in a thread, for that takes a while; ``gone`` is called there."""
        process, slot.process = slot.process, None
        if process is None:
            return
        self._killers = [killer for killer in self._killers if killer.is_alive()]
        killer = threading.Thread(target=_kill, args=(process, gone), name="zcluster-kill", daemon=True)
        try:
            killer.start()
        except RuntimeError:
            _kill(process, gone)  # no thread is to be had: the loop stands still rather than leave a process behind
        else:
            self._killers.append(killer)

    def _done(self, call: ProcessCall, future: Future[_Answer]) -> None:
        # In a thread of pebble's. A stopped call is reported by its killer.
        if call.stopped:
            return
        error = future.exception()
        if error is not None:
            self._fail(call, _death(error))
            return
        ok, said, traceback = future.result()
        if ok:
            ok, body = self._outcomes.result(call.job, said)
        else:
            body = self._outcomes.failed_elsewhere(call.job, said, traceback)
        self._inbox.post(call, Report.OK if ok else Report.FAILED, body)

    def _not_started(self, call: ProcessCall, error: BaseException) -> None:
        self._fail(call, f"no process could be started for it: {error}")

    def _fail(self, call: ProcessCall, message: str) -> None:
        error = FunctionFailed(message, hint="the other calls and the node go on; look for memory or a crash in C code")
        self._inbox.post(call, Report.FAILED, self._outcomes.refused(call.job, error))


def _new_pool(modules: Sequence[str], entry_points: bool) -> ProcessPool:
    # Imported at first use: a node that runs no such function does not pay for it in memory or start-up time.
    from pebble import ProcessPool

    return ProcessPool(
        max_workers=1,
        initializer=child.start,
        initargs=(modules, entry_points),
        context=multiprocessing.get_context("spawn"),
    )


def _stop(pool: ProcessPool) -> None:
    # SIGTERM first, which ends the process at once (see child.start); SIGKILL after 3 s if the function ignores it.
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()


def _kill(process: _Process, gone: Callable[[], None] | None) -> None:
    process.kill()
    if gone is not None:
        gone()


def _death(error: BaseException) -> str:
    """What to tell of a call whose process is gone."""
    code = getattr(error, "exitcode", None)
    if isinstance(code, int) and code < 0:
        return f"the process running it died (signal {-code})"
    if isinstance(code, int):
        return f"the process running it died (exit code {code})"
    if isinstance(error, BrokenProcessPool):
        return "the process running it died"
    return f"the process running it could not answer: {type(error).__name__}: {error}"
