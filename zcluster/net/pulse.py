"""What a node's server sockets look at by themselves, fifty times a second: newcomers, sessions, memory and descriptors.

Rules kept here:
- a look at nothing costs microseconds: one reading of the process's size, one descriptor opened and closed, one comparison of
  times for the oldest newcomer;
- connections without a session are looked for every SESSIONS_S, bytes that become no message when memory grows (stalled.py).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable

from zcluster.net.connections import NO_SESSION, STALLED, Connection
from zcluster.net.descriptors import Descriptors, Reserve
from zcluster.net.guard import Guard, Told
from zcluster.net.stalled import Growth, Stalled

PULSE_S = 0.02
SESSIONS_S = 0.5
LAST_WORD_S = 0.01
"""Between the farewell to who is to go and the cut, at least; at most one PULSE_S more."""
ROOM = 16
"""Newcomers that go at once when there are no descriptors left."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Pulse:
    """Looks after ``sessions``, and after ``subscribers`` where there are any, until it is closed.

    Args:
        frame_bytes: the longest message of a session.
        has_session: whether there is a session on a route.
        messages: how many messages were read of all sessions. dry: whether there is no more to read.
        first: called at the beginning of each look.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sessions: Guard, subscribers: Guard | None, descriptors: Descriptors,
        reserve: Reserve, told: Told, frame_bytes: int, *, has_session: Callable[[bytes], bool], messages: Callable[[], int],
        dry: Callable[[], bool], first: Callable[[], None],
    ) -> None:  # fmt: skip
        self._loop, self._sessions, self._subscribers = loop, sessions, subscribers
        self._reserve, self._told = reserve, told
        self._has_session, self._messages, self._dry, self._first = has_session, messages, dry, first
        self._growth, self._stalled = Growth(), Stalled(descriptors, frame_bytes)
        self._size = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._sessions_due_s = 0.0
        self._leaving: deque[tuple[float, list[Connection], str]] = deque()
        """To be cut then, and why; the first is first."""
        self._timer = loop.call_later(PULSE_S, self._look)

    def cut_soon(self, connections: list[Connection], reason: str, now: float) -> None:
        """Cut these when the last words to them have left."""
        if connections:
            self._leaving.append((now + LAST_WORD_S, connections, reason))

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()
        os.close(self._size)

    def _look(self) -> None:
        self._timer = self._loop.call_later(PULSE_S, self._look)
        now = self._loop.time()
        while self._leaving and self._leaving[0][0] <= now:
            _, connections, reason = self._leaving.popleft()
            self._sessions.cut(connections, reason)
        self._first()
        for guard in self._guards():
            guard.look()
            guard.cut(guard.connections.silent(now), NO_SESSION)
        if now >= self._sessions_due_s:
            self._sessions_due_s = now + SESSIONS_S
            self._sessions.cut(self._sessions.connections.without_session(self._has_session, now), NO_SESSION)
        if self._reserve.look():
            self._told.descriptors_exhausted()
            for guard in self._guards():
                guard.turn()
                guard.make_room(ROOM)
        resident_bytes = int(os.pread(self._size, 64, 0).split()[1]) * _PAGE_BYTES
        if self._growth.due(resident_bytes, self._stalled.suspects > 0, now):
            self._look_at_bytes(resident_bytes, now)

    def _look_at_bytes(self, resident_bytes: int, now: float) -> None:
        began_s = time.monotonic()  # the loop's own time stands still within a turn
        sessions, subscribers = self._sessions, self._subscribers
        stalled = self._stalled
        sessions.cut(stalled.sessions(sessions.connections, self._messages(), self._dry, resident_bytes), STALLED)
        if subscribers is not None:
            subscribers.cut(stalled.subscribers(subscribers.connections, now), STALLED)
        self._growth.looked(resident_bytes, time.monotonic() - began_s, now)

    def _guards(self) -> list[Guard]:
        return [self._sessions] if self._subscribers is None else [self._sessions, self._subscribers]
