"""``zcluster bench agents`` and ``bench groups``: what the command line makes of its options and of a result."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.bench import agents, report
from zcluster.bench.agents import DEFAULT_WORKS, GROUPS, WORKS, AgentsOptions
from zcluster.cli.bench import AGENT_WORKS
from zcluster.cli.main import run
from zcluster.errors import UsageError, ZClusterError


@pytest.fixture
def ran_with(monkeypatch: pytest.MonkeyPatch) -> list[AgentsOptions]:
    """The options that the bench got; 13 workers miss a bar, 14 fail."""
    found: list[AgentsOptions] = []

    def run_agents(options: AgentsOptions, say: Any) -> SimpleNamespace:
        found.append(options)
        say("round 1")
        if options.workers == 14:
            raise ZClusterError("worker-1 ended early")
        return SimpleNamespace(met=options.workers != 13)

    monkeypatch.setattr(agents, "run_agents", run_agents)
    monkeypatch.setattr(report, "render", lambda _result, output: f"figures as {output}\n")
    return found


def test_the_names_are_those_of_the_bench() -> None:
    assert tuple(WORKS) == AGENT_WORKS


def test_options_become_what_is_measured(
    ran_with: list[AgentsOptions], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    load = ["--work", "first", "--work", "idle", "--agents", "50", "--workers", "2", "--rounds", "4", "--duration", "250ms"]
    assert run(["bench", "agents", *load, "--dir", str(tmp_path), "-o", "json"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("figures as json\n", "round 1\n")
    assert ran_with == [AgentsOptions(("first", "idle"), 50, 2, 4, 0.25, tmp_path)]


def test_groups_is_the_one_work_of_its_command(ran_with: list[AgentsOptions]) -> None:
    assert run(["bench", "groups", "--agents", "20", "--workers", "3", "--rounds", "1"]) == 0
    assert ran_with == [AgentsOptions(("groups",), 20, 3, 1)]
    assert run(["bench", "groups"]) == 0
    assert [work.load for work in ran_with[1].chosen()] == [GROUPS.load]
    assert ran_with[1].rounds == 5


def test_without_options_the_works_say_their_load(ran_with: list[AgentsOptions]) -> None:
    assert run(["bench", "agents"]) == 0
    assert ran_with == [AgentsOptions()]
    assert [work.name for work in AgentsOptions().chosen()] == list(DEFAULT_WORKS)


def test_a_missed_bar_ends_with_3_and_an_error_with_1(ran_with: list[AgentsOptions], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "agents", "--work", "idle", "--workers", "13"]) == 3
    assert run(["bench", "groups", "--workers", "14"]) == 1
    assert "worker-1 ended early" in capsys.readouterr().err
    assert len(ran_with) == 2


@pytest.mark.parametrize(
    "words",
    [
        ("agents", "--work", "tiny"),
        ("agents", "--work", "groups"),
        ("agents", "--work", "first", "--work", "first"),
        ("agents", "--agents", "0"),
        ("agents", "--agents", "2000001"),
        ("agents", "--workers", "0"),
        ("agents", "--workers", "65"),
        ("agents", "--rounds", "0"),
        ("agents", "--duration", "soon"),
        ("agents", "--dir", "/no/such/directory"),
        ("groups", "--agents", "few"),
        ("groups", "--rounds", "101"),
        ("groups", "--agents", "15"),
    ],
)
def test_a_wrong_call_is_a_usage_error(words: tuple[str, ...], ran_with: list[AgentsOptions]) -> None:
    assert run(["bench", *words]) == 2
    assert ran_with == []


@pytest.mark.parametrize(
    "options",
    [{"works": ()}, {"works": ("tiny",)}, {"works": ("groups", "first")}, {"duration_s": 0.0}, {"duration_s": float("nan")}],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        AgentsOptions(**options)


def test_all_means_all_and_another_load_has_no_bars() -> None:
    assert [work.name for work in AgentsOptions(("all",)).chosen()] == list(WORKS)
    assert all(work.load.promised for work in AgentsOptions(("all",)).chosen())
    given = AgentsOptions(("all",), agents=1000, workers=3).chosen()
    assert {work.name: (work.load.agents, work.load.workers) for work in given} == {
        "first": (1000, 1), "changed": (1000, 1), "idle": (1000, 3), "million": (1000, 0), "live": (1000, 0),
    }  # fmt: skip
    assert not any(work.load.promised for work in given)
    assert AgentsOptions(("first",), agents=100_000, workers=5).chosen()[0].load.promised
    assert AgentsOptions(("groups",), agents=10_000).chosen()[0].load.promised
    assert [work.load.text() for work in AgentsOptions(("first", "million"), agents=1).chosen()] == [
        "1 agent, 1 worker", "1 agent",
    ]  # fmt: skip
