"""What is read of the machine and of processes."""

from __future__ import annotations

import os
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from zcluster.bench.machine import _cpu_model as cpu_model
from zcluster.bench.machine import (
    cpu_seconds,
    describe_disk,
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
    assert all((machine.cpu, machine.kernel, machine.python, machine.pyzmq, machine.libzmq, machine.zcluster))
    assert machine.at_s > 0


def test_the_disk_is_named_with_its_model_where_it_has_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place, blocks = tmp_path / "files", tmp_path / "block"
    (blocks / "sda" / "sda1").mkdir(parents=True)
    (blocks / "sda" / "device").mkdir()
    (blocks / "sda" / "device" / "model").write_text("A <disk>\n")
    (blocks / "sda1").symlink_to(blocks / "sda" / "sda1")
    for device, said in (("/dev/sda", "ext4 on sda (A <disk>)"), ("/dev/sda1", "ext4 on sda1 (A <disk>)"),
                         ("/dev/vdb", "ext4 on vdb"), ("tmpfs", "ext4")):  # fmt: skip
        mount = type("Mount", (), {"mountpoint": "/", "device": device, "fstype": "ext4"})()
        monkeypatch.setattr(psutil, "disk_partitions", lambda all, mount=mount: [mount])
        assert describe_disk(place, blocks) == said


def test_cpu_model(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: First CPU\nprocessor\t: 1\nmodel name\t: Second CPU\n")
    assert cpu_model(info) == "First CPU"
    info.write_text("processor\t: 0\nHardware\t: A board\n")
    assert cpu_model(info) == "A board"
    assert cpu_model(tmp_path / "missing") == cpu_model(tmp_path / "missing too")
