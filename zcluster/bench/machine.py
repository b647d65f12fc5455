"""What a measurement ran on, and what the watched processes used.

Rules kept here:
- nothing here changes what it measures: it reads /proc and psutil, a few files a call;
- what cannot be read on this system is left out (0 or an empty text), never guessed.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]
import zmq

KIB = 1024


class Machine(NamedTuple):
    """The machine and the software below zcluster."""

    cores: int
    """Cores that this process may use."""
    cpu: str
    memory_bytes: int
    kernel: str
    python: str
    pyzmq: str
    libzmq: str
    load_1m: float
    """The load average before the bench: on a busy machine the figures are low."""


def describe_machine() -> Machine:
    """This machine, now."""
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu=_cpu_model(Path("/proc/cpuinfo")),
        memory_bytes=psutil.virtual_memory().total,
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        pyzmq=zmq.pyzmq_version(),
        libzmq=zmq.zmq_version(),
        load_1m=round(os.getloadavg()[0], 2),
    )


def _cpu_model(cpuinfo: Path) -> str:
    names: dict[str, str] = {}
    try:
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            names.setdefault(key.strip().lower(), value.strip())
    except OSError:
        return platform.processor()
    return names.get("model name") or names.get("hardware") or platform.processor() or platform.machine()


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that the processes have used so far, all threads; a process that is gone counts 0."""
    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def peak_memory_bytes(pids: Iterable[int]) -> int:
    """The greatest VmHWM of the processes; 0 when the system does not tell."""
    return max((_status_bytes(pid, "VmHWM") for pid in pids), default=0)


def resident_bytes(pid: int) -> int:
    """The memory of the process that is in RAM now (VmRSS); 0 when the system does not tell."""
    return _status_bytes(pid, "VmRSS")


def _status_bytes(pid: int, field: str) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return status_field_bytes(text, field)


def status_field_bytes(text: str, field: str) -> int:
    """The size that ``field`` has in the text of a /proc/PID/status; 0 when it is not there."""
    for line in text.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * KIB
    return 0
