"""Groups from Python: ``AsyncClient.groups`` and ``Client.groups``.

    async with zcluster.AsyncClient() as c:
        await c.groups.create("web")
        await c.groups.add("web", ["7001", "7002"])                   # or filter="labels.site=berlin"
        await c.groups.put_file("web", "rules.conf", b"...")
        await c.groups.of("7001")                                     # {"agent": "7001", "groups": ["default", "web"], ...}

Rules kept here:
- each method is one call of the cluster's function of that name; what looks may ask any node, which answers from its own copy;
- what is said of many agents is sent in calls of at most AGENTS_PER_CALL, and the answers are added up.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from zcluster.clients.caller import Caller
from zcluster.clients.checks import checked_text
from zcluster.errors import UsageError

Row = dict[str, Any]
MASTER = "master"
AGENTS_PER_CALL = 50_000
MAX_TOLD = 10_000
"""How much that was refused is listed; the rest is counted."""
LONG_S = 3600.0
"""The deadline of what may concern all agents, when none is given."""


class AsyncGroups:
    """The groups of a cluster. Every method raises what any call may raise (docs/reference/errors.md)."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def list(self, *, node: str = MASTER, timeout: float | None = None) -> list[Row]:
        """A row for each group: name, agents, files, comment, created_s, by, removing. Of a worker (``node``), from its copy:
        also node, age_s and revision."""
        found: list[Row] = await self._call("list", {}, timeout, node)
        return found

    async def show(self, name: str, *, node: str = MASTER, timeout: float | None = None) -> Row:
        """One group: as in :meth:`list`, with its files (name, digest, size) and its config. Raises NoSuchGroup."""
        found: Row = await self._call("show", {"name": checked_text("name", name)}, timeout, node)
        return found

    async def of(self, agent: str, *, node: str = MASTER, timeout: float | None = None) -> Row:
        """{"agent", "groups": in their order, "assigned": whether somebody did}. Raises NoSuchAgent."""
        found: Row = await self._call("of", {"agent": checked_text("agent", agent)}, timeout, node)
        return found

    async def create(self, name: str, *, comment: str = "", timeout: float | None = None) -> Row:
        """Make a group: its row. Raises Conflict when there is one of this name. For admin keys, as all that follows."""
        found: Row = await self._call("create", {"name": checked_text("name", name), "comment": comment}, timeout)
        return found

    async def delete(self, name: str, *, timeout: float | None = None) -> Row:
        """Delete a group: {"name", "agents": how many were in it}. It goes on when the deadline passes."""
        found: Row = await self._call("delete", {"name": checked_text("name", name)}, _long(timeout))
        return found

    async def add(
        self, group: str, agents: Iterable[str] = (), *, filter: str = "", new: bool = False, timeout: float | None = None
    ) -> Row:
        """Put agents, or all that ``filter`` finds, into a group, after those they are in.

        Args:
            new: agents that nobody knows become known, as ``never`` seen, instead of raising NoSuchAgent.

        Returns:
            {"changed", "same", "refused": [{"agent", "reason"}], "refused_count"}.
        """
        return await self._edit("add", {"group": checked_text("group", group), "new": new}, agents, filter, timeout)

    async def remove(
        self, group: str, agents: Iterable[str] = (), *, filter: str = "", timeout: float | None = None
    ) -> Row:  # fmt: skip
        """Take agents, or all that ``filter`` finds, out of a group; as :meth:`add`."""
        return await self._edit("remove", {"group": checked_text("group", group)}, agents, filter, timeout)

    async def set(
        self, groups: Sequence[str], agents: Iterable[str] = (), *, filter: str = "", new: bool = False,
        timeout: float | None = None,
    ) -> Row:  # fmt: skip
        """Let agents, or all that ``filter`` finds, be in these groups and no others, in this order; as :meth:`add`."""
        if isinstance(groups, str):
            raise UsageError("groups is a list of names", hint=f"such as [{groups!r}]")
        return await self._edit("set", {"groups": [*groups], "new": new}, agents, filter, timeout)

    async def bulk(
        self, lines: Iterable[str], *, op: str = "set", group: str = "", new: bool = False, timeout: float | None = None
    ) -> Row:  # fmt: skip
        """Set the groups of agents from lines ``AGENT GROUP[,GROUP...]``; or, with ``op="add"`` or ``op="remove"``, put the
        agents of lines ``AGENT`` into ``group``, or take them out.

        Returns:
            {"changed", "same", "bad": [[line, why]], "bad_count"}: bad lines are told by their number, from 1 on; the others
            are done.
        """
        total: Row = {"changed": 0, "same": 0, "bad": [], "bad_count": 0}
        first = 1
        for part in _parts(lines):
            args: Row = {"lines": part, "first": first, "new": new}
            if op != "set" or group:
                args |= {"op": op, "group": group}
            answer = await self._call("bulk", args, _long(timeout))
            for key in ("changed", "same", "bad_count"):
                total[key] += answer[key]
            total["bad"] = (total["bad"] + answer["bad"])[:MAX_TOLD]
            first += len(part)
        return total

    async def files(self, group: str, *, timeout: float | None = None) -> Sequence[Row]:
        """The shared files of a group: name, digest, size."""
        found: Sequence[Row] = await self._call("files", {"group": checked_text("group", group)}, timeout)
        return found

    async def get_file(self, group: str, name: str, *, timeout: float | None = None) -> bytes:
        """The content of a shared file."""
        found = await self._call("file_get", {"group": checked_text("group", group), "name": checked_text("name", name)}, timeout)
        return base64.b64decode(found["data"])

    async def put_file(self, group: str, name: str, data: bytes, *, timeout: float | None = None) -> Row:
        """Share a file (at most 512 KiB) with the agents of a group: name, digest, size."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise UsageError(f"data is bytes, not {type(data).__name__}")
        args = {"group": checked_text("group", group), "name": checked_text("name", name)}
        found: Row = await self._call("file_put", {**args, "data": base64.b64encode(data).decode()}, timeout)
        return found

    async def remove_file(self, group: str, name: str, *, timeout: float | None = None) -> Row:
        """Share a file no longer: its name, digest, size."""
        args = {"group": checked_text("group", group), "name": checked_text("name", name)}
        found: Row = await self._call("file_remove", args, timeout)
        return found

    async def _edit(self, name: str, args: Row, agents: Iterable[str], filter: str, timeout: float | None) -> Row:
        if isinstance(agents, str):
            raise UsageError("agents is a list of ids", hint=f"such as [{agents!r}]")
        ids = iter(agents)
        first = next(ids, None)
        if filter or first is None:
            given = [] if first is None else [first]  # with both, or with neither, the master says what is wrong
            answer: Row = await self._call(name, {**args, "agents": given, "filter": filter}, _long(timeout))
            return answer
        total: Row = {"changed": 0, "same": 0, "refused": [], "refused_count": 0}
        for part in _parts(chain([first], ids)):
            answer = await self._call(name, {**args, "agents": part}, _long(timeout))
            for key in ("changed", "same", "refused_count"):
                total[key] += answer[key]
            total["refused"] = (total["refused"] + answer["refused"])[:MAX_TOLD]
        return total

    async def _call(self, name: str, args: Row, timeout: float | None, node: str = MASTER) -> Any:
        target = checked_text("node", node, "a node's name, or 'master'")
        return await self._caller.call(f"groups.{name}", args, target=target, timeout=timeout)


class Groups:
    """AsyncGroups for programs without an event loop: the same methods, blocking."""

    def __init__(self, calls: AsyncGroups, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._calls, self._run = calls, run

    def list(self, *, node: str = MASTER, timeout: float | None = None) -> list[Row]:
        """See AsyncGroups.list."""
        found: list[Row] = self._run(self._calls.list(node=node, timeout=timeout))
        return found

    def show(self, name: str, *, node: str = MASTER, timeout: float | None = None) -> Row:
        """See AsyncGroups.show."""
        found: Row = self._run(self._calls.show(name, node=node, timeout=timeout))
        return found

    def of(self, agent: str, *, node: str = MASTER, timeout: float | None = None) -> Row:
        """See AsyncGroups.of."""
        found: Row = self._run(self._calls.of(agent, node=node, timeout=timeout))
        return found

    def create(self, name: str, *, comment: str = "", timeout: float | None = None) -> Row:
        """See AsyncGroups.create."""
        found: Row = self._run(self._calls.create(name, comment=comment, timeout=timeout))
        return found

    def delete(self, name: str, *, timeout: float | None = None) -> Row:
        """See AsyncGroups.delete."""
        found: Row = self._run(self._calls.delete(name, timeout=timeout))
        return found

    def add(
        self, group: str, agents: Iterable[str] = (), *, filter: str = "", new: bool = False, timeout: float | None = None
    ) -> Row:
        """See AsyncGroups.add."""
        found: Row = self._run(self._calls.add(group, agents, filter=filter, new=new, timeout=timeout))
        return found

    def remove(self, group: str, agents: Iterable[str] = (), *, filter: str = "", timeout: float | None = None) -> Row:
        """See AsyncGroups.remove."""
        found: Row = self._run(self._calls.remove(group, agents, filter=filter, timeout=timeout))
        return found

    def set(
        self, groups: Sequence[str], agents: Iterable[str] = (), *, filter: str = "", new: bool = False,
        timeout: float | None = None,
    ) -> Row:  # fmt: skip
        """See AsyncGroups.set."""
        found: Row = self._run(self._calls.set(groups, agents, filter=filter, new=new, timeout=timeout))
        return found

    def bulk(
        self, lines: Iterable[str], *, op: str = "set", group: str = "", new: bool = False, timeout: float | None = None
    ) -> Row:  # fmt: skip
        """See AsyncGroups.bulk."""
        found: Row = self._run(self._calls.bulk(lines, op=op, group=group, new=new, timeout=timeout))
        return found

    def files(self, group: str, *, timeout: float | None = None) -> Sequence[Row]:
        """See AsyncGroups.files."""
        found: Sequence[Row] = self._run(self._calls.files(group, timeout=timeout))
        return found

    def get_file(self, group: str, name: str, *, timeout: float | None = None) -> bytes:
        """See AsyncGroups.get_file."""
        found: bytes = self._run(self._calls.get_file(group, name, timeout=timeout))
        return found

    def put_file(self, group: str, name: str, data: bytes, *, timeout: float | None = None) -> Row:
        """See AsyncGroups.put_file."""
        found: Row = self._run(self._calls.put_file(group, name, data, timeout=timeout))
        return found

    def remove_file(self, group: str, name: str, *, timeout: float | None = None) -> Row:
        """See AsyncGroups.remove_file."""
        found: Row = self._run(self._calls.remove_file(group, name, timeout=timeout))
        return found


def _parts(items: Iterable[str]) -> Iterator[Sequence[str]]:
    source = iter(items)
    while part := [*islice(source, AGENTS_PER_CALL)]:
        yield part


def _long(timeout: float | None) -> float:
    return LONG_S if timeout is None else timeout
