"""The functions ``groups.*`` of a master.

Rules kept here:
- looking is for every caller; what changes something asks for the role admin and is an event that says who did it;
- a change of many agents is one event with its count, also when it ended in the middle;
- the filters, limits and names are those of core; what is committed when, groups_edits.py says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec

from zcluster.brokers.groups_book import BookFollower
from zcluster.brokers.groups_edits import MAX_TOLD, Edits, One, Outcome, no_such_agent
from zcluster.brokers.groups_names import Names
from zcluster.config import Loaded
from zcluster.core.agents.filter import Both, Compare, Condition, parse
from zcluster.core.groups import MAX_OF_AGENT, Edit, Op, checked_agent, checked_group, checked_groups, parse_id, parse_line
from zcluster.core.peers import Event
from zcluster.dapi.context import Context
from zcluster.dapi.function import Function, function
from zcluster.errors import UsageError
from zcluster.nodes.desk import Desk
from zcluster.nodes.groupsview import group_row, groups_of, list_groups, show_group

Text = Annotated[str, msgspec.Meta(max_length=256)]
Agents = Annotated[list[Annotated[str, msgspec.Meta(max_length=256)]], msgspec.Meta(max_length=100_000)]
GroupNames = Annotated[list[Text], msgspec.Meta(max_length=MAX_OF_AGENT * 2)]
Lines = Annotated[list[str], msgspec.Meta(max_length=100_000)]
FilterText = Annotated[str, msgspec.Meta(max_length=65_536)]
LONG_S = 3600.0
THERE = Compare("status", "!=", "removed")
Answer = dict[str, Any]
_NONE: list[str] = []


class MasterGroups:
    """Part of a master: groups, and which agent is in which."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._follower = BookFollower(desk)
        self._edits = Edits(desk, self._follower)
        self._names = Names(desk, self._edits)

    # -- Part -----------------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """The functions ``groups.*`` of a master."""
        made = [*self._questions(), *self._orders(), *self._assignments(), *self._files()]
        return {found.name: found for found in (Function(call, own_errors=True) for call in made)}

    async def start(self) -> None:
        """Let the book follow, and go on with what was interrupted."""
        self._follower.start()
        await self._names.start()

    def apply(self, loaded: Loaded) -> None:
        """Nothing of it is in the file."""

    async def close(self) -> None:
        """Stop following."""
        await self._names.close()
        await self._follower.close()

    # -- functions ------------------------------------------------------------------------------------------------------

    def _questions(self) -> list[Callable[..., Any]]:
        store, book = self._desk.store, self._desk.book

        @function("groups.list", idempotent=True)
        async def list_() -> list[dict[str, Any]]:
            """A row for each group: name, agents, files, comment, created_s, by, removing."""
            return await list_groups(store, await book.count(THERE, by="groups"))

        @function("groups.show", idempotent=True)
        async def show(name: Text) -> dict[str, Any]:
            """One group: as in the list, with its files (name, digest, size) and its configuration."""
            row = await show_group(store, name, 0)
            return {**row, "agents": (await book.count(Both((THERE, Compare("groups", "=", name))))).get("", 0)}

        @function("groups.of", idempotent=True)
        async def of(agent: Text) -> dict[str, Any]:
            """The groups of an agent in their order, and whether they were assigned to it."""
            row = await groups_of(store, agent)
            if not row["assigned"] and await book.get(agent) is None:
                raise no_such_agent([agent])
            return row

        return [list_, show, of]

    def _orders(self) -> list[Callable[..., Any]]:
        @function("groups.create", role="admin")
        async def create(name: Text, context: Context, comment: str = "") -> dict[str, Any]:
            """Make a group: its row."""
            made = await self._names.create(name, comment, context.caller)
            return {**group_row(name, None, 0), "created_s": made["created_s"], "by": made["by"], "comment": made["comment"]}

        @function("groups.delete", role="admin", timeout_s=LONG_S)
        async def delete(name: Text, context: Context) -> dict[str, Any]:
            """Delete a group: its agents leave it, its configuration and files go. {"name", "agents": how many were in it}."""
            return {"name": name, "agents": await self._names.delete(name, context.caller)}

        return [create, delete]

    def _assignments(self) -> list[Callable[..., Any]]:
        @function("groups.add", role="admin", timeout_s=LONG_S)
        async def add(
            group: Text, context: Context, agents: Agents = _NONE, filter: FilterText = "", new: bool = False
        ) -> dict[str, Any]:
            """Put agents, or all that a filter finds, into a group, after those they are in: {"changed", "same", "refused"}."""
            return await self._edited("add", [group], agents, filter, new, context)

        @function("groups.remove", role="admin", timeout_s=LONG_S)
        async def remove(group: Text, context: Context, agents: Agents = _NONE, filter: FilterText = "") -> dict[str, Any]:
            """Take agents, or all that a filter finds, out of a group: {"changed", "same", "refused"}."""
            return await self._edited("remove", [group], agents, filter, False, context)

        @function("groups.set", role="admin", timeout_s=LONG_S)
        async def set_(
            groups: GroupNames, context: Context, agents: Agents = _NONE, filter: FilterText = "", new: bool = False
        ) -> dict[str, Any]:
            """Let agents, or all that a filter finds, be in these groups and no others, in this order (none: in default)."""
            return await self._edited("set", groups, agents, filter, new, context)

        @function("groups.bulk", role="admin", timeout_s=LONG_S)
        async def bulk(
            lines: Lines, context: Context, first: int = 1, new: bool = False, op: Op = "set", group: Text = ""
        ) -> dict[str, Any]:
            """Set the groups of agents from lines ``AGENT GROUP[,GROUP...]``; with ``op`` add or remove, put the agents of
            lines ``AGENT`` into ``group`` or take them out: {"changed", "same", "bad": [[line, why]], "bad_count"}. The first
            line has the number ``first``; bad ones are told, the others are done."""
            return await self._bulk(lines, first, new, op, group, context.caller)

        return [add, remove, set_, bulk]

    def _files(self) -> list[Callable[..., Any]]:
        names = self._names

        @function("groups.files", idempotent=True)
        async def files(group: Text) -> list[dict[str, Any]]:
            """The shared files of a group: name, digest (blake2b of 32 bytes), size."""
            return await names.files(group)

        @function("groups.file_get", idempotent=True)
        async def file_get(group: Text, name: Text) -> dict[str, Any]:
            """A shared file: name, digest, size, data (base64)."""
            return await names.file(group, name)

        @function("groups.file_put", role="admin")
        async def file_put(group: Text, name: Text, data: str, context: Context) -> dict[str, Any]:
            """Share a file (``data`` is base64) with the agents of a group: name, digest, size."""
            return await names.put_file(group, name, data, context.caller)

        @function("groups.file_remove", role="admin")
        async def file_remove(group: Text, name: Text, context: Context) -> dict[str, Any]:
            """Share a file no longer: its name, digest, size."""
            return await names.remove_file(group, name, context.caller)

        return [files, file_get, file_put, file_remove]

    # -- inside ---------------------------------------------------------------------------------------------------------

    async def _edited(
        self, op: Op, groups: Sequence[str], agents: Sequence[str], filter_: str, new: bool, context: Context
    ) -> Answer:
        names = checked_groups(groups) if op == "set" else (checked_group(groups[0]),)
        if bool(agents) == bool(filter_):
            raise UsageError("name agents, or give a filter", hint="one of the two")
        if new and filter_:
            raise UsageError("a filter finds no new agents", hint="name the agents that are new")
        where = self._condition(filter_) if filter_ else None
        edit, outcome = Edit(op, names), Outcome()
        try:
            if where is not None:
                await self._edits.assign_found(where, edit, outcome, context.caller)
            else:
                ids = [(checked_agent(id_), edit) for id_ in agents]
                await self._edits.assign(ids, outcome, context.caller, new=new)
        finally:
            self._tell(op, names, outcome, context.caller)
        refused = [{"agent": agent, "reason": why} for agent, why in outcome.refused]
        return {"changed": outcome.changed, "same": outcome.same, "refused": refused, "refused_count": outcome.refused_count}

    def _condition(self, text: str) -> Condition:
        where = parse(text, self._desk.wall_s())
        if where is None:
            raise UsageError("the filter is empty", hint="for all agents: --filter 'id~*'")
        return Both((THERE, where))

    async def _bulk(self, lines: Sequence[str], first: int, new: bool, op: Op, group: str, by: str) -> Answer:
        read, named = await self._reader(op, group, new)
        bad: list[tuple[int, str]] = []
        edits: list[One] = []
        numbers: dict[str, int] = {}
        for number, line in enumerate(lines, first):
            try:
                found = read(line)
            except UsageError as error:
                bad.append((number, str(error)))
                continue
            if found is not None:
                numbers[found[0]] = number
                edits.append(found)
        outcome = Outcome()
        try:
            await self._edits.assign(edits, outcome, by, new=new, each=True)
        finally:
            self._tell(op, named, outcome, by)
        count = len(bad) + outcome.refused_count
        bad += [(numbers[agent], f"agent {agent}: {why}") for agent, why in outcome.refused]
        return {"changed": outcome.changed, "same": outcome.same, "bad": sorted(bad)[:MAX_TOLD], "bad_count": count}

    async def _reader(self, op: Op, group: str, new: bool) -> tuple[Callable[[str], One | None], Sequence[str]]:
        """What a line asks for, and the group that is meant by all lines, if it is one."""
        if op == "set":
            if group:
                raise UsageError("with set each line names its groups", hint="no group beside them")
            return _set_line, ()
        if op == "remove" and new:
            raise UsageError("only who is known can be taken out of a group", hint="without new")
        edit = Edit(op, (checked_group(group),))
        await self._edits.check_groups(edit.groups)

        def read(line: str) -> One | None:
            agent = parse_id(line)
            return (agent, edit) if agent is not None else None

        return read, edit.groups

    def _tell(self, op: Op, groups: Sequence[str], outcome: Outcome, by: str) -> None:
        if not outcome.changed:
            return
        fields: Answer = {"op": op, "agents": outcome.changed, "by": by}
        if groups:
            fields["group"] = ",".join(groups)
        if outcome.changed == 1:
            fields["agent"] = outcome.last
        self._desk.note(Event("group_changed", fields))


def _set_line(line: str) -> One | None:
    found = parse_line(line)
    return (found[0], Edit("set", found[1])) if found else None
