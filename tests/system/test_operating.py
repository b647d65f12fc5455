"""An operator's commands against one real cluster: doctor, check, wait, nodes drain and its like, contexts."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from waiting import eventually, node_is

from zcluster.bench.cluster import LocalCluster, free_ports
from zcluster.cli.main import run
from zcluster.clients import AsyncClient
from zcluster.keys import Ring, generate, new_key


@dataclass(frozen=True)
class Done:
    """What a command line did."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Cli:
    """Runs command lines with the home of a cluster, in this process: a start of Python for each would be most of the time."""

    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str, **environment: str) -> Done:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZCLUSTER_", "_ZCLUSTER"))}
        told = {name: text for name, text in {**kept, **self.environment, **environment}.items() if text}
        out, err = io.StringIO(), io.StringIO()
        with patch.dict(os.environ, told, clear=True), redirect_stdout(out), redirect_stderr(err):
            code = run(words)
        return Done(code, out.getvalue(), err.getvalue())

    def doctor(self, *words: str, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
        done = self.run("doctor", *words, "-o", "json", **environment)
        assert done.stderr == ""
        return done.returncode, {item["check"]: item for item in json.loads(done.stdout)["items"]}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2, settings={"session.heartbeat_s": 0.2}) as running:
        yield running


@pytest.fixture
def cli(cluster: LocalCluster, tmp_path: Path) -> Cli:
    return Cli({"ZCLUSTER_HOME": str(cluster.home), "XDG_CONFIG_HOME": str(tmp_path)})


def test_doctor_finds_nothing_wrong(cli: Cli, cluster: LocalCluster) -> None:
    code, found = cli.doctor()
    assert {name: item["state"] for name, item in found.items() if item["state"] not in ("ok", "warn")} == {}
    assert [name for name in found if name in ("resolve", "tcp", "server", "handshake", "session", "version", "clock")] == [
        "resolve", "tcp", "server", "handshake", "session", "version", "clock",
    ]  # fmt: skip
    assert code in (0, 3), "a machine with little room has a warning"
    code, found = cli.doctor("--key", str(cluster.key_file("worker-1")))
    assert found["handshake"]["ok"] is True
    assert found["session"]["ok"] is None, "it would end the worker's own"
    text = cli.run("doctor").stdout.splitlines()
    assert text[0].split() == ["CHECK", "STATE", "FOUND"]


def test_doctor_says_the_first_thing_that_is_wrong(cli: Cli, cluster: LocalCluster, tmp_path: Path) -> None:
    (free,) = free_ports(1)
    code, found = cli.doctor("--master", f"tcp://127.0.0.1:{free}")
    assert (code, found["tcp"]["ok"], found["handshake"]["ok"]) == (1, False, None)
    assert "nobody listens" in found["tcp"]["message"]

    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        code, found = cli.doctor("--master", f"tcp://127.0.0.1:{mute.getsockname()[1]}", "--timeout", "300ms")
        assert (code, found["tcp"]["ok"], found["server"]["ok"]) == (1, True, False)
        assert "says nothing" in found["server"]["message"]

    text = cluster.admin_key.read_text()
    begin = text.index("[master]")
    public = next(line for line in text[begin:].splitlines() if line.startswith("public"))
    wrong = tmp_path / "wrong.key"
    wrong.touch(mode=0o600)
    wrong.write_text(text[:begin] + text[begin:].replace(public, f'public = "{generate().public}"'))
    code, found = cli.doctor("--key", str(wrong))
    assert (code, found["server"]["ok"], found["handshake"]["ok"]) == (1, True, False)
    assert "another key" in found["handshake"]["message"]
    last = cli.run("doctor", "--key", str(wrong)).stdout.splitlines()[-2:]
    assert [line.partition(":")[0] for line in last] == ["wrong", "do"]

    _, gone = new_key(cluster.home, "gone", "client")
    Ring(cluster.home / "keys" / "ring.json").revoke("gone")
    code, found = cli.doctor("--key", str(gone))
    assert (code, found["handshake"]["ok"]) == (1, False)
    assert "refuses the key of gone" in found["handshake"]["message"]

    code, found = cli.doctor("--master", "tcp://no-such-host.invalid:7570")
    assert (code, found["resolve"]["ok"], found["tcp"]["ok"]) == (1, False, None)
    assert cli.run("doctor", "--home", str(tmp_path / "nowhere")).returncode == 1


