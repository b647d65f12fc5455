"""The machine of the queue by hand: no clock, no disk, no node but what a test says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from zcluster.core.queue.batch import Batch
from zcluster.core.queue.job import Job, State
from zcluster.core.queue.machine import RETRY_S, JobQueue
from zcluster.core.queue.orders import Op, Order
from zcluster.core.queue.policy import Policy
from zcluster.core.queue.told import Submission, Told
from zcluster.core.queue.transitions import Backoff
from zcluster.errors import StoreFailed, ZClusterError
from zcluster.store.jobs_memory import MemoryJobs

KEY = "key-c"
POLICY = Policy(backoff=Backoff(base_s=1.0, max_s=8.0))
FULL = StoreFailed("no space left on the device")


@dataclass
class FakeNode:
    """A node as the lanes see it."""

    name: str
    slots: int = 4
    role: str = "worker"
    functions: frozenset[str] = frozenset({"f", "g"})
    usable: bool = True


class FakeNodes:
    """The nodes of a test."""

    def __init__(self, nodes: Iterable[FakeNode]) -> None:
        self.by_name = {node.name: node for node in nodes}

    def get(self, name: str) -> FakeNode | None:
        return self.by_name.get(name)

    def having(self, function: str) -> Iterable[FakeNode]:
        return [node for node in self.by_name.values() if node.usable and function in node.functions]


@dataclass(eq=False)
class Owner:
    """Who submits and follows; it keeps what it is told."""

    key: str = KEY
    admin: bool = False
    accepted_: dict[int, int] = field(default_factory=dict)
    """Number by submission."""
    known_: dict[int, int] = field(default_factory=dict)
    """And of those that were there before."""
    refused_: dict[int, str] = field(default_factory=dict)
    """Why not, by submission."""

    def accepted(self, submission: Submission) -> None:
        for offset, job in enumerate(submission.jobs):
            self.accepted_[submission.first_id + offset] = job.number

    def known(self, id_: int, job: Job, before: bool) -> None:
        (self.known_ if before else self.accepted_)[id_] = job.number

    def refused(self, first_id: int, count: int, error: ZClusterError) -> None:
        self.refused_.update(dict.fromkeys(range(first_id, first_id + count), error.code))


def job(function: str = "f", lane: str = "any:f", **others: Any) -> Job:
    """A job that is asked for."""
    fields = {"target": "any", "priority": 5, "key": KEY, "caller": "c", "body": b"{}", "accepted_s": 1.0, "retention_s": 1e6}
    return Job(number=0, function=function, lane=lane, steps=[], **{**fields, **others})


class Rig:
    """A machine, its store, and everything that was told."""

    def __init__(self, *nodes: FakeNode, policy: Policy = POLICY, store: MemoryJobs | None = None) -> None:
        self.nodes = FakeNodes(nodes or (FakeNode("w1"),))
        self.policy = policy
        self.store = store or MemoryJobs()
        self.now, self.wall_s = 100.0, 1_000_000.0
        self.jitter = 1.0
        self.banned: set[str] = set()
        """Keys whose jobs may not run."""
        self.owner = Owner()
        self.running: dict[int, Job] = {}
        self.outcomes: list[tuple[int, str]] = []
        self.unknown: list[int] = []
        self.answers: list[tuple[str, int, str]] = []
        self.stops: list[int] = []
        self.events: list[str] = []
        self.changed: list[tuple[int, str]] = []
        self._id = 0
        self.open()

    def open(self) -> None:
        """A master begins with what is stored."""
        self.queue = JobQueue(
            self.store.opened_now(), master="m", policy=self.policy, nodes=self.nodes, may_run=self._may_run,
            jitter=lambda: self.jitter, now=self.now, wall_s=self.wall_s,
        )  # fmt: skip

    def restart(self) -> None:
        """The master is killed, and begins again."""
        self.store = MemoryJobs(self.store.committed())
        self.running.clear()
        self.open()

    def _may_run(self, job: Job) -> ZClusterError | None:
        return ZClusterError("not any more") if job.key in self.banned else None

    # -- events ---------------------------------------------------------------------------------------------------------

    def submit(self, *jobs: Job, parts: Iterable[Job] = ()) -> int:
        """Submit jobs that are alike; returns the id of the first submission."""
        first = self._id + 1
        self._id += len(jobs)
        self.queue.submit(self.owner, first, list(jobs), list(parts))
        return first

    def fan_out(self, *lanes: str, **others: Any) -> Job:
        """Submit a fan-out."""
        whole = job(lane="", parts=len(lanes), parts_left=len(lanes), **others)
        others.pop("idempotency_key", None)
        others.pop("digest", None)
        self.submit(whole, parts=[job(lane="node:" + lane, **others) for lane in lanes])
        return whole

    def take(self) -> Batch | None:
        """What the machine wants committed."""
        return self.queue.take_batch(self.now, self.wall_s)

    def commit(self, batch: Batch) -> None:
        """The batch is on disk."""
        self.queue.done(self.store.commit_now(batch), self.now, self.wall_s)
        self.tell()

    def fail(self, batch: Batch) -> None:
        """It is not."""
        self.queue.failed(FULL, self.now, self.wall_s)
        self.tell()

    def turn(self) -> bool:
        """Commit once, tell, and give nodes what is theirs; False when there was nothing."""
        batch = self.take()
        if batch is not None:
            self.commit(batch)
        self.tell()
        self.pump()
        return batch is not None

    def settle(self) -> None:
        """Turns until nothing is left to be done now: what waits for a store that failed is for later."""
        for _ in range(200):
            later = self.queue.read_only and self.queue.next_deadline() > self.now
            if not self.turn() and (later or not self.queue.waits):
                return
        raise AssertionError("it comes to no rest")

    def wait(self, seconds: float) -> None:
        """Time passes, on both clocks."""
        self.now += seconds
        self.wall_s += seconds
        self.settle()

    def pump(self) -> None:
        """Nodes get what is leased to them."""
        for name in list(self.queue.starts):
            if not self.nodes.by_name[name].usable:
                self.queue.withdraw(name, self.now, self.wall_s)
                continue
            jobs, node = self.queue.starts[name], self.nodes.by_name[name]
            while jobs and sum(each.node == name for each in self.running.values()) < node.slots:
                first = jobs.popleft()
                self.queue.started(first, self.wall_s)
                self.running[first.number] = first
            if not jobs:
                del self.queue.starts[name]

    def end(self, number: int, ok: bool = True, body: bytes = b"1") -> None:
        """An attempt ends."""
        ended = self.running.pop(number)
        self.queue.outcome(number, ended.attempt, ok, body, self.now, self.wall_s)

    def end_badly(self, number: int, code: str, **others: Any) -> None:
        """An attempt ends with an error."""
        self.end(number, False, msgspec.json.encode({"code": code, "message": "it is so", "hint": "", **others}))

    def order(self, op: Op, number: int, owner: Owner | None = None, lifetime_s: float = 0.0) -> None:
        """Somebody wants something of a job."""
        self.queue.orders.put(Order(op, number, owner or self.owner, op, lifetime_s), self.now, self.wall_s)

    def tell(self) -> None:
        """What is told is kept."""
        told, self.queue.told = self.queue.told, Told()
        for submission in told.accepted:
            submission.owner.accepted(submission)
        for owner, id_, each, before in told.known:
            owner.known(id_, each, before)
        for owner, first_id, count, error in told.refused:
            owner.refused(first_id, count, error)
        for jobs in told.outcomes.values():
            self.outcomes += [(each.number, each.state.word) for each in jobs]
        for numbers in told.unknown.values():
            self.unknown += numbers
        self.answers += [(op, number, "" if why is None else why.code) for op, number, _, why in told.answers]
        self.stops += [each.number for each in told.stops]
        for each in told.stops:
            self.running.pop(each.number, None)
        self.events += [event.name for event in told.events]
        self.changed += [(each.number, each.state.word) for each in told.changed]

    # -- what is so -----------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> dict[int, Job]:
        """What is stored."""
        return self.store.committed().jobs

    def state(self, number: int) -> str:
        """The stored state of a job."""
        return self.jobs[number].state.word

    def history(self, number: int) -> str:
        """The stored steps of a job, by word."""
        return " ".join(State(step.state).word for step in self.jobs[number].steps)

    def check(self) -> None:
        """The counters in memory and in the store are those of the jobs."""
        assert asyncio.run(self.store.check()).findings == []
        jobs = self.jobs.values()
        assert {state: count for state, count in self.queue.counts.items() if count} == Counter(each.state for each in jobs)
        live = [each for each in jobs if not each.final]
        assert (self.queue.usage.jobs, self.queue.usage.bytes) == (len(live), sum(each.size for each in live))
        held = Counter(each.node for each in self.queue.live.values() if each.state in (State.LEASED, State.RUNNING))
        assert self.queue.lanes.held == held


__all__ = ["FULL", "KEY", "RETRY_S", "FakeNode", "Owner", "Rig", "job"]
