"""The store of jobs in memory: the reference of what such a store does, for tests and for the simulator.

Rules kept here:
- it is the plainest program that keeps jobs.py; the others are compared with it;
- what it is given and what it gives are copies: nobody changes a stored job but a batch;
- ``*_now`` do the same as the methods of the protocol, without a loop.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from zcluster.core.queue.job import Job, State
from zcluster.errors import StoreFailed, ZClusterError
from zcluster.store.jobs import (
    MAX_ASKED,
    MAX_PURGED,
    MUTABLE,
    PARTS_BYTES,
    READY_BYTES,
    SCAN_JOBS,
    Batch,
    Done,
    Opened,
    Page,
    Query,
    Report,
)
from zcluster.store.jobs_limits import check_batch, check_page

MAX_FINDINGS = 100
_WRITTEN = frozenset(MUTABLE) - {"blocked", "parts_left"}


@dataclass(slots=True)
class Saved:
    """What a store of jobs has committed."""

    id: str
    jobs: dict[int, Job] = field(default_factory=dict)
    last_number: int = 0
    meta: dict[str, bytes] = field(default_factory=dict)
    usage: dict[str, tuple[int, int]] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def copy(self) -> Saved:
        """The same, shared with nobody."""
        jobs = {number: _copy(job) for number, job in self.jobs.items()}
        return Saved(self.id, jobs, self.last_number, dict(self.meta), dict(self.usage), dict(self.counts))


class MemoryJobs:
    """A JobStore (jobs.py) in dictionaries. One that begins with another's ``committed()`` is that one after a crash."""

    def __init__(self, saved: Saved | None = None) -> None:
        self._saved = saved.copy() if saved else Saved(secrets.token_hex(4))
        self.id = self._saved.id
        self.failure: ZClusterError | None = None
        """While it is set, a commit changes nothing and raises it."""
        self._closed = False

    def committed(self) -> Saved:
        """What a crash now would leave."""
        return self._saved.copy()

    async def opened(self) -> Opened:
        return self.opened_now()

    async def commit(self, batch: Batch) -> Done:
        return self.commit_now(batch)

    async def get(self, number: int) -> Job | None:
        self._check_open()
        job = self._saved.jobs.get(number)
        return None if job is None else _copy(job)

    async def list(self, query: Query) -> Page:
        self._check_open()
        check_page(query.limit)
        found: list[Job] = []
        last = 0
        for looked, job in enumerate(_in_order(self._saved.jobs, query)):
            matching = _matches(job, query)
            if looked == SCAN_JOBS or (matching and len(found) == query.limit):
                return Page(found, last)
            if matching:
                found.append(_bare(job))
            last = job.number
        return Page(found, 0)

    async def parts(self, parent: int, *, after: int = 0, limit: int = 100) -> Sequence[Job]:
        self._check_open()
        check_page(limit)
        jobs = [job for job in self._saved.jobs.values() if job.parent == parent and job.number > after] if parent else []
        return _first(jobs, limit, PARTS_BYTES, _both)

    async def check(self) -> Report:
        self._check_open()
        findings = list(_findings(self._saved))
        return Report(not findings, len(self._saved.jobs), findings[:MAX_FINDINGS])

    async def close(self) -> None:
        self._closed = True

    def opened_now(self) -> Opened:
        """As :meth:`opened`."""
        self._check_open()
        saved = self._saved
        jobs = saved.jobs.values()
        due, at_s, expiry, purge = _times(jobs)
        return Opened(
            last_number=saved.last_number,
            lanes=dict(Counter(job.lane for job in jobs if job.ready)),
            leased=[_copy(job) for job in jobs if job.state == State.LEASED],
            complete=[(_copy(job), _ended_parts(saved, job)) for job in jobs if _is_complete(job)],
            usage=dict(saved.usage),
            counts=dict(saved.counts),
            meta=dict(saved.meta),
            next_due=due,
            next_at_s=at_s,
            next_expiry=expiry,
            next_purge=purge,
        )

    def commit_now(self, batch: Batch) -> Done:
        """As :meth:`commit`."""
        self._check_open()
        check_batch(batch)
        if self.failure is not None:
            raise self.failure
        return _Turn(self._saved, batch).take()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreFailed("the store is closed")


