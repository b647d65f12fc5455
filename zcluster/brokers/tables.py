"""The master's side of replicated tables: what changes in them is published, and copies are answered.

Rules kept here:
- each commit of the store is published at once; what is there when the loop comes round goes into one frame;
- before each HEAD everything up to its revision was published, so that a copy that is behind it has missed something;
- HEAD is published each heartbeat interval, and told on the session to each worker after WELCOME and when a table that was empty
  no longer is: a worker whose tables are empty subscribes to nothing (docs/decisions/0004);
- questions are answered one after the other, for each worker and table at most one; an answer waits for nobody: what a worker
  does not read waits in its own outbox, and ends its session when that is full;
- the table ``ring`` is for workers with a door only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from zcluster.config import Loaded
from zcluster.core.peers import Event, Peer
from zcluster.core.tables.bodies import Item
from zcluster.core.tables.digests import split_digests
from zcluster.core.tables.names import DOOR_TABLES, TABLES, prefix_of, topic_of
from zcluster.core.tables.source import Part, Questions, Source, each_frame, pack_page
from zcluster.dapi.function import Function, function
from zcluster.errors import Compacted, NotAllowed, PeerError
from zcluster.files.packing import pack
from zcluster.nodes.desk import Desk
from zcluster.nodes.tasks import keep_running
from zcluster.store.interface import Change, Entry
from zcluster.wire import Hello, Message, encode
from zcluster.wire.tables import Ask, Changes, Head

RETRY_S = 1.0
"""After the store failed."""
PAGE_ITEMS, MIN_ITEMS = 4096, 8
"""How many items are read for an answer."""
REPAIR_BYTES = 1_048_576
"""About how much one answer to a repair carries; what is left is seen by the next comparison."""
EMPTY_BODY = b"[]"
EMPTY_BODY_BYTES = len(EMPTY_BODY)


@dataclass(frozen=True)
class Question:
    """An ASK that waits."""

    peer: Peer
    ask: Ask
    body: bytes


class MasterTables:
    """A part of a master, and what it says on the sessions.

    Args:
        publish: publishes a frame under a topic.
    """

    kinds = frozenset({Ask.kind})

    def __init__(self, desk: Desk, publish: Callable[[bytes, bytes], None], tables: Sequence[str] = TABLES) -> None:
        self._desk, self._publish, self._names = desk, publish, tuple(tables)
        self._sources: dict[str, Source] = {}
        self._peers: dict[int, tuple[Peer, bool]] = {}
        """Workers' sessions, and whether each has a door."""
        self._questions: Questions[Question] = Questions()
        self._asked = asyncio.Event()
        self._room = PAGE_ITEMS
        self._announce: set[str] = set()
        """Tables that were told as empty, and are not any more."""
        self._beat_now = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        desk.sessions.attach(self)

    # -- a part of the node -------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        @function("tables.status", idempotent=True)
        async def status() -> list[dict[str, Any]]:
            """The replicated tables of this node: how far each is, its digest, and how old it is."""
            return [self._row(source) for source in self._sources.values()]

        return {found.name: found for found in map(Function, [status])}

    async def start(self) -> None:
        store = self._desk.store
        for name in self._names:
            digests, revision = await store.digests(prefix_of(name))
            source = self._sources[name] = Source(name, store.id, revision, pack)
            source.looked(digests, revision)
        self._tasks = [asyncio.ensure_future(self._lasting(self._beat)), asyncio.ensure_future(self._lasting(self._answer_all))]
        for source in self._sources.values():
            self._tasks.append(asyncio.ensure_future(self._lasting(partial(self._follow, source))))

    def apply(self, loaded: Loaded) -> None:
        """Nothing of this is configured."""

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- the sessions -------------------------------------------------------------------------------------------------

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        if peer.identity.role == "worker" and "tables" in hello.parts:
            self._peers[peer.no] = (peer, bool(hello.door))
            for source in self._sources.values():
                self._tell_head(source, peer, bool(hello.door))

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        self._peers.pop(peer.no, None)
        self._questions.forget(peer.no)

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        if not isinstance(message, Ask) or peer.no not in self._peers:
            raise PeerError("only workers that said so in HELLO have copies of tables")
        if message.table not in self._sources:
            raise PeerError(f"there is no table {message.table}")
        if message.table in DOOR_TABLES and not self._peers[peer.no][1]:
            raise NotAllowed(f"the table {message.table} is for workers with a door")
        body = data[offset:]
        if message.want == "repair":
            split_digests(body)
        elif body:
            raise PeerError(f"an ASK for {message.want} has no body")
        self._questions.add(peer.no, message.table, Question(peer, message, body))
        self._asked.set()

    # -- telling ------------------------------------------------------------------------------------------------------

    async def _lasting(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do ``work`` for ever, with a pause when it has ended."""

        async def once() -> None:
            await work()
            await asyncio.sleep(RETRY_S)

        await keep_running(once, self._desk.logger, "the work on tables")

    async def _follow(self, source: Source) -> None:
        store = self._desk.store
        try:
            async for changes, upto in store.watch(prefix_of(source.table), source.position):
                self._tell_changes(source, changes, upto)
        except Compacted:
            source.lost(await store.revision())

    def _tell_changes(self, source: Source, changes: Sequence[Change], upto: int) -> None:
        skipped = source.skipped
        for message, body in source.read(_items(changes), upto):
            self._publish(topic_of(source.table), encode(message, (body,)))
        if source.skipped > skipped:
            self._note("table_commit_too_large", source.table, revision=source.told)
        if changes and source.empty:
            self._announce.add(source.table)
            self._beat_now.set()

    async def _beat(self) -> None:
        """HEAD each interval, and at once for a table that is no longer empty."""
        clock, due_s = self._desk.clock, self._desk.clock()
        if self._announce:
            self._beat_now.set()  # the store failed before it was told
        while True:
            interval_s = self._desk.loaded().settings.session.heartbeat_s
            due_s = max(due_s + interval_s, clock())
            while clock() < due_s:
                try:
                    # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with the event.
                    async with asyncio.timeout(due_s - clock()):
                        await self._beat_now.wait()
                except TimeoutError:
                    break
                self._beat_now.clear()
                for name in list(self._announce):
                    await self._tell_head_now(self._sources[name])
                    self._announce.discard(name)
                    for peer, door in self._peers.values():
                        self._tell_head(self._sources[name], peer, door)
                    self._desk.wake()
            for source in self._sources.values():
                await self._tell_head_now(source)

    async def _tell_head_now(self, source: Source) -> None:
        """Publish how far the table is, and before that what leads there."""
        store, prefix = self._desk.store, prefix_of(source.table)
        if source.dirty or source.head is None:
            digests, revision = await store.digests(prefix)
            while source.position < revision:
                changes, upto = await self._changes(source)
                upto = min(upto, revision)
                self._tell_changes(source, [change for change in changes if change.revision <= upto], upto)
            source.looked(digests, revision)
        assert source.head is not None
        self._publish(topic_of(source.table), encode(source.head))

    async def _changes(self, source: Source) -> tuple[list[Change], int]:
        store = self._desk.store
        try:
            return await store.changes(prefix_of(source.table), source.position)
        except Compacted:
            revision = await store.revision()
            source.lost(revision)
            return [], revision

    def _tell_head(self, source: Source, peer: Peer, door: bool) -> None:
        if source.head is not None and (door or source.table not in DOOR_TABLES):
            self._desk.sessions.tell(peer, source.head)

    # -- answering ----------------------------------------------------------------------------------------------------

    async def _answer_all(self) -> None:
        while True:
            while (question := self._questions.take()) is not None:
                await self._answer(question)
                self._desk.wake()
            self._asked.clear()
            await self._asked.wait()

    async def _answer(self, question: Question) -> None:
        ask, known = question.ask, question.ask.store == self._desk.store.id
        if ask.want == "repair" and known:
            await self._answer_repair(question)
        elif ask.want == "changes" and known and await self._answer_changes(question):
            return
        else:
            await self._answer_page(question, ask.after if known and ask.want == "page" else "")

    async def _answer_changes(self, question: Question) -> bool:
        """False when it takes pages: the changes are not known any more, or fit into no frame."""
        ask, store = question.ask, self._desk.store
        try:
            if ask.revision > await store.revision():
                return False
            changes, upto = await store.changes(prefix_of(ask.table), ask.revision, limit=self._room)
        except Compacted:
            return False
        made = next(each_frame(ask.table, store.id, ask.revision, _items(changes), upto, pack))
        if made is None:
            return False
        self._fitted(sum(change.revision <= made[0].revision for change in changes), len(changes))
        self._desk.sessions.tell(question.peer, *made)
        return True

    async def _answer_page(self, question: Question, after: str) -> None:
        ask, store = question.ask, self._desk.store
        listing = await store.scan(prefix_of(ask.table), after=after, limit=self._room)
        part = Part(ask.table, store.id, listing.revision, _entries(listing.entries), not listing.more, after)
        self._fitted(self._tell_page(question.peer, part)[1], len(part.items))

    def _fitted(self, count: int, read: int) -> None:
        """So many of those that were read fitted into an answer: of large ones not many more are read the next time."""
        self._room = min(PAGE_ITEMS, 2 * self._room if count == read else max(MIN_ITEMS, 2 * count))

    async def _answer_repair(self, question: Question) -> None:
        """The buckets that differ, as many as one answer may carry."""
        ask, store, theirs = question.ask, self._desk.store, split_digests(question.body)
        prefix = prefix_of(ask.table)
        mine, revision = await store.digests(prefix)
        bad = [number for number, digest in enumerate(mine) if digest != theirs[number]]
        if not bad:
            at = ask.revision
            message = Changes(table=ask.table, store=store.id, base=at, revision=at, raw_bytes=EMPTY_BODY_BYTES)
            self._desk.sessions.tell(question.peer, message, EMPTY_BODY)
            return
        waiting: list[int] = []
        entries: list[Entry] = []
        size = total = 0
        for at, number in enumerate(bad):
            listing = await store.bucket(prefix, number)
            if waiting and listing.revision != revision:
                self._tell_part(question, revision, waiting, entries, more=True)
                waiting, entries, size = [], [], 0
            revision = listing.revision
            waiting.append(number)
            entries += listing.entries
            grown = sum(len(entry.value) + len(entry.key) for entry in listing.entries)
            size, total = size + grown, total + grown
            last = at + 1 == len(bad) or total >= REPAIR_BYTES
            if last or size >= REPAIR_BYTES // 4:
                self._tell_part(question, revision, waiting, entries, more=not last)
                waiting, entries, size = [], [], 0
            if last:
                return

    def _tell_part(self, question: Question, revision: int, buckets: list[int], entries: list[Entry], *, more: bool) -> None:
        table, store = question.ask.table, self._desk.store
        ordered = sorted(entries, key=lambda entry: entry.key)
        items, after, first = _entries(ordered), "", True
        while items or first:
            first = False
            part = Part(table, store.id, revision, items, True, after, buckets, more)
            after, count = self._tell_page(question.peer, part)
            items = items[count:]

    def _tell_page(self, peer: Peer, part: Part) -> tuple[str, int]:
        page, body, count = pack_page(part, pack)
        if count and page.raw_bytes == EMPTY_BODY_BYTES:
            self._note("table_value_too_large", part.table, key=part.items[0][1])
        self._desk.sessions.tell(peer, page, body)
        return page.last, count

    # -- inside -------------------------------------------------------------------------------------------------------

    def _note(self, name: str, table: str, **fields: Any) -> None:
        self._desk.note(Event(name, {"table": table, **fields}, "warning"))

    def _row(self, source: Source) -> dict[str, Any]:
        head = source.head or Head(table=source.table, store="", revision=0, digest="")
        return {
            "node": self._desk.name, "table": source.table, "store": source.store, "revision": source.told, "digest": head.digest,
            "ready": True, "doing": "publishing", "behind": 0, "age_s": 0.0,
        }  # fmt: skip


def _items(changes: Sequence[Change]) -> list[Item]:
    return [(change.revision, change.key, change.value) for change in changes]


def _entries(entries: Sequence[Entry]) -> list[Item]:
    return [(entry.revision, entry.key, entry.value) for entry in entries]
