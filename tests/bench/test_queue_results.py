"""What ``bench queue`` makes of rounds: medians, ratios with their bars, what the reports show, and the options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from zcluster.bench import queuerounds
from zcluster.bench.child import RoundChild
from zcluster.bench.figures import Figure
from zcluster.bench.machine import Machine
from zcluster.bench.queue import QueueOptions, accept_figures, done_figures, run_queue
from zcluster.bench.queuecontenders import CONTENDERS, OTHERS
from zcluster.bench.queuereport import WHAT
from zcluster.bench.queueresult import QueueContender, QueueResult, QueueWork
from zcluster.bench.queuerounds import Latencies, QueueLine, QueueRound, QueueWatched, Reading, filesystem_of, round_of
from zcluster.bench.redis_contender import MAX_SOCKET_BYTES, redis_config
from zcluster.bench.report import render, write_report
from zcluster.bench.stats import Histogram
from zcluster.errors import UsageError

MACHINE = Machine(2, "A <fast> CPU", 8 << 30, "Linux 6.1", "CPython 3.11.7", "27.3.0", "4.3.5", 0.5)


def latencies(count: int, each_ms: float) -> Histogram:
    histogram = Histogram()
    histogram.record_ns(int(each_ms * 1e6), count)
    return histogram


def a_round(
    done: int, *, accept_ms: float = 1.0, errors: dict[str, int] | None = None, written: float | None = None
) -> QueueRound:
    """One round of one second."""
    cpu_s = {"master": 0.5, "worker": 0.25}
    return QueueRound(1.0, latencies(done, accept_ms), latencies(done, 4.0), errors or {}, cpu_s, written, None)


def contender(name: str, *done: int, **more: Any) -> QueueContender:
    return QueueContender(name, tuple(a_round(each, **more) for each in done), {"master": 64 << 20})


def test_figures_are_medians_of_rounds_and_absent_when_not_measured() -> None:
    mine = contender("zcluster", 100, 500, 400, written=40_000.0)
    assert (mine.accepted_per_s, mine.done_per_s) == (400, 400)
    assert mine.bytes_per_job == 100
    assert mine.commits_per_s is None
    assert mine.cpu_us("master") == pytest.approx(1500)
    assert mine.cpu_us("client") is None
    assert mine.accept_s(50) == pytest.approx(0.001, rel=0.01)
    assert mine.done_s(99) == pytest.approx(0.004, rel=0.01)
    mixed = QueueContender("zcluster", (a_round(1), a_round(1, written=1.0)), {})
    assert mixed.bytes_per_job is None
    nothing = contender("zcluster", 0, 0, 0, errors={"busy": 2})
    assert (nothing.done_s(50), nothing.cpu_us("master"), nothing.bytes_per_job) == (None, None, None)
    assert nothing.errors == {"busy": 6}


def test_ratios_have_the_promises_bars_with_its_load_only() -> None:
    found = {name: contender(name, rate) for name, rate in (("zcluster", 500), ("sqlite", 100), ("celery", 101), ("redis", 500))}
    figures = {figure.name: figure for figure in done_figures(found, promised=True)}
    assert [(f.value, f.bar, f.met) for f in figures.values()] == [
        (5.0, 5.0, True), (pytest.approx(4.95, rel=0.01), 5.0, False), (1.0, 1.0, True), (0, 0, True),
    ]  # fmt: skip
    assert all(figure.bar is None for figure in done_figures(found, promised=False)[:-1])
    assert [figure.name for figure in done_figures({"zcluster": found["zcluster"]}, promised=True)] == ["jobs that were not done"]
    failed = {"zcluster": contender("zcluster", 5, errors={"timed_out": 1}), "redis": contender("redis", 0)}
    assert [figure.met for figure in done_figures(failed, promised=False)] == [False]


def test_acceptance_is_compared_with_one_commit() -> None:
    for accept_ms, met in ((1.5, True), (1.6, False)):
        found = {"zcluster": contender("zcluster", 9, accept_ms=accept_ms), "sqlite": contender("sqlite", 9)}
        assert accept_figures(found, promised=True)[0].met is met
        assert accept_figures(found, promised=False)[0].met is None
    found = {"zcluster": contender("zcluster", 0), "sqlite": contender("sqlite", 9)}
    assert len(accept_figures(found, promised=True)) == 1


def test_what_the_parent_reads_is_scaled_to_the_window(tmp_path: Path) -> None:
    line = QueueLine(Latencies.of(latencies(10, 1.0)), Latencies.of(latencies(8, 2.0)), 2.0, {"busy": 1})
    watched = QueueWatched(RoundChild("x", [], tmp_path / "log"), tmp_path)
    before, after = Reading(10.0, {"master": 1.0}, 1000, 5), Reading(14.0, {"master": 2.0}, 5000, 25)
    found = round_of(line, before, after, watched)
    assert (found.cpu_s, found.written_bytes, found.commits_per_s) == ({"master": 0.5}, 2000, 5.0)
    assert (found.accepted_per_s, found.done_per_s, found.errors) == (5.0, 4.0, {"busy": 1})
    plain = QueueWatched(watched.loader, tmp_path, one_commit=True)
    unread = round_of(line, Reading(10.0, {}, None, None), Reading(12.0, {}, 7, None), plain)
    assert (unread.written_bytes, unread.commits_per_s) == (None, 4.0)


def test_the_file_system_is_that_of_the_nearest_mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    mounts = [("/", "ext4"), (str(inner), "xfs"), (str(inner), "tmpfs"), (f"{tmp_path}/inn", "nfs")]
    made = [type("Mount", (), {"mountpoint": place, "device": "none", "fstype": kind})() for place, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: made)
    assert filesystem_of(tmp_path) == "ext4"
    assert filesystem_of(inner) == "tmpfs"
    assert queuerounds.in_memory(inner)
    assert not queuerounds.in_memory(tmp_path)
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [])
    assert filesystem_of(tmp_path) == ""


def test_bytes_of_a_process_that_is_gone_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(psutil, "Process", gone)
    assert queuerounds.written_bytes([1]) is None
    assert queuerounds.written_bytes([]) == 0


def a_result() -> QueueResult:
    """The work done of two contenders, and million."""
    found = {"zcluster": contender("zcluster", 400, written=800.0), "sqlite": contender("sqlite", 100)}
    done = QueueWork("done", "256 jobs in flight", tuple(found.values()), tuple(done_figures(found, promised=True)))
    million = QueueWork("million", "queued jobs", (), (Figure("memory", 200.0, "MiB", 300.0),))
    return QueueResult("durable jobs, files on ext4", MACHINE, (done, million), {"rounds": 3})


def test_the_table_json_and_page_show_the_same(tmp_path: Path) -> None:
    result = a_result()
    assert not result.met
    table = render(result)
    lines = [line.split() for line in table.splitlines()]
    assert ["done", "zcluster", "sqlite"] in lines
    assert ["done", "jobs/s", "400", "100"] in lines
    assert ["written", "bytes/job", "2", "-"] in lines
    assert next(line for line in lines if line[:2] == ["done:", "done,"])[-2:] == ["NOT", "MET"]
    assert "million: memory" in table
    assert f"sqlite: {WHAT['sqlite']}" in table
    data = json.loads(render(result, "json"))
    assert (data["schema"], data["bench"], data["options"]) == (1, "queue", {"rounds": 3})
    first = data["works"][0]["contenders"][0]
    assert (first["done_per_s"], first["written_bytes_per_job"], first["commits_per_s"]) == (400, 2, None)
    assert first["cpu_us_per_job"]["client"] is None
    assert data["works"][0]["figures"][0]["met"] is False
    assert data["works"][1]["contenders"] == []
    write_report(result, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "zcluster bench queue" in page
    assert page.count('class="missed"') == 1


def test_every_contender_says_what_it_is() -> None:
    assert set(WHAT) == set(CONTENDERS) == {"zcluster", *OTHERS}


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("in_flight", 1, 65_536), ("size_bytes", 0, 1 << 20), ("rounds", 1, 100), ("duration_s", 0.1, 3600), ("jobs", 1, 4_000_000)],
)
def test_options_are_refused_just_outside_their_range(name: str, least: float, most: float) -> None:
    for value in (least, most):
        QueueOptions(**{name: value})  # type: ignore[arg-type]
    for value in (least - 0.01 if name == "duration_s" else least - 1, most + 1):
        with pytest.raises(UsageError):
            QueueOptions(**{name: value})  # type: ignore[arg-type]


def test_works_and_contenders_are_known_and_named_once(tmp_path: Path) -> None:
    QueueOptions(works=("done", "accept", "million"), compare=("sqlite", "celery", "redis"), directory=tmp_path)
    for wrong in (
        {"works": ()}, {"works": ("tiny",)}, {"works": ("done", "done")}, {"compare": ("kafka",)},
        {"compare": ("redis", "redis")}, {"compare": ("redis",), "rounds": 2}, {"directory": tmp_path / "missing"},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            QueueOptions(**wrong)
    assert QueueOptions().promised
    assert not QueueOptions(size_bytes=101).promised
    assert QueueOptions(rounds=3, duration_s=9.0).load(7).warm_up_s == 0.75


@pytest.mark.parametrize(
    ("compare", "missing", "said"),
    [
        ("redis", "redis-server", "redis-server is not installed"),
        ("redis", "redis", "redis-py is not installed"),
        ("celery", "redis-server", "redis-server is not installed"),
        ("celery", "celery", "celery is not installed"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_made(
    compare: str, missing: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contenders = "zcluster.bench.redis_contender"
    monkeypatch.setattr(f"{contenders}.shutil.which", lambda name, path: None if name == missing else f"/bin/{name}")
    monkeypatch.setattr(f"{contenders}.importlib.util.find_spec", lambda name: None if name == missing else object())
    with pytest.raises(UsageError, match=said):
        run_queue(QueueOptions(compare=(compare,), directory=tmp_path), print)
    assert list(tmp_path.iterdir()) == []


def test_the_redis_server_syncs_every_write() -> None:
    lines = redis_config(Path("/s/socket"), Path("/disk/here")).splitlines()
    assert {"port 0", "unixsocket /s/socket", "dir /disk/here", "appendonly yes", "appendfsync always"} <= set(lines)
    longest = "/" + "s" * (MAX_SOCKET_BYTES - 1)
    redis_config(Path(longest), Path("/disk"))
    with pytest.raises(UsageError, match="too long"):
        redis_config(Path(longest + "s"), Path("/disk"))
    for wrong in ("/a b", '/a"b', "/a'b", "/a\nport 1"):
        with pytest.raises(UsageError, match="cannot use"):
            redis_config(Path("/s"), Path(wrong))
