"""What happens at a worker reaches its master's events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.brokers.workerevents import EventsOfWorkers
from zcluster.core.eventflow import BURST, DROPPED
from zcluster.core.limits import MasterLimits
from zcluster.core.master import Master
from zcluster.core.peers import Event, Identity
from zcluster.keys import may_call, may_send
from zcluster.wire import Hello, Message, Refusal, Welcome, WireLimits, decode, encode
from zcluster.wire.agents import EventInfo, Events
from zcluster.workers.events import WorkerEvents
from zcluster.workers.uplink import Uplink

WALL_S = 1_700_000_000.0
WELCOME = Welcome(
    version=1, session=1, name="w1", role="worker", cluster="c", master="m", epoch=1, heartbeat_s=1.0, lease_heartbeats=3,
    body_bytes=1, inline_bytes=1, chunk_bytes=1024, window_bytes=1024,
)  # fmt: skip


class Rig:
    """A worker's part and a master's machine; the test carries what the worker says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.machine = Master("m", "c", 1, MasterLimits(), may_send, may_call, self.now)
        desk: Any = SimpleNamespace(
            name="m", clock=lambda: self.now, wall_s=lambda: WALL_S + self.now, note=self.machine.note,
            logger=logging.getLogger("test"), sessions=self.machine,
        )  # fmt: skip
        self.part = EventsOfWorkers(desk)
        self.uplink = Uplink(lambda: None)
        loop = asyncio.get_running_loop()
        self.worker = WorkerEvents(self.uplink, loop, lambda: self.now, lambda: WALL_S + self.now)

    def say(self, message: Message, name: str = "w1", role: str = "worker") -> list[Message]:
        """A peer says something; what it is answered."""
        frame = encode(message)
        decoded, offset = decode(frame, WireLimits())
        self.machine.receive(name, Identity(f"k{name}", name, role), decoded, frame, offset, self.now)
        return [each for _, outgoing in self.machine.take(self.now) for each, _ in outgoing]

    def carry(self) -> None:
        """The worker's timer fires; what it says comes to the master."""
        self.worker.send()
        for message, _ in self.uplink.take([]):
            self.say(message)

    def told(self) -> list[Event]:
        """The events of the master since the last time, but those of sessions."""
        events, self.machine.events = self.machine.events, []
        return [event for event in events if not event.name.startswith(("session_", "node_"))]


def run(test: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        rig = Rig()
        await rig.part.start()
        rig.say(Hello(versions=[1], instance="i"))
        rig.told()
        await test(rig)
        rig.worker.close()
        await rig.part.close()

    asyncio.run(main())


def test_an_event_is_told_with_the_name_of_the_worker() -> None:
    async def test(rig: Rig) -> None:
        rig.uplink.link_up(WELCOME)
        rig.worker.heard(Event("agent_silent", {"agent": "a", "node": "somebody", "reason": "r"}, "warning"))
        rig.carry()
        assert rig.told() == [Event("agent_silent", {"node": "w1", "agent": "a", "reason": "r"}, "warning")]
        assert rig.machine.counters.values["event_agent_silent"] == 1

    run(test)


def test_events_wait_for_a_session_and_say_when_they_happened() -> None:
    async def test(rig: Rig) -> None:
        rig.worker.heard(Event("table_not_saved", {"table": "groups"}))
        rig.carry()
        assert rig.told() == []
        rig.now += 60.0
        rig.uplink.link_up(WELCOME)
        rig.carry()
        assert rig.told() == [Event("table_not_saved", {"node": "w1", "table": "groups", "at_s": WALL_S + 100.0})]
        rig.uplink.link_down()
        rig.worker.heard(Event("agent_active", {"agent": "a"}))
        rig.uplink.link_up(WELCOME)
        rig.now += 0.1
        rig.carry()
        assert rig.told() == [Event("agent_active", {"node": "w1", "agent": "a"})]

    run(test)


def test_the_timer_sends_without_being_asked() -> None:
    async def test(rig: Rig) -> None:
        woken = asyncio.Event()
        uplink = Uplink(woken.set)
        loop = asyncio.get_running_loop()
        part = WorkerEvents(uplink, loop, loop.time, lambda: WALL_S)
        part.heard(Event("agent_active", {"agent": "a"}))
        uplink.link_up(WELCOME)
        part.heard(Event("agent_active", {"agent": "b"}))
        async with asyncio.timeout(30):
            await woken.wait()
        ((message, _),) = uplink.take([])
        assert isinstance(message, Events)
        assert [event.fields["agent"] for event in message.events] == ["a", "b"]
        part.close()

    run(test)


def test_what_the_master_tells_itself_stays_at_the_worker() -> None:
    async def test(rig: Rig) -> None:
        rig.uplink.link_up(WELCOME)
        for name in ("session_opened", "session_closed", "agents_not_taken", "node_draining"):
            rig.worker.heard(Event(name, {}))
        rig.worker.send()
        assert rig.uplink.take([]) == []

    run(test)


@pytest.mark.parametrize("name", ["master_draining", "key_revoked", "node_dead", "dead", "session_closed", "Bad"])
def test_what_a_worker_may_not_say_refuses_all_of_it(name: str) -> None:
    async def test(rig: Rig) -> None:
        good, bad = EventInfo(name="agent_active", at_s=1.0), EventInfo(name=name, at_s=1.0, fields={"name": "m"})
        (refusal,) = rig.say(Events(events=[good, bad]))
        assert isinstance(refusal, Refusal)
        assert (refusal.code, refusal.about) == ("protocol_error", Events.kind)
        assert rig.told() == []

    run(test)


@pytest.mark.parametrize("role", ["agent", "client", "admin"])
def test_others_than_workers_tell_nothing(role: str) -> None:
    async def test(rig: Rig) -> None:
        rig.say(Hello(versions=[1], instance="i", epoch=1), "other", role)
        answers = rig.say(Events(events=[EventInfo(name="agent_active", at_s=1.0)]), "other", role)
        assert [each.code for each in answers if isinstance(each, Refusal)] == ["not_allowed"]
        assert rig.told() == []

    run(test)


def test_a_worker_that_tells_too_much_is_cut_short_and_others_are_not() -> None:
    async def test(rig: Rig) -> None:
        rig.say(Hello(versions=[1], instance="i"), "w2")
        flood = Events(events=[EventInfo(name="agent_active", at_s=WALL_S)] * 100)
        for _ in range(BURST // 100 + 2):
            rig.say(flood)
        rig.say(Hello(versions=[1], instance="another"))
        rig.say(flood)
        rig.say(Events(events=flood.events[:1]), "w2")
        assert [event.fields["node"] for event in rig.told() if event.name == "agent_active"] == ["w1"] * BURST + ["w2"]
        rig.part.handle_deadline()
        assert rig.told() == []
        rig.now += 1.0
        rig.part.handle_deadline()
        rig.part.handle_deadline()
        assert rig.told() == [Event(DROPPED, {"node": "w1", "count": 300, "reason": "more than 100 a second"}, "warning")]

    run(test)
