"""The transitions of a job: the only place that changes its state. Each is recorded with its time, node and attempt.

Rules kept here:
- ALLOWED says which state may follow which; anything else is a bug and raises AssertionError;
- an attempt is counted when it is leased, before anything is sent;
- an attempt that ended without an outcome is followed by another after a back-off (exponential, full jitter), or by ``dead``:
  when more attempts have failed than ``retries``, when MAX_DEATHS nodes were lost with the job, or after MAX_ATTEMPTS in all;
- what is final stays so, until somebody puts the job back by hand; what is done stays done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from zcluster.core.queue.job import FINAL, MAX_STEPS, Job, State, Step

MAX_DEATHS = 3
MAX_ATTEMPTS = 1000
"""Attempts in all, those that count against nothing among them (a node that was busy, a master that was started again)."""
KEPT_FIRST = 20
"""Of a job with too many steps, so many first ones are kept."""

_RETRIED = frozenset({State.QUEUED})
ALLOWED: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.LEASED, *(state for state in State if state >= FINAL)}),
    State.LEASED: frozenset({State.RUNNING, State.QUEUED, State.CANCELLED, State.FAILED, State.DEAD}),
    State.RUNNING: frozenset({State.QUEUED, State.DONE, State.FAILED, State.CANCELLED, State.DEAD}),
    State.DONE: frozenset(),
    State.FAILED: _RETRIED,
    State.CANCELLED: _RETRIED,
    State.EXPIRED: _RETRIED,
    State.DEAD: _RETRIED,
}
"""QUEUED to DONE is for fan-outs, which never run themselves."""


class Loss(Enum):
    """How an attempt ended without an outcome."""

    FAILED = "failed"
    """It counts against ``retries``: it asked for another attempt, or was past its deadline."""
    DEATH = "death"
    """The node was lost with it: counts against ``retries``, and as a death."""
    NOTHING = "nothing"
    """It never started, or nobody knows and the job is not to blame: counts against MAX_ATTEMPTS alone."""


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts: the first up to ``base_s``, each up to twice the one before, none above ``max_s``."""

    base_s: float = 1.0
    max_s: float = 300.0

    def pause_s(self, failures: int, jitter: float) -> float:
        """The pause after so many failures; ``jitter`` is from 0 to 1 (full jitter)."""
        return float(min(self.max_s, self.base_s * 2 ** min(max(failures, 1) - 1, 40))) * jitter


def lease(job: Job, node: str, wall_s: float) -> None:
    """Count an attempt, and give it to ``node``."""
    job.attempt += 1
    job.node = node
    _go(job, State.LEASED, wall_s, node)


def unlease(job: Job) -> None:
    """Take back a lease that could not be committed: it never was."""
    assert job.state == State.LEASED, job.state
    job.attempt -= 1
    job.state = State.QUEUED
    job.steps.pop()
    job.node = job.steps[-1].node if job.steps else ""


def start(job: Job, wall_s: float) -> None:
    """Its node gets it."""
    _go(job, State.RUNNING, wall_s, job.node)


def succeed(job: Job, result: bytes, wall_s: float, now: float) -> None:
    """It has its value."""
    _end(job, State.DONE, wall_s, now, None)
    job.result = result


def fail(job: Job, error: Mapping[str, Any], result: bytes, wall_s: float, now: float) -> None:
    """It ended with an error that no other attempt would cure; ``result`` is the error as JSON."""
    _end(job, State.FAILED, wall_s, now, error)
    job.result = result


def is_last(job: Job, loss: Loss) -> bool:
    """Whether no attempt follows one that ends so."""
    if job.attempt >= MAX_ATTEMPTS:
        return True
    return loss is not Loss.NOTHING and (
        job.failures + 1 > job.retries or (loss is Loss.DEATH and job.deaths + 1 >= MAX_DEATHS)
    )


def lose(job: Job, loss: Loss, error: Mapping[str, Any], result: bytes, due: float, wall_s: float, now: float) -> None:
    """An attempt ended without an outcome: the job waits for another until ``due`` (queue time), or is dead.

    Args:
        error, result: why, as an object and as JSON.
    """
    last = is_last(job, loss)
    if loss is not Loss.NOTHING:
        job.failures += 1
    if loss is Loss.DEATH:
        job.deaths += 1
    if last:
        _end(job, State.DEAD, wall_s, now, error)
        job.result = result
    else:
        _go(job, State.QUEUED, wall_s, job.node, error)
        job.due = due


def cancel(job: Job, error: Mapping[str, Any], result: bytes, wall_s: float, now: float) -> None:
    """Nobody wants it any more."""
    _end(job, State.CANCELLED, wall_s, now, error)
    job.result = result


def expire(job: Job, error: Mapping[str, Any], result: bytes, wall_s: float, now: float) -> None:
    """Its time was over before an attempt succeeded."""
    _end(job, State.EXPIRED, wall_s, now, error)
    job.result = result


def gather(job: Job, state: State, result: bytes, error: Mapping[str, Any] | None, wall_s: float, now: float) -> None:
    """All parts of a fan-out have ended."""
    _end(job, state, wall_s, now, error)
    job.result = result


def wake(job: Job) -> None:
    """The time that it waited for has come."""
    assert job.state == State.QUEUED, job.state
    job.due = job.at_s = 0.0


def put_back(job: Job, expires: float, wall_s: float) -> None:
    """Somebody puts a final job back into the queue: its attempts count anew."""
    _go(job, State.QUEUED, wall_s)
    job.failures = job.deaths = 0
    job.due = job.at_s = job.ended = 0.0
    job.expires = expires
    job.node, job.result = "", b""


def _end(job: Job, state: State, wall_s: float, now: float, error: Mapping[str, Any] | None) -> None:
    _go(job, state, wall_s, job.node, error)
    job.ended = now
    job.due = job.at_s = 0.0


def _go(job: Job, state: State, wall_s: float, node: str = "", error: Mapping[str, Any] | None = None) -> None:
    assert state in ALLOWED[job.state], f"{job.state.word} to {state.word}"
    job.state = state
    steps = job.steps
    if len(steps) >= MAX_STEPS:
        del steps[KEPT_FIRST]
    steps.append(Step(state, wall_s, node, job.attempt, None if error is None else dict(error)))
