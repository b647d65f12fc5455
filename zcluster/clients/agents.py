"""Agents from Python: ``AsyncClient.agents`` and ``Client.agents``.

    async with zcluster.AsyncClient() as c:
        page = await c.agents.list("status=active and labels.site=ber", limit=50)
        async for row in c.agents.each("version<4.9", select=["id", "version"]): ...
        await c.agents.report([{"id": "printer-7", "name": "printer-7", "labels": {"site": "ber"}}], node="worker-1")

Rules kept here:
- questions go to the master, which knows all agents; a report goes to the node that the agents are to belong to;
- a report of any length is sent in calls of at most ROWS_PER_CALL rows; what was refused is told with its place in the whole;
- a list is a page; ``each`` goes through all pages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any

from zcluster.clients.caller import Caller
from zcluster.clients.checks import checked_text
from zcluster.errors import UsageError

Row = dict[str, Any]

ROWS_PER_CALL = 2_000
MAX_REFUSED = 10_000
"""How many refused rows are listed; the others are counted."""
PAGE = 1_000


class AsyncAgents:
    """The agents of a cluster. Every method raises what any call may raise (docs/reference/errors.md)."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def list(
        self, filter: str = "", *, select: Sequence[str] | None = None, sort: str = "id", limit: int = 100, cursor: str = "",
        count: bool = False, timeout: float | None = None,
    ) -> Row:  # fmt: skip
        """One page: {"items": [rows], "next": cursor of the next page or None, "total": how many in all, with ``count``}.

        Args:
            filter: such as ``status=active and os.platform=debian and labels.site=ber and version<4.9`` (docs/how-to/agents.md).
            select: fields of the rows; without it id, name, status, node, address, version, os, groups, labels, last_seen.
            sort: a field; ``-field`` sorts downwards.
        """
        asked = {"filter": filter, "select": None if select is None else [*select], "sort": sort, "limit": limit,
                 "cursor": cursor, "count": count}  # fmt: skip
        found: Row = await self._master("list", asked, timeout)
        return found

    async def each(
        self, filter: str = "", *, select: Sequence[str] | None = None, sort: str = "id", timeout: float | None = None
    ) -> AsyncIterator[Row]:
        """All rows that the filter means, page by page."""
        cursor: str | None = ""
        while cursor is not None:
            page = await self.list(filter, select=select, sort=sort, limit=PAGE, cursor=cursor, timeout=timeout)
            for row in page["items"]:
                yield row
            cursor = page["next"]

    async def count(self, filter: str = "", *, by: str = "", timeout: float | None = None) -> Row:
        """{"total": n, "by": {value: n}}; ``by`` names a field, such as "status"."""
        found: Row = await self._master("count", {"filter": filter, "by": by}, timeout)
        return found

    async def show(self, id: str, *, timeout: float | None = None) -> Row:
        """All that is known of one agent. Raises NoSuchAgent."""
        found: Row = await self._master("show", {"id": checked_text("id", id)}, timeout)
        return found

    async def remove(self, ids: Sequence[str] = (), *, filter: str = "", timeout: float | None = None) -> Row:
        """Remove agents by their ids, or those that a filter means: {"removed": [ids]}. Needs the role admin."""
        found: Row = await self._master("remove", {"ids": [*ids], "filter": filter}, timeout)
        return found

    async def move(self, id: str, node: str, *, timeout: float | None = None) -> Row:
        """Have an agent connect to ``node``: {"id", "node", "moved"}. Needs the role admin."""
        found: Row = await self._master("move", {"id": checked_text("id", id), "node": checked_text("node", node)}, timeout)
        return found

    async def report(self, rows: Iterable[Mapping[str, Any]], *, node: str = "master", timeout: float | None = None) -> Row:
        """Say what is known of agents, at ``node``, to which they belong from then on.

        Args:
            rows: each with ``id``, and any of name, address, version, os, status, labels, metrics, last_seen.

        Returns:
            {"taken": n, "refused": [{"index", "id", "code", "message"}], "refused_count": n}; ``index`` counts the rows given.
        """
        target = checked_text("node", node, "a node's name, or 'master'")
        taken, refused, refused_count, base = 0, [], 0, 0
        for part in _parts(rows):
            answer = await self._caller.call("agents.report", {"rows": part}, target=target, timeout=timeout)
            taken += answer["taken"]
            refused_count += answer["refused_count"]
            refused += [{**each, "index": each["index"] + base} for each in answer["refused"]]
            del refused[MAX_REFUSED:]
            base += len(part)
        return {"taken": taken, "refused": refused, "refused_count": refused_count}

    async def _master(self, name: str, args: Row, timeout: float | None) -> Any:
        return await self._caller.call(f"agents.{name}", args, target="master", timeout=timeout)


class Agents:
    """The blocking AsyncAgents."""

    def __init__(
        self,
        calls: AsyncAgents,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        iterate: Callable[[AsyncIterator[Any]], Iterator[Any]],
    ) -> None:
        self._calls, self._run, self._iterate = calls, run, iterate

    def list(
        self, filter: str = "", *, select: Sequence[str] | None = None, sort: str = "id", limit: int = 100, cursor: str = "",
        count: bool = False, timeout: float | None = None,
    ) -> Row:  # fmt: skip
        """See AsyncAgents.list."""
        return self._done(
            self._calls.list(filter, select=select, sort=sort, limit=limit, cursor=cursor, count=count, timeout=timeout)
        )

    def each(
        self, filter: str = "", *, select: Sequence[str] | None = None, sort: str = "id", timeout: float | None = None
    ) -> Iterator[Row]:
        """See AsyncAgents.each."""
        return self._iterate(self._calls.each(filter, select=select, sort=sort, timeout=timeout))

    def count(self, filter: str = "", *, by: str = "", timeout: float | None = None) -> Row:
        """See AsyncAgents.count."""
        return self._done(self._calls.count(filter, by=by, timeout=timeout))

    def show(self, id: str, *, timeout: float | None = None) -> Row:
        """See AsyncAgents.show."""
        return self._done(self._calls.show(id, timeout=timeout))

    def remove(self, ids: Sequence[str] = (), *, filter: str = "", timeout: float | None = None) -> Row:
        """See AsyncAgents.remove."""
        return self._done(self._calls.remove(ids, filter=filter, timeout=timeout))

    def move(self, id: str, node: str, *, timeout: float | None = None) -> Row:
        """See AsyncAgents.move."""
        return self._done(self._calls.move(id, node, timeout=timeout))

    def report(self, rows: Iterable[Mapping[str, Any]], *, node: str = "master", timeout: float | None = None) -> Row:
        """See AsyncAgents.report."""
        return self._done(self._calls.report(rows, node=node, timeout=timeout))

    def _done(self, work: Coroutine[Any, Any, Row]) -> Row:
        found: Row = self._run(work)
        return found


def _parts(rows: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[Row]]:
    part = []
    for row in rows:
        if not isinstance(row, Mapping):
            raise UsageError(f"a row is a mapping with an id, not {type(row).__name__}", hint='such as {"id": "web-1"}')
        part.append(dict(row))
        if len(part) == ROWS_PER_CALL:
            yield part
            part = []
    if part:
        yield part
