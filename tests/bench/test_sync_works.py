"""The works of the bench of file sync, with a cluster that copies when it is asked how far it is."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from zcluster.bench import synced, syncworks
from zcluster.bench.report import render, write_report
from zcluster.bench.rsync import PACKAGES, PLAIN, SYSTEM_PATHS
from zcluster.bench.sync import SyncOptions, run_sync
from zcluster.bench.syncresult import SyncResult, WorkResult
from zcluster.bench.syncworks import WORKS
from zcluster.bench.trees import HIDDEN
from zcluster.errors import TimedOut, ZClusterError


class FakeCluster:
    """Stands for LocalCluster; the test's own process stands for its nodes."""

    def __init__(self, workers: int, *, config: str, parent: Path, **_more: Any) -> None:
        self.worker_names = tuple(f"worker-{n}" for n in range(1, workers + 1))
        self.home = parent / "home"
        self.root = Path(next(json.loads(line[7:]) for line in config.splitlines() if line.startswith("path = ")))
        self.admin_key = self
        self.pids = dict.fromkeys(("master", *self.worker_names), os.getpid())
        self.version, self.scan_s = 1, 0.5
        self.seen: list[tuple[str, int]] | None = None
        self.applied_at_s = 0.0

    async def __aenter__(self) -> FakeCluster:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        shutil.rmtree(self.home, ignore_errors=True)

    def sync(self) -> None:
        """Copies when there is another state than the last time."""
        now = sorted((str(path), path.lstat().st_mtime_ns) for path in self.root.rglob("*") if path.is_file())
        if now == self.seen:
            return
        self.seen, self.version, self.applied_at_s = now, self.version + 1, time.time()
        for name in self.worker_names:
            copy = self.home / "trees" / name / "bench"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.root, copy)
            (copy / HIDDEN).mkdir()


class FakeClient:
    """Stands for AsyncClient."""

    spoil = ""
    """What goes wrong: ``content``, ``state``, ``echo``."""

    def __init__(self, *, key: FakeCluster) -> None:
        self.cluster = key

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return

    async def call(self, function: str, arguments: dict[str, Any] | None = None, *, target: str) -> Any:
        cluster = self.cluster
        if function == "echo":
            assert target == "worker-1"
            if self.spoil == "echo":
                raise TimedOut("no echo")
            return arguments and arguments["value"]
        assert target == "master"
        if function == "sync.trees":
            tree = {"name": "bench", "version": cluster.version, "scan_s": cluster.scan_s, "scanned_at_s": cluster.scan_s * 10}
            return [{**tree, "name": "another", "version": 0}, tree]
        assert arguments == {"tree": "bench"}
        if function == "sync.now":
            cluster.scan_s += 0.25
            return None
        assert function == "sync.status"
        cluster.sync()
        if self.spoil == "content":
            for path in (cluster.home / "trees").rglob("f0*"):
                path.chmod(0o600)
        state = "behind" if self.spoil == "state" else "current"
        row = {"state": state, "version": cluster.version, "reason": "because", "applied_at_s": cluster.applied_at_s}
        return [{"worker": name, **row} for name in cluster.worker_names]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    """A cluster that takes no time, and a bench that does not wait."""
    monkeypatch.setattr(synced, "LocalCluster", FakeCluster)
    monkeypatch.setattr(synced, "AsyncClient", FakeClient)
    for name in ("SETTLE_S", "BASELINE_S", "LEAST_GAP_S", "MOST_GAP_S", "ONE_POLL_S", "ECHO_PAUSE_S"):
        monkeypatch.setattr(syncworks, name, 0.0)
    monkeypatch.setattr(FakeClient, "spoil", "")
    return FakeClient


def measure(tmp_path: Path, work: str, **options: Any) -> tuple[WorkResult, SyncResult]:
    """The result of one work with a small load; nothing may be left of it."""
    small: dict[str, Any] = {"files": 12, "size_bytes": 5000, "rounds": 2, "changes": 3, "duration_s": 0.1, "directory": tmp_path}
    said: list[str] = []
    result = run_sync(SyncOptions(works=(work,), **(small | options)), said.append)
    assert list(tmp_path.iterdir()) == []
    assert said
    return result.works[0], result


