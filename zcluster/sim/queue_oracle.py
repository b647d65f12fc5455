"""What has to hold of durable jobs, whatever goes wrong: the history of each job, and what is told of it.

Rules kept here (and checked):
- no job that was acknowledged is lost: it is stored until its retention is over, or somebody drops it;
- each stored history follows ALLOWED: an end is final until somebody puts the job back, attempts are numbered one by one,
  failures and deaths are what the steps say and never too many, a delay ends at its time and not before;
- an attempt is sent once, when its lease is stored, to a node with a free slot;
- what is told of a job is what is stored; of a key and a function there is one job;
- the jobs of a sequence run one at a time, and for the first time in the order in which they were accepted;
- counters are those of the jobs, and every job that is ready is in a window or will be read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from zcluster.core.queue.batch import Batch, Done
from zcluster.core.queue.job import Job, State, Step
from zcluster.core.queue.machine import JobQueue
from zcluster.core.queue.transitions import ALLOWED, MAX_DEATHS
from zcluster.sim.world import World
from zcluster.store.jobs_memory import MemoryJobs, Saved

COUNTED = frozenset({"retry", "timed_out", "node_lost", "protocol_error"})
"""Errors of attempts that count against ``retries``."""
End = tuple[State, bytes, int]


class Oracle:
    """It sees every commit as it takes effect, every attempt as it is sent, and everything that is told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.outcomes: Counter[str] = Counter()
        self.jobs: dict[int, Job] = {}
        """What is stored, as of the last commit."""
        self.acknowledged: set[int] = set()
        self.asked_back: Counter[int] = Counter()
        """Orders to put a job back."""
        self.dropping: set[int] = set()
        """Jobs that somebody wants dropped."""
        self.ends: dict[int, End] = {}
        """How each job ended last, as stored."""
        self.gone: set[int] = set()
        self._sent: set[tuple[int, int]] = set()
        self._active: dict[str, int] = {}
        """The job of each sequence that was sent last."""
        self._keys: dict[tuple[str, str], int] = {}

    # -- commits --------------------------------------------------------------------------------------------------------

    def committed(self, batch: Batch, done: Done, saved: Saved, now: float, widest_wall_s: float) -> None:
        """A batch has taken effect. ``now``, ``widest_wall_s``: queue time, and the latest time of day this master has seen."""
        self.outcomes["commits"] += 1
        updated = {job.number: job for job in batch.update if job.number in self.jobs}
        # What a commit changes besides: who is first of a sequence and how many parts are left, and that is the store's.
        for number in sorted({*updated, *(job.number for job in batch.insert if job.number in saved.jobs)}):
            # A job that ended may have been purged by the same commit.
            job, before = saved.jobs.get(number) or updated[number], self.jobs.get(number)
            if before is None:
                self._inserted(job, saved)
            else:
                self._changed(before, job, now, widest_wall_s)
            if job.final:
                self.ends[number] = (job.state, job.result, job.attempt)
                self._check_parent(job, saved)
        latest = {**self.jobs, **updated}
        for number in self.jobs.keys() - saved.jobs.keys():
            self._left(latest[number], latest, batch, now)
        self.jobs = {number: replace(job, steps=list(job.steps)) for number, job in saved.jobs.items()}
        self.outcomes["known keys"] += len(done.known)

    def _inserted(self, job: Job, saved: Saved) -> None:
        self.outcomes["jobs"] += 1
        if job.idempotency_key and not job.parent:
            key = (job.function, job.idempotency_key)
            other = self._keys.get(key)
            if other is not None and other in saved.jobs:
                self.world.fail(f"jobs {other} and {job.number} have one key")
            self._keys[key] = job.number
        if job.steps and (job.state != State.LEASED or job.due or job.at_s):
            self.world.fail(f"job {job.number} begins as {job.state.word}, due {job.due}, at {job.at_s}")
        self._check_steps(job)

    def _changed(self, before: Job, job: Job, now: float, widest_wall_s: float) -> None:
        world, number = self.world, job.number
        if job.steps[: len(before.steps)] != before.steps:
            world.fail(f"the history of job {number} was changed: {_told(before.steps)} to {_told(job.steps)}")
        self._check_steps(job)
        if before.final and not job.final:
            self.outcomes["put back"] += 1
        waits = job.state == before.state == State.QUEUED and len(job.steps) == len(before.steps)
        if waits and before.due and not job.due and now < before.due and not (before.at_s and widest_wall_s >= before.at_s):
            world.fail(f"job {number} is due at {before.due:.3f}, and ready at {now:.3f}")
        if waits and before.at_s and not job.at_s and widest_wall_s < before.at_s and not (before.due and now >= before.due):
            world.fail(f"job {number} is to wait until {before.at_s:.3f}, and is ready at {widest_wall_s:.3f}")
        if job.state == State.LEASED and (before.due or before.at_s or before.blocked):
            world.fail(f"job {number} is leased before its time: {before.due} {before.at_s} {before.blocked}")
        if job.state == State.EXPIRED and not job.parts and now < job.expires:
            world.fail(f"job {number} expires at {job.expires:.3f}, and is expired at {now:.3f}")
        if job.final and not before.final:
            self.outcomes[job.state.word] += 1

    def _check_steps(self, job: Job) -> None:
        """The whole stored history of ``job``."""
        fail = self.world.fail
        state, attempt, failures, deaths, back = State.QUEUED, 0, 0, 0, 0
        for step in job.steps:
            after = State(step.state)
            if after not in ALLOWED[state]:
                fail(f"job {job.number} went from {state.word} to {after.word}")
            if state >= State.DONE:
                back, failures, deaths = back + 1, 0, 0
            elif after == State.LEASED:
                attempt += 1
            elif state in (State.LEASED, State.RUNNING) and after in (State.QUEUED, State.DEAD):
                code = _code(step.error)
                failures += code in COUNTED
                deaths += code == "node_lost"
            if step.attempt != attempt:
                fail(f"job {job.number}: attempt {step.attempt} follows {attempt}: {_told(job.steps)}")
            state = after
        if back > self.asked_back[job.number]:
            fail(f"job {job.number} was put back {back} times, and {self.asked_back[job.number]} times asked for")
        if (state, attempt) != (job.state, job.attempt) or (failures, deaths) != (job.failures, job.deaths):
            fail(f"job {job.number} is {job}, its steps say {state.word} {attempt} {failures} {deaths}")
        if failures > job.retries + 1 or deaths > MAX_DEATHS:
            fail(f"job {job.number} has {failures} failures with {job.retries} retries, {deaths} deaths")
        if not job.final and not job.parts and (failures > job.retries or deaths >= MAX_DEATHS):
            fail(f"job {job.number} goes on after {failures} failures with {job.retries} retries, {deaths} deaths")

    def _check_parent(self, job: Job, saved: Saved) -> None:
        """A fan-out ends when its parts have, and as they did."""
        before = self.jobs.get(job.number)
        if not job.parts or job.number not in saved.jobs or (before is not None and before.final):
            return
        parts = [part for part in saved.jobs.values() if part.parent == job.number]
        if len(parts) != job.parts:
            self.world.fail(f"fan-out {job.number} has {len(parts)} parts, {job.parts} were asked for")
        if any(self.asked_back[part.number] for part in parts):
            return
        states = {part.state for part in parts}
        bad = next((state for state in (State.CANCELLED, State.DEAD, State.FAILED, State.EXPIRED) if state in states), State.DONE)
        if any(not part.final for part in parts) or job.state != (State.FAILED if bad == State.DEAD else bad):
            self.world.fail(f"fan-out {job.number} is {job.state.word}, its parts {sorted(state.word for state in states)}")

    def _left(self, job: Job, latest: dict[int, Job], batch: Batch, now: float) -> None:
        """``job`` is not stored any more."""
        root = latest[job.parent or job.number]
        over = batch.purge is not None and root.ended + root.retention_s <= batch.purge
        dropped = root.number in batch.delete and root.number in self.dropping
        if not job.final or not (over or dropped):
            self.world.fail(f"job {job.number} is lost: it was {job.state.word}, ended {root.ended:.3f}, now {now:.3f}")
        self.outcomes["purged" if over else "dropped"] += 1
        self.gone.add(job.number)

    # -- what is done and told ------------------------------------------------------------------------------------------

    def sent(self, job: Job, node: str, running: int, slots: int) -> None:
        """An attempt is given to a node."""
        fail, stored = self.world.fail, self.jobs.get(job.number)
        self.outcomes["attempts"] += 1
        if stored is None or (stored.state, stored.attempt, stored.node) != (State.LEASED, job.attempt, node):
            fail(f"attempt {job.attempt} of job {job.number} is sent to {node}, stored is {stored}")
        if (job.number, job.attempt) in self._sent:
            fail(f"attempt {job.attempt} of job {job.number} is sent twice")
        self._sent.add((job.number, job.attempt))
        if running >= slots:
            fail(f"{node} has {running} jobs in {slots} slots, and gets another")
        if job.sequence:
            self._sent_in_order(job)

    def _sent_in_order(self, job: Job) -> None:
        fail, name = self.world.fail, job.sequence
        active = self.jobs.get(self._active.get(name, 0))
        if active is not None and active.number != job.number and not active.final and not self.asked_back[active.number]:
            fail(f"job {job.number} of sequence {name} runs while {active.number} has not ended")
        self._active[name] = job.number
        for other in self.jobs.values():
            if other.sequence == name and other.number != job.number and not other.final:
                if other.state == State.LEASED:
                    fail(f"jobs {job.number} and {other.number} of sequence {name} run together")
                if other.number < job.number and not self.asked_back[other.number] and not self.asked_back[job.number]:
                    fail(f"job {job.number} of sequence {name} overtakes {other.number}")

    def accepted(self, job: Job) -> None:
        """A job is acknowledged."""
        self.acknowledged.add(job.number)
        if job.number not in self.jobs and job.number not in self.gone:
            self.world.fail(f"job {job.number} is acknowledged, and not stored")

    def told(self, job: Job) -> None:
        """An outcome is told."""
        self.outcomes["outcomes told"] += 1
        stored, number = self.jobs.get(job.number), job.number
        said = (job.state, job.result, job.attempt)
        if said != self.ends.get(number):
            self.world.fail(f"of job {number} {said} is told, stored was {self.ends.get(number)}")
        if stored is not None and not stored.final:
            self.world.fail(f"of job {number} {said} is told, but it is {stored.state.word} again")

    def unknown(self, number: int, key: str, admin: bool) -> None:
        """Somebody is told that there is no such job."""
        stored = self.jobs.get(number)
        if stored is not None and (admin or stored.key == key):
            self.world.fail(f"job {number} is said to be unknown, and is {stored.state.word}")

    def answered(self, op: str, number: int) -> None:
        """An order was carried out."""
        self.outcomes[f"{op} orders"] += 1
        stored = self.jobs.get(number)
        state = None if stored is None else stored.state
        if op == "cancel" and stored is None and number in self.gone:  # and its retention was over at once
            state = self.ends[number][0]
        fits = {"cancel": state == State.CANCELLED, "retry": state in (State.QUEUED, State.CANCELLED), "drop": state is None}
        if not fits[op]:
            self.world.fail(f"{op} of job {number} is told to be done, and it is {'gone' if state is None else state.word}")

    # -- the machine ----------------------------------------------------------------------------------------------------

    def check_memory(self, queue: JobQueue) -> None:
        """What the machine holds fits together. After every turn."""
        held: dict[str, int] = defaultdict(int)
        for job in queue.live.values():
            if job.state in (State.LEASED, State.RUNNING):
                held[job.node] += 1
        if dict(held) != queue.lanes.held:
            self.world.fail(f"nodes hold {dict(held)}, counted are {queue.lanes.held}")
        for lane in queue.lanes.lanes.values():
            numbers = [job.number for job in lane.window]
            if lane.window != sorted(lane.window, key=lambda job: job.rank) or len(set(numbers)) != len(numbers):
                self.world.fail(f"the window of {lane.name} is {numbers}")
            if any(job.number in queue.live or job.state != State.QUEUED for job in lane.window):
                self.world.fail(f"the window of {lane.name} has jobs that have another state: {numbers}")

    def check_quiet(self, queue: JobQueue, store: MemoryJobs) -> None:
        """Nothing waits for the disk: the counters are right, and every job is where it goes on."""
        fail, jobs = self.world.fail, self.jobs
        saved = store.committed()
        counts = Counter(job.state for job in jobs.values())
        counted = {State(state): count for state, count in saved.counts.items()}
        if counts != counted or counts != {state: count for state, count in queue.counts.items() if count}:
            fail(f"jobs are {dict(counts)}, counted are {counted} in the store, {queue.counts} in memory")
        usage: dict[str, list[int]] = {}
        for job in jobs.values():
            if not job.final:
                mine = usage.setdefault(job.key, [0, 0])
                mine[0], mine[1] = mine[0] + 1, mine[1] + job.size
        total = (sum(jobs for jobs, _ in usage.values()), sum(size for _, size in usage.values()))
        stored = {key: list(value) for key, value in saved.usage.items()}
        if usage != stored or usage != queue.usage.by_key or total != (queue.usage.jobs, queue.usage.bytes):
            fail(f"the usage is {usage}, counted are {stored} in the store, {queue.usage.by_key} in memory")
        for job in jobs.values():
            if job.state == State.LEASED and job.number not in queue.live:
                fail(f"job {job.number} is leased, and nobody knows")
            if job.ready:
                lane = queue.lanes.lanes.get(job.lane)
                if lane is None or not (lane.more or any(job.number == other.number for other in lane.window)):
                    fail(f"job {job.number} is ready, and will never be read")
            if job.state == State.QUEUED and not job.parts:
                self._check_times(job, queue)

    def _check_times(self, job: Job, queue: JobQueue) -> None:
        late_due = job.due and queue.next_due > job.due
        if (late_due or (job.at_s and queue.next_at_s > job.at_s)) and not (job.blocked and not job.due and not job.at_s):
            self.world.fail(f"job {job.number} waits until {job.due} or {job.at_s}, looked at is at {queue.next_due}")
        if job.expires and queue.next_expiry > job.expires:
            self.world.fail(f"job {job.number} expires at {job.expires}, looked at is at {queue.next_expiry}")

    def open_questions(self) -> list[str]:
        """What is not yet as it has to be in the end."""
        lost = [number for number in sorted(self.acknowledged) if number not in self.jobs and number not in self.gone]
        questions = [f"job {number} is lost" for number in lost]
        live: Iterable[Job] = (job for job in self.jobs.values() if not job.final)
        return questions + [f"job {job.number} is {job.state.word}: {_told(job.steps)}" for job in live]


def _code(error: dict[str, Any] | None) -> str:
    """What ended the attempt; of a dead job its last attempt."""
    error = error or {}
    return str(error.get("cause", error).get("code", ""))


def _told(steps: list[Step]) -> str:
    return " ".join(f"{State(step.state).word}:{step.attempt}{_code(step.error) and '!' + _code(step.error)}" for step in steps)
