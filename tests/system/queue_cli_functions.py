"""Functions of the jobs that test_queue_cli.py submits."""

from __future__ import annotations

import time
from pathlib import Path

import zcluster


@zcluster.function("sum.of")
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@zcluster.function("second.time")
def second_time(context: zcluster.Context) -> int:
    """Asks for one more attempt."""
    if context.attempt == 1:
        raise zcluster.Retry("not yet", after_s=0.05)
    return context.attempt


@zcluster.function("only.here")
def only_here(node: str, context: zcluster.Context) -> str:
    """Fails on every node but one."""
    if context.node != node:
        raise zcluster.Reject(f"not on {context.node}")
    return context.node


@zcluster.function("held.until", timeout_s=60)
def held_until(path: str) -> str:
    """Runs until the file is there."""
    while not Path(path).exists():
        time.sleep(0.02)
    return "free"


@zcluster.function("secret.kept")
def secret_kept(user: str, password: zcluster.Secret) -> int:
    """How long the password is."""
    return len(user) + len(password.reveal())
