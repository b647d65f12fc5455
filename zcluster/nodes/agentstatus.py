"""The events of a node's agents that come and go, gathered (core/agents/turning.py) and told by a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from zcluster.core.agents.presence import State
from zcluster.core.agents.turning import Turns
from zcluster.core.peers import Event
from zcluster.net.reader import Alarm


class StatusEvents:
    """Tells which agents turned to another status.

    Args:
        node: whose agents they are. clock: the loop's. note: told the events.
    """

    def __init__(self, node: str, clock: Callable[[], float], note: Callable[[Event], None]) -> None:
        self._clock, self._note = clock, note
        self._turns = Turns(node)
        self._alarm: Alarm | None = None

    def start(self) -> None:
        """Tell in time from now on."""
        self._alarm = Alarm(asyncio.get_running_loop(), self.handle_deadline)

    def turned(self, id_: str, state: State, reason: str = "") -> None:
        """An agent is ``state`` now."""
        self._turns.add(id_, state, reason, self._clock())
        self._watch()

    def handle_deadline(self) -> None:
        """Tell what is due. The timer calls it."""
        self._tell(self._turns.due(self._clock()))
        self._watch()

    def tell(self) -> None:
        """Tell all that was not told yet."""
        self._tell(self._turns.rest())

    def close(self) -> None:
        """Tell the rest, and nothing more."""
        if self._alarm is not None:
            self._alarm.cancel()
        self.tell()

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            self._note(event)

    def _watch(self) -> None:
        if self._alarm is not None:
            self._alarm.set(self._turns.next_deadline())
