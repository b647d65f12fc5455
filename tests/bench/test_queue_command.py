"""``zcluster bench queue``: what the command line makes of its options and of a result."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.bench import queue, report
from zcluster.bench.queue import WORKS, QueueOptions
from zcluster.cli.bench import QUEUE_WORKS
from zcluster.cli.main import run


@pytest.fixture
def ran_with(monkeypatch: pytest.MonkeyPatch) -> list[QueueOptions]:
    """The options that the bench got; 13 jobs in flight miss a bar."""
    found: list[QueueOptions] = []

    def run_queue(options: QueueOptions, say: Any) -> SimpleNamespace:
        found.append(options)
        say("round 1")
        return SimpleNamespace(met=options.in_flight != 13)

    monkeypatch.setattr(queue, "run_queue", run_queue)
    monkeypatch.setattr(report, "render", lambda _result, output: f"figures as {output}\n")
    return found


def test_the_names_are_those_of_the_bench() -> None:
    assert WORKS == QUEUE_WORKS


def test_options_become_what_is_measured(
    ran_with: list[QueueOptions], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--work", "done,million", "--in-flight", "16", "--size", "1KiB", "--compare", "sqlite,redis", "--rounds", "4"]
    more = ["--duration", "250ms", "--jobs", "5000", "--dir", str(tmp_path), "-o", "json"]
    assert run(["bench", "queue", *words, *more]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("figures as json\n", "round 1\n")
    assert ran_with == [QueueOptions(("done", "million"), 16, 1024, ("sqlite", "redis"), 4, 0.25, 5000, tmp_path)]


def test_without_options_it_is_the_load_of_the_promise(ran_with: list[QueueOptions]) -> None:
    assert run(["bench", "queue"]) == 0
    assert ran_with == [QueueOptions()]


def test_a_missed_bar_ends_with_3(ran_with: list[QueueOptions]) -> None:
    assert run(["bench", "queue", "--in-flight", "13"]) == 3
    assert len(ran_with) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--work", "tiny"),
        ("--work", ""),
        ("--compare", "kafka"),
        ("--compare", "redis", "--rounds", "2"),
        ("--in-flight", "0"),
        ("--jobs", "0"),
        ("--duration", "soon"),
        ("--dir", "/no/such/directory"),
    ],
)
def test_a_wrong_call_is_a_usage_error(words: tuple[str, ...], ran_with: list[QueueOptions]) -> None:
    assert run(["bench", "queue", *words]) == 2
    assert ran_with == []
