"""What waits for the queue's disk may be more than one commit takes: it goes with the next ones, and nothing is stuck."""

from __future__ import annotations

from typing import Any

from zcluster.core.queue.batch import MAX_BATCH_JOBS
from zcluster.core.queue.job import Job, State
from zcluster.core.queue.machine import JobQueue
from zcluster.core.queue.orders import MAX_FETCHED, Order
from zcluster.core.queue.policy import Policy
from zcluster.core.queue.told import Submission
from zcluster.errors import StoreFailed, ZClusterError
from zcluster.store.jobs_memory import MemoryJobs

KEY = "k" * 40
NOW, WALL_S = 1000.0, 2e9
PARTS = 10_000


class NoNodes:
    """A cluster without nodes."""

    def get(self, name: str) -> None:
        return None

    def having(self, function: str) -> tuple[()]:
        return ()


class Owner:
    """Who submits, and is told."""

    key, admin = KEY, False

    def accepted(self, submission: Submission) -> None: ...
    def known(self, id_: int, job: Job, before: bool) -> None: ...
    def refused(self, first_id: int, count: int, error: ZClusterError) -> None: ...


class Machine:
    """A machine with the store of reference."""

    def __init__(self) -> None:
        self.store = MemoryJobs()
        self.queue = self.opened()
        self.owner = Owner()

    def opened(self) -> JobQueue:
        return JobQueue(self.store.opened_now(), "master", Policy(), NoNodes(), lambda job: None, lambda: 0.5, NOW, WALL_S)

    def job(self, parts: int = 0) -> tuple[list[Job], list[Job]]:
        def make(lane: str) -> Job:
            return Job(0, "f", "w*", lane, 5, KEY, "laptop", b"{}", WALL_S, retention_s=3600.0)

        whole = make("any:f" if not parts else "")
        whole.parts = whole.parts_left = parts
        return [whole], [make(f"node:w{index}") for index in range(parts)]

    def submit(self, parts: int = 0) -> int:
        jobs, nodes = self.job(parts)
        assert self.queue.refusal(KEY, 1 + parts, 0) is None
        self.queue.submit(self.owner, 1, jobs, nodes)
        return jobs[0].number

    def order(self, op: Any, *numbers: int) -> None:
        for number in numbers:
            self.queue.orders.put(Order(op, number, self.owner, number, 3600.0), NOW, WALL_S)

    def settle(self) -> int:
        """Commit until nothing waits; returns how many commits that took."""
        commits = 0
        while (batch := self.queue.take_batch(NOW, WALL_S)) is not None:
            self.queue.done(self.store.commit_now(batch), NOW, WALL_S)
            commits += 1
        assert not self.queue.live
        return commits

    def answers(self) -> list[Any]:
        """What orders were answered since the last time."""
        answers, self.queue.told.answers = self.queue.told.answers, []
        return [(number, error) for _, number, _, error in answers]

    def counts(self) -> dict[State, int]:
        stored = {State(state): count for state, count in self.store.opened_now().counts.items() if count}
        assert stored == {state: count for state, count in self.queue.counts.items() if count}
        return stored


def test_more_submissions_than_a_commit_takes() -> None:
    machine = Machine()
    for count, commits in ((MAX_BATCH_JOBS, 1), (MAX_BATCH_JOBS + 1, 2)):
        before = len(machine.queue.told.accepted)
        for _ in range(count):
            machine.submit()
        assert machine.settle() == commits
        assert len(machine.queue.told.accepted) == before + count
    assert machine.counts() == {State.QUEUED: 2 * MAX_BATCH_JOBS + 1}
    assert machine.queue.refusal(KEY, 65_536, 0) is None


def test_a_failure_concerns_what_was_in_the_commit() -> None:
    machine = Machine()
    for _ in range(MAX_BATCH_JOBS + 10):
        machine.submit()
    batch = machine.queue.take_batch(NOW, WALL_S)
    assert batch is not None
    assert len(batch.insert) == MAX_BATCH_JOBS
    machine.queue.failed(StoreFailed("the disk is full"), NOW, WALL_S)
    assert sum(count for _, _, count, _ in machine.queue.told.refused) == MAX_BATCH_JOBS
    batch = machine.queue.take_batch(NOW + 2, WALL_S)
    assert batch is not None
    machine.queue.done(machine.store.commit_now(batch), NOW, WALL_S)
    assert machine.settle() >= 0
    assert machine.counts() == {State.QUEUED: 10}


def test_two_large_fan_outs_are_cancelled_put_back_and_dropped() -> None:
    machine = Machine()
    wholes = [machine.submit(PARTS), machine.submit(PARTS)]
    machine.settle()
    parts = [number for whole in wholes for number in range(whole + 1, whole + 1 + PARTS)]
    machine.order("cancel", *parts)
    machine.settle()
    assert machine.answers() == [(number, None) for number in parts]
    assert machine.counts() == {State.CANCELLED: 2 * PARTS + 2}
    machine.order("retry", *parts, *wholes)  # the wholes last: one without live parts would end at once
    machine.settle()
    assert sorted(number for number, error in machine.answers() if error is None) == sorted([*wholes, *parts])
    assert machine.counts() == {State.QUEUED: 2 * PARTS + 2}
    machine.order("cancel", *parts)
    machine.settle()
    assert len(machine.answers()) == 2 * PARTS
    assert machine.counts() == {State.CANCELLED: 2 * PARTS + 2}


def test_more_drops_than_a_commit_takes() -> None:
    machine = Machine()
    numbers = [machine.submit() for _ in range(MAX_FETCHED + 5)]
    machine.settle()
    machine.order("cancel", *numbers)
    machine.settle()
    machine.answers()
    machine.order("drop", *numbers)
    machine.settle()
    assert sorted(machine.answers()) == [(number, None) for number in numbers]
    assert not machine.store.committed().jobs
