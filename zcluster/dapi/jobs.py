"""Which calls are running, and when they end: the bookkeeping of the runner, without threads, tasks or a clock.

Rules kept here:
- a call is in the table from its start until it is taken out, and it is taken out once: whoever takes it out reports
  its end, and everyone who comes later finds nothing (a result after a cancel, a cancel after a deadline...);
- time comes in as an argument; deadlines are answered by ``next_deadline`` and ``expired`` alone;
- memory is bounded by the calls that are live: the heap is rebuilt when most of it belongs to ended calls.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from zcluster.errors import UsageError
from zcluster.wire import Mark

if TYPE_CHECKING:
    from zcluster.dapi.function import Function

INITIAL_CREDIT_ITEMS = 16
"""How many items a stream may send before the first grant."""

Body = bytes | bytearray
"""Arguments as they came: whole in one message, or gathered from chunks."""

_HEAP_SLACK = 64


@dataclass(slots=True)
class Job:
    """One call to run.

    Attributes:
        id: its number, unique among the jobs that are in flight.
        function: what to run.
        body: the arguments, one JSON object (empty or null: none).
        deadline_s: on the runner's clock.
        caller: name of the key that asked.
        role: that key's role.
        request_id: ``SESSION.ID``.
        mark: which durable job it is an attempt of, or None.
        held: the names of all roles whose rights hold for it; empty where that is ``role`` alone.
    """

    id: int
    function: Function
    body: Body
    deadline_s: float
    caller: str
    role: str
    request_id: str
    mark: Mark | None = None
    held: tuple[str, ...] = ()


class AnyJob(Protocol):
    """What the runner reads of a job: a :class:`Job`, or anything with its attributes."""

    @property
    def id(self) -> int: ...
    @property
    def function(self) -> Function: ...
    @property
    def body(self) -> Body: ...
    @property
    def deadline_s(self) -> float: ...
    @property
    def caller(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def mark(self) -> Mark | None: ...
    @property
    def held(self) -> tuple[str, ...]: ...


class Call(Protocol):
    """A job in the hands of one of the executors."""

    @property
    def job(self) -> AnyJob:
        """What is being run."""

    @property
    def deadline_s(self) -> float:
        """The job's deadline, capped by the function's own."""

    def stop(self) -> bool:
        """End it as far as that is possible; called once. Returns whether it had started (when not, it never will)."""

    def grant(self, items_upto: int) -> None:
        """Allow a stream that many items in total; nothing to do for what is no stream."""


class JobTable:
    """The calls in flight."""

    def __init__(self) -> None:
        self._live: dict[int, Call] = {}
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._live)

    def add(self, call: Call) -> None:
        """Put ``call`` into flight; raises UsageError when its id is in flight already."""
        job_id = call.job.id
        if job_id in self._live:
            raise UsageError(f"job {job_id} is in flight already", hint="give each job a number of its own")
        self._live[job_id] = call
        heapq.heappush(self._heap, (call.deadline_s, job_id))
        if len(self._heap) > 2 * len(self._live) + _HEAP_SLACK:
            self._heap = [(live.deadline_s, live.job.id) for live in self._live.values()]
            heapq.heapify(self._heap)

    def get(self, job_id: int) -> Call | None:
        """The call with this id, if it is in flight."""
        return self._live.get(job_id)

    def holds(self, call: Call) -> bool:
        """Whether exactly this call is in flight (its id may have been used again)."""
        return self._live.get(call.job.id) is call

    def take(self, call: Call) -> bool:
        """Take ``call`` out. True once; False ever after: then its end was already reported."""
        if self._live.get(call.job.id) is not call:
            return False
        del self._live[call.job.id]
        return True

    def all(self) -> list[Call]:
        """Every call in flight."""
        return list(self._live.values())

    def next_deadline(self) -> float | None:
        """The earliest deadline in flight, or None."""
        while self._heap:
            deadline_s, job_id = self._heap[0]
            call = self._live.get(job_id)
            if call is not None and call.deadline_s == deadline_s:
                return deadline_s
            heapq.heappop(self._heap)
        return None

    def expired(self, now: float) -> list[Call]:
        """The calls whose deadline is at or before ``now``, earliest first; they stay in flight until taken."""
        found: list[Call] = []
        while (deadline_s := self.next_deadline()) is not None and deadline_s <= now:
            found.append(self._live[heapq.heappop(self._heap)[1]])
        return found
