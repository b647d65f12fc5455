"""The environment and the log files of children; the processes themselves are in tests/system."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pytest

from zcluster.bench import nats
from zcluster.bench.child import Ready, child_environment, last_line, log_tail, read_line, run_cleanly
from zcluster.bench.cluster import FIRST_PORT, LAST_PORT, LocalCluster, free_ports
from zcluster.errors import NoSuchNode, UsageError


def test_settings_of_the_user_do_not_reach_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZCLUSTER_HOME", "/somewhere")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = child_environment({"ZCLUSTER_LOG__LEVEL": "debug"})
    assert "ZCLUSTER_HOME" not in environment
    assert environment["ZCLUSTER_LOG__LEVEL"] == "debug"
    first, second = environment["PYTHONPATH"].split(":")
    assert (Path(first) / "zcluster" / "bench" / "child.py").exists()
    assert second == "/elsewhere"


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert log_tail(log) == ""
    assert last_line(log) == "it printed nothing"
    log.write_text("first\nsecond \n\n")
    assert last_line(log) == "second"
    assert log_tail(log, 3) == " \n\n"


def test_a_line_or_the_end() -> None:
    source = io.BytesIO(b'{"port": 5}\n')
    assert read_line(Ready, source) == Ready(5)
    assert read_line(Ready, source) is None


def test_free_ports_differ_and_are_in_range() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(FIRST_PORT <= port < LAST_PORT for port in ports)


def test_a_cluster_that_is_not_started_says_so() -> None:
    cluster = LocalCluster(workers=2)
    assert cluster.worker_names == ("worker-1", "worker-2")
    assert cluster.pids == {}
    with pytest.raises(UsageError, match="not started"):
        _ = cluster.home
    with pytest.raises(NoSuchNode, match="worker-9"):
        cluster.kill("worker-9")
    cluster.close()
    with pytest.raises(UsageError):
        LocalCluster(workers=-1)


def test_missing_nats_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.bench.nats.shutil.which", lambda *_args, **_more: None)
    with pytest.raises(UsageError) as caught:
        nats.server_path()
    assert caught.value.hint == "apt-get install nats-server"


def test_missing_nats_py_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.bench.nats.shutil.which", lambda *_args, **_more: "/usr/sbin/nats-server")
    monkeypatch.setattr("zcluster.bench.nats.importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UsageError) as caught:
        nats.server_path()
    assert "zcluster[bench]" in caught.value.hint


def test_nats_takes_the_greatest_body() -> None:
    assert f"max_payload: {64 << 20}" in nats.server_config(4222)


def test_after_a_bench_sigterm_means_what_it_meant_before() -> None:
    async def main() -> int:
        return 7

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        assert run_cleanly(main()) == 7
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
