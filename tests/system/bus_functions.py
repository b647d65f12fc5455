"""Functions that the tests of requests and faults run on real workers.

What happens is written to files, a line each: a file tells what ran, where, how often and in which order, whatever
became of the answers. A gate is a file too: a function that waits at it goes on when it exists.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count

import zcluster

POLL_S = 0.005
_ticks = count(1)


def note(path: str, text: str) -> None:
    """Add a line; whole lines, from any process."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, f"{text}\n".encode())
    finally:
        os.close(file)


def is_open(gate: str) -> bool:
    """Whether the gate has been opened."""
    return os.path.exists(gate)


@zcluster.function("t.mark")
def mark(path: str, text: str, context: zcluster.Context) -> str:
    """Note that it ran, and on which node."""
    note(path, f"{text} {context.node}")
    return text


@zcluster.function("t.tick", pool="inline")
def tick() -> int:
    """How many ticks this process has given."""
    return next(_ticks)


@zcluster.function("t.gate")
def gate(path: str, gate: str, text: str = "gate") -> str:
    """Note that it began; end when the gate is open, however long that takes. In a thread: it cannot be stopped."""
    note(path, f"{text} began")
    while not is_open(gate):
        time.sleep(POLL_S)
    note(path, f"{text} ended")
    return text


@zcluster.function("t.gate_short", timeout_s=0.3)
def gate_short(path: str, gate: str) -> None:
    """As t.gate, with a deadline of its own."""
    note(path, "began")
    while not is_open(gate):
        time.sleep(POLL_S)


@zcluster.function("t.async_gate")
async def async_gate(path: str, gate: str, text: str = "gate") -> str:
    """As t.gate, in the loop: it can be stopped, and notes that."""
    note(path, f"{text} began")
    try:
        while not is_open(gate):
            await asyncio.sleep(POLL_S)
    except asyncio.CancelledError:
        note(path, f"{text} cancelled")
        raise
    note(path, f"{text} ended")
    return text


@zcluster.function("t.gate_then_large")
async def gate_then_large(path: str, gate: str, size: int) -> str:
    """Wait at the gate, then give a text of ``size`` characters."""
    note(path, "began")
    while not is_open(gate):
        await asyncio.sleep(POLL_S)
    return "x" * size


@zcluster.function("t.count")
def counting(path: str, upto: int) -> Iterator[int]:
    """A stream of numbers, in a thread; notes how it ended."""
    sent = 0
    try:
        for number in range(upto):
            sent = number
            yield number
        note(path, "ended")
    except GeneratorExit:
        note(path, f"closed at {sent}")
        raise


@zcluster.function("t.async_count")
async def async_counting(path: str, upto: int) -> AsyncIterator[int]:
    """A stream of numbers, in the loop; notes how it ended."""
    try:
        for number in range(upto):
            yield number
        note(path, "ended")
    finally:
        note(path, "closed")


@zcluster.function("t.text")
def text(size: int) -> str:
    """A text whose JSON has ``size`` bytes."""
    return "y" * (size - 2)


@zcluster.function("t.length")
def length(text: str) -> int:
    """How long the text is."""
    return len(text)


@zcluster.function("t.fail")
def fail(path: str = "") -> None:
    """Raise an error of its own kind."""
    raise LookupError(f"no disk {path}")


@zcluster.function("t.admin", role="admin")
def admin(path: str) -> str:
    """What only an administrator may do."""
    note(path, "ran")
    return "done"


@zcluster.function("t.who", pool="inline")
def who(context: zcluster.Context) -> list[str | float]:
    """Who asks, and how long there is."""
    return [context.caller, context.role, context.node, context.request_id, context.remaining_s()]


@zcluster.function("t.count_until")
async def count_until(gate: str) -> AsyncIterator[int]:
    """Numbers from 0 on, until the gate is open."""
    for number in count():
        if is_open(gate):
            return
        yield number
        await asyncio.sleep(POLL_S)
