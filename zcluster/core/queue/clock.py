"""Queue time: seconds that go on over restarts, and that nobody can set forward or back.

Rules kept here:
- while the machine is up queue time follows the clock of its boot (CLOCK_BOOTTIME, clock_gettime(2)), which no change of the
  time of day moves;
- over a restart of the master within one boot it goes on by the same clock;
- over a boot it goes on by the time of day, which is all there is then, but never back.
"""

from __future__ import annotations

import msgspec


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """One moment on all the clocks. Kept with the queue, to go on from."""

    queue: float
    boot_id: str
    boot_s: float
    wall_s: float


def resume(last: Mark | None, boot_id: str, boot_s: float, wall_s: float) -> float:
    """What to add to the clock of the boot to get queue time, after a start.

    Args:
        last: the newest moment that was kept, or None in a new queue.
        boot_id, boot_s, wall_s: this boot, and the clocks now.
    """
    if last is None:
        return 1.0 - boot_s  # 0 means "not at all" in a job's times
    passed_s = boot_s - last.boot_s if last.boot_id == boot_id else wall_s - last.wall_s
    return last.queue + max(0.0, passed_s) - boot_s
