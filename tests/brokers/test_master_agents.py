"""The master's part: chunks are taken in turn, what is committed is said, and who lost an agent is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from zcluster.brokers.agents import MAX_REFUSED, MasterAgents
from zcluster.core.agents import taking
from zcluster.core.agents.row import Row
from zcluster.core.agents.rowcodec import pack_rows
from zcluster.core.agents.sending import WINDOW
from zcluster.core.counters import Counters
from zcluster.core.peers import Event, Identity, Peer
from zcluster.errors import PeerError, StoreFailed
from zcluster.nodes.desk import Desk
from zcluster.store.book import RowText, Took
from zcluster.store.book_memory import MemoryBook
from zcluster.wire import Hello, Message, Refusal
from zcluster.wire.agents import AgentOrder, AgentOrders, Rows, Taken

PATIENCE_S = 30.0
HELLO = Hello(versions=[1], instance="i", parts=["agents"])


class Book(MemoryBook):
    """A book whose disk may be full, and that waits when it is told to."""

    def __init__(self) -> None:
        super().__init__("m")
        self.full = False
        self.asked: list[tuple[str, int]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def take(self, node: str, source: str, base: int, upto: int, rows: Any, alive: frozenset[str]) -> Took:
        self.asked.append((node, base))
        await self.go.wait()
        if self.full:
            raise StoreFailed("the disk is full")
        if source == "defect":
            raise ValueError("a defect")
        return await super().take(node, source, base, upto, cast("list[RowText]", rows), alive)


class Master:
    """A master's part, and a test that is its workers. Its clock stands still until it is told."""

    def __init__(self) -> None:
        self.book, self.now = Book(), 100.0
        self.events: list[Event] = []
        self.told: dict[str, list[Message]] = {}
        self.something = asyncio.Event()
        self.performed: list[AgentOrder] = []
        self.sessions = 0
        settings = SimpleNamespace(session=SimpleNamespace(heartbeat_s=1.0, lease_heartbeats=3))
        desk = SimpleNamespace(
            name="m", book=self.book, clock=lambda: self.now, wall_s=lambda: 1e9 + self.now, wake=lambda: None, note=self._note,
            loaded=lambda: SimpleNamespace(settings=settings), logger=logging.getLogger("test"),
            sessions=SimpleNamespace(attach=lambda part: None, tell=self._tell),
        )  # fmt: skip
        self.part = MasterAgents(cast(Desk, desk), self._perform, Counters())

    def _perform(self, order: AgentOrder) -> bool:
        self.performed.append(order)
        return True

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self.something.set()

    def _tell(self, peer: Peer, message: Message, body: bytes = b"") -> None:
        self.told.setdefault(peer.identity.name, []).append(message)
        self.something.set()

    def join(self, name: str, role: str = "worker") -> Peer:
        self.sessions += 1
        peer = cast(Peer, SimpleNamespace(no=self.sessions, identity=Identity(name, name, role), last_seen_s=self.now))
        self.part.opened(peer, HELLO, self.now)
        return peer

    def send(self, peer: Peer, base: int, rows: list[Row], *, source: str = "", more: bool = False) -> None:
        packed = pack_rows(rows)
        message = Rows(
            source=source or f"book-{peer.identity.name}", base=base, upto=base + len(rows), count=packed.rows, more=more,
            encoding=packed.encoding, raw_bytes=packed.raw_bytes,
        )  # fmt: skip
        self.part.received(peer, message, b"head" + packed.body, 4, self.now)

    async def until(self, done: Callable[[], object]) -> None:
        while not done():
            self.something.clear()
            await self.something.wait()

    async def hear(self, name: str) -> Message:
        """The next thing that a worker is told."""
        await self.until(lambda: self.told.get(name))
        return self.told[name].pop(0)

    async def event(self, name: str) -> Event:
        await self.until(lambda: [event for event in self.events if event.name == name])
        return next(event for event in self.events if event.name == name)


