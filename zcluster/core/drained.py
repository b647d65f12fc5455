"""Drained nodes: they finish what they have, and are given nothing new until they are resumed.

Rules kept here:
- being drained is a fact about a key (its principal), not about a name or a session: it holds over restarts and reconnections,
  and a new key of the same name is not drained;
- ``any`` and durable jobs go elsewhere; a request for the node itself, or its part of a fan-out, is answered at once;
- what zcluster itself asks of a node (STILL) is answered as before: its files, agents and logs are still its own;
- the master is never drained: whoever would resume it could not say so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zcluster.core.dispatch import Dispatch
from zcluster.core.peers import Node, Peer
from zcluster.errors import NodeUnavailable

STILL = ("node.logs", "node.time", "agents.", "config.", "groups.", "sync.", "tables.")
"""Beginnings of the names of functions that a drained node is still asked for: zcluster's own, about what the node holds."""
REASON = "drained"
_RESUME = "`zcluster nodes resume NAME` lets it have requests again"


def turned_away(node: Node, function: str) -> bool:
    """Whether ``node`` is drained and is not to be asked for ``function``."""
    return node.drained and not function.startswith(STILL)


def unavailable(node: Node) -> NodeUnavailable:
    """Why ``node`` gets no request."""
    leaving = node.peer is not None and node.peer.draining
    if node.drained and node.state == "ready" and not leaving:
        return NodeUnavailable(f"{node.name} is {REASON}: it gets no new requests", node=node.name, hint=_RESUME)
    state = "leaving" if leaving else node.state
    reason = f": {node.reason}" if node.reason else ""
    hint = "`zcluster nodes` shows the state of each node"
    return NodeUnavailable(f"{node.name} is {state}{reason}", node=node.name, hint=hint)


def refuse_drained(function: str, providers: Iterable[Node]) -> None:
    """Raises NodeUnavailable when each of ``providers``, the nodes that have ``function``, is drained."""
    if all(node.drained for node in providers):
        raise NodeUnavailable(f"every node that has {function} is {REASON}; it was never started", hint=_RESUME)


class Drained:
    """Which nodes are drained.

    Args:
        nodes: the roster's.
    """

    def __init__(self, nodes: dict[str, Node], dispatch: Dispatch) -> None:
        self.principals: frozenset[str] = frozenset()
        self._nodes, self._dispatch = nodes, dispatch

    def opened(self, peer: Peer) -> None:
        """A node has joined: who it is says whether it is drained."""
        if peer.node is not None:
            self._hold(peer.node, peer.identity.key in self.principals)
            self._dispatch.functions.drained |= peer.node.drained

    def hold(self, principals: Collection[str], names: Collection[str]) -> None:
        """Drained are those with a key of ``principals``, and no others. ``names``: what these keys are called now, for the nodes
        that are away."""
        self.principals = frozenset(principals)
        for node in self._nodes.values():
            peer = node.peer
            self._hold(node, node.name in names if peer is None else peer.identity.key in self.principals)
        self._dispatch.functions.drained = any(node.drained for node in self._nodes.values())

    def _hold(self, node: Node, drained: bool) -> None:
        if node.drained == drained:
            return
        node.drained = drained
        self._dispatch.functions.changes += 1
        if drained:
            self._dispatch.fail_queue(node, f"{node.name} is {REASON}")
        else:
            self._dispatch.offer(node)