def values(work: WorkResult) -> dict[str, float]:
    return {figure.name: figure.value for figure in work.figures}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("work", ["small", "small4", "large", "large4", "pages", "insert", "changed"])
def test_works_that_copy(tmp_path: Path, work: str) -> None:
    result, whole = measure(tmp_path, work, workers=2)
    [mine] = result.contenders
    assert (mine.name, len(mine.runs)) == ("zcluster", 2)
    assert mine.seconds > 0
    assert set(mine.runs[0].cpu_s) == {"master", "worker"}
    peak = mine.peak_process_bytes
    assert peak is not None
    assert peak > 1024 * 1024
    assert [figure.name for figure in result.figures] == ["greatest memory of a process"]
    assert f"{work}: " in render(whole)


@pytest.mark.usefixtures("fake")
def test_single_changes(tmp_path: Path) -> None:
    found = values(measure(tmp_path, "one")[0])
    assert 0 < found["durable, p50"] <= found["durable, p99"]
    assert found["durable, p50"] <= found["known at the master, p50"]
    assert len([name for name in found if name.startswith("CPU of a change")]) == 2


@pytest.mark.usefixtures("fake")
def test_idle(tmp_path: Path) -> None:
    found = values(measure(tmp_path, "idle")[0])
    assert found["CPU, master"] >= 0
    assert found["memory, worker"] > 1


@pytest.mark.usefixtures("fake")
def test_a_very_large_tree(tmp_path: Path) -> None:
    result, whole = measure(tmp_path, "million")
    found = values(result)
    assert found["a full pass"] == pytest.approx(0.875)
    assert found["p99 of an echo before"] > 0
    assert found["p99 meanwhile against before"] > 0
    assert "peak MiB" not in render(whole)


@pytest.mark.parametrize(("spoil", "error"), [("content", "is not what was copied"), ("state", "not current")])
@pytest.mark.parametrize("work", ["small", "changed", "one", "idle", "million"])
def test_a_copy_that_is_wrong_or_never_comes_fails_loudly(
    fake: type[FakeClient], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spoil: str, error: str, work: str
) -> None:
    monkeypatch.setattr(fake, "spoil", spoil)
    monkeypatch.setattr(synced, "COPY_S", 0.0)
    with pytest.raises(ZClusterError, match=error) as caught:
        measure(tmp_path, work)
    assert list(tmp_path.iterdir()) == []
    if spoil == "state":
        assert caught.value.hint == "worker-1: behind because"


def test_an_echo_that_fails_ends_the_bench(fake: type[FakeClient], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fake, "spoil", "echo")
    with pytest.raises(TimedOut, match="no echo"):
        measure(tmp_path, "million")


@pytest.mark.usefixtures("fake")
def test_a_pass_that_never_ends_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(syncworks, "PASS_S", 0.0)
    with pytest.raises(TimedOut, match="no full pass"):
        measure(tmp_path, "million")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("work", ["small", "large4", "pages", "insert", "changed", "one"])
def test_rsync_takes_its_turns(tmp_path: Path, work: str) -> None:
    missing = [name for name in PACKAGES if shutil.which(name, path=SYSTEM_PATHS) is None]
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"not installed: {', '.join(missing)}")
    bench = tmp_path / "bench"
    bench.mkdir()
    result, whole = measure(bench, work, compare=("rsync",))
    if work == "one":
        assert values(result)["rsync, median of 5"] > 0
        return
    assert [each.name for each in result.contenders] == ["zcluster", *WORKS[work].ways]
    assert {len(each.runs) for each in result.contenders} == {2}
    ratio = result.contenders[0].seconds / result.contenders[1].seconds
    assert values(result)[f"time against {PLAIN}"] == pytest.approx(ratio)
    assert "rsync s" in render(whole)
    written = json.loads(render(whole, "json"))["works"][0]["contenders"]
    assert [each["wire_bytes"] > 0 for each in written[1:]] == [True] * len(WORKS[work].ways)
    write_report(whole, tmp_path / "report.html")
    assert "rsync s" in (tmp_path / "report.html").read_text()
