"""Requests that wait for one target.

Rules kept here:
- a higher priority is served first;
- within a priority callers take turns of at most TURN requests, so 100,000 requests of one caller delay another's
  single one by one turn;
- a caller for whom nothing has waited since the others' turns went round has its first turn before them: who asks little
  does not wait for those who ask much (the new and the old flows of RFC 8290);
- a caller who has its share of the target's slots already is passed over, and keeps its place;
- adding, removing and taking are constant time, and when nothing waits any more nothing is left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

PRIORITIES = 10
TURN = 32
"""Requests that a caller may take in one turn: a batch, so that fairness does not cost the batching."""


class Waiting(Protocol):
    """What the queue needs to know of a request."""

    @property
    def priority(self) -> int: ...
    @property
    def caller_no(self) -> int: ...


R = TypeVar("R", bound=Waiting)


class _Level(Generic[R]):
    """The lines of one priority, by caller, in the order of their turns."""

    __slots__ = ("new", "old")

    def __init__(self) -> None:
        self.new: OrderedDict[int, OrderedDict[R, None]] = OrderedDict()
        """Have had no turn yet; never empty."""
        self.old: OrderedDict[int, OrderedDict[R, None]] = OrderedDict()
        """Have had one. An empty line keeps its place until it would be its turn: only then is its caller a new one again."""

    def line_of(self, caller_no: int) -> OrderedDict[R, None]:
        """The caller's line, made when there is none."""
        line = self.old.get(caller_no)
        if line is None:
            line = self.new.get(caller_no)
            if line is None:
                line = self.new[caller_no] = OrderedDict()
        return line

    def had_turn(self, caller_no: int) -> None:
        """The caller's next turn is behind all others'."""
        line = self.new.pop(caller_no, None)
        if line is None:
            self.old.move_to_end(caller_no)
        else:
            self.old[caller_no] = line

    def next_line(self, allowance: Callable[[R], int]) -> tuple[int, OrderedDict[R, None], int]:
        """Whose turn it is, the line, and how many are allowed; 0 when nobody may go. Empty lines before it are dropped."""
        for caller_no, line in self.new.items():
            if (count := allowance(next(iter(line)))) > 0:
                return caller_no, line, count
        passed: list[int] = []
        found: tuple[int, OrderedDict[R, None], int] = 0, OrderedDict(), 0
        for caller_no, line in self.old.items():
            if not line:
                passed.append(caller_no)
            elif (count := allowance(next(iter(line)))) > 0:
                found = caller_no, line, count
                break
        for caller_no in passed:
            del self.old[caller_no]
        return found


class FairQueue(Generic[R]):
    """Ten priorities of turns between callers."""

    __slots__ = ("_count", "_levels")

    def __init__(self) -> None:
        self._levels: dict[int, _Level[R]] = {}
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
        caller_no = request.caller_no
        line = level.old.get(caller_no) or level.new[caller_no]
        del line[request]
        if not line and caller_no in level.new:
            level.had_turn(caller_no)
        self._less(1)

    def take(self, wanted: int, allowance: Callable[[R], int]) -> list[R]:
        """Take up to ``wanted`` requests of the caller whose turn it is.

        Args:
            wanted: how many the target can start.
            allowance: how many more requests of a caller the target may start, given the first that waits; 0 passes it over.

        Returns:
            Requests of one caller and one priority, in their order; empty when nobody may go.
        """
        if wanted <= 0:
            return []
        for priority in sorted(self._levels, reverse=True):
            level = self._levels[priority]
            caller_no, line, allowed = level.next_line(allowance)
            if allowed > 0:
                count = min(wanted, TURN, allowed, len(line))
                out = [line.popitem(last=False)[0] for _ in range(count)]
                level.had_turn(caller_no)
                self._less(count)
                return out
        return []

    def drain(self) -> list[R]:
        """Take out everything."""
        lines = [line for level in self._levels.values() for line in (*level.new.values(), *level.old.values())]
        out = [request for line in lines for request in line]
        self._levels.clear()
        self._count = 0
        return out

    def _line(self, request: R) -> OrderedDict[R, None]:
        level = self._levels.get(request.priority)
        if level is None:
            level = self._levels[request.priority] = _Level()
        return level.line_of(request.caller_no)

    def _less(self, count: int) -> None:
        self._count -= count
        if not self._count:
            self._levels.clear()
