"""``zcluster bench``: what the command line makes of its options and of a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.bench import dapi, report, special
from zcluster.cli.bench import SPECIALS


@pytest.fixture
def ran_with(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options that the bench got; its result is one good contender, and one line of text."""
    found: list[Any] = []

    def run_dapi(options: Any, say: Callable[[str], None]) -> SimpleNamespace:
        found.append(options)
        say("round 1")
        return SimpleNamespace(contenders=[SimpleNamespace(errors={"timed_out": 1} if options.in_flight == 13 else {})])

    def run_special(name: str, options: Any, say: Callable[[str], None]) -> SimpleNamespace:
        found.append((name, options))
        return SimpleNamespace(met=options.workers != 13)

    monkeypatch.setattr(dapi, "run_dapi", run_dapi)
    monkeypatch.setattr(special, "run_special", run_special)
    monkeypatch.setattr(report, "render", lambda _result, output: f"figures as {output}\n")
    monkeypatch.setattr(report, "write_report", lambda _result, path: path.write_text("page"))
    return found


def test_the_names_are_those_of_the_bench_package() -> None:
    assert sorted(SPECIALS) == sorted(special.NAMES)


def test_figures_are_data_and_progress_is_talk(ran_with: list[Any], zcluster: Callable[..., Any]) -> None:
    ran = zcluster("bench", "dapi")
    assert (ran.code, ran.out, ran.err) == (0, "figures as table\n", "round 1\n")
    assert ran_with[0].own_cluster
    assert ran_with[0].rate == 0


def test_options_become_what_is_measured(ran_with: list[Any], zcluster: Callable[..., Any], tmp_path: Path) -> None:
    sizes = ["--size", "1KiB", "--in-flight", "8", "--clients", "2", "--workers", "3"]
    words = [*sizes, "--rate", "500", "--duration", "250ms", "--rounds", "4", "--compare", "raw,nats"]
    assert zcluster("bench", "dapi", *words, "--home", str(tmp_path), "-o", "json").out == "figures as json\n"
    (options,) = ran_with
    assert (options.size_bytes, options.in_flight, options.clients, options.workers) == (1024, 8, 2, 3)
    assert (options.rate, options.duration_s, options.rounds, options.compare) == (500.0, 0.25, 4, ("raw", "nats"))
    assert options.home == tmp_path


def test_a_report_is_written_where_it_was_asked_for(ran_with: list[Any], zcluster: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    ran = zcluster("bench", "dapi", "--report", str(path))
    assert path.read_text() == "page"
    assert ran.err.endswith(f"wrote {path}\n")


@pytest.mark.parametrize("name", ["report", "report.txt", "report.html.gz", "missing/report.html", "missing/report.json"])
def test_a_report_that_cannot_be_is_refused_before_anything_is_measured(
    name: str, ran_with: list[Any], zcluster: Callable[..., Any], tmp_path: Path
) -> None:
    ran = zcluster("bench", "dapi", "--report", str(tmp_path / name))
    assert (ran.code, ran.out, ran_with) == (2, "", [])
    assert "--report" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.html", "a.HTM", "a.json"])
def test_a_report_is_a_page_or_data(name: str, ran_with: list[Any], zcluster: Callable[..., Any], tmp_path: Path) -> None:
    assert zcluster("bench", "sleep", "--report", str(tmp_path / name)).code == 0
    assert (tmp_path / name).read_text() == "page"


def test_of_several_loads_the_last_is_that_of_the_figures(ran_with: list[Any], zcluster: Callable[..., Any]) -> None:
    assert zcluster("bench", "dapi", "--in-flight", "1,8,256,64").code == 0
    (options,) = ran_with
    assert (options.in_flight, options.sweep, options.levels) == (64, (1, 8, 256), (1, 8, 64, 256))


def test_a_bench_with_failed_requests_or_a_missed_bar_ends_with_3(ran_with: list[Any], zcluster: Callable[..., Any]) -> None:
    assert zcluster("bench", "dapi", "--in-flight", "13").code == 3
    assert zcluster("bench", "sleep", "--workers", "13").code == 3
    assert zcluster("bench", "sleep", "--workers", "12").code == 0
    assert ran_with[-1][0] == "sleep"


@pytest.mark.parametrize(
    "words",
    [
        ("--in-flight", "0"),
        ("--in-flight", "many"),
        ("--in-flight", "1,,2"),
        ("--in-flight", "8,8"),
        ("--in-flight", "1,8", "--rate", "10"),
        ("--in-flight", ",".join(map(str, range(1, 14)))),
        ("--compare", "kafka"),
        ("--compare", "raw", "--rounds", "2"),
        ("--duration", "soon"),
        ("--size", "big"),
        ("--rate", "0"),
        ("--rate", "-1"),
        ("--rate", "nan"),
    ],
)
def test_a_wrong_call_is_a_usage_error(words: tuple[str, ...], ran_with: list[Any], zcluster: Callable[..., Any]) -> None:
    ran = zcluster("bench", "dapi", *words)
    assert (ran.code, ran.out, ran_with) == (2, "", [])
