"""Admission at a master: keys that join by a token, and keys that wait to be accepted.

Rules kept here:
- a JOIN is decided in a thread, on the ring's file under its lock: the loop never waits for a disk or another process;
- all JOINs that wait are decided in one change of the ring; a JOINED says only what is on disk;
- why one was refused is told here, in the log and an event; the one who asked hears "refused";
- an admitted key may ask what it is called: so an answer that was lost costs nothing;
- what waits is bounded: JOINs, one of a connection, and strangers; the file of strangers is written at most once in WRITE_S;
- from where too many JOINs were refused, the next are answered without a look at the ring; so are all when it was too many;
- events of tokens come from what changed in the ring, whoever changed it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from zcluster.brokers.admission_functions import KeyFunctions
from zcluster.config import Loaded, advertised
from zcluster.core.joining import Strangers
from zcluster.core.master import Master
from zcluster.core.peers import Event, Identity, Route
from zcluster.core.tries import Tries
from zcluster.dapi.function import Function
from zcluster.errors import Busy, ConfigError, InvalidKey, NotAllowed, ZClusterError
from zcluster.keys import DOOR_ROLES, JOINER, MAX_ENTRIES, Content, Entry, Ring, Token, fingerprint, known_workers
from zcluster.keys.pending import write_pending
from zcluster.keys.rights import of_configuration
from zcluster.keys.tokens import Joins, refusal
from zcluster.net.connections import group
from zcluster.nodes.desk import Desk
from zcluster.nodes.tasks import keep_running
from zcluster.process.failpoints import failpoint
from zcluster.wire import Bye, Message, Refusal
from zcluster.wire.joining import Join, Joined, KnownKey

Result = TypeVar("Result")

MAX_WAITING = 1024
WRITE_S = 1.0

REFUSED = "refused"
"""All that a stranger hears."""

NOT_NOTED = Busy("the key could not be noted", hint="try again")
"""The ring could not be changed: it is locked, or the disk is full. Nobody is refused for that."""


@dataclass(frozen=True)
class Asked:
    """A JOIN that waits to be decided."""

    route: Route
    identity: Identity
    message: Join
    at_s: float


class Admission:
    """Part of a master.

    Args:
        look: look at the ring now: it was changed here.
        address_of: where the connection of a route comes from; empty when nobody knows.
    """

    def __init__(
        self, desk: Desk, machine: Master, ring: Ring, look: Callable[[], None], address_of: Callable[[Route], str]
    ) -> None:
        self._desk, self._machine, self._ring = desk, machine, ring
        self._look, self._address_of = look, address_of
        self._writer = Ring(ring.path)
        """Of the thread that decides; the loop's is read by the loop alone."""
        self._deciding = asyncio.Lock()
        self._waiting: dict[Route, Asked] = {}
        self._refusals = Tries(0.0)
        self._asked = asyncio.Event()
        self.strangers = Strangers()
        self._strangers_are_new = asyncio.Event()
        self._functions = KeyFunctions(desk, ring, self.decide, lambda: self.strangers.all)
        self._tokens: Mapping[str, Token] = dict(ring.tokens)
        self._tasks: list[asyncio.Task[None]] = []
        self._addresses: tuple[str, ...] = ()
        self._publish: tuple[str, ...] = ()
        machine.attached.unannounced[Join.kind] = self.joins

    # -- Part -----------------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """The functions ``keys.*`` and ``token.*``."""
        return self._functions.functions()

    async def start(self) -> None:
        """Decide from now on."""
        self.apply(self._desk.loaded())
        self._strangers_are_new.set()  # those of the life before are nobody's any more
        logger = self._desk.logger
        self._tasks = [
            asyncio.ensure_future(keep_running(self._run, logger, "admitting keys by their tokens")),
            asyncio.ensure_future(keep_running(self._write_strangers, logger, "noting the keys that wait")),
        ]

    def apply(self, loaded: Loaded) -> None:
        """Where the master is reached may be another."""
        told = loaded.settings.master
        try:
            known = advertised(told.bind, told.publish, told.advertise, socket.gethostname())
            self._addresses, self._publish = known.addresses, known.publish
        except ConfigError:
            self._addresses = self._publish = ()  # the port is the system's choice: the joiner keeps what it has
        self._functions.addresses = self._addresses

    async def close(self) -> None:
        """Decide no more; what is being written is written to its end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def ring_changed(self) -> None:
        """The ring is another: what became of its tokens is told, and who was decided on waits no longer."""
        before, self._tokens = self._tokens, dict(self._ring.tokens)
        for event in token_events(before, self._tokens):
            self._desk.note(event)
        decided = [each.public for each in self.strangers.all if not self._waits(each.public)]
        for public in decided:
            self.strangers.forget(public)
        if decided:
            self._strangers_are_new.set()

    # -- who was denied -------------------------------------------------------------------------------------------------

    def denied(self, public: str, address: str) -> str:
        """ZAP has denied ``public``; returns why, for the log."""
        token = self._ring.token_of(public)
        short = fingerprint(public)
        if token is not None:
            reason = f"the token {token.id} is {refusal(token, self._desk.wall_s()) or 'for joining only'}"
            fields = {"id": token.id, "reason": reason, "address": address}
            self._desk.note(Event("key_refused", fields, "warning"))
            return reason
        if not self._waits(public):
            reason = "revoked" if self._ring.is_revoked(public) else "rejected"
            self._desk.note(Event("key_refused", {"id": short, "reason": reason, "address": address}, "warning"))
            return f"the key {short} is {reason}"
        if self.strangers.tried(public, address, self._desk.wall_s(), group(address)):
            self._desk.note(Event("key_pending", {"fingerprint": short, "address": address}))
        self._strangers_are_new.set()
        return f"unknown key {short}"

    def _waits(self, public: str) -> bool:
        """Whether nobody has decided on this key."""
        ring = self._ring
        return not ring.is_revoked(public) and not ring.is_rejected(public) and ring.by_public(public) is None

    async def _write_strangers(self) -> None:
        while True:
            await self._strangers_are_new.wait()
            self._strangers_are_new.clear()
            await self._write_pending()
            await asyncio.sleep(WRITE_S)

    async def _write_pending(self) -> None:
        try:
            await asyncio.to_thread(write_pending, self._desk.home, self.strangers.all)
        except InvalidKey as error:
            self._desk.logger.error("the keys that wait cannot be noted: %s", error)

    # -- JOIN -----------------------------------------------------------------------------------------------------------

    def joins(self, route: Route, identity: Identity, message: Message, now: float) -> None:
        """A connection begins with JOIN."""
        if not isinstance(message, Join) or not isinstance(route, bytes):
            self._answer(route, Bye(code="no_session", message="say HELLO first"))
        elif not self._refusals.would(group(self._address_of(route)), now):
            self._machine.counters.add("join_limited")
            self._answer(route, Refusal(code=Busy.code, about=Join.kind, message="too many were refused", hint="try again later"))
        elif identity.role != JOINER:
            entry = self._ring.by_id(identity.key)
            mine = entry is not None and message.public in entry.publics
            asked = Asked(route, identity, message, now)
            self._answer(route, self._joined(entry) if entry is not None and mine else self._refusal(asked, "not its own key"))
        elif len(self._waiting) >= MAX_WAITING or route in self._waiting:
            self._machine.counters.add("join_busy")
            self._answer(route, Refusal(code=Busy.code, about=Join.kind, message="many others join now", hint="try again"))
        else:
            self._waiting[route] = Asked(route, identity, message, now)
            self._asked.set()

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            batch, self._waiting = list(self._waiting.values()), {}
            await self._decide_on(batch)

    async def _decide_on(self, batch: list[Asked]) -> None:
        outcomes: list[Entry | ZClusterError]
        try:
            outcomes = await self.decide(lambda ring: ring.change(lambda content: self._admit(content, batch)))
        except ZClusterError as error:
            self._desk.logger.error("no key was admitted, the ring cannot be changed: %s", error)
            outcomes = [NOT_NOTED] * len(batch)
        failpoint("join.before_answer")
        for asked, outcome in zip(batch, outcomes, strict=True):
            self._answer(asked.route, self._told(asked, outcome))

    def _admit(self, content: Content, batch: list[Asked]) -> tuple[Content, list[Entry | ZClusterError]]:
        """Runs in the thread, under the ring's lock."""
        outcomes: list[Entry | ZClusterError] = []
        joins = Joins(content, self._desk.wall_s())
        for asked in batch:
            try:
                if joins.count >= MAX_ENTRIES:
                    raise InvalidKey(f"the ring is full: it holds {MAX_ENTRIES} keys")
                outcomes.append(joins.join(asked.identity.key, asked.message.public, asked.message.name))
            except ZClusterError as error:
                outcomes.append(error)
        return joins.content, outcomes

    async def decide(self, change: Callable[[Ring], Result]) -> Result:
        """Change the ring in a thread, then have everybody know of it."""
        async with self._deciding:
            result = await asyncio.to_thread(change, self._writer)
        self._look()
        return result

    def _told(self, asked: Asked, outcome: Entry | ZClusterError) -> Message:
        if isinstance(outcome, Entry):
            return self._joined(outcome)
        if outcome is NOT_NOTED:
            return Refusal(code=Busy.code, about=Join.kind, message=NOT_NOTED.message, hint=NOT_NOTED.hint)
        return self._refusal(asked, outcome.message)

    def _refusal(self, asked: Asked, reason: str) -> Refusal:
        about = {"id": asked.identity.name, "wish": asked.message.name, "address": self._address_of(asked.route)}
        fields = {**about, "reason": reason}
        self._refusals.allow(group(about["address"]), asked.at_s)
        self._desk.note(Event("key_refused", fields, "warning"))
        return Refusal(code=NotAllowed.code, about=Join.kind, message=REFUSED)

    def _joined(self, entry: Entry) -> Joined:
        doors = entry.role in DOOR_ROLES or of_configuration(entry.role)
        nodes = [KnownKey(node.name, node.public, node.next) for node in known_workers(self._ring)] if doors else []
        return Joined(
            name=entry.name, role=entry.role, cluster=self._machine.cluster, addresses=list(self._addresses),
            publish=list(self._publish), nodes=nodes,
        )  # fmt: skip

    def _answer(self, route: Route, message: Message) -> None:
        self._machine.roster.farewells[route] = message
        self._desk.wake()


def token_events(before: Mapping[str, Token], after: Mapping[str, Token]) -> list[Event]:
    """What became of tokens from one ring to the next."""
    told = []
    for id_, token in after.items():
        old = before.get(id_)
        about = {"id": id_, "role": token.role}
        if old is None:
            fields = {**about, "for": token.name, "uses": token.uses_left, "expires_at": token.expires_at}
            told.append(Event("token_created", fields))
            continue
        if token.uses_left < old.uses_left:
            told.append(Event("token_used", {**about, "times": old.uses_left - token.uses_left, "left": token.uses_left}))
        if token.revoked_at and not old.revoked_at:
            told.append(Event("token_revoked", about, "warning"))
    return told
