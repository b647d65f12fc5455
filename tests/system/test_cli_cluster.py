"""The command against a running cluster, each command line in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from zcluster.bench.cluster import LocalCluster, free_ports

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = ROOT / "examples" / "functions.py"
LIMIT_S = 60.0


@dataclass(frozen=True)
class Cli:
    """Runs command lines with the home of a cluster."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZCLUSTER_", "_ZCLUSTER"))}
        return {**kept, "ZCLUSTER_HOME": str(self.home), "PYTHONPATH": str(ROOT)}

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "zcluster", *words]
        return subprocess.run(command, env=self.environment, input=stdin, capture_output=True, text=True, timeout=LIMIT_S)

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "zcluster", *words]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def items(self, *words: str) -> list[dict[str, Any]]:
        done = self.run(*words, "-o", "json")
        assert done.stderr == ""
        items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
        return items


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2, cluster_name="lab", functions=[str(FUNCTIONS)]) as running:
        yield running


@pytest.fixture
def cli(cluster: LocalCluster) -> Cli:
    return Cli(cluster.home)


def test_nodes_have_the_fixed_fields(cli: Cli) -> None:
    items = cli.items("nodes")
    assert sorted(item["name"] for item in items) == ["master", "worker-1", "worker-2"]
    fixed = {"name", "role", "state", "version", "last_seen_s", "load", "in_flight", "cpu_percent", "memory_percent"}
    for item in items:
        assert fixed <= set(item)
        assert item["state"] == "ready"


