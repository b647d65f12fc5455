"""Durable jobs from Python: ``AsyncClient.submit`` and ``AsyncClient.job``.

    async with zcluster.AsyncClient() as c:
        job = await c.submit("report.build", {"day": "2026-11-19"}, idempotency_key="report-2026-11-19")
        await job.result(timeout=60)                    # the value, or raises the function's error
        await c.job(job.id).result()                    # from another process, after any restart

Rules kept here:
- a job is submitted when the master has it on disk, not before; what ends here by a timeout or a cancelled task goes on there;
- an AsyncJob is the id of a job and nothing else: all that is known of the job is asked for;
- a target that may mean several nodes is a fan-out: one job with a part, and a result, for each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from typing import Any, Protocol

import orjson

from zcluster.clients.checks import (
    check_priority,
    checked_seconds,
    checked_target,
    checked_text,
    checked_timeout,
    not_json,
    refuse_not_finite,
)
from zcluster.clients.link import ClientLink
from zcluster.clients.result import Result
from zcluster.core.calls import decode_error
from zcluster.core.following import Wait
from zcluster.core.queue.job import FINAL, WORDS, State
from zcluster.core.queue.jobid import job_id, split_job_id
from zcluster.core.submitting import Terms
from zcluster.core.targets import is_single
from zcluster.errors import TimedOut, UsageError, ZClusterError, error_from_dict
from zcluster.wire.jobs import JobFlag

Row = dict[str, Any]
LOOK_FIRST_S = 0.05
LOOK_MAX_S = 1.0
"""A fan-out is looked at again after pauses that grow from the one to the other while nothing ends."""
PARTS_PER_PAGE = 100
LARGE_S = 1.0
"""A large value may take as long, however late it is."""
MAX_RETRIES = 100
NULL = b"null"


class JobCaller(Protocol):
    """What makes the calls: an AsyncClient."""

    async def call(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None,
        priority: int = 5, idempotent: bool | None = None,
    ) -> Any: ...  # fmt: skip

    def open_link(self) -> ClientLink: ...
    @property
    def timeout_s(self) -> float: ...


class AsyncJob:
    """A durable job of the cluster. Every method raises what any call may raise (docs/reference/errors.md), and NoSuchJob.

    Attributes:
        known: it was there already when it was submitted (the same idempotency key).
    """

    __slots__ = ("_client", "_fan_out", "_number", "_store", "known")

    def __init__(self, client: JobCaller, store: str, number: int, known: bool = False, fan_out: bool | None = None) -> None:
        self._client = client
        self._store, self._number = store, number
        self._fan_out = fan_out
        self.known = known

    @property
    def id(self) -> str:
        """``STORE-NUMBER``: with it, any process of the same key finds the job again until its retention ends."""
        return job_id(self._store, self._number)

    def __repr__(self) -> str:
        return f"<job {self.id}>"

    async def state(self, *, timeout: float | None = None) -> str:
        """Its state now: queued, leased, running, done, failed, cancelled, expired or dead."""
        found: str = await self._master("state", timeout)
        return found

    async def info(self, *, timeout: float | None = None) -> Row:
        """All that is known of it: id, function, target, state, node, attempt, failures, deaths, priority, caller, accepted_s,
        at_s, due_in_s, expires_in_s, retries, timeout_s, retention_s, idempotency_key, sequence, blocked, size, result_bytes,
        args (secrets redacted; None when they are large), error, parent, parts, parts_left, and steps: [{"state", "at_s", "node",
        "attempt", "error"}]."""
        found: Row = await self._master("show", timeout)
        return found

    async def wait(self, timeout: float | None = None) -> str:
        """Wait until it has ended; returns the state in which it did.

        Raises:
            TimedOut: it had not ended after ``timeout`` seconds (default: the client's). It goes on.
        """
        return (await self._end(timeout)).word

    async def result(self, timeout: float | None = None) -> Any:
        """Wait until it has ended; returns the function's value, or raises how it failed.

        Of a fan-out: a list of :class:`Result`, one for each node, by its name; how a node failed is in its ``error``.

        Raises:
            TimedOut: it had not ended after ``timeout`` seconds (default: the client's). It goes on.
            JobDead, JobExpired, Cancelled: it ended so.
            ZClusterError: any other error is the function's, with the node where it was raised.
        """
        wait = await self._end(timeout)
        # A fan-out itself never runs, so it has no attempts.
        if self._fan_out is not False and not wait.attempt and (self._fan_out or await self._has_parts()):
            return sorted([each async for each in self.outcomes()], key=lambda each: each.node)
        if wait.state == State.DONE and not wait.large:
            return orjson.loads(wait.body) if wait.body else None
        return await self._told(wait)

    async def outcomes(self, *, timeout: float | None = None) -> AsyncIterator[Result]:
        """Of a fan-out: a :class:`Result` for each node as it ends; it ends when all have. Of any other job: its one.

        Raises:
            TimedOut: not all had ended after ``timeout`` seconds (default: it waits as long as it is iterated).
        """
        time = self._client.open_link().time
        deadline_s = None if timeout is None else time() + checked_timeout(timeout)
        info = await self.info()
        accepted_s, pause_s = float(info["accepted_s"]), LOOK_FIRST_S
        if not info["parts"]:
            yield await self._only(deadline_s, accepted_s)
            return
        told: set[str] = set()
        after = ""
        while True:
            before, left = len(told), 0
            at = after
            while True:
                page = await self._client.call(
                    "queue.outcomes", {"id": self.id, "after": at, "limit": PARTS_PER_PAGE}, target="master"
                )
                for item in page["items"]:
                    if WORDS[item["state"]] < FINAL:
                        left += 1
                    elif item["id"] not in told:
                        told.add(item["id"])
                        yield _result(item, accepted_s)
                    if not left:
                        after = item["id"]  # all up to here have ended: they are not looked at again
                if (at := page["next"] or "") == "":
                    break
            if not left:
                return
            if deadline_s is not None and time() >= deadline_s:
                raise TimedOut(f"{left} parts of job {self.id} have not ended in {timeout:g} s; they go on")
            pause_s = LOOK_FIRST_S if len(told) > before else min(pause_s * 1.5, LOOK_MAX_S)
            await asyncio.sleep(pause_s)

    async def cancel(self, *, timeout: float | None = None) -> None:
        """End it as ``cancelled``, where it is; of a fan-out, all parts that have not ended.

        Raises what speaks against it: it is not there, or it has ended already.
        """
        answer = await self._client.call("queue.cancel", {"ids": [self.id]}, target="master", timeout=timeout)
        for refusal in answer["refused"]:
            raise error_from_dict(refusal)

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _end(self, timeout: float | None) -> Wait:
        client = self._client
        link = client.open_link()
        timeout_s = client.timeout_s if timeout is None else checked_timeout(timeout)
        wait = link.following.follow(self._store, self._number, link.time(), timeout_s)
        wait.sink = future = link.loop.create_future()
        link.submit_job()
        try:
            await future
        except asyncio.CancelledError:
            link.following.leave(wait)
            link.wake()
            raise
        return wait

    async def _has_parts(self) -> bool:
        self._fan_out = bool((await self.info())["parts"])
        return self._fan_out

    async def _only(self, deadline_s: float | None, accepted_s: float) -> Result:
        """The one result of a job that is no fan-out."""
        client = self._client
        while True:
            left_s = client.timeout_s if deadline_s is None else max(deadline_s - client.open_link().time(), 0.001)
            try:
                wait = await self._end(min(left_s, client.timeout_s))
                break
            except TimedOut:
                if deadline_s is not None and client.open_link().time() >= deadline_s:
                    raise
        ended_s = float((await self.info())["steps"][-1]["at_s"])
        elapsed_s = max(ended_s - accepted_s, 0.0)
        try:
            return Result(wait.node, True, await self._told(wait), None, elapsed_s)
        except ZClusterError as error:
            if wait.state == State.DONE:
                raise
            return Result(wait.node, False, None, error, elapsed_s)

    async def _told(self, wait: Wait) -> Any:
        """What is known of the end of a job: its value, or raises its error."""
        if wait.large:
            left_s = wait.deadline_s - self._client.open_link().time()
            return await self._master("result", max(left_s, LARGE_S))
        if wait.state != State.DONE:
            raise decode_error(wait.body, wait.node)
        return orjson.loads(wait.body) if wait.body else None

    async def _master(self, name: str, timeout: float | None) -> Any:
        return await self._client.call(f"queue.{name}", {"id": self.id}, target="master", timeout=timeout)


def _result(item: Mapping[str, Any], accepted_s: float) -> Result:
    """One part of a fan-out."""
    node, elapsed_s = str(item["node"]), max(float(item["ended_s"]) - accepted_s, 0.0)
    if WORDS[item["state"]] == State.DONE and item["error"] is None:
        return Result(node, True, item["value"], None, elapsed_s)
    return Result(node, False, None, error_from_dict({"node": node, **(item["error"] or {})}), elapsed_s)


class JobCalls:
    """What of AsyncClient makes jobs; the client that inherits it makes the calls."""

    async def submit(
        self: JobCaller, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", priority: int = 5,
        delay_s: float = 0.0, at_s: float | None = None, expires_s: float | None = None, retries: int = 3,
        attempt_timeout_s: float | None = None, retention_s: float | None = None, sequence: str = "", idempotency_key: str = "",
        timeout: float | None = None,
    ) -> AsyncJob:  # fmt: skip
        """Submit a durable job; when this returns, the master has it on disk, and it will be run at least once.

        Args:
            function: its name. args: its arguments by name; JSON values.
            target: as of :meth:`call`; what may mean several nodes (``all``, a glob, a list, ``group:G``) is a fan-out: one job
                with a part for each node.
            priority: 0 to 9; 9 runs first.
            delay_s: not before so many seconds have passed. at_s: not before this time (seconds since 1970).
            expires_s: it ends as ``expired`` when it still waits so many seconds after it was accepted, or after its delay.
            retries: how many attempts may fail before it is dead.
            attempt_timeout_s: the deadline of each attempt. retention_s: how long its outcome is kept.
            sequence: jobs of one sequence run one at a time, in the order of their acceptance.
            idempotency_key: the same key and function give the same job, as long as that is kept.
            timeout: how long to wait until the master has it, in seconds; default: the client's.

        Raises:
            KeyConflict: the idempotency key belongs to a job with other arguments or another target.
            Busy: the queue is full. Draining: it takes no jobs. StoreFailed: the master's disk is full or broken.
            TimedOut, MasterLost: whether it was accepted is unknown; with an idempotency key it can be submitted again.
            ZClusterError: any other error of zcluster.errors.
        """
        link = self.open_link()
        if type(function) is not str or type(target) is not str:
            function = checked_text("function", function, "the function's name, such as 'node.info'")
            target = checked_target(target)
        if (
            priority == 5 and not delay_s and at_s is None and expires_s is None and retries == 3
            and attempt_timeout_s is None and retention_s is None and not sequence
        ):  # fmt: skip
            terms = _plain(function, target)
        else:
            terms = _terms(
                function, target, priority, delay_s, at_s, expires_s, retries, attempt_timeout_s, retention_s, sequence
            )
        body = _encoded(function, args) if args else b""
        if type(idempotency_key) is not str:
            idempotency_key = checked_text("idempotency_key", idempotency_key)
        timeout_s = self.timeout_s if timeout is None else checked_timeout(timeout)
        submitting = link.submitting
        if len(body) > submitting.inline_bytes:
            return await _submit_large(self, terms, args, idempotency_key, timeout_s)
        submission = submitting.submit(terms, body, idempotency_key, link.time(), timeout_s)
        submission.sink = future = link.loop.create_future()
        link.submit_job()
        try:
            await future
        except asyncio.CancelledError:
            submitting.abandon(submission)
            raise
        return AsyncJob(self, submission.store, submission.number, submission.known, bool(terms.flags))

    def job(self: JobCaller, id: str) -> AsyncJob:
        """The job of this id, whoever submitted it; nothing is asked for yet. Raises UsageError when it is no id of a job."""
        return AsyncJob(self, *split_job_id(checked_text("id", id)))


def _encoded(function: str, args: Any) -> bytes:
    try:
        body = orjson.dumps(args)
    except (orjson.JSONEncodeError, TypeError) as error:
        raise not_json(function, error) from None
    if NULL in body:
        refuse_not_finite(function, args)
    return body


async def _submit_large(client: JobCaller, terms: Terms, args: Any, key: str, timeout_s: float) -> AsyncJob:
    """Arguments that are too large for a submission go the way of those of a request."""
    asked = {
        "function": terms.function, "args": args, "target": terms.target, "fan_out": bool(terms.flags),
        "priority": terms.priority, "delay_s": terms.delay_ms / 1000, "at_s": terms.at_ms / 1000,
        "expires_s": terms.expires_ms / 1000, "retries": terms.retries, "timeout_s": terms.timeout_ms / 1000,
        "retention_s": terms.retention_ms / 1000, "sequence": terms.sequence, "key": key,
    }  # fmt: skip
    answer = await client.call("queue.submit", asked, target="master", timeout=timeout_s, idempotent=True if key else None)
    return AsyncJob(client, *split_job_id(answer["id"]), bool(answer["known"]), bool(terms.flags))


@lru_cache(maxsize=64)
def _plain(function: str, target: str) -> Terms:
    """What is asked for when nothing but these is said: most submissions are like the one before."""
    return Terms(function, target, flags=0 if is_single(target) else JobFlag.FAN_OUT)


def _terms(
    function: str, target: str, priority: int, delay_s: float, at_s: float | None, expires_s: float | None,
    retries: int, attempt_timeout_s: float | None, retention_s: float | None, sequence: str,
) -> Terms:  # fmt: skip
    """What is asked for, checked."""
    check_priority(priority)
    if not isinstance(retries, int) or isinstance(retries, bool) or not 0 <= retries <= MAX_RETRIES:
        raise UsageError(f"retries is an integer from 0 to {MAX_RETRIES}, not {str(retries)[:40]!r}")
    return Terms(
        function, target, priority, _plain(function, target).flags,
        delay_ms=_ms("delay_s", delay_s), at_ms=_ms("at_s", at_s), expires_ms=_ms("expires_s", expires_s, positive=True),
        retries=retries, timeout_ms=_ms("attempt_timeout_s", attempt_timeout_s, positive=True),
        retention_ms=_ms("retention_s", retention_s, positive=True), sequence=checked_text("sequence", sequence),
    )  # fmt: skip


def _ms(parameter: str, value: float | None, *, positive: bool = False) -> int:
    """Seconds as the wire has them; 0 stands for None there, so what has to be more than that stays so."""
    if value is None:
        return 0
    ms = round(checked_seconds(parameter, value, positive=positive) * 1000)
    return max(ms, 1) if positive else ms