def test_doctor_looks_at_the_unix_socket_and_at_the_port(cli: Cli, cluster: LocalCluster, tmp_path: Path) -> None:
    way = cluster.admin_key.read_text().replace("addresses = [", f'addresses = ["ipc://{cluster.home}/run/bus.sock", ')
    key = tmp_path / "here.key"
    key.touch(mode=0o600)
    key.write_text(way)
    _, found = cli.doctor("--key", str(key))
    assert (found["session"]["ok"], "addresses" in found) == (True, False)
    assert "tcp://" in found["resolve"]["message"], "the port is what nodes come by"
    key.write_text(way.replace("bus.sock", "none.sock"))
    _, found = cli.doctor("--key", str(key))
    assert (found["session"]["ok"], found["addresses"]["state"]) == (True, "warn")
    assert "none.sock" in found["addresses"]["message"]
    _, found = cli.doctor("--master", f"ipc://{cluster.home}/run/bus.sock")
    assert (found["resolve"]["ok"], found["session"]["ok"]) == (True, True)


def test_doctor_looks_at_a_node(cli: Cli, cluster: LocalCluster) -> None:
    code, found = cli.doctor("worker-1")
    assert code in (0, 3)
    assert all(found[name]["ok"] for name in ("master", "key", "session", "version", "clock"))
    assert cli.doctor("master")[0] in (0, 3)
    code, found = cli.doctor("nobody")
    assert (code, found["key"]["ok"]) == (1, False)
    code, found = cli.doctor("worker-1", ZCLUSTER_KEY=str(cluster.key_file("worker-1")), ZCLUSTER_HOME="")
    assert (code, found["master"]["ok"]) == (1, False)


def test_check_is_for_monitoring(cli: Cli) -> None:
    wide = ("--disk-warn", "100", "--disk-crit", "100")
    done = cli.run("check", "--format", "json", *wide)
    told = json.loads(done.stdout)
    assert (done.returncode, told["status"]) == (0, "ok")
    done = cli.run("check", "--format", "nagios", *wide)
    line, _, data = done.stdout.rstrip("\n").partition(" | ")
    assert (done.returncode, line.split(" - ")[0], "\n" in data) == (0, "ZCLUSTER OK", False)
    assert "'nodes_down'=0;@1:;;0" in data.split()
    assert cli.run("check", "--format", "nagios", "--nodes-down-warn", "0", *wide).returncode == 1
    done = cli.run("check", "--format", "prometheus")
    assert (done.returncode, done.stderr) == (0, "")
    assert "zcluster_up 1" in done.stdout.splitlines()
    (free,) = free_ports(1)
    away = ("--master", f"tcp://127.0.0.1:{free}", "--timeout", "300ms")
    assert cli.run("check", *away).returncode == 6
    done = cli.run("check", "--format", "nagios", *away)
    assert (done.returncode, done.stdout.startswith("ZCLUSTER CRITICAL - ")) == (2, True)
    done = cli.run("check", "--format", "prometheus", *away)
    assert (done.returncode, "zcluster_up 0" in done.stdout.splitlines()) == (0, True)


def test_a_drained_node_gets_nothing_new_even_after_a_restart_of_the_master(cli: Cli, cluster: LocalCluster) -> None:
    async def drained() -> None:
        async with AsyncClient(key=cluster.admin_key) as c:
            running = asyncio.ensure_future(c.call("node.sleep", {"seconds": 30.0}, target="worker-1", timeout=40))

            async def busy() -> bool:
                return any(row["in_flight"] for row in await c.nodes() if row["name"] == "worker-1")

            await eventually(busy, "worker-1 is busy")
            done = await asyncio.to_thread(cli.run, "nodes", "drain", "worker-1", "--wait", "--timeout", "300ms")
            assert done.returncode == 7, done.stderr
            assert not running.done(), "what runs goes on"
            running.cancel()
            done = await asyncio.to_thread(cli.run, "nodes", "drain", "worker-1", "--wait", "--timeout", "20s", "-o", "name")
            assert (done.returncode, done.stdout) == (0, "worker-1\n")

    asyncio.run(drained())
    refused = cli.run("dapi", "call", "node.info", "--target", "worker-1")
    assert (refused.returncode, "is drained" in refused.stderr) == (6, True)
    assert {cli.run("dapi", "call", "node.info", "-o", "name").stdout for _ in range(3)} <= {"worker-2\n"}
    assert "worker-1  worker  ready,drained" in cli.run("nodes").stdout
    asyncio.run(restarted(cluster))
    assert "worker-1  worker  ready,drained" in cli.run("nodes").stdout
    assert cli.doctor("worker-1")[1]["drained"]["state"] == "warn"
    assert cli.run("nodes", "resume", "worker-*").returncode == 0
    assert cli.run("dapi", "call", "echo", "value=1", "--target", "worker-1").stdout == "1\n"
    assert cli.run("nodes", "drain", "master").returncode == 2
    assert cli.run("events", "--name", "node_*", "-o", "name").stdout.split() == ["node_drained", "node_resumed"]


