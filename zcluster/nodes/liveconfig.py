"""The live configuration of a node: ``defaults`` and ``node/NAME`` of the store, applied as they change.

Rules kept here:
- the newest holds: at the start, after each change, and when the copy was brought up to date after a time away;
- what changes is logged with the old and the new, is the event ``config_applied``, and is told to every subscriber at once;
- a record that does not fit the schema is left alone and logged: the node goes on as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from zcluster.config import Loaded
from zcluster.core.liveconfig import DEFAULTS, KEY, NodeConfig, checked, merged
from zcluster.core.peers import Event
from zcluster.dapi.function import Function, function
from zcluster.errors import ConfigError
from zcluster.nodes.desk import Desk
from zcluster.nodes.following import follow
from zcluster.process import set_level
from zcluster.store.interface import Change

Subscriber = Callable[[NodeConfig, NodeConfig], None]


class LiveConfig:
    """Part of every node: what it is to do by, now."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._scopes = (DEFAULTS, f"node/{desk.name}")
        self._keys = tuple(KEY + scope for scope in self._scopes)
        self._subscribers: list[Subscriber] = []
        self._task: asyncio.Task[None] | None = None
        self.current = NodeConfig()
        self.values: dict[str, Any] = {}
        """What the scopes say together, without defaults of the schema."""

    def on_change(self, subscriber: Subscriber) -> None:
        """Call ``subscriber(old, new)`` after each change."""
        self._subscribers.append(subscriber)

    # -- Part -----------------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """``config.applied``: what this node applies."""

        @function("config.applied", idempotent=True, pool="inline")
        def applied() -> dict[str, Any]:
            """What this node goes by: its live configuration with the defaults filled in, and the digest of what was set."""
            now = self.current
            return {
                "node": self._desk.name, "interval": now.interval, "metrics": list(now.metrics), "log_level": now.log_level,
                "extra": now.extra, "digest": now.digest,
            }  # fmt: skip

        return {"config.applied": Function(applied, own_errors=True)}

    async def start(self) -> None:
        """Apply what the store says, and follow it from then on."""
        await self._look()
        self._task = asyncio.create_task(follow(self._desk.store, KEY, self._changed, self._desk.logger))

    def apply(self, loaded: Loaded) -> None:
        """The file was read again: what is set live goes before it still."""
        if self.current.log_level:
            set_level(self.current.log_level)

    async def close(self) -> None:
        """Follow no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- inside ---------------------------------------------------------------------------------------------------------

    async def _changed(self, changes: list[Change] | None) -> None:
        if changes is None or any(change.key in self._keys for change in changes):
            await self._look()

    async def _look(self) -> None:
        found = await self._desk.store.get_many(self._keys)
        try:
            said = [
                (scope, checked(orjson.loads(found[key].value)["values"]))
                for scope, key in zip(self._scopes, self._keys, strict=True)
                if key in found
            ]
        except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._desk.logger.error("the live configuration cannot be read, the one before stays: %s", error)
            return
        values = merged(said).values
        if values != self.values:
            self._take(values)

    def _take(self, values: dict[str, Any]) -> None:
        before, old = self.values, self.current
        self.values, self.current = values, NodeConfig.of(values)
        if self.current.log_level != old.log_level:
            set_level(self.current.log_level or self._desk.loaded().settings.log.level)
        fields = {"node": self._desk.name, "old": _told(before), "new": _told(values), "digest": self.current.digest}
        self._desk.note(Event("config_applied", fields))
        for subscriber in self._subscribers:
            subscriber(old, self.current)


def _told(values: dict[str, Any]) -> dict[str, Any]:
    """What is logged: of what is the user's own, only its size."""
    if "extra" not in values:
        return values
    return {**values, "extra": f"{len(orjson.dumps(values['extra']))} bytes"}
