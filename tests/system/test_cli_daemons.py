"""``zcluster master`` and ``zcluster worker`` as a person starts them: by pasting what the master printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zcluster.bench.cluster import free_ports

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0

Start = Callable[..., "subprocess.Popen[str]"]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZCLUSTER_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zcluster", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command line; what is still running at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def begin(words: list[str]) -> subprocess.Popen[str]:
        with (tmp_path / f"stderr-{len(running)}").open("w") as log:
            command = [sys.executable, "-m", "zcluster", *words]
            process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=log, text=True)
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate(timeout=LIMIT_S)


def account_of(process: subprocess.Popen[str]) -> str:
    """What a master prints at its start, up to its last line."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("to call it:"):
            return "".join(lines)
    raise AssertionError(f"the master ended: {''.join(lines)}")


def pasted(account: str, beginning: str) -> list[str]:
    """The words of the line of ``account`` that begins so, without the remark behind it."""
    line = next(line.strip() for line in account.splitlines() if line.strip().startswith(beginning))
    return shlex.split(re.split(r" {3,}", line)[0])[1:]


def test_a_cluster_is_made_by_pasting_what_the_master_prints(start: Start, tmp_path: Path) -> None:
    home = tmp_path / "a home"
    bind, publish = (f"tcp://127.0.0.1:{port}" for port in free_ports(2))
    master = start(["master", "--home", str(home), "--cluster", "lab", "--bind", bind, "--publish", publish])
    account = account_of(master)
    assert re.search(r"^cluster +lab$", account, re.MULTILINE)
    assert re.search(rf"^reached at +{re.escape(bind)}$", account, re.MULTILINE)
    assert re.search(r"^key +SHA256:[A-Z2-7-]+$", account, re.MULTILINE)
    assert (home / "keys" / "master.key").stat().st_mode & 0o777 == 0o600

    made = run(pasted(account, "zcluster keys new"))
    assert (made.returncode, made.stderr.count("\n")) == (0, 1)
    worker = start(pasted(account, "zcluster worker"))
    deadline_s = time.monotonic() + LIMIT_S
    states: dict[str, str] = {}
    while states.get("worker-1") != "ready":
        assert time.monotonic() < deadline_s, states
        assert worker.poll() is None
        listed = run(["nodes", "--home", str(home), "-o", "json"])
        states = {item["name"]: item["state"] for item in json.loads(listed.stdout)["items"]}

    call = account.splitlines()[-1].partition("to call it: ")[2]
    answered = run(shlex.split(call)[1:])
    assert (answered.returncode, json.loads(answered.stdout)["name"]) == (0, "worker-1")
    for process in (worker, master):
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0


def test_a_second_master_of_one_home_is_refused(start: Start, tmp_path: Path) -> None:
    home = ["--home", str(tmp_path / "home")]
    ports = [f"tcp://127.0.0.1:{port}" for port in free_ports(4)]
    first = start(["master", *home, "--bind", ports[0], "--publish", ports[1]])
    account_of(first)
    keys = tmp_path / "home" / "keys"
    before = {path: path.read_bytes() for path in keys.glob("*.key")}
    second = run(["master", *home, "--bind", ports[2], "--publish", ports[3]])
    assert second.returncode == 2
    assert second.stderr.splitlines()[-1].startswith("zcluster: error: ")
    assert "Traceback" not in second.stderr
    assert {path: path.read_bytes() for path in keys.glob("*.key")} == before
    assert run(["status", *home]).returncode == 0


def test_a_taken_address_is_one_line(start: Start, tmp_path: Path) -> None:
    bind, publish, other = (f"tcp://127.0.0.1:{port}" for port in free_ports(3))
    account_of(start(["master", "--home", str(tmp_path / "one"), "--bind", bind, "--publish", publish]))
    second = run(["master", "--home", str(tmp_path / "two"), "--bind", bind, "--publish", other])
    assert second.returncode == 2
    assert bind.removeprefix("tcp://") in second.stderr.splitlines()[-1]
    assert "Traceback" not in second.stderr
