"""The rotation of the master's own key: everybody knows the next one before it is the one.

Rules kept here:
- the next pair is in the master's key file before anybody hears of it, and leaves it only by becoming the key: whenever the
  master is killed, what it listens with is a key that everybody knows who has heard of the rotation;
- the ring has the new key before the key file does: a master whose key file the ring does not know would not start;
- listening with the new key ends no connection (net/rebinding.py); who connects from then on needs it;
- it happens at the end of the overlap, when every admitted key has heard of it, or when it is told to;
- a step that was begun is done to its end, though who asked for it goes away;
- who knows the next key is looked at now and then, however often it is said: there may be many keys.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

from zcluster.core.master import Master
from zcluster.core.peers import LOCAL, Peer
from zcluster.errors import Busy, InvalidKey, ZClusterError
from zcluster.keys import KeyFile, KeyPair, Ring, fingerprint
from zcluster.keys.ringfile import iso
from zcluster.keys.rotation import DEFAULT_OVERLAP_S, OwnKey, check_overlap, follow, want, want_no_more
from zcluster.nodes.desk import Desk
from zcluster.process.failpoints import failpoint
from zcluster.wire import Sealed, encode
from zcluster.wire.rotation import NextKey

Result = TypeVar("Result")
RETRY_S = 5.0
LOOK_S = 1.0
"""How often it is looked whether all know the next key."""
MAX_NAMED = 100
"""Names of keys that have not heard of it, in one answer."""


class Decide(Protocol):
    """Changes the ring in a thread; when it is done, the change holds."""

    def __call__(self, change: Callable[[Ring], Result]) -> Awaitable[Result]: ...


class MasterKey:
    """The master's key.

    Args:
        own: as its file says.
        rekey: listen with this pair. Raises Unreachable when the system does not let us.
    """

    def __init__(
        self, desk: Desk, machine: Master, ring: Ring, decide: Decide, own: OwnKey, rekey: Callable[[KeyPair], None]
    ) -> None:
        self._desk, self._machine, self._ring, self._decide = desk, machine, ring, decide
        self._own, self._rekey = own, rekey
        self._know: dict[str, str] = {}
        """By id of a key: why it could not keep the next one, or empty."""
        self._until_s = 0.0
        """When it happens, seconds since 1970; 0: nothing happens."""
        self._turning = asyncio.Lock()
        self._heard = asyncio.Event()
        """Somebody has said that the next key is known there."""
        self._task: asyncio.Task[None] | None = None
        self._steps: set[asyncio.Task[None]] = set()

    @property
    def current(self) -> str:
        """The public key that proves this master now."""
        return self._own.key_file.pair.public

    @property
    def following(self) -> str:
        """The one that is to follow; empty: none is."""
        pair = self._own.key_file.next
        return "" if pair is None else pair.public

    def keys(self) -> tuple[str, str]:
        """Both."""
        return self.current, self.following

    def start(self) -> None:
        """Go on with what was begun before this start."""
        entry = self._ring.by_public(self.current)
        overlap_s = 0.0 if entry is None else entry.rotate_s
        if self.following:
            self._begun(overlap_s or DEFAULT_OVERLAP_S)
        elif overlap_s:
            self._task = asyncio.ensure_future(self._make_wanted(overlap_s))

    async def close(self) -> None:
        """Stop; it goes on after the next start. What is being written is written to its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*self._steps, return_exceptions=True)

    def unaware(self, id_: str) -> bool:
        """Whether there is a next key of which the key ``id_`` has not said that it knows, or cannot keep, it."""
        return bool(self.following) and id_ not in self._know

    async def begin(self, overlap_s: float, now: bool) -> dict[str, Any]:
        """Have another key after ``overlap_s``, or ``now``; returns the row of it.

        Raises:
            Busy: it is under way already. InvalidKey: the key file cannot be written.
        """
        before = self.current
        await self._to_its_end(self._make_or_refuse(check_overlap(overlap_s), now))
        row = self._row(before, self.following)
        if now:
            await self._to_its_end(self._turn())
            row["state"], row["until"] = "rotated", iso(self._desk.wall_s())
        return row

    def known(self, peer: Peer, message: NextKey) -> None:
        """It is known at ``peer`` now."""
        if message.public != self.following or not self._until_s:
            return
        self._know[peer.identity.key] = message.code
        if not message.code:
            self._heard.set()

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _to_its_end(self, step: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(step)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
        await asyncio.shield(task)

    async def _make_or_refuse(self, overlap_s: float, now: bool) -> None:
        async with self._turning:
            if not self.following:
                await self._make_next(overlap_s)
            elif not now:
                raise Busy(
                    f"the master's key is being rotated: the next one holds from {iso(self._until_s)}",
                    hint="--now does not wait",
                    retry_after_s=max(1.0, self._until_s - self._desk.wall_s()),
                )

    async def _make_wanted(self, overlap_s: float) -> None:
        """It was killed when the ring had said that there is to be another key, and before there was one."""
        try:
            async with self._turning:
                await self._make_next(overlap_s)
        except ZClusterError as error:
            self._desk.logger.error("the master has no next key yet: %s", error)

    async def _make_next(self, overlap_s: float) -> None:
        name, now_s = self._desk.name, self._desk.wall_s()
        entry = self._ring.get(name)
        if not entry.rotate_s:
            await self._decide(lambda ring: want(ring, name, overlap_s, now_s))
        failpoint("rotation.master.wanted")
        try:
            public = await asyncio.to_thread(self._own.begin)
        except ZClusterError:
            with contextlib.suppress(ZClusterError):
                await self._decide(lambda ring: want_no_more(ring, entry.id))
            raise
        failpoint("rotation.master.made")
        await asyncio.to_thread(self._teach, lambda own: own.learn("", public))
        self._begun(overlap_s)

    def _begun(self, overlap_s: float) -> None:
        self._know.clear()
        self._until_s = self._desk.wall_s() + overlap_s
        told = NextKey(public=self.following)
        self._tell(told)
        fields = {"next": fingerprint(told.public), "from": iso(self._until_s)}
        self._desk.logger.info("another key is to follow this master's", extra={"fields": fields})
        self._watch()

    def _tell(self, told: NextKey) -> None:
        sealed = Sealed(encode(told, (b"",)))  # once: there may be many
        for peer in self._machine.roster.peers.values():
            if peer.route != LOCAL:
                self._machine.tell(peer, sealed)
        self._desk.wake()

    def _watch(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.ensure_future(self._turn_in_time())

    async def _turn_in_time(self) -> None:
        while self.following:
            await self._time_or_all_know()
            try:
                await self._to_its_end(self._turn())
            except ZClusterError as error:
                self._desk.logger.error("the master's key is still the older one: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _time_or_all_know(self) -> None:
        while (left_s := self._until_s - self._desk.wall_s()) > 0 and self._away():
            self._heard.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await asyncio.sleep(LOOK_S)
                    await self._heard.wait()

    async def _turn(self) -> None:
        """The next key is the key, from now on."""
        async with self._turning:
            pair = self._own.key_file.next
            if pair is None:
                return
            entry, now_s = self._ring.get(self._desk.name), self._desk.wall_s()
            holder = self._ring.by_public(pair.public)
            if holder is not None and holder.id != entry.id:
                await self._make_another(pair.public, holder.name)
            # The overlap is over, or was not waited for: who has the older key would be an administrator for another one.
            await self._decide(lambda ring: follow(ring, entry.id, pair.public, 0.0, now_s, exactly=True))
            failpoint("rotation.master.in_ring")
            await asyncio.to_thread(self._own.finish, pair.public)
            failpoint("rotation.master.in_file")
            self._until_s = 0.0
            try:
                self._rekey(pair)
            except ZClusterError as error:
                self._desk.logger.error("the master listens with its older key until it is restarted: %s", error)
                return
            await asyncio.to_thread(self._teach, lambda own: own.proven(pair.public))
            self._tell(NextKey(public=pair.public, now=True))

    async def _make_another(self, public: str, holder: str) -> None:
        """Somebody has had the next key admitted as another's: it was told to everybody.

        Raises:
            InvalidKey: always; the next one is another now.
        """
        await asyncio.to_thread(self._own.give_up, public)
        await self._make_next(DEFAULT_OVERLAP_S)
        raise InvalidKey(f"its next key was in the ring already, as the key of {holder!r}", hint="revoke that key")

    def _teach(self, change: Callable[[OwnKey], None]) -> None:
        """Change the key files of this home: its administrator's, and those that were made here. Runs in a thread."""
        home = self._desk.home
        for path in sorted(home.keys_dir.glob("*.key")):
            if path != home.master_key:
                self._teach_one(path, change)

    def _teach_one(self, path: Path, change: Callable[[OwnKey], None]) -> None:
        try:
            key_file = KeyFile.read(path)
            if not {self.current, self.following}.isdisjoint(key_file.known.masters):
                change(OwnKey(key_file, path))
        except (InvalidKey, Busy) as error:
            self._desk.logger.warning("a key file of this home does not know the master's next key: %s", error)

    def _away(self) -> list[str]:
        """The names of the keys that have not heard of it, or could not keep it."""
        return sorted(
            name
            for name, entry in self._ring.entries.items()
            if entry.role != "master" and self._know.get(entry.id, "no") != ""
        )

    def _row(self, before: str, following: str) -> dict[str, Any]:
        away = self._away()
        return {
            "name": self._desk.name,
            "state": "rotating",
            "old": fingerprint(before),
            "new": fingerprint(following),
            "until": iso(self._until_s),
            "away": away[:MAX_NAMED],
            "away_count": len(away),
        }