class _Turn:
    """One batch being done."""

    def __init__(self, saved: Saved, batch: Batch) -> None:
        self.saved = saved
        self.jobs = saved.jobs
        self.batch = batch
        self.done = Done()
        self.before: dict[int, Job | None] = {}
        """The jobs that were inserted or updated, as they were."""

    def take(self) -> Done:
        known = self._insert()
        self._update()
        self._sequences()
        self._fan_outs()
        self.done.known = {number: _bare(self.jobs[other]) for number, other in known.items()}
        self._delete()
        self._purge()
        self._counters()
        self._read()
        return self.done

    def _insert(self) -> dict[int, int]:
        """Returns the numbers of the jobs that were not inserted, with the numbers of those that have their keys."""
        keys = {job.identity: job.number for job in self.jobs.values()}
        known: dict[int, int] = {}
        for job in self.batch.insert:
            self.saved.last_number = max(self.saved.last_number, job.number)
            key = job.identity
            other = keys.get(key) if key else None
            if other is not None:
                known[job.number] = other
            if other is not None or job.parent in known:
                _add_usage(self.saved, job.key, -1, -job.size)
                _add_count(self.saved, job.state, -1)
                continue
            if not job.parent:
                keys[key] = job.number
            self.before[job.number] = None
            self.jobs[job.number] = replace(_copy(job), state=State(_kept(job.state)), blocked=False, parts_left=0)
        return known

    def _update(self) -> None:
        for new in self.batch.update:
            job = self.jobs.get(new.number)
            if job is not None:
                if job.number not in self.before:
                    self.before[job.number] = _copy(job)
                for name in _WRITTEN:
                    setattr(job, name, getattr(new, name))
                job.state = State(_kept(new.state))
                job.steps = list(new.steps)

    def _sequences(self) -> None:
        freed: list[Job] = []
        for name in {self.jobs[number].line for number in self.before} - {""}:
            jobs = [job for job in self.jobs.values() if job.line == name]
            live = sorted((job for job in jobs if not job.final), key=lambda job: job.number)
            was_live = [job for job in live if (was := self.before.get(job.number, job)) is not None and not was.final]
            first = next((job for job in was_live if not job.blocked), live[0] if live else None)
            if first in was_live and first is not None and first.blocked:
                first.blocked = False
                freed.append(first)
            for job in jobs:
                job.blocked = not job.final and job is not first
        for number, was in self.before.items():
            if self.jobs[number].blocked and (was is None or was.state != State.QUEUED):
                self.done.blocked.add(number)
        self.done.unblocked = _first(freed, len(freed), PARTS_BYTES, _both)
        given = {job.number for job in self.done.unblocked}
        self.done.left = sorted({job.lane for job in freed if job.ready and job.number not in given})

    def _fan_outs(self) -> None:
        left = Counter(part.parent for part in self.jobs.values() if part.parent and not part.final)
        for job in self.jobs.values():
            job.parts_left = left[job.number]
        touched: dict[int, None] = {}
        for number, was in self.before.items():
            job = self.jobs[number]
            if was is not None and job.final != was.final:
                touched[job.parent if job.final else number] = None
        for number in touched:
            job_ = self.jobs.get(number)
            if job_ is not None and _is_complete(job_):
                self.done.complete.append((_copy(job_), _ended_parts(self.saved, job_)))

    def _delete(self) -> None:
        can = [self.jobs[number] for number in dict.fromkeys(self.batch.delete) if number in self.jobs]
        self.done.undeleted = self._remove([job for job in can if _can_go(job)])

    def _purge(self) -> None:
        now = self.batch.purge
        if now is not None:
            over = [job for job in self.jobs.values() if _can_go(job) and job.ended + job.retention_s <= now]
            self._remove(sorted(over, key=lambda job: (job.ended + job.retention_s, job.number)))

    def _remove(self, jobs: list[Job]) -> list[int]:
        """Returns the numbers of those that are too much for one batch."""
        rows = 0
        for place, job in enumerate(jobs):
            gone = [job, *(part for part in self.jobs.values() if part.parent == job.number)]
            rows += len(gone)
            if place and rows > MAX_PURGED:
                return [job.number for job in jobs[place:]]
            for one in gone:
                del self.jobs[one.number]
                _add_count(self.saved, one.state, -1)
                self.done.purged[one.state] = self.done.purged.get(one.state, 0) + 1
        return []

    def _counters(self) -> None:
        self.saved.meta.update(self.batch.meta)
        for key, (jobs, size) in self.batch.usage.items():
            _add_usage(self.saved, key, jobs, size)
        for state, count in self.batch.counts.items():
            _add_count(self.saved, state, count)

    def _read(self) -> None:
        batch, done = self.batch, self.done
        for lane, limit in batch.ready.items():
            ready = [job for job in self.jobs.values() if job.lane == lane and job.ready]
            ready.sort(key=lambda job: job.rank)
            done.ready[lane] = _first(ready, limit, READY_BYTES, lambda job: job.size, ordered=True)
            if len(done.ready[lane]) < len(ready):
                done.more.add(lane)
        waiting = [job for job in self.jobs.values() if job.state == State.QUEUED and not job.parts]
        if batch.due is not None:
            now, wall_s = batch.due
            due = [job for job in waiting if 0 < job.due <= now or 0 < job.at_s <= wall_s]
            done.due = _first(due, MAX_ASKED, PARTS_BYTES, lambda job: job.size)
        if batch.expired is not None:
            over = [job for job in waiting if 0 < job.expires <= batch.expired]
            done.expired = _first(over, MAX_ASKED, PARTS_BYTES, lambda job: job.size)
        there = [self.jobs[number] for number in dict.fromkeys(batch.fetch) if number in self.jobs]
        done.fetched = {job.number: job for job in _first(there, MAX_ASKED, PARTS_BYTES, _both, ordered=True)}
        done.unfetched = [job.number for job in there[len(done.fetched) :]]
        if batch.due is not None or batch.expired is not None or batch.purge is not None:
            done.times = True
            done.next_due, done.next_at_s, done.next_expiry, done.next_purge = _times(self.jobs.values())


