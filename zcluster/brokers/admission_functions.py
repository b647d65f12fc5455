"""The functions ``keys.*`` and ``token.*`` of a master, for administrators.

Rules kept here:
- each change is made in the ring's file, in a thread, and holds when the function answers;
- a secret is given once, by ``token.create``, and never to a job: its outcome would be kept;
- a token belongs to the key that made it, and ends with it;
- who is a part of an administrator by the configuration lets nobody in who may do more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Protocol, TypeVar

import msgspec

from zcluster.config import Home
from zcluster.core.joining import Stranger
from zcluster.dapi.context import Context
from zcluster.dapi.function import Function, function
from zcluster.errors import InvalidKey, NotAllowed, UsageError
from zcluster.keys import KeyFile, Ring, own_key
from zcluster.keys.pending import accept, find, reject, waiting
from zcluster.keys.rights import ROLES, of_configuration
from zcluster.keys.ringfile import MAX_TOKEN_USES
from zcluster.keys.rows import key_row, pending_row, revoked_row, token_row
from zcluster.keys.tokens import TokenText, addresses_of, create_token, revoke_token
from zcluster.nodes.desk import Desk

Result = TypeVar("Result")
Row = dict[str, Any]
KeyName = Annotated[str, msgspec.Meta(max_length=256)]
RoleName = Annotated[str, msgspec.Meta(max_length=64)]
Fingerprint = Annotated[str, msgspec.Meta(max_length=256)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Uses = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKEN_USES)]
HOUR_S = 3600.0


class Decide(Protocol):
    """Changes the ring in a thread; when it is done, the change holds."""

    def __call__(self, change: Callable[[Ring], Result]) -> Awaitable[Result]: ...


class KeyFunctions:
    """The functions.

    Args:
        strangers: the keys that have tried to connect.
    """

    def __init__(self, desk: Desk, ring: Ring, decide: Decide, strangers: Callable[[], list[Stranger]]) -> None:
        self._desk, self._ring, self._decide, self._strangers = desk, ring, decide, strangers
        self.addresses: tuple[str, ...] = ()
        """Where the master is reached."""

    def _bases(self) -> dict[str, str]:
        """The roles of the configuration, and what each is a part of."""
        return {each.name: each.base for each in self._desk.loaded().settings.roles.role}

    def _check_gives(self, context: Context, role: str) -> None:
        """Raises InvalidKey when there is no such role, NotAllowed when its keys may do more than the caller."""
        bases = self._bases()
        if role not in (*ROLES, *bases):
            raise InvalidKey(f"there is no role {role!r}", hint=f"the roles are {', '.join(dict.fromkeys((*ROLES, *bases)))}")
        mine = self._ring.get(context.caller).role
        if of_configuration(mine) and role != mine and bases.get(role, role) in ("admin", "master"):
            raise NotAllowed(f"a key of role {mine} lets nobody in as {role}", hint="ask an administrator of role admin")

    def functions(self) -> dict[str, Function]:
        """All of them."""
        made = [*self._looking(), *self._by_hand(), *self._tokens()]
        return {found.name: found for found in (Function(call, own_errors=True) for call in made)}

    def _looking(self) -> list[Callable[..., Any]]:
        @function("keys.ls", role="admin", idempotent=True)
        async def list_keys() -> list[Row]:
            """A row for each admitted key, by name."""
            entries = self._ring.entries
            return [key_row(entries[name]) for name in sorted(entries)]

        @function("keys.pending", role="admin", idempotent=True)
        async def pending() -> list[Row]:
            """A row for each key that has tried to connect and that nobody has decided on, the last one to try last."""
            return [pending_row(each) for each in waiting(self._strangers(), self._ring)]

        @function("token.ls", role="admin", idempotent=True)
        async def list_tokens() -> list[Row]:
            """A row for each join token, the newest last; never its secret."""
            now_s = self._desk.wall_s()
            tokens = sorted(self._ring.tokens.values(), key=lambda token: (token.created_at, token.id))
            return [token_row(token, self._ring, now_s) for token in tokens]

        return [list_keys, pending, list_tokens]

    def _by_hand(self) -> list[Callable[..., Any]]:
        home = self._desk.home

        @function("keys.accept", role="admin")
        async def accept_(name: KeyName, fingerprint: Fingerprint, context: Context, role: RoleName = "worker") -> Row:
            """Admit the key of this fingerprint, which has tried to connect: its row."""
            self._check_gives(context, role)
            stranger = find(waiting(self._strangers(), self._ring), fingerprint)
            return key_row(await self._decide(lambda ring: accept(ring, stranger.public, name, role)))

        @function("keys.reject", role="admin")
        async def reject_(fingerprint: Fingerprint) -> Row:
            """Let the key of this fingerprint wait no longer: the row that it had."""
            stranger = find(waiting(self._strangers(), self._ring), fingerprint)
            await self._decide(lambda ring: reject(ring, stranger.public))
            return pending_row(stranger)

        @function("keys.revoke", role="admin")
        async def revoke(name: KeyName, context: Context, force: bool = False) -> Row:
            """Admit the key of this name no longer; its connections are cut, its tokens are worth nothing. The keys of the
            master's own home need ``force``, and so does the one that asks: it is cut before it hears the answer."""
            if name == context.caller and not force:
                raise UsageError(f"{name!r} is the key that asks", hint="force revokes it; there will be no answer")
            return await self._decide(lambda ring: _revoke(ring, home, name, force))

        return [accept_, reject_, revoke]

    def _tokens(self) -> list[Callable[..., Any]]:
        home = self._desk.home

        @function("token.create", role="admin")
        async def create(
            role: RoleName, context: Context, name: KeyName = "", ttl_s: Seconds = HOUR_S, uses: Uses = 1, force: bool = False
        ) -> Row:
            """Make a join token: its row, and in ``token`` the secret text that `zcluster worker --join TOKEN` takes. It is
            told this once. A token for administrators needs ``force``."""
            if context.job:
                raise UsageError("a token is a secret, which no job's outcome may hold", hint="call it without the queue")
            self._check_gives(context, role)
            caller, bases = self._ring.get(context.caller), self._bases()

            def make(ring: Ring) -> Row:
                master = KeyFile.read(home.master_key)
                addresses = addresses_of(self.addresses, master.addresses)
                token, pair = create_token(
                    ring, role, name=name, ttl_s=ttl_s, uses=uses, creator=caller.id, force=force, bases=bases
                )
                text = TokenText(pair, master.pair.public, master.cluster, addresses, role, name)
                return {**token_row(token, ring, self._desk.wall_s()), "token": text.text}

            return await self._decide(make)

        @function("token.revoke", role="admin", idempotent=True)
        async def revoke(id: KeyName) -> Row:
            """Let the join token of this id admit nobody any more: its row. Who came by it stays admitted."""
            now_s = self._desk.wall_s()
            return await self._decide(lambda ring: token_row(revoke_token(ring, id), ring, now_s))

        return [create, revoke]


def _revoke(ring: Ring, home: Home, name: str, force: bool) -> Row:
    ring.reload_if_changed()
    own = own_key(home, ring.get(name))
    if own is not None and not force:
        raise UsageError(f"{name!r} is the {own.stem} key of the master's own home", hint="force revokes it")
    before = sum(not token.revoked_at for token in ring.tokens.values())
    record = ring.revoke(name)
    return revoked_row(record, before - sum(not token.revoked_at for token in ring.tokens.values()))
