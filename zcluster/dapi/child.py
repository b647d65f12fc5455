"""What runs inside a process of ``pool="process"``.

Rules kept here:
- the process is spawned, not forked: it inherits no socket, no ZeroMQ context and no lock of the node;
- it imports the same modules as the node, once, and is then told a name and a body for each call;
- nothing but bytes, text and a mark crosses the pipe: no pickled exception of a class that the node may not have;
- it ends with the node, however the node ends.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process

from zcluster.dapi.context import Context
from zcluster.dapi.function import Function
from zcluster.dapi.jobs import Body
from zcluster.dapi.loader import load_functions
from zcluster.dapi.outcome import error_body, failure, traceback_of
from zcluster.errors import FunctionFailed, NoSuchFunction, ZClusterError
from zcluster.wire import Mark

_functions: dict[str, Function] = {}
_broken: list[ZClusterError] = []
"""Why the modules could not be loaded: each call then fails with it, instead of the process dying at every start."""


@dataclass(frozen=True, slots=True)
class Order:
    """One call, as it crosses the pipe; ``remaining_s`` because clocks of two processes need not agree."""

    name: str
    body: Body
    caller: str
    role: str
    node: str
    request_id: str
    remaining_s: float
    mark: Mark | None = None
    held: tuple[str, ...] = ()


def start(modules: Sequence[str], entry_points: bool) -> None:
    """Prepare the process: load the functions, and watch the node."""
    # The default again: a SIGTERM that must wait for Python code to come round does not stop a function stuck in C.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, name="zcluster-parent", daemon=True).start()
    try:
        _functions.update(load_functions(modules, entry_points))
    except ZClusterError as error:
        _broken.append(error)


def run(order: Order) -> tuple[bool, bytes, str]:
    """Run one call: (whether it succeeded, the body, the traceback or ""). Never raises."""
    found = _functions.get(order.name)
    try:
        if _broken:
            raise FunctionFailed(f"its process could not load the functions: {_broken[0].message}", hint=_broken[0].hint)
        if found is None:
            raise NoSuchFunction(f"the process does not have {order.name}", hint="is its module in functions.modules?")
        return True, found.run(order.body, _context(order) if found.wants_context else None), ""
    except BaseException as error:
        secrets = [] if found is None else found.secrets(order.body)
        seen = failure(error, secrets)
        text = traceback_of(error.__cause__ or error, secrets) if isinstance(seen, FunctionFailed) else ""
        return False, error_body(seen, order.node, order.request_id), text


def _context(order: Order) -> Context:
    return Context(
        caller=order.caller,
        role=order.role,
        node=order.node,
        request_id=order.request_id,
        deadline_s=time.monotonic() + order.remaining_s,
        clock=time.monotonic,
        mark=order.mark,
        held=order.held,
    )


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
