"""What the queue asks of its store in one turn, and what comes of it. Plain data; store/jobs.py says what a store does with it.

Rules kept here:
- a batch is committed whole or not at all; what it asks for is read after its writes;
- nothing of a batch's jobs changes until it is back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from zcluster.core.queue.job import Job

MAX_BATCH_JOBS = 16_384

@dataclass(slots=True)
class Batch:
    """One commit, and what is to be read after it. At most MAX_BATCH_JOBS in each of ``insert``, ``update`` and ``delete``,
    MAX_ASKED in each lane of ``ready`` and in ``fetch`` (store/jobs_limits.py)."""

    insert: list[Job] = field(default_factory=list)
    """New jobs, numbers growing; parts follow their fan-out, and are of the same batch. One may be LEASED already. Their
    ``blocked`` and ``parts_left`` are the store's to say."""
    update: list[Job] = field(default_factory=list)
    """Each number at most once, and with what never changes as it was inserted (the arguments may be left out). One that does not
    exist (any more) is passed over."""
    delete: list[int] = field(default_factory=list)
    """Jobs to be dropped, parts and files with them. Only final ones are: a live one is passed over, and a fan-out with live
    parts, and a part (it goes with its fan-out). At most MAX_PURGED go, parts among them, or one fan-out that has more:
    ``undeleted`` tells of the others."""
    meta: dict[str, bytes] = field(default_factory=dict)
    """Small values of the queue itself: its clock, what is paused. At most 1 MiB each."""
    usage: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By public key: what to add to its live jobs and their bytes of arguments (parts count, fan-outs count). The store takes off
    what ``known`` tells of: 1 and the size of each job that was not inserted."""
    counts: dict[int, int] = field(default_factory=dict)
    """By state: what to add to the number of jobs in it (parts count, fan-outs count). LEASED stands for RUNNING too. The store
    takes off what ``known`` and ``purged`` tell of."""
    ready: dict[str, int] = field(default_factory=dict)
    """By lane: the first so many jobs that are ready, by rank; fewer when their arguments take READY_BYTES together."""
    due: tuple[float, float] | None = None
    """The queued jobs (blocked ones too) whose time has come by this (queue time, wall time), at most MAX_ASKED. A job waits for
    ``due`` or for ``at_s``; one that has both is here when the first has come.
    Here and in ``expired`` they are fewer when their arguments take PARTS_BYTES together."""
    expired: float | None = None
    """The queued jobs (delayed and blocked ones too) that expire by this queue time, at most MAX_ASKED."""
    purge: float | None = None
    """Delete the final jobs (with the files) whose retention was over by this queue time: ended + retention_s, those first for
    which it was over first. A part goes with its fan-out, a fan-out not before its last part is final. At most MAX_PURGED go,
    parts among them, or one fan-out that has more: ``next_purge`` tells that there are others."""
    fetch: list[int] = field(default_factory=list)
    """Whole jobs by number. They end with the one that makes arguments and results PARTS_BYTES together: ``unfetched`` tells of
    the others."""

    def __bool__(self) -> bool:
        return bool(self.insert or self.update or self.delete or self.meta or self.ready or self.fetch) or (
            self.due is not None or self.expired is not None or self.purge is not None
        )


@dataclass(slots=True)
class Done:
    """What a batch has led to."""

    known: dict[int, Job] = field(default_factory=dict)
    """By the number of a job that was not inserted: the job that has its key, without arguments and result (body and result
    empty), as the batch's updates left it (even if the batch deleted it then). Its parts were not inserted either."""
    blocked: set[int] = field(default_factory=set)
    """Numbers of jobs that are blocked, and were inserted, or were updated from a state other than QUEUED."""
    unblocked: list[Job] = field(default_factory=list)
    """Jobs that are the first of their sequence now and were blocked before the batch, whole, by number. They end with the one
    that makes arguments and results PARTS_BYTES together."""
    left: list[str] = field(default_factory=list)
    """The lanes of the ready jobs that ``unblocked`` would have beyond that: they are there to be asked for."""
    complete: list[tuple[Job, dict[int, int]]] = field(default_factory=list)
    """Fan-outs that are not final and have no live part left, whole, with how many parts ended in each state. Told by the batch
    that made it so: the last part's end, or the return of the fan-out itself."""
    ready: dict[str, list[Job]] = field(default_factory=dict)
    """Each lane that was asked for, with its jobs whole."""
    more: set[str] = field(default_factory=set)
    """The lanes of these that have more ready jobs than were given."""
    due: list[Job] = field(default_factory=list)
    expired: list[Job] = field(default_factory=list)
    fetched: dict[int, Job] = field(default_factory=dict)
    unfetched: list[int] = field(default_factory=list)
    """What there is of ``fetch`` beyond ``fetched``, in the order asked: ask again."""
    undeleted: list[int] = field(default_factory=list)
    """What could go of ``delete``, but was too much for one batch, in the order asked: ask again."""
    purged: dict[int, int] = field(default_factory=dict)
    """By state: how many jobs were purged or deleted, parts among them."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Of the jobs that are given here: those whose arguments or result cannot be read, and why. Such a job must not run."""
    next_due: float = math.inf
    """Queue time at which the next delayed job is due. The four are read by a batch that asks for ``due``, ``expired`` or
    ``purge``, and by no other (``times`` says so): of what it writes itself the queue knows the times."""
    next_at_s: float = math.inf
    next_expiry: float = math.inf
    next_purge: float = math.inf
    times: bool = False
    """Whether the four above were read."""


@dataclass(slots=True)
class Opened:
    """What a queue begins with. Counters that are zero are left out."""

    last_number: int
    """The highest that a batch had in ``insert``, though that job was known, or is deleted by now."""
    lanes: dict[str, int]
    """Ready jobs by lane."""
    leased: list[Job]
    """The jobs that were given to nodes when the master ended (LEASED), whole."""
    complete: list[tuple[Job, dict[int, int]]]
    usage: dict[str, tuple[int, int]]
    counts: dict[int, int]
    meta: dict[str, bytes]
    next_due: float
    next_at_s: float
    next_expiry: float
    next_purge: float
    unreadable: dict[int, str] = field(default_factory=dict)
