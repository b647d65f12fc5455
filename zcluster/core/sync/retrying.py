"""When a sink tries again.

Rules kept here:
- after a failure, and where a version cannot be had as a whole, there are pauses that grow up to a bound;
- something newer, or someone's word, ends them.
"""

from __future__ import annotations

import math

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 60.0
FIRST_AGAIN_S = 0.05
MAX_AGAIN_S = 5.0
"""When a version is pulled again of which something could not be had: at once, then with growing pauses."""


class Tries:
    """The tries of one sink."""

    def __init__(self) -> None:
        self.retry_s = math.inf
        """When a failed one is tried again."""
        self.begin_s = -math.inf
        """No pull begins before."""
        self._failures = self._agains = 0

    def failed(self, now: float) -> None:
        """A try has failed."""
        self.retry_s = now + min(MAX_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._failures, 10))
        self._failures += 1

    def again(self, now: float) -> None:
        """A pull has ended without all of its version."""
        self.begin_s = now + min(MAX_AGAIN_S, FIRST_AGAIN_S * 2.0 ** min(self._agains, 10)) if self._agains else -math.inf
        self._agains += 1

    def retry(self, now: float) -> bool:
        """Whether it is time to try again what failed; told once."""
        if now < self.retry_s:
            return False
        self.retry_s = math.inf
        return True

    def begin(self, now: float) -> bool:
        """Whether the pause before the next pull is over; told once."""
        if self.begin_s == -math.inf or now < self.begin_s:
            return False
        self.begin_s = -math.inf
        return True

    def newer(self) -> None:
        """There is another version."""
        self._agains, self.begin_s = 0, -math.inf

    def fresh(self) -> None:
        """As if nothing had failed. What waits to be tried again is tried at its time."""
        self._failures = 0
        self.newer()

    def now(self) -> None:
        """As if nothing had failed, and nothing waits."""
        self.fresh()
        self.retry_s = math.inf

    def next_deadline(self, idle: bool) -> float:
        """When :meth:`retry` or, for an idle sink, :meth:`begin` will be true."""
        return min(self.retry_s, self.begin_s) if idle and self.begin_s != -math.inf else self.retry_s
