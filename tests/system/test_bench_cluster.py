"""A cluster of this machine for a while, for real."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from zcluster.bench.child import child_environment
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.errors import UsageError, ZClusterError


def ended(pids: list[int]) -> bool:
    """Whether all processes have ended; their parent has waited for them, so they are not even zombies."""
    return not any(psutil.pid_exists(pid) for pid in pids)


async def _body_of_a_cluster() -> None:
    async with LocalCluster(workers=2) as cluster:
        pids, home = cluster.pids, cluster.home
        assert sorted(pids) == ["master", "worker-1", "worker-2"]
        assert home.parent.stat().st_mode & 0o777 == 0o700
        async with AsyncClient(key=cluster.client_key) as client:
            assert await client.call("echo", {"value": 1}, target="worker-2") == 1

            await cluster.restart_worker("worker-1")
            assert cluster.pids["worker-1"] != pids["worker-1"]
            assert cluster.pids["worker-2"] == pids["worker-2"]
            info = await client.call("node.info", target="worker-1")
            assert info["pid"] == cluster.pids["worker-1"]

            with pytest.raises(UsageError, match="already runs"):
                cluster.start_worker("worker-2")
            cluster.kill("worker-2", signal.SIGSTOP)
            assert await cluster.terminate("worker-2") in (0, -signal.SIGTERM)
            assert "worker-2" not in cluster.pids
        assert cluster.logs("worker-1")
    assert not home.parent.exists()
    assert ended(list(pids.values()))


def test_cluster_starts_restarts_and_cleans_up() -> None:
    asyncio.run(_body_of_a_cluster())


def test_the_blocking_form_cleans_up_after_an_error() -> None:
    cluster = LocalCluster(workers=1)
    seen: list[int] = []

    def use() -> None:
        with cluster:
            seen.extend(cluster.pids.values())
            cluster.kill("worker-1", signal.SIGSTOP)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert len(seen) == 2
    assert ended(seen)
    with pytest.raises(UsageError, match="not started"):
        _ = cluster.home


def test_a_node_that_does_not_start_is_told_with_its_last_words_and_nothing_is_left() -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    cluster = LocalCluster(workers=1, functions=["no.such.module"])
    with pytest.raises(ZClusterError, match="worker-1 ended") as caught, cluster:
        raise AssertionError("it started")
    assert "no.such.module" in caught.value.hint
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before
    assert cluster.pids == {}


def test_master_restart_is_waited_for() -> None:
    with LocalCluster(workers=1, settings={"session.heartbeat_s": 0.5}) as cluster:
        old = cluster.pids
        asyncio.run(cluster.restart_master())
        assert cluster.pids["master"] != old["master"]
        assert cluster.pids["worker-1"] == old["worker-1"]


BENCH = """
from zcluster.bench.dapi import DapiOptions, run_dapi
run_dapi(DapiOptions(duration_s=600), lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, (1, -signal.SIGINT)), (signal.SIGTERM, (143,))])
def test_a_bench_that_is_told_to_stop_leaves_nothing(tmp_path: Path, signal_number: int, code: tuple[int, ...]) -> None:
    environment = child_environment() | {"TMPDIR": str(tmp_path)}
    bench = subprocess.Popen([sys.executable, "-c", BENCH], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert bench.stdout is not None
        assert b"starting" in bench.stdout.readline()
        deadline_s = time.monotonic() + 20.0
        while not (children := psutil.Process(bench.pid).children(recursive=True)):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        bench.send_signal(signal_number)
        assert bench.wait(30.0) in code
    finally:
        bench.kill()
        bench.wait()
    assert list(tmp_path.iterdir()) == []
    assert ended([child.pid for child in children])
