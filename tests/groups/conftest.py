"""A node without a process: a store and a book in memory, the parts of a master or a worker over them, and calls of functions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from zcluster.config import Home, Loaded, load
from zcluster.core.agents.row import Row
from zcluster.core.peers import Event
from zcluster.dapi.context import Context
from zcluster.dapi.function import Function
from zcluster.nodes.desk import Desk, Part, Sessions
from zcluster.store.book_memory import MemoryBook
from zcluster.store.interface import Put
from zcluster.store.memory import MemoryStore


class Resources:
    """Stands in for the sampler, which nothing here asks."""


@dataclass
class Place:
    """A node whose parts are called directly."""

    desk: Desk
    store: MemoryStore
    book: MemoryBook
    events: list[Event]
    now_s: float = 1000.0
    functions: dict[str, Function] = field(default_factory=dict)

    async def call(self, name: str, caller: str = "admin", /, **args: Any) -> Any:
        """Call a function as a request would: arguments and value go through JSON."""
        function = self.functions[name]
        values = function.decode(orjson.dumps(args))
        context = Context(caller=caller, role="admin", node=self.desk.name, request_id="1.1", deadline_s=9e9, clock=lambda: 0.0)
        return orjson.loads(orjson.dumps(await function.call(values, context)))

    def stream(self, name: str, /, **args: Any) -> AsyncIterator[Any]:
        """The items of a streaming function."""
        function = self.functions[name]
        return cast(AsyncIterator[Any], function.call(function.decode(orjson.dumps(args)), None))

    async def start(self, *parts: Part) -> None:
        for part in parts:
            self.functions.update(part.functions())
            await part.start()

    async def put(self, key: str, value: Any) -> int:
        return await self.store.apply([Put(key, orjson.dumps(value))])

    async def value(self, key: str) -> Any:
        entry = await self.store.get(key)
        return None if entry is None else orjson.loads(entry.value)

    async def agents(self, *ids: str, **fields: Any) -> None:
        await self.book.put([Row(id=id_, status="active", node="worker-1", **fields) for id_ in ids])

    def told(self, name: str) -> list[dict[str, Any]]:
        """The fields of the events of a name."""
        return [event.fields for event in self.events if event.name == name]


@pytest.fixture
def make_place(tmp_path: Path) -> Callable[..., Place]:
    """Makes a node; to be called within a running loop."""

    def make(
        name: str = "master", role: str = "master", *, store: MemoryStore | None = None, book: MemoryBook | None = None
    ) -> Place:
        loaded: Loaded = load(tmp_path, {}, environ={})
        events: list[Event] = []
        kept, rows = store or MemoryStore(("groups/", "config/")), book or MemoryBook()
        desk = Desk(
            name=name, role=role, home=Home.of(tmp_path), loaded=lambda: loaded, clock=lambda: 0.0, wall_s=lambda: place.now_s,
            wake=lambda: None, note=events.append, logger=logging.getLogger("zcluster.test"),
            sampler=cast(Any, Resources()), store=kept, book=rows, sessions=cast(Sessions, None),
        )  # fmt: skip
        place = Place(desk, kept, rows, events)
        return place

    return make


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Awaitable[None]]:
    """Lets other tasks run until something is true; a test that hangs fails."""

    async def wait(check: Callable[[], Any]) -> None:
        for _ in range(10_000):
            if check():
                return
            await asyncio.sleep(0)
        raise AssertionError("it did not happen")

    return wait


@pytest.fixture
def closing() -> Callable[[Sequence[Part]], Awaitable[None]]:
    """Closes parts, the last one first."""

    async def close(parts: Sequence[Part]) -> None:
        for part in reversed(parts):
            await part.close()

    return close