async def restarted(cluster: LocalCluster) -> None:
    """The master anew, with both workers back."""
    await cluster.terminate("master")
    cluster.start_master()
    async with AsyncClient(key=cluster.admin_key, timeout=30.0) as c:
        for name in cluster.worker_names:
            await node_is(c, name, "ready")


def test_a_node_is_described(cli: Cli) -> None:
    done = cli.run("nodes", "describe", "worker-2")
    assert done.returncode == 0
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith(("name", "role", "state", "key")))
    assert (lines["name"], lines["role"]) == ("worker-2", "worker")
    assert lines["key"].startswith("SHA256:")
    row = json.loads(cli.run("nodes", "describe", "worker-2", "-o", "json").stdout)
    assert {"key", "session", "functions", "trees", "jobs", "events", "drained"} <= row.keys()
    assert row["session"]["address"].startswith("127.0.0.1"), "where its connection comes from"
    assert cli.run("nodes", "describe", "nobody").returncode == 5


def test_wait_is_for_scripts(cli: Cli, cluster: LocalCluster) -> None:
    done = cli.run("wait", "nodes=3", "workers=2", "node:worker-1=ready", "queue=empty", "agents=0", "--timeout", "20s")
    assert done.returncode == 0
    done = cli.run("wait", "nodes=4", "--timeout", "300ms")
    assert (done.returncode, "nodes=4: 3 ready" in done.stderr) == (7, True)
    assert cli.run("wait", "nodes=many").returncode == 2
    assert cli.run("wait", "sync=nothing", "--timeout", "5s").returncode == 5


def test_a_context_is_a_cluster_by_name(cli: Cli, cluster: LocalCluster, tmp_path: Path) -> None:
    alone = Cli({"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path), "ZCLUSTER_HOME": ""})
    key = tmp_path / "mine.key"
    shutil.copy(cluster.client_key, key)
    assert alone.run("context", "add", "lab", "--key", str(key), "--use").returncode == 0
    assert oct((tmp_path / "zcluster" / "contexts.toml").stat().st_mode & 0o777) == "0o600"
    assert alone.run("nodes", "-o", "name").stdout.splitlines()[0] == "master"
    (free,) = free_ports(1)
    far = ("--master", f"tcp://127.0.0.1:{free}")
    assert alone.run("context", "add", "far", "--key", str(key), *far).returncode == 0
    done = alone.run("nodes", "--context", "far", "--timeout", "300ms")
    assert (done.returncode, "context 'far'" in done.stderr) == (6, True)
    assert alone.run("nodes", "--timeout", "300ms", ZCLUSTER_CONTEXT="far").returncode == 6
    assert alone.run("nodes", "--context", "lab", ZCLUSTER_CONTEXT="far").returncode == 0
    assert alone.run("nodes", "--context", "lost").returncode == 5


def test_a_node_that_is_away_is_forgotten_and_one_that_is_here_is_cut(cli: Cli, cluster: LocalCluster) -> None:
    done = cli.run("nodes", "rm", "worker-2")
    assert (done.returncode, "--force" in done.stderr) == (1, True)
    cluster.kill("worker-1")

    async def away() -> None:
        async with AsyncClient(key=cluster.admin_key) as c:
            await node_is(c, "worker-1", "dead")

    asyncio.run(away())
    assert cli.run("nodes", "rm", "worker-1").returncode == 0
    assert cli.run("nodes", "-o", "name").stdout.split() == ["master", "worker-2"]
    done = cli.run("nodes", "rm", "worker-1")
    assert (done.returncode, "there is no node" in done.stderr) == (5, True)
    assert cli.run("nodes", "rm", "worker-2", "--force").returncode == 0
    assert cli.run("nodes", "-o", "name").stdout.split() == ["master"]
    code, found = cli.doctor("worker-2")
    assert (code, "was revoked" in found["key"]["message"]) == (1, True)
