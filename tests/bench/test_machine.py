"""What is read of the machine and of processes."""

from __future__ import annotations

import os
from pathlib import Path

from zcluster.bench.machine import _cpu_model as cpu_model
from zcluster.bench.machine import (
    cpu_seconds,
    describe_machine,
    peak_memory_bytes,
    resident_bytes,
    status_field_bytes,
)

STATUS = "Name:\tpython\nVmPeak:\t  90000 kB\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n"
GONE_PID = 2**22 + 1
"""Above the greatest pid that Linux gives."""


def test_sizes_are_read_from_a_status() -> None:
    assert status_field_bytes(STATUS, "VmHWM") == 20 * 1024 * 1024
    assert status_field_bytes(STATUS, "VmRSS") == 10 * 1024 * 1024
    assert status_field_bytes(STATUS, "VmSwap") == 0
    assert status_field_bytes("", "VmRSS") == 0


def test_a_process_that_is_gone_counts_nothing() -> None:
    assert cpu_seconds([GONE_PID]) == 0.0
    assert peak_memory_bytes([GONE_PID]) == 0
    assert peak_memory_bytes([]) == 0


def test_this_process_has_used_something() -> None:
    assert cpu_seconds([os.getpid()]) > 0
    assert peak_memory_bytes([os.getpid(), GONE_PID]) >= resident_bytes(os.getpid()) > 1024 * 1024


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 0
    assert all((machine.cpu, machine.kernel, machine.python, machine.pyzmq, machine.libzmq))


def test_cpu_model(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: First CPU\nprocessor\t: 1\nmodel name\t: Second CPU\n")
    assert cpu_model(info) == "First CPU"
    info.write_text("processor\t: 0\nHardware\t: A board\n")
    assert cpu_model(info) == "A board"
    assert cpu_model(tmp_path / "missing") == cpu_model(tmp_path / "missing too")
