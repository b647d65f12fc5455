"""Leases: which there are and when each ends, and the timer that ends them.

Rules kept here:
- time is what the store's clock says; a lease whose time has come takes nothing more, even before its keys are gone;
- keeping a lease alive writes nothing: only that it exists, and how long it lasts, is kept on disk;
- an end that could not be committed is tried again; until then its keys stay, and it cannot be kept alive.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable, Iterable

from zcluster.errors import Busy, NoSuchLease, StoreFailed
from zcluster.store.interface import MAX_LEASES, Lease

RETRY_S = 1.0
"""After an end that could not be committed."""
LONGEST_SLEEP_S = 3600.0
SWEEP_AT = 1024
"""Leases that were revoked and may still be in the order."""

log = logging.getLogger("zcluster.store")


class Leases:
    """The leases of a store; ``end`` commits the end of one and raises StoreFailed when it cannot."""

    def __init__(self, clock: Callable[[], float], end: Callable[[int], Awaitable[None]]) -> None:
        self._clock = clock
        self._end = end
        self._ttl_s: dict[int, float] = {}
        self._ends_s: dict[int, float] = {}
        self._order: list[tuple[float, int]] = []
        """A lease's entry here is at or before its end: keeping it alive touches only ``_ends_s``."""
        self._unended: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._ends_s) + len(self._unended)

    def check_room(self) -> None:
        """Raises Busy when there may be no more leases."""
        if len(self) >= MAX_LEASES:
            raise Busy(f"the store has {len(self)} leases (at most {MAX_LEASES})", hint="try again when some have ended")

    def add(self, leases: Iterable[Lease]) -> None:
        """They last their ttl_s from now."""
        now = self._clock()
        for lease in leases:
            self._ttl_s[lease.id] = lease.ttl_s
            self._ends_s[lease.id] = now + lease.ttl_s
            heapq.heappush(self._order, (now + lease.ttl_s, lease.id))
        self._arm()

    def check(self, lease: int) -> None:
        """Raises NoSuchLease unless ``lease`` is alive."""
        end_s = self._ends_s.get(lease)
        if end_s is None or self._clock() >= end_s:
            raise NoSuchLease(f"the lease {lease} has ended", hint="grant another")

    def keep(self, lease: int) -> None:
        """It lasts its ttl_s from now. Raises NoSuchLease."""
        self.check(lease)
        self._ends_s[lease] = self._clock() + self._ttl_s[lease]

    async def revoke(self, lease: int) -> None:
        """End ``lease`` now. Raises NoSuchLease, StoreFailed (then it is ended later)."""
        self.check(lease)
        self._take(lease)
        await self._finish(lease)

    async def run_due(self) -> None:
        """End the leases whose time has come. Raises StoreFailed."""
        for lease in self._due():
            self._take(lease)
        for lease in sorted(self._unended):
            await self._finish(lease)

    async def close(self) -> None:
        """End none any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _take(self, lease: int) -> None:
        del self._ends_s[lease], self._ttl_s[lease]
        self._unended.add(lease)
        if len(self._order) > 2 * len(self._ends_s) + SWEEP_AT:
            self._order = [(end_s, other) for other, end_s in self._ends_s.items()]
            heapq.heapify(self._order)

    async def _finish(self, lease: int) -> None:
        try:
            await self._end(lease)
        except StoreFailed:
            self._arm()
            raise
        self._unended.discard(lease)

    def _due(self) -> list[int]:
        now, due = self._clock(), []
        while self._order and self._order[0][0] <= now:
            _, lease = heapq.heappop(self._order)
            end_s = self._ends_s.get(lease)
            if end_s is None:
                continue
            if end_s <= now:
                due.append(lease)
            else:
                heapq.heappush(self._order, (end_s, lease))
        return due

    def _arm(self) -> None:
        if self._closed or self._task is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unended:
            delay_s = RETRY_S
        elif self._order:
            delay_s = min(max(self._order[0][0] - self._clock(), 0.0), LONGEST_SLEEP_S)
        else:
            return
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            await self.run_due()
        except StoreFailed as error:
            log.error("ending leases failed, to be tried again: %s", error)
        finally:
            self._task = None
            self._arm()