def test_status_of_a_sound_cluster(cli: Cli) -> None:
    done = cli.run("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "health" in done.stdout
    assert json.loads(cli.run("status", "-o", "json").stdout)["cluster"] == "lab"


def test_a_call_to_one_node(cli: Cli) -> None:
    done = cli.run("dapi", "call", "math.add", "a=1", "b=2", "--target", "worker-1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
    assert cli.items("dapi", "call", "node.info", "--target", "worker-2")[0]["value"]["name"] == "worker-2"


@pytest.mark.parametrize(
    ("target", "nodes"),
    [
        ("all", ["master", "worker-1", "worker-2"]),
        ("worker-*", ["worker-1", "worker-2"]),
        ("master,worker-2", ["master", "worker-2"]),
    ],
)
def test_a_fan_out_asks_its_targets_only(target: str, nodes: list[str], cli: Cli) -> None:
    items = cli.items("dapi", "call", "node.info", "--target", target)
    assert sorted(item["node"] for item in items) == nodes
    assert all(item["ok"] and item["value"]["name"] == item["node"] for item in items)


def test_a_fan_out_of_a_function_that_only_some_have_is_partial(cli: Cli) -> None:
    done = cli.run("dapi", "call", "math.add", "a=1", "b=2", "--target", "all", "-o", "ndjson")
    found = {item["node"]: item for item in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 3
    assert (found["worker-1"]["value"], found["worker-2"]["value"]) == (3, 3)
    assert found["master"]["error"]["code"] == "no_such_function"


def test_a_generator_prints_an_item_a_line(cli: Cli) -> None:
    assert cli.run("dapi", "call", "count.up", "to=3").stdout == "1\n2\n3\n"


def test_a_reader_that_has_enough_ends_a_generator_quietly(cli: Cli) -> None:
    process = cli.start("dapi", "call", "count.up", "to=1000000")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "1\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(LIMIT_S) == 141


def test_a_large_body_from_stdin_comes_back(cli: Cli) -> None:
    value = "x" * 1_000_000
    done = cli.run("dapi", "call", "echo", "--stdin", stdin=json.dumps({"value": value}))
    assert json.loads(done.stdout) == value


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["echo", "value=1", "--target", "nobody"], 5, "nobody"),
        (["echo", "value=1", "--target", "nobody-*"], 5, "nobody-*"),
        (["echo", "value=1", "--target", ""], 5, "empty"),
        (["no.such"], 5, "no.such"),
        (["math.add", "a=1"], 2, "b"),
        (["math.add", "a=1", "b=x"], 2, "b"),
        (["file.sha256", "path=/no/such/file"], 1, "FileNotFoundError"),
        (["node.sleep", "seconds=20", "--timeout", "300ms"], 7, ""),
    ],
)
def test_each_failure_has_its_exit_code(words: list[str], code: int, text: str, cli: Cli) -> None:
    done = cli.run("dapi", "call", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("zcluster: error: ")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr
    error = json.loads(cli.run("dapi", "call", *words, "-o", "json").stderr)["error"]
    assert {"code", "message", "hint", "request_id"} <= set(error)


def test_nobody_at_the_address_is_unreachable(cli: Cli) -> None:
    (port,) = free_ports(1)
    done = cli.run("nodes", "--master", f"tcp://127.0.0.1:{port}", "--timeout", "500ms")
    assert (done.returncode, done.stdout) == (6, "")


def test_a_revoked_key_is_not_allowed(cli: Cli, tmp_path: Path) -> None:
    key = str(tmp_path / "gone.key")
    assert cli.run("keys", "new", "gone", "--role", "client", "--out", key).returncode == 0
    assert cli.run("nodes", "--key", key).returncode == 0
    assert cli.run("keys", "revoke", "gone").returncode == 0
    done = cli.run("nodes", "--key", key)
    assert (done.returncode, done.stdout) == (4, "")


def test_functions_are_listed_and_described(cli: Cli) -> None:
    items = {item["name"]: item for item in cli.items("dapi", "ls")}
    assert items["math.add"]["nodes"] == ["worker-1", "worker-2"]
    assert items["count.up"]["stream"]
    done = cli.run("dapi", "describe", "math.add")
    assert "  a: integer\n  b: integer\n" in done.stdout


def test_the_shell_completes_names_of_the_cluster(cli: Cli) -> None:
    def offered(words: str) -> list[str]:
        more = {"_ZCLUSTER_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
        command = [sys.executable, "-m", "zcluster"]
        done = subprocess.run(command, env={**cli.environment, **more}, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.stderr == ""
        return [line.partition(",")[2] for line in done.stdout.split()]

    assert offered("zcluster dapi call math.") == ["math.add"]
    assert offered("zcluster dapi call echo --target wor") == ["worker-1", "worker-2"]


def test_ctrl_c_ends_a_call_quietly(cli: Cli) -> None:
    process = cli.start("dapi", "call", "node.sleep", "seconds=30", "--target", "worker-1")
    wait_until(lambda: any(item["in_flight"] for item in cli.items("nodes") if item["name"] == "worker-1"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out, err) == (130, "", "")
    wait_until(lambda: not any(item["in_flight"] for item in cli.items("nodes") if item["name"] == "worker-1"))


def test_a_killed_worker_is_seen_everywhere(cluster: LocalCluster, cli: Cli) -> None:
    watching = cli.start("nodes", "--watch", "-o", "ndjson")
    assert watching.stdout is not None
    try:
        found = [json.loads(watching.stdout.readline()) for _ in range(3)]
        assert sorted(event["node"] for event in found) == ["master", "worker-1", "worker-2"]
        wait_until(lambda: subscribed(cli))
        cluster.kill("worker-2")
        event = json.loads(watching.stdout.readline())
        assert (event["node"], event["state"]) == ("worker-2", "dead")
        done = cli.run("status")
        assert done.returncode == 3
        assert "dead: worker-2" in done.stdout
        done = cli.run("dapi", "call", "echo", "value=1", "--target", "all", "-o", "ndjson")
        assert done.returncode == 3
        first, *rest = [json.loads(line) for line in done.stdout.splitlines()]
        assert (first["node"], first["error"]["code"]) == ("worker-2", "node_unavailable")
        assert sorted(item["node"] for item in rest) == ["master", "worker-1"]
        assert cli.run("dapi", "call", "echo", "value=1", "--target", "worker-2").returncode == 6
    finally:
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=LIMIT_S)
        cluster.start_worker("worker-2")
    wait_until(lambda: cli.run("status").returncode == 0)


def subscribed(cli: Cli) -> bool:
    """Whether the watching process has had the time of one more command to subscribe."""
    return cli.run("nodes").returncode == 0


def wait_until(holds: Any) -> None:
    """Ask until ``holds`` says yes; each question is a process, so this spins slowly."""
    deadline_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline_s, "it never came true"
