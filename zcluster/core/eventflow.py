"""Events on their way from a worker to its master: what waits at the worker, and what the master takes of them.

Rules kept here:
- what waits is bounded: beyond that the newest are dropped, and how many is told behind what waited;
- a message leaves at once when there was none for EVERY_S, and a worker that has much to tell sends at most PER_S events a
  second: it loses nothing by its own pace;
- the master takes PER_S events a second of each worker (BURST at once) and of at most MAX_NAMES names, whatever the worker sends;
- an event out of its bounds refuses its whole message: a worker of ours sends none such.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from zcluster.core.eventnames import of_workers, told
from zcluster.errors import PeerError
from zcluster.wire.agents import EventInfo, Events

MAX_WAITING = 1000
MAX_EVENTS = 100
MAX_MESSAGE_BYTES = 65_536
"""Of the events in one message, unless it is one alone."""
EVERY_S = 0.1
PER_S = 100
BURST = 200
MAX_NAMES = 64
"""Names of events that the master takes of one worker: each is counted under its name."""
LEFT_OUT_S = 1.0
DROPPED = "events_dropped"


class EventQueue:
    """What a worker has to tell."""

    def __init__(self) -> None:
        self._waiting: deque[EventInfo] = deque()
        self._dropped = 0
        self._dropped_at_s = 0.0
        self._next_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, name: str, fields: Mapping[str, Any], level: str, at_s: float) -> None:
        """Something happened at ``at_s``, seconds since 1970."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped, self._dropped_at_s = self._dropped + 1, at_s
            return
        known: Literal["info", "warning"] = "warning" if level == "warning" else "info"
        self._waiting.append(EventInfo(name=name, at_s=at_s, level=known, fields=told(fields)))

    def due_s(self, now: float) -> float | None:
        """When :meth:`take` is to be called; None when nothing waits."""
        return max(now, self._next_s) if self._waiting else None

    def take(self, now: float) -> Events | None:
        """What is to be sent now; None when nothing waits or the next message is not due yet."""
        if not self._waiting or now < self._next_s:
            return None
        events: list[EventInfo] = []
        size = 0
        while self._waiting and len(events) < MAX_EVENTS:
            size += len(msgspec.json.encode(self._waiting[0]))
            if events and size > MAX_MESSAGE_BYTES:
                break
            events.append(self._waiting.popleft())
        if self._dropped:
            count, self._dropped = self._dropped, 0
            self.add(DROPPED, {"count": count, "reason": f"{MAX_WAITING} waited"}, "warning", self._dropped_at_s)
        self._next_s = now + max(EVERY_S, len(events) / PER_S)
        return Events(events=events)


def check_events(events: Sequence[EventInfo]) -> None:
    """Whether a worker may say this.

    Raises:
        PeerError: a name that it may not say, or fields that are too much or not on one line.
    """
    for event in events:
        if not of_workers(event.name):
            raise PeerError(f"{event.name[:64]!r} is no event of a worker")
        if told(event.fields) != event.fields:
            raise PeerError(f"the event {event.name} has fields that are too large, or texts that are not on one line")


class Intake:
    """What the master takes of one worker."""

    def __init__(self, now: float) -> None:
        self._room, self._at_s = float(BURST), now
        self._left_out = 0
        self._tell_s = 0.0
        self._names: set[str] = set()

    def check_names(self, events: Sequence[EventInfo]) -> None:
        """Raises PeerError when there are too many names; else they are remembered."""
        names = self._names | {event.name for event in events}
        if len(names) > MAX_NAMES:
            raise PeerError(f"a worker tells of at most {MAX_NAMES} different events")
        self._names = names

    def takes(self, now: float) -> bool:
        """Whether there is room for one more event; otherwise it is counted."""
        self._room = min(float(BURST), self._room + (now - self._at_s) * PER_S)
        self._at_s = now
        if self._room >= 1.0:
            self._room -= 1.0
            return True
        if not self._left_out:
            self._tell_s = now + LEFT_OUT_S
        self._left_out += 1
        return False

    def next_deadline(self) -> float | None:
        """When :meth:`left_out` has something to say."""
        return self._tell_s if self._left_out else None

    def left_out(self, now: float) -> int:
        """How many events were left out, each told once and no sooner than LEFT_OUT_S after the first."""
        if not self._left_out or now < self._tell_s:
            return 0
        count, self._left_out = self._left_out, 0
        return count
