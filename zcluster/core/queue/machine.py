"""The queue of durable jobs: from a submission to its one stored outcome.

Rules kept here:
- whatever changes is committed before anybody is told: an acceptance before ACCEPTED, an attempt before its work is sent, an
  outcome before OUTCOMES;
- one batch is under way at a time, and everything that waits when it begins goes with it; nothing of a batch changes until it is
  back (what would change it waits in ``_later``);
- in memory are the jobs that nodes have, the beginnings of the lanes and what is not committed yet; all else is in the store;
- when the store fails, new jobs are refused and nothing is started; outcomes wait, and the store is tried again every RETRY_S.

Events in: submissions, outcomes, orders, nodes, time. Out: batches, and what is to be told. ``now`` is queue time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from zcluster.core.peers import Event
from zcluster.core.queue import transitions
from zcluster.core.queue.batch import Batch, Done, Opened
from zcluster.core.queue.job import Job, State
from zcluster.core.queue.lanes import Lanes, Nodes
from zcluster.core.queue.orders import Orders
from zcluster.core.queue.policy import Policy
from zcluster.core.queue.submissions import Submissions
from zcluster.core.queue.transitions import Loss
from zcluster.core.queue.verdict import verdict
from zcluster.errors import TooLarge, ZClusterError

RETRY_S = 1.0
"""How long to wait before a store that failed is tried again."""


class JobQueue(Submissions):
    """The machine of the queue.

    Args:
        master: the name of this node: a job that was on it when it ended may have been what ended it.
        may_run: why a job may not run (any more), or None: its key's rights as they are now.
        jitter: random numbers from 0 to 1.
        now, wall_s: queue time, and seconds since 1970.
    """

    def __init__(
        self, opened: Opened, master: str, policy: Policy, nodes: Nodes, may_run: Callable[[Job], ZClusterError | None],
        jitter: Callable[[], float], now: float, wall_s: float,
    ) -> None:  # fmt: skip
        super().__init__(opened, policy, Lanes(nodes, self._lease, policy.window_jobs), jitter)
        self.lanes.open(opened.lanes)
        self.orders = Orders(self)
        self.stray = 0
        self.commits = 0
        self._may_run = may_run
        self._batch: Batch | None = None
        self._meta: dict[str, bytes] = {}
        self._later: list[Callable[[float, float], None]] = []
        self._retry_at = 0.0
        self._now, self._wall_s = now, wall_s
        for job in opened.leased:
            if job.number in opened.unreadable:
                self.spoil(job, opened.unreadable[job.number], now, wall_s)
            else:
                self.restarted(job, master, now, wall_s)
        for parent, tally in opened.complete:
            self.gather(parent, tally, now, wall_s)

    @property
    def keeps(self) -> bool:
        """Whether something that was to be kept is not on disk."""
        return bool(self._meta or (self._batch is not None and self._batch.meta))

    def keep(self, name: str, value: bytes) -> None:
        """Keep a small value of the queue's own with the next batch."""
        self._meta[name] = value

    # -- nodes ------------------------------------------------------------------------------------------------------

    def started(self, job: Job, wall_s: float) -> None:
        """A leased job was given to its node."""
        transitions.start(job, wall_s)
        if self.watched:
            self.told.changed.append((job, job.steps[-1]))

    def withdraw(self, node: str, now: float, wall_s: float) -> None:
        """``node`` will not get what is leased to it: it is away."""
        jobs = self.starts.pop(node, ())
        self.lanes.released(node, len(jobs))
        for job in jobs:
            error = {"code": "node_unavailable", "message": f"{node} was gone before it got the job", "hint": ""}
            self.lose(job, Loss.NOTHING, error, None, now, wall_s)

    def outcome(self, number: int, attempt: int, ok: bool, body: bytes, now: float, wall_s: float, leaving: bool = False) -> None:
        """How an attempt ended: with a value or an error, as JSON. What is late, or of another attempt, is counted only.
        ``leaving``: its node had said that it would leave."""
        job = self.live.get(number)
        if job is None or job.attempt != attempt or job.state != State.RUNNING:
            self.stray += 1
        elif ok and len(body) <= self.policy.result_bytes:
            self.touch(job, State.RUNNING)
            self.lanes.released(job.node)
            transitions.succeed(job, body, wall_s, now)
        elif ok:
            limit = self.policy.result_bytes
            error = TooLarge(f"a value of {len(body)} bytes, at most {limit} are kept", hint="queue.result_bytes", node=job.node)
            self.lanes.released(job.node)
            self.fail(job, error, now, wall_s)
        else:
            self.ended_badly(job, verdict(body, leaving), now, wall_s)

    # -- batches ----------------------------------------------------------------------------------------------------

    def take_batch(self, now: float, wall_s: float) -> Batch | None:
        """Everything that waits for the disk, as one commit; None when there is nothing, or one is under way."""
        if self._batch is not None or now < self._retry_at:
            return None
        self._now, self._wall_s = now, wall_s
        batch = Batch()
        if not self.read_only and not self.resting:
            batch.ready = self.lanes.assign()
        submissions = self.take_waiting()
        counts, usage = batch.counts, batch.usage
        for submission in submissions:
            jobs = submission.all if submission.parts else submission.jobs
            batch.insert += jobs
            key = jobs[0].key
            before = usage.get(key, (0, 0))
            usage[key] = (before[0] + len(jobs), before[1] + submission.bytes)
        for job in batch.insert:
            counts[job.state] = counts.get(job.state, 0) + 1
        if self._dirty:
            self.take_updates(batch)
        self.orders.take(batch)
        batch.meta, self._meta = self._meta, {}
        self._ask_times(batch, now, wall_s)
        if not batch:
            if not self.read_only:
                return None
            batch.meta["tried"] = b""  # whether the store works again shows only by trying
        self._flying, self._batch = submissions, batch
        return batch

    def done(self, done: Done, now: float, wall_s: float) -> None:
        """The batch is on disk, and this has come of it."""
        batch, self._batch = self._batch, None
        assert batch is not None
        self.commits += 1
        if self.read_only:
            self.told.events.append(Event("queue_writable", {"reason": self.read_only}))
            self.read_only, self._retry_at = "", 0.0
            self.lanes.stir()
        for job in batch.update:
            if job.number in done.blocked:
                job.blocked = True
            self.committed(job)
        submissions, self._flying = self._flying, []
        for submission in submissions:
            self.accept(submission, done)
        for state, count in batch.counts.items():
            self.counts[State(state)] += count
        for state, count in done.purged.items():
            self.counts[State(state)] -= count
        for job in self._readable(done.unblocked, done, now, wall_s):
            if job.ready:
                self.lanes.add(job)
        for name in done.left:
            self.lanes.left_in_store(name)
        for name, jobs in done.ready.items():  # last: these may be the same as those above, and then they are passed over
            self.lanes.loaded(name, self._readable(jobs, done, now, wall_s), name in done.more)
        for parent, tally in done.complete:
            self.gather(parent, tally, now, wall_s)
        for job in self._readable(done.due, done, now, wall_s):
            self.touch(job, State.QUEUED)
            transitions.wake(job)
        for job in done.expired:
            self.expire(job, now, wall_s)
        if done.times:
            self.next_due, self.next_at_s = min(self.next_due, done.next_due), min(self.next_at_s, done.next_at_s)
            self.next_expiry = min(self.next_expiry, done.next_expiry)
            self.next_purge = min(self.next_purge, done.next_purge)
        self.orders.done(done, now, wall_s)
        self._run_later(now, wall_s)

    def failed(self, error: ZClusterError, now: float, wall_s: float) -> None:
        """The batch was not committed: nothing of it has happened."""
        batch, self._batch = self._batch, None
        assert batch is not None
        self._retry_at = now + RETRY_S
        if not self.read_only:
            self.told.events.append(Event("queue_read_only", {"reason": error.message}, "warning"))
        self.read_only = error.message
        submissions, self._flying = self._flying, []
        for submission in submissions:
            self.refuse(submission, error)
        for job in batch.update:
            if job.state == State.LEASED:
                self.lanes.released(job.node)
                transitions.unlease(job)
                del self.live[job.number]
                self.lanes.add(job)
            else:
                self._dirty[job.number] = job
        self._was = {number: was for number, was in self._was.items() if number in self._dirty}
        for name, value in batch.meta.items():
            self._meta.setdefault(name, value)
        self.lanes.load_failed()
        if batch.due is not None:
            self.next_due = self.next_at_s = 0.0
        if batch.expired is not None:
            self.next_expiry = 0.0
        if batch.purge is not None:
            self.next_purge = 0.0
        self.orders.failed(error)
        self._run_later(now, wall_s)

    def next_deadline(self) -> float:
        """The queue time at which :meth:`take_batch` may have something that is not there yet; ``next_at_s`` is apart."""
        if self._batch is not None:
            return math.inf
        soonest = min(self.next_due, self.next_expiry, self.next_purge)
        return max(soonest, self._retry_at) if not (self.read_only or self._dirty) else self._retry_at

    @property
    def busy(self) -> bool:
        """Whether a batch is under way."""
        return self._batch is not None

    @property
    def waits(self) -> bool:
        """Whether something waits for the disk, or for the batch that is under way."""
        return bool(self._batch is not None or self._waiting or self._dirty or self._meta or self._later or self.orders.wait)

    def in_flight(self, number: int) -> bool:
        """Whether this job may not change now: it is in the batch that is under way, or it is new."""
        if self.is_new(number):
            return True
        return self._batch is not None and any(job.number == number for job in self._batch.update)

    def later(self, what: Callable[[float, float], None]) -> None:
        """Do this when the batch is back."""
        self._later.append(what)

    def find(self, number: int) -> Job | None:
        """A job that is in memory and not final."""
        return self.live.get(number) or self.lanes.find(number)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _lease(self, job: Job, node: str) -> bool:
        waiting = self._waiting
        fresh = bool(waiting) and job.number >= waiting[0].jobs[0].number
        error = self._may_run(job)
        if error is not None:
            if fresh:  # it was allowed a moment ago; once it is in the store it fails as the others do
                self.lanes.left(job)
            else:
                self.fail(job, error, self._now, self._wall_s)
            return False
        transitions.lease(job, node, self._wall_s)
        self.live[job.number] = job
        if not fresh:
            self.touch(job, State.QUEUED)
        return True

    def _readable(self, jobs: Iterable[Job], done: Done, now: float, wall_s: float) -> list[Job]:
        """Those of ``jobs``, which the store has given, that may run; those whose arguments are gone fail."""
        fit: list[Job] = []
        for job in jobs:
            if job.number in self.live:
                continue
            if job.number in done.unreadable:
                self.lanes.remove(job)
                self.spoil(job, done.unreadable[job.number], now, wall_s)
            else:
                fit.append(job)
        return fit

    def _ask_times(self, batch: Batch, now: float, wall_s: float) -> None:
        if now >= self.next_due or wall_s >= self.next_at_s:
            batch.due = (now, wall_s)
            self.next_due = self.next_at_s = math.inf
        if now >= self.next_expiry:
            batch.expired = now
            self.next_expiry = math.inf
        if now >= self.next_purge:
            batch.purge = now
            self.next_purge = math.inf

    def _run_later(self, now: float, wall_s: float) -> None:
        later, self._later = self._later, []
        for what in later:
            what(now, wall_s)
