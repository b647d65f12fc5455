"""Runs the functions of one node.

Rules kept here:
- every started job is finished exactly once: by its result, its deadline, a cancel or the close, whichever comes first;
- ``start``, ``cancel``, ``grant``, ``handle_deadline`` and ``close`` belong to the event loop's thread and never wait for a
  function; ``finished`` and ``item`` are called on that thread;
- nothing runs after its deadline has passed: a job that comes late or waits too long is "never started", and that is true;
- what has started ends like this: async functions are cancelled, streams closed, processes killed; a function in a
  thread cannot be stopped: its context says so, its late result is dropped and counted;
- the runner holds at most LIVE_FACTOR times ``slots`` jobs, ``slots`` threads and ``processes`` processes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from zcluster.dapi.executors import DaemonThreads, Inbox, InlineCall, Report, TaskCall, ThreadCall
from zcluster.dapi.function import Function
from zcluster.dapi.jobs import AnyJob, Body, Call, JobTable
from zcluster.dapi.loader import absolute_modules
from zcluster.dapi.outcome import Outcomes
from zcluster.dapi.processes import ProcessCall, Processes
from zcluster.dapi.steps import Pace
from zcluster.dapi.streams import TaskStream, ThreadStream
from zcluster.dapi.weight import LARGE_BYTES
from zcluster.errors import Busy, Draining, NodeLost, NoSuchFunction, TimedOut, ZClusterError

LIVE_FACTOR = 2
"""Jobs in flight for each slot: as many again may wait for a thread, which happens when stuck ones hold theirs."""

BUSY_RETRY_S = 0.1


class Runner:
    """Runs jobs. Make it on the event loop's thread.

    Args:
        node: this node's name.
        functions: what :meth:`find` finds.
        slots: how many functions run in threads at once.
        processes: how many processes ``pool="process"`` has.
        modules: what these processes load: the modules that the node's own functions come from.
        clock: seconds, monotonic; deadlines are on this clock.
        finished: ``finished(job_id, ok, body)``: ok with the result as JSON (empty for a stream), or not ok with an error.
        item: ``item(job_id, body)``: one item of a stream.
        logger: where tracebacks go, each with ``request_id``.
        entry_points: whether the processes load the installed entry points too.
        body_bytes: the largest result. item_bytes: the largest item of a stream.
        loop: default: the running loop.
    """

    def __init__(
        self,
        node: str,
        functions: Mapping[str, Function],
        *,
        slots: int,
        processes: int,
        modules: Sequence[str],
        clock: Callable[[], float],
        finished: Callable[[int, bool, Body], None],
        item: Callable[[int, Body], None],
        logger: logging.Logger,
        entry_points: bool = True,
        body_bytes: int = 64 * 1024 * 1024,
        item_bytes: int = 64 * 1024,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._functions = functions
        self._clock = clock
        self._finished = finished
        self._item = item
        self._loop = loop if loop is not None else asyncio.get_running_loop()
        self._limit = LIVE_FACTOR * slots
        self._table = JobTable()
        self._outcomes = Outcomes(node, logger, clock, body_bytes=body_bytes, item_bytes=item_bytes)
        self._pace = Pace(clock)
        self._inbox = Inbox(self._loop.call_soon_threadsafe, self._report)
        self._threads = DaemonThreads(slots)
        self._processes = Processes(
            processes,
            absolute_modules(modules),
            entry_points,
            node=node,
            outcomes=self._outcomes,
            inbox=self._inbox,
            clock=clock,
        )
        self._abandoned: set[Call] = set()
        self._late_results = 0
        self._stopping = False
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def in_flight(self) -> int:
        """Jobs started and not finished."""
        return len(self._table)

    @property
    def abandoned(self) -> int:
        """Functions still running although their job is finished (past the deadline, cancelled); they hold their thread."""
        return len(self._abandoned)

    @property
    def late_results(self) -> int:
        """Results dropped because their job was finished already."""
        return self._late_results

    def find(self, name: str) -> Function:
        """The function of this name; raises NoSuchFunction."""
        try:
            return self._functions[name]
        except KeyError:
            raise NoSuchFunction(f"this node has no function {name}", hint="see: zcluster dapi ls") from None

    def start(self, job: AnyJob) -> None:
        """Run ``job``; returns at once. A job that is refused is finished before it returns, and so is an inline function unless
        its arguments are large.

        Raises UsageError when a job with this id is in flight.
        """
        function = job.function
        now = self._clock()
        if now >= job.deadline_s or self._stopping or len(self._table) >= self._limit:
            refusal = self._refusal(job, now)
            if refusal is not None:
                self._finished(job.id, False, self._outcomes.refused(job, refusal))
                return
        deadline_s = job.deadline_s
        if function.timeout_s is not None and now + function.timeout_s < deadline_s:
            deadline_s = now + function.timeout_s
        if function.pool == "inline" and len(job.body) <= LARGE_BYTES:
            context = self._outcomes.context(job, deadline_s) if function.wants_context else None
            ok, body = self._outcomes.run(job, context)
            self._finished(job.id, ok, body)
            return
        self._launch(job, deadline_s)

    def cancel(self, job_id: int, reason: ZClusterError) -> None:
        """Finish a job with ``reason`` and stop it as far as its kind allows. Nothing happens when it is finished already."""
        call = self._table.get(job_id)
        if call is not None:
            self._end(call, lambda started: reason)

    def grant(self, job_id: int, items_upto: int) -> None:
        """Allow a stream to have sent ``items_upto`` items in total. Nothing happens when it is finished already."""
        call = self._table.get(job_id)
        if call is not None:
            call.grant(items_upto)

    def set_limits(self, *, body_bytes: int, item_bytes: int) -> None:
        """Take other limits, for what ends from now on."""
        self._outcomes.set_limits(body_bytes, item_bytes)

    def next_deadline(self) -> float | None:
        """When :meth:`handle_deadline` has to be called next, on the clock; None when nothing is in flight."""
        return self._table.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Finish the jobs whose deadline is at or before ``now`` with TimedOut, and stop them."""
        for call in self._table.expired(now):
            self._end(call, partial(_timed_out, call))

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new jobs from now on, and wait until those in flight are finished. False when they were not in time."""
        self._stopping = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Finish all jobs (NodeLost, or Draining for those that never started), stop what can be stopped.

        Returns within :data:`zcluster.dapi.processes.CLOSE_S`; threads that are stuck are left behind and do not keep the
        process from exiting.
        """
        self._stopping = True
        for call in self._table.all():
            self._end(call, partial(_node_stopped, call))
        self._threads.close()
        self._processes.close()

    def _refusal(self, job: AnyJob, now: float) -> ZClusterError | None:
        if job.deadline_s <= now:
            return TimedOut(
                f"{job.function.name} never started: its deadline had passed when it arrived",
                hint="give it a longer timeout, or look for the queue it waited in",
            )
        if self._stopping:
            return _draining(job)
        if len(self._table) >= self._limit and (job.function.pool != "inline" or len(job.body) > LARGE_BYTES):
            return Busy(
                f"{job.function.name} never started: {len(self._table)} calls are running or waiting on this node",
                hint="try again, or raise worker.slots",
                retry_after_s=BUSY_RETRY_S,
            )
        return None

    def _launch(self, job: AnyJob, deadline_s: float) -> None:
        kind, pool = job.function.kind, job.function.pool
        if kind == "async" or kind == "async_generator" or pool == "inline":
            make = TaskCall if kind == "async" else TaskStream if kind == "async_generator" else InlineCall
            task_call = make(job, deadline_s, self._outcomes, self._pace, self._report)
            self._enter(task_call)
            task_call.start(self._loop)
        elif kind == "generator":
            stream = ThreadStream(job, deadline_s, self._outcomes, self._pace, self._inbox)
            self._enter_thread(stream, stream.work)
        elif pool == "process":
            process_call = ProcessCall(job, deadline_s, self._processes)
            self._enter(process_call)
            self._processes.submit(process_call)
        else:
            thread_call = ThreadCall(job, deadline_s, self._outcomes, self._pace, self._inbox)
            self._enter_thread(thread_call, thread_call.work)

    def _enter_thread(self, call: Call, work: Callable[[], None]) -> None:
        self._enter(call)
        try:
            self._threads.submit(work)
        except (RuntimeError, MemoryError) as error:
            self._end(call, partial(_no_thread, call, error))

    def _enter(self, call: Call) -> None:
        self._table.add(call)
        self._empty.clear()

    def _end(self, call: Call, reason: Callable[[bool], ZClusterError]) -> None:
        """End a live call from our side: stop it, and finish its job with the reason for (whether it had started)."""
        if not self._take(call):
            return
        started = call.stop()
        if started:
            self._abandoned.add(call)
        self._finished(call.job.id, False, self._outcomes.refused(call.job, reason(started)))

    def _report(self, call: Call, report: Report, body: Body) -> None:
        """An executor says something of ``call``; on the loop's thread."""
        if report is Report.ITEM:
            if self._table.holds(call):
                self._item(call.job.id, body)
            return
        if isinstance(call, ProcessCall):
            self._processes.released(call)
        if self._take(call):
            self._finished(call.job.id, report is Report.OK, body)
            return
        self._abandoned.discard(call)
        if report is not Report.STOPPED:
            self._late_results += 1

    def _take(self, call: Call) -> bool:
        if not self._table.take(call):
            return False
        if not self._table:
            self._empty.set()
        return True


