"""What agents get: their groups in order, their merged configuration and shared files, from this node's store.

Rules kept here:
- it is the same on the master and on a worker, whose copies lie under the same keys;
- what is told to have changed concerns the agents that were asked for here, and no others; None concerns all of them;
- an answer that a change has overtaken is looked for again;
- what is merged for a list of groups is kept for the next agent with the same list, for BASES lists at most.
"""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from zcluster.config import Loaded
from zcluster.core.groups import FILE_KEY, NAME_KEY, OF_KEY, Groups, groups_in, shared_files
from zcluster.core.liveconfig import DEFAULTS, KEY, Values, digest, merged
from zcluster.core.peers import Event
from zcluster.dapi.function import Function
from zcluster.nodes.desk import Desk
from zcluster.nodes.following import follow
from zcluster.store.interface import Change
from zcluster.wire.agents import Settings, SharedFile

BASES = 256
FILES = 8
"""Shared files that are kept decoded: agents fetch them piece by piece."""
TRIES = 8
"""How often the same answer is looked for while the store changes."""
MAX_KNOWN = 65_536
"""Agents whose groups are remembered; beyond, a change of a group is told as one that concerns all."""

Concerned = Callable[[Sequence[str] | None], None]


@dataclass(frozen=True, slots=True)
class _Base:
    """What a list of groups gives."""

    scopes: list[tuple[str, Values]]
    files: list[SharedFile]
    settings: Settings
    """Of an agent that has nothing of its own."""


class StoredSettings:
    """Part of every node with a door: settings of agents (the door's ``AgentSettings``)."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._store = desk.store
        self._callbacks: list[Concerned] = []
        self._known: OrderedDict[str, Groups] = OrderedDict()
        self._forgot = False
        self._bases: OrderedDict[Groups, _Base] = OrderedDict()
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._generation = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def of(self, agent: str) -> Settings:
        """The settings of ``agent``, which is told of changes from now on."""
        for _ in range(TRIES):
            generation = self._generation
            found = await self._store.get_many([OF_KEY + agent, f"{KEY}agent/{agent}"])
            entry, own = found.get(OF_KEY + agent), found.get(f"{KEY}agent/{agent}")
            groups = groups_in(entry.value if entry else None)
            self._remember(agent, groups)
            base = await self._base(groups, generation)
            if generation == self._generation:
                break
        else:
            self._tell([agent])  # something changes all the time: it is to be asked for again
        return self._settings(agent, groups, base, _values(own.value)) if own else base.settings

    async def file(self, digest_: str) -> bytes | None:
        """The content of a shared file; None when there is none with this digest."""
        data = self._files.get(digest_)
        if data is None:
            entry = await self._store.get(FILE_KEY + digest_)
            if entry is None:
                return None
            data = self._files[digest_] = base64.b64decode(orjson.loads(entry.value)["data"])
            while len(self._files) > FILES:
                self._files.popitem(last=False)
        return data

    def on_change(self, callback: Concerned) -> None:
        """Call ``callback`` with the agents whose settings may be others now; with None for all of them."""
        self._callbacks.append(callback)

    def forget(self, agent: str) -> None:
        """Tell of this agent no longer: it has left."""
        self._known.pop(agent, None)

    # -- Part -----------------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """None: agents get it by SETTINGS."""
        return {}

    async def start(self) -> None:
        """Follow the store."""
        logger = self._desk.logger
        self._tasks = [
            asyncio.create_task(follow(self._store, prefix, self._changed, logger)) for prefix in (OF_KEY, NAME_KEY, KEY)
        ]

    def apply(self, loaded: Loaded) -> None:
        """Nothing of it is in the file."""

    async def close(self) -> None:
        """Follow no longer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _remember(self, agent: str, groups: Groups) -> None:
        self._known[agent] = groups
        self._known.move_to_end(agent)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
            self._forgot = True

    async def _base(self, groups: Groups, generation: int) -> _Base:
        base = self._bases.get(groups)
        if base is not None:
            self._bases.move_to_end(groups)
            return base
        scopes = [DEFAULTS, *(f"group/{name}" for name in groups)]
        found = await self._store.get_many([*(KEY + scope for scope in scopes), *(NAME_KEY + name for name in groups)])
        said = [(scope, _values(found[KEY + scope].value)) for scope in scopes if KEY + scope in found]
        of_groups = [(n, orjson.loads(found[NAME_KEY + n].value).get("files", [])) for n in groups if NAME_KEY + n in found]
        files, left_out = shared_files(of_groups)
        if left_out:
            fields = {"groups": list(groups), "files": left_out}
            self._desk.note(Event("shared_files_left_out", fields, "warning"))
        base = _Base(said, files, self._merge("", groups, said, files))
        if generation == self._generation:
            self._bases[groups] = base
            while len(self._bases) > BASES:
                self._bases.popitem(last=False)
        return base

    def _settings(self, agent: str, groups: Groups, base: _Base, own: Values) -> Settings:
        return self._merge(agent, groups, [*base.scopes, (f"agent/{agent}", own)], base.files)

    def _merge(self, agent: str, groups: Groups, said: list[tuple[str, Values]], files: list[SharedFile]) -> Settings:
        found = merged(said)
        if found.left_out:
            fields = {"agent": agent, "groups": list(groups), "scopes": list(found.left_out)}
            self._desk.note(Event("config_left_out", fields, "warning"))
        names, config = list(groups), found.values
        whole = {"groups": names, "config": config, "files": [[f.name, f.digest, f.size] for f in files]}
        return Settings(digest=digest(whole), groups=names, config=config, files=files)

    async def _changed(self, changes: list[Change] | None) -> None:
        self._generation += 1
        concerned = self._concerned(changes)
        if concerned is None or concerned:
            self._tell(concerned)

    def _tell(self, concerned: list[str] | None) -> None:
        for callback in self._callbacks:
            callback(concerned)

    def _concerned(self, changes: list[Change] | None) -> list[str] | None:
        if changes is None:
            self._bases.clear()
            return None
        agents: set[str] = set()
        groups: set[str] = set()
        everyone = False
        for change in changes:
            kind, name = _subject(change.key)
            if kind == "agent":
                agents.add(name)
            elif kind == "group":
                groups.add(name)
            elif kind == "all":
                everyone = True
        if everyone or groups:
            self._bases.clear()
        if everyone or (groups and self._forgot):
            return None
        concerned = {id_ for id_ in agents if id_ in self._known or self._forgot}
        if groups:
            concerned.update(id_ for id_, of in self._known.items() if not groups.isdisjoint(of))
        return sorted(concerned)


def _subject(key: str) -> tuple[str, str]:
    """Whom a key concerns: ``agent`` or ``group`` and its name, ``all``, or nobody."""
    if key.startswith(OF_KEY):
        return "agent", key.removeprefix(OF_KEY)
    if key.startswith(NAME_KEY):
        return "group", key.removeprefix(NAME_KEY)
    kind, _, name = key.removeprefix(KEY).partition("/") if key.startswith(KEY) else ("", "", "")
    return ("all", "") if kind == DEFAULTS else (kind, name) if kind in ("agent", "group") else ("", "")


def _values(value: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(value)["values"]
    return found
