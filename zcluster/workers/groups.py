"""The functions ``groups.*`` of a worker: answered from its own copy, with how old that is.

Rules kept here:
- nothing is asked of the master: the answer is there when the master is not;
- every answer says the master's revision that the copy has, and how long ago that was known to be the newest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol

import msgspec

from zcluster.config import Loaded
from zcluster.dapi.function import Function, function
from zcluster.nodes.desk import Desk
from zcluster.nodes.groupsview import Counts, groups_of, list_groups, show_group

Text = Annotated[str, msgspec.Meta(max_length=256)]


class Copies(Protocol):
    """What knows how old the copies of tables are."""

    def copy_age(self, table: str) -> tuple[int, float | None]:
        """The master's revision of the copy, and the seconds since it was last known to be the newest (None: never)."""


class WorkerGroups:
    """Part of a worker: its copy of the groups, to be looked at."""

    def __init__(self, desk: Desk, copies: Copies) -> None:
        self._desk, self._copies = desk, copies
        self._counts = Counts(desk.store)

    def functions(self) -> dict[str, Function]:
        """``groups.list``, ``groups.show`` and ``groups.of`` of a worker."""
        return {found.name: found for found in (Function(call, own_errors=True) for call in self._questions())}

    async def start(self) -> None:
        """The copy is kept by others."""

    def apply(self, loaded: Loaded) -> None:
        """Nothing of it is in the file."""

    async def close(self) -> None:
        """Nothing is open."""

    def _questions(self) -> list[Callable[..., Any]]:
        store = self._desk.store

        @function("groups.list", idempotent=True)
        async def list_() -> list[dict[str, Any]]:
            """A row for each group of this node's copy, as at the master, with age_s and revision of the copy; how many agents
            are in default only the master can count."""
            return [{**row, **self._age()} for row in await list_groups(store, await self._counts.get())]

        @function("groups.show", idempotent=True)
        async def show(name: Text) -> dict[str, Any]:
            """One group of this node's copy, as at the master, with age_s and revision of the copy."""
            counts = await self._counts.get()
            return {**await show_group(store, name, counts.get(name, 0)), **self._age()}

        @function("groups.of", idempotent=True)
        async def of(agent: Text) -> dict[str, Any]:
            """The groups of an agent by this node's copy, with its age_s and revision; an agent that it has no assignment of is
            in default."""
            return {**await groups_of(store, agent), **self._age()}

        return [list_, show, of]

    def _age(self) -> dict[str, Any]:
        revision, age_s = self._copies.copy_age("groups")
        return {"node": self._desk.name, "age_s": None if age_s is None else round(age_s, 3), "revision": revision}
