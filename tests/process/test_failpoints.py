"""Fail points: nothing without the variable, a kill at the pass it names, an error for what is not declared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from zcluster.errors import ConfigError
from zcluster.process.failpoints import FAILPOINTS, VARIABLE, armed

NAME = "queue.send"
OTHER = "queue.lease.before_commit"


def kills(text: str, passes: list[str]) -> list[int]:
    """After how many of ``passes`` it killed."""
    at: list[int] = []
    done = 0
    passing = armed(text, lambda: at.append(done))
    for name in passes:
        done += 1
        passing(name)
    return at


def test_it_kills_at_the_pass_that_is_named() -> None:
    assert kills(NAME, [OTHER, NAME, NAME]) == [2]
    assert kills(f"{NAME}:1", [NAME, NAME]) == [1]
    assert kills(f"{NAME}:3", [NAME, OTHER, NAME, OTHER, NAME, NAME]) == [5]
    assert kills(f"{NAME}:3", [NAME, NAME]) == []


def test_every_declared_point_can_be_named() -> None:
    for name in FAILPOINTS:
        assert kills(name, [name]) == [1]


def test_without_the_variable_nothing_happens() -> None:
    assert kills("", [*sorted(FAILPOINTS), "no.such.point"]) == []


@pytest.mark.parametrize(
    "text", ["queue", "queue.sent", ":1", f"{NAME}:0", f"{NAME}:-1", f"{NAME}:x", f"{NAME}:1:2", f"{NAME}:²", " "]
)
def test_what_is_not_declared_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match=VARIABLE) as error:
        armed(text, lambda: None)
    assert error.value.hint


def test_a_pass_of_an_undeclared_point_is_a_bug() -> None:
    passing = armed(NAME, lambda: None)
    with pytest.raises(AssertionError, match="is not declared"):
        passing("queue.sent")


def run(text: str | None, passes: int) -> subprocess.CompletedProcess[str]:
    program = (
        "from zcluster.process.failpoints import failpoint\n"
        f"for number in range({passes}):\n"
        f"    print(number, flush=True)\n    failpoint({NAME!r})\n"
        "print('end')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if text is not None:
        environment[VARIABLE] = text
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


def test_a_process_is_killed() -> None:
    ended = run(f"{NAME}:2", 3)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.split() == ["0", "1"]


def test_a_process_without_the_variable_goes_on() -> None:
    ended = run(None, 3)
    assert (ended.returncode, ended.stdout.split()) == (0, ["0", "1", "2", "end"])


def test_a_process_with_a_wrong_variable_does_not_begin() -> None:
    ended = run("queue.sent", 1)
    assert ended.returncode != 0
    assert not ended.stdout
    assert "queue.sent" in ended.stderr
