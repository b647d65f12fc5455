"""The functions ``config.*`` of a master: live configuration, versioned, with who and when.

Rules kept here:
- ``set`` replaces the keys that it names, each as a whole, and leaves the others: ``extra`` too is one key;
- each change of a scope is its next version; what it replaces goes into the history in the same commit, HISTORY versions deep;
- a commit is done only on what was read: of two that write at the same time the later one reads again;
- only for what there is: a group, node or agent that nobody knows is an error, and so is a key that is not in the schema.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Annotated, Any, TypeVar

import msgspec
import orjson

from zcluster.brokers.events import ENDS
from zcluster.brokers.groups_edits import is_going, no_such_agent, no_such_group
from zcluster.config import Loaded
from zcluster.config.names import nearest
from zcluster.core.groups import DEFAULT, NAME_KEY, OF_KEY, groups_in
from zcluster.core.liveconfig import (
    DEFAULTS,
    HISTORY_KEY,
    KEY,
    SCHEMA,
    Values,
    checked,
    checked_scope,
    digest,
    history_key,
    merged,
    record,
    unknown_key,
)
from zcluster.core.peers import Event
from zcluster.dapi.context import Context
from zcluster.dapi.function import Function, function
from zcluster.errors import Busy, Compacted, ConfigError, Conflict, Draining, NoSuchNode, NoSuchVersion, UsageError
from zcluster.nodes.desk import Desk
from zcluster.store.interface import Delete, Entry, Expect, Put

HISTORY = 100
"""Old versions that are kept of each scope."""
TRIES = 8
PAGE = 1_000
WATCHER_SHARE = 4
"""At most one of so many of the master's slots is for those who watch."""

T = TypeVar("T")
ScopeText = Annotated[str, msgspec.Meta(max_length=256)]
Keys = Annotated[list[Annotated[str, msgspec.Meta(max_length=256)]], msgspec.Meta(max_length=64)]
Row = dict[str, Any]
Decide = Callable[[Values], Values]
_NONE: list[str] = []


