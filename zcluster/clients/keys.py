"""Keys and join tokens from Python, for admin keys: ``AsyncClient.keys`` and ``Client.keys``.

    async with zcluster.AsyncClient() as c:
        token = await c.keys.create_token("worker", uses=3, ttl_s=600)
        print("zcluster worker --join", token["token"])            # a secret, told this once
        for row in await c.keys.pending(): ...                     # keys that wait to be accepted
        await c.keys.accept("web-3", row["fingerprint"])
        await c.keys.rotate("web-3")
        await c.keys.revoke("web-3")

Rules kept here:
- each method is one call of the master's function, with the same arguments and the same answer;
- what changes something holds when the method returns.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from zcluster.clients.caller import Caller
from zcluster.clients.checks import checked_seconds, checked_text
from zcluster.errors import UsageError

Row = dict[str, Any]
MASTER = "master"
HOUR_S = 3600.0


class AsyncKeys:
    """The ring: called, the list of admitted keys. Every method raises what any call may raise (docs/reference/errors.md)."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def __call__(self, *, timeout: float | None = None) -> list[Row]:
        """Every admitted key: name, role, fingerprint, created_at, public, token, previous and more."""
        rows: list[Row] = await self._call("keys.ls", {}, timeout)
        return rows

    async def pending(self, *, timeout: float | None = None) -> list[Row]:
        """The keys that have tried to connect and that nobody has decided on: fingerprint, address, tries, first_at, last_at."""
        rows: list[Row] = await self._call("keys.pending", {}, timeout)
        return rows

    async def accept(self, name: str, fingerprint: str, *, role: str = "worker", timeout: float | None = None) -> Row:
        """Admit the key of this fingerprint, which has tried to connect: its row.

        Raises:
            NoSuchKey: none of this fingerprint waits. InvalidKey: the name or role is not possible or taken.
        """
        args = {
            "name": checked_text("name", name), "fingerprint": checked_text("fingerprint", fingerprint),
            "role": checked_text("role", role),
        }  # fmt: skip
        row: Row = await self._call("keys.accept", args, timeout)
        return row

    async def reject(self, fingerprint: str, *, timeout: float | None = None) -> Row:
        """Let the key of this fingerprint wait no longer: the row that it had. Raises NoSuchKey."""
        row: Row = await self._call("keys.reject", {"fingerprint": checked_text("fingerprint", fingerprint)}, timeout)
        return row

    async def revoke(self, name: str, *, force: bool = False, timeout: float | None = None) -> Row:
        """Admit the key of this name no longer: {"name", "role", "revoked_at", "public", "tokens_revoked"}. Raises NoSuchKey.

        Args:
            force: also when it is a key of the master's own home, or the own one: then no answer comes.
        """
        row: Row = await self._call("keys.revoke", {"name": checked_text("name", name), "force": _flag("force", force)}, timeout)
        return row

    async def rotate(self, name: str, *, overlap_s: float = 600.0, now: bool = False, timeout: float | None = None) -> Row:
        """Have the owner of a key make another one: {"name", "state", "old", "new", "until"}; ``state`` is ``rotated``, or
        ``wanted`` while its owner is away.

        Args:
            overlap_s: how long the older key is admitted besides. now: of the master's own key, do not wait for others.
        """
        args = {
            "name": checked_text("name", name), "overlap_s": checked_seconds("overlap_s", overlap_s, positive=True),
            "now": _flag("now", now),
        }  # fmt: skip
        row: Row = await self._call("keys.rotate", args, timeout)
        return row

    async def tokens(self, *, timeout: float | None = None) -> list[Row]:
        """The join tokens, the newest last: id, role, name, state, uses_left, created_at, expires_at, creator."""
        rows: list[Row] = await self._call("token.ls", {}, timeout)
        return rows

    async def create_token(
        self, role: str, *, name: str = "", ttl_s: float = HOUR_S, uses: int = 1, force: bool = False,
        timeout: float | None = None,
    ) -> Row:  # fmt: skip
        """Make a join token: its row, and its secret text in ``token``. It ends with the key that made it.

        Args:
            role: of the keys that join by it. name: of the one key that does; empty: the joiner may wish.
            ttl_s: how long it is valid, at most 30 days. uses: how many keys may join by it.
            force: also a token for administrators.

        Raises:
            InvalidKey: it is out of its bounds, or the name is taken.
        """
        if not isinstance(uses, int) or isinstance(uses, bool):
            raise UsageError(f"uses is a number, not {str(uses)[:40]!r}")
        args = {
            "role": checked_text("role", role), "name": checked_text("name", name),
            "ttl_s": checked_seconds("ttl_s", ttl_s, positive=True), "uses": uses, "force": _flag("force", force),
        }  # fmt: skip
        row: Row = await self._call("token.create", args, timeout)
        return row

    async def revoke_token(self, id: str, *, timeout: float | None = None) -> Row:
        """Let the join token of this id admit nobody any more: its row. Raises NoSuchKey."""
        row: Row = await self._call("token.revoke", {"id": checked_text("id", id)}, timeout)
        return row

    async def _call(self, name: str, args: Row, timeout: float | None) -> Any:
        return await self._caller.call(name, args, target=MASTER, timeout=timeout)


class Keys:
    """AsyncKeys for programs without an event loop: the same, blocking."""

    def __init__(self, calls: AsyncKeys, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._calls, self._run = calls, run

    def __call__(self, *, timeout: float | None = None) -> list[Row]:
        """See AsyncKeys."""
        rows: list[Row] = self._run(self._calls(timeout=timeout))
        return rows

    def pending(self, *, timeout: float | None = None) -> list[Row]:
        """See AsyncKeys.pending."""
        rows: list[Row] = self._run(self._calls.pending(timeout=timeout))
        return rows

    def accept(self, name: str, fingerprint: str, *, role: str = "worker", timeout: float | None = None) -> Row:
        """See AsyncKeys.accept."""
        row: Row = self._run(self._calls.accept(name, fingerprint, role=role, timeout=timeout))
        return row

    def reject(self, fingerprint: str, *, timeout: float | None = None) -> Row:
        """See AsyncKeys.reject."""
        row: Row = self._run(self._calls.reject(fingerprint, timeout=timeout))
        return row

    def revoke(self, name: str, *, force: bool = False, timeout: float | None = None) -> Row:
        """See AsyncKeys.revoke."""
        row: Row = self._run(self._calls.revoke(name, force=force, timeout=timeout))
        return row

    def rotate(self, name: str, *, overlap_s: float = 600.0, now: bool = False, timeout: float | None = None) -> Row:
        """See AsyncKeys.rotate."""
        row: Row = self._run(self._calls.rotate(name, overlap_s=overlap_s, now=now, timeout=timeout))
        return row

    def tokens(self, *, timeout: float | None = None) -> list[Row]:
        """See AsyncKeys.tokens."""
        rows: list[Row] = self._run(self._calls.tokens(timeout=timeout))
        return rows

    def create_token(
        self, role: str, *, name: str = "", ttl_s: float = HOUR_S, uses: int = 1, force: bool = False,
        timeout: float | None = None,
    ) -> Row:  # fmt: skip
        """See AsyncKeys.create_token."""
        row: Row = self._run(self._calls.create_token(role, name=name, ttl_s=ttl_s, uses=uses, force=force, timeout=timeout))
        return row

    def revoke_token(self, id: str, *, timeout: float | None = None) -> Row:
        """See AsyncKeys.revoke_token."""
        row: Row = self._run(self._calls.revoke_token(id, timeout=timeout))
        return row


def _flag(parameter: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{parameter} is True or False, not {str(value)[:40]!r}")
    return value