def _timed_out(call: Call, started: bool) -> TimedOut:
    name = call.job.function.name
    if not started:
        return TimedOut(
            f"{name} never started: its deadline passed while {_what_it_waited_for(call)}",
            hint="give it a longer timeout, smaller arguments, or more worker.slots or worker.processes",
        )
    own = call.deadline_s < call.job.deadline_s
    limit = f"its own limit of {call.job.function.timeout_s} s" if own else "its deadline"
    return TimedOut(
        f"{name} was past {limit}: started, outcome unknown",
        hint="raise timeout_s where the function is declared" if own else "give it a longer timeout",
    )


def _what_it_waited_for(call: Call) -> str:
    if call.job.function.pool != "process" and len(call.job.body) > LARGE_BYTES:
        return "its large arguments waited to be read"
    return "it waited for a free thread or process"


def _no_thread(call: Call, error: BaseException, started: bool) -> Busy:
    return Busy(
        f"{call.job.function.name} never started: this node has no thread for it: {error}",
        hint="try again; if it stays so, lower worker.slots or raise the limit of threads (ulimit -u, pids.max)",
        retry_after_s=BUSY_RETRY_S,
    )


def _node_stopped(call: Call, started: bool) -> ZClusterError:
    if not started:
        return _draining(call.job)
    return NodeLost(
        f"{call.job.function.name} was running when its node stopped: outcome unknown", hint="call it again if that does no harm"
    )


def _draining(job: AnyJob) -> Draining:
    return Draining(f"{job.function.name} never started: its node is stopping", hint="call it again: another node will take it")
