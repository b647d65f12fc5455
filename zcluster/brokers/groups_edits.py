"""Edits of groups on the master: one after the other, each a bounded commit.

Rules kept here:
- every commit about groups puts EDITS and expects it as it was read: what was looked at is what is changed, whoever else writes;
- a commit has at most CHUNK agents; a longer edit is several commits, and what is done stays done when a later one fails;
- an edit that names agents or groups that do not exist changes nothing of its commit, unless each is to be told by itself;
- after the last commit the book has the groups: filters and targets agree with what was answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from zcluster.brokers.groups_book import BookFollower
from zcluster.config.names import nearest
from zcluster.core.agents.filter import Condition
from zcluster.core.agents.row import Row
from zcluster.core.groups import DEFAULT, NAME_KEY, OF_KEY, Edit, Plan, plan
from zcluster.errors import Busy, Conflict, NoSuchAgent, NoSuchGroup, UsageError
from zcluster.nodes.desk import Desk
from zcluster.store.interface import MAX_PAGE, Delete, Entry, Expect, Put

CHUNK = 5_000
TRIES = 8
"""Attempts of a commit when others write at the same time."""
MAX_TOLD = 1_000
"""Refusals that an answer lists; the others are counted."""
MAX_FOUND = 1_000
"""Agents that a filter finds at once."""
EDITS = "edits/groups"

One = tuple[str, Edit]


@dataclass
class Outcome:
    """What an edit did."""

    changed: int = 0
    same: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Agents and why nothing was done for them; the first MAX_TOLD."""
    refused_count: int = 0
    last: str = ""
    """An agent that was changed."""

    def add(self, made: Plan, refused: Sequence[tuple[str, str]]) -> None:
        """Count a commit."""
        self.changed += made.changed
        self.same += made.same
        self.refuse(refused)
        for agent in (*made.deletes[:1], *list(made.puts)[:1]):
            self.last = agent

    def refuse(self, refused: Sequence[tuple[str, str]]) -> None:
        """Count what was refused."""
        self.refused_count += len(refused)
        self.refused += refused[: MAX_TOLD - len(self.refused)]


