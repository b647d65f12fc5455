"""Events that a peer can cause as often as it likes, thinned out: neither the log nor the events kept are anyone's to fill.

Rules kept here:
- of one event about one peer at most BURST pass in each WINDOW_S; how many more there were is told when the window is over;
- all other events pass: what an administrator did, or a node's state, is never left out;
- what is remembered is bounded; who is forgotten begins anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from zcluster.core.peers import Event

WINDOW_S = 10.0
BURST = 100
MAX_KNOWN = 10_000
REPEATED = "events_repeated"
THINNED = frozenset(
    {"session_opened", "session_closed", "session_replaced", "hello_refused", "slow_reader", "carry_too_large"}
    | {"agent_active", "agent_silent", "agent_disconnected", "agent_refused", "agent_moved", "note_dropped", "config_applied"}
    | {"key_refused", "key_pending", "connection_cut", "right_denied"}
)
SUBJECTS = ("agent", "id", "name", "node")
"""Fields that say whom an event is about, the first that is there."""


class _Window:
    __slots__ = ("count", "since_s")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.count = 0


class Flood:
    """Counts the events of one node."""

    def __init__(self) -> None:
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()
        """The oldest first."""

    def thinned(self, events: Iterable[Event], now: float) -> list[Event]:
        """``events`` without those that are too many, and before them what :meth:`over` says."""
        return [*self.over(now), *(event for event in events if event.name not in THINNED or self._passes(event, now))]

    def over(self, now: float) -> list[Event]:
        """What was left out in windows that are over by now."""
        told = []
        while self._windows:
            (name, subject), window = next(iter(self._windows.items()))
            if now < window.since_s + WINDOW_S and len(self._windows) <= MAX_KNOWN:
                break
            del self._windows[name, subject]
            if window.count > BURST:
                told.append(Event(REPEATED, {"event": name, "of": subject, "count": window.count - BURST}, "warning"))
        return told

    def _passes(self, event: Event, now: float) -> bool:
        subject = next((str(event.fields[field]) for field in SUBJECTS if field in event.fields), "")
        window = self._windows.get((event.name, subject))
        if window is None:
            window = self._windows[event.name, subject] = _Window(now)
        window.count += 1
        return window.count <= BURST
