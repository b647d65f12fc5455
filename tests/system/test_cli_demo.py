"""``zcluster demo``: it ends by itself with --once, stays up without, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120.0


def environment(directory: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZCLUSTER_")}
    return {**kept, "PYTHONPATH": str(ROOT), "TMPDIR": str(directory)}


def test_once_shows_it_all_and_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zcluster", "demo", "--once"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stderr) == (0, "")
    for pattern in (
        r"^worker-2 +worker +ready",
        r'^"hello" +\(worker-1 answered within ',
        r"^NODE +ROLE +PID",
        r"^NODE +CPU% +MEM%",
        r"^worker-2 was seen dead after ",
        r"^node_unavailable: worker-2 ",
        r"^worker-2 was ready again ",
        r"^[0-9,]+ requests/s, p50 [0-9.]+ ms, p99 [0-9.]+ ms, [0-9,]+ answers, no errors$",
    ):
        assert re.search(pattern, done.stdout, re.MULTILINE), pattern
    assert [path for path in tmp_path.iterdir() if path.name != "__pycache__"] == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_without_once_it_stays_until_it_is_told_and_the_lines_it_prints_work(end: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zcluster", "demo", "--functions", str(ROOT / "examples" / "functions.py")]
    process = subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        home = ""
        for line in process.stdout:
            home = home or line.strip().partition("export ZCLUSTER_HOME=")[2]
            if line.strip() == "zcluster keys ls":
                break
        called = [sys.executable, "-m", "zcluster", "dapi", "call", "math.add", "a=1", "b=2"]
        more = {**environment(tmp_path), "ZCLUSTER_HOME": home}
        answered = subprocess.run(called, env=more, capture_output=True, text=True, timeout=LIMIT_S)
        assert (answered.returncode, answered.stdout) == (0, "3\n")
    finally:
        process.send_signal(end)
        out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err.strip()) == (0, "")
    assert "All processes are stopped" in out
    assert [path for path in tmp_path.iterdir() if path.name != "__pycache__"] == []


def test_a_failure_shows_why_and_ends_with_1(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module\n")
    command = [sys.executable, "-m", "zcluster", "demo", "--once", "--functions", str(broken)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 1
    assert done.stderr.startswith("zcluster: error: the demo failed: worker-")
    assert "no_such_module" in done.stderr
    assert [path for path in tmp_path.iterdir() if path.name != "__pycache__"] == [broken]
