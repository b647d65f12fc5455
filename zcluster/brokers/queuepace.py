"""How fast the queue goes: counts, and what they were in the last seconds.

Rule kept here: a rate is over the last WINDOW looks, which are a second apart or more.
"""

from __future__ import annotations

from collections import deque

from zcluster.core.queue.machine import JobQueue

WINDOW = 10


class Pace:
    """Looks at a queue's counts again and again."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, dict[str, int]]] = deque(maxlen=WINDOW + 1)

    def look(self, queue: JobQueue, now: float) -> None:
        """Take note of the counts now, unless that was done less than a second ago."""
        if not self._looks or now - self._looks[-1][0] >= 1.0:
            counts = {"accepted": queue.accepted_count, "ended": queue.ended_count, "commits": queue.commits}
            self._looks.append((now, counts))

    def told(self) -> dict[str, float]:
        """The counts since the master's start, and each a second."""
        if not self._looks:
            return {}
        (first_s, first), (last_s, last) = self._looks[0], self._looks[-1]
        span_s = max(last_s - first_s, 1.0)
        return {**last, **{f"{name}_per_s": round((count - first[name]) / span_s, 1) for name, count in last.items()}}
