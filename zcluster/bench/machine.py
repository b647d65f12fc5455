"""What a measurement ran on, and what the watched processes used.

Rules kept here:
- nothing here changes what it measures: it reads /proc and psutil, a few files a call;
- what cannot be read on this system is left out (0 or an empty text), never guessed.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]
import zmq

from zcluster import __version__

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
    disk: str = ""
    """What the bench's files are on, such as ``ext4 on nvme0n1 (a model)``."""
    zcluster: str = ""
    """The version that was measured."""
    at_s: float = 0.0
    """When the bench began, in seconds since 1970."""


def describe_machine(directory: Path | None = None) -> Machine:
    """This machine, now.

    Args:
        directory: where the bench has its files; None: the directory for temporary files.
    """
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu=_cpu_model(Path("/proc/cpuinfo")),
        memory_bytes=psutil.virtual_memory().total,
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        pyzmq=zmq.pyzmq_version(),
        libzmq=zmq.zmq_version(),
        load_1m=round(os.getloadavg()[0], 2),
        disk=describe_disk(directory or Path(tempfile.gettempdir())),
        zcluster=__version__,
        at_s=time.time(),
    )


def mount_of(directory: Path) -> tuple[str, str]:
    """The device and the type of the file system that has ``directory``; empty texts when the system does not tell."""
    path = directory.resolve()
    best, found = -1, ("", "")
    for mount in psutil.disk_partitions(all=True):
        # The last of several mounts at one place is the one that is seen.
        if path.is_relative_to(mount.mountpoint) and len(mount.mountpoint) >= best:
            best, found = len(mount.mountpoint), (mount.device, mount.fstype)
    return found


def describe_disk(directory: Path, blocks: Path = Path("/sys/class/block")) -> str:
    """What ``directory`` is on: the file system, its device, and the disk's model where the system tells them."""
    device, kind = mount_of(directory)
    if not device.startswith("/dev/"):
        return kind
    name = Path(device).name
    for disk in (blocks / name, (blocks / name).resolve().parent):  # a partition's model is that of its disk
        try:
            model = (disk / "device" / "model").read_text(errors="replace").strip()
        except OSError:
            continue
        return f"{kind} on {name} ({model})"
    return f"{kind} on {name}"


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
