"""Options, loads, bars and ratios of the bench of file sync, and what its reports show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zcluster.bench.figures import Figure, Say
from zcluster.bench.machine import Machine
from zcluster.bench.report import render, write_report
from zcluster.bench.rsync import FSYNC, PLAIN, TLS
from zcluster.bench.sync import DEFAULT_WORKS, SyncOptions, run_sync
from zcluster.bench.syncresult import ZCLUSTER, Contender, Run, SyncResult, WorkResult
from zcluster.bench.syncworks import WORKS, Bench, Load
from zcluster.cli.bench import WORKS as NAMES_OF_THE_COMMAND
from zcluster.errors import UsageError

MACHINE = Machine(2, "A <fast> CPU", 8 << 30, "Linux 6.1", "CPython 3.11.7", "27.3.0", "4.3.5", 0.5)
MIB = 1024 * 1024


def a_run(seconds: float, wire_bytes: int | None = 1000, peak_mib: int | None = None) -> Run:
    peaks = {} if peak_mib is None else {"master": 2 * peak_mib * MIB, "worker": peak_mib * MIB}
    return Run(seconds, wire_bytes, {"master": 0.5, "worker": 0.25}, peaks, None if peak_mib is None else peak_mib * MIB)


def a_bench(work: str, *, in_memory: bool = False, say: Say = print) -> Bench:
    return Bench(WORKS[work], Path("/nowhere"), WORKS[work].ways, 3, 10, 1.0, in_memory, say)


def a_result(*works: WorkResult) -> SyncResult:
    return SyncResult("trees of files on ext4", MACHINE, works, {"rounds": 3})


def figures_of(work: WorkResult) -> dict[str, Figure]:
    return {figure.name: figure for figure in work.figures}


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("files", 1, 10_000_000),
        ("size_bytes", 0, 64 << 30),
        ("workers", 1, 64),
        ("change", 0, 1),
        ("rounds", 1, 100),
        ("changes", 1, 100_000),
        ("duration_s", 0.1, 3600),
    ],
)
def test_options_are_refused_just_outside_their_range(name: str, least: float, most: float) -> None:
    SyncOptions(**{name: least})  # type: ignore[arg-type]
    SyncOptions(**{name: most})  # type: ignore[arg-type]
    step = 1 if least == int(least) else 0.01
    for value in (least - step, most + step, float("nan")):
        with pytest.raises(UsageError):
            SyncOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"works": ("tiny",)}, {"works": ("small", "small")}, {"works": ()}, {"compare": ("scp",)}, {"compare": ("rsync",) * 2}],
)
def test_unknown_works_and_contenders_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"cannot|no work"):
        SyncOptions(**options)


def test_works_are_those_of_the_command_and_all_means_all() -> None:
    assert tuple(WORKS) == NAMES_OF_THE_COMMAND
    assert [work.name for work in SyncOptions(works=("all",)).chosen()] == list(WORKS)
    assert [work.name for work in SyncOptions().chosen()] == list(DEFAULT_WORKS)


def test_the_promised_bars() -> None:
    bars = {(name, bar.figure, bar.way): bar.most for name, work in WORKS.items() for bar in work.bars}
    assert bars == {
        ("small", "time", PLAIN): 1.4,
        ("small", "time", FSYNC): 0.2,
        ("small4", "time", PLAIN): 0.75,
        ("large", "time", TLS): 1.0,
        ("large", "memory", ""): 150,
        ("large4", "time", TLS): 0.5,
        ("pages", "time", PLAIN): 0.6,
        ("pages", "bytes", PLAIN): 0.6,
        ("insert", "time", PLAIN): 0.7,
        ("insert", "bytes", PLAIN): 1.1,
        ("changed", "time", PLAIN): 0.2,
        ("one", "p50", ""): 8,
        ("one", "p99", ""): 40,
        ("idle", "cpu", ""): 1,
        ("idle", "wire", ""): 1,
        ("million", "memory", ""): 400,
        ("million", "pass", ""): 6,
        ("million", "echo", ""): 3,
    }
    # a bar against a way of rsync that is never measured would be no bar
    assert all(bar.way in ("", *work.ways) for work in WORKS.values() for bar in work.bars)


def test_another_load_has_no_bar_unless_it_is_another_works() -> None:
    [small] = SyncOptions(works=("small",), files=50).chosen()
    assert (small.load, small.bars) == (Load(50, 4096), ())
    [four] = SyncOptions(works=("small",), workers=4).chosen()
    assert four is WORKS["small4"]
    [same] = SyncOptions(works=("large",), files=1, size_bytes=1 << 30).chosen()
    assert same is WORKS["large"]
    [pages] = SyncOptions(works=("pages",), workers=4).chosen()
    assert (pages.name, pages.bars) == ("pages", ())
    [changed] = SyncOptions(works=("changed",), change=0.5).chosen()
    assert changed.bars == ()


def test_ratios_are_of_medians_and_meet_their_bars() -> None:
    runs = {
        ZCLUSTER: [a_run(seconds, 100, 150) for seconds in (0.7, 9.0, 0.5)],
        PLAIN: [a_run(seconds) for seconds in (0.1, 0.5, 4.0)],
        FSYNC: [a_run(3.5)],
    }
    result = a_bench("small").result(runs)
    found = figures_of(result)
    assert found["time against rsync"].value == pytest.approx(1.4)
    assert found["time against rsync"].met
    assert found["time against rsync --fsync"].value == pytest.approx(0.2)
    assert found["bytes against rsync"].value == pytest.approx(0.1)
    assert found["bytes against rsync"].bar is None
    assert not a_result(replace(result, figures=(*result.figures, Figure("x", 2, "s", 1)))).met


def test_a_tmpfs_has_no_bar_against_fsync() -> None:
    runs = {ZCLUSTER: [a_run(1.0)], PLAIN: [a_run(1.0)], FSYNC: [a_run(1.0)]}
    on_disk, in_memory = (figures_of(a_bench("small", in_memory=where).result(runs)) for where in (False, True))
    assert on_disk["time against rsync --fsync"].met is False
    assert in_memory["time against rsync --fsync"].met is None
    assert in_memory["time against rsync"].bar == 1.4


def test_what_was_not_measured_is_absent() -> None:
    unknown = Contender("zcluster", (a_run(1.0, None), a_run(2.0, 5)))
    assert unknown.wire_bytes is None
    assert unknown.peak_bytes("master") is None
    assert unknown.peak_process_bytes is None
    assert unknown.cpu_s("client") is None
    found = figures_of(a_bench("insert").result({ZCLUSTER: [a_run(1.0, None)], PLAIN: [a_run(1.0)]}))
    assert set(found) == {"time against rsync"}


def test_peaks_are_the_greatest_of_all_runs() -> None:
    contender = Contender("zcluster", (a_run(1.0, 1, 10), a_run(1.0, 1, 30), a_run(1.0, 1, 20)))
    assert (contender.peak_bytes("master"), contender.peak_process_bytes) == (60 * MIB, 30 * MIB)
    assert contender.cpu_s("worker") == 0.25
    found = figures_of(a_bench("large").result({ZCLUSTER: [a_run(1.0, 1, 151)]}))
    assert found["greatest memory of a process"].met is False


def test_the_table_and_json_show_the_same(tmp_path: Path) -> None:
    runs = {ZCLUSTER: [a_run(0.5, 2_000_000, 100)], PLAIN: [a_run(1.0, 4_000_000)]}
    small = a_bench("small").result(runs)
    idle = a_bench("idle").result({}, (Figure("CPU, master", 2.0, "% of a core", 1.0),))
    whole = a_result(small, idle)
    lines = [line.split() for line in render(whole).splitlines()]
    assert ["small", "0.500", "1.000", "2.00", "4.00", "0.50", "+", "0.25", "0.50", "+", "0.25", "200", "+", "100"] in lines
    assert "small: time against rsync" in render(whole)
    assert next(line for line in lines if line[:2] == ["idle:", "CPU,"])[-2:] == ["NOT", "MET"]
    data = json.loads(render(whole, "json"))
    assert (data["schema"], data["bench"], data["options"]) == (1, "sync", {"rounds": 3})
    first = data["works"][0]
    assert first["contenders"][0]["seconds"] == 0.5
    assert first["contenders"][1]["peak_memory_bytes"] == {"master": None, "worker": None}
    assert first["contenders"][0]["rounds"][0]["wire_bytes"] == 2_000_000
    assert first["figures"][0]["met"] is True
    assert data["works"][1]["contenders"] == []
    write_report(whole, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "A &lt;fast&gt; CPU" in page
    assert page.count('class="missed"') == 1
    assert "zcluster bench sync" in page


def test_without_copies_there_is_no_table_of_them(tmp_path: Path) -> None:
    whole = a_result(a_bench("idle").result({}, (Figure("CPU, master", 0.5, "% of a core", 1.0),)))
    assert "MB" not in render(whole).split("machine:")[0]
    write_report(whole, tmp_path / "report.html")
    assert "<h2>Copies</h2>" not in (tmp_path / "report.html").read_text()


def test_what_is_missing_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.bench.rsync.shutil.which", lambda _name, path: None)
    with pytest.raises(UsageError, match="rsync is not installed"):
        run_sync(SyncOptions(compare=("rsync",), directory=tmp_path), print)
    with pytest.raises(UsageError, match="needs"):
        run_sync(SyncOptions(works=("large",), size_bytes=64 << 30, workers=64, directory=tmp_path), print)
    assert list(tmp_path.iterdir()) == []
