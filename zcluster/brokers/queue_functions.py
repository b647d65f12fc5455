"""The functions ``queue.*`` of a master: what people and programs ask of its queue of jobs.

Rules kept here:
- a client sees and changes its own jobs, an administrator's key all; a job of another looks like one that there is not;
- arguments are shown as in the audit log: nothing that a function declares secret, and nothing that is not known to be none;
- what changes a job is answered when the change is on disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any

import msgspec
import orjson

from zcluster.brokers.queue import MasterQueue
from zcluster.brokers.queueordering import Ordering
from zcluster.brokers.queuevalues import error_of, values_of
from zcluster.brokers.queueviews import Views
from zcluster.config import Loaded, nearest
from zcluster.core.peers import Event, Identity
from zcluster.core.queue.admission import Ask
from zcluster.core.queue.job import WORDS, Job, State
from zcluster.core.queue.jobid import split_job_id
from zcluster.core.queue.orders import Op
from zcluster.core.rights import least
from zcluster.dapi.context import Context
from zcluster.dapi.function import Function, function
from zcluster.errors import Conflict, NoSuchJob, NotAllowed, PeerError, StoreFailed, UsageError, ZClusterError
from zcluster.store.jobs import MAX_PAGE, Query

MAX_IDS = 1000
MAX_PAUSED = 1000
PAGE_BYTES = 1024 * 1024
"""A page of outcomes ends with the part whose value makes it larger."""
FIRST_PARTS = 8
"""Parts that are read first for such a page."""
Id = Annotated[str, msgspec.Meta(max_length=64)]
Ids = Annotated[list[Id], msgspec.Meta(min_length=1, max_length=MAX_IDS)]
Word = Annotated[str, msgspec.Meta(max_length=128)]
TargetText = Annotated[str, msgspec.Meta(max_length=8192)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Page = dict[str, Any]


class QueuePart:
    """The part of a master that keeps jobs, and what it answers about them."""

    def __init__(self, queue: MasterQueue, views: Views) -> None:
        self._queue, self._views = queue, views

    async def start(self) -> None:
        """Open the store, and go on where it ended."""
        await self._queue.start()

    def apply(self, loaded: Loaded) -> None:
        """Take the settings ``queue.*``."""
        self._queue.apply(loaded)

    async def close(self) -> None:
        """Commit what has ended, and close the store."""
        await self._queue.close()

    def functions(self) -> dict[str, Function]:
        """All of them by name."""
        calls = (*self._submitting(), *self._one(), *self._many(), *self._changing(), *self._running())
        made = [Function(call, own_errors=True) for call in calls]
        return {each.name: each for each in made}

    def _submitting(self) -> list[Callable[..., Any]]:
        @function("queue.submit", timeout_s=3600)
        async def submit(
            function: Word, context: Context, args: dict[str, Any] | None = None, target: TargetText = "any",
            fan_out: bool = False, priority: int = 5, delay_s: Seconds = 0.0, at_s: Seconds = 0.0, expires_s: Seconds = 0.0,
            retries: int = 3, timeout_s: Seconds = 0.0, retention_s: Seconds = 0.0, sequence: Word = "",
            key: Annotated[str, msgspec.Meta(max_length=256)] = "",
        ) -> dict[str, Any]:  # fmt: skip
            """Accept a job: it is on disk when this answers. ``key`` is its idempotency key; ``known`` says whether there was a
            job with it already."""
            ask = Ask(
                function, target, fan_out, priority, delay_s, at_s, expires_s, retries, timeout_s, retention_s, sequence
            )  # fmt: skip
            identity = self._who(context)
            job, before = await self._queue.submit(identity, ask, orjson.dumps(args) if args else b"", key)
            return {"id": self._views.id(job), "state": job.state.word, "known": before}

        return [submit]

    def _one(self) -> list[Callable[..., Any]]:
        @function("queue.state", idempotent=True)
        async def state(id: Id, context: Context) -> str:
            """The state of a job."""
            job = await self._job(id, context)
            return self._views.state(job, self._views.begun([job])).word

        @function("queue.show", idempotent=True)
        async def show(id: Id, context: Context) -> dict[str, Any]:
            """All that is known of a job but its value."""
            job = await self._job(id, context)
            (row,) = self._views.rows([job])
            return {**row, **self._views.more(job)}

        @function("queue.result", idempotent=True)
        async def result(id: Id, context: Context) -> Any:
            """The value of a job that is done; the error of one that ended otherwise."""
            job = await self._job(id, context)
            if not job.final:
                raise UsageError(f"the job has not ended, it is {job.state.word}", hint="wait for it: result(timeout=...)")
            if job.state != State.DONE and not job.parts:
                raise await error_of(job.result or b"{}")
            (value,) = await values_of([job.result])
            if isinstance(value, PeerError):
                raise value
            return value

        @function("queue.outcomes", idempotent=True)
        async def outcomes(id: Id, context: Context, after: Id = "", limit: Limit = 100) -> Page:
            """The parts of a fan-out with their values and errors, those too that have not ended. A page ends with the part that
            makes its values larger than a MiB."""
            job = await self._job(id, context)
            parts = await self._parts(job, self._number(after) if after else 0, limit)
            last = parts[-1].number if parts else 0
            more = bool(parts) and last < job.number + job.parts
            return {"items": await self._views.outcomes(parts), "next": self._views.id_of(last) if more else None}

        return [state, show, result, outcomes]

    def _many(self) -> list[Callable[..., Any]]:
        @function("queue.list", idempotent=True)
        async def list_(
            context: Context, state: Word = "", target: TargetText = "", function: Word = "", limit: Limit = 100, before: Id = ""
        ) -> Page:
            """Jobs, the newest first; of fan-outs the whole."""
            who = self._who(context)
            query = Query(
                states=_states(state), target=target, function=function, key="" if who.role == "admin" else who.key,
                before=self._number(before) if before else 0, limit=limit,
            )  # fmt: skip
            page = await self._queue.store.list(query)
            return {
                "items": self._views.rows([self._queue.queue.live.get(job.number, job) for job in page.jobs]),
                "next": self._views.id_of(page.next) if page.next else None,
            }

        @function("queue.stats", idempotent=True)
        async def stats(context: Context) -> dict[str, Any]:
            """How many jobs there are, where they wait, and how fast they go."""
            return await self._views.stats(self._who(context).role == "admin")

        @function("queue.watch")
        async def watch(context: Context, state: Word = "", function: Word = "") -> AsyncIterator[dict[str, Any]]:
            """Each transition of a job, from now on."""
            who, states = self._who(context), _states(state)
            rows = self._queue.watchers.watch(who.key, who.role == "admin", states[0] if states else None, function)
            async for row in rows:
                yield row

        return [list_, stats, watch]

    def _changing(self) -> list[Callable[..., Any]]:
        @function("queue.cancel")
        async def cancel(ids: Ids, context: Context) -> dict[str, Any]:
            """Cancel jobs that have not ended; of a fan-out the parts that have not."""
            return await self._order("cancel", ids, context)

        @function("queue.retry")
        async def retry(ids: Ids, context: Context) -> dict[str, Any]:
            """Put jobs back that failed, died, expired or were cancelled; of a fan-out the parts that are not done."""
            return await self._order("retry", ids, context)

        @function("queue.drop")
        async def drop(ids: Ids, context: Context) -> dict[str, Any]:
            """Delete jobs that have ended, with their outcomes."""
            return await self._order("drop", ids, context)

        return [cancel, retry, drop]

    def _running(self) -> list[Callable[..., Any]]:
        @function("queue.pause", role="admin")
        async def pause(target: TargetText) -> dict[str, Any]:
            """Give no job to these nodes (a name, a glob, ``all``) until they are resumed."""
            paused = self._queue.queue.lanes.paused
            added = [*paused, *(part for part in _patterns(target) if part not in paused)]
            if len(added) > MAX_PAUSED:
                raise UsageError(f"{len(added)} targets are paused, at most {MAX_PAUSED} may be", hint="use a glob, or 'all'")
            self._queue.note(Event("queue_paused", {"targets": [_shown(part) for part in _patterns(target)]}))
            return await self._hold(added, self._queue.queue.draining)

        @function("queue.resume", role="admin")
        async def resume(target: TargetText) -> dict[str, Any]:
            """Give jobs again to what was paused under this name; ``all`` resumes everything."""
            paused = self._queue.queue.lanes.paused
            gone = paused if target == "all" else _patterns(target)
            unknown = [part for part in gone if part not in paused]
            if unknown:
                said = ", ".join(_shown(each) for each in paused) or "nothing"
                raise Conflict(f"{_shown(unknown[0])!r} is not paused", hint=f"paused: {said}"[:400])
            self._queue.note(Event("queue_resumed", {"targets": [_shown(part) for part in gone]}))
            return await self._hold([part for part in paused if part not in gone], self._queue.queue.draining)

        @function("queue.drain", role="admin")
        async def drain(on: bool = True) -> dict[str, Any]:
            """Take no new jobs (``on`` false: take them again); those that are there go on."""
            self._queue.note(Event("queue_draining", {"on": on}))
            await self._hold(self._queue.queue.lanes.paused, on)
            return await self._views.stats(True)

        @function("queue.check", role="admin", timeout_s=3600)
        async def check() -> dict[str, Any]:
            """Whether what is on the disk is as it should be."""
            found = await self._queue.store.check()
            return {"ok": found.ok, "jobs": found.jobs, "findings": found.findings, "details": found.details}

        return [pause, resume, drain, check]

    # -- inside -----------------------------------------------------------------------------------------------------

    def _who(self, context: Context) -> Identity:
        """The identity of the caller, with the role and rights that it has here (less when a worker carries it)."""
        found = self._queue.identity(context.caller)
        if found is None:
            raise NotAllowed(f"the key {context.caller} was revoked")
        own, *also = context.held or (context.role,)
        return least(found, Identity(found.key, found.name, context.role, "" if own == context.role else own, tuple(also)))

    def _number(self, id_: str) -> int:
        store, number = split_job_id(id_)
        return number if store == self._queue.store.id else 0

    async def _job(self, id_: str, context: Context) -> Job:
        """The job as it is now, which is in memory newer than on disk."""
        number = self._number(id_)
        job = self._queue.queue.live.get(number) if number else None
        if job is None or job.final:
            job = await self._queue.store.get(number) if number else None
        who = self._who(context)
        if job is None or not (who.role == "admin" or job.key == who.key):
            raise _no_job(id_)
        return job

    async def _parts(self, job: Job, after: int, limit: int) -> list[Job]:
        """Parts of a fan-out for one page, at least one if there is one. They are asked for a few at first: what is read is not
        much more than what fits."""
        found: list[Job] = []
        size, count = 0, FIRST_PARTS
        while len(found) < limit and after < job.number + job.parts:
            parts = await self._queue.store.parts(job.number, after=after, limit=min(count, limit - len(found)))
            if not parts:
                break
            for part in parts:
                found.append(part)
                size += len(part.result)
                if size > PAGE_BYTES:
                    return found
            after, count = parts[-1].number, count * 2
        return found

    async def _order(self, op: Op, ids: Sequence[str], context: Context) -> dict[str, Any]:
        who = self._who(context)
        refused: list[dict[str, Any]] = []
        ordering = Ordering(self._queue, op, _Asker(who.key, who.role == "admin"))
        for id_ in dict.fromkeys(ids):
            try:
                await ordering.add(id_, await self._job(id_, context))
            except StoreFailed:
                ordering.add_unread(id_, self._number(id_))
            except ZClusterError as error:
                refused.append(_refusal(id_, error))
        told = await ordering.carry_out()
        refused += [_refusal(id_, error) for id_, error in told.items() if error is not None]
        return {"done": [id_ for id_, error in told.items() if error is None], "refused": refused}

    async def _hold(self, paused: list[str], draining: bool) -> dict[str, Any]:
        await self._queue.hold(paused, draining)
        return {"paused": [_shown(pattern) for pattern in paused], "draining": draining}


class _Asker:
    """Who gives an order by a function."""

    def __init__(self, key: str, admin: bool) -> None:
        self.key, self.admin = key, admin


def _states(word: str) -> tuple[State, ...]:
    if not word:
        return ()
    state = WORDS.get(word)
    if state is None:
        near = nearest(word, WORDS)
        hint = f"did you mean {near!r}?" if near else f"the states are {', '.join(WORDS)}"
        raise UsageError(f"{word!r} is no state of a job", hint=hint)
    # On disk what a node has is leased; whether it runs is known in memory alone.
    return (State.LEASED, State.RUNNING) if state in (State.LEASED, State.RUNNING) else (state,)


def _patterns(target: str) -> list[str]:
    parts = ["*" if part.strip() == "all" else part.strip() for part in target.split(",")]
    if not all(parts) or max(map(len, parts)) > 128:
        raise UsageError(f"{target[:80]!r} is no target to pause", hint="a node's name, a glob, a list of these, or all")
    return parts


def _shown(pattern: str) -> str:
    return "all" if pattern == "*" else pattern


def _no_job(id_: str) -> NoSuchJob:
    return NoSuchJob(f"there is no job {id_} (any more), or it is not yours", hint="`zcluster queue ls` lists the jobs there are")


def _refusal(id_: str, error: ZClusterError) -> dict[str, Any]:
    return {"id": id_, "code": error.code, "message": error.message, "hint": error.hint}


