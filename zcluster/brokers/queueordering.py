"""What one call of ``queue.cancel``, ``queue.retry`` and ``queue.drop`` does to its jobs: a slice at a time.

Rules kept here:
- a call deals with at most MAX_ORDERED jobs, the parts of fan-outs among them; what is beyond is refused before it is read;
- at most SLICE_JOBS orders, or SLICE_BYTES of arguments, are under way for a call: other work comes in between;
- what is put back is taken as new jobs are: not while the queue is drained, cannot be written, or is full;
- of a fan-out all parts are put back, or none; the whole goes last: without a part that is live it would end at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from zcluster.brokers.queue import MasterQueue
from zcluster.core.queue.following import Follower
from zcluster.core.queue.job import Job, State
from zcluster.core.queue.orders import Op, Order
from zcluster.errors import Busy, ZClusterError
from zcluster.store.jobs import MAX_PAGE, Query

MAX_ORDERED = 20_000
SLICE_JOBS = 1024
SLICE_BYTES = 16 * 1024 * 1024
FEWER_S = 1.0


@dataclass(frozen=True)
class Wanted:
    """What one id stands for: jobs of one key with arguments of one size."""

    id: str
    numbers: list[int]
    key: str
    size: int


class Ordering:
    """One call. ``owner``: whose rights it has."""

    def __init__(self, queue: MasterQueue, op: Op, owner: Follower) -> None:
        self._queue, self._op, self._owner = queue, op, owner
        self._left = MAX_ORDERED
        self._wanted: list[Wanted] = []

    async def add(self, id_: str, job: Job) -> None:
        """This job, or of a fan-out its parts, too. Raises Busy: too many in one call."""
        whole = not job.parts or self._op == "drop"
        count = 1 if whole else job.parts
        if count > self._left:
            what = f"these ids are more than {MAX_ORDERED} jobs, with the parts of fan-outs"
            raise Busy(what, hint="give fewer ids in one call", retry_after_s=FEWER_S)
        self._left -= count
        numbers = [job.number] if whole else await self._parts(job)
        self._wanted.append(Wanted(id_, numbers, job.key, len(job.body)))

    def add_unread(self, id_: str, number: int) -> None:
        """A job that cannot be read: it can be cancelled and dropped nevertheless."""
        self._left -= 1
        self._wanted.append(Wanted(id_, [number], "", 0))

    async def carry_out(self) -> dict[str, ZClusterError | None]:
        """Do it; returns what speaks against each id."""
        told: dict[str, ZClusterError | None] = {}
        for slice_ in self._slices():
            taken = self._taken(slice_, told) if self._op == "retry" else slice_
            await self._carry_out(taken, told)
        return told

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _parts(self, whole: Job) -> list[int]:
        """The numbers of a fan-out's jobs that are to be dealt with."""
        cancel = self._op == "cancel"
        numbers: list[int] = []
        query = Query(parent=whole.number, limit=MAX_PAGE)
        while True:
            page = await self._queue.store.list(query)
            for part in page.jobs:
                if not part.final if cancel else part.final and part.state != State.DONE:
                    numbers.append(part.number)
            if not page.next:
                break
            query = Query(parent=whole.number, limit=MAX_PAGE, before=page.next)
        if not numbers:
            return [whole.number]  # whose state says why not
        return numbers if cancel else [*numbers, whole.number]

    def _slices(self) -> Iterator[list[Wanted]]:
        """What is dealt with together; one that is too much for that is alone."""
        slice_: list[Wanted] = []
        jobs = size = 0
        for wanted in self._wanted:
            count = len(wanted.numbers)
            if slice_ and (jobs + count > SLICE_JOBS or size + count * wanted.size > SLICE_BYTES):
                yield slice_
                slice_, jobs, size = [], 0, 0
            slice_.append(wanted)
            jobs, size = jobs + count, size + count * wanted.size
        if slice_:
            yield slice_

    def _taken(self, slice_: Sequence[Wanted], told: dict[str, ZClusterError | None]) -> list[Wanted]:
        """Those that may be put back now; why not is ``told`` of the others."""
        taken: list[Wanted] = []
        sums: dict[str, tuple[int, int]] = {}
        for wanted in slice_:
            jobs, size = sums.get(wanted.key, (0, 0))
            count = len(wanted.numbers)
            total = jobs + count, size + count * wanted.size
            error = self._queue.queue.refusal(wanted.key, *total)
            if error is not None:
                told[wanted.id] = error
            else:
                sums[wanted.key] = total
                taken.append(wanted)
        return taken

    async def _carry_out(self, slice_: Sequence[Wanted], told: dict[str, ZClusterError | None]) -> None:
        whose = [wanted for wanted in slice_ for _ in wanted.numbers]
        orders = [self._order(number) for wanted in slice_ for number in wanted.numbers]
        step = SLICE_JOBS
        if len(slice_) == 1:
            step = min(step, max(1, SLICE_BYTES // max(1, slice_[0].size)))
        for first in range(0, len(orders), step):
            try:
                answers = await self._queue.order(orders[first : first + step])
            except asyncio.CancelledError:
                # Nobody waits any more. The rest stays as it is, but parts that went back go back with their whole.
                if self._op == "retry" and first + step < len(orders):
                    now, wall_s = self._queue.clocks()
                    ticket = asyncio.get_running_loop().create_future()
                    self._queue.queue.orders.put(replace(orders[-1], ticket=ticket), now, wall_s)
                raise
            for wanted, (_, _, error) in zip(whose[first:], answers, strict=False):
                # Of a fan-out some parts end by themselves meanwhile: that is no refusal of the whole.
                if error is None or wanted.id not in told:
                    told[wanted.id] = error

    def _order(self, number: int) -> Order:
        return Order(self._op, number, self._owner, None, self._queue.admission.defaults.expires_s)
