"""What of a copy has to be looked at again, and when.

Rules kept here:
- one look at a time; what is hinted at meanwhile waits for the next one, and nothing that was hinted at is forgotten;
- files that are too young for their timestamps to tell anything are looked at once more;
- everything is looked at once in a while, whatever was hinted at.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from zcluster.core.sync.effects import Effects, Look, Place

RECHECK_S = 0.1


class Looking:
    """The looks at one copy.

    Args:
        lane: of its actions.
        scan_s: how often everything is looked at.
        then: called with each look's end, after it is over.
    """

    def __init__(
        self, place: Place, effects: Effects, lane: str, scan_s: float, now: float, then: Callable[[object, float], None]
    ) -> None:  # fmt: skip
        self.running = False
        """Whether a look has begun and not ended."""
        self._place, self._effects, self._lane, self._scan_s, self._then = place, effects, lane, scan_s, then
        self._dirty: set[str] = set()
        self._everything = False
        self._recheck: frozenset[str] = frozenset()
        self._recheck_s = math.inf
        self._pass_due_s = now + scan_s

    def hint(self, dirty: frozenset[str] | None) -> None:
        """These directories have to be looked at; None: all."""
        if dirty is None:
            self._everything = True
        else:
            self._dirty |= dirty

    def unsettled(self, paths: frozenset[str], now: float) -> None:
        """A look found these too young."""
        if paths:
            self._recheck |= paths
            self._recheck_s = min(self._recheck_s, now + RECHECK_S)

    def next_deadline(self) -> float:
        """When :meth:`handle_deadline` has to be called."""
        return min(self._pass_due_s, self._recheck_s)

    def handle_deadline(self, now: float) -> None:
        """Note what is due."""
        if now >= self._pass_due_s:
            self._pass_due_s = now + self._scan_s
            self._everything = True
        if now >= self._recheck_s:
            self._dirty |= self._recheck
            self._recheck, self._recheck_s = frozenset(), math.inf

    def start(self) -> None:
        """Begin a look, if there is a reason to."""
        if self.running or not (self._everything or self._dirty):
            return
        dirty = None if self._everything else frozenset(self._dirty)
        self._everything, self._dirty = False, set()
        self.running = True
        self._effects.do(self._lane, Look(self._place, dirty), self._ended)

    def _ended(self, result: object, now: float) -> None:
        self.running = False
        self._then(result, now)
