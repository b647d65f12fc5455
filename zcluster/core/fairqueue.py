"""Requests that wait for one target.

Rules kept here:
- a higher priority is served first;
- within a priority callers take turns of at most TURN requests, so 100,000 requests of one caller delay another's
  single one by one turn;
- a caller for whom nothing has waited since the others' turns went round has its first turn before them: who asks little
  does not wait for those who ask much (the new and the old flows of RFC 8290). Callers come and go without an end, so after
  NEW_IN_A_ROW such turns one of the others has its;
- requests of one turn are for one function: what its caller may have of that is asked once;
- a caller who has its share of the target's slots already is passed over, and keeps its place;
- adding and removing are constant time, taking too but for those that are passed over; who has nothing waiting any more leaves
  at most a place, and of those there are few.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Generic, Protocol, TypeVar

PRIORITIES = 10
TURN = 32
"""Requests that a caller may take in one turn: a batch, so that fairness does not cost the batching."""
NEW_IN_A_ROW = 8
MAX_PLACES = 64
"""Callers of one priority that keep a place although nothing of theirs waits: beyond that the oldest are new ones again."""


class Asked(Protocol):
    """What requests that were made together have in common."""

    @property
    def function(self) -> str: ...


class Waiting(Protocol):
    """What the queue needs to know of a request."""

    @property
    def group(self) -> Asked: ...
    @property
    def priority(self) -> int: ...
    @property
    def caller_no(self) -> int: ...


R = TypeVar("R", bound=Waiting)


class _Level(Generic[R]):
    """The lines of one priority, by caller, in the order of their turns."""

    __slots__ = ("_in_a_row", "_places", "new", "old")

    def __init__(self) -> None:
        self.new: OrderedDict[int, OrderedDict[R, None]] = OrderedDict()
        """Have had no turn yet; never empty."""
        self.old: OrderedDict[int, OrderedDict[R, None]] = OrderedDict()
        """Have had one. An empty line keeps its place until it would be its turn: only then is its caller a new one again."""
        self._places: OrderedDict[int, None] = OrderedDict()
        """The callers whose lines are empty, as they became so."""
        self._in_a_row = 0
        """How many turns of new ones there were since one of the old ones."""

    def line_of(self, caller_no: int) -> OrderedDict[R, None]:
        """The caller's line, to be added to; made when there is none."""
        line = self.old.get(caller_no)
        if line is not None:
            self._places.pop(caller_no, None)
            return line
        line = self.new.get(caller_no)
        if line is None:
            line = self.new[caller_no] = OrderedDict()
        return line

    def remove(self, request: R) -> None:
        """Take out one that waits."""
        caller_no = request.caller_no
        line = self.old.get(caller_no) or self.new[caller_no]
        del line[request]
        if not line:
            if caller_no in self.new:
                self.old[caller_no] = self.new.pop(caller_no)
            self._keep_place(caller_no)

    def had_turn(self, caller_no: int) -> None:
        """The caller's next turn is behind all others'."""
        line = self.new.pop(caller_no, None)
        if line is None:
            self._in_a_row = 0
            self.old.move_to_end(caller_no)
        else:
            self._in_a_row += 1
            self.old[caller_no] = line
        if not self.old[caller_no]:
            self._keep_place(caller_no)

    def next_line(self, allowance: Callable[[R], int]) -> tuple[int, OrderedDict[R, None], int] | None:
        """Whose turn it is, the line, and how many are allowed; None when nobody may go. Empty lines before it are dropped."""
        if self._in_a_row < NEW_IN_A_ROW:
            return self._first(self.new, allowance) or self._first(self.old, allowance)
        return self._first(self.old, allowance) or self._first(self.new, allowance)

    def _first(
        self, lines: OrderedDict[int, OrderedDict[R, None]], allowance: Callable[[R], int]
    ) -> tuple[int, OrderedDict[R, None], int] | None:
        over: list[int] = []
        found = None
        for caller_no, line in lines.items():
            if not line:
                over.append(caller_no)
            elif (count := allowance(next(iter(line)))) > 0:
                found = caller_no, line, count
                break
        for caller_no in over:
            del lines[caller_no], self._places[caller_no]
        return found

    def _keep_place(self, caller_no: int) -> None:
        self._places[caller_no] = None
        if len(self._places) > MAX_PLACES:
            del self.old[self._places.popitem(last=False)[0]]


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
        self._levels[request.priority].remove(request)
        self._less(1)

    def take(self, wanted: int, allowance: Callable[[R], int]) -> list[R]:
        """Take up to ``wanted`` requests of the caller whose turn it is.

        Args:
            wanted: how many the target can start.
            allowance: how many more requests of a caller the target may start, given the first that waits; 0 passes it over.

        Returns:
            Requests of one caller, one priority and one function, in their order; empty when nobody may go.
        """
        if wanted <= 0:
            return []
        for priority in sorted(self._levels, reverse=True):
            level = self._levels[priority]
            if (found := level.next_line(allowance)) is not None:
                caller_no, line, allowed = found
                out = _alike(line, min(wanted, TURN, allowed))
                level.had_turn(caller_no)
                self._less(len(out))
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


def _alike(line: OrderedDict[R, None], most: int) -> list[R]:
    """Take out the first ones, as far as they are for one function."""
    out: list[R] = []
    group: Asked | None = None
    for request in islice(line, most):
        if request.group is not group:
            if group is not None and request.group.function != group.function:
                break
            group = request.group
        out.append(request)
    for request in out:
        del line[request]
    return out
