"""The functions that only the master has: what it knows of the cluster."""

from __future__ import annotations

import time
from typing import Any

import orjson

from zcluster.core.master import Master
from zcluster.core.peers import Node
from zcluster.dapi.function import Function, function


def cluster_functions(machine: Master, clock: Any, started_s: float) -> dict[str, Function]:
    """``cluster.nodes``, ``cluster.functions`` and ``cluster.status`` over ``machine``.

    Args:
        clock: the clock of the machine's times, in seconds.
        started_s: when the master started, seconds since 1970.
    """

    @function("cluster.nodes", idempotent=True, pool="inline")
    def nodes() -> list[dict[str, Any]]:
        """Every node that the master knows, with its state."""
        return [describe_node(node, clock()) for node in machine.roster.nodes.values()]

    @function("cluster.functions", idempotent=True, pool="inline")
    def functions() -> list[dict[str, Any]]:
        """Every function that a live node has, with the nodes that have it."""
        return [_describe_function(name, machine) for name in sorted(machine.dispatch.functions.providers)]

    @function("cluster.status", idempotent=True, pool="inline")
    def status() -> dict[str, Any]:
        """The master's own account: sessions, nodes by state, requests, counters."""
        return _status(machine, started_s)

    return {found.name: found for found in map(Function, (nodes, functions, status))}


def describe_node(node: Node, now: float) -> dict[str, Any]:
    """A node as ``cluster.nodes`` lists it."""
    peer = node.peer
    leaving = peer is not None and peer.draining
    return {
        "name": node.name,
        "role": node.role,
        "state": node.state,
        "reason": "draining" if leaving else node.reason,
        "version": node.version,
        "last_seen_s": None if node.last_seen_s is None else round(max(0.0, now - node.last_seen_s), 3),
        "load": round(len(node.running) / node.slots, 4) if node.slots else 0.0,
        "in_flight": len(node.running),
        "waiting": len(node.queue),
        "slots": node.slots,
        "cpu_percent": node.cpu_percent,
        "memory_percent": node.memory_percent,
        "session": peer.no if peer is not None else None,
        "functions": len(node.functions),
    }


def _describe_function(name: str, machine: Master) -> dict[str, Any]:
    providers = machine.dispatch.functions.providers[name]
    info = next(iter(providers.values())).functions[name]
    return {
        "name": name,
        "doc": info.doc,
        "parameters": _schema(info.parameters),
        "returns": _schema(info.returns),
        "timeout_s": info.timeout_s,
        "idempotent": info.idempotent,
        "stream": info.stream,
        "role": info.role,
        "pool": info.pool,
        "nodes": sorted(providers),
    }


def _schema(text: str) -> Any:
    """What a node says of itself is not trusted to be JSON."""
    try:
        return orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {}


def _status(machine: Master, started_s: float) -> dict[str, Any]:
    states: dict[str, int] = {}
    for node in machine.roster.nodes.values():
        states[node.state] = states.get(node.state, 0) + 1
    return {
        "cluster": machine.cluster,
        "master": machine.name,
        "version": machine.software,
        "epoch": machine.epoch,
        "started_s": round(started_s, 3),
        "uptime_s": round(time.time() - started_s, 3),
        "nodes": states,
        "sessions": len(machine.roster.peers),
        "requests": {
            "waiting": machine.dispatch.waiting,
            "waiting_bytes": machine.dispatch.waiting_bytes,
            "running": machine.dispatch.running,
            "per_s": machine.dispatch.rate_s,
        },
        "counters": dict(sorted(machine.counters.values.items())),
    }
