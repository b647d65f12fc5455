"""Messages between clients: LISTEN and NOTE on the master's sessions, and the functions ``notes.send`` and ``notes.who``.

Rules kept here:
- the sender of a note is the key that made the request; its own name is one that this key may have (core/notes.py);
- what is to be kept is on disk before its sender is answered, and is deleted only when a listener said that it has it;
- a listener that does not read gets no more notes until it does: it is counted, and never delays the others;
- a note is encoded once, however many listen.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import msgspec
import orjson

from zcluster.config import Loaded
from zcluster.core.notes import (
    MAX_KEEP_S,
    RESERVED,
    Kept,
    NoteBook,
    checked_keep,
    checked_name,
    checked_text,
)
from zcluster.core.peers import Event, Peer
from zcluster.dapi.context import Context
from zcluster.dapi.function import Function, function
from zcluster.errors import Busy, Conflict, NoSuchLease, UsageError, ZClusterError
from zcluster.nodes.desk import Desk
from zcluster.nodes.tasks import keep_running
from zcluster.store.interface import Delete, Put
from zcluster.wire import Hello, Message, Sealed, encode
from zcluster.wire.agents import Listen, Note

PREFIX = "notes/"
EVERYBODY = "all"
LISTENING = "listening"
LEASE_STEP_S = 600.0
"""Notes whose time ends within the same step share a lease."""
UNREAD_SHARE = 4
"""A session for which this part of limits.outbox_bytes waits gets no more notes."""
FORGET_AT_ONCE = 1000
RETRY_S = 1.0
EPOCH_BITS = 32
"""Ids of a start of the master begin at its epoch times 2 to this."""

NameText = Annotated[str, msgspec.Meta(max_length=64)]


class Notes:
    """The part of a master that passes notes on.

    Args:
        epoch: of this start of the master.
        is_key: whether the ring has a key of this name.
        count: counts by name.
    """

    kinds = frozenset({Listen.kind})

    def __init__(self, desk: Desk, epoch: int, is_key: Callable[[str], bool], count: Callable[[str], None]) -> None:
        self._desk, self._count = desk, count
        self.book = NoteBook(epoch << EPOCH_BITS, is_key)
        self._peers: dict[int, Peer] = {}
        self._deaf: set[int] = set()
        """Sessions that did not get the last note for them."""
        self._leases: dict[int, int] = {}
        self._granting = asyncio.Lock()
        self._to_serve: dict[str, None] = {}
        self._to_forget: list[str] = []
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the part -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Look at what is kept, and begin."""
        now_s, after = self._desk.wall_s(), PREFIX
        while True:
            page = await self._desk.store.scan(PREFIX, after=after)
            for entry in page.entries:
                self._found(entry.key, entry.value, now_s)
            if not page.more:
                break
            after = page.entries[-1].key
        self._desk.sessions.attach(self)
        self._run(keep_running(self._work, self._desk.logger, "passing kept messages on"), "zcluster-notes")

    def apply(self, loaded: Loaded) -> None:
        """Nothing of the configuration concerns notes."""

    async def close(self) -> None:
        """End what runs; what is kept stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def functions(self) -> dict[str, Function]:
        """``notes.send`` and ``notes.who``."""

        @function("notes.send")
        async def send(to: NameText, text: str, context: Context, keep_s: float = 0.0, as_name: NameText = "") -> int:
            """Send a text to who listens as ``to`` ("all": to everybody else); returns how many sessions got it. With ``keep_s``
            it waits so long when nobody does."""
            return await self.send(to, text, context.caller, keep_s, as_name)

        @function("notes.who", idempotent=True)
        async def who() -> list[dict[str, Any]]:
            """Who listens: name, key, sessions, and how many notes are kept for the name."""
            self.book.expire(self._desk.wall_s())
            return [
                {"name": each.name, "key": each.key or None, "sessions": each.sessions, "kept": each.kept}
                for each in self.book.listeners()
            ]

        return {found.name: found for found in (Function(send, own_errors=True), Function(who, own_errors=True))}

    async def send(self, to: str, text: str, key: str, keep_s: float = 0.0, as_name: str = "") -> int:
        """As the function ``notes.send``; ``key`` is the name of the sender's key."""
        size_bytes, now_s = checked_text(text), self._desk.wall_s()
        checked_keep(keep_s)
        sender = as_name or key
        self._turn_out(sender)
        self.book.check_owner(sender, key)
        if to.lower() in RESERVED:
            if keep_s or to != EVERYBODY:
                raise UsageError("a message to everybody is not kept", hint="send it to names, each with its keep")
            return self._tell(self.book.all_but(sender), self._note(sender, key, to, text, now_s))
        self._turn_out(checked_name(to))
        sessions = self.book.sessions(to)
        if not sessions:
            if not keep_s:
                raise self.book.nobody(to)
            await self._keep(Kept(self.book.next_id(), to, key, size_bytes, now_s + keep_s, ready=False), sender, text, now_s)
            return 0
        told = self._tell(sessions, self._note(sender, key, to, text, now_s))
        if not told:
            raise Busy(f"{to} does not read what is sent to it", hint="try again later", retry_after_s=RETRY_S)
        return told

    # -- on the sessions ------------------------------------------------------------------------------------------------

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """A session says LISTEN when it wants to."""

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        self._peers.pop(peer.no, None)
        self._deaf.discard(peer.no)
        self._serve(self.book.leave(peer.no))

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        assert isinstance(message, Listen)
        if message.seen:
            self._forget(self.book.confirmed(peer.no, message.seen))
            self._serve(self.book.name_of(peer.no))
            return
        before = self.book.name_of(peer.no)
        if not message.name:
            self._serve(self.book.leave(peer.no))
            return
        try:
            self._turn_out(message.name)
            self.book.listen(peer.no, peer.identity.name, message.name)
        except ZClusterError as error:
            self._count(f"refused_{error.code}")
            self._answer(peer, message.name, error.code, str(error))
            return
        self._peers[peer.no] = peer
        self._answer(peer, message.name, LISTENING, "")
        self._serve(before)
        self._serve(message.name)

    def _answer(self, peer: Peer, name: str, code: str, text: str) -> None:
        note = Note(id=0, sender="", key="", to=name, text=text, at_s=self._desk.wall_s(), code=code)
        self._desk.sessions.tell(peer, note)
        self._desk.wake()

    def _turn_out(self, name: str) -> None:
        error = Conflict(f"{name} has become the name of a key", hint="listen under another name")
        for session in self.book.turn_out(name):
            self._answer(self._peers[session], name, error.code, str(error))

    def _note(self, sender: str, key: str, to: str, text: str, at_s: float) -> Note:
        return Note(id=self.book.next_id(), sender=sender, key=key, to=to, text=text, at_s=round(at_s, 3))

    def _tell(self, sessions: list[int], note: Note) -> int:
        """Tell ``note`` to those of ``sessions`` that read; returns how many these are."""
        if not sessions:
            return 0
        sealed, told = Sealed(encode(note)), 0
        most_bytes = self._desk.loaded().settings.limits.outbox_bytes // UNREAD_SHARE
        for session in sessions:
            peer = self._peers[session]
            if peer.lanes.waiting_bytes + len(sealed.frame) > most_bytes:
                self._count("notes_dropped")
                if session not in self._deaf:
                    self._deaf.add(session)
                    fields = {"name": self.book.name_of(session), "key": peer.identity.name}
                    self._desk.note(Event("note_dropped", {**fields, "session": session}, "warning"))
                continue
            self._deaf.discard(session)
            self._desk.sessions.tell(peer, sealed)
            told += 1
        self._desk.wake()
        return told

    # -- what is kept ---------------------------------------------------------------------------------------------------

    def _found(self, key: str, value: bytes, now_s: float) -> None:
        """A note that was kept by an earlier start."""
        kept = orjson.loads(value)
        note = Kept(kept["id"], kept["to"], kept["key"], len(kept["text"].encode()), kept["until_s"])
        if note.until_s <= now_s:
            self._to_forget.append(key)
            return
        try:
            self.book.add(note, now_s)
        except Busy as error:
            self._desk.logger.warning("a kept message is left out until the next start: %s", error)

    async def _keep(self, note: Kept, sender: str, text: str, now_s: float) -> None:
        self.book.add(note, now_s)
        value = orjson.dumps(
            {"id": note.id, "to": note.to, "sender": sender, "key": note.by, "text": text, "at_s": round(now_s, 3),
             "until_s": note.until_s}
        )  # fmt: skip
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A task of its own: the book and the store say the same, also when the sender no longer waits for the answer.
        self._run(self._put(note, value, done), "zcluster-note")
        await asyncio.shield(done)

    async def _put(self, note: Kept, value: bytes, done: asyncio.Future[None]) -> None:
        try:
            try:
                await self._put_once(note, value)
            except NoSuchLease:  # it has ended just now
                self._leases.pop(_step(note.until_s), None)
                await self._put_once(note, value)
        except BaseException as error:
            self.book.drop(note)
            if isinstance(error, ZClusterError) and not done.done():
                done.set_exception(error)
                done.exception()  # nobody may be waiting any more
                return
            done.cancel()
            raise
        note.ready = True
        if not done.done():
            done.set_result(None)
        self._serve(note.to)

    async def _put_once(self, note: Kept, value: bytes) -> None:
        await self._desk.store.apply([Put(_key(note), value, lease=await self._lease(note.until_s))])

    async def _lease(self, until_s: float) -> int:
        step, now_s = _step(until_s), self._desk.wall_s()
        async with self._granting:
            for old in [old for old in self._leases if old * LEASE_STEP_S < now_s]:
                del self._leases[old]
            if step not in self._leases:
                ttl_s = min(max(step * LEASE_STEP_S - now_s, 1.0), MAX_KEEP_S + LEASE_STEP_S)
                self._leases[step] = (await self._desk.store.grant(ttl_s)).id
            return self._leases[step]

    def _serve(self, name: str) -> None:
        if name:
            self._to_serve[name] = None
            self._wake.set()

    def _forget(self, notes: list[Kept]) -> None:
        if notes:
            self._to_forget += [_key(note) for note in notes]
            self._wake.set()

    async def _work(self) -> None:
        self._wake.set()  # it begins again after a fault: the rest waits
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while self._to_forget:
                    keys = self._to_forget[:FORGET_AT_ONCE]
                    await self._desk.store.apply([Delete(key) for key in keys])
                    del self._to_forget[: len(keys)]
                while self._to_serve:
                    name = next(iter(self._to_serve))
                    del self._to_serve[name]
                    await self._serve_one(name)
            except ZClusterError as error:
                self._desk.logger.warning("kept messages wait: %s", error)
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def _serve_one(self, name: str) -> None:
        """Tell the reader of ``name`` what is kept for it, a window at a time."""
        session, notes = self.book.due(name, self._desk.wall_s())
        if not notes:
            return
        peer = self._peers[session]
        try:
            found = await self._desk.store.get_many([_key(note) for note in notes])
        except ZClusterError:
            self.book.untell(session)
            self._serve(name)
            raise
        if self._peers.get(session) is not peer or self.book.name_of(session) != name:
            return  # it left meanwhile; they wait for the next one
        for note in notes:
            entry = found.get(_key(note))
            if entry is None:  # its lease ended
                self.book.drop(note)
                self._serve(name)
                continue
            kept = orjson.loads(entry.value)
            told = Note(
                id=note.id, sender=kept["sender"], key=kept["key"], to=name, text=kept["text"], at_s=kept["at_s"], kept=True
            )
            self._desk.sessions.tell(peer, told)
        self._desk.wake()

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._desk.logger.error("messages between clients: %s ended", task.get_name(), exc_info=task.exception())


def _key(note: Kept) -> str:
    return f"{PREFIX}{note.to}/{note.id:016x}"


def _step(until_s: float) -> int:
    return math.ceil(until_s / LEASE_STEP_S)
