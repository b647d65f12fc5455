"""The functions that every node has: ``echo``, ``node.info``, ``node.time``, ``node.resources`` and ``node.sleep``.

Rules kept here:
- all are idempotent: asking twice does no harm;
- none blocks the event loop: percentages are since the last look, never over an interval that is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import socket
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psutil  # type: ignore[import-untyped]

from zcluster.dapi.function import Function, function

MAX_SLEEP_S = 86400.0
MIN_SAMPLE_S = 0.5
"""Percentages are taken at most this often: over a shorter time they are noise, and two callers would cut each other's."""

Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=MAX_SLEEP_S)]


class ResourceSampler:
    """What this process and its machine use. Methods may be called from any thread and do not wait for an interval.

    Args:
        home: the directory whose disk is reported.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process = psutil.Process()
        self._lock = threading.Lock()
        # The first look has nothing to compare with: take it now.
        psutil.cpu_percent(interval=None)
        self._process.cpu_percent(interval=None)
        self._sampled_at_s = time.monotonic()
        self._cpu_percent = 0.0
        self._process_cpu_percent = 0.0
        self._memory_percent = 0.0

    def cpu_percent(self) -> tuple[float, float]:
        """CPU in use since the last look: (whole machine 0-100, this process: 100 is one core)."""
        with self._lock:
            now = time.monotonic()
            if now - self._sampled_at_s >= MIN_SAMPLE_S:
                # Without a descriptor left nothing can be looked at: a heartbeat with what was so before is better than none.
                with contextlib.suppress(OSError):
                    self._cpu_percent = psutil.cpu_percent(interval=None)
                    self._process_cpu_percent = self._process.cpu_percent(interval=None)
                self._sampled_at_s = now
            return self._cpu_percent, self._process_cpu_percent

    def memory_percent(self) -> float:
        """Memory in use on the machine, 0-100."""
        with self._lock:
            with contextlib.suppress(OSError):
                self._memory_percent = float(psutil.virtual_memory().percent)
            return self._memory_percent

    def sample(self) -> dict[str, Any]:
        """Everything, as ``node.resources`` returns it."""
        cpu_percent, process_cpu_percent = self.cpu_percent()
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(str(self._home))
        network = psutil.net_io_counters()
        with self._process.oneshot():
            process = {
                "rss_bytes": self._process.memory_info().rss,
                "cpu_percent": process_cpu_percent,
                "open_files": self._process.num_fds(),
                "threads": self._process.num_threads(),
            }
        return {
            "cpu_percent": cpu_percent,
            "cpu_count": os.cpu_count(),
            "load": list(os.getloadavg()),
            "memory": {
                "total_bytes": memory.total,
                "available_bytes": memory.available,
                "used_bytes": memory.used,
                "percent": memory.percent,
            },
            "disk": {
                "path": str(self._home),
                "total_bytes": disk.total,
                "used_bytes": disk.used,
                "free_bytes": disk.free,
                "percent": disk.percent,
            },
            "network": {
                "sent_bytes": network.bytes_sent if network else 0,
                "received_bytes": network.bytes_recv if network else 0,
                "sent_packets": network.packets_sent if network else 0,
                "received_packets": network.packets_recv if network else 0,
            },
            "process": process,
        }


def node_functions(
    node: str, role: str, *, home: Path | None = None, version: str = "", sampler: ResourceSampler | None = None
) -> dict[str, Function]:
    """The built-in functions of a node.

    Args:
        node, role: what ``node.info`` tells.
        home: the directory whose disk ``node.resources`` reports; default: the user's.
        version: what ``node.info`` tells; default: the installed version.
        sampler: default: a new one for ``home``.
    """
    resources = sampler or ResourceSampler(home or Path.home())
    fixed = _fixed_info(node, role, version or _installed_version())
    began_s = time.monotonic()

    @function("echo", idempotent=True, pool="inline")
    def echo(value: Any) -> Any:
        """Give the value back."""
        return value

    @function("node.info", idempotent=True, pool="inline")
    def node_info() -> dict[str, Any]:
        """What this node is: name, role, version, host, and how long it has been up."""
        return {**fixed, "uptime_s": round(time.monotonic() - began_s, 3)}

    @function("node.time", idempotent=True, pool="inline")
    def node_time() -> float:
        """The node's clock: seconds since 1970."""
        return time.time()

    @function("node.resources", idempotent=True)
    def node_resources() -> dict[str, Any]:
        """What this node and its machine use: CPU, memory, disk, network."""
        return resources.sample()

    @function("node.sleep", idempotent=True)
    async def node_sleep(seconds: Seconds) -> float:
        """Do nothing for that many seconds, at most a day, and give them back."""
        await asyncio.sleep(seconds)
        return seconds

    targets: list[Callable[..., Any]] = [echo, node_info, node_time, node_resources, node_sleep]
    return {found.name: found for found in map(Function, targets)}


def _fixed_info(node: str, role: str, version: str) -> dict[str, Any]:
    return {
        "name": node,
        "role": role,
        "version": version,
        "python": platform.python_version(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "hostname": socket.gethostname(),
        "cpu_count": os.cpu_count(),
        "started_s": round(time.time(), 3),
    }


def _installed_version() -> str:
    try:
        return metadata.version("zcluster")
    except metadata.PackageNotFoundError:
        return "unknown"
