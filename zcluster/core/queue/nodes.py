"""The nodes as the queue sees them: those of the roster, and which functions they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zcluster.core.catalog import Functions
from zcluster.core.peers import Node


class NodesView:
    """Nodes by name, and by function."""

    def __init__(self, nodes: Mapping[str, Node], functions: Functions) -> None:
        self._nodes, self._functions = nodes, functions

    def get(self, name: str) -> Node | None:
        """The node of this name."""
        return self._nodes.get(name)

    def having(self, function: str) -> Iterable[Node]:
        """The nodes with a session that have this function."""
        return self._functions.providers.get(function, {}).values()
