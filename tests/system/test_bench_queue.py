"""``bench queue`` for real, short: what it measures is not judged, that it measures is."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from zcluster.bench.queue import QueueOptions, run_queue
from zcluster.bench.queuecontenders import CELERY, OTHERS, REDIS, SQLITE, ZCLUSTER
from zcluster.bench.queueresult import ROLES, QueueResult
from zcluster.bench.redis_contender import SYSTEM_PATHS
from zcluster.bench.report import render

NEEDS = {CELERY: ("celery", "redis"), REDIS: ("redis",), SQLITE: ()}


def need(name: str) -> None:
    """Skips on a laptop without what a contender needs; in CI, where it is to be installed, that is a failure."""
    missing = [module for module in NEEDS[name] if importlib.util.find_spec(module) is None]
    if NEEDS[name] and shutil.which("redis-server", path=SYSTEM_PATHS) is None:
        missing.append("redis-server")
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"not installed: {', '.join(missing)}")


def measured(tmp_path: Path, said: list[str], **options: object) -> QueueResult:
    """What the bench measures in ``tmp_path``, of which it leaves nothing, nor a process."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    result = run_queue(QueueOptions(directory=tmp_path, **options), said.append)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before
    return result


@pytest.mark.parametrize("other", OTHERS)
def test_jobs_are_measured_in_turns(other: str, tmp_path: Path) -> None:
    need(other)
    said: list[str] = []
    result = measured(tmp_path, said, in_flight=16, compare=(other,), duration_s=0.9)
    (work,) = result.works
    assert [contender.name for contender in work.contenders] == [ZCLUSTER, other]
    for contender in work.contenders:
        assert contender.errors == {}
        assert len(contender.rounds) == 3
        assert contender.accepted_per_s > 0
        assert contender.done_per_s > 0
        assert (contender.accept_s(50) or 0) > 0
        roles = ("master",) if contender.name == SQLITE else ROLES
        assert all(contender.peak_bytes[role] > 0 and contender.cpu_us(role) is not None for role in roles)
    assert f"done, against {other}" in [figure.name for figure in work.figures]
    turns = [line.split(": ")[1].split()[0] for line in said if line.startswith("round ")]
    assert turns == [ZCLUSTER, other] * 3
    assert json.loads(render(result, "json"))["works"][0]["contenders"][1]["name"] == other
    assert result.met  # another load than the promise's: no bar but that of errors


def test_acceptance_is_measured_against_a_commit(tmp_path: Path) -> None:
    result = measured(tmp_path, [], works=("accept",), duration_s=0.6, rounds=1, size_bytes=10)
    (work,) = result.works
    assert [contender.name for contender in work.contenders] == [ZCLUSTER, SQLITE]
    assert work.figures[0].name == "accepted p50, against one commit"
    assert work.figures[0].value > 0


def test_a_full_queue_is_measured(tmp_path: Path) -> None:
    result = measured(tmp_path, [], works=("million",), jobs=300, rounds=1)
    (work,) = result.works
    found = {figure.name: figure.value for figure in work.figures}
    assert all(value > 0 for value in found.values())
    assert result.met
    assert "next job, full against empty" in render(result)
