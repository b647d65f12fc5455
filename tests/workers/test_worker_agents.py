"""The worker's part: what changed goes up, and what the master orders is done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from zcluster.core.agents.row import Row
from zcluster.core.agents.rowcodec import unpack_rows
from zcluster.core.batch import Outgoing
from zcluster.core.peers import Event
from zcluster.errors import Busy, PeerError, StoreFailed
from zcluster.nodes import tasks
from zcluster.nodes.desk import Desk
from zcluster.nodes.watchedbook import WatchedBook
from zcluster.store.book_memory import MemoryBook
from zcluster.wire import Message, Welcome
from zcluster.wire.agents import AgentOrder, AgentOrders, Rows, Taken
from zcluster.workers.agents import MAX_WAITING, WorkerAgents, carry_out
from zcluster.workers.uplink import Uplink

PATIENCE_S = 30.0
WELCOME = Welcome(
    version=1, session=1, name="w1", role="worker", cluster="c", master="m", epoch=1, heartbeat_s=1.0, lease_heartbeats=3,
    body_bytes=1, inline_bytes=1, chunk_bytes=1024, window_bytes=1024,
)  # fmt: skip


class BrokenBook(MemoryBook):
    """A book that cannot be read for a while."""

    def __init__(self, id_: str) -> None:
        super().__init__(id_)
        self.faults: list[Exception] = []

    async def changed(self, after: int, limit: int) -> tuple[list[Row], int, bool]:
        if self.faults:
            raise self.faults.pop()
        return await super().changed(after, limit)


class Node:
    """A worker's part, and a test that is its master."""

    def __init__(self) -> None:
        self.book = BrokenBook("b")
        self.events: list[Event] = []
        self.noted = asyncio.Event()
        self.performed: list[AgentOrder] = []
        self.newer: set[str] = set()
        self.said = asyncio.Event()
        self.waiting: list[Outgoing] = []
        self.uplink = Uplink(self.said.set)
        watched = WatchedBook(self.book, lambda: self.part.poke())
        desk = SimpleNamespace(
            name="w1", book=watched, clock=asyncio.get_running_loop().time, note=self._note, logger=logging.getLogger("test")
        )
        self.part = WorkerAgents(cast(Desk, desk), self.uplink, self._perform)

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self.noted.set()

    def _perform(self, order: AgentOrder) -> bool:
        self.performed.append(order)
        self.noted.set()
        return order.id not in self.newer

    def hear(self, message: Message) -> None:
        assert self.uplink.receive(message, b"", 0)

    async def next(self) -> tuple[Rows, list[str]]:
        """The next chunk, and the ids in it."""
        while not (outgoing := [*self.waiting, *self.uplink.take([])]):
            self.said.clear()
            await self.said.wait()
        (message, [body]), *self.waiting = outgoing
        assert isinstance(message, Rows)
        return message, [row[0] for row in unpack_rows(message.encoding, message.raw_bytes, message.count, body).plain()]

    async def event(self, name: str) -> Event:
        while (found := next((event for event in self.events if event.name == name), None)) is None:
            self.noted.clear()
            await self.noted.wait()
        return found


