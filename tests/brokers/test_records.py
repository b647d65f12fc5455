"""The master's list of nodes: saved beside the loop, the newest wins, the last one is never lost."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from zcluster.brokers import records as module
from zcluster.brokers.records import Records
from zcluster.errors import InvalidKey
from zcluster.keys.private import replace

PATIENCE_S = 60.0
NEVER_S = 3600.0
"""An interval that no test sees the end of."""
LOGGER = logging.getLogger("test")


class Disk:
    """Counts the saves, and holds them up while the gate is closed."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.began, self.saved = threading.Semaphore(0), threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def replace(self, path: Path, data: bytes) -> None:
        self.threads.append(threading.current_thread().name)
        self.began.release()
        assert self.gate.wait(PATIENCE_S)
        replace(path, data)
        self.saved.release()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(module, "replace", made.replace)
    return made


def remembered(directory: Path) -> dict[str, str]:
    return Records(directory, LOGGER).nodes()


def test_changes_within_the_interval_are_one_save_of_the_newest(tmp_path: Path, disk: Disk) -> None:
    records = Records(tmp_path, LOGGER, save_interval_s=NEVER_S)
    records.save_nodes_later({"w1": "worker"})
    assert disk.saved.acquire(timeout=PATIENCE_S), "the first change is saved at once"
    for number in range(100):
        records.save_nodes_later({f"w{number}": "worker"})
    assert len(disk.threads) == 1
    records.close()
    assert disk.threads == ["zcluster-records"] * 2
    assert remembered(tmp_path) == {"w99": "worker"}


def test_a_change_during_a_save_is_saved_too_and_waits_for_nothing(tmp_path: Path, disk: Disk) -> None:
    records = Records(tmp_path, LOGGER, save_interval_s=0.0)
    disk.gate.clear()
    records.save_nodes_later({"old": "worker"})
    assert disk.began.acquire(timeout=PATIENCE_S)
    records.save_nodes_later({"new": "worker"})
    disk.gate.set()
    for _ in range(2):
        assert disk.saved.acquire(timeout=PATIENCE_S)
    records.close()
    assert remembered(tmp_path) == {"new": "worker"}


def test_what_has_not_changed_is_not_saved_again(tmp_path: Path, disk: Disk) -> None:
    records = Records(tmp_path, LOGGER, save_interval_s=NEVER_S)
    records.save_nodes({"w": "worker"})
    records.save_nodes_later({"w": "worker"})
    records.close()
    assert len(disk.threads) == 1


def test_a_failed_save_is_told_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = threading.Event()

    def full(path: Path, data: bytes) -> None:
        if not tried.is_set():
            tried.set()
            raise InvalidKey("cannot write: no space left")
        replace(path, data)

    monkeypatch.setattr(module, "replace", full)
    records = Records(tmp_path, LOGGER, save_interval_s=NEVER_S)
    records.save_nodes_later({"w": "worker"})
    assert tried.wait(PATIENCE_S)
    records.save_nodes_later({"v": "worker"})
    records.close()
    assert "no space left" in caplog.text
    assert remembered(tmp_path) == {"v": "worker"}


def test_close_does_not_wait_for_ever_for_a_disk_that_hangs(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.0)
    records = Records(tmp_path, LOGGER)
    disk.gate.clear()
    records.save_nodes_later({"w": "worker"})
    assert disk.began.acquire(timeout=PATIENCE_S)
    records.close()
    assert "was not saved within" in caplog.text
    disk.gate.set()
    assert disk.saved.acquire(timeout=PATIENCE_S)


def test_without_a_thread_the_list_is_saved_at_the_end(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    records = Records(tmp_path, LOGGER)
    records.save_nodes_later({"w": "worker"})
    assert disk.threads == []
    records.close()
    assert remembered(tmp_path) == {"w": "worker"}


def test_after_close_nothing_is_saved(tmp_path: Path, disk: Disk) -> None:
    records = Records(tmp_path, LOGGER)
    records.close()
    records.save_nodes_later({"w": "worker"})
    records.close()
    assert disk.threads == []
    assert remembered(tmp_path) == {}
