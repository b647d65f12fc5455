"""The command of a tree: what it gets, and what is told of how it ended."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from zcluster.core.sync.effects import Command
from zcluster.files.command import OUTPUT_BYTES, run_command


def command(script: str, *arguments: str, timeout_s: float = 30.0) -> Command:
    environment = {"ZCLUSTER_TREE": "t", "ZCLUSTER_VERSION": "7"}
    return Command(("t", ""), (sys.executable, "-c", script, *arguments), timeout_s, environment)


def test_it_runs_in_the_tree_with_its_environment_its_arguments_and_no_input(tmp_path: Path) -> None:
    script = (
        "import os, sys; open('out', 'w').write("
        "repr([os.environ['ZCLUSTER_TREE'], os.environ['ZCLUSTER_VERSION'], sys.argv[1:], sys.stdin.read()]))"
    )
    assert run_command(command(script, "a b", "$HOME; ls"), tmp_path) == ""
    assert (tmp_path / "out").read_text() == repr(["t", "7", ["a b", "$HOME; ls"], ""])


def test_its_exit_code_and_the_last_line_of_what_it_said_are_told(tmp_path: Path) -> None:
    said = run_command(command("import sys; print('first'); print('no such unit', file=sys.stderr); sys.exit(3)"), tmp_path)
    assert said.endswith("ended with 3: no such unit")
    assert run_command(command("raise SystemExit(4)"), tmp_path).endswith("ended with 4")


def test_a_signal_is_told_by_its_number(tmp_path: Path) -> None:
    assert run_command(command("import os; os.kill(os.getpid(), 9)"), tmp_path).endswith("was ended by signal 9")


def test_only_the_end_of_a_long_output_is_read(tmp_path: Path) -> None:
    script = f"import sys; sys.stdout.buffer.write(b'x' * {OUTPUT_BYTES * 3} + b'\\xff'); sys.exit(1)"
    said = run_command(command(script), tmp_path)
    assert "\n" not in said
    assert len(said) < OUTPUT_BYTES + 200


def test_it_is_ended_with_its_children_when_its_time_is_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    reader = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    # The child holds the pipe open; when it is gone, too, the reader sees the pipe's end.
    script = "import os, subprocess, sys; fd = os.open('alive', os.O_WRONLY); subprocess.run(['sleep', '600'], pass_fds=[fd])"
    try:
        assert run_command(command(script, timeout_s=1.0), tmp_path).endswith("took more than 1 s and was ended")
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


@pytest.mark.parametrize("argv", [("/nowhere/x", "a"), ("",), ("a\0b",)])
def test_a_program_that_cannot_be_run_is_told_in_one_line(argv: tuple[str, ...], tmp_path: Path) -> None:
    said = run_command(Command(("t", ""), argv, 1.0), tmp_path)
    assert "cannot be run: " in said
    assert "\n" not in said
