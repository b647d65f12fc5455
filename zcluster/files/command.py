"""The command of a tree, run after a version was applied.

Rules kept here:
- it is a list of arguments, never a shell's text; it gets no input, and its output is read up to a bound;
- it is ended with all its children when its time is over;
- what went wrong is told in one line: the exit code and the last line of what it said.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path

from zcluster.core.sync.effects import Command
from zcluster.errors import one_line

OUTPUT_BYTES = 4096
KILL_S = 5.0


def run_command(command: Command, directory: Path) -> str:
    """Run it in ``directory``; returns what went wrong, or nothing."""
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command.argv, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, **command.environment}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return f"{command.argv[0]!r} cannot be run: {error.strerror}"
        except ValueError as error:
            # A NUL in an argument.
            return f"{command.argv[0]!r} cannot be run: {error}"
        try:
            code = process.wait(command.timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            return f"{command.argv[0]!r} took more than {command.timeout_s:g} s and was ended"
        if code == 0:
            return ""
        how = f"ended with {code}" if code > 0 else f"was ended by signal {-code}"
        return one_line(f"{command.argv[0]!r} {how}{_last_line(output.fileno())}")


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(KILL_S)


def _last_line(fd: int) -> str:
    size = os.fstat(fd).st_size
    text = os.pread(fd, OUTPUT_BYTES, max(0, size - OUTPUT_BYTES)).decode("utf-8", "replace").strip()
    return f": {text.splitlines()[-1]}" if text else ""
