"""The functions that only the master has: what it knows of the cluster.

Rules kept here:
- what a node says of itself is not trusted: a schema that is no JSON object, or nested so deep that it cannot be written
  again by the master or by a client, is told as ``{}``; it never spoils the answer about the others;
- a schema is read once and not at each call. What is kept is what the last answer told, so the live nodes bound it.
"""

from __future__ import annotations

import time
from typing import Any

import orjson

from zcluster.core.drained import REASON
from zcluster.core.master import Master
from zcluster.core.peers import Node
from zcluster.dapi.function import Function, function

SPARE_LEVELS = 32
"""How much deeper than itself a schema must be writable."""

_NO_SCHEMA = orjson.Fragment(b"{}")


def cluster_functions(machine: Master, clock: Any, started_s: float) -> dict[str, Function]:
    """``cluster.nodes``, ``cluster.functions`` and ``cluster.status`` over ``machine``.

    Args:
        clock: the clock of the machine's times, in seconds.
        started_s: when the master started, seconds since 1970.
    """

    schemas = _Schemas()

    @function("cluster.nodes", idempotent=True, pool="inline")
    def nodes() -> list[dict[str, Any]]:
        """Every node that the master knows, with its state."""
        return [describe_node(node, clock()) for node in machine.roster.nodes.values()]

    @function("cluster.functions", idempotent=True, pool="inline")
    def functions() -> list[dict[str, Any]]:
        """Every function that a live node has, with the nodes that have it."""
        told = [_describe_function(name, machine, schemas) for name in sorted(machine.dispatch.functions.providers)]
        schemas.forget_unused()
        return told

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
        "reason": "draining" if leaving else node.reason or (REASON if node.drained else ""),
        "drained": node.drained,
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
        "door": list(node.door),
        "agents": node.agents,
        "metrics": node.metrics,
        "metrics_age_s": None if node.metrics_at_s is None else round(max(0.0, now - node.metrics_at_s), 3),
        "config": node.config,
    }


def _describe_function(name: str, machine: Master, schemas: _Schemas) -> dict[str, Any]:
    providers = machine.dispatch.functions.providers[name]
    info = next(iter(providers.values())).functions[name]
    return {
        "name": name,
        "doc": info.doc,
        "parameters": schemas.of(info.parameters),
        "returns": schemas.of(info.returns),
        "timeout_s": info.timeout_s,
        "idempotent": info.idempotent,
        "stream": info.stream,
        "role": info.role,
        "pool": info.pool,
        "nodes": sorted(providers),
    }


class _Schemas:
    """Schemas that nodes told, checked, as pieces of JSON that are ready to be sent."""

    def __init__(self) -> None:
        self._kept: dict[str, orjson.Fragment] = {}
        self._used: dict[str, orjson.Fragment] = {}

    def of(self, text: str) -> orjson.Fragment:
        """The schema in ``text``."""
        found = self._used.get(text)
        if found is None:
            found = self._used[text] = self._kept.get(text) or _checked(text)
        return found

    def forget_unused(self) -> None:
        """Keep only what was asked for since the last time."""
        self._kept, self._used = self._used, {}


def _checked(text: str) -> orjson.Fragment:
    try:
        value = orjson.loads(text)
        if not isinstance(value, dict):
            return _NO_SCHEMA
        # orjson reads deeper than it writes: whoever puts the answer into something of their own must be able to write it
        nested: Any = value
        for _ in range(SPARE_LEVELS):
            nested = [nested]
        orjson.dumps(nested)
        return orjson.Fragment(orjson.dumps(value))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return _NO_SCHEMA


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
