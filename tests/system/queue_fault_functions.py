"""Functions of the tests of the queue's faults. What happens is written to files, a line each; a gate is a file too."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import zcluster

POLL_S = 0.01


def note(path: str, text: str) -> None:
    """Add a line; whole lines, from any process."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, f"{text}\n".encode())
    finally:
        os.close(file)


@zcluster.function("q.note")
def mark(path: str, text: str, context: zcluster.Context) -> str:
    """Note that it ran, and on which node."""
    note(path, f"{text} {context.node}")
    return text


@zcluster.function("q.gate", timeout_s=120)
def gate(path: str, text: str, gate: str, blob: int = 0) -> str:
    """Note that it began; a text of ``blob`` bytes when the gate is open."""
    note(path, text)
    while not Path(gate).exists():
        time.sleep(POLL_S)
    return text + "x" * blob


@zcluster.function("q.size")
def size_of(value: str) -> int:
    """How long ``value`` is."""
    return len(value)


@zcluster.function("q.blob")
def blob(size: int) -> str:
    """A text of which the JSON has ``size`` bytes."""
    return "x" * (size - 2)


@zcluster.function("q.flaky")
def flaky(path: str, text: str, fails: int, context: zcluster.Context, after_s: float = 0.02) -> int:
    """Note each attempt; fail for good with ``fails`` below 0, else ask for another attempt that often."""
    note(path, f"{text} {context.attempt}")
    if fails < 0:
        raise zcluster.Reject("never")
    if context.attempt <= fails:
        raise zcluster.Retry("not yet", after_s=after_s)
    return context.attempt


@zcluster.function("q.count")
def count(to: int) -> Iterator[int]:
    """Numbers, one after the other."""
    yield from range(to)


@zcluster.function("q.until_cancelled", timeout_s=120)
def until_cancelled(path: str, context: zcluster.Context) -> None:
    """Runs until nobody wants it."""
    note(path, "began")
    while not context.cancelled:
        time.sleep(POLL_S)
    note(path, "cancelled")


@zcluster.function("q.process", pool="process", timeout_s=120)
def in_process(path: str) -> None:
    """Tells its process's number, and runs on."""
    note(path, str(os.getpid()))
    time.sleep(120)


@zcluster.function("q.admin", role="admin")
def admins_only(path: str = "") -> str:
    """For administrators."""
    if path:
        note(path, "ran")
    return "done"


@zcluster.function("q.secret")
async def secret(password: zcluster.Secret, how: str = "") -> int:
    """How long the password is; or an error that says it."""
    await asyncio.sleep(0)
    if how == "raise":
        raise ValueError(f"the password {password.reveal()} is wrong")
    if how == "retry":
        raise zcluster.Retry(f"the password {password.reveal()} is not known yet", after_s=0.01)
    return len(password.reveal())
