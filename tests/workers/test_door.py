"""A worker's door: real sockets in one loop, a master that the test speaks for, and the copy of the ring."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
import zmq

from zcluster.config import load
from zcluster.core.peers import Event, Identity
from zcluster.errors import UsageError
from zcluster.keys import KeyFile, KeyPair, generate
from zcluster.net.context import client_socket, new_context
from zcluster.net.reader import Reader
from zcluster.nodes import tasks
from zcluster.store.interface import Delete, Put
from zcluster.store.memory import MemoryStore
from zcluster.wire import Bye, Hello, Message, Refusal, Welcome, WireLimits, decode, encode
from zcluster.wire.agents import Carry, Doors, Keep
from zcluster.wire.agents import Door as Told
from zcluster.workers import door_ring
from zcluster.workers.door import Door
from zcluster.workers.door_ring import RingCopy
from zcluster.workers.uplink import Uplink

PATIENCE_S = 30.0
LOGGER = logging.getLogger("test")
WELCOME = Welcome(
    version=1, session=3, name="w1", role="worker", cluster="c", master="m", epoch=1, heartbeat_s=1.0, lease_heartbeats=3,
    body_bytes=1024, inline_bytes=1024, chunk_bytes=1024, window_bytes=1024, frame_bytes=65_536,
)  # fmt: skip


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await body()

    asyncio.run(main())


class House:
    """A worker with a door on a port of 127.0.0.1; make it inside a running loop."""

    def __init__(self, home: Path, flags: dict[str, Any] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.pair = generate()
        self.master: asyncio.Queue[tuple[Message, bytes]] = asyncio.Queue()
        self.events: asyncio.Queue[str] = asyncio.Queue()
        loaded = load(home, flags if flags is not None else {"worker.door": "tcp://127.0.0.1:*"})
        key_file = KeyFile("w1", "worker", "c", self.pair, generate().public)
        self.uplink = Uplink(self.wake)
        self.door = Door(loaded, key_file, self.uplink, self.wake, self.note, LOGGER)
        self.context = new_context()
        self.readers: list[Reader] = []

    def wake(self) -> None:
        self.loop.call_soon(self.flush)

    def note(self, event: Event) -> None:
        self.events.put_nowait(event.name)

    def flush(self) -> None:
        self.door.flush()
        for message, bodies in self.uplink.take([]):
            self.master.put_nowait((message, b"".join(bodies)))

    async def carried(self) -> tuple[Carry, bytes]:
        """What the master hears next."""
        message, body = await self.master.get()
        assert isinstance(message, Carry)
        return message, body

    def connect(self, pair: KeyPair) -> Caller:
        return Caller(self, pair)

    async def carry(self, role: str) -> Caller:
        """A peer with a key of ``role`` that has said HELLO, and is carried."""
        pair = generate()
        self.door.open(self.context)
        self.door.ring_is(ring_of((pair, "anna", role)))
        self.uplink.link_up(WELCOME)
        caller = self.connect(pair)
        caller.say(hello())
        assert [(await self.carried())[0].op for _ in range(2)] == ["open", "data"]
        return caller

    def close(self) -> None:
        for reader in self.readers:
            reader.close()
        self.door.close()
        self.context.term()


class Caller:
    """An agent or client at the door."""

    def __init__(self, house: House, pair: KeyPair) -> None:
        keys = (pair.secret.encode(), pair.public.encode(), house.pair.public.encode())
        self.socket = client_socket(house.context, zmq.DEALER, *keys, max_bytes=1 << 20)
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        self.socket.connect(house.door.addresses[0])
        house.readers.append(Reader(house.loop, self.socket, self.turn))

    def turn(self) -> bool:
        while True:
            try:
                self.heard.put_nowait(decode(self.socket.recv(zmq.NOBLOCK), WireLimits())[0])
            except zmq.Again:
                return False

    def say(self, message: Message) -> bytes:
        frame = encode(message)
        self.socket.send(frame)
        return frame


def hello(instance: str = "i") -> Hello:
    return Hello(versions=[1], instance=instance)


def ring_of(*people: tuple[KeyPair, str, str]) -> dict[str, Identity]:
    return {pair.public: Identity(pair.public, name, role) for pair, name, role in people}


def test_an_agent_has_its_session_at_the_door(tmp_path: Path) -> None:
    async def body() -> None:
        house, agent = House(tmp_path), generate()
        house.door.open(house.context)
        house.door.ring_is(ring_of((agent, "a1", "agent")))
        caller = house.connect(agent)
        caller.say(hello())
        welcome = await caller.heard.get()
        assert isinstance(welcome, Welcome)
        assert (welcome.name, welcome.role, welcome.master) == ("a1", "agent", "w1")
        assert house.door.agents == 1
        assert await house.events.get() == "session_opened"
        house.door.ring_is({})
        bye = await caller.heard.get()
        assert isinstance(bye, Bye)
        assert (bye.code, house.door.agents) == ("not_allowed", 0)
        caller.say(Keep())
        house.close()

    run(body)


def test_a_client_is_carried_both_ways_until_it_leaves_or_its_key_does(tmp_path: Path) -> None:
    async def body() -> None:
        house, anna = House(tmp_path), generate()
        house.door.open(house.context)
        house.door.ring_is(ring_of((anna, "anna", "client")))
        house.uplink.link_up(WELCOME)
        caller = house.connect(anna)
        frame = caller.say(hello())
        assert await house.carried() == (Carry(connection=1, op="open", key=anna.public), b"")
        assert await house.carried() == (Carry(connection=1), frame)
        answer = Carry(connection=1)
        sent = encode(answer, [encode(Bye(code="x"))])
        house.uplink.receive(answer, sent, len(encode(answer)))
        assert await caller.heard.get() == Bye(code="x")
        assert house.door.agents == 0
        house.door.ring_is({})
        bye = await caller.heard.get()
        assert isinstance(bye, Bye)
        assert bye.code == "not_allowed"
        assert (await house.carried())[0] == Carry(connection=1, op="closed")
        house.close()

    run(body)


def test_the_end_of_a_clients_connection_is_told(tmp_path: Path) -> None:
    async def body() -> None:
        house = House(tmp_path)
        await house.carry("admin")
        house.readers.pop().close()
        assert (await house.carried())[0] == Carry(connection=1, op="closed")
        house.close()

    run(body)


def test_who_is_turned_away_by_the_master_is_told_and_cut(tmp_path: Path) -> None:
    async def body() -> None:
        house = House(tmp_path)
        caller = await house.carry("client")
        bye = encode(Carry(connection=1), [encode(Bye(code="busy"))])
        house.uplink.receive(Carry(connection=1), bye, len(encode(Carry(connection=1))))
        house.uplink.receive(Carry(connection=1, op="closed"), b"", 0)
        assert await caller.heard.get() == Bye(code="busy")
        assert await house.events.get() == "connection_cut"
        assert house.door.machine.counters.values["cut_turned_away"] == 1
        assert house.master.empty(), "the master knows"
        house.close()

    run(body)


def test_an_agent_that_sends_too_much_that_is_refused_is_told_and_cut(tmp_path: Path) -> None:
    async def body() -> None:
        house, agent = House(tmp_path, {"worker.door": "tcp://127.0.0.1:*", "limits.faults": 1}), generate()
        house.door.open(house.context)
        house.door.ring_is(ring_of((agent, "a1", "agent")))
        caller = house.connect(agent)
        caller.say(hello())
        assert isinstance(await caller.heard.get(), Welcome)
        for _ in range(3):
            caller.socket.send(b"nonsense")
        while (said := await caller.heard.get()).kind == Refusal.kind:
            continue
        assert isinstance(said, Bye)
        assert (said.code, house.door.agents) == ("busy", 0)
        assert [await house.events.get() for _ in range(3)] == ["session_opened", "session_closed", "connection_cut"]
        assert house.door.machine.counters.values["cut_faults"] == 1
        house.close()

    run(body)


def test_without_a_master_clients_go_elsewhere_and_agents_stay(tmp_path: Path) -> None:
    async def body() -> None:
        house, anna, agent = House(tmp_path), generate(), generate()
        house.door.open(house.context)
        house.door.ring_is(ring_of((anna, "anna", "client"), (agent, "a1", "agent")))
        client, host = house.connect(anna), house.connect(agent)
        client.say(hello())
        bye = await client.heard.get()
        assert isinstance(bye, Bye)
        assert bye.code == "unreachable"
        host.say(hello())
        assert isinstance(await host.heard.get(), Welcome)
        house.uplink.link_up(WELCOME)
        client.say(hello())
        await house.carried()
        house.uplink.link_down()
        bye = await client.heard.get()
        assert isinstance(bye, Bye)
        assert bye.code == "unreachable"
        assert house.door.agents == 1
        house.close()

    run(body)


@pytest.mark.parametrize("role", ["worker", "master"])
def test_only_agents_and_clients_come_in(tmp_path: Path, role: str) -> None:
    async def body() -> None:
        house, pair, nobody = House(tmp_path), generate(), generate()
        house.door.ring_is(ring_of((pair, "x", role)))
        assert not house.door.front_admits(pair.public)
        assert not house.door.front_admits(nobody.public)
        house.door.front_message(b"r", pair.public, b"")
        assert house.door.machine.counters.values["revoked_key"] == 1
        house.close()

    run(body)


def test_before_the_ring_is_copied_nobody_comes_in_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        house, anna = House(tmp_path), generate()
        assert not house.door.front_admits(anna.public)
        house.door.open(house.context)
        house.connect(anna).say(hello())
        while "zap_denied" not in house.door.machine.counters.values:  # noqa: ASYNC110
            await asyncio.sleep(0)
        house.close()

    run(body)
    (denied,) = [record for record in caplog.records if "denied" in record.message]
    assert denied.__dict__["fields"] == {
        "address": "127.0.0.1", "reason": "the ring has not been copied from the master yet",
    }  # fmt: skip


def test_what_an_agent_sends_that_is_no_frame_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        house, agent = House(tmp_path), generate()
        house.door.ring_is(ring_of((agent, "a1", "agent")))
        house.door.front_message(b"r", agent.public, b"nonsense")
        house.door.front_malformed(b"r", agent.public, "two frames")
        house.door.front_malformed(b"s", generate().public, "two frames")
        assert house.door.machine.counters.values["malformed"] == 2
        assert house.door.machine.counters.values["revoked_key"] == 1
        house.close()

    run(body)


def test_without_the_setting_nobody_listens(tmp_path: Path) -> None:
    async def body() -> None:
        house = House(tmp_path, {})
        house.door.open(house.context)
        assert house.door.addresses == ()
        house.flush()
        house.close()

    run(body)


def test_an_address_in_use_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    async def body() -> None:
        house = House(tmp_path)
        house.door.open(house.context)
        port = house.door.addresses[0].rpartition(":")[2]
        other = House(tmp_path, {"worker.door": f"tcp://127.0.0.1:{port}"})
        with pytest.raises(UsageError) as caught:
            other.door.open(other.context)
        assert "worker.door" in caught.value.hint
        other.close()
        house.close()

    run(body)


def test_what_others_are_told(tmp_path: Path) -> None:
    async def body() -> None:
        house = House(tmp_path, {"worker.door": "tcp://0.0.0.0:*", "worker.advertise": ("tcp://door.example:1",)})
        house.door.open(house.context)
        assert house.door.addresses == ("tcp://door.example:1",)
        house.close()

    run(body)


def test_doors_are_passed_on_to_who_asked(tmp_path: Path) -> None:
    async def body() -> None:
        house = House(tmp_path, {})
        calls: list[None] = []
        house.door.directory.on_change(lambda: calls.append(None))
        doors = [Told(node="w2", public="p" * 40, addresses=["tcp://h:1"])]
        message = Doors(doors=doors)
        assert house.uplink.receive(message, encode(message), 0)
        assert (house.door.directory.doors(), len(calls)) == (doors, 1)
        house.uplink.link_down()
        assert house.door.directory.doors() == doors
        house.close()

    run(body)


# -- the copy of the ring -----------------------------------------------------------------------------------------------


def test_the_copy_follows_the_store_and_reads_what_it_can(tmp_path: Path) -> None:
    async def body() -> None:
        store = MemoryStore(["ring/"])
        await store.apply([Put("ring/K", b'{"name":"anna","role":"client"}'), Put("ring/L", b"nonsense"), Put("groups/x", b"1")])
        told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        copy = RingCopy(store, lambda ring: told.put_nowait({key: each.name for key, each in ring.items()}), LOGGER, lambda: 0.0)
        await copy.start()
        assert await told.get() == {"K": "anna"}
        await store.apply([Put("ring/M", b'{"name":"a1","role":"agent"}'), Put("ring/K", b"[]")])
        assert await told.get() == {"M": "a1"}
        await store.apply([Delete("ring/M"), Delete("ring/nothing")])
        assert await told.get() == {}
        await copy.close()
        await store.close()

    run(body)


def test_a_fault_does_not_end_the_following_of_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "RESTART_S", 0.0)

    async def body() -> None:
        store = MemoryStore(["ring/"])
        await store.apply([Put("ring/K", b'{"name":"anna","role":"client"}')])
        told: asyncio.Queue[list[str]] = asyncio.Queue()
        faults: list[Exception] = [ZeroDivisionError(), ZeroDivisionError()]

        def changed(ring: Mapping[str, Identity]) -> None:
            if faults:
                raise faults.pop()
            told.put_nowait(list(ring))

        copy = RingCopy(store, changed, LOGGER, lambda: 0.0)
        await copy.start()
        assert await asyncio.wait_for(told.get(), 5) == ["K"]
        await store.apply([Delete("ring/K")])
        assert await asyncio.wait_for(told.get(), 5) == []
        await copy.close()
        await store.close()

    run(body)


def test_a_key_of_before_ends_at_the_door_without_the_master(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_ring, "LOOK_S", 0.0)
    now_s = [100.0]

    async def body() -> None:
        store = MemoryStore(["ring/"])
        row = b'{"name":"anna","role":"client","id":"OLD"'
        await store.apply([Put("ring/OLD", row + b',"until":160.0}'), Put("ring/NEW", row + b"}")])
        await store.apply([Put("ring/GONE", row + b',"until":100.0}'), Put("ring/ODD", row + b',"until":"soon"}')])
        told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        copy = RingCopy(
            store, lambda ring: told.put_nowait({key: each.key for key, each in ring.items()}), LOGGER, lambda: now_s[0]
        )
        await copy.start()
        assert await told.get() == {"OLD": "OLD", "NEW": "OLD"}
        now_s[0] = 159.9
        await store.apply([Delete("ring/ODD")])
        assert await told.get() == {"OLD": "OLD", "NEW": "OLD"}
        now_s[0] = 160.0
        assert await told.get() == {"NEW": "OLD"}
        await copy.close()
        assert told.empty()
        await store.close()

    run(body)
