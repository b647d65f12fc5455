"""Rights from Python: ``AsyncClient.rights`` and ``Client.rights``.

    async with zcluster.AsyncClient() as c:
        found = await c.rights.check("report.build", "w*")       # {"allowed": bool, "steps": [{"what", "ok", "why"}], ...}
        for role in await c.rights.list(): ...                   # for admin keys

Rules kept here:
- each method is one call of the master's function of that name, with the same arguments and the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from zcluster.clients.caller import Caller
from zcluster.clients.checks import checked_text

Row = dict[str, Any]
MASTER = "master"


class AsyncRights:
    """What keys may do. Every method raises what any call may raise (docs/reference/errors.md)."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def check(
        self, function: str, target: str = "any", *, name: str = "", priority: int = 5, door: bool = False,
        timeout: float | None = None,
    ) -> Row:  # fmt: skip
        """Whether a key may call ``function`` at ``target``, and why: ``allowed``, and ``steps`` with what was looked at, whether
        it is ok (None: not known there) and why.

        Args:
            name: the key; empty: one's own. Of others only admin keys may ask.
            door: through a worker's door.
        """
        args = {
            "function": checked_text("function", function), "target": checked_text("target", target),
            "name": checked_text("name", name), "priority": priority, "door": door,
        }  # fmt: skip
        found: Row = await self._caller.call("rights.check", args, target=MASTER, timeout=timeout)
        return found

    async def list(self, *, timeout: float | None = None) -> list[Row]:
        """The roles of the configuration: name, base, functions, targets, priorities; for admin keys."""
        found: list[Row] = await self._caller.call("rights.list", target=MASTER, timeout=timeout)
        return found


class Rights:
    """AsyncRights for programs without an event loop: the same, blocking."""

    def __init__(self, calls: AsyncRights, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._calls, self._run = calls, run

    def check(
        self, function: str, target: str = "any", *, name: str = "", priority: int = 5, door: bool = False,
        timeout: float | None = None,
    ) -> Row:  # fmt: skip
        """See AsyncRights.check."""
        asked = self._calls.check(function, target, name=name, priority=priority, door=door, timeout=timeout)
        found: Row = self._run(asked)
        return found

    def list(self, *, timeout: float | None = None) -> list[Row]:
        """See AsyncRights.list."""
        found: list[Row] = self._run(self._calls.list(timeout=timeout))
        return found
