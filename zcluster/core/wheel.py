"""Deadlines of many items, cheap to add and to take back.

Rules kept here:
- an item is never reported before its deadline, and at most one tick after it;
- adding and removing cost one dictionary operation each, whatever the number of items: most requests end long
  before their deadline, so removal is the common case (a heap would keep each of them until then);
- empty buckets are swept when they are many, so far deadlines leave nothing behind.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")

SWEEP_AT = 1024
"""Buckets that may be kept before the empty ones are swept."""


class Wheel(Generic[T]):
    """Items in buckets of ``tick_s`` seconds by deadline."""

    def __init__(self, tick_s: float = 0.01) -> None:
        self._tick_s = tick_s
        self._buckets: dict[int, dict[T, None]] = {}
        self._order: list[int] = []
        self._sweep_at = SWEEP_AT

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def add(self, deadline_s: float, item: T) -> None:
        """Remember ``item`` until ``deadline_s``; the same pair takes it back."""
        number = int(deadline_s / self._tick_s) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            if len(self._order) >= self._sweep_at:
                self._sweep()
            bucket = self._buckets[number] = {}
            heapq.heappush(self._order, number)
        bucket[item] = None

    def add_run(self, deadline_s: float, items: list[T]) -> None:
        """Remember several items with the same deadline."""
        self.add(deadline_s, items[0])
        if len(items) == 1:
            return
        self._buckets[int(deadline_s / self._tick_s) + 1].update(dict.fromkeys(items))

    def remove(self, deadline_s: float, item: T) -> None:
        """Forget ``item``; it need not be there any more."""
        bucket = self._buckets.get(int(deadline_s / self._tick_s) + 1)
        if bucket is not None:
            bucket.pop(item, None)

    def next_deadline(self) -> float | None:
        """When :meth:`expired` may next have something to say, or None."""
        order, buckets = self._order, self._buckets
        while order:
            if buckets[order[0]]:
                return order[0] * self._tick_s
            del buckets[heapq.heappop(order)]
        return None

    def expired(self, now: float) -> list[T]:
        """Take out the items whose deadline has passed, oldest bucket first."""
        out: list[T] = []
        while self._order and self._order[0] * self._tick_s <= now:
            out.extend(self._buckets.pop(heapq.heappop(self._order)))
        return out

    def _sweep(self) -> None:
        self._buckets = {number: bucket for number, bucket in self._buckets.items() if bucket}
        self._order = sorted(self._buckets)  # a sorted list is a heap
        self._sweep_at = max(SWEEP_AT, 2 * len(self._order))