class MasterLiveConfig:
    """Part of a master: live configuration as it is looked at and changed.

    Args:
        nodes: the names of all nodes that may join: those with a key, and the master itself.
    """

    def __init__(self, desk: Desk, nodes: Callable[[], Collection[str]]) -> None:
        self._desk, self._store, self._nodes = desk, desk.store, nodes
        self._watchers = 0
        self._ending = asyncio.Event()

    # -- Part -----------------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """The functions ``config.*`` of a master."""
        made = [*self._questions(), *self._orders(), self._watching()]
        return {found.name: found for found in (Function(call, own_errors=True) for call in made)}

    async def start(self) -> None:
        """Nothing waits for it."""

    def apply(self, loaded: Loaded) -> None:
        """Nothing of it is in the file."""

    async def close(self) -> None:
        """Nothing is open."""

    # -- functions ------------------------------------------------------------------------------------------------------

    def _questions(self) -> list[Callable[..., Any]]:
        @function("config.get", idempotent=True)
        async def get(scope: ScopeText, effective: bool = False) -> dict[str, Any]:
            """What is set for a scope: scope, values, version, at_s, by. With ``effective`` what its node, group or agent gets
            in the end: scope, values, from (each key's scope), digest, left_out."""
            await self._check(scope)
            if effective:
                return await self._effective(scope)
            return row_of(scope, await self._store.get(KEY + scope))

        @function("config.scopes", idempotent=True)
        async def scopes(after: ScopeText = "", limit: int = PAGE) -> dict[str, Any]:
            """The scopes for which something was set: {"items": rows as of config.get, "next": where to go on, or null}."""
            if not 1 <= limit <= PAGE:
                raise UsageError(f"a page has 1 to {PAGE} scopes, not {limit}")
            page = await self._store.scan(KEY, after=KEY + after if after else "", limit=limit)
            items = [row_of(entry.key.removeprefix(KEY), entry) for entry in page.entries]
            return {"items": items, "next": items[-1]["scope"] if page.more else None}

        @function("config.history", idempotent=True)
        async def history(scope: ScopeText) -> list[dict[str, Any]]:
            """The versions of a scope, the newest first: scope, values, version, at_s, by, current."""
            await self._check(scope)
            return await self._history(scope)

        return [get, scopes, history]

    def _orders(self) -> list[Callable[..., Any]]:
        @function("config.set", role="admin")
        async def set_(scope: ScopeText, values: dict[str, Any], context: Context) -> dict[str, Any]:
            """Set keys of a scope; those that are not named stay: its row."""
            if not values:
                raise UsageError("nothing is set", hint='such as {"interval": 2}')
            checked(values)
            return await self._change(scope, lambda now: {**now, **values}, context.caller)

        @function("config.unset", role="admin")
        async def unset(scope: ScopeText, context: Context, keys: Keys = _NONE, everything: bool = False) -> dict[str, Any]:
            """Take keys out of a scope, or everything: its row."""
            if bool(keys) == everything:
                raise UsageError("name the keys, or say everything", hint="one of the two")
            return await self._change(scope, lambda now: {} if everything else _without(now, keys, scope), context.caller)

        @function("config.rollback", role="admin")
        async def rollback(scope: ScopeText, version: int, context: Context) -> dict[str, Any]:
            """Set for a scope what its version ``version`` said, as a new version: its row."""
            await self._check(scope)
            found = [row["values"] for row in await self._history(scope) if row["version"] == version]
            if not found:
                hint = f"`zcluster config history {scope}` lists what is kept"
                raise NoSuchVersion(f"{scope} has no version {version}", hint=hint)
            return await self._change(scope, lambda _: found[0], context.caller)

        return [set_, unset, rollback]

    def _watching(self) -> Callable[..., Any]:
        @function("config.watch")
        async def watch(scope: ScopeText = "", after: int = -1) -> AsyncIterator[dict[str, Any]]:
            """The rows of a scope (empty: of all), then each change as it happens; of a scope that is gone with version 0. Each
            has its ``revision``, to go on ``after``."""
            if scope:
                await self._check(scope)
            most = self._desk.loaded().settings.worker.slots // WATCHER_SHARE
            if self._watchers >= max(1, most):
                raise Busy(f"{self._watchers} watch the configuration", hint="at most a quarter of worker.slots may")
            self._watchers += 1
            try:
                async for row in self._rows(scope, after):
                    yield row
            finally:
                self._watchers -= 1

        return watch

    def heard(self, event: Event) -> None:
        """An event of the master: when it ends, those who watch are told to go."""
        if event.name == ENDS:
            self._ending.set()

    async def _until_the_end(self, source: AsyncIterator[T]) -> AsyncIterator[T]:
        """``source``, and Draining when the master ends."""
        ending = asyncio.ensure_future(self._ending.wait())
        step: asyncio.Future[T] | None = None
        try:
            while True:
                step = asyncio.ensure_future(anext(source))
                await asyncio.wait({step, ending}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    raise Draining("the master is shutting down", hint="watch again from the last revision")
                try:
                    item = step.result()
                except StopAsyncIteration:
                    return
                yield item
        finally:
            left = [task for task in (step, ending) if task is not None and not task.done()]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    # -- inside ---------------------------------------------------------------------------------------------------------

    async def _rows(self, scope: str, after: int) -> AsyncIterator[Row]:
        prefix = KEY + scope
        if after > await self._store.revision():
            after = -1  # of another store
        while True:
            if after < 0:
                after = await self._store.revision()
                last, more = "", True
                while more:
                    page = await self._store.scan(prefix, after=last, limit=PAGE)
                    for entry in page.entries:
                        if not scope or entry.key == prefix:
                            yield {**row_of(entry.key.removeprefix(KEY), entry), "revision": after}
                    last, more = page.entries[-1].key if page.entries else "", page.more
            try:
                async for changes, upto in self._until_the_end(self._store.watch(prefix, after)):
                    for change in changes:
                        if not scope or change.key == prefix:
                            yield {**_row(change.key.removeprefix(KEY), change.value), "revision": change.revision}
                    after = upto
                return
            except Compacted:
                after = -1

    async def _effective(self, scope: str) -> Row:
        kind, _, name = scope.partition("/")
        scopes = [DEFAULTS]
        if kind == "agent":
            entry = await self._store.get(OF_KEY + name)
            scopes += [f"group/{group}" for group in groups_in(entry.value if entry else None)]
        if scope != DEFAULTS:
            scopes.append(scope)
        found = await self._store.get_many([KEY + each for each in scopes])
        made = merged((each, orjson.loads(found[KEY + each].value)["values"]) for each in scopes if KEY + each in found)
        mark = digest(made.values) if made.values else ""
        return {"scope": scope, "values": made.values, "from": made.origin, "digest": mark, "left_out": list(made.left_out)}

    async def _history(self, scope: str) -> list[Row]:
        page = await self._store.scan(f"{HISTORY_KEY}{scope}/", limit=PAGE)
        now = await self._store.get(KEY + scope)
        rows = [{**_row(scope, entry.value), "current": False} for entry in page.entries]
        if now is not None:
            rows.append({**row_of(scope, now), "current": True})
        return rows[::-1]

    async def _change(self, scope: str, decide: Decide, by: str) -> Row:
        for _ in range(TRIES):
            expect = await self._check(scope)
            entry = await self._store.get(KEY + scope)
            before = row_of(scope, entry)
            values = checked(decide(before["values"]))
            if values == before["values"]:
                return before
            version = int(before["version"]) + 1
            value = record(values, version, self._desk.wall_s(), by)
            ops: list[Put | Delete] = [Put(KEY + scope, value)]
            if entry is not None:
                ops.append(Put(history_key(scope, version - 1), entry.value))
            if version > HISTORY + 1:
                ops.append(Delete(history_key(scope, version - 1 - HISTORY)))
            try:
                await self._store.apply(ops, expect=[Expect(KEY + scope, entry.revision if entry else 0), *expect])
            except Conflict:
                continue
            fields = {"scope": scope, "version": version, "keys": _keys(before, values), "by": by}
            self._desk.note(Event("config_changed", fields))
            return _row(scope, value)
        raise Busy(f"{scope} is being changed by others all the time", hint="try again", retry_after_s=1.0)

    async def _check(self, scope: str) -> list[Expect]:
        """What a commit must expect so that the scope's subject still exists. Raises NoSuchGroup, NoSuchNode or NoSuchAgent."""
        kind, _, name = checked_scope(scope).partition("/")
        match kind:
            case "group" if name != DEFAULT:
                entry = await self._store.get(NAME_KEY + name)
                if entry is None or is_going(entry):
                    page = await self._store.scan(NAME_KEY, limit=PAGE)
                    raise no_such_group(name, [each.key.removeprefix(NAME_KEY) for each in page.entries])
                return [Expect(NAME_KEY + name, entry.revision)]
            case "node" if name not in (known := self._nodes()):
                near = nearest(name, known)
                hint = f"did you mean {near!r}?" if near else "`zcluster nodes` lists the nodes"
                raise NoSuchNode(f"there is no node {name!r}", hint=hint)
            case "agent" if await self._desk.book.get(name) is None:
                raise no_such_agent([name])
        return []


def row_of(scope: str, entry: Entry | None) -> Row:
    """What is stored for a scope; of nothing, version 0 without values."""
    return _row(scope, entry.value if entry else None)


def _row(scope: str, value: bytes | None) -> Row:
    if value is None:
        return {"scope": scope, "values": {}, "version": 0, "at_s": None, "by": ""}
    found = orjson.loads(value)
    return {"scope": scope, **{key: found[key] for key in ("values", "version", "at_s", "by")}}


def _without(values: Values, keys: list[str], scope: str) -> Values:
    for key in keys:
        if key not in SCHEMA:
            raise unknown_key(key)
        if key not in values:
            raise ConfigError(f"{scope} does not set {key}", hint=f"`zcluster config get {scope}` shows what it sets")
    return {key: value for key, value in values.items() if key not in keys}


def _keys(before: Row, values: Values) -> list[str]:
    old = before["values"]
    return sorted(key for key in {*old, *values} if key not in old or key not in values or old[key] != values[key])
