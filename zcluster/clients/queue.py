"""The queue of durable jobs from Python: ``AsyncClient.queue``. Jobs themselves: jobs.py.

    async with zcluster.AsyncClient() as c:
        page = await c.queue.list(state="dead")         # {"items": [...], "next": id or None}
        await c.queue.retry([row["id"] for row in page["items"]])
        async for step in c.queue.watch(): ...

Rules kept here:
- each method is one call of the master's function of that name, with the same arguments and the same answer;
- a client sees and changes its own jobs, an admin key all of them;
- what is said of many jobs is sent in calls of at most IDS_PER_CALL, and the answers are added up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from zcluster.clients.caller import Streaming
from zcluster.clients.checks import MAX_TIMEOUT_S, checked_text
from zcluster.errors import UsageError

Row = dict[str, Any]
MASTER = "master"
IDS_PER_CALL = 1000
RECORDS_PER_CALL = 1000


class AsyncQueue:
    """The durable jobs of a cluster. Every method raises what any call may raise (docs/reference/errors.md)."""

    def __init__(self, caller: Streaming) -> None:
        self._caller = caller

    async def list(
        self, state: str = "", target: str = "", function: str = "", *, limit: int = 100, before: str = "",
        timeout: float | None = None,
    ) -> Row:  # fmt: skip
        """A page of jobs, the newest first: {"items": as in :meth:`show` without args and steps, "next": id or None}.

        Args:
            state, target, function: only jobs of these. before: only those older than this id: the ``next`` of the page before.
        """
        args = {
            "state": checked_text("state", state), "target": checked_text("target", target),
            "function": checked_text("function", function), "limit": limit, "before": checked_text("before", before),
        }  # fmt: skip
        return await self._call("list", args, timeout)

    async def show(self, id: str, *, timeout: float | None = None) -> Row:
        """All that is known of one job: see AsyncJob.info. Raises NoSuchJob."""
        return await self._call("show", {"id": checked_text("id", id)}, timeout)

    async def cancel(self, ids: str | Iterable[str], *, timeout: float | None = None) -> Row:
        """End jobs as ``cancelled``: {"done": [ids], "refused": [{"id", "code", "message", "hint"}]}."""
        return await self._each("cancel", ids, timeout)

    async def retry(self, ids: str | Iterable[str], *, timeout: float | None = None) -> Row:
        """Put failed, dead, cancelled and expired jobs back into the queue, their failures counted anew: as :meth:`cancel`."""
        return await self._each("retry", ids, timeout)

    async def drop(self, ids: str | Iterable[str], *, timeout: float | None = None) -> Row:
        """Delete jobs that have ended, with their outcome: as :meth:`cancel`."""
        return await self._each("drop", ids, timeout)

    async def pause(self, target: str, *, timeout: float | None = None) -> Row:
        """Give no job to these nodes (a name, a glob, ``all``) until :meth:`resume`: {"paused": [targets]}. For admin keys."""
        return await self._call("pause", {"target": checked_text("target", target)}, timeout)

    async def resume(self, target: str, *, timeout: float | None = None) -> Row:
        """The end of :meth:`pause`: {"paused": [targets]}. For admin keys."""
        return await self._call("resume", {"target": checked_text("target", target)}, timeout)

    async def drain(self, on: bool = True, *, timeout: float | None = None) -> Row:
        """Accept no new jobs, or (``on=False``) again: as :meth:`stats`. For admin keys."""
        if not isinstance(on, bool):
            raise UsageError(f"on is True or False, not {str(on)[:40]!r}")
        return await self._call("drain", {"on": on}, timeout)

    async def stats(self, *, timeout: float | None = None) -> Row:
        """The queue in numbers: states, live, bytes, delayed_next_in_s, lanes, paused, draining, writable, read_only_reason,
        accepted, ended, commits and each a second (``accepted_per_s``...), in_memory, stray, limits, and for admin keys: keys."""
        return await self._call("stats", {}, timeout)

    async def check(self, *, timeout: float | None = None) -> Row:
        """What of the store is intact: {"ok", "jobs", "findings", "details"}. For admin keys."""
        return await self._call("check", {}, MAX_TIMEOUT_S if timeout is None else timeout)

    def watch(self, state: str = "", function: str = "", *, timeout: float | None = None) -> AsyncIterator[Row]:
        """Each transition as it happens: {"id", "function", "state", "node", "attempt", "at_s", "error"}.

        It ends with an error when the connection is lost (what happens until the next one is not told), and with TimedOut after
        ``timeout`` seconds, by default a day.
        """
        args = {"state": checked_text("state", state), "function": checked_text("function", function)}
        return self._caller.stream("queue.watch", args, target=MASTER, timeout=MAX_TIMEOUT_S if timeout is None else timeout)

    async def _call(self, name: str, args: Row, timeout: float | None) -> Row:
        found: Row = await self._caller.call(f"queue.{name}", args, target=MASTER, timeout=timeout)
        return found

    async def _each(self, name: str, ids: str | Iterable[str], timeout: float | None) -> Row:
        every = [checked_text("id", id_) for id_ in ([ids] if isinstance(ids, str) else ids)]
        told: Row = {"done": [], "refused": []}
        for start in range(0, len(every), IDS_PER_CALL):
            answer = await self._call(name, {"ids": every[start : start + IDS_PER_CALL]}, timeout)
            told["done"] += answer["done"]
            told["refused"] += answer["refused"]
        return told


async def audit(caller: Streaming, since_s: float, key: str, limit: int, timeout: float | None) -> list[Row]:
    """As ``AsyncClient.audit``."""
    if not isinstance(since_s, int | float) or isinstance(since_s, bool):
        raise UsageError(f"since_s is a number of seconds, not {str(since_s)[:40]!r}", hint="seconds since 1970")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise UsageError(f"limit is a number from 1 on, not {str(limit)[:40]!r}")
    found: list[Row] = []
    after: int | None = 0
    while after is not None and len(found) < limit:
        page = min(limit - len(found), RECORDS_PER_CALL)
        args = {"since_s": since_s, "after": after, "key": checked_text("key", key), "limit": page}
        answer = await caller.call("audit.since", args, target=MASTER, timeout=timeout)
        found += answer["items"]
        after = answer["next"]
    return found