class Edits:
    """The one way by which groups change on a master."""

    def __init__(self, desk: Desk, follower: BookFollower) -> None:
        self._desk, self._store, self._book = desk, desk.store, desk.book
        self._follower = follower
        self.lock = asyncio.Lock()
        """Held while something is read, decided and committed: waiting in line is cheaper than conflicts."""

    async def commit(self, ops: Sequence[Put | Delete], edits: Entry | None, by: str) -> int:
        """Commit ``ops`` if EDITS is still ``edits``. Raises Conflict."""
        mark = orjson.dumps({"by": by, "at_s": round(self._desk.wall_s(), 3)})
        expected = Expect(EDITS, edits.revision if edits else 0)
        return await self._store.apply([*ops, Put(EDITS, mark)], expect=[expected])

    async def assign(self, edits: Sequence[One], outcome: Outcome, by: str, *, new: bool = False, each: bool = False) -> None:
        """Edit the groups of agents, chunk by chunk, counting into ``outcome``.

        Args:
            new: agents that nobody knows become known, as ``never`` seen.
            each: what cannot be done for an agent is told in ``outcome.refused`` instead of raised.
        """
        revision = 0
        for start in range(0, len(edits), CHUNK):
            revision = await self._chunk(edits[start : start + CHUNK], outcome, by, new, each) or revision
        if revision:
            await self._follower.reached(revision)

    async def assign_found(self, where: Condition, edit: Edit, outcome: Outcome, by: str) -> None:
        """Edit the groups of all agents that ``where`` finds."""
        async for ids in self._pages(where):
            await self.assign([(id_, edit) for id_ in ids], outcome, by, each=True)

    async def _pages(self, where: Condition) -> AsyncIterator[list[str]]:
        cursor: str | None = ""
        while cursor is not None:
            found = await self._book.find(where, select=["id"], limit=MAX_FOUND, cursor=cursor)
            yield [str(row["id"]) for row in found.rows]
            cursor = found.next

    async def withdraw(self, edits: Sequence[One], outcome: Outcome, by: str) -> None:
        """Edit agents of a group that is being removed: known or not, they leave it."""
        made, _, revision = await self._commit_chunk(edits, by, each=True, checked=False)
        outcome.add(made, [])
        if revision:
            await self._follower.reached(revision)

    async def _chunk(self, edits: Sequence[One], outcome: Outcome, by: str, new: bool, each: bool) -> int:
        unknown = await self._unknown(list(dict.fromkeys(agent for agent, _ in edits)))
        may_be_new = any(edit.op != "remove" for _, edit in edits)
        if unknown and not (new or each):
            raise no_such_agent(unknown, may_be_new=may_be_new)
        if unknown and new:
            await self._book.put([Row(id=id_, epoch=epoch) for id_, epoch in unknown.items()])
        elif unknown:
            edits = [one for one in edits if one[0] not in unknown]
            outcome.refuse([(id_, str(no_such_agent([id_], may_be_new=may_be_new))) for id_ in unknown])
        made, refused, revision = await self._commit_chunk(edits, by, each=each)
        outcome.add(made, refused)
        return revision

    async def _commit_chunk(
        self, edits: Sequence[One], by: str, *, each: bool, checked: bool = True
    ) -> tuple[Plan, list[tuple[str, str]], int]:
        """What was done, whom it was refused, and the revision afterwards (0: nothing changed)."""
        agents = list(dict.fromkeys(agent for agent, _ in edits))
        for _ in range(TRIES):
            async with self.lock:
                now = await self._store.get_many([EDITS, *(OF_KEY + agent for agent in agents)])
                refused: list[tuple[str, str]] = []
                if checked:
                    edits, refused = await self._with_groups(edits, each)
                values = {agent: now[OF_KEY + agent].value for agent in agents if OF_KEY + agent in now}
                made = plan(edits, values)
                if made.refused and not each:
                    agent, why = made.refused[0]
                    raise UsageError(f"agent {agent}: {why}", hint="nothing of this was changed")
                try:
                    revision = await self.commit(_ops(made), now.get(EDITS), by) if made.changed else 0
                except Conflict:
                    continue
                return made, [*refused, *made.refused], revision
        raise busy()

    async def _with_groups(self, edits: Sequence[One], each: bool) -> tuple[Sequence[One], list[tuple[str, str]]]:
        """The edits whose groups are all there, and the agents of the others."""
        missing = await self._missing({name for edit in {edit for _, edit in edits} for name in edit.groups})
        if not missing:
            return edits, []
        if not each:
            await self.check_groups(sorted(missing))
        there, refused = [], []
        for agent, edit in edits:
            lost = [name for name in edit.groups if name in missing]
            if lost:
                refused.append((agent, f"there is no group {lost[0]!r}"))
            else:
                there.append((agent, edit))
        return there, refused

    async def _unknown(self, agents: Sequence[str]) -> dict[str, int]:
        """Those of ``agents`` that the book does not know, or knows as removed; with the epoch that a new row begins at."""
        held = await self._book.nodes_of(agents)  # most are; a whole row costs ten times as much
        others = [id_ for id_ in agents if id_ not in held]
        rows = await self._book.get_many(others) if others else {}
        found = {}
        for id_ in others:
            row = rows.get(id_)
            if row is None or row.status == "removed":
                found[id_] = row.epoch if row else 0
        return found

    async def check_groups(self, names: Sequence[str]) -> None:
        """Raise NoSuchGroup unless there are all of them."""
        if missing := await self._missing(names):
            raise no_such_group(min(missing), await self.names())

    async def _missing(self, names: Iterable[str]) -> set[str]:
        wanted = sorted(set(names) - {DEFAULT})
        missing: set[str] = set()
        for start in range(0, len(wanted), MAX_PAGE):
            some = wanted[start : start + MAX_PAGE]
            found = await self._store.get_many([NAME_KEY + name for name in some])
            missing.update(n for n in some if NAME_KEY + n not in found or is_going(found[NAME_KEY + n]))
        return missing

    async def names(self) -> list[str]:
        """The names of all groups that are stored."""
        found, after, more = [], "", True
        while more:
            page = await self._store.scan(NAME_KEY, after=after)
            found += [entry.key.removeprefix(NAME_KEY) for entry in page.entries]
            after, more = page.entries[-1].key if page.entries else "", page.more
        return found


def _ops(made: Plan) -> list[Put | Delete]:
    puts: list[Put | Delete] = [Put(OF_KEY + agent, value) for agent, value in made.puts.items()]
    return [*puts, *(Delete(OF_KEY + agent) for agent in made.deletes)]


def meta_of(entry: Entry | None) -> dict[str, Any]:
    """What is stored of a group: created_s, by, comment, files; ``going`` while it is being removed."""
    found: dict[str, Any] = orjson.loads(entry.value) if entry else {}
    return found


def is_going(entry: Entry) -> bool:
    """Whether the group is being removed."""
    return bool(meta_of(entry).get("going"))


def no_such_agent(ids: Iterable[str], *, may_be_new: bool = False) -> NoSuchAgent:
    """The error for agents that nobody knows."""
    first, *others = ids
    more = f" (and {len(others)} other{'s' if len(others) > 1 else ''})" if others else ""
    hint = "new agents are assigned beforehand with --new (new=True)" if may_be_new else "`zcluster agents ls` lists the agents"
    return NoSuchAgent(f"there is no agent {first!r}{more}", hint=hint)


def no_such_group(name: str, known: Iterable[str]) -> NoSuchGroup:
    """The error for a group that there is not."""
    near = nearest(name, [*known, DEFAULT])
    hint = f"did you mean {near!r}?" if near else "`zcluster groups ls` lists the groups; `zcluster groups create` makes one"
    return NoSuchGroup(f"there is no group {name!r}", hint=hint)


def busy() -> Busy:
    """The error for a commit that others were always faster than."""
    return Busy("the groups are being changed by others all the time", hint="try again", retry_after_s=1.0)
