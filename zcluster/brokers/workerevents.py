"""What workers say that happened: EVENTS, noted as events of the cluster.

Rules kept here:
- ``node`` is the worker whose session it is, whatever the event says;
- of each worker only so many are taken a second; one event says how many were left out;
- an event that is late (it waited for a session) says when it happened, by the worker's clock.
"""

from __future__ import annotations

import asyncio

from zcluster.config import Loaded
from zcluster.core.eventflow import DROPPED, PER_S, Intake, check_events
from zcluster.core.peers import Event, Peer
from zcluster.dapi.function import Function
from zcluster.errors import PeerError
from zcluster.net.reader import Alarm
from zcluster.nodes.desk import Desk
from zcluster.wire import Hello, Message
from zcluster.wire.agents import EventInfo, Events

LATE_S = 1.0
"""An event that is older says when it happened."""


class EventsOfWorkers:
    """The part of a master that hears what happens at its workers."""

    kinds = frozenset({Events.kind})

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._intakes: dict[str, Intake] = {}
        """By worker; kept over its sessions, so that a new one is no way to say more."""
        self._alarm: Alarm | None = None

    def functions(self) -> dict[str, Function]:
        """None: ``events.follow`` tells."""
        return {}

    async def start(self) -> None:
        """Listen."""
        self._alarm = Alarm(asyncio.get_running_loop(), self.handle_deadline)
        self._desk.sessions.attach(self)

    def apply(self, loaded: Loaded) -> None:
        """Nothing of the configuration concerns events."""

    async def close(self) -> None:
        """Tell nothing more."""
        if self._alarm is not None:
            self._alarm.cancel()

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """The worker says by itself what happened."""

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        """What it says next, it says on its next session."""

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        assert isinstance(message, Events)
        if peer.node is None:
            raise PeerError("EVENTS come from workers")
        check_events(message.events)
        worker = peer.identity.name
        intake = self._intakes.get(worker)
        if intake is None:
            intake = self._intakes[worker] = Intake(now)
        intake.check_names(message.events)
        for info in message.events:
            if intake.takes(now):
                self._desk.note(self._event(worker, info))
        self._watch(intake)

    def handle_deadline(self) -> None:
        """Tell of what was left out. The part's own timer calls it."""
        now = self._desk.clock()
        for worker, intake in self._intakes.items():
            if count := intake.left_out(now):
                fields = {"node": worker, "count": count, "reason": f"more than {PER_S} a second"}
                self._desk.note(Event(DROPPED, fields, "warning"))
            self._watch(intake)

    def _event(self, worker: str, info: EventInfo) -> Event:
        fields = {"node": worker, **{name: value for name, value in info.fields.items() if name != "node"}}
        if abs(self._desk.wall_s() - info.at_s) >= LATE_S:
            fields["at_s"] = round(info.at_s, 3)
        return Event(info.name, fields, info.level)

    def _watch(self, intake: Intake) -> None:
        if self._alarm is not None:
            self._alarm.set(intake.next_deadline())
