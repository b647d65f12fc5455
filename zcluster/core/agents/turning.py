"""What is told of agents that come and go: each by itself while they are few, together when they are many.

Rules kept here:
- what happens within GATHER_S is told together: up to MAX_SINGLE agents that turned to a status are an event each, more are
  one event with their number and the first MAX_NAMED of them;
- an agent that turned to the same status twice meanwhile is told once, where it came last;
- that an agent left by itself is no warning: it shut down, or went to another door.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from zcluster.core.agents.presence import State
from zcluster.core.peers import Event

GATHER_S = 1.0
MAX_SINGLE = 10
MAX_NAMED = 20
LEFT = "left"
"""The reason (core/roster.py) of a session that ended with BYE."""
IN_ORDER = frozenset({LEFT, "its key was revoked"})
"""Reasons (core/roster.py) after which an agent is not waited for."""
NAMES: dict[State, tuple[str, str]] = {
    "active": ("agent_active", "agents_active"),
    "silent": ("agent_silent", "agents_silent"),
    "disconnected": ("agent_disconnected", "agents_disconnected"),
}
"""What one is called, and many."""


class _Turned(NamedTuple):
    id: str
    reason: str

    def level(self, state: State) -> str:
        return "info" if state == "active" or self.reason == LEFT else "warning"


class Turns:
    """The agents of one node that turned to another status.

    Args:
        node: its name.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._turned: dict[tuple[State, str], _Turned] = {}
        """The last one behind."""
        self._due_s = 0.0

    def add(self, id_: str, state: State, reason: str, now: float) -> None:
        """An agent turned to ``state``."""
        if not self._turned:
            self._due_s = now + GATHER_S
        self._turned.pop((state, id_), None)
        self._turned[state, id_] = _Turned(id_, reason)

    def next_deadline(self) -> float | None:
        """When :meth:`due` has something to say."""
        return self._due_s if self._turned else None

    def due(self, now: float) -> list[Event]:
        """What is to be told now."""
        return self.rest() if self._turned and now >= self._due_s else []

    def rest(self) -> list[Event]:
        """What was not told yet, whenever it is due."""
        turned, self._turned = self._turned, {}
        by_state: dict[State, list[_Turned]] = {}
        for (state, _), each in turned.items():
            by_state.setdefault(state, []).append(each)
        return list(self._events(turned, by_state))

    def _events(self, turned: dict[tuple[State, str], _Turned], by_state: dict[State, list[_Turned]]) -> Iterator[Event]:
        told: set[State] = set()
        for (state, _), each in turned.items():
            one, many = NAMES[state]
            all_ = by_state[state]
            if len(all_) <= MAX_SINGLE:
                reason = {"reason": each.reason} if each.reason else {}
                yield Event(one, {"agent": each.id, "node": self._node, **reason}, each.level(state))
            elif state not in told:
                told.add(state)
                level = "warning" if any(other.level(state) == "warning" for other in all_) else "info"
                yield Event(
                    many, {"node": self._node, "count": len(all_), "agents": [other.id for other in all_[:MAX_NAMED]]}, level
                )
