"""Functions of the jobs whose processes are killed: each tells outside, in files, that it ran and what it did."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import zcluster

LOCKED_S = 60.0
"""A process that is stopped may hold the lock of the effects for a while."""


def append(directory: str, context: zcluster.Context) -> None:
    """Note that this attempt runs: one write, which is whole or not there."""
    line = f"{context.job} {context.attempt} {context.node} {context.idempotency_key or '-'}\n"
    fd = os.open(Path(directory) / "runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


@zcluster.function("effect.record")
def record(directory: str, pause_s: float, context: zcluster.Context) -> str:
    """Takes a while, and has one effect for each idempotency key."""
    append(directory, context)
    time.sleep(pause_s)
    with closing(sqlite3.connect(Path(directory) / "effects.db", timeout=LOCKED_S, isolation_level=None)) as effects:
        row = (context.idempotency_key, context.job, context.attempt)
        effects.execute("INSERT OR IGNORE INTO effects VALUES (?, ?, ?)", row)
    return context.idempotency_key


@zcluster.function("value.kept")
def value_kept(directory: str, value: str, context: zcluster.Context) -> str:
    """Its value, which may be large."""
    append(directory, context)
    return value


@zcluster.function("held.until")
def held_until(directory: str, path: str, context: zcluster.Context) -> int:
    """Runs until the file is there; returns which attempt it was."""
    append(directory, context)
    while not Path(path).exists():
        time.sleep(0.01)
    return context.attempt


@zcluster.function("first.held")
def first_held(directory: str, path: str, context: zcluster.Context) -> int:
    """As held.until, but only the first attempt waits."""
    append(directory, context)
    while context.attempt == 1 and not Path(path).exists():
        time.sleep(0.01)
    return context.attempt


@zcluster.function("poison.take")
def poison(directory: str, harmless: str, context: zcluster.Context) -> int:
    """Ends the process that runs it, unless the file is there."""
    append(directory, context)
    if not Path(harmless).exists():
        os._exit(3)
    return context.attempt
