"""The benches for real, short: what they measure is not judged, that they measure is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from zcluster.bench import herd, special
from zcluster.bench.cluster import LocalCluster
from zcluster.bench.dapi import ROLES, DapiOptions, run_dapi
from zcluster.bench.report import render, write_report
from zcluster.bench.special import SpecialOptions, run_special
from zcluster.errors import ZClusterError

HAS_NATS = shutil.which("nats-server", path="/usr/sbin:/usr/bin:/usr/local/bin") is not None


def test_dapi_measures_and_compares(tmp_path: Path) -> None:
    compare = ("raw", "nats") if HAS_NATS else ("raw",)
    said: list[str] = []
    result = run_dapi(DapiOptions(in_flight=16, duration_s=0.6, compare=compare), said.append)
    assert [contender.name for contender in result.contenders] == ["zcluster", *compare]
    for contender in result.contenders:
        assert len(contender.rounds) == 3
        assert all(each.requests > 0 for each in contender.rounds)
        assert contender.errors == {}
        assert all(contender.peak_bytes[role] > 0 for role in ROLES)
        assert contender.percentile_s(50) <= contender.percentile_s(99) <= contender.max_s
    assert {ratio.against for ratio in result.ratios} == set(compare)
    # the contenders take turns
    turns = [line.split(": ")[1].split()[0] for line in said if line.startswith("round ")]
    assert turns == ["zcluster", *compare] * 3
    assert json.loads(render(result, "json"))["machine"]["cores"] >= 1
    write_report(result, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 4096


@pytest.mark.parametrize("size_bytes", [0, 200_000])
def test_open_loop_keeps_its_timetable_with_any_size(size_bytes: int) -> None:
    options = DapiOptions(size_bytes=size_bytes, in_flight=8, rate=50.0, duration_s=1.0, rounds=1, clients=2, workers=2)
    result = run_dapi(options, lambda _line: None)
    assert result.contenders[0].histogram.count == 50
    assert result.contenders[0].errors == {}


def test_a_running_cluster_is_measured_from_outside() -> None:
    with LocalCluster(workers=1) as cluster:
        options = DapiOptions(in_flight=4, sweep=(1,), duration_s=0.3, rounds=1, key=cluster.client_key)
        result = run_dapi(options, lambda _line: None)
        assert result.contenders[0].requests > 0
        assert result.contenders[0].cpu_us("master") is None
        assert result.contenders[0].cpu_us("client") is not None
        assert [level.in_flight for level in result.sweep] == [1, 4]
        assert all(each.requests > 0 for level in result.sweep for each in level.contenders)
        by_home = DapiOptions(in_flight=4, duration_s=0.3, rounds=1, home=cluster.home)
        assert run_dapi(by_home, lambda _line: None).contenders[0].requests > 0


def test_no_running_cluster_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZClusterError):
        run_dapi(DapiOptions(home=tmp_path, duration_s=0.3, rounds=1), lambda _line: None)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench that does not wait for the machine to calm down."""
    for module, name in ((herd, "SETTLE_S"), (herd, "AWAY_S"), (special, "IDLE_S")):
        monkeypatch.setattr(module, name, 0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sleep", SpecialOptions(rounds=1)),
        ("fanout", SpecialOptions(workers=2, rounds=1, duration_s=0.3)),
        ("reconnect", SpecialOptions(workers=5, rounds=1)),
        ("idle", SpecialOptions(workers=5, duration_s=0.3)),
        ("memory", SpecialOptions()),
    ],
)
def test_the_named_benches_run(name: str, options: SpecialOptions) -> None:
    result = run_special(name, options, lambda _line: None)
    assert result.name == name
    by_name = {figure.name: figure for figure in result.figures}
    # a few idle workers may cost less than a tick of the kernel's clock
    assert result.figures[0].value > 0 or name == "idle"
    counted = by_name.get("ready, as the master says")
    assert counted is None or counted.value == 5
    assert "machine: " in render(result)
