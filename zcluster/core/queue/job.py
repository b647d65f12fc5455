"""A durable job: what is known of it. Plain data; transitions.py is the only place that changes its state.

Rules kept here:
- a job has one number for good; what was asked never changes, what became of it does;
- a *part* is the job of one node of a fan-out (``parent`` is set); the fan-out itself never runs (``parts`` is set);
- *queue time* is a clock of its own in seconds that no change of the machine's clock moves (clock.py): delays, back-off, expiry
  and retention are on it. Times named ``_s`` are seconds since 1970: they are for people, and for ``at_s``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

MAX_STEPS = 200
"""Steps that are kept of one job: of one with more, the first and the last."""
ANY_LANE = "any:"
NODE_LANE = "node:"


class State(IntEnum):
    """Where a job is. The numbers are those of the wire and of the database."""

    QUEUED = 0
    """It waits: for its time, for its turn, for a node."""
    LEASED = 1
    """An attempt is counted on disk, and belongs to a node, which has not got it yet."""
    RUNNING = 2
    """The node has it."""
    DONE = 3
    FAILED = 4
    CANCELLED = 5
    EXPIRED = 6
    DEAD = 7

    __hash__ = int.__hash__  # an enumeration's own is Python, and each job is counted by its states several times

    @property
    def word(self) -> str:
        return self.name.lower()


FINAL = State.DONE
"""States from here on are final."""
WORDS = {state.word: state for state in State}


class Step(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One transition."""

    state: int
    at_s: float
    node: str = ""
    attempt: int = 0
    error: dict[str, Any] | None = None
    """Why an attempt ended without a value, or the job without an outcome of its own."""


class Job(msgspec.Struct, eq=False, gc=False):
    """One job. ``lane`` is where it waits: ``any:FUNCTION`` or ``node:NAME``; a fan-out has none."""

    number: int
    function: str
    target: str
    lane: str
    priority: int
    key: str
    """Public key of who asked."""
    caller: str
    """And the name of that key."""
    body: bytes
    """The arguments as they came."""
    accepted_s: float
    retries: int = 3
    timeout_s: float = 0.0
    """Of each attempt."""
    retention_s: float = 0.0
    expires: float = 0.0
    """Queue time; 0: never."""
    idempotency_key: str = ""
    digest: bytes = b""
    """Of what was asked (blake2b_128), when there is an idempotency key."""
    sequence: str = ""
    parent: int = 0
    parts: int = 0

    state: State = State.QUEUED
    due: float = 0.0
    """Queue time before which it does not run; 0: it may."""
    at_s: float = 0.0
    """Wall time before which it does not run; 0: it may."""
    blocked: bool = False
    """An older job of its sequence is not final. Kept by the store."""
    attempt: int = 0
    """How often it was given to a node."""
    failures: int = 0
    """Attempts that count against ``retries``."""
    deaths: int = 0
    """Nodes that were lost with it."""
    node: str = ""
    """That has it, or had it last."""
    steps: list[Step] = []
    result: bytes = b""
    """The value, or the error, as JSON; only of a final job."""
    ended: float = 0.0
    """Queue time."""
    parts_left: int = 0
    """Of a fan-out: parts that are not final. Kept by the store."""
    role: str = "client"
    """Of who asked, when it was asked (never changes): a key that a worker carries has less than its own, and so has its job."""

    lost: int = 0
    """Bytes of its arguments that the store could not read: they are counted, and are not in ``body``."""

    @property
    def final(self) -> bool:
        return self.state >= FINAL

    @property
    def ready(self) -> bool:
        """Whether it waits for nothing but a node."""
        return self.state == State.QUEUED and not self.due and not self.at_s and not self.blocked and not self.parts

    @property
    def rank(self) -> tuple[int, int]:
        """The order within a lane: the highest priority first, then the oldest."""
        return (9 - self.priority, self.number)

    @property
    def identity(self) -> str:
        """What no other job has: the asker's key, the function and the idempotency key; empty without one. A key of another asker
        is another key: nobody learns of, or takes, what others have."""
        return f"{self.key} {self.function} {self.idempotency_key}" if self.idempotency_key and not self.parent else ""

    @property
    def line(self) -> str:
        """Its sequence, which is one of the asker's own; empty without one."""
        return f"{self.key} {self.sequence}" if self.sequence else ""

    @property
    def size(self) -> int:
        """Of its arguments, as the usage of its key counts them."""
        return len(self.body) + self.lost
