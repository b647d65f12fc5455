"""Which agents are there: active, silent or disconnected, by when they were heard last.

Rules kept here:
- an agent that says nothing for SILENT_INTERVALS of its own intervals is silent, for GONE_INTERVALS it is disconnected;
- a connection that broke makes it silent after GRACE_S already (an agent that comes back sooner was never away), and
  disconnected when its intervals are over; a session that ended in order makes it disconnected at once;
- hearing an agent costs one assignment: its deadline in the wheel is looked at when it comes, not moved each time.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from zcluster.core.wheel import Wheel

SILENT_INTERVALS = 2
GONE_INTERVALS = 3
GRACE_S = 2.0
TICK_S = 0.1

State = Literal["active", "silent", "disconnected"]


class Turned(NamedTuple):
    """An agent whose state changed, and why."""

    id: str
    state: State
    reason: str


class _Seen:
    __slots__ = ("broken", "due_s", "interval_s", "last_s", "state")

    def __init__(self, state: State, interval_s: float, now: float) -> None:
        self.state = state
        self.interval_s = interval_s
        self.last_s = now
        self.broken = ""
        """Why it has no session any more; empty while it has."""
        self.due_s = 0.0


class Presence:
    """The agents of one node."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._wheel: Wheel[str] = Wheel(TICK_S)

    def __len__(self) -> int:
        return len(self._seen)

    def state(self, id_: str) -> State | None:
        """What the agent is; None when nothing is known of it here."""
        found = self._seen.get(id_)
        return None if found is None else found.state

    def heard(self, id_: str, interval_s: float, now: float) -> bool:
        """The agent said something, and says something again in ``interval_s``; whether that made it active."""
        seen = self._seen.get(id_)
        if seen is None:
            seen = self._seen[id_] = _Seen("active", interval_s, now)
            self._watch(id_, seen, now + SILENT_INTERVALS * interval_s)
            return True
        was, seen.state = seen.state, "active"
        seen.last_s, seen.broken = now, ""
        if interval_s != seen.interval_s or was != "active":
            seen.interval_s = interval_s
            self._watch(id_, seen, now + SILENT_INTERVALS * interval_s)
        return was != "active"

    def expect(self, id_: str, interval_s: float, now: float) -> None:
        """The agent was here before this node started: silent until it is heard."""
        seen = self._seen[id_] = _Seen("silent", interval_s, now)
        self._watch(id_, seen, now + GONE_INTERVALS * interval_s)

    def broke(self, id_: str, reason: str, now: float) -> None:
        """Its connection broke: it may be back in a moment."""
        seen = self._seen.get(id_)
        if seen is not None and not seen.broken:
            seen.broken = reason
            self._watch(id_, seen, min(now + GRACE_S, seen.last_s + SILENT_INTERVALS * seen.interval_s))

    def ended(self, id_: str) -> bool:
        """Its session ended for good; whether that changed its state."""
        seen = self._seen.pop(id_, None)
        if seen is None:
            return False
        self._wheel.remove(seen.due_s, id_)
        return seen.state != "disconnected"

    def next_deadline(self) -> float | None:
        """When :meth:`due` may have something to say."""
        return self._wheel.next_deadline()

    def due(self, now: float) -> list[Turned]:
        """The agents that are silent or disconnected from now on. Those that are disconnected are forgotten here."""
        out: list[Turned] = []
        for id_ in self._wheel.expired(now):
            seen = self._seen.get(id_)
            if seen is None:
                continue
            gone_s = seen.last_s + GONE_INTERVALS * seen.interval_s
            silent_s = seen.last_s + SILENT_INTERVALS * seen.interval_s
            reason = seen.broken or f"not heard for {now - seen.last_s:.1f} s"
            if now >= gone_s:
                del self._seen[id_]
                out.append(Turned(id_, "disconnected", reason))
            elif seen.broken or now >= silent_s:
                if seen.state != "silent":
                    seen.state = "silent"
                    out.append(Turned(id_, "silent", reason))
                self._watch(id_, seen, gone_s)
            else:
                self._watch(id_, seen, silent_s)
        return out

    def _watch(self, id_: str, seen: _Seen, due_s: float) -> None:
        if seen.due_s:
            self._wheel.remove(seen.due_s, id_)
        seen.due_s = due_s
        self._wheel.add(due_s, id_)
