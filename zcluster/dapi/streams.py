"""Generators: their items go to the caller one by one, against credit that the caller grants.

Rules kept here:
- items sent never exceed the credit; the generator runs at most one item ahead of it, so that its end is known, and
  told, without waiting for credit that nobody needs to grant any more;
- credit only grows: a late, smaller grant changes nothing;
- a plain generator stays in one thread from its first line to its last (what it opened may belong to that thread);
- a stopped generator is closed, so that its ``finally`` blocks run; where: in its own thread or task.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

from zcluster.dapi.context import Context
from zcluster.dapi.executors import Inbox, Report, TaskCall, Tell, claimed_arguments
from zcluster.dapi.jobs import INITIAL_CREDIT_ITEMS, AnyJob, Body
from zcluster.dapi.outcome import Outcomes
from zcluster.dapi.steps import Pace


class ThreadStream:
    """A plain generator, driven from a thread."""

    def __init__(self, job: AnyJob, deadline_s: float, outcomes: Outcomes, pace: Pace, inbox: Inbox) -> None:
        self.job = job
        self.deadline_s = deadline_s
        self._outcomes = outcomes
        self._pace = pace
        self._inbox = inbox
        self._claim = threading.Lock()
        self._changed = threading.Event()
        self._credit_items = INITIAL_CREDIT_ITEMS
        self._sent_items = 0
        self._stopped = False
        self._context: Context | None = outcomes.context(job, deadline_s) if job.function.wants_context else None

    def work(self) -> None:
        """Run it to its end; in the thread."""
        try:
            values = claimed_arguments(self.job, self._claim, self._pace)
            if values is None:
                return
            report, body = self._drive(values)
        except BaseException as error:
            report, body = Report.FAILED, self._outcomes.failed(self.job, error)
        self._inbox.post(self, report, body)

    def stop(self) -> bool:
        """Close the generator when it comes to its next item, or now when it waits for credit."""
        started = not self._claim.acquire(blocking=False)
        if self._context is not None:
            self._context.mark_cancelled()
        self._stopped = True
        self._changed.set()
        return started

    def grant(self, items_upto: int) -> None:
        """Allow ``items_upto`` items in total."""
        if items_upto > self._credit_items:
            self._credit_items = items_upto
            self._changed.set()

    def _drive(self, values: tuple[Any, ...]) -> tuple[Report, bytes]:
        with contextlib.closing(self.job.function.call(values, self._context)) as items:
            for value in items:
                ok, body = self._outcomes.item(self.job, value)
                if not ok:
                    return Report.FAILED, body
                if not self._wait_for_credit():
                    return Report.STOPPED, b""
                self._sent_items += 1
                self._inbox.post(self, Report.ITEM, body)
        return Report.OK, b""

    def _wait_for_credit(self) -> bool:
        """Wait until one more item may leave; False when it never may."""
        while not self._stopped and self._sent_items >= self._credit_items:
            # stop() and grant() change their value first and set the event second: after the clear we see the value.
            self._changed.wait()
            self._changed.clear()
        return not self._stopped


class TaskStream(TaskCall):
    """An async generator, driven from a task."""

    def __init__(self, job: AnyJob, deadline_s: float, outcomes: Outcomes, pace: Pace, tell: Tell) -> None:
        super().__init__(job, deadline_s, outcomes, pace, tell)
        self._changed = asyncio.Event()
        self._credit_items = INITIAL_CREDIT_ITEMS
        self._sent_items = 0

    def grant(self, items_upto: int) -> None:
        """Allow ``items_upto`` items in total."""
        if items_upto > self._credit_items:
            self._credit_items = items_upto
            self._changed.set()

    async def _outcome(self) -> tuple[bool, Body]:
        values = await self._decoded()
        self._started = True
        async with contextlib.aclosing(self.job.function.call(values, self._context)) as items:
            async for value in items:
                ok, body = self._outcomes.item(self.job, value)
                if not ok:
                    return False, body
                while self._sent_items >= self._credit_items:
                    self._changed.clear()
                    await self._changed.wait()
                self._sent_items += 1
                self._tell(self, Report.ITEM, body)
                # A generator that never awaits must not hold the loop for as long as it has credit.
                await asyncio.sleep(0)
        return True, b""
