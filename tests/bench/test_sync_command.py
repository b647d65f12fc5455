"""``zcluster bench sync``: what the command line makes of its options and of a result."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.bench import report, sync
from zcluster.cli.main import run
from zcluster.errors import ZClusterError


@pytest.fixture
def ran_with(monkeypatch: pytest.MonkeyPatch) -> list[sync.SyncOptions]:
    """The options that the bench got; 13 workers miss a bar, 14 fail."""
    found: list[sync.SyncOptions] = []

    def run_sync(options: sync.SyncOptions, say: Any) -> SimpleNamespace:
        found.append(options)
        say("round 1")
        if options.workers == 14:
            raise ZClusterError("a copy is not what was copied")
        return SimpleNamespace(met=options.workers != 13)

    monkeypatch.setattr(sync, "run_sync", run_sync)
    monkeypatch.setattr(report, "render", lambda _result, output: f"figures as {output}\n")
    return found


def test_options_become_what_is_measured(
    ran_with: list[sync.SyncOptions], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    load = ["--files", "50", "--size", "1KiB", "--workers", "2", "--change", "0.5", "--changes", "7", "--duration", "250ms"]
    more = ["--work", "small,one", "--compare", "rsync", "--rounds", "4", "--dir", str(tmp_path), "-o", "json"]
    assert run(["bench", "sync", *load, *more]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("figures as json\n", "round 1\n")
    assert ran_with == [sync.SyncOptions(("small", "one"), 50, 1024, 2, 0.5, ("rsync",), 4, 7, 0.25, tmp_path)]


def test_without_options_the_works_say_their_load(ran_with: list[sync.SyncOptions]) -> None:
    assert run(["bench", "sync"]) == 0
    assert ran_with == [sync.SyncOptions()]


def test_a_missed_bar_ends_with_3_and_a_wrong_copy_with_1(
    ran_with: list[sync.SyncOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "sync", "--workers", "13"]) == 3
    assert run(["bench", "sync", "--workers", "14"]) == 1
    assert "not what was copied" in capsys.readouterr().err
    assert len(ran_with) == 2


@pytest.mark.parametrize(
    "words",
    [
        ("--work", "tiny"),
        ("--work", ""),
        ("--work", "small,small"),
        ("--compare", "scp"),
        ("--files", "0"),
        ("--size", "big"),
        ("--change", "1.5"),
        ("--change", "nan"),
        ("--rounds", "0"),
        ("--duration", "soon"),
    ],
)
def test_a_wrong_call_is_a_usage_error(words: tuple[str, ...], ran_with: list[sync.SyncOptions]) -> None:
    assert run(["bench", "sync", *words]) == 2
    assert ran_with == []
