"""Durable jobs with faults, from seeds: nothing that was accepted is lost, and every job has one outcome."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from zcluster.core.queue import orders, transitions
from zcluster.core.queue.batch import Batch, Done
from zcluster.core.queue.clock import Mark
from zcluster.core.queue.ends import Ends
from zcluster.core.queue.following import Following
from zcluster.core.queue.job import Job, State
from zcluster.core.queue.lanes import Lane
from zcluster.core.queue.machine import JobQueue
from zcluster.core.queue.policy import Usage
from zcluster.sim import Report, SimulationFailed, simulate_queue
from zcluster.sim.queue import TROUBLES, QueueRun
from zcluster.sim.queue_master import SimMaster
from zcluster.sim.queue_oracle import Oracle
from zcluster.sim.world import World
from zcluster.store.jobs_memory import MemoryJobs

SEEDS = 60
BLOCK = 20


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_every_invariant_holds(first: int) -> None:
    for seed in range(first, first + BLOCK):
        simulate_queue(seed).check()


@pytest.mark.soak
def test_every_invariant_holds_in_long_runs() -> None:
    for seed in range(10_000, 20_000):
        simulate_queue(seed).check()
    for seed in range(20_000, 20_500):
        simulate_queue(seed, steps=150).check()


@pytest.mark.parametrize(
    "seed",
    [
        12,  # parts of a fan-out with an idempotency key were in their windows before the store knew of them
        20,  # a job was cancelled before it was inserted
        26,  # a job that a commit unblocked and read, both, was in its window twice
        35,  # a fan-out was put back and dropped together
        758,  # a job that was put back was told as its own outcome
        2086,  # a follower of a submission that was refused waited for good
    ],
)
def test_defects_that_were_found_here(seed: int) -> None:
    simulate_queue(seed).check()


def test_a_seed_is_a_run() -> None:
    for seed in range(6):
        told: list[str] = []
        first, again = simulate_queue(seed, say=told.append), simulate_queue(seed)
        assert first == again
        assert len(told) > 10
    assert simulate_queue(1).fingerprint != simulate_queue(2).fingerprint


def test_the_seeds_meet_every_trouble_and_outcome() -> None:
    troubles: set[str] = set()
    outcomes: set[str] = set()
    for seed in range(SEEDS):
        troubles.update(QueueRun(World(seed)).troubles)
        outcomes.update(name for name, count in simulate_queue(seed).outcomes.items() if count)
    assert troubles == set(TROUBLES)
    assert outcomes >= {state.word for state in State if state >= State.DONE}
    assert outcomes >= {"known keys", "late answers", "failed commits", "purged", "put back", "retry orders", "drop orders"}
    assert outcomes >= {"refused: key_conflict", "refused: store_failed", "refused: draining", "cancel orders"}


def breaks(seeds: int = 40) -> Report:
    """The first of some runs in which an invariant is broken."""
    return next(report for seed in range(seeds) if not (report := simulate_queue(seed)).ok)


def test_it_says_how_it_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "is_last", lambda job, loss: False)
    report = breaks()
    assert "failures" in report.summary
    with pytest.raises(SimulationFailed, match=f"zcluster sim --scenario queue --seed {report.seed}"):
        report.check()


def test_it_sees_attempts_that_are_sent_before_their_lease_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = JobQueue._lease

    def eager(self: JobQueue, job: Job, node: str) -> bool:
        given = lease(self, job, node)
        if given:
            self.starts.setdefault(node, deque()).append(job)
        return given

    monkeypatch.setattr(SimMaster, "_check_image", lambda self, batch, image: None)
    monkeypatch.setattr(Ends, "start", lambda self, job: None)

    monkeypatch.setattr(JobQueue, "_lease", eager)
    assert "is sent to" in breaks().summary


def test_it_sees_outcomes_that_are_told_before_they_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    succeed = transitions.succeed

    def hasty(job: Job, result: bytes, wall_s: float, now: float) -> None:
        succeed(job, result, wall_s, now)
        queues[-1].told.outcomes.update({follower: [job] for follower in queues[-1].following.ended(job)})

    queues: list[JobQueue] = []
    opened = JobQueue.__init__

    def remember(self: JobQueue, *args: Any, **kwargs: Any) -> None:
        opened(self, *args, **kwargs)
        queues.append(self)

    monkeypatch.setattr(JobQueue, "__init__", remember)
    monkeypatch.setattr(transitions, "succeed", hasty)
    assert "is told" in breaks().summary


def test_it_sees_jobs_that_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    commit_now = MemoryJobs.commit_now

    def forgetful(self: MemoryJobs, batch: Batch) -> Done:
        short = replace(batch, insert=batch.insert[:-1]) if len(batch.insert) > 5 else batch
        return commit_now(self, short)

    monkeypatch.setattr(MemoryJobs, "commit_now", forgetful)
    monkeypatch.setattr(Oracle, "check_quiet", lambda self, queue, store: None)
    assert "and not stored" in breaks().summary


def test_it_sees_two_jobs_of_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "identity", property(lambda self: ""))
    assert "have one key" in breaks(200).summary


def test_it_sees_sequences_that_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "line", property(lambda self: ""))
    assert "of sequence" in breaks().summary


def test_it_sees_jobs_that_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = JobQueue._ask_times

    def early(self: JobQueue, batch: Batch, now: float, wall_s: float) -> None:
        ask(self, batch, now, wall_s)
        if batch.due is not None:
            batch.due = (now + 1.0, wall_s)

    monkeypatch.setattr(JobQueue, "_ask_times", early)
    assert "is due at" in breaks().summary


@pytest.mark.parametrize(
    ("owner", "name", "instead", "said"),
    [
        (Lane, "_shorten", lambda self: [self.take(len(self.window))], "will never be read"),
        (Usage, "add", lambda self, key, jobs, size: None, "the usage is"),
        (Ends, "await_time", lambda self, job: None, "looked at is at"),
        (Following, "ended", lambda self, job: (), "waits for"),
        (orders.Orders, "failed", lambda self, error: None, "waits|not at rest|in memory"),
    ],
)
def test_it_sees_what_the_machine_forgets(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, instead: Callable[..., Any], said: str
) -> None:
    monkeypatch.setattr(owner, name, instead)
    assert any(word in breaks(100).summary for word in said.split("|"))


def test_it_sees_queue_time_that_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def anew(last: Mark | None, boot_id: str, boot_s: float, wall_s: float) -> float:
        return 1.0 - boot_s

    monkeypatch.setattr("zcluster.core.queue.clock.resume", anew)
    assert "queue time was" in breaks(100).summary
