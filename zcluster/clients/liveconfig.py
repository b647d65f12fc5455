"""Live configuration from Python: ``AsyncClient.config`` and ``Client.config``.

    async with zcluster.AsyncClient() as c:
        await c.config.set("node/worker-1", {"interval": 2, "metrics": ["cpu", "memory"]})
        await c.config.get("node/worker-1", effective=True)           # with the defaults below it
        async for row in c.config.watch(): print(row["scope"], row["version"], row["values"])

Rules kept here:
- each method is one call of the cluster's function of that name at the master;
- watching goes on where it was when its request ends or the master was away, as long as it is iterated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any

from zcluster.clients.caller import Streaming
from zcluster.clients.checks import MAX_TIMEOUT_S, checked_text
from zcluster.errors import Busy, Draining, MasterLost, NodeLost, NodeUnavailable, TimedOut, UsageError

Row = dict[str, Any]
MASTER = "master"
AGAIN_S = 0.5
_AWAY = (Busy, Draining, MasterLost, NodeLost, NodeUnavailable, TimedOut)
"""What a watcher outlives."""


class AsyncConfig:
    """The live configuration of a cluster. A scope is ``defaults``, ``group/G``, ``node/N`` or ``agent/ID``. Every method raises
    what any call may raise (docs/reference/errors.md)."""

    def __init__(self, caller: Streaming) -> None:
        self._caller = caller

    async def get(self, scope: str, *, effective: bool = False, timeout: float | None = None) -> Row:
        """What is set for a scope: scope, values, version, at_s, by. With ``effective``, what its node, group or agent gets in
        the end: scope, values, from (each key's scope), digest, left_out."""
        return await self._call("get", {"scope": _scope(scope), "effective": effective}, timeout)

    async def scopes(self, *, timeout: float | None = None) -> list[Row]:
        """A row for each scope that something was set for, as of :meth:`get`."""
        rows: list[Row] = []
        after: str | None = ""
        while after is not None:
            page = await self._call("scopes", {"after": after}, timeout)
            rows += page["items"]
            after = page["next"]
        return rows

    async def set(self, scope: str, values: Mapping[str, Any], *, timeout: float | None = None) -> Row:
        """Set keys of a scope, each as a whole; the others stay: its row. Raises ConfigError for what the schema does not allow.
        For admin keys, as unset and rollback."""
        if not isinstance(values, Mapping):
            raise UsageError("values is a mapping", hint='such as {"interval": 2}')
        return await self._call("set", {"scope": _scope(scope), "values": dict(values)}, timeout)

    async def unset(self, scope: str, *keys: str, everything: bool = False, timeout: float | None = None) -> Row:
        """Take keys out of a scope, or everything: its row."""
        return await self._call("unset", {"scope": _scope(scope), "keys": [*keys], "everything": everything}, timeout)

    async def history(self, scope: str, *, timeout: float | None = None) -> list[Row]:
        """The versions of a scope, the newest first: as of :meth:`get`, and current."""
        found: list[Row] = await self._any("history", {"scope": _scope(scope)}, timeout)
        return found

    async def rollback(self, scope: str, version: int, *, timeout: float | None = None) -> Row:
        """Set again what version ``version`` of a scope said, as a new version: its row."""
        return await self._call("rollback", {"scope": _scope(scope), "version": version}, timeout)

    async def applied(self, node: str = MASTER, *, timeout: float | None = None) -> Row:
        """What a running node goes by: node, interval, metrics, log_level, extra, digest."""
        target = checked_text("node", node, "a node's name, or 'master'")
        found: Row = await self._caller.call("config.applied", {}, target=target, timeout=timeout)
        return found

    async def watch(self, scope: str = "") -> AsyncIterator[Row]:
        """The rows of a scope (empty: of all), then each change as it happens, as of :meth:`get` with ``revision``; of a scope
        that is gone, version 0."""
        after = -1
        while True:
            args = {"scope": checked_text("scope", scope), "after": after}
            try:
                async for row in self._caller.stream("config.watch", args, target=MASTER, timeout=MAX_TIMEOUT_S):
                    after = max(after, row["revision"])
                    yield row
            except _AWAY:
                pass  # it comes back, and the client with it
            await asyncio.sleep(AGAIN_S)

    async def _call(self, name: str, args: Row, timeout: float | None) -> Row:
        found: Row = await self._any(name, args, timeout)
        return found

    async def _any(self, name: str, args: Row, timeout: float | None) -> Any:
        return await self._caller.call(f"config.{name}", args, target=MASTER, timeout=timeout)


class Config:
    """AsyncConfig for programs without an event loop: the same methods, blocking."""

    def __init__(
        self,
        calls: AsyncConfig,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        iterate: Callable[[AsyncIterator[Any]], Iterator[Any]],
    ) -> None:
        self._calls, self._run, self._iterate = calls, run, iterate

    def get(self, scope: str, *, effective: bool = False, timeout: float | None = None) -> Row:
        """See AsyncConfig.get."""
        found: Row = self._run(self._calls.get(scope, effective=effective, timeout=timeout))
        return found

    def scopes(self, *, timeout: float | None = None) -> list[Row]:
        """See AsyncConfig.scopes."""
        found: list[Row] = self._run(self._calls.scopes(timeout=timeout))
        return found

    def set(self, scope: str, values: Mapping[str, Any], *, timeout: float | None = None) -> Row:
        """See AsyncConfig.set."""
        found: Row = self._run(self._calls.set(scope, values, timeout=timeout))
        return found

    def unset(self, scope: str, *keys: str, everything: bool = False, timeout: float | None = None) -> Row:
        """See AsyncConfig.unset."""
        found: Row = self._run(self._calls.unset(scope, *keys, everything=everything, timeout=timeout))
        return found

    def history(self, scope: str, *, timeout: float | None = None) -> list[Row]:
        """See AsyncConfig.history."""
        found: list[Row] = self._run(self._calls.history(scope, timeout=timeout))
        return found

    def rollback(self, scope: str, version: int, *, timeout: float | None = None) -> Row:
        """See AsyncConfig.rollback."""
        found: Row = self._run(self._calls.rollback(scope, version, timeout=timeout))
        return found

    def applied(self, node: str = MASTER, *, timeout: float | None = None) -> Row:
        """See AsyncConfig.applied."""
        found: Row = self._run(self._calls.applied(node, timeout=timeout))
        return found

    def watch(self, scope: str = "") -> Iterator[Row]:
        """See AsyncConfig.watch."""
        return self._iterate(self._calls.watch(scope))


def _scope(scope: object) -> str:
    return checked_text("scope", scope, "defaults, group/GROUP, node/NODE or agent/ID")
