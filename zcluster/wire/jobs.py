"""The messages about durable jobs, typed. docs/protocol.md ("Jobs") says how they follow each other.

Rules kept here:
- a client's numbers of its submissions grow within a session, apart from those of its requests;
- ACCEPTED is sent when what it says is on disk, and OUTCOMES likewise: what they say, a restart does not take back;
- the numbers of jobs are the master's, and mean nothing without the ``store`` that they are of.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from zcluster.wire.trees import MAX_ID, Count

Number = Annotated[int, Meta(ge=1, le=MAX_ID)]
Millis = Annotated[int, Meta(ge=0, le=MAX_ID)]
Word = Annotated[str, Meta(max_length=128)]
Text = Annotated[str, Meta(max_length=4000)]
StoreId = Annotated[str, Meta(max_length=8)]
IdempotencyKey = Annotated[str, Meta(max_length=256)]
Sizes = Annotated[list[Count], Meta(min_length=1, max_length=4096)]


class JobFlag:
    """Bits of ``flags`` in a group of JOBS."""

    FAN_OUT = 1
    """The target may mean several nodes: one job with a part for each of them."""


class JobGroup(Struct, array_like=True):
    """Submissions that are alike but for their arguments and idempotency keys, with consecutive ids."""

    function: Word
    target: Annotated[str, Meta(max_length=8192)]
    priority: Annotated[int, Meta(ge=0, le=9)]
    flags: Annotated[int, Meta(ge=0, le=255)]
    delay_ms: Millis
    """Not before so long after its acceptance; 0: at once."""
    at_ms: Millis
    """Not before this time (since 1970); 0: at once."""
    expires_ms: Millis
    """It ends as ``expired`` when it still waits so long after it was accepted, or after its delay; 0: as configured."""
    retries: Annotated[int, Meta(ge=0, le=100)]
    timeout_ms: Millis
    """The deadline of each attempt; 0: as the master is configured."""
    retention_ms: Millis
    """How long its outcome is kept; 0: as the master is configured."""
    sequence: Word
    """Jobs of one sequence run one at a time, in the order of their acceptance; empty: none."""
    first_id: Number
    sizes: Sizes
    keys: Annotated[list[IdempotencyKey], Meta(max_length=4096)] | None = None
    """An idempotency key for each member (empty: none)."""


class Jobs(Struct, frozen=True, array_like=True):
    """Client to master: accept these. Bodies (the arguments, one JSON object each, or nothing) follow the header."""

    kind: ClassVar[int] = 65
    groups: Annotated[list[JobGroup], Meta(max_length=4096)]


class AcceptedGroup(Struct, array_like=True):
    """Consecutive ids and the consecutive numbers that they got."""

    first_id: Number
    first_number: Number
    count: Number


class KnownJob(Struct, array_like=True):
    """A submission whose idempotency key belongs to a job that is there already."""

    id: Number
    number: Number


class JobRefusal(Struct, array_like=True):
    """Consecutive ids that were not accepted, and why."""

    first_id: Number
    count: Number
    code: Word
    message: Text
    hint: Text
    retry_after_s: float | None


class Accepted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to client: what became of submissions. The jobs are on disk."""

    kind: ClassVar[int] = 66
    store: StoreId
    """With the number, the id of a job: ``STORE-NUMBER``."""
    groups: Annotated[list[AcceptedGroup], Meta(max_length=4096)] = []
    known: Annotated[list[KnownJob], Meta(max_length=4096)] = []
    refused: Annotated[list[JobRefusal], Meta(max_length=4096)] = []


class Follow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Client to master: tell me the outcomes of these jobs, once each, when there are some; with ``stop``: no longer."""

    kind: ClassVar[int] = 67
    store: StoreId
    numbers: Annotated[list[Number], Meta(min_length=1, max_length=4096)]
    stop: bool = False


class OutcomeGroup(Struct, array_like=True):
    """Jobs with consecutive numbers that ended alike. A body is the value (``done``) or the error, as JSON."""

    first_number: Number
    state: Annotated[int, Meta(ge=3, le=7)]
    node: Word
    attempt: Count
    sizes: Sizes


class LargeOutcome(Struct, array_like=True):
    """A job whose value is too large to be told: the function ``queue.result`` gives it."""

    number: Number
    state: Annotated[int, Meta(ge=3, le=7)]
    node: Word
    attempt: Count
    size: Count


class Outcomes(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to client: how jobs that it follows have ended."""

    kind: ClassVar[int] = 68
    store: StoreId
    groups: Annotated[list[OutcomeGroup], Meta(max_length=4096)] = []
    large: Annotated[list[LargeOutcome], Meta(max_length=4096)] = []
    unknown: Annotated[list[Number], Meta(max_length=4096)] = []
    """There is no such job (any more), or it is not this client's."""


JobMessage = Jobs | Accepted | Follow | Outcomes
JOB_KINDS: tuple[type[JobMessage], ...] = (Jobs, Accepted, Follow, Outcomes)
JOB_BULK = frozenset({Outcomes.kind})
"""Kinds that go by the bulk lane: values are in them."""
SIZED_KINDS = frozenset({Jobs.kind, Outcomes.kind})
"""Kinds with groups whose ``sizes`` add up to the bodies."""
