"""The functions ``agents.*`` of a master: what is known of all agents, and what can be done about them.

Rules kept here:
- looking is for every caller; removing and moving ask for the role admin;
- what concerns many agents takes their ids or a filter, at most MAX_AT_ONCE at once; the answer says which were done;
- removing an agent ends its session and tells its node; it comes back only by a newer session or report;
- a removed agent is listed as such for REMOVED_KEPT_S, so that a late word of its old node is known to be old; then it is
  forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from zcluster.config import Loaded
from zcluster.core.agents.fields import groups_of
from zcluster.core.agents.filter import Both, Compare, parse
from zcluster.core.agents.row import Row
from zcluster.core.peers import Event
from zcluster.dapi.context import Context
from zcluster.dapi.function import Function, function
from zcluster.errors import NodeUnavailable, NoSuchAgent, NoSuchNode, TooLarge, UsageError
from zcluster.nodes.desk import Desk
from zcluster.nodes.tasks import keep_running
from zcluster.wire.agents import AgentOrder

MAX_AT_ONCE = 10_000
REMOVED_KEPT_S = 7 * 86_400.0
PURGE_EVERY_S = 3600.0
REACHABLE = ("ready", "silent")
SHOWN = ("id", "name", "status", "node", "address", "version", "os", "groups", "labels", "last_seen")
"""What a list tells when it is not told what to select."""
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Ids = Annotated[list[Annotated[str, msgspec.Meta(max_length=128)]], msgspec.Meta(max_length=MAX_AT_ONCE)]
Fields = Annotated[list[Annotated[str, msgspec.Meta(max_length=128)]], msgspec.Meta(max_length=32)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=10_000)]


class AgentQueries:
    """The part of a master that answers about agents.

    Args:
        order: gives a node orders about agents; a node that is away gets them when it is back.
        state_of: the state of a node, or None when there is none of this name.
        has_door: whether agents may connect to a node.
    """

    def __init__(
        self, desk: Desk, order: Callable[[str, list[AgentOrder]], None], state_of: Callable[[str], str | None],
        has_door: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self._desk, self._order, self._state_of, self._has_door = desk, order, state_of, has_door
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Forget what was removed long ago, now and from time to time."""
        self._task = asyncio.create_task(keep_running(self._purging, self._desk.logger, "forgetting removed agents"))

    def apply(self, loaded: Loaded) -> None:
        """Nothing of the configuration concerns it."""

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def purge(self) -> int:
        """Forget the agents that were removed before REMOVED_KEPT_S; returns how many."""
        before = int((self._desk.wall_s() - REMOVED_KEPT_S) * 1000)
        where = Both((Compare("status", "=", "removed"), Compare("epoch", "<", str(before))))
        found = await self._desk.book.find(where, select=("id",), limit=MAX_AT_ONCE)
        return await self._desk.book.purge([row["id"] for row in found.rows]) if found.rows else 0

    async def _purging(self) -> None:
        more = await self.purge() == MAX_AT_ONCE
        await asyncio.sleep(0.0 if more else PURGE_EVERY_S)

    def functions(self) -> dict[str, Function]:
        made = [*self._questions(), *self._orders()]
        return {found.name: found for found in (Function(call, own_errors=True) for call in made)}

    def _questions(self) -> list[Callable[..., Any]]:
        @function("agents.list", idempotent=True)
        async def list_agents(
            filter: Text = "", select: Fields | None = None, sort: Text = "id", limit: Limit = 100, cursor: Text = "",
            count: bool = False,
        ) -> dict[str, Any]:  # fmt: skip
            """The agents that the filter means, a page at a time: items, next (the cursor of the next page, or null), total."""
            where = parse(filter, self._desk.wall_s())
            found = await self._desk.book.find(
                where, select=select or SHOWN, sort=sort or "id", limit=limit, cursor=cursor, count=count
            )
            return {"items": found.rows, "next": found.next, "total": found.total}

        @function("agents.count", idempotent=True)
        async def count_agents(filter: Text = "", by: Text = "") -> dict[str, Any]:
            """How many agents the filter means, in all and by the values of a field."""
            where = parse(filter, self._desk.wall_s())
            counts = await self._desk.book.count(where, by=by)
            return {"total": sum(counts.values()), "by": {} if not by else counts}

        @function("agents.show", idempotent=True)
        async def show(id: Text) -> dict[str, Any]:
            """All that is known of one agent."""
            return _shown(await self._one(id))

        return [list_agents, count_agents, show]

    def _orders(self) -> list[Callable[..., Any]]:
        @function("agents.remove", idempotent=True, role="admin")
        async def remove(ids: Ids | None = None, filter: Text = "", *, context: Context) -> dict[str, Any]:
            """Remove agents: their sessions end, and they are listed as removed until they come back."""
            rows = await self._many(ids or [], filter)
            gone = [row for row in rows if row.status != "removed"]
            # Of the claim that is known, not of now: an agent's next session is newer than its last, not than this clock.
            await self._desk.book.update([(row.id, {"status": "removed", "epoch": row.epoch}) for row in gone])
            by_node: dict[str, list[AgentOrder]] = {}
            for row in gone:
                by_node.setdefault(row.node, []).append(AgentOrder(op="remove", id=row.id, epoch=row.epoch))
            for node, orders in by_node.items():
                for start in range(0, len(orders), 1000):
                    self._order(node, orders[start : start + 1000])
            if gone:
                fields = {"count": len(gone), "by": context.caller, "agents": [row.id for row in gone[:20]]}
                self._desk.note(Event("agents_removed", fields))
            return {"removed": [row.id for row in gone]}

        @function("agents.move", idempotent=True, role="admin")
        async def move(id: Text, node: Text) -> dict[str, Any]:
            """Have an agent connect to another node; one without a session belongs to that node from now on."""
            row = await self._one(id)
            state = self._state_of(node)
            if state is None:
                raise NoSuchNode(f"there is no node {node!r}", hint="`zcluster nodes` lists the nodes")
            if row.status == "removed":
                raise NoSuchAgent(f"the agent {id!r} was removed", hint="it may be moved when it has come back")
            if row.node == node:
                return {"id": id, "node": node, "moved": False}
            if state != "ready":
                raise NodeUnavailable(f"{node} is {state}", node=node, hint="`zcluster nodes` shows the state of each node")
            await self._move(row, node)
            return {"id": id, "node": node, "moved": True}

        return [remove, move]

    async def _move(self, row: Row, node: str) -> None:
        if row.held == "session" and row.status in ("active", "silent"):
            if not self._has_door(node):
                raise UsageError(f"{node} has no door at which an agent could connect", hint="start it with --door ADDRESS")
            if self._state_of(row.node) not in REACHABLE:
                raise NodeUnavailable(f"{row.node}, which holds {row.id}, cannot be reached", node=row.node)
            self._order(row.node, [AgentOrder(op="move", id=row.id, node=node)])
            return
        epoch = max(row.epoch + 1, int(self._desk.wall_s() * 1000))
        # Held by a report, as its new node will have it: a session of it, wherever, is newer whatever its number.
        await self._desk.book.update([(row.id, {"node": node, "epoch": epoch, "held": "report"})])
        fields = _fields(row)
        self._order(row.node, [AgentOrder(op="drop", id=row.id, epoch=epoch, node=node)])
        self._order(node, [AgentOrder(op="adopt", id=row.id, epoch=epoch, node=node, row=fields)])
        self._desk.note(Event("agent_moved", {"agent": row.id, "from": row.node, "to": node}))

    async def bring(self, id_: str, node: str) -> str:
        """Have an agent that has a session elsewhere go to ``node``; returns where it was, empty when it does not go."""
        row = await self._desk.book.get(id_)
        if row is None or row.held != "session" or row.status not in ("active", "silent") or row.node == node:
            return ""
        try:
            await self._move(row, node)
        except (UsageError, NodeUnavailable):
            return ""
        return row.node

    async def _one(self, id_: str) -> Row:
        row = await self._desk.book.get(id_)
        if row is None:
            raise NoSuchAgent(f"there is no agent {id_!r}", hint="`zcluster agents ls` lists the agents")
        return row

    async def _many(self, ids: list[str], text: str) -> list[Row]:
        if bool(ids) == bool(text.strip()):
            raise UsageError("name agents, or give a filter, and not both", hint="agents.remove(ids=[...]) or (filter='...')")
        if text.strip():
            found = await self._desk.book.find(parse(text, self._desk.wall_s()), select=("id",), limit=MAX_AT_ONCE)
            if found.next is not None:
                raise TooLarge(f"the filter means more than {MAX_AT_ONCE} agents", hint="narrow it, and do it again")
            ids = [row["id"] for row in found.rows]
        known = await self._desk.book.get_many(ids)
        missing = [id_ for id_ in ids if id_ not in known]
        if missing or not known:
            what = f"there is no agent {', '.join(map(repr, missing[:5]))}" if missing else "no agent matches"
            raise NoSuchAgent(what, hint="`zcluster agents ls` lists the agents; nothing was changed")
        return list(known.values())


def _fields(row: Row) -> dict[str, Any]:
    return {
        "name": row.name, "address": row.address, "version": row.version, "os": row.os, "labels": row.labels,
        "status": row.status, "metrics": row.metrics, "first_seen": row.first_seen, "last_seen": row.last_seen,
    }  # fmt: skip


def _shown(row: Row) -> dict[str, Any]:
    return {**msgspec.structs.asdict(row), "groups": groups_of(row)}