def run(body: Callable[[Master], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            master = Master()
            await master.part.start()
            try:
                await body(master)
            finally:
                await master.part.close()

    asyncio.run(main())


def row(id_: str, epoch: int = 1, **fields: Any) -> Row:
    return Row(id=id_, epoch=epoch, held="session", status="active", **fields)


def test_rows_are_committed_and_said_to_be() -> None:
    async def body(master: Master) -> None:
        worker = master.join("w1")
        assert await master.hear("w1") == Taken()
        master.send(worker, 0, [row("a"), row("b")], more=True)
        assert await master.hear("w1") == Taken(source="book-w1", upto=2)
        master.send(worker, 2, [row(f"c{number}", labels={"x": "y" * 100}) for number in range(500)])
        assert await master.hear("w1") == Taken(source="book-w1", upto=502)
        master.send(worker, 0, [row("d")])
        assert await master.hear("w1") == Taken(source="book-w1", upto=502)
        assert (await master.book.count())[""] == 502
        assert (await master.event("agents_synced")).fields["rows"] == 502
        assert master.part.counters.values["chunks_elsewhere"] == 1
        assert master.part.counters.values["rows_taken"] == 502
        master.part.closed(worker, "gone", master.now)
        master.join("w1")
        assert await master.hear("w1") == Taken(source="book-w1", upto=502)

    run(body)


def test_only_workers_that_bring_agents_are_told() -> None:
    async def body(master: Master) -> None:
        master.join("client", "client")
        plain = cast(Peer, SimpleNamespace(no=99, identity=Identity("old", "old", "worker"), last_seen_s=0.0))
        master.part.opened(plain, Hello(versions=[1], instance="i"), 0.0)
        master.join("w1")
        await master.hear("w1")
        assert set(master.told) == {"w1"}

    run(body)


def test_the_node_that_lost_an_agent_is_told() -> None:
    async def body(master: Master) -> None:
        one, two = master.join("w1"), master.join("w2")
        await master.hear("w1")
        await master.hear("w2")
        master.send(one, 0, [row("a", 5), row("b", 5)])
        await master.hear("w1")
        master.send(two, 0, [row("a", 6), row("b", 4)])
        assert await master.hear("w1") == AgentOrders(orders=[AgentOrder(op="drop", id="a", epoch=6, node="w2")])
        assert await master.hear("w2") == AgentOrders(orders=[AgentOrder(op="drop", id="b", epoch=4)])
        assert await master.hear("w2") == Taken(source="book-w2", upto=2, refused=[("b", "late")], refused_count=1)
        assert (await master.event("agent_moved")).fields == {"id": "a", "from": "w1", "to": "w2"}
        assert (await master.event("agent_refused")).fields == {"node": "w2", "count": 1, "late": 1, "first": ["b"]}

    run(body)


def test_orders_wait_for_a_node_that_is_away_and_the_masters_own_are_done_at_once() -> None:
    async def body(master: Master) -> None:
        order = AgentOrder(op="remove", id="a")
        master.part.order("m", [order])
        assert master.performed == [order]
        master.part.order("w1", [order])
        master.part.taken_here("b", "w1", 7)
        master.join("w1")
        drop = AgentOrder(op="drop", id="b", epoch=7, node="m")
        assert await master.hear("w1") == AgentOrders(orders=[order, drop])
        assert await master.hear("w1") == Taken()
        master.part.order("w1", [AgentOrder(op="move", id=f"a{number}", node="w2") for number in range(1001)])
        first, rest = await master.hear("w1"), await master.hear("w1")
        assert isinstance(first, AgentOrders)
        assert isinstance(rest, AgentOrders)
        assert (len(first.orders), len(rest.orders)) == (1000, 1)

    run(body)


def test_a_full_disk_is_told_once_and_nothing_is_said_to_be_committed() -> None:
    async def body(master: Master) -> None:
        worker = master.join("w1")
        await master.hear("w1")
        master.send(worker, 0, [row("a")])
        await master.hear("w1")
        master.book.full = True
        for _ in range(2):
            master.send(worker, 1, [row("b")])
            assert await master.hear("w1") == Taken(source="book-w1", upto=1)
        master.book.full = False
        master.send(worker, 1, [row("b")])
        assert await master.hear("w1") == Taken(source="book-w1", upto=2)
        names = [event.name for event in master.events if event.name.startswith("agents_store")]
        assert names == ["agents_store_failed", "agents_store_recovered"]

    run(body)


def test_workers_take_turns_and_more_than_a_window_is_refused() -> None:
    async def body(master: Master) -> None:
        one, two = master.join("w1"), master.join("w2")
        await master.hear("w1")
        await master.hear("w2")
        master.book.go.clear()
        for base in range(WINDOW):
            master.send(one, base, [row(f"a{base}")])
        with pytest.raises(PeerError):
            master.send(one, WINDOW, [row("more")])
        master.send(two, 0, [row("b")])
        master.book.go.set()
        for upto in range(1, WINDOW + 1):
            assert await master.hear("w1") == Taken(source="book-w1", upto=upto)
        assert await master.hear("w2") == Taken(source="book-w2", upto=1)
        assert master.book.asked.index(("w2", 0)) == 1
        assert master.part.counters.values["chunks_protocol_error"] == 1

    run(body)


def test_a_master_with_too_much_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(master: Master) -> None:
        worker = master.join("w1")
        await master.hear("w1")
        master.send(worker, 0, [row("a")])
        await master.hear("w1")
        monkeypatch.setattr(taking, "MAX_WAITING_BYTES", 10)
        master.send(worker, 1, [row("b")])
        assert await master.hear("w1") == Taken(source="book-w1", upto=1)
        assert master.part.counters.values["chunks_busy"] == 1

    run(body)


def test_a_chunk_that_cannot_be_read_is_refused_and_its_place_is_free_again() -> None:
    async def body(master: Master) -> None:
        worker = master.join("w1")
        await master.hear("w1")
        for _ in range(6):
            message = Rows(source="book-w1", base=0, upto=1, count=1, raw_bytes=4)
            master.part.received(worker, message, b"[42]", 0, master.now)
            refusal = await master.hear("w1")
            assert isinstance(refusal, Refusal)
            assert (refusal.code, refusal.about) == ("protocol_error", Rows.kind)
        master.send(worker, 0, [row("a")])
        assert await master.hear("w1") == Taken(source="book-w1", upto=1)

    run(body)


def test_a_defect_takes_no_place(caplog: pytest.LogCaptureFixture) -> None:
    async def body(master: Master) -> None:
        worker = master.join("w1")
        await master.hear("w1")
        for _ in range(6):
            master.send(worker, 0, [row("a")], source="defect")
            refusal = await master.hear("w1")
            assert isinstance(refusal, Refusal)
            assert refusal.code == "failed"
        master.send(worker, 0, [row("a")])
        assert await master.hear("w1") == Taken(source="book-w1", upto=1)

    run(body)
    assert "could not be taken" in caplog.text


def test_the_agents_of_a_dead_node_are_disconnected_until_it_is_back() -> None:
    async def body(master: Master) -> None:
        worker = master.join("w1")
        await master.hear("w1")
        master.send(worker, 0, [row("a")])
        await master.hear("w1")
        master.part.closed(worker, "gone", master.now)
        master.now += 3.0
        other = master.join("w2")
        assert (await master.event("agents_disconnected")).fields == {"node": "w1", "count": 1}
        found = await master.book.get("a")
        assert found is not None
        assert found.status == "disconnected"
        master.part.closed(other, "gone", master.now)
        master.join("w1")
        await master.hear("w1")
        found = await master.book.get("a")
        assert found is not None
        assert found.status == "active"

    run(body)


def test_what_taken_names_is_bounded() -> None:
    async def body(master: Master) -> None:
        worker = master.join("w1")
        await master.hear("w1")
        master.send(worker, 0, [row("\n" * 200)] + [row(f"-{number}") for number in range(MAX_REFUSED)])
        taken = await master.hear("w1")
        assert isinstance(taken, Taken)
        assert (len(taken.refused), taken.refused_count) == (MAX_REFUSED, MAX_REFUSED + 1)
        assert all(1 <= len(id_) <= 128 and reason == "invalid" for id_, reason in taken.refused)

    run(body)
