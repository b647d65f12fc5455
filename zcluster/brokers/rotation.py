"""Rotation at a master: who is to have another key is told so, and who says one has it put into the ring.

Rules kept here:
- a peer rotates its own key, over a connection of its own: what a worker carries it could have made up;
- who was not asked to rotates its key OWN_AT_ONCE times, and once more in OWN_EACH_S; an administrator may ask at any time;
- the ring is changed in a thread, under its lock; the peer is told when the change is on disk and holds;
- who is away is told with its next session: the ring remembers who is to have another key;
- the other sessions of a key that was rotated are told, so that they follow it before the older one ends;
- who may use a worker's door is told the worker's next key while both are good.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import msgspec

from zcluster.brokers.masterkey import Decide, MasterKey
from zcluster.brokers.visits import Bring, Visits
from zcluster.config import Loaded
from zcluster.core.master import Master
from zcluster.core.peers import LOCAL, Event, Peer
from zcluster.core.roster import AGENT_ROLE, SHARED_ROLES
from zcluster.core.tries import Bucket
from zcluster.dapi.function import Function, function
from zcluster.errors import Busy, InvalidKey, NotAllowed, PeerError, ZClusterError, error_from_dict
from zcluster.keys import Entry, Ring, fingerprint
from zcluster.keys.ringfile import instant
from zcluster.keys.rotation import DEFAULT_OVERLAP_S, follow, forget_ended, rotated_row, want, want_no_more
from zcluster.nodes.desk import Desk
from zcluster.nodes.tasks import keep_running
from zcluster.process.failpoints import failpoint
from zcluster.wire import Hello, Message, Sealed, encode
from zcluster.wire.rotation import MAX_OVERLAP_S, NextKey, Rotate, Rotated

KeyName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=MAX_OVERLAP_S)]

ANSWER_S = 5.0
"""How long the one who asks waits for the owner of the key."""
RETRY_S = 1.0
OWN_AT_ONCE, OWN_EACH_S = 6, 60.0
"""How often a key is rotated because its owner wishes it: each time is a write of the ring that all nodes hear of."""
MAX_TOLD = 256
"""Doors with two keys, of which a session that opens is told."""


class Rotation:
    """A part of a master, and an attachment of its sessions."""

    kinds = frozenset({Rotated.kind, NextKey.kind})

    def __init__(self, desk: Desk, machine: Master, ring: Ring, decide: Decide, own: MasterKey, bring: Bring) -> None:
        self._desk, self._machine, self._ring, self._decide, self._own = desk, machine, ring, decide, own
        self._visits = Visits(desk, self._absent_agents, bring)
        self._before: Mapping[str, Entry] = dict(ring.entries)
        self._rotating = _doors_rotating(ring.entries)
        """The workers whose doors have two keys."""
        self._following: dict[str, Peer] = {}
        """Of keys of which a rotation is being written, by id: who asked."""
        self._waiting: dict[str, list[asyncio.Future[Entry]]] = {}
        """By id: who waits for its owner."""
        self._own_pace: dict[str, Bucket] = {}
        """By id, of keys that their owners have rotated of late."""
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- a part -----------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """The function ``keys.rotate``."""

        @function("keys.rotate", role="admin")
        async def rotate(name: KeyName, overlap_s: Seconds = DEFAULT_OVERLAP_S, now: bool = False) -> dict[str, Any]:
            """Have the owner of this key make another; the older one is admitted for ``overlap_s`` more. ``state`` is
            ``rotated``, or ``wanted`` when its owner is away: it happens when it comes. With the master's name: its own key,
            which others are told first; ``now`` does not wait for them."""
            if name == self._desk.name:
                row = await self._own.begin(overlap_s, now)
                self._visits.look()
                return row
            if now:
                raise InvalidKey("a key's owner makes the next one at once, or when it comes", hint="leave `now` out")
            return await self._rotate(name, overlap_s)

        return {"keys.rotate": Function(rotate, own_errors=True)}

    async def start(self) -> None:
        """Speak on the sessions, and drop keys of before at their time."""
        self._machine.attach(self)
        self._own.start()
        self._visits.start()
        self._spawn(keep_running(self._drop_ended, self._desk.logger, "dropping the keys of before"))

    def apply(self, loaded: Loaded) -> None:
        """Nothing of this is configured."""

    async def close(self) -> None:
        """Stop; what is being written is written to its end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._visits.close()
        await self._own.close()

    def ring_changed(self) -> None:
        """The ring is another: who has another key, or is to have one?"""
        self._changed.set()
        before, self._before = self._before, dict(self._ring.entries)
        self._rotating = _doors_rotating(self._before)
        for name, entry in self._before.items():
            old = before.get(name)
            if old is entry or old is None or old.id != entry.id:
                continue
            if old.public != entry.public:
                self._rotated(old, entry)
            elif entry.rotate_s and not old.rotate_s:
                self._tell_to_rotate(entry)
            elif old.previous and not entry.previous and entry.role == "worker":
                self._tell_of_door(NextKey(public=entry.public, node=name, now=True), entry.id)

    # -- an attachment ----------------------------------------------------------------------------------------------

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """A session: is it to have another key, and which keys is it to know?"""
        if peer.route == LOCAL:
            return
        entry = self._ring.by_id(peer.identity.key)
        if entry is not None and entry.rotate_s and isinstance(peer.route, bytes):
            self._machine.tell(peer, Rotate(overlap_s=entry.rotate_s))
        if self._own.following:
            self._machine.tell(peer, NextKey(public=self._own.following))
        if peer.identity.role in SHARED_ROLES or peer.identity.role == AGENT_ROLE or peer.node is not None:
            for each in self._rotating:
                self._machine.tell(peer, NextKey(public=each.public, node=each.name))

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        """Nothing to forget."""

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        """ROTATED, or NEXTKEY: it is known there."""
        if isinstance(message, NextKey):
            if not message.node and isinstance(peer.route, bytes):  # a worker must not say what those it carries know
                self._own.known(peer, message)
                self._visits.done(peer.identity.name)
            return
        if not isinstance(message, Rotated):
            raise PeerError("this is for a master to say")
        id_ = peer.identity.key
        if not isinstance(peer.route, bytes):
            raise NotAllowed("a key is rotated over a connection of its own", hint="connect to the master, not to a door")
        if id_ in self._following:
            raise Busy("this key is being rotated", hint="one process does it for all that share the key", retry_after_s=1.0)
        self._following[id_] = peer
        self._spawn(self._follow(peer, message))

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _rotate(self, name: str, overlap_s: float) -> dict[str, Any]:
        now_s = self._desk.wall_s()
        old = self._ring.get(name)
        future: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(old.id, [])
        waiting.append(future)
        try:
            await self._decide(lambda ring: want(ring, name, overlap_s, now_s))
            if not self._sessions(old.id) and old.role != AGENT_ROLE:
                return rotated_row(name, old.public)
            async with asyncio.timeout(ANSWER_S):
                entry = await future
            return rotated_row(name, old.public, entry.public, entry.previous[-1].until if entry.previous else "")
        except TimeoutError:
            return rotated_row(name, old.public)
        finally:
            waiting.remove(future)
            if not waiting:
                self._waiting.pop(old.id, None)

    def _sessions(self, id_: str) -> list[Peer]:
        """The sessions of a key that have a connection of their own, the newest last."""
        return [peer for peer in self._machine.roster.sessions(id_) if isinstance(peer.route, bytes)]

    def _tell_to_rotate(self, entry: Entry) -> None:
        for peer in self._sessions(entry.id)[-1:]:
            self._machine.tell(peer, Rotate(overlap_s=entry.rotate_s))
            self._desk.wake()
            return
        if entry.role == AGENT_ROLE:
            self._visits.look()

    def _absent_agents(self) -> Iterator[str]:
        """Agents that are to have another key, or to hear of the master's next one, and have no session here."""
        for name, entry in self._ring.entries.items():
            if entry.role == AGENT_ROLE and (entry.rotate_s or self._own.unaware(entry.id)) and not self._sessions(entry.id):
                yield name

    async def _follow(self, peer: Peer, said: Rotated) -> None:
        id_, now_s = peer.identity.key, self._desk.wall_s()
        try:
            if said.code or not said.public:
                await self._cannot(peer, said)
                return
            if said.public == self._own.following:
                raise InvalidKey("this public key is to be the master's", hint="make a new pair")
            unasked = self._pace(id_)
            entry = await self._decide(lambda ring: follow(ring, id_, said.public, said.overlap_s, now_s, unasked=unasked))
            failpoint("rotation.in_ring")
            answer = Rotated(public=entry.public, overlap_s=_left_s(entry, now_s))
        except ZClusterError as error:
            answer = await self._failed(peer, said, error)
        finally:
            del self._following[id_]
        self._machine.tell(peer, answer)
        self._desk.wake()

    def _pace(self, id_: str) -> Callable[[], None]:
        """What counts one more rotation that the owner of ``id_`` wishes, or refuses it. One at a time uses it."""
        now = self._desk.clock()
        for each in [each for each, bucket in self._own_pace.items() if bucket.any(now, OWN_AT_ONCE)]:
            del self._own_pace[each]  # as good as a new one
        bucket = self._own_pace.setdefault(id_, Bucket(OWN_AT_ONCE, 1.0 / OWN_EACH_S, now))

        def count() -> None:
            if not bucket.take(now):
                wait_s = math.ceil(bucket.wait_s(now))
                hint = f"rotate it again in {wait_s} s; or an administrator does it: zcluster keys rotate NAME"
                raise Busy("this key was rotated too often of late", hint=hint, retry_after_s=float(wait_s))

        return count

    async def _failed(self, peer: Peer, said: Rotated, error: ZClusterError) -> Rotated:
        """The ring could not be changed. Could it not? A disk that fails may have written it: its owner must not give up a key
        that is admitted."""
        with contextlib.suppress(ZClusterError):
            entry = await self._decide(lambda ring: ring.change(lambda content: (content, ring.by_id(peer.identity.key))))
            if entry is not None and entry.public == said.public:
                return Rotated(public=entry.public, overlap_s=_left_s(entry, self._desk.wall_s()))
            self._refused(peer, error)
            return Rotated(public=said.public, code=error.code, message=error.message[:1000], hint=error.hint[:1000])
        # It cannot even be read: nothing is sure, and the owner keeps what it has and asks again.
        self._refused(peer, error)
        return Rotated(code=error.code, message=error.message[:1000], hint=error.hint[:1000])

    async def _cannot(self, peer: Peer, said: Rotated) -> None:
        """Its owner cannot have another key: it says why."""
        await self._decide(lambda ring: want_no_more(ring, peer.identity.key))
        code = said.code or InvalidKey.code
        self._refused(peer, error_from_dict({"code": code, "message": said.message or "it says not why", "hint": said.hint}))

    def _refused(self, peer: Peer, error: ZClusterError) -> None:
        fields = {"name": peer.identity.name, "reason": f"it was to have another key: {error.message}"}
        self._desk.note(Event("key_refused", fields, "warning"))
        self._visits.done(peer.identity.name)
        for future in self._waiting.get(peer.identity.key, ()):
            if not future.done():
                future.set_exception(error)

    def _rotated(self, old: Entry, entry: Entry) -> None:
        """A key was followed by another: tell it, and those who have to know."""
        fields = {"name": entry.name, "role": entry.role, "old": fingerprint(old.public), "new": fingerprint(entry.public)}
        self._desk.note(Event("key_rotated", fields))
        self._visits.done(entry.name)
        for future in self._waiting.get(entry.id, ()):
            if not future.done():
                future.set_result(entry)
        told = Rotated(public=entry.public, overlap_s=_left_s(entry, self._desk.wall_s()))
        for peer in self._machine.roster.sessions(entry.id):
            if isinstance(peer.route, bytes) and peer is not self._following.get(entry.id):
                self._machine.tell(peer, told)
        if entry.role == "worker":
            self._tell_of_door(NextKey(public=entry.public, node=entry.name), entry.id)
        self._desk.wake()

    def _tell_of_door(self, told: NextKey, id_: str) -> None:
        """Tell everybody but the worker itself."""
        sealed = Sealed(encode(told, (b"",)))  # once: there may be many
        for peer in self._machine.roster.peers.values():
            if peer.identity.key != id_ and peer.route != LOCAL:
                self._machine.tell(peer, sealed)
        self._desk.wake()

    async def _drop_ended(self) -> None:
        """Drop keys of before when their time is over; the ring's file, and with it the doors' copies, say so."""
        while True:
            self._changed.clear()
            ends = [instant(each.until) for entry in self._ring.entries.values() for each in entry.previous]
            left_s = min(ends) - self._desk.wall_s() if ends else None
            if left_s is not None and left_s <= 0:
                await self._forget_ended()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changed.wait()

    async def _forget_ended(self) -> None:
        now_s = self._desk.wall_s()
        try:
            await self._decide(lambda ring: forget_ended(ring, now_s))
        except ZClusterError as error:
            self._desk.logger.error("keys of before stay in the ring's file, though nobody is admitted by them: %s", error)
            await asyncio.sleep(RETRY_S)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _doors_rotating(entries: Mapping[str, Entry]) -> list[Entry]:
    return [entry for entry in entries.values() if entry.previous and entry.role == "worker"][:MAX_TOLD]


def _left_s(entry: Entry, now_s: float) -> float:
    """For how long a key of before is admitted yet."""
    return max([0.0, *(instant(each.until) - now_s for each in entry.previous)])

