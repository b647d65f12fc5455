"""What can be asked about groups, from this node's store: the same on the master and on a worker's copy.

Rules kept here:
- looking changes nothing, and reads page by page;
- who is in ``default`` without having been put there is in no assignment: only a node that knows all agents can count them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from zcluster.config.names import nearest
from zcluster.core.groups import DEFAULT, NAME_KEY, OF_KEY, checked_agent, checked_group, groups_in
from zcluster.core.liveconfig import KEY
from zcluster.errors import Compacted, NoSuchGroup
from zcluster.store.interface import Entry, Store

SCAN = 500
Row = dict[str, Any]


def group_row(name: str, entry: Entry | None, agents: int | None) -> Row:
    """A group as ``groups.list`` tells it."""
    meta = orjson.loads(entry.value) if entry else {}
    return {
        "name": name, "agents": agents, "files": len(meta.get("files", [])), "comment": meta.get("comment", ""),
        "created_s": meta.get("created_s"), "by": meta.get("by", ""), "removing": bool(meta.get("going")),
    }  # fmt: skip


async def list_groups(store: Store, counts: Mapping[str, int | None]) -> list[Row]:
    """A row for each group, by name; ``default`` is there whether it is stored or not."""
    rows: dict[str, Row] = {}
    after, more = "", True
    while more:
        page = await store.scan(NAME_KEY, after=after, limit=SCAN)
        for entry in page.entries:
            name = entry.key.removeprefix(NAME_KEY)
            rows[name] = group_row(name, entry, counts.get(name, 0))
        after, more = page.entries[-1].key if page.entries else "", page.more
    rows.setdefault(DEFAULT, group_row(DEFAULT, None, counts.get(DEFAULT, 0)))
    return [rows[name] for name in sorted(rows)]


async def show_group(store: Store, name: str, agents: int | None) -> Row:
    """One group: as in the list, with its files and its configuration. Raises NoSuchGroup."""
    found = await store.get_many([NAME_KEY + checked_group(name), f"{KEY}group/{name}"])
    entry, config = found.get(NAME_KEY + name), found.get(f"{KEY}group/{name}")
    if entry is None and name != DEFAULT:
        page = await store.scan(NAME_KEY)
        near = nearest(name, [DEFAULT, *(each.key.removeprefix(NAME_KEY) for each in page.entries)])
        raise NoSuchGroup(f"there is no group {name!r}", hint=f"did you mean {near!r}?" if near else "`zcluster groups ls`")
    files = orjson.loads(entry.value).get("files", []) if entry else []
    values = orjson.loads(config.value)["values"] if config else {}
    return {**group_row(name, entry, agents), "files": files, "config": values}


async def groups_of(store: Store, agent: str) -> Row:
    """The groups of an agent, in order, and whether somebody assigned them."""
    entry = await store.get(OF_KEY + checked_agent(agent))
    return {"agent": agent, "groups": list(groups_in(entry.value if entry else None)), "assigned": entry is not None}


class Counts:
    """How many agents each group has, counted from the assignments; counted again only when one has changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._revision = -1
        self._counts: dict[str, int | None] = {}

    async def get(self) -> dict[str, int | None]:
        """By group; of ``default`` None, as nobody is counted who was never assigned."""
        if self._revision < 0 or await self._changed():
            revision = await self._store.revision()
            self._counts = {**await self._count(), DEFAULT: None}
            self._revision = revision
        return self._counts

    async def _changed(self) -> bool:
        try:
            changes, upto = await self._store.changes(OF_KEY, self._revision, limit=1)
        except Compacted:
            return True
        if not changes:
            self._revision = upto
        return bool(changes)

    async def _count(self) -> dict[str, int]:
        by_value: dict[bytes, int] = {}
        after, more = "", True
        while more:
            page = await self._store.scan(OF_KEY, after=after)
            for entry in page.entries:
                by_value[entry.value] = by_value.get(entry.value, 0) + 1
            after, more = page.entries[-1].key if page.entries else "", page.more
        counts: dict[str, int] = {}
        for value, agents in by_value.items():
            for name in groups_in(value):
                counts[name] = counts.get(name, 0) + agents
        return counts
