"""Functions that test_runner_processes.py runs in processes of their own."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import zcluster.dapi as zcluster


@zcluster.function("p.pid", pool="process")
def pid() -> int:
    return os.getpid()


@zcluster.function("p.add", pool="process")
def add(a: int, b: int) -> int:
    return a + b


@zcluster.function("p.size", pool="process")
def size(text: str) -> str:
    return text


@zcluster.function("p.fail", pool="process")
def fail(exit_code: int | None = None) -> None:
    if exit_code is not None:
        sys.exit(exit_code)
    raise ValueError("bad disk")


@zcluster.function("p.die", pool="process")
def die(signal_number: int = 0, exit_code: int = 0) -> None:
    if signal_number:
        os.kill(os.getpid(), signal_number)
    os._exit(exit_code)


@zcluster.function("p.stick", pool="process")
def stick(fifo: str) -> None:
    """Say that it runs, and never end."""
    with open(fifo, "w", encoding="utf-8") as out:
        out.write(str(os.getpid()))
    while True:
        time.sleep(3600)


@zcluster.function("p.who", pool="process")
def who(context: zcluster.Context) -> list[Any]:
    return [context.caller, context.role, context.node, context.request_id, context.cancelled, context.remaining_s()]


@zcluster.function("p.modules", pool="process")
def modules() -> list[str]:
    return [name for name in ("zmq", "zcluster.net", "zcluster.brokers") if name in sys.modules]
