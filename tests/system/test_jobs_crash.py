"""A process that is killed while it commits jobs: nothing that was acknowledged is lost, and nothing is half there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zcluster.core.queue.job import State
from zcluster.store.jobs_check import check_file
from zcluster.store.jobs_opening import open_jobs
from zcluster.store.jobs_schema import files_of

CHILD = Path(__file__).with_name("killed_jobs.py")
PER_ROUND = 12
STEPS = {"accepted": State.QUEUED, "leased": State.LEASED, "ended": State.DONE}
POINTS = [f"queue.{step}.{where}_commit" for step in ("accept", "lease", "outcome") for where in ("before", "after")]
POINTS += ["queue.file.before_rename", "queue.file.after_rename"]


def acknowledged(path: Path, rounds: int, lines: int, point: str = "") -> list[tuple[str, int]]:
    """What a child had acknowledged before it was killed, after so many ``lines`` or at a fail point: steps and first numbers."""
    env = {**os.environ, "ZCLUSTER_FAILPOINT": point}
    with subprocess.Popen([sys.executable, CHILD, path, str(rounds)], stdout=subprocess.PIPE, env=env) as child:
        assert child.stdout is not None
        out = b"".join(child.stdout.readline() for _ in range(lines))
        if not point:
            child.send_signal(signal.SIGKILL)
        out += child.stdout.read()
        assert child.wait() == -signal.SIGKILL
    told = [line.split() for line in out.decode().splitlines(keepends=True) if line.endswith("\n")]
    return [(step, int(first)) for step, first, _ in told]


async def check(path: Path, told: list[tuple[str, int]]) -> None:
    report = check_file(path)  # as the crash left it, log and all
    assert report.ok, report.findings
    store = await open_jobs(path, file_bytes=1000)
    opened = await store.opened()
    newest = {first: STEPS[step] for step, first in told}
    for first, state in newest.items():
        assert first + PER_ROUND - 1 <= opened.last_number
        jobs = [await store.get(number) for number in range(first, first + PER_ROUND)]
        states = {job.state for job in jobs if job is not None and not job.parts}
        assert len(states) == 1, "a commit was done in part"
        # A later commit may have come that nobody was told of.
        assert min(states) >= state
        assert all(job is not None and job.size in (2, 5000) for job in jobs)
        fan_out = jobs[9]
        assert fan_out is not None
        assert fan_out.parts_left == (0 if states == {State.DONE} else 2)
    assert sum(opened.counts.values()) == opened.last_number
    report = await store.check()
    assert report.ok, report.findings
    await store.close()
    # Files that no row names went when it was opened.
    assert len(list(files_of(path).iterdir())) <= 2 * opened.last_number // PER_ROUND


def test_nothing_acknowledged_is_lost_by_kill(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    for round_ in range(3):
        told += acknowledged(tmp_path / "queue.db", 1_000_000, 20 + 31 * round_)
        asyncio.run(check(tmp_path / "queue.db", told))


@pytest.mark.parametrize("point", POINTS)
def test_nothing_is_lost_or_half_done_at_a_fail_point(tmp_path: Path, point: str) -> None:
    told = acknowledged(tmp_path / "queue.db", 5, 0, f"{point}:3")
    assert told
    asyncio.run(check(tmp_path / "queue.db", told))
    told += acknowledged(tmp_path / "queue.db", 5, 0, point)
    asyncio.run(check(tmp_path / "queue.db", told))
