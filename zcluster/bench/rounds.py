"""One round of load: what a loading process is asked to do, what it tells, and how the parent measures around it.

Rules kept here:
- a round has a warm-up and a measured window; only what happens in the window counts;
- start times are of the machine-wide monotonic clock, so that all processes of a round share one window;
- CPU time is read by the parent at the window's two ends, so the reading costs the measured processes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from zcluster.bench.child import RoundChild
from zcluster.bench.machine import cpu_seconds
from zcluster.bench.stats import Histogram

LEAD_S = 0.05
"""From the order to the warm-up: time for the line to reach every loading process."""
DRAIN_S = 40.0
"""How long a loading process may take to tell its result after the window: its last requests end by their deadline."""
GRACE_S = 5.0
"""Open loop: how long after the window requests that were due in it may still be sent."""


class RoundSpec(msgspec.Struct, frozen=True):
    """What one loading process has to do in a round."""

    start_at_s: float
    """When the measured window begins, on the monotonic clock."""
    window_s: float
    warm_up_s: float
    in_flight: int
    """The most requests at once."""
    rate: float = 0.0
    """Requests a second that are due, evenly spaced; 0 is a closed loop: each answer is followed by a request at once."""


class RoundResult(msgspec.Struct, frozen=True):
    """What one loading process has measured in a round."""

    counts: dict[str, int]
    """The histogram of the latencies of the good answers; see Histogram.to_counts."""
    max_ns: int
    seconds: float
    """How long the window really was."""
    requests: int
    """Good answers within the window."""
    errors: dict[str, int]
    """Failed requests by error code, ``wrong_answer`` among them; they are in no other figure."""
    unsent: int = 0
    """Open loop: requests that were due but could not be sent; they are in the latencies as what they had waited."""


@dataclass(frozen=True)
class Round:
    """One round of one contender, all its loading processes together."""

    requests: int
    seconds: float
    histogram: Histogram
    errors: dict[str, int]
    unsent: int
    cpu_s: dict[str, float]
    """CPU seconds used in the window, by role."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Load:
    """The load that every round of a bench has."""

    in_flight: int
    rate: float
    """Of all loading processes together; 0 is a closed loop."""
    window_s: float
    warm_up_s: float


@dataclass
class Watched:
    """The processes of a contender: ids by role (master, worker, client), and those that make the load."""

    pids: dict[str, list[int]] = field(default_factory=dict)
    clients: list[RoundChild] = field(default_factory=list)


async def run_round(watched: Watched, load: Load) -> Round:
    """Runs one round on all loading processes at once and measures it."""
    start_at_s = time.monotonic() + LEAD_S + load.warm_up_s
    share = load.rate / len(watched.clients)
    spec = RoundSpec(start_at_s, load.window_s, load.warm_up_s, load.in_flight, share)
    for client in watched.clients:
        await client.tell(spec)
    await asyncio.sleep(start_at_s - time.monotonic())
    before = {role: cpu_seconds(pids) for role, pids in watched.pids.items()}
    opened_s = time.monotonic()
    await asyncio.sleep(start_at_s + load.window_s - opened_s)
    after = {role: cpu_seconds(pids) for role, pids in watched.pids.items()}
    # The parent wakes a little late at both ends on a busy machine: scale to the window that was meant.
    scale = load.window_s / (time.monotonic() - opened_s)
    cpu_s = {role: (after[role] - before[role]) * scale for role in before}
    results = await asyncio.gather(*(client.hear(RoundResult, DRAIN_S) for client in watched.clients))
    return merge_results(results, cpu_s, load.window_s)


def merge_results(results: Sequence[RoundResult], cpu_s: dict[str, float], window_s: float) -> Round:
    """The round that several loading processes have made together.

    CPU time covers ``window_s``; it is stretched to the seconds that the answers took, so that the two can be divided.
    """
    histogram = Histogram()
    errors: dict[str, int] = {}
    for result in results:
        histogram.merge(Histogram.from_counts(result.counts, result.max_ns))
        for code, count in result.errors.items():
            errors[code] = errors.get(code, 0) + count
    seconds = max((result.seconds for result in results), default=window_s)
    return Round(
        requests=sum(result.requests for result in results),
        seconds=seconds,
        histogram=histogram,
        errors=errors,
        unsent=sum(result.unsent for result in results),
        cpu_s={role: used * seconds / window_s for role, used in cpu_s.items()},
    )


def result_of(histogram: Histogram, seconds: float, errors: dict[str, int], unsent: int = 0) -> RoundResult:
    """In a loading process: the result line of a round."""
    return RoundResult(
        counts=histogram.to_counts(),
        max_ns=histogram.max_ns,
        seconds=seconds,
        requests=histogram.count - unsent,
        errors=errors,
        unsent=unsent,
    )
