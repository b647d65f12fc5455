"""What happens at a worker goes to its master: EVENTS, for whoever follows the events of the cluster.

Rules kept here:
- what is noted in one turn leaves together, and what is noted while there is no session waits for the next one;
- what the master says itself, or what is no event for others, stays in the worker's own log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from zcluster.core.eventflow import EventQueue
from zcluster.core.eventnames import of_workers
from zcluster.core.peers import Event
from zcluster.net.reader import Alarm
from zcluster.wire import Message, Welcome
from zcluster.workers.uplink import Uplink


class WorkerEvents:
    """The part of a worker that tells what happened; there before all others, so that it hears all of them.

    Args:
        clock: the loop's. wall_s: seconds since 1970.
    """

    kinds: frozenset[int] = frozenset()

    def __init__(
        self, uplink: Uplink, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], wall_s: Callable[[], float]
    ) -> None:
        self._uplink, self._clock, self._wall_s = uplink, clock, wall_s
        self._queue = EventQueue()
        self._alarm = Alarm(loop, self.send)
        uplink.attach(self)

    def heard(self, event: Event) -> None:
        """Something happened."""
        if of_workers(event.name):
            self._queue.add(event.name, event.fields, event.level, self._wall_s())
            self._watch()

    def send(self) -> None:
        """Send what is due. The part's own timer calls it."""
        if self._uplink.welcome is not None and (message := self._queue.take(self._clock())) is not None:
            self._uplink.say(message)
        self._watch()

    def close(self) -> None:
        """Send nothing more."""
        self._alarm.cancel()

    # -- a part of the session with the master ------------------------------------------------------------------------

    def link_up(self, welcome: Welcome) -> None:
        self._watch()

    def link_down(self) -> None:
        """What was not sent yet waits."""

    def receive(self, message: Message, data: bytes, offset: int) -> None:
        """The master says nothing about events."""

    def _watch(self) -> None:
        if self._uplink.welcome is not None:
            self._alarm.set(self._queue.due_s(self._clock()))
