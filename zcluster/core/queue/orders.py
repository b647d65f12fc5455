"""What people and programs want of jobs that are there: to follow, cancel, put back or drop them.

Rules kept here:
- a job that is in memory is dealt with at once; any other is fetched with the next batch, and dealt with as that batch left it;
- a job that is in the batch under way is dealt with when that is back;
- an order is answered when what it did is on disk; whether a job could be dropped the store says: a fan-out with live parts not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from msgspec.structs import replace

from zcluster.core.queue.batch import Batch, Done
from zcluster.core.queue.following import Follower, may_see
from zcluster.core.queue.job import Job, State
from zcluster.errors import Conflict, NoSuchJob, ZClusterError

if TYPE_CHECKING:
    from zcluster.core.queue.machine import JobQueue

MAX_FETCHED = 4096
"""Jobs that one batch fetches."""
Op = Literal["follow", "cancel", "retry", "drop"]


@dataclass(frozen=True, slots=True)
class Order:
    """One thing to be done with one job. ``owner`` follows, or is answered (``ticket`` is its own)."""

    op: Op
    number: int
    owner: Follower
    ticket: Any = None
    lifetime_s: float = 0.0
    """``retry``: when it expires from then."""


class Orders:
    """Orders that wait for their jobs, or for the disk."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._asked: dict[int, list[Order]] = {}
        self._follows: dict[Follower, int] = {}
        """How many of these are to follow, by owner."""
        self._fetching: dict[int, list[Order]] = {}
        self._drops: dict[int, None] = {}
        self._done: list[tuple[Order, Job]] = []
        """Carried out, not yet on disk."""
        self._committing: list[tuple[Order, Job]] = []

    @property
    def wait(self) -> bool:
        """Whether some are not answered."""
        return bool(self._asked or self._fetching or self._drops or self._done or self._committing)

    def put(self, order: Order, now: float, wall_s: float) -> None:
        """Carry out ``order``, now or as soon as its job is there."""
        queue = self._queue
        job = queue.find(order.number)
        if job is None and order.op == "follow":
            job = queue.following.recent(order.number)
        if job is None:
            self._ask(order)
        else:
            self._perform(order, job, now, wall_s)

    def waiting(self, owner: Follower) -> int:
        """How many jobs this owner wants to follow whose store has not answered yet."""
        return self._follows.get(owner, 0)

    def gone(self, owner: Follower) -> None:
        """Its session is over: it follows nothing more."""
        if not self._follows.pop(owner, 0):
            return
        for asked in (self._asked, self._fetching):
            for number, orders in list(asked.items()):
                asked[number] = [order for order in orders if order.owner is not owner]

    def _ask(self, order: Order) -> None:
        """Have the job fetched. Who follows it already waits once."""
        orders = self._asked.setdefault(order.number, [])
        if order.op == "follow":
            if any(other.owner is order.owner and other.op == "follow" for other in orders):
                return
            self._follows[order.owner] = self._follows.get(order.owner, 0) + 1
        orders.append(order)

    def _answered(self, order: Order) -> None:
        """An order that was asked for is about to be carried out."""
        if order.op == "follow":
            left = self._follows.get(order.owner, 0) - 1
            if left > 0:
                self._follows[order.owner] = left
            else:
                self._follows.pop(order.owner, None)

    def take(self, batch: Batch) -> None:
        """What ``batch`` is to fetch and to drop."""
        drops = dict.fromkeys(list(self._drops)[:MAX_FETCHED])
        self._drops = dict.fromkeys(list(self._drops)[MAX_FETCHED:])
        if self._asked:
            asked = list(islice(self._asked, MAX_FETCHED - len(drops)))
            self._fetching = {number: self._asked.pop(number) for number in asked}
        batch.delete = list(drops)
        batch.fetch = list({**drops, **dict.fromkeys(self._fetching)})
        later = {**self._drops, **self._queue.dirty}  # what is too much for this batch
        self._committing = [each for each in self._done if each[1].number not in later] if later else self._done
        self._done = [each for each in self._done if each[1].number in later] if later else []

    def done(self, done: Done, now: float, wall_s: float) -> None:
        """The batch is on disk."""
        fetching, self._fetching = self._fetching, {}
        later = {number: fetching.pop(number) + self._asked.pop(number, []) for number in done.unfetched if number in fetching}
        self._asked = {**later, **self._asked}  # what was too much for this batch is first in the next
        self._drops = {**dict.fromkeys(done.undeleted), **self._drops}
        undeleted, there = set(done.undeleted), {*done.fetched, *done.unfetched}
        for order, job in self._committing:
            if order.op == "drop" and order.number in undeleted:
                self._done.append((order, job))
            elif order.op == "drop" and order.number in there:
                self._refuse(order, Conflict("parts of it have not ended", hint="only a job that has ended can be dropped"))
            else:
                self._queue.told.answers.append((order.ticket, order.number, job, None))
        self._committing = []
        for number, orders in fetching.items():
            for order in orders:
                self._answered(order)
                found = self._queue.find(number) or done.fetched.get(number)
                if found is None:
                    self._refuse(order, _unknown())
                else:
                    self._perform(order, found, now, wall_s)

    def failed(self, error: ZClusterError) -> None:
        """The batch is not on disk."""
        # What was done to a job stays done, and is written when the store works: only then it is answered.
        self._done = [each for each in self._committing if each[0].op != "drop"] + self._done
        for order, _ in self._committing:
            if order.op == "drop":
                self._refuse(order, error)
        for orders in self._fetching.values():
            for order in orders:
                self._answered(order)
                if order.op == "follow":
                    self._ask(order)  # whether there is such a job shows when the store works
                else:
                    self._refuse(order, error)
        self._fetching, self._committing = {}, []

    def _refuse(self, order: Order, error: ZClusterError) -> None:
        told = self._queue.told
        if order.op == "follow":
            told.unknown.setdefault(order.owner, []).append(order.number)
        else:
            told.answers.append((order.ticket, order.number, None, error))

    def _perform(self, order: Order, job: Job, now: float, wall_s: float) -> None:
        queue = self._queue
        if not may_see(order.owner.key, order.owner.admin, job):
            self._refuse(order, _unknown())
            return
        if queue.is_new(job.number) if order.op == "follow" else queue.in_flight(job.number):
            queue.later(lambda now, wall_s: self.put(order, now, wall_s))
            return
        if job.number in self._drops:  # the next batch deletes it, unless the disk fails, and then reads it
            self._ask(order)
            return
        committed = job.number not in queue.live
        if not committed and job.final and order.op in ("retry", "drop"):
            self._ask(order)  # its end goes with the next batch, and then it can be dealt with
            return
        match order.op:
            case "follow":
                # A job that has ended, but not on disk yet, is told when it is.
                if job.final and committed:
                    queue.told.outcomes.setdefault(order.owner, []).append(job)
                else:
                    queue.following.follow(order.owner, job.number)
                return
            case "cancel" if not job.final and not job.parts:
                queue.cancel(job, now, wall_s)
            case "retry" if job.final and job.state != State.DONE and committed:
                job = replace(job, steps=list(job.steps))  # the other may have been told as an outcome
                queue.put_back(job, order.lifetime_s, now, wall_s)
            case "drop" if job.final and committed and not job.parent:
                queue.following.forget(job.number)
                self._drops[job.number] = None
            case _:
                self._refuse(order, _conflict(order.op, job))
                return
        self._done.append((order, job))


def _unknown() -> NoSuchJob:
    return NoSuchJob("there is no such job (any more), or it is not yours", hint="`zcluster queue ls` lists the jobs there are")


def _conflict(op: str, job: Job) -> Conflict:
    if op == "cancel":
        return Conflict(f"it is {job.state.word} already", hint="only a job that has not ended can be cancelled")
    if op == "retry":
        return Conflict(f"it is {job.state.word}", hint="a failed, dead, cancelled or expired job can be put back")
    if job.parent:
        return Conflict("it is a part of a fan-out", hint="drop the whole fan-out")
    return Conflict(f"it is {job.state.word}", hint="cancel it first: only a job that has ended can be dropped")
