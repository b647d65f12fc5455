"""The nodes of a cluster from Python: ``AsyncClient.nodes`` and ``Client.nodes``.

    async with zcluster.AsyncClient() as c:
        for row in await c.nodes(): ...                    # every node: state, load, version
        await c.nodes.describe("worker-1")                 # all that is known of one
        await c.nodes.drain("worker-*", wait=True, timeout=60)
        await c.nodes.resume("worker-*")
        await c.nodes.remove("worker-9", revoke=True)

Rules kept here:
- who asks for the description of a node gets what they may see: what they may not, or what does not answer, is named as left out;
- waiting for a drained node asks POLL_S apart: that a request ended is no event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from zcluster.clients.caller import Streaming
from zcluster.clients.checks import checked_text, checked_timeout
from zcluster.errors import TimedOut, UsageError, ZClusterError

Row = dict[str, Any]
MASTER = "master"
POLL_S = 0.5
LOOKED_AT = 1000
"""Of the newest events, and of the running jobs, how many are looked at for those of one node."""
EVENTS = 10
"""And how many events are told."""
NAMES = ("name", "node", "worker")
"""Fields of an event that may name a node."""
JOB_FIELDS = ("id", "function", "state", "attempt", "target", "caller")


class AsyncNodes:
    """The nodes: called, the list of them. Every method raises what any call may raise (docs/reference/errors.md)."""

    def __init__(self, caller: Streaming) -> None:
        self._caller = caller

    async def __call__(self) -> list[Row]:
        """Every node: name, role, state, version, last_seen_s, load, in_flight, cpu_percent, memory_percent, drained and more."""
        found: list[Row] = await self._caller.call("cluster.nodes", target=MASTER)
        return found

    async def describe(self, name: str, *, timeout: float | None = None) -> Row:
        """All that is known of one node: its row, and since_s, key, revoked, session, functions, drained_by, running; what its
        trees are like (trees), the durable jobs that it has (jobs), its last events (events). What could not be asked is in
        left_out: {what, code, message}. Raises NoSuchNode."""
        row: Row = await self._call("nodes.describe", {"name": checked_text("name", name)}, timeout)
        questions: dict[str, Callable[[str, float | None], Awaitable[list[Row]]]] = {
            "trees": self._trees, "jobs": self._jobs, "events": self._events,
        }  # fmt: skip
        row["left_out"] = []
        for what, question in questions.items():
            try:
                row[what] = await question(str(row["name"]), timeout)
            except ZClusterError as error:
                row[what] = []
                row["left_out"].append({"what": what, "code": error.code, "message": error.message})
        return row

    async def drain(self, target: str, *, wait: bool = False, timeout: float | None = None) -> list[Row]:
        """Give these nodes (a name, a glob, a list, ``all``) no new requests and jobs until :meth:`resume`: their rows. It
        survives restarts. For admin keys, as resume and remove.

        Args:
            wait: return when nothing runs on them any more. timeout: how long to wait for that, in seconds; None: for ever.

        Raises:
            TimedOut: something still runs there; they are drained all the same.
        """
        rows: list[Row] = await self._call("nodes.drain", {"target": checked_text("target", target)}, None if wait else timeout)
        return await self._quiet(rows, None if timeout is None else checked_timeout(timeout)) if wait else rows

    async def resume(self, target: str, *, timeout: float | None = None) -> list[Row]:
        """Let these nodes have requests again: their rows."""
        rows: list[Row] = await self._call("nodes.resume", {"target": checked_text("target", target)}, timeout)
        return rows

    async def remove(self, name: str, *, revoke: bool = False, force: bool = False, timeout: float | None = None) -> Row:
        """Forget a node that is away: {"name", "removed", "key_revoked"}.

        Args:
            revoke: revoke its key too, so that it does not come back. force: do both, even when it has a session, which is cut.

        Raises:
            Conflict: it has a session. NoSuchNode: there is none of this name.
        """
        for parameter, value in (("revoke", revoke), ("force", force)):
            if not isinstance(value, bool):
                raise UsageError(f"{parameter} is True or False, not {str(value)[:40]!r}")
        args = {"name": checked_text("name", name), "revoke": revoke, "force": force}
        row: Row = await self._call("nodes.remove", args, timeout)
        return row

    async def _quiet(self, rows: list[Row], timeout_s: float | None) -> list[Row]:
        names = {row["name"] for row in rows}
        try:
            async with asyncio.timeout(timeout_s):
                while busy := [row for row in rows if row["in_flight"] or row["waiting"]]:
                    await asyncio.sleep(POLL_S)
                    rows = [row for row in await self() if row["name"] in names]
        except TimeoutError:
            left = ", ".join(f"{row['in_flight']} on {row['name']}" for row in busy[:5])
            raise TimedOut(f"requests still run: {left}", hint="it is drained: wait again, or stop it") from None
        return rows

    async def _trees(self, name: str, timeout: float | None) -> list[Row]:
        rows: list[Row] = await self._call("sync.status", {"worker": name}, timeout)
        return rows

    async def _jobs(self, name: str, timeout: float | None) -> list[Row]:
        found: list[Row] = []
        for state in ("leased", "running"):
            page = await self._call("queue.list", {"state": state, "limit": LOOKED_AT}, timeout)
            found += [row for row in page["items"] if row["node"] == name and row["id"] not in {each["id"] for each in found}]
        return [{field: row.get(field) for field in JOB_FIELDS} for row in found]

    async def _events(self, name: str, timeout: float | None) -> list[Row]:
        page = await self._call("events.since", {"limit": LOOKED_AT}, timeout)
        mine = [event for event in page["events"] if any(event["fields"].get(field) == name for field in NAMES)]
        return mine[-EVENTS:]

    async def _call(self, name: str, args: Row, timeout: float | None) -> Any:
        return await self._caller.call(name, args, target=MASTER, timeout=timeout)


class Nodes:
    """AsyncNodes for programs without an event loop: the same, blocking."""

    def __init__(self, calls: AsyncNodes, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._calls, self._run = calls, run

    def __call__(self) -> list[Row]:
        """See AsyncNodes."""
        found: list[Row] = self._run(self._calls())
        return found

    def describe(self, name: str, *, timeout: float | None = None) -> Row:
        """See AsyncNodes.describe."""
        found: Row = self._run(self._calls.describe(name, timeout=timeout))
        return found

    def drain(self, target: str, *, wait: bool = False, timeout: float | None = None) -> list[Row]:
        """See AsyncNodes.drain."""
        found: list[Row] = self._run(self._calls.drain(target, wait=wait, timeout=timeout))
        return found

    def resume(self, target: str, *, timeout: float | None = None) -> list[Row]:
        """See AsyncNodes.resume."""
        found: list[Row] = self._run(self._calls.resume(target, timeout=timeout))
        return found

    def remove(self, name: str, *, revoke: bool = False, force: bool = False, timeout: float | None = None) -> Row:
        """See AsyncNodes.remove."""
        found: Row = self._run(self._calls.remove(name, revoke=revoke, force=force, timeout=timeout))
        return found
