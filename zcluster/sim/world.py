"""Simulated time: what happens next, in which order, and what has happened.

Rules kept here:
- time moves only from event to event; two events of the same time happen in the order in which they were planned;
- everything random comes from one generator with the run's seed, so a seed is a run;
- every event leaves a line; their hash is the run's fingerprint.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable

Action = Callable[[], None]
MAX_EVENTS = 90_000
"""Many times the events of a run: one that has more turns in a circle."""


class SimulationFailed(AssertionError):
    """Something that has to hold did not; the message says what, and the seed replays it."""


class World:
    """The clock, the plan and the trace of one run."""

    def __init__(self, seed: int, say: Callable[[str], None] | None = None, scenario: str = "") -> None:
        self.seed = seed
        self._replay = f"zcluster sim {f'--scenario {scenario} ' if scenario else ''}--seed {seed}"
        self.now = 100.0
        self.random = random.Random(seed)
        self.events = 0
        self.lines = 0
        self._say = say
        self._plan: list[tuple[float, int, Action]] = []
        self._planned = 0
        self._hash = hashlib.sha256()

    @property
    def fingerprint(self) -> str:
        """The hash of all lines so far."""
        return self._hash.hexdigest()

    def after(self, delay_s: float, action: Action) -> None:
        """Plan ``action`` for ``delay_s`` from now."""
        self._planned += 1
        heapq.heappush(self._plan, (self.now + max(0.0, delay_s), self._planned, action))

    def next_at(self) -> float | None:
        """When the next event is."""
        return self._plan[0][0] if self._plan else None

    def run_next(self) -> None:
        """Let the next event happen."""
        self.now, _, action = heapq.heappop(self._plan)
        self.events += 1
        if self.events > MAX_EVENTS:
            self.fail(f"it comes to no rest: {MAX_EVENTS} events")
        action()

    def note(self, who: str, what: str) -> None:
        """One line of the trace."""
        line = f"{self.now - 100:9.4f}  {who:<4} {what}"
        self.lines += 1
        self._hash.update(line.encode())
        if self._say is not None:
            self._say(line)

    def fail(self, what: str) -> None:
        """An invariant is broken.

        Raises:
            SimulationFailed: always.
        """
        self.note("!", what)
        raise SimulationFailed(f"{what} (seed {self.seed}, {self.now - 100:.4f} s; replay: {self._replay})")

    def chance(self, probability: float) -> bool:
        """True with ``probability``. A probability of 0 draws nothing, so that it costs no randomness."""
        return probability > 0 and self.random.random() < probability
