"""Notes go from a client to those who listen under a name, or wait for them on disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.brokers import notes as module
from zcluster.brokers.notes import PREFIX, Notes
from zcluster.core.batch import Lanes
from zcluster.core.notes import MAX_KEEP_S, MAX_TEXT_BYTES, WINDOW_NOTES
from zcluster.core.peers import Event, Identity, Peer
from zcluster.errors import Busy, Conflict, NoSuchClient, StoreFailed, TooLarge, UsageError
from zcluster.store.interface import Delete, Put
from zcluster.store.memory import MemoryStore
from zcluster.wire import Message, Replies, Sealed, WireLimits, decode
from zcluster.wire.agents import Listen, Note

OUTBOX_BYTES = 1_000_000
KEYS = {"alice", "bob"}


class FailingStore(MemoryStore):
    """A store whose disk can be full."""

    full = False

    async def apply(self, ops: Any, *, expect: Any = ()) -> int:
        if self.full:
            raise StoreFailed("the disk is full")
        return await super().apply(ops, expect=expect)


class Rig:
    """The part with sessions whose words are kept."""

    def __init__(self, store: MemoryStore | None = None, epoch: int = 1) -> None:
        self.wall_s = 1000.0
        self.store = store or FailingStore(clock=lambda: self.wall_s)
        self.said: dict[int, list[Note]] = {}
        self.noted: list[Event] = []
        self.counted: list[str] = []
        self.peers: dict[int, Peer] = {}
        self.attached: list[Any] = []
        settings = SimpleNamespace(limits=SimpleNamespace(outbox_bytes=OUTBOX_BYTES))
        desk: Any = SimpleNamespace(
            name="m", wall_s=lambda: self.wall_s, logger=logging.getLogger("test"), note=self.noted.append, wake=lambda: None,
            store=self.store, sessions=SimpleNamespace(attach=self.attached.append, tell=self._tell),
            loaded=lambda: SimpleNamespace(settings=settings),
        )  # fmt: skip
        self.part = Notes(desk, epoch, KEYS.__contains__, self.counted.append)

    def _tell(self, peer: Peer, message: Message, body: bytes = b"") -> None:
        if isinstance(message, Sealed):
            message = decode(bytes(message.frame), WireLimits())[0]
        assert isinstance(message, Note)
        self.said.setdefault(peer.no, []).append(message)

    def session(self, no: int, key: str) -> Peer:
        lanes: Lanes[Any] = Lanes(Replies, 1000)
        self.peers[no] = Peer(no, f"r{no}", Identity(f"K-{key}", key, "client"), "i", frozenset({Listen.kind}), lanes, 0.0)
        return self.peers[no]

    def listen(self, no: int, key: str, name: str = "", seen: int = 0) -> None:
        peer = self.peers.get(no) or self.session(no, key)
        self.part.received(peer, Listen(name=name or key, seen=seen), b"", 0, 0.0)

    def leave(self, no: int) -> None:
        self.part.closed(self.peers.pop(no), "left", 0.0)

    def heard(self, no: int) -> list[str]:
        return [f"{note.sender}>{note.to}: {note.text}" if note.id else note.code for note in self.said.pop(no, [])]

    async def told(self, no: int, count: int) -> list[Note]:
        """The notes, not the answers, that session ``no`` has been told, once there are ``count``."""

        def notes() -> list[Note]:
            return [note for note in self.said.get(no, []) if note.id]

        await self.until(lambda: len(notes()) >= count)
        return notes()

    async def until(self, holds: Callable[[], Any]) -> None:
        """Let the part work until ``holds`` does."""
        for _ in range(100_000):
            if holds():
                return
            await asyncio.sleep(0)
        raise AssertionError("it never came true")

    async def kept(self) -> list[str]:
        return [entry.key for entry in (await self.store.scan(PREFIX)).entries]


def run(work: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        rig = Rig()
        await rig.part.start()
        assert rig.attached == [rig.part]
        async with asyncio.timeout(30):
            await work(rig)
        await rig.part.close()

    asyncio.run(main())


def test_a_note_reaches_every_session_of_its_name_and_no_other() -> None:
    async def work(rig: Rig) -> None:
        for no, key in ((1, "alice"), (2, "bob"), (3, "bob")):
            rig.listen(no, key)
            assert rig.heard(no) == ["listening"]
        assert await rig.part.send("bob", "hi", "alice") == 2
        assert (rig.heard(1), rig.heard(2), rig.heard(3)) == ([], ["alice>bob: hi"], ["alice>bob: hi"])
        rig.listen(3, "bob", "ops")
        assert await rig.part.send("bob", "again", "alice") == 1
        rig.leave(2)
        with pytest.raises(NoSuchClient):
            await rig.part.send("bob", "gone", "alice")

    run(work)


def test_the_key_of_a_note_is_the_senders_and_its_name_is_one_it_may_have() -> None:
    async def work(rig: Rig) -> None:
        rig.listen(1, "bob")
        assert await rig.part.send("bob", "x", "alice", as_name="ops") == 1
        note = rig.said[1][-1]
        assert (note.sender, note.key, note.at_s, note.kept) == ("ops", "alice", 1000.0, False)
        with pytest.raises(Conflict, match="another key"):
            await rig.part.send("bob", "x", "alice", as_name="bob")
        rig.listen(2, "alice", "night")
        with pytest.raises(Conflict, match="taken"):
            await rig.part.send("bob", "x", "bob", as_name="night")
        with pytest.raises(UsageError):
            await rig.part.send("bob", "x", "alice", as_name="no name")

    run(work)


def test_everybody_hears_what_is_for_all_but_the_sender() -> None:
    async def work(rig: Rig) -> None:
        for no, key, name in ((1, "alice", "alice"), (2, "bob", "bob"), (3, "alice", "ops")):
            rig.listen(no, key, name)
            rig.said.clear()
        assert await rig.part.send("all", "hello", "alice") == 2
        assert (rig.heard(1), rig.heard(2), rig.heard(3)) == ([], ["alice>all: hello"], ["alice>all: hello"])
        for to, keep_s in (("all", 60.0), ("any", 0.0), ("ALL", 0.0)):
            with pytest.raises(UsageError):
                await rig.part.send(to, "x", "alice", keep_s)

    run(work)


def test_what_is_wrong_is_refused() -> None:
    async def work(rig: Rig) -> None:
        rig.listen(1, "bob")
        for to, text, keep_s, error in (
            ("bob", "x" * (MAX_TEXT_BYTES + 1), 0.0, TooLarge), ("bob", "", 0.0, UsageError), ("b b", "x", 0.0, UsageError),
            ("bob", "x", MAX_KEEP_S + 1, UsageError), ("bob", "x", -1.0, UsageError), ("", "x", 0.0, UsageError),
        ):  # fmt: skip
            with pytest.raises(error):
                await rig.part.send(to, text, "alice", keep_s)
        assert await rig.part.send("bob", "x" * MAX_TEXT_BYTES, "alice") == 1

    run(work)


def test_a_listen_that_is_refused_is_answered_and_changes_nothing() -> None:
    async def work(rig: Rig) -> None:
        rig.listen(1, "alice")
        rig.heard(1)
        rig.listen(1, "alice", "bob")
        (answer,) = rig.said.pop(1)
        assert (answer.id, answer.code, answer.to) == (0, "conflict", "bob")
        assert "name of another key" in answer.text
        rig.listen(1, "alice", "all")
        assert rig.heard(1) == ["usage"]
        assert rig.counted == ["refused_conflict", "refused_usage"]
        assert await rig.part.send("alice", "x", "bob") == 1

    run(work)


def test_an_empty_name_ends_listening() -> None:
    async def work(rig: Rig) -> None:
        peer = rig.session(1, "alice")
        rig.listen(1, "alice")
        rig.part.received(peer, Listen(name=""), b"", 0, 0.0)
        with pytest.raises(NoSuchClient):
            await rig.part.send("alice", "x", "bob")

    run(work)


def test_a_name_that_becomes_a_keys_is_taken_from_others() -> None:
    async def work(rig: Rig) -> None:
        rig.listen(1, "alice", "carol")
        rig.heard(1)
        KEYS.add("carol")
        try:
            with pytest.raises(NoSuchClient):
                await rig.part.send("carol", "secret", "bob")
            assert rig.heard(1) == ["conflict"]
            rig.listen(2, "carol")
            assert await rig.part.send("carol", "secret", "bob") == 1
        finally:
            KEYS.discard("carol")

    run(work)


def test_a_listener_that_does_not_read_delays_nobody() -> None:
    async def work(rig: Rig) -> None:
        rig.listen(1, "bob")
        rig.listen(2, "alice", "ops")
        rig.said.clear()
        rig.peers[1].lanes.tree_bytes = OUTBOX_BYTES // module.UNREAD_SHARE
        for _ in range(2):
            assert await rig.part.send("all", "x", "alice") == 1
            with pytest.raises(Busy, match="does not read"):
                await rig.part.send("bob", "x", "alice")
        assert (rig.heard(1), len(rig.heard(2))) == ([], 2)
        assert rig.counted == ["notes_dropped"] * 4
        assert [(event.name, event.fields["name"]) for event in rig.noted] == [("note_dropped", "bob")]
        rig.peers[1].lanes.tree_bytes = 0
        assert await rig.part.send("bob", "x", "alice") == 1

    run(work)


def test_a_kept_note_is_on_disk_then_told_then_confirmed_then_gone() -> None:
    async def work(rig: Rig) -> None:
        for text in ("one", "two"):
            assert await rig.part.send("bob", text, "alice", 60.0) == 0
        assert len(await rig.kept()) == 2
        rig.listen(1, "bob")
        notes = await rig.told(1, 2)
        assert [(note.text, note.kept, note.sender) for note in notes] == [("one", True, "alice"), ("two", True, "alice")]
        assert len(await rig.kept()) == 2
        rig.listen(1, "bob", seen=notes[0].id)
        await rig.until(lambda: rig.part.book.kept_count == 1)
        rig.listen(1, "bob", seen=notes[1].id)
        await rig.until(lambda: not rig.part._to_forget)
        assert await rig.kept() == []
        assert len(rig.said[1]) == 3

    run(work)


def test_what_was_not_confirmed_is_told_to_the_next_session_of_its_name() -> None:
    async def work(rig: Rig) -> None:
        await rig.part.send("bob", "one", "alice", 60.0)
        rig.listen(1, "bob")
        await rig.told(1, 1)
        rig.listen(2, "bob")
        assert rig.heard(2) == ["listening"]
        rig.leave(1)
        assert [note.text for note in await rig.told(2, 1)] == ["one"]

    run(work)


def test_many_kept_notes_come_a_window_at_a_time_in_order() -> None:
    async def work(rig: Rig) -> None:
        total = 2 * WINDOW_NOTES + 3
        await asyncio.gather(*(rig.part.send("bob", str(number), "alice", 60.0) for number in range(total)))
        rig.listen(1, "bob")
        got: list[str] = []
        while len(got) < total:
            notes = await rig.told(1, min(WINDOW_NOTES, total - len(got)))
            assert len(notes) <= WINDOW_NOTES
            rig.said.clear()
            got += [note.text for note in notes]
            rig.listen(1, "bob", seen=notes[-1].id)
        assert got == [str(number) for number in range(total)]

    run(work)


def test_a_kept_note_outlives_the_master_and_ids_grow() -> None:
    async def main() -> None:
        store = MemoryStore(clock=lambda: 0.0)
        first = Rig(store, epoch=1)
        await first.part.start()
        await first.part.send("bob", "long", "alice", 600.0)
        await first.part.send("bob", "short", "alice", 5.0)
        await first.part.close()
        second = Rig(store, epoch=2)
        second.wall_s += 60.0
        await second.part.start()
        second.listen(1, "bob")
        (note,) = await second.told(1, 1)
        assert note.text == "long"
        assert await second.part.send("bob", "new", "alice") == 1
        assert second.said[1][-1].id > note.id
        await second.until(lambda: not second.part._to_forget)
        assert len(await second.kept()) == 1
        await second.part.close()

    asyncio.run(main())


def test_time_ends_what_is_kept_and_the_lease_cleans_up() -> None:
    async def work(rig: Rig) -> None:
        await rig.part.send("bob", "short", "alice", 5.0)
        await rig.part.send("bob", "long", "alice", 500.0)
        assert len(rig.part._leases) == len({module._step(1005.0), module._step(1500.0)})
        rig.wall_s += 6.0
        rig.listen(1, "bob")
        assert [note.text for note in await rig.told(1, 1)] == ["long"]
        functions = rig.part.functions()
        assert await functions["notes.who"].target() == [{"name": "bob", "key": "bob", "sessions": 1, "kept": 1}]

    run(work)


def test_a_kept_note_whose_lease_ended_is_passed_over() -> None:
    async def work(rig: Rig) -> None:
        for text in ("one", "two"):
            await rig.part.send("bob", text, "alice", 60.0)
        await rig.store.apply([Delete((await rig.kept())[0])])
        rig.listen(1, "bob")
        (note,) = await rig.told(1, 1)
        assert note.text == "two"
        rig.listen(1, "bob", seen=note.id)
        await rig.until(lambda: not rig.part.book.kept_count)

    run(work)


def test_a_lease_that_has_ended_meanwhile_is_asked_for_again() -> None:
    async def work(rig: Rig) -> None:
        await rig.part.send("bob", "one", "alice", 60.0)
        (lease,) = rig.part._leases.values()
        await rig.store.revoke(lease)
        await rig.part.send("bob", "two", "alice", 60.0)
        assert len(await rig.kept()) == 1

    run(work)


def test_what_cannot_be_kept_is_an_error_and_leaves_nothing() -> None:
    async def work(rig: Rig) -> None:
        assert isinstance(rig.store, FailingStore)
        rig.store.full = True
        with pytest.raises(StoreFailed):
            await rig.part.send("bob", "x", "alice", 60.0)
        assert (rig.part.book.kept_count, await rig.kept()) == (0, [])
        rig.store.full = False
        assert await rig.part.send("bob", "x", "alice", 60.0) == 0
        assert len(await rig.kept()) == 1

    run(work)


def test_a_sender_that_no_longer_waits_leaves_book_and_store_alike() -> None:
    async def work(rig: Rig) -> None:
        sending = asyncio.ensure_future(rig.part.send("bob", "x", "alice", 60.0))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        rig.listen(1, "bob")
        assert [note.text for note in await rig.told(1, 1)] == ["x"]

    run(work)


def test_a_full_store_at_the_start_leaves_nothing_out_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        store = MemoryStore(clock=lambda: 0.0)
        first = Rig(store)
        await first.part.start()
        for _ in range(3):
            await first.part.send("bob", "x", "alice", 600.0)
        await first.part.close()
        monkeypatch.setattr("zcluster.core.notes.MAX_KEPT_OF_NAME", 2)
        second = Rig(store, epoch=2)
        await second.part.start()
        assert second.part.book.kept_count == 2
        await second.part.close()

    asyncio.run(main())


def test_the_functions_take_the_callers_key() -> None:
    async def work(rig: Rig) -> None:
        functions = rig.part.functions()
        rig.listen(1, "bob")
        context: Any = SimpleNamespace(caller="alice")
        assert await functions["notes.send"].target("bob", "hi", context) == 1
        assert rig.heard(1) == ["listening", "alice>bob: hi"]
        assert functions["notes.send"].role == functions["notes.who"].role == "client"

    run(work)


def test_a_put_is_under_a_lease() -> None:
    async def work(rig: Rig) -> None:
        seen: list[Put] = []
        apply = rig.store.apply

        async def spy(ops: Any, *, expect: Any = ()) -> int:
            seen.extend(op for op in ops if isinstance(op, Put))
            return await apply(ops, expect=expect)

        rig.store.apply = spy  # type: ignore[method-assign]
        await rig.part.send("bob", "x", "alice", 60.0)
        assert [bool(op.lease) for op in seen] == [True]
        assert seen[0].key.startswith("notes/bob/")

    run(work)
