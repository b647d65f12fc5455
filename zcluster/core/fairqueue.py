"""Requests that wait for one target.

Rules kept here:
- a higher priority is served first;
- within a priority callers take turns of at most TURN requests, so 100,000 requests of one caller delay another's
  single one by one turn;
- a caller who has its share of the target's slots already is passed over, and keeps its place;
- adding, removing and taking are constant time, and a removed request leaves nothing behind.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

PRIORITIES = 10
TURN = 64
"""Requests that a caller may take in one turn: a batch, so that fairness does not cost the batching."""


class Waiting(Protocol):
    """What the queue needs to know of a request."""

    @property
    def priority(self) -> int: ...
    @property
    def caller_no(self) -> int: ...


R = TypeVar("R", bound=Waiting)


class FairQueue(Generic[R]):
    """Ten priorities of turns between callers."""

    __slots__ = ("_count", "_levels")

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[int, OrderedDict[R, None]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, request: R, *, front: bool = False) -> None:
        """Add ``request`` behind (or, for one that was already under way, before) its caller's others."""
        line = self._line(request)
        line[request] = None
        if front:
            line.move_to_end(request, last=False)
        self._count += 1

    def push_run(self, requests: list[R]) -> None:
        """Add requests of one caller and one priority, in their order."""
        self._line(requests[0]).update(dict.fromkeys(requests))
        self._count += len(requests)

    def remove(self, request: R) -> None:
        """Take out ``request``, which must be in the queue."""
        level = self._levels[request.priority]
        line = level[request.caller_no]
        del line[request]
        self._count -= 1
        if not line:
            self._drop_line(request.priority, request.caller_no)

    def take(self, wanted: int, allowance: Callable[[int], int]) -> list[R]:
        """Take up to ``wanted`` requests of the caller whose turn it is.

        Args:
            wanted: how many the target can start.
            allowance: how many more requests of a caller (by its number) the target may start; 0 passes it over.

        Returns:
            Requests of one caller and one priority, in their order; empty when nobody may go.
        """
        for priority in sorted(self._levels, reverse=True):
            level = self._levels[priority]
            for caller_no in level:
                count = min(wanted, TURN, allowance(caller_no))
                if count > 0:
                    return self._take_turn(priority, caller_no, count)
        return []

    def drain(self) -> list[R]:
        """Take out everything."""
        out = [request for level in self._levels.values() for line in level.values() for request in line]
        self._levels.clear()
        self._count = 0
        return out

    def _take_turn(self, priority: int, caller_no: int, count: int) -> list[R]:
        level = self._levels[priority]
        line = level[caller_no]
        out = [line.popitem(last=False)[0] for _ in range(min(count, len(line)))]
        self._count -= len(out)
        if line:
            level.move_to_end(caller_no)
        else:
            self._drop_line(priority, caller_no)
        return out

    def _line(self, request: R) -> OrderedDict[R, None]:
        level = self._levels.get(request.priority)
        if level is None:
            level = self._levels[request.priority] = OrderedDict()
        line = level.get(request.caller_no)
        if line is None:
            line = level[request.caller_no] = OrderedDict()
        return line

    def _drop_line(self, priority: int, caller_no: int) -> None:
        level = self._levels[priority]
        del level[caller_no]
        if not level:
            del self._levels[priority]
