"""What the master does for doors: the ring as a table, and the directory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from zcluster.brokers.doors import MasterDoors, RingTable, changes_of
from zcluster.config import load
from zcluster.core.doors import FEW_AGENTS, MAX_DOORS, MAX_DOORS_BYTES, fitting, worth_telling
from zcluster.core.limits import MasterLimits
from zcluster.core.master import Master
from zcluster.core.peers import Identity
from zcluster.core.rights import Rights
from zcluster.errors import StoreFailed
from zcluster.keys import Ring, generate, may_call, may_send
from zcluster.keys.rotation import follow
from zcluster.nodes.desk import Desk
from zcluster.store.interface import Delete, Put
from zcluster.store.memory import MemoryStore
from zcluster.wire import Beat, Bye, Hello, WireLimits, decode, frame_of
from zcluster.wire.agents import Door, Doors

PATIENCE_S = 30.0


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await body()

    asyncio.run(main())


# -- the ring as a table ------------------------------------------------------------------------------------------------


def test_what_goes_is_deleted_before_what_comes_is_put() -> None:
    before = {"ring/a": b"1", "ring/b": b"2", "ring/c": b"3"}
    after = {"ring/b": b"2", "ring/c": b"4", "ring/d": b"5"}
    assert changes_of(after, before) == [Delete("ring/a"), Put("ring/c", b"4"), Put("ring/d", b"5")]
    assert changes_of(before, before) == []


def desk(store: Any, **others: Any) -> Desk:
    made = SimpleNamespace(store=store, logger=logging.getLogger("test"), name="master", wake=lambda: None, **others)
    return cast(Desk, made)


async def table(store: MemoryStore) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.scan("ring/")).entries}


async def until(store: MemoryStore, wanted: Callable[[dict[str, bytes]], bool]) -> dict[str, bytes]:
    """Wait until the table is as wanted."""
    if not wanted(await table(store)):
        async for _changes in store.watch("ring/", 0):
            if wanted(await table(store)):
                break
    return await table(store)


def test_the_table_follows_the_ring(tmp_path: Path) -> None:
    async def body() -> None:
        store, ring = MemoryStore(["ring/"]), Ring(tmp_path / "ring.json")
        anna, w1 = generate().public, generate().public
        ring.add("anna", "client", anna)
        await store.apply([Put("ring/old", b"{}")])
        part = RingTable(desk(store), ring, Rights())
        await part.start()
        found = await until(store, lambda rows: "ring/old" not in rows and len(rows) == 1)
        assert found == {f"ring/{anna}": orjson.dumps({"name": "anna", "role": "client", "id": anna})}
        ring.add("w1", "worker", w1)
        part.ring_changed()
        await until(store, lambda rows: len(rows) == 2)
        ring.revoke("anna")
        part.ring_changed()
        assert list(await until(store, lambda rows: len(rows) == 1)) == [f"ring/{w1}"]
        revision = await store.revision()
        part.ring_changed()
        await part.close()
        assert await store.revision() == revision
        await store.close()

    run(body)


def test_the_row_of_a_key_of_before_tells_its_end(tmp_path: Path) -> None:
    async def body() -> None:
        store, ring = MemoryStore(["ring/"]), Ring(tmp_path / "ring.json")
        old, new = generate().public, generate().public
        ring.add("anna", "client", old)
        follow(ring, old, new, 60.0, 4_000_000_000.0)
        part = RingTable(desk(store), ring, Rights())
        await part.start()
        found = await until(store, lambda rows: len(rows) == 2)
        assert orjson.loads(found[f"ring/{old}"]) == {"name": "anna", "role": "client", "id": old, "until": 4_000_000_060.0}
        assert orjson.loads(found[f"ring/{new}"]) == {"name": "anna", "role": "client", "id": old}
        await part.close()
        await store.close()

    run(body)


class Failing(MemoryStore):
    """Its first commit fails."""

    def __init__(self) -> None:
        super().__init__(["ring/"])
        self.failures = 0

    async def apply(self, ops: Any, *, expect: Any = ()) -> int:
        if not self.failures:
            self.failures += 1
            raise StoreFailed("the disk is full")
        return await super().apply(ops, expect=expect)


def test_a_store_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.brokers.doors.RETRY_S", 0.0)

    async def body() -> None:
        store, ring = Failing(), Ring(tmp_path / "ring.json")
        ring.add("anna", "client", generate().public)
        part = RingTable(desk(store), ring, Rights())
        await part.start()
        await until(store, lambda rows: len(rows) == 1)
        assert store.failures == 1
        await part.close()
        await store.close()

    run(body)


# -- the directory ------------------------------------------------------------------------------------------------------


def door(name: str, agents: int = 0, addresses: tuple[str, ...] = ("tcp://a:1",)) -> Door:
    return Door(node=name, public=name * 2, addresses=list(addresses), agents=agents)


def test_one_message_holds_the_doors_with_the_fewest_agents() -> None:
    doors = [door(f"w{number:04}", agents=number) for number in range(MAX_DOORS + 1)]
    for count in (10, MAX_DOORS * 2):
        found = fitting(reversed(doors[:count]))
        assert found == doors[: len(found)]
        assert len(found) == min(count, MAX_DOORS, len(found))
    long = [door(f"w{number}", addresses=("tcp://" + "a" * 250,) * 16) for number in range(100)]
    kept = fitting(long)
    assert 0 < len(kept) < 100
    assert len(frame_of(Doors(doors=kept), [])) <= MAX_DOORS_BYTES


@pytest.mark.parametrize(("before", "after", "told"), [
    ([door("a")], [door("a")], False),
    ([door("a")], [door("a"), door("b")], True),
    ([door("a"), door("b")], [door("a")], True),
    ([door("a")], [door("a", addresses=("tcp://b:1",))], True),
    ([door("a")], [door("a", FEW_AGENTS)], False),
    ([door("a")], [door("a", FEW_AGENTS + 1)], True),
    ([door("a", 1000)], [door("a", 1250)], False),
    ([door("a", 1000)], [door("a", 1251)], True),
    ([door("a", 1000)], [door("a", 749)], True),
])  # fmt: skip
def test_everybody_is_told_of_doors_but_not_of_each_agent(before: list[Door], after: list[Door], told: bool) -> None:
    assert worth_telling(before, after) is told


class Node:
    """A master with a directory; nothing runs by itself."""

    def __init__(self, home: Path) -> None:
        ring = Ring(home / "ring.json")
        self.public = generate().public
        ring.add("master", "master", self.public)
        self.machine = Master("master", "c", 1, MasterLimits(), may_send, may_call, 0.0)
        loaded = load(home, {"master.bind": "tcp://10.0.0.1:7570", "master.publish": "tcp://10.0.0.1:7571"})
        self.part = MasterDoors(desk(None, loaded=lambda: loaded), self.machine, ring, lambda: (self.public, ""))

    def join(self, name: str, role: str, door: list[str] | None = None) -> None:
        hello = Hello(versions=[1], instance="i", slots=1, door=door or [])
        self.machine.receive(name, Identity(f"key-{name}", name, role), hello, b"", 0, 0.0)

    def told(self, name: str) -> list[list[str]]:
        found = []
        for route, outgoing in self.machine.take(0.0):
            for message, bodies in outgoing if route == name else ():
                read = decode(bytes(frame_of(message, bodies)), WireLimits())[0]
                if isinstance(read, Doors):
                    found.append([each.node for each in read.doors])
        return found


def test_workers_with_doors_hear_of_doors_as_they_come_and_go(tmp_path: Path) -> None:
    async def body() -> None:
        node = Node(tmp_path)
        calls: list[None] = []
        node.part.directory.on_change(lambda: calls.append(None))
        await node.part.start()
        assert node.part.directory.doors() == [
            Door(node="master", public=node.public, addresses=["tcp://10.0.0.1:7570"])
        ]
        node.join("w1", "worker", ["tcp://h:1", "nonsense", "tcp://*:1"])
        node.join("w2", "worker", ["nonsense"])
        node.join("w3", "worker")
        assert node.told("w1") == [["master"]]
        node.part.look()
        assert node.told("w1") == [["master", "w1"]]
        assert node.part.directory.doors()[1].addresses == ["tcp://h:1"]
        assert len(calls) == 2
        node.join("a1", "agent")
        beat = Beat(agents=7)
        node.machine.receive("w1", Identity("key-w1", "w1", "worker"), beat, b"", 0, 0.0)
        node.part.look()
        assert node.told("w1") == []
        assert [(each.node, each.agents) for each in node.part.directory.doors()] == [("master", 1), ("w1", 7)]
        assert len(calls) == 2
        node.join("w4", "worker", ["tcp://h:4"])
        node.machine.disconnected("w1", 0.0)
        node.part.look()
        assert node.told("w4") == [["master", "w1"], ["master", "w4"]]
        node.machine.receive("w4", Identity("key-w4", "w4", "worker"), Bye(draining=True), b"", 0, 0.0)
        node.part.look()
        assert [each.node for each in node.part.directory.doors()] == ["master"]
        await node.part.close()

    run(body)


def test_a_worker_without_a_door_hears_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        node = Node(tmp_path)
        await node.part.start()
        node.join("w3", "worker")
        node.part.look()
        assert node.told("w3") == []
        await node.part.close()

    run(body)