def run(body: Callable[[Node], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            node = Node()
            await node.part.start()
            try:
                await body(node)
            finally:
                await node.part.close()

    asyncio.run(main())


def row(id_: str, **fields: Any) -> Row:
    return Row(id=id_, node="w1", **fields)


def test_what_changed_goes_up_once() -> None:
    async def body(node: Node) -> None:
        await node.book.put([row("a"), row("b")])
        node.uplink.link_up(WELCOME)
        node.hear(Taken())
        message, ids = await node.next()
        assert (message.source, message.base, message.upto, message.more, ids) == ("b", 0, 2, False, ["a", "b"])
        node.hear(Taken(source="b", upto=2))
        await node.part._book.update([("a", {"name": "x"})])
        message, ids = await node.next()
        assert (message.base, message.upto, ids) == (2, 3, ["a"])
        node.hear(Taken(source="b", upto=3, refused=[("a", "late")], refused_count=7))
        assert (await node.event("agents_not_taken")).fields == {"count": 7, "first": ["a"]}

    run(body)


def test_many_rows_go_up_in_chunks_and_again_after_a_broken_session() -> None:
    async def body(node: Node) -> None:
        await node.book.put([row(f"a{number:04}", labels={"x": "y" * 200}) for number in range(3000)])
        node.uplink.link_up(WELCOME)
        node.hear(Taken())
        message, ids = await node.next()
        assert message.more
        node.uplink.link_down()
        node.uplink.link_up(WELCOME)
        node.hear(Taken(source="b", upto=message.upto))
        while message.more:
            message, more_ids = await node.next()
            ids += more_ids
            node.hear(Taken(source="b", upto=message.upto))
        assert ids == [f"a{number:04}" for number in range(3000)]

    run(body)


def test_a_page_that_fits_no_chunk_is_read_again_with_fewer_rows() -> None:
    async def body(node: Node) -> None:
        await node.book.put([row(f"a{number}", metrics={"x": "y" * 16_000}) for number in range(20)])
        node.uplink.link_up(WELCOME)
        node.hear(Taken())
        first, ids = await node.next()
        assert (first.more, len(ids), first.upto) == (True, 16, 16)
        second, ids = await node.next()
        assert (second.base, second.more, len(ids)) == (16, False, 4)

    run(body)


def test_a_book_that_cannot_be_read_is_told_once_and_tried_again() -> None:
    async def body(node: Node) -> None:
        await node.book.put([row("a")])
        node.book.faults = [StoreFailed("the disk is broken"), Busy("too much waits")]
        node.uplink.link_up(WELCOME)
        node.hear(Taken())
        assert (await node.next())[1] == ["a"]
        await node.event("agents_store_recovered")
        assert [event.name for event in node.events] == ["agents_store_failed", "agents_store_recovered"]

    run(body)


def test_a_defect_does_not_stop_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(tasks, "RESTART_S", 0.0)

    async def body(node: Node) -> None:
        await node.book.put([row("a")])
        node.book.faults = [ValueError("a defect")]
        node.uplink.link_up(WELCOME)
        node.hear(Taken())
        assert (await node.next())[1] == ["a"]

    run(body)
    assert "sending rows failed" in caplog.text


def test_what_was_dropped_does_not_go_up() -> None:
    async def body(node: Node) -> None:
        await node.book.put([row("a", epoch=5, held="session"), row("b", epoch=9, held="session"), row("c")])
        node.newer.add("c")
        orders = [AgentOrder(op="drop", id=id_, epoch=7, node="w2") for id_ in "abc"]
        node.uplink.link_up(WELCOME)
        node.hear(AgentOrders(orders=[*orders, AgentOrder(op="move", id="b", node="w3")]))
        node.hear(Taken())
        assert (await node.next())[1] == ["b", "c"]
        assert [(order.op, order.id) for order in node.performed] == [("drop", "a"), ("drop", "c"), ("move", "b")]

    run(body)


def test_orders_that_wait_are_bounded() -> None:
    async def body(node: Node) -> None:
        for number in range(MAX_WAITING + 1):
            node.part.receive(AgentOrders(orders=[AgentOrder(op="move", id=f"a{number}")]), b"", 0)
        await node.event("agent_orders_lost")
        while len(node.performed) < MAX_WAITING:
            node.noted.clear()
            await node.noted.wait()
        assert [order.id for order in node.performed] == [f"a{number}" for number in range(1, MAX_WAITING + 1)]

    run(body)


def test_orders_are_carried_out_in_order() -> None:
    async def body() -> None:
        book = MemoryBook("b")
        faults: list[PeerError] = []
        await book.put([row("live", epoch=5, held="session", status="active")])
        await carry_out(
            [
                AgentOrder(op="adopt", id="x", epoch=3, row={"name": "first"}), AgentOrder(op="remove", id="x"),
                AgentOrder(op="adopt", id="x", epoch=2, row={"name": "second"}), AgentOrder(op="adopt", id="y", row={"os": 1}),
                AgentOrder(op="drop", id="live", epoch=8, held="report", node="w2"),
            ],
            book, "w1", lambda order: True, faults.append,
        )  # fmt: skip
        rows = await book.get_many(["x", "y", "live"])
        assert {id_: (found.name, found.epoch, found.held) for id_, found in rows.items()} == {
            "x": ("second", 2, "report"), "live": ("", 9, "session"),
        }  # fmt: skip
        assert len(faults) == 1

    asyncio.run(body())
