"""The functions ``nodes.*`` of a master: all that is known of one node, and what an operator does with nodes.

Rules kept here:
- which nodes are drained is on disk before it holds, by the id of the key: a restart changes nothing, a new key of the same name
  has nothing of it, and what was kept of a key that is gone is forgotten;
- the master is neither drained nor removed: who would undo it could not say so;
- a node that has a session is removed only together with its key: without that it would be back at once;
- the ring is changed in a thread, as the command line does it: the loop never waits for its lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import orjson

from zcluster.brokers.cluster_functions import describe_node
from zcluster.config import Loaded
from zcluster.config.names import nearest
from zcluster.core.drained import REASON
from zcluster.core.master import Master
from zcluster.core.peers import Event, Node, Route
from zcluster.core.targets import MASTER, select
from zcluster.dapi.context import Context
from zcluster.dapi.function import Function, function
from zcluster.errors import Conflict, NoSuchNode, UsageError
from zcluster.keys import Entry, Ring, fingerprint
from zcluster.keys.rows import key_row
from zcluster.nodes.desk import Desk
from zcluster.store.interface import Delete, Put

PREFIX = "drained/"
SHOWN = 20
"""Requests that run on a node, as ``nodes.describe`` shows them."""
MAX_REVOKED = 10

NodeName = Annotated[str, msgspec.Meta(max_length=256)]
TargetText = Annotated[str, msgspec.Meta(max_length=65_536)]
Row = dict[str, Any]


class Held(msgspec.Struct, frozen=True):
    """Who drained a node, and when."""

    principal: str
    at_s: float
    by: str


class MasterNodes:
    """Part of a master: its nodes, one by one.

    Args:
        look: looks at the ring now. address_of: where the connection of a route comes from; empty when nobody knows.
    """

    def __init__(
        self, desk: Desk, machine: Master, ring: Ring, look: Callable[[], None], address_of: Callable[[Route], str]
    ) -> None:
        self._desk, self._machine, self._ring, self._look, self._address_of = desk, machine, ring, look, address_of
        self._held: dict[str, Held] = {}
        """By principal."""
        self._changing = asyncio.Lock()
        self._forgetting: set[asyncio.Task[None]] = set()

    # -- Part -----------------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """The functions ``nodes.*``."""
        made = [self._describing(), *self._draining(), self._removing()]
        return {found.name: found for found in (Function(call, own_errors=True) for call in made)}

    async def start(self) -> None:
        """Know which nodes are drained."""
        after = PREFIX
        while True:
            page = await self._desk.store.scan(PREFIX, after=after)
            for entry in page.entries:
                with suppress(msgspec.DecodeError):  # what cannot be read drains nobody
                    held = msgspec.json.decode(entry.value, type=Held)
                    self._held[held.principal] = held
            if not page.more:
                break
            after = page.entries[-1].key
        self._forget_gone()
        self._tell()

    def apply(self, loaded: Loaded) -> None:
        """Nothing of it is in the file."""

    async def close(self) -> None:
        """What was begun ends first."""
        await asyncio.gather(*self._forgetting, return_exceptions=True)

    def ring_changed(self) -> None:
        """Keys have gone, or are called otherwise."""
        self._forget_gone()
        self._tell()

    # -- functions ------------------------------------------------------------------------------------------------------

    def _describing(self) -> Callable[..., Any]:
        @function("nodes.describe", idempotent=True)
        async def describe(name: NodeName) -> dict[str, Any]:
            """What the master knows of one node: a row as of cluster.nodes, and its key, session, functions, who drained it and
            what runs on it. For a name that only the ring knows the state is null."""
            return self.describe(self._machine.name if name == MASTER else name)

        return describe

    def _draining(self) -> list[Callable[..., Any]]:
        @function("nodes.drain", role="admin", idempotent=True)
        async def drain(target: TargetText, context: Context) -> list[dict[str, Any]]:
            """Give these nodes (a name, a glob, a list, ``all``) no new requests and jobs until nodes.resume; survives restarts:
            a row for each, with what still runs there."""
            async with self._changing:
                return await self._drain(self._chosen(target), context.caller)

        @function("nodes.resume", role="admin", idempotent=True)
        async def resume(target: TargetText, context: Context) -> list[dict[str, Any]]:
            """Undo nodes.drain: a row for each node."""
            async with self._changing:
                return await self._resume(self._chosen(target), context.caller)

        return [drain, resume]

    def _removing(self) -> Callable[..., Any]:
        @function("nodes.remove", role="admin")
        async def remove(name: NodeName, context: Context, revoke: bool = False, force: bool = False) -> dict[str, Any]:
            """Forget a node that is away. With ``revoke`` its key is revoked too, so that it does not come back; ``force`` does
            both to a node that has a session, which is cut. Of one that is forgotten already ``no_such_node``, unless there is a
            key to revoke."""
            async with self._changing:
                return await self._remove(name, revoke or force, force, context.caller)

        return remove

    # -- what they do ---------------------------------------------------------------------------------------------------

    def describe(self, name: str) -> Row:
        """As ``nodes.describe``. Raises NoSuchNode."""
        node, entry = self._machine.roster.nodes.get(name), self._ring.entries.get(name)
        revoked = self._ring.revocations(name)
        known = node is not None or revoked or (entry is not None and entry.role in ("worker", "master"))
        if not known:
            raise self._no_such(name)
        now, wall_s = self._desk.clock(), self._desk.wall_s()
        row: Row = describe_node(node, now) if node is not None else {"name": name, "state": None, "drained": False}
        held = self._held.get(entry.id) if entry is not None else None
        row |= {
            "drained": held is not None,
            "drained_by": held.by if held else None,
            "drained_at_s": held.at_s if held else None,
            "key": key_row(entry) if entry is not None else None,
            "revoked": [
                {"fingerprint": fingerprint(each.public), "at": each.revoked_at} for each in revoked[-MAX_REVOKED:]
            ],
        }  # fmt: skip
        if node is not None:
            row |= {
                "since_s": round(wall_s - (now - node.since_s), 3),
                "session": self._session(node, now, wall_s),
                "functions": sorted(node.functions),
                "running": [
                    {"function": request.group.function, "caller": request.caller.identity.name, "job": bool(request.mark)}
                    for request in list(node.running.values())[:SHOWN]
                ],
            }  # fmt: skip
        return row

    def _session(self, node: Node, now: float, wall_s: float) -> Row | None:
        peer = node.peer
        if peer is None:
            return None
        since_s = round(wall_s - (now - peer.since_s), 3)
        return {"no": peer.no, "since_s": since_s, "address": self._address_of(peer.route), "instance": peer.instance}

    async def _drain(self, chosen: list[tuple[Node, Entry]], by: str) -> list[Row]:
        fresh = [(node, entry) for node, entry in chosen if entry.id not in self._held]
        if fresh:
            added = {entry.id: Held(entry.id, round(self._desk.wall_s(), 3), by) for _, entry in fresh}
            await self._desk.store.apply([Put(_key_of(held.principal), orjson.dumps(msgspec.to_builtins(held))) for held in
                                          added.values()])  # fmt: skip
            self._held |= added
            self._tell()
            for node, _ in fresh:
                self._desk.note(Event("node_drained", _fields(node, REASON, by)))
        return self._rows(chosen)

    async def _resume(self, chosen: list[tuple[Node, Entry]], by: str) -> list[Row]:
        again = [(node, entry) for node, entry in chosen if entry.id in self._held]
        if again:
            await self._desk.store.apply([Delete(_key_of(entry.id)) for _, entry in again])
            for _, entry in again:
                self._held.pop(entry.id, None)
            self._tell()
            for node, _ in again:
                self._desk.note(Event("node_resumed", _fields(node, "resumed", by)))
        return self._rows(chosen)

    async def _remove(self, name: str, revoke: bool, force: bool, by: str) -> Row:
        self._refuse_master(name)
        node, entry = self._machine.roster.nodes.get(name), self._ring.entries.get(name)
        if node is None and (entry is None or entry.role != "worker"):
            raise self._no_such(name)
        if node is None and entry is not None and not revoke and entry.id not in self._held:
            raise NoSuchNode(
                f"there is no node {name!r}: it was removed, or not here since the master's start",
                hint="its key is still admitted; --revoke revokes it",
            )
        if node is not None and node.peer is not None and not force:
            hint = "stop it first, or --force: that revokes its key and cuts it"
            raise Conflict(f"{name} has a session ({node.state})", hint=hint)
        role = node.role if node is not None else "worker"
        if revoke and entry is not None:
            await self._revoke(name)
        elif entry is not None and entry.id in self._held:
            await self._forget([entry.id])
        self._machine.forget_nodes(lambda each: each != name)
        fields = {"name": name, "role": role, "state": "left", "reason": "removed", "by": by, "key_revoked": revoke}
        self._desk.note(Event("node_removed", fields))
        return {"name": name, "removed": True, "key_revoked": bool(revoke and entry is not None)}

    async def _revoke(self, name: str) -> None:
        """Revoke the key: when this returns no session is left of it."""
        await asyncio.to_thread(lambda: Ring(self._ring.path).revoke(name))
        self._look()

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _chosen(self, target: str) -> list[tuple[Node, Entry]]:
        """The workers that ``target`` means, with their keys. Raises NoSuchNode, and UsageError when it names the master."""
        nodes, master = self._machine.roster.nodes, self._machine.name
        for part in target.split(","):
            self._refuse_master(part.strip())
        chosen = select(target, (name for name in nodes if name != master), master)
        return [(nodes[name], self._ring.get(name)) for name in chosen]

    def _refuse_master(self, name: str) -> None:
        if name in (MASTER, self._machine.name):
            raise UsageError(
                f"the master ({self._machine.name}) is neither drained nor removed",
                hint="`any` goes to it only when no worker has the function; SIGTERM stops it",
            )

    def _no_such(self, name: str) -> NoSuchNode:
        keys = (entry.name for entry in self._ring.entries.values() if entry.role == "worker")  # a client's key is no node
        near = nearest(name, [*self._machine.roster.nodes, *keys])
        return NoSuchNode(
            f"there is no node {name[:80]!r}", hint=f"did you mean {near!r}?" if near else "`zcluster nodes` lists the nodes"
        )

    def _tell(self) -> None:
        """Let the machine know who is drained."""
        names = {entry.name for held in self._held if (entry := self._ring.by_id(held)) is not None}
        self._machine.drained.hold(self._held, names)
        self._desk.wake()

    def _forget_gone(self) -> None:
        """Whose key is gone is not drained: what is kept of it is deleted when there is time."""
        gone = [principal for principal in self._held if self._ring.by_id(principal) is None]
        if gone:
            task = asyncio.get_running_loop().create_task(self._forget(gone))
            self._forgetting.add(task)
            task.add_done_callback(self._forgotten)

    def _forgotten(self, task: asyncio.Task[None]) -> None:
        self._forgetting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._desk.logger.warning("what was kept of drained nodes whose key is gone is still there: %s", error)

    async def _forget(self, principals: Iterable[str]) -> None:
        gone = list(principals)
        await self._desk.store.apply([Delete(_key_of(principal)) for principal in gone])
        for principal in gone:
            self._held.pop(principal, None)
        self._tell()

    def _rows(self, chosen: Iterable[tuple[Node, Entry]]) -> list[Row]:
        now = self._desk.clock()
        return [describe_node(node, now) for node, _ in chosen]


def _fields(node: Node, reason: str, by: str) -> Row:
    return {"name": node.name, "role": node.role, "state": node.state, "reason": reason, "by": by}


def _key_of(principal: str) -> str:
    """The store's key: printable whatever characters a public key has."""
    return PREFIX + principal.encode().hex()
