"""Fail points: named places at which a test has the process killed, to see what a crash just there leaves.

Rules kept here:
- without ZCLUSTER_FAILPOINT, read once at import, ``failpoint`` does nothing at all;
- a point that is not declared here is an error, in the variable and in the code: a test must not pass because nothing was killed;
- the end is SIGKILL: no handler runs, nothing is flushed, as with a lost machine.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from zcluster.errors import ConfigError

VARIABLE = "ZCLUSTER_FAILPOINT"
"""``NAME`` or ``NAME:N``: the process is killed when it passes NAME for the Nth time (1 unless given)."""

FAILPOINTS = frozenset(
    {
        "join.before_asking",
        "join.before_answer",
        "join.answered",
        "queue.accept.before_commit",
        "queue.accept.after_commit",
        "queue.lease.before_commit",
        "queue.lease.after_commit",
        "queue.send",
        "queue.outcome.before_commit",
        "queue.outcome.after_commit",
        "queue.file.before_rename",
        "queue.file.after_rename",
        "rotation.master.wanted",
        "rotation.master.made",
        "rotation.master.in_ring",
        "rotation.master.in_file",
        "rotation.in_ring",
        "rotation.made",
        "rotation.admitted",
        "rotation.moved",
    }
)


def armed(text: str, kill: Callable[[], object]) -> Callable[[str], None]:
    """What ``failpoint`` is while VARIABLE is ``text``: calls ``kill`` at that pass.

    Raises:
        ConfigError: ``text`` names no point, or not a pass from 1.
    """
    if not text:
        return _nothing
    target, _, nth = text.partition(":")
    if target not in FAILPOINTS:
        raise ConfigError(f"{VARIABLE}: there is no fail point {target!r}", hint=f"one of {', '.join(sorted(FAILPOINTS))}")
    if nth and not (nth.isascii() and nth.isdigit() and int(nth)):
        raise ConfigError(f"{VARIABLE}: {nth!r} is no pass of {target}", hint=f"{target}:N, N from 1")
    left = int(nth or 1)

    def passing(name: str) -> None:
        nonlocal left
        assert name in FAILPOINTS, f"{name} is not declared in FAILPOINTS"
        if name == target:
            left -= 1
            if left == 0:
                kill()

    return passing


def _nothing(name: str) -> None:
    """No point is armed."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


failpoint: Callable[[str], None] = armed(os.environ.get(VARIABLE, ""), _kill)
"""Call it at each pass of a declared point: ``failpoint("queue.send")``."""
