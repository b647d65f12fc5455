"""The clock of this boot, which nobody can set, and the name of the boot that it is of."""

from __future__ import annotations

import time
from pathlib import Path


def boot_s() -> float:
    """Seconds since the machine was started, those in which it slept too (CLOCK_BOOTTIME, clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Random text of this boot (/proc/sys/kernel/random/boot_id, random(4)). Blocks."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
