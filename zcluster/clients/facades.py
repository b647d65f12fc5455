"""What of AsyncClient is made of single calls: the lists of what there is, and the parts of the cluster by name.

Rules kept here:
- nothing is kept here: a part is made when it is named, and is as good as any other of its client.
"""

from __future__ import annotations

from typing import Any

from zcluster.clients.agents import AsyncAgents
from zcluster.clients.caller import Streaming
from zcluster.clients.groups import AsyncGroups
from zcluster.clients.keys import AsyncKeys
from zcluster.clients.liveconfig import AsyncConfig
from zcluster.clients.nodes import AsyncNodes
from zcluster.clients.queue import AsyncQueue, audit
from zcluster.clients.rights import AsyncRights
from zcluster.clients.sync import AsyncSync


class ClusterCalls:
    """The lists and the parts; the client that inherits them makes the calls."""

    @property
    def nodes(self: Streaming) -> AsyncNodes:
        """The nodes: ``await c.nodes()`` lists them; each is described, drained, resumed and removed by name."""
        return AsyncNodes(self)

    async def functions(self: Streaming) -> list[dict[str, Any]]:
        """Every function that a live node has: name, doc, parameters, nodes and more."""
        found: list[dict[str, Any]] = await self.call("cluster.functions", target="master")
        return found

    async def status(self: Streaming) -> dict[str, Any]:
        """The master's account of the cluster."""
        found: dict[str, Any] = await self.call("cluster.status", target="master")
        return found

    async def audit(
        self: Streaming, since_s: float = 0.0, key: str = "", *, limit: int = 10_000, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """Who asked for what, where it ran and how it ended, the oldest first; for admin keys.

        Args:
            since_s: from this time on (seconds since 1970). key: only what the key of this name asked for.
            limit: how many records at most.
        """
        return await audit(self, since_s, key, limit, timeout)

    @property
    def keys(self: Streaming) -> AsyncKeys:
        """The admitted keys, and join tokens: ``await c.keys()`` lists them; for admin keys."""
        return AsyncKeys(self)

    @property
    def rights(self: Streaming) -> AsyncRights:
        """What keys may do, and why."""
        return AsyncRights(self)

    @property
    def queue(self: Streaming) -> AsyncQueue:
        """The durable jobs: which there are, and what can be done about them."""
        return AsyncQueue(self)

    @property
    def sync(self: Streaming) -> AsyncSync:
        """File sync: the state of the trees, and what can be done about it."""
        return AsyncSync(self)

    @property
    def agents(self: Streaming) -> AsyncAgents:
        """The agents: what is known of them, and what can be done about them."""
        return AsyncAgents(self)

    @property
    def groups(self: Streaming) -> AsyncGroups:
        """The groups of agents: which there are, who is in them, and their shared files."""
        return AsyncGroups(self)

    @property
    def config(self: Streaming) -> AsyncConfig:
        """The live configuration of nodes, groups and agents."""
        return AsyncConfig(self)