def _copy(job: Job) -> Job:
    return replace(job, steps=list(job.steps))


def _bare(job: Job) -> Job:
    return replace(job, steps=list(job.steps), body=b"", result=b"")


def _both(job: Job) -> int:
    return len(job.body) + len(job.result)


def _first(jobs: list[Job], limit: int, bytes_: int, size: Callable[[Job], int], *, ordered: bool = False) -> list[Job]:
    """Copies of the first so many, ending with the one that makes them ``bytes_`` large."""
    found: list[Job] = []
    total = 0
    for job in jobs if ordered else sorted(jobs, key=lambda job: job.number):
        if len(found) == limit or total >= bytes_:
            break
        found.append(_copy(job))
        total += size(job)
    return found


def _in_order(jobs: dict[int, Job], query: Query) -> list[Job]:
    """The jobs that a listing looks at."""
    if query.parent:
        numbers = sorted(number for number in jobs if number > query.before)
    else:
        numbers = sorted((number for number in jobs if not query.before or number < query.before), reverse=True)
    return [jobs[number] for number in numbers if jobs[number].parent == query.parent]


def _matches(job: Job, query: Query) -> bool:
    return (
        (not query.states or job.state in {_kept(state) for state in query.states})
        and query.target in ("", job.target)
        and query.function in ("", job.function)
        and query.key in ("", job.key)
    )


def _is_complete(job: Job) -> bool:
    return bool(job.parts) and not job.final and not job.parts_left


def _can_go(job: Job) -> bool:
    """Whether it may be deleted: a part goes with its fan-out, and that one not before its parts have ended."""
    return job.final and not job.parent and not job.parts_left


def _ended_parts(saved: Saved, job: Job) -> dict[int, int]:
    return dict(Counter(int(part.state) for part in saved.jobs.values() if part.parent == job.number))


def _times(jobs: Iterable[Job]) -> tuple[float, float, float, float]:
    """The next due, at_s, expiry and purge."""
    due, at_s, expiry, purge = [math.inf], [math.inf], [math.inf], [math.inf]
    for job in jobs:
        if job.state == State.QUEUED and not job.parts:
            due.append(job.due or math.inf)
            at_s.append(job.at_s or math.inf)
            expiry.append(job.expires or math.inf)
        elif _can_go(job):
            purge.append(job.ended + job.retention_s)
    return min(due), min(at_s), min(expiry), min(purge)


def _add_usage(saved: Saved, key: str, jobs: int, size: int) -> None:
    had = saved.usage.pop(key, (0, 0))
    has = (had[0] + jobs, had[1] + size)
    if has != (0, 0):
        saved.usage[key] = has


def _kept(state: int) -> int:
    return int(State.LEASED if state == State.RUNNING else state)


def _add_count(saved: Saved, state: int, count: int) -> None:
    has = saved.counts.pop(_kept(state), 0) + count
    if has:
        saved.counts[_kept(state)] = has


def _findings(saved: Saved) -> Iterable[str]:
    """What is wrong: counters that are not those of the jobs."""
    counts = dict(Counter(_kept(job.state) for job in saved.jobs.values()))
    if counts != saved.counts:
        yield f"the jobs by state are {counts}, counted were {saved.counts}"
    usage: dict[str, tuple[int, int]] = {}
    for job in saved.jobs.values():
        if not job.final:
            jobs, size = usage.get(job.key, (0, 0))
            usage[job.key] = (jobs + 1, size + job.size)
    if usage != saved.usage:
        yield "the usage of keys is not that of their live jobs"
