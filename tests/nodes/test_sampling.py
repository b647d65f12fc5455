"""What is measured, by a list of metrics."""

from __future__ import annotations

import os
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from zcluster.nodes import sampling
from zcluster.nodes.sampling import METRICS, MIN_SAMPLE_S, Sampler


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_only_what_is_asked_for_is_measured(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path)
    assert set(sampler.sample(["memory", "cpu", "no such"])) == {"cpu", "memory"}
    assert sampler.sample([]) == {}
    assert list(sampler.sample()) == [name for name in METRICS if name in sampler.sample()]


def test_the_values_have_their_units(tmp_path: Path) -> None:
    found = Sampler(tmp_path).sample()
    assert 0 <= found["cpu"]["percent"] <= 100
    assert found["memory"]["total_bytes"] >= found["memory"]["available_bytes"] > 0
    assert found["disk"]["total_bytes"] >= found["disk"]["free_bytes"]
    assert found["process"]["rss_bytes"] > 1_000_000
    assert found["process"]["open_files"] >= 3
    assert set(found["load"]) == {"m1", "m5", "m15"}


def test_what_the_host_does_not_tell_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "FILE_COUNTS", tmp_path / "none")
    sampler = Sampler(tmp_path / "gone")
    assert set(sampler.sample(["disk", "files", "memory"])) == {"memory"}
    monkeypatch.setattr(psutil, "net_io_counters", lambda: None)
    assert sampler.sample(["network"]) == {}


def test_open_files_are_those_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file-nr").write_text("1234\t0\t9999\n")
    monkeypatch.setattr(sampling, "FILE_COUNTS", tmp_path / "file-nr")
    assert Sampler(tmp_path).sample(["files"]) == {"files": {"open": 1234, "max": 9999}}


def test_what_is_kept_is_given_again_for_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, clock = tmp_path / "file-nr", Clock()
    place.write_text("1 0 9\n")
    monkeypatch.setattr(sampling, "FILE_COUNTS", place)
    sampler = Sampler(tmp_path, keep_s=1.0, clock=clock)
    assert sampler.sample(["files"])["files"]["open"] == 1
    place.write_text("2 0 9\n")
    clock.now = 0.9
    assert sampler.sample(["files"])["files"]["open"] == 1
    clock.now = 1.0
    assert sampler.sample(["files"])["files"]["open"] == 2


def test_two_looks_at_once_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def percent(interval: object = None) -> float:
        looks.append(os.getpid())
        return float(len(looks))

    clock = Clock()
    monkeypatch.setattr(psutil, "cpu_percent", percent)
    sampler = Sampler(tmp_path, clock=clock)
    clock.now = MIN_SAMPLE_S
    assert sampler.sample(["cpu"])["cpu"]["percent"] == 2.0
    clock.now += MIN_SAMPLE_S / 2
    assert sampler.sample(["cpu"])["cpu"]["percent"] == 2.0
    clock.now += MIN_SAMPLE_S / 2
    assert sampler.sample(["cpu"])["cpu"]["percent"] == 3.0
