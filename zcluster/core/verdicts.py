"""The errors that the master's queues end a request with.

Rule kept here: each says whether the request was started: never, or unknown. That is what a caller needs to decide
whether calling again does harm.
"""

from __future__ import annotations

import msgspec

from zcluster.core.peers import Request
from zcluster.errors import NodeLost, NodeUnavailable, NoSuchFunction, TimedOut, ZClusterError


def encode_error(error: ZClusterError, node: str, request_id: str) -> bytes:
    """The body of an ERROR reply."""
    data = error.to_dict()
    data["request_id"] = request_id
    if node and not error.node:
        data["node"] = node
    return msgspec.json.encode(data)


def no_such_function(function: str, node: str) -> NoSuchFunction:
    """A call to a function that is not there; ``node`` is empty when no node has it."""
    where = node or "no live node"
    return NoSuchFunction(f"{where} has {'no' if node else 'the'} function {function!r}", hint="`zcluster dapi ls` lists them")


def never_started(request: Request, now: float) -> TimedOut:
    """Its deadline passed while it waited."""
    waited_s = now - request.queued_s
    return TimedOut(f"{request.group.function}: waited {waited_s:.2f} s for a node until its deadline; it was never started")


def overdue(request: Request, node: str) -> TimedOut:
    """Its deadline passed while it ran on ``node``."""
    return TimedOut(f"{request.group.function} on {node}: no answer by its deadline; whether it ran is unknown")


def node_lost(request: Request, node: str, reason: str) -> NodeLost:
    """``node`` was lost with the request on it."""
    return NodeLost(
        f"{node} was lost ({reason}) with {request.group.function} on it; whether it ran is unknown",
        hint="a function marked idempotent moves to another node, when it is called at 'any'",
    )


def nobody_left(request: Request) -> NodeLost:
    """Its node was lost, it may move, and there is no other node to move to."""
    return NodeLost(f"the node that ran {request.group.function} was lost, and no other has it; whether it ran is unknown")


def not_served(request: Request, reason: str) -> NodeUnavailable:
    """The node that it waited for will not serve it."""
    return NodeUnavailable(f"{reason}; {request.group.function} was never started")
