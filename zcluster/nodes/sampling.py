"""What a host and this process use (psutil), by a list of metrics: the same for nodes and agents.

Rules kept here:
- only what is asked for is measured, and a metric that this host cannot tell is left out, never made up;
- no look waits for an interval: percentages are since the last look, and at most one look each MIN_SAMPLE_S is taken;
- units are in the names: ``percent`` is 0-100 of the whole host (of one core in ``process``), ``_bytes`` are bytes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

METRICS = ("cpu", "memory", "disk", "network", "load", "files", "process")
"""All that can be asked for, in the order in which it is told."""
MIN_SAMPLE_S = 0.5
"""CPU percentages over a shorter time are noise, and two callers would cut each other's."""
FILE_COUNTS = Path("/proc/sys/fs/file-nr")


class Sampler:
    """Measures. Methods may be called from any thread.

    Args:
        place: a path on the file system that ``disk`` reports.
        keep_s: how long a measurement is given again: many simulated agents of one process have one host.
        clock: seconds that only grow.
    """

    def __init__(self, place: Path, *, keep_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._place = place
        self._clock = clock
        self._keep_s = keep_s
        self._kept: dict[str, tuple[float, dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._process = psutil.Process()
        # The first look has nothing to compare with: take it now.
        psutil.cpu_percent(interval=None)
        self._process.cpu_percent(interval=None)
        self._looked_s = clock()
        self._percents = (0.0, 0.0)
        self._measures: dict[str, Callable[[], dict[str, Any]]] = {
            "cpu": self._cpu, "memory": _memory, "disk": self._disk, "network": _network, "load": _load, "files": _files,
            "process": self._own,
        }  # fmt: skip

    def sample(self, metrics: Iterable[str] = METRICS) -> dict[str, Any]:
        """The values of ``metrics`` by name, in the order of METRICS; unknown names are left out."""
        wanted = frozenset(metrics)
        out: dict[str, Any] = {}
        for name in METRICS:
            if name in wanted and (found := self._measured(name)):
                out[name] = found
        return out

    def _measured(self, name: str) -> dict[str, Any]:
        if self._keep_s:
            until_s, found = self._kept.get(name, (0.0, {}))
            if found and self._clock() < until_s:
                return found
        try:
            found = self._measures[name]()
        except (OSError, psutil.Error, NotImplementedError):
            return {}  # this host does not tell it (a container without /proc/net, a place that was unmounted)
        if self._keep_s:
            self._kept[name] = (self._clock() + self._keep_s, found)
        return found

    def _look(self) -> tuple[float, float]:
        with self._lock:
            now = self._clock()
            if now - self._looked_s >= MIN_SAMPLE_S:
                self._percents = (psutil.cpu_percent(interval=None), self._process.cpu_percent(interval=None))
                self._looked_s = now
            return self._percents

    def _cpu(self) -> dict[str, Any]:
        return {"percent": self._look()[0], "count": os.cpu_count() or 1}

    def _disk(self) -> dict[str, Any]:
        found = psutil.disk_usage(str(self._place))
        return {"percent": found.percent, "total_bytes": found.total, "free_bytes": found.free}

    def _own(self) -> dict[str, Any]:
        percent = self._look()[1]
        with self._process.oneshot():
            return {
                "rss_bytes": self._process.memory_info().rss, "cpu_percent": percent,
                "open_files": self._process.num_fds(), "threads": self._process.num_threads(),
            }  # fmt: skip


def _memory() -> dict[str, Any]:
    found = psutil.virtual_memory()
    return {"percent": found.percent, "total_bytes": found.total, "available_bytes": found.available}


def _network() -> dict[str, Any]:
    found = psutil.net_io_counters()
    return {"sent_bytes": found.bytes_sent, "received_bytes": found.bytes_recv} if found else {}


def _load() -> dict[str, Any]:
    one, five, fifteen = os.getloadavg()
    return {"m1": round(one, 2), "m5": round(five, 2), "m15": round(fifteen, 2)}


def _files() -> dict[str, Any]:
    """How many files the whole host has open, and may have (file-nr of proc_sys_fs(5))."""
    opened, _free, most = FILE_COUNTS.read_text(encoding="ascii").split()
    return {"open": int(opened), "max": int(most)}
