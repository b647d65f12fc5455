"""A master that keeps jobs, in simulated time: the queue's machine, its store, its clocks, and the nodes that run attempts.

Rules kept here:
- what is committed survives a crash, everything else does not; a crash comes before or after a commit takes effect;
- nothing of a batch changes while it is under way;
- a node may die with its attempts, or be silent for a while and answer late, when somebody else has the attempt's successor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from zcluster.core.queue import clock
from zcluster.core.queue.batch import Batch, Done
from zcluster.core.queue.job import Job
from zcluster.core.queue.machine import JobQueue
from zcluster.core.queue.policy import Policy
from zcluster.core.queue.told import Told
from zcluster.core.queue.transitions import Backoff
from zcluster.errors import NotAllowed, StoreFailed, ZClusterError
from zcluster.sim.queue_clients import Session
from zcluster.sim.queue_oracle import Oracle
from zcluster.sim.world import World
from zcluster.store.jobs_memory import MemoryJobs, Saved

MASTER = "m"
TICK_S = 1.0
CLOCK_EVERY_S = 5.0
WALL_S = 1_700_000_000.0


@dataclass
class Trouble:
    """How bad the world is."""

    disk: float = 0.0
    """Commits that fail."""
    full_until_s: float = 0.0
    slow: float = 0.0
    fates: tuple[tuple[str, int], ...] = (("value", 1),)
    """How attempts end, by weight."""

    def pause_s(self, world: World) -> float:
        """How long the next thing takes."""
        return world.random.uniform(0.2, 3.0) if world.chance(self.slow) else world.random.uniform(0.0002, 0.02)


@dataclass
class SimNode:
    """A node as the master sees it, and its process."""

    name: str
    role: str
    slots: int
    functions: frozenset[str]
    usable: bool = True
    life: int = 0
    attempts: dict[tuple[int, int], Job] = field(default_factory=dict)
    """That the master believes it runs."""


class Nodes:
    """The nodes there are."""

    def __init__(self, nodes: Iterable[SimNode]) -> None:
        self.by_name = {node.name: node for node in nodes}

    def get(self, name: str) -> SimNode | None:
        return self.by_name.get(name)

    def having(self, function: str) -> Iterable[SimNode]:
        return [node for node in self.by_name.values() if node.usable and function in node.functions]


class SimMaster:
    """The master's process and its store."""

    def __init__(self, world: World, oracle: Oracle, trouble: Trouble, nodes: Nodes, window_jobs: int) -> None:
        self.world, self.oracle, self.trouble, self.nodes = world, oracle, trouble, nodes
        self.store = MemoryJobs(Saved("5eed5eed"))
        self.policy = Policy(
            jobs=400, jobs_per_key=300, result_bytes=1000, window_jobs=window_jobs, backoff=Backoff(base_s=0.2, max_s=4.0)
        )
        self.revoked: set[str] = set()
        self.alive = False
        self.life = 0
        self.boots = 1
        self.boot_began_s = world.now - 7.0
        self.wall_offset_s = WALL_S
        self._widest_wall_s = 0.0
        self._least_now = 0.0
        """What queue time was when the process ended; over a boot it goes on from what was kept."""
        self.stops: Counter[str] = Counter()

    # -- the process ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A process begins."""
        if self.alive:
            return
        self.life, self.alive = self.life + 1, True
        opened = self.store.opened_now()
        kept = opened.meta.get("clock")
        mark = msgspec.json.decode(kept, type=clock.Mark) if kept else None
        self._offset_s = clock.resume(mark, str(self.boots), self._boot_s(), self.wall_s())
        self._clock_kept = -math.inf
        self._widest_wall_s = self.wall_s()
        self._alarm_s = math.inf
        now = self.now()
        if opened.last_number and now < self._least_now:
            self.world.fail(f"queue time was {self._least_now:.3f}, and begins at {now:.3f}")
        self.world.note(MASTER, f"starts at {now:.3f} with {len(opened.leased)} leased jobs")
        random = self.world.random.random
        self.queue = JobQueue(opened, MASTER, self.policy, self.nodes, self._may_run, random, now, self.wall_s())
        self.queue.watched = self.world.chance(0.3)
        own = self.nodes.by_name[MASTER]
        own.usable, own.life = True, own.life + 1
        for node in self.nodes.by_name.values():
            node.attempts.clear()
        self._tick(self.life)

    def crash(self, *, reboot: bool) -> None:
        """The process is killed; with ``reboot`` the whole machine was down."""
        if not self.alive:
            return
        self.world.note(MASTER, "is killed" + (" by a reboot" if reboot else ""))
        self.alive = False
        self._least_now = 0.0 if reboot else self.now()
        self.nodes.by_name[MASTER].usable = False
        self.nodes.by_name[MASTER].life += 1
        self.store = MemoryJobs(self.store.committed())
        if reboot:
            self.boots += 1
            self.boot_began_s = self.world.now

    def now(self) -> float:
        """Queue time."""
        return self._offset_s + self._boot_s()

    def wall_s(self) -> float:
        """Seconds since 1970, as far as the master knows."""
        return self.world.now + self.wall_offset_s

    def _boot_s(self) -> float:
        return self.world.now - self.boot_began_s

    def _may_run(self, job: Job) -> ZClusterError | None:
        return NotAllowed("the key that asked for it was revoked") if job.key in self.revoked else None

    # -- turns ----------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Tell what is on disk, give nodes what is leased to them, and commit what waits."""
        if not self.alive:
            return
        queue = self.queue
        if queue.told:
            told, queue.told = queue.told, Told()
            self._tell(told)
        if not queue.resting:
            self._pump()
        if not queue.busy:
            self._commit()
        self.oracle.check_memory(queue)
        pause_s = min(queue.next_deadline() - self.now(), queue.next_at_s - self.wall_s(), TICK_S)
        at_s = self.world.now + max(pause_s, 0.001)
        if at_s < self._alarm_s:
            self._alarm_s = at_s
            life = self.life
            self.world.after(at_s - self.world.now, lambda: self._due(life, at_s))

    def _due(self, life: int, at_s: float) -> None:
        if life == self.life and self.alive and at_s == self._alarm_s:
            self._alarm_s = math.inf
            self.turn()

    def _tick(self, life: int) -> None:
        if life != self.life or not self.alive:
            return
        self._widest_wall_s = max(self._widest_wall_s, self.wall_s())
        if self.now() - self._clock_kept >= CLOCK_EVERY_S:
            self._clock_kept = self.now()
            mark = clock.Mark(self.now(), str(self.boots), self._boot_s(), self.wall_s())
            self.queue.keep("clock", msgspec.json.encode(mark))
        self.queue.lanes.stir()
        self.turn()
        self.world.after(TICK_S, lambda: self._tick(life))

    def _commit(self) -> None:
        self._widest_wall_s = max(self._widest_wall_s, self.wall_s())
        batch = self.queue.take_batch(self.now(), self.wall_s())
        if batch is None:
            return
        image, life = _image(batch), self.life
        self.world.after(self.trouble.pause_s(self.world), lambda: self._effect(batch, image, life))

    def _effect(self, batch: Batch, image: bytes, life: int) -> None:
        """The disk has done it, or not."""
        world = self.world
        if life != self.life or not self.alive:
            return
        self._check_image(batch, image)
        done: Done | ZClusterError
        if world.now < self.trouble.full_until_s or world.chance(self.trouble.disk):
            done = StoreFailed("no space left on the device")
            self.oracle.outcomes["failed commits"] += 1
            world.note("disk", "fails")
        else:
            done = self.store.commit_now(batch)
            world.note("disk", f"+{len(batch.insert)} ~{len(batch.update)} -{len(batch.delete)} {_states(batch.update)}")
            self.oracle.committed(batch, done, self.store.committed(), self.now(), self._widest_wall_s)
        world.after(self.trouble.pause_s(world), lambda: self._back(batch, image, done, life))

    def _back(self, batch: Batch, image: bytes, done: Done | ZClusterError, life: int) -> None:
        if life != self.life or not self.alive:
            return
        self._check_image(batch, image)
        queue = self.queue
        if isinstance(done, Done):
            queue.done(done, self.now(), self.wall_s())
        else:
            queue.failed(done, self.now(), self.wall_s())
        if isinstance(done, Done) and not queue.waits:
            self.oracle.check_quiet(queue, self.store)
        self.turn()

    def _check_image(self, batch: Batch, image: bytes) -> None:
        if _image(batch) != image:
            self.world.fail("a batch that is under way was changed")

    def _tell(self, told: Told) -> None:
        oracle = self.oracle
        for submission in told.accepted:
            for job in submission.jobs:
                oracle.accepted(job)
            submission.owner.accepted(submission)
        for owner, id_, job, before in told.known:
            oracle.accepted(job)
            owner.known(id_, job, before)
        for owner, first_id, count, error in told.refused:
            owner.refused(first_id, count, error)
        for follower, jobs in told.outcomes.items():
            for job in jobs:
                oracle.told(job)
            if isinstance(follower, Session):
                follower.told(jobs)
        for follower, numbers in told.unknown.items():
            for number in numbers:
                oracle.unknown(number, follower.key, follower.admin)
            if isinstance(follower, Session):
                follower.unknown(numbers)
        for ticket, number, found, why in told.answers:
            ticket(number, found, why)
        for job in told.stops:
            self._stop(job)

    # -- nodes ----------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        queue = self.queue
        for name in list(queue.starts):
            node = self.nodes.by_name[name]
            if not node.usable:
                queue.withdraw(name, self.now(), self.wall_s())
                continue
            jobs = queue.starts[name]
            while jobs and len(node.attempts) < node.slots:
                self._send(jobs.popleft(), node)
            if not jobs:
                del queue.starts[name]

    def _send(self, job: Job, node: SimNode) -> None:
        world, queue = self.world, self.queue
        self.oracle.sent(job, node.name, len(node.attempts), node.slots)
        queue.started(job, self.wall_s())
        number, attempt, life, node_life = job.number, job.attempt, self.life, node.life
        node.attempts[number, attempt] = job
        words, weights = zip(*self.trouble.fates, strict=True)
        fate = str(world.random.choices(words, weights)[0])
        world.note(MASTER, f"> {node.name} job {number} attempt {attempt}: {fate}")
        world.after(job.timeout_s, lambda: self._timed_out(number, attempt, node, life))
        if fate == "stuck":
            return
        span_s = 0.001 if fate in ("busy", "draining") else world.random.choice((0.002, 0.05, 0.5, 2.0)) * world.random.random()
        world.after(span_s, lambda: self._ended(number, attempt, node, node_life, fate))

    def _ended(self, number: int, attempt: int, node: SimNode, node_life: int, fate: str) -> None:
        """The process of a node is done with an attempt."""
        if node.life != node_life:
            return
        if fate == "die":
            self.lose(node, dies=True)
            return
        ok, body = _answer(fate, number, attempt, self.world)
        self.world.after(self.trouble.pause_s(self.world), lambda: self._answered(number, attempt, node, ok, body))

    def _answered(self, number: int, attempt: int, node: SimNode, ok: bool, body: bytes) -> None:
        """An answer arrives, perhaps at another life of the master, or after the attempt was given up."""
        if not self.alive:
            return
        expected = node.attempts.pop((number, attempt), None)
        before, job = self.queue.stray, self.queue.live.get(number)
        image = None if job is None else msgspec.json.encode(job)
        self.queue.outcome(number, attempt, ok, body, self.now(), self.wall_s())
        self.world.note(node.name, f"> job {number} attempt {attempt}{'' if expected else ' (late)'}")
        if expected is None and (self.queue.stray == before or (job is not None and msgspec.json.encode(job) != image)):
            self.world.fail(f"a late answer to attempt {attempt} of job {number} counts")
        self.oracle.outcomes["late answers"] += expected is None
        self.turn()

    def _timed_out(self, number: int, attempt: int, node: SimNode, life: int) -> None:
        if life == self.life and self.alive and node.attempts.pop((number, attempt), None) is not None:
            self._outcome_lost(number, attempt, "timed_out")
            self.turn()

    def _stop(self, job: Job) -> None:
        node = self.nodes.by_name[job.node]
        if node.attempts.pop((job.number, job.attempt), None) is None:
            self.world.fail(f"attempt {job.attempt} of job {job.number} is to be stopped, and {job.node} has not got it")

    def lose(self, node: SimNode, *, dies: bool) -> None:
        """The node dies with its attempts, or is silent; the master notices after a while."""
        if not node.usable or node.name == MASTER:
            return
        self.world.note(node.name, "dies" if dies else "is silent")
        if dies:
            node.life += 1
        self.world.after(self.world.random.uniform(0.0, 1.0), lambda: self._lost(node))

    def _lost(self, node: SimNode) -> None:
        """The master knows that the node is away. It comes back by itself."""
        node.usable = False
        attempts, node.attempts = node.attempts, {}
        self.world.after(self.world.random.choice((0.01, 1.0, 6.0)), lambda: self._came_back(node))
        if self.alive:
            for number, attempt in attempts:
                self._outcome_lost(number, attempt, "node_lost")
            self.turn()

    def _came_back(self, node: SimNode) -> None:
        node.usable = True
        if self.alive:
            self.queue.lanes.stir()
            self.turn()

    def _outcome_lost(self, number: int, attempt: int, code: str) -> None:
        self.queue.outcome(number, attempt, False, _error(code), self.now(), self.wall_s())


def _answer(fate: str, number: int, attempt: int, world: World) -> tuple[bool, bytes]:
    """What a node answers."""
    if fate == "value":
        return True, msgspec.json.encode([number, attempt])
    if fate == "large":
        return True, b'"' + b"x" * 999 + b'"'
    if fate == "retry":
        after_s = world.random.choice((None, 0, 0.5, 3))
        return False, msgspec.json.encode({"code": "retry", "message": "not yet", "hint": "", "retry_after_s": after_s})
    return False, b"{" if fate == "garbage" else _error(fate)


def _error(code: str) -> bytes:
    return msgspec.json.encode({"code": code, "message": f"it is {code}", "hint": ""})


def _image(batch: Batch) -> bytes:
    return msgspec.json.encode([batch.insert, batch.update, batch.delete, batch.counts, batch.usage])


def _states(jobs: Iterable[Job]) -> str:
    return " ".join(f"{job.number}:{job.state.word}" for job in jobs)

