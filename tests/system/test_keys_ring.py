"""The ring and the home with real processes: at the same time, and killed at any step.

Nothing here waits for a time: a process ends by itself, or says on a pipe how far it is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zcluster.config import Home, load
from zcluster.keys import KeyFile, NewKey, Ring, generate, init_home, new_key

LIMIT_S = 120
"""When a process that hangs is given up; no test waits for it."""

ADD = """
import sys
from pathlib import Path
from zcluster.keys import Ring, generate
ring = Ring(Path(sys.argv[1]))
pairs = [generate() for _ in range(int(sys.argv[3]))]
print("ready", flush=True)
sys.stdin.readline()
for index, pair in enumerate(pairs):
    ring.add(f"{sys.argv[2]}-{index}", "worker", pair.public)
    print(f"{sys.argv[2]}-{index}", flush=True)
"""

INIT = """
import sys
from pathlib import Path
from zcluster.keys import generate, init_home
generate()  # loads zmq, so that what follows is only what init_home does
print("ready", flush=True)
sys.stdin.readline()
print(init_home(Path(sys.argv[1]), "prod", "", ("tcp://alpha:7570",), ("tcp://alpha:7571",)).master.pair.public)
"""

DIE = """
import os, sys
left = int(sys.argv[2])

def counted(call):
    def step(*args, **kwargs):
        global left
        if left == 0:
            os._exit(9)  # like SIGKILL: no finally, no except, nothing is cleaned up
        left -= 1
        return call(*args, **kwargs)
    return step

for name in ("mkdir", "open", "fsync", "link", "replace", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
"""

NEW = """
from zcluster.keys import new_key
new_key(Path(sys.argv[1]), "w", "worker")
"""


def start(program: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    return out


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def release(processes: list[subprocess.Popen[str]]) -> None:
    """Let processes that wait for a line go on, all at once."""
    for process in processes:
        assert line_of(process) == "ready"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_two_processes_that_add_keys_at_the_same_time_both_succeed(tmp_path: Path) -> None:
    path = tmp_path / "ring.json"
    processes = [start(ADD, path, name, 50) for name in ("a", "b")]
    release(processes)
    for process in processes:
        finished(process)
    assert set(Ring(path).entries) == {f"{name}-{index}" for name in ("a", "b") for index in range(50)}


def test_a_process_killed_while_it_adds_leaves_a_whole_ring_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "ring.json"
    process = start(ADD, path, "k", 2000)
    release([process])
    told = [line_of(process) for _ in range(30)]
    process.kill()
    rest, _err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == -9
    told += rest.splitlines()
    ring = Ring(path, lock_wait_s=0)
    assert set(told) <= set(ring.entries), "what was acknowledged is there"
    assert len(ring.entries) <= len(told) + 1
    ring.add("after", "worker", generate().public)
    assert "after" in Ring(path).entries


@pytest.mark.parametrize("turn", range(5))
def test_two_first_starts_at_the_same_time_make_one_home(tmp_path: Path, turn: int) -> None:
    home = Home(tmp_path / f"home-{turn}")
    processes = [start(INIT, home.path) for _ in range(3)]
    release(processes)
    publics = {finished(process).strip() for process in processes}
    assert publics == {KeyFile.read(home.master_key).pair.public}
    assert sorted(Ring(home.ring_file).entries) == ["admin", "master"]


def test_a_first_start_killed_at_any_step_is_completed(tmp_path: Path) -> None:
    program = INIT.replace("print(init_home", DIE + "print(init_home")
    steps = 0
    # each third step: the steps between are of the same three kinds of calls
    for steps in range(0, 300, 3):
        home = Home(tmp_path / str(steps))
        process = start(program, home.path, steps)
        process.communicate(timeout=LIMIT_S)
        assert process.returncode in (0, 9)
        known = KeyFile.read(home.master_key).pair if home.master_key.exists() else None
        done = init_home(home, "prod", "", ("tcp://alpha:7570",), ("tcp://alpha:7571",))
        assert known in (None, done.master.pair)
        assert sorted(Ring(home.ring_file).entries) == ["admin", "master"]
        assert KeyFile.read(home.admin_key).role == "admin"
        assert load(home.path, {}, {}).settings.cluster.name == "prod"
        if process.returncode == 0:
            break
    assert steps > 15, "the steps were counted"


@pytest.mark.parametrize("steps", range(0, 20, 2))
def test_a_new_key_killed_at_any_step_leaves_a_ring_that_works(tmp_path: Path, steps: int) -> None:
    home = Home(tmp_path / "home")
    init_home(home, "prod")
    process = start(DIE + "from pathlib import Path\n" + NEW, home.path, steps)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode in (0, 9)
    ring = Ring(home.ring_file, lock_wait_s=0)
    assert set(ring.entries) >= {"admin", "master"}
    if home.key_file("w").exists():
        assert ring.get("w").public == KeyFile.read(home.key_file("w")).pair.public
    elif "w" in ring.entries:
        # admitted, but its file was never written: its operator revokes it and makes another
        ring.revoke("w")
        new_key(home, "w", "worker")
    else:
        new_key(home, "w", "worker")
    assert Ring(home.ring_file).get("w").public == KeyFile.read(home.key_file("w")).pair.public


def test_a_ring_of_many_keys_is_read_whole(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "ring.json")
    ring.add_many(NewKey(f"w{index}", "worker", generate().public) for index in range(2000))
    assert len(Ring(tmp_path / "ring.json").entries) == 2000
