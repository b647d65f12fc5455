"""Real children of the bench: their leash, their end, and the contenders that need no cluster."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from zcluster.bench.child import Ready, RoundChild, child_environment, start_process, stop_processes
from zcluster.bench.contenders import nats_contender, raw_contender
from zcluster.bench.raw import RawConfig
from zcluster.bench.rounds import Load, Round, Watched, run_round
from zcluster.errors import ZClusterError

LIMIT_S = 20.0

PARENT = """
import os, signal, sys
from pathlib import Path
from zcluster.bench.child import start_process
child = start_process([sys.executable, "-c", "import time; time.sleep(600)"], Path(sys.argv[1]))
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def gone(pid: int) -> bool:
    """Whether the process ended (a zombie that nobody reads has ended)."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def wait_gone(pids: list[int]) -> None:
    """Waits until all have ended; fails after LIMIT_S."""
    deadline_s = time.monotonic() + LIMIT_S
    while left := [pid for pid in pids if not gone(pid)]:
        assert time.monotonic() < deadline_s, f"still running: {left}"
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is the kernel's PR_SET_PDEATHSIG")
def test_a_child_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    parent = subprocess.run(command, stdout=subprocess.PIPE, env=child_environment(), timeout=LIMIT_S)
    assert parent.returncode == -signal.SIGKILL
    wait_gone([int(parent.stdout)])


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stubborn = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    child = start_process([sys.executable, "-c", stubborn], log)
    deadline_s = time.monotonic() + LIMIT_S
    while "deaf" not in log.read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    stop_processes([child], stop_s=0.1)
    assert child.returncode == -signal.SIGKILL


def test_a_round_child_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    async def main() -> None:
        # a key that is none: the child ends with a traceback
        child = RoundChild("raw worker", ["zcluster.bench.raw", "worker"], tmp_path / "log")
        try:
            await child.start(RawConfig("not a key", workers=("worker-1",)))
            await child.hear(Ready, LIMIT_S)
        finally:
            await child.stop()

    with pytest.raises(ZClusterError, match="raw worker ended early") as caught:
        asyncio.run(main())
    assert "last words" in caught.value.hint


async def one_round(watched: Watched, rate: float) -> Round:
    return await run_round(watched, Load(in_flight=4, rate=rate, window_s=0.3, warm_up_s=0.1))


@pytest.mark.parametrize(("clients", "workers", "rate"), [(1, 1, 0.0), (2, 2, 0.0), (1, 2, 100.0)])
def test_raw_answers_and_leaves_nothing(tmp_path: Path, clients: int, workers: int, rate: float) -> None:
    pids: list[int] = []

    async def main() -> Round:
        async with raw_contender(1000, clients, workers, tmp_path) as watched:
            pids.extend(pid for each in watched.pids.values() for pid in each)
            await one_round(watched, rate)
            return await one_round(watched, rate)

    result = asyncio.run(main())
    assert len(pids) == 1 + clients + workers
    assert result.requests > 0
    assert result.requests == result.histogram.count - result.unsent
    assert result.errors == {}
    if rate:
        assert result.histogram.count == round(rate * 0.3)
    wait_gone(pids)


@pytest.mark.skipif(shutil.which("nats-server", path="/usr/sbin:/usr/bin:/usr/local/bin") is None, reason="no nats-server")
@pytest.mark.parametrize("rate", [0.0, 100.0])
def test_nats_answers_and_leaves_nothing(tmp_path: Path, rate: float) -> None:
    pids: list[int] = []

    async def main() -> Round:
        async with nats_contender(1000, 2, 2, tmp_path, open_loop=rate > 0) as watched:
            pids.extend(pid for each in watched.pids.values() for pid in each)
            return await one_round(watched, rate)

    result = asyncio.run(main())
    assert len(pids) == 5
    assert result.histogram.count > 0
    assert result.errors == {}
    wait_gone(pids)
