"""The commands of durable jobs against a running cluster, each command line in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from zcluster.bench.cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = Path(__file__).with_name("queue_cli_functions.py")
LIMIT_S = 60.0


@dataclass(frozen=True)
class Cli:
    """Runs command lines with the home of a cluster."""

    home: Path
    key: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZCLUSTER_", "_ZCLUSTER"))}
        key = {} if self.key is None else {"ZCLUSTER_KEY": str(self.key)}
        return {**kept, **key, "ZCLUSTER_HOME": str(self.home), "PYTHONPATH": str(ROOT)}

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "zcluster", *words]
        return subprocess.run(command, env=self.environment, input=stdin, capture_output=True, text=True, timeout=LIMIT_S)

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "zcluster", *words]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def data(self, *words: str) -> Any:
        done = self.run(*words, "-o", "json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    def submit(self, *words: str) -> str:
        done = self.run("dapi", "submit", *words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    def state(self, id_: str) -> str:
        return str(self.data("queue", "show", id_)["state"])


def until(check: Callable[[], Any], what: str) -> Any:
    return asyncio.run(eventually(check, what))


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2, functions=[str(FUNCTIONS)]) as running:
        yield running


@pytest.fixture
def cli(cluster: LocalCluster) -> Cli:
    return Cli(cluster.home)


def test_a_job_is_waited_for_and_found_again(cli: Cli) -> None:
    done = cli.run("dapi", "submit", "sum.of", "a=1", "b=2", "--wait")
    assert (done.returncode, done.stdout) == (0, "3\n")
    id_ = done.stderr.removeprefix("zcluster: job ").strip()
    job = cli.data("queue", "show", id_)
    assert (job["id"], job["state"], job["value"], job["caller"], job["args"]) == (id_, "done", 3, "admin", {"a": 1, "b": 2})
    assert [step["state"] for step in job["steps"]][-1] == "done"
    assert id_ in cli.run("queue", "ls", "--state", "done", "--function", "sum.of", "-o", "name").stdout.split()


def test_an_idempotency_key_gives_the_same_job(cli: Cli) -> None:
    words = ("sum.of", "a=1", "b=2", "--key", "sum-1")
    id_ = cli.submit(*words)
    again = cli.run("dapi", "submit", *words, "-o", "json")
    assert (json.loads(again.stdout)["id"], json.loads(again.stdout)["known"]) == (id_, True)
    waited = cli.run("dapi", "submit", *words, "--wait")
    assert (waited.returncode, waited.stdout) == (0, "3\n")
    assert waited.stderr == f"zcluster: job {id_} was there already, with the idempotency key sum-1\n"
    other = cli.run("dapi", "submit", "sum.of", "a=1", "b=3", "--key", "sum-1", "-o", "json")
    assert (other.returncode, other.stdout, json.loads(other.stderr)["error"]["code"]) == (1, "", "key_conflict")


def test_attempts_are_shown(cli: Cli) -> None:
    done = cli.run("dapi", "submit", "second.time", "--wait", "-o", "ndjson")
    assert (done.returncode, json.loads(done.stdout)["value"]) == (0, 2)
    id_ = cli.run("queue", "ls", "--function", "second.time", "-o", "name").stdout.split()[0]
    assert "not yet" in cli.run("queue", "show", id_).stdout
    dead = cli.run("dapi", "submit", "second.time", "--retries", "0", "--wait")
    assert (dead.returncode, dead.stdout) == (1, "")
    assert dead.stderr.splitlines()[1].startswith("zcluster: error: ")
    assert [item["attempt"] for item in cli.data("queue", "ls", "--state", "dead", "--function", "second.time")["items"]] == [1]


def test_a_failed_job_is_retried_and_dropped(cli: Cli) -> None:
    done = cli.run("dapi", "submit", "only.here", "node=nowhere", "--wait")
    assert done.returncode == 1
    assert "not on worker-" in done.stderr
    id_ = done.stderr.splitlines()[0].removeprefix("zcluster: job ")
    assert cli.run("queue", "retry", id_).stdout == f"queued again: {id_}\n"
    until(lambda: cli.state(id_) == "failed", "it fails again")
    refused = cli.run("queue", "cancel", id_)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    dropped = cli.run("queue", "drop", "-", stdin=f"{id_}\n00000000-1\n")
    assert (dropped.returncode, dropped.stdout, dropped.stderr.count("\n")) == (3, f"dropped: {id_}\n", 1)
    gone = cli.run("queue", "show", id_, "-o", "json")
    assert (gone.returncode, json.loads(gone.stderr)["error"]["code"]) == (5, "no_such_job")


def test_a_delayed_job_outlasts_the_wait_and_is_cancelled(cli: Cli) -> None:
    done = cli.run("dapi", "submit", "sum.of", "a=1", "b=1", "--delay", "1h", "--wait", "--timeout", "5s")
    assert (done.returncode, done.stdout) == (7, "")
    id_ = done.stderr.splitlines()[0].removeprefix("zcluster: job ")
    assert f"zcluster queue show {id_}" in done.stderr.splitlines()[1]
    assert 3500 < cli.data("queue", "show", id_)["due_in_s"] <= 3600
    assert cli.run("queue", "cancel", id_).stdout == f"cancelled: {id_}\n"
    assert cli.state(id_) == "cancelled"


def test_a_fan_out_has_an_outcome_of_each_node(cli: Cli) -> None:
    done = cli.run("dapi", "submit", "only.here", "node=worker-1", "--target", "worker-*", "--wait")
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
    assert (done.returncode, sorted(rows)) == (3, ["worker-1", "worker-2"])
    assert rows["worker-1"].endswith('"worker-1"')
    assert "rejected: not on worker-2" in rows["worker-2"]
    id_ = done.stderr.removeprefix("zcluster: job ").strip()
    job = cli.data("queue", "show", id_)
    assert sorted((part["node"], part["state"]) for part in job["outcomes"]) == [("worker-1", "done"), ("worker-2", "failed")]
    assert (job["state"], job["parts"], job["parts_left"]) == ("failed", 2, 0)
    good = cli.run("dapi", "submit", "sum.of", "a=1", "b=2", "--target", "worker-*", "--wait", "-o", "json")
    assert (good.returncode, [item["value"] for item in json.loads(good.stdout)["items"]]) == (0, [3, 3])


def test_the_wait_goes_on_over_a_restart_of_the_master(cluster: LocalCluster, cli: Cli, tmp_path: Path) -> None:
    waiting = cli.start("dapi", "submit", "held.until", f"path={tmp_path / 'free'}", "--wait")
    try:
        assert waiting.stderr is not None
        id_ = waiting.stderr.readline().removeprefix("zcluster: job ").strip()
        until(lambda: cli.state(id_) == "running", "it runs")
        asyncio.run(cluster.restart_master())
        (tmp_path / "free").touch()
        out, _ = waiting.communicate(timeout=LIMIT_S)
        assert (waiting.returncode, out) == (0, '"free"\n')
    finally:
        (tmp_path / "free").touch()
        waiting.kill()
        waiting.communicate()


def test_changes_are_watched(cli: Cli) -> None:
    watching = cli.start("queue", "watch", "--function", "second.time")
    stream, lines = watching.stdout, list[list[str]]()
    assert stream is not None
    reader = threading.Thread(target=lambda: lines.extend(line.split() for line in stream), daemon=True)
    reader.start()
    try:

        def told() -> bool:  # the stream may begin a little later than the command
            assert cli.run("dapi", "submit", "second.time", "--wait").stdout == "2\n"
            return any("done" in line for line in lines)

        until(told, "a job is told")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(LIMIT_S) == 130
    finally:
        watching.kill()
        watching.wait()
        reader.join(LIMIT_S)
    assert lines[0][0] == "TIME"
    assert {"running", "done"} <= {line[3] for line in lines[1:]}


def test_a_paused_node_gets_no_job(cli: Cli) -> None:
    assert cli.run("queue", "pause", "all").stdout == "paused: all\n"
    id_ = cli.submit("sum.of", "a=2", "b=2")
    assert cli.data("queue", "stats")["paused"] == ["all"]
    assert cli.state(id_) == "queued"
    assert cli.run("queue", "resume", "all").stdout == "paused: nothing\n"
    until(lambda: cli.state(id_) == "done", "it runs once nothing is paused")


def test_a_drain_waits_for_the_last_job(cli: Cli, tmp_path: Path) -> None:
    id_ = cli.submit("held.until", f"path={tmp_path / 'free'}")
    until(lambda: cli.state(id_) == "running", "it runs")
    try:
        late = cli.run("queue", "drain", "--timeout", "0")
        assert late.returncode == 7
        assert "queue drain --off" in late.stderr
        refused = cli.run("dapi", "submit", "sum.of", "a=1", "b=2", "-o", "json")
        assert (refused.returncode, json.loads(refused.stderr)["error"]["code"]) == (6, "draining")
        draining = cli.start("queue", "drain")
        assert draining.stderr is not None
        assert draining.stderr.readline().endswith("left\n")
        (tmp_path / "free").touch()
        out, _ = draining.communicate(timeout=LIMIT_S)
        assert (draining.returncode, out) == (0, "drained: no job is left, and no new one is accepted\n")
    finally:
        assert cli.run("queue", "drain", "--off").stdout == "new jobs are accepted\n"
    assert cli.run("dapi", "submit", "sum.of", "a=1", "b=2", "--wait").stdout == "3\n"


def test_a_client_key_has_its_own_jobs_only(cluster: LocalCluster, cli: Cli) -> None:
    other = Cli(cluster.home, cluster.client_key)
    mine, theirs = cli.submit("sum.of", "a=1", "b=2"), other.submit("sum.of", "a=1", "b=2")
    assert theirs in cli.run("queue", "ls", "-o", "name").stdout.split()
    assert mine not in other.run("queue", "ls", "-o", "name").stdout.split()
    assert other.run("queue", "show", mine).returncode == 5
    for words in (("audit",), ("queue", "drain"), ("queue", "pause", "all"), ("queue", "check")):
        refused = other.run(*words)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (4, "", 1), words


def test_the_audit_log_tells_jobs_without_their_secrets(cluster: LocalCluster, cli: Cli) -> None:
    done = cli.run(
        "dapi", "submit", "secret.kept", "user=ann", "password=hunter2", "--key-file", str(cluster.client_key), "--wait"
    )
    assert (done.returncode, done.stdout) == (0, "10\n")
    id_ = done.stderr.removeprefix("zcluster: job ").strip()

    def records() -> list[dict[str, Any]]:
        items = cli.data("audit", "--since", "1h", "--key", "client")["items"]
        return [item for item in items if item.get("job") == id_ and item["what"] == "ended"]

    (found,) = until(records, "its end is told")
    assert (found["function"], found["outcome"], found["key"]) == ("secret.kept", "done", "client")
    for words in (("audit", "-o", "json"), ("queue", "show", id_), ("queue", "ls", "-o", "wide")):
        assert "hunter2" not in cli.run(*words).stdout
    assert "hunter2" not in done.stderr


def test_the_check_needs_no_master(cluster: LocalCluster, cli: Cli) -> None:
    cli.submit("sum.of", "a=1", "b=2", "--delay", "1h")
    asked = cli.run("queue", "check")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.endswith("nothing wrong\n")
    asyncio.run(cluster.terminate("master"))
    try:
        read = cli.run("queue", "check", "--timeout", "500ms")
        assert read.returncode == 0
        assert read.stderr.endswith("jobs.db itself is read\n")
        assert read.stdout.endswith("nothing wrong\n")
    finally:
        asyncio.run(cluster.restart_master())
