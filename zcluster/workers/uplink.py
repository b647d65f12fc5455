"""The parts of a worker that speak with the master on the worker's one session.

Rules kept here:
- each kind of message belongs to one part; parts hear of the session's beginning and end;
- what is said while there is no session is dropped: a part says it again when the link is up;
- control leaves before what the requests have to say, bulk after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from zcluster.core.batch import Body, Outgoing
from zcluster.wire import LATE_KINDS, Message, Welcome


class UplinkPart(Protocol):
    """A part of a worker that speaks with the master."""

    kinds: frozenset[int]

    def link_up(self, welcome: Welcome) -> None: ...
    def link_down(self) -> None: ...
    def receive(self, message: Message, data: bytes, offset: int) -> None: ...


class Uplink:
    """The worker's side of its session, for its parts.

    Args:
        wake: called when there is something to send.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._parts: list[UplinkPart] = []
        self._by_kind: dict[int, UplinkPart] = {}
        self._control: list[Outgoing] = []
        self._bulk: list[Outgoing] = []
        self.welcome: Welcome | None = None
        """What the master said of the session that is open; None without one."""
        self.bulk_bytes = 0
        """How much bulk waits for the next turn that has room."""

    def attach(self, part: UplinkPart) -> None:
        """Let ``part`` speak with the master."""
        self._parts.append(part)
        self._by_kind.update(dict.fromkeys(part.kinds, part))

    def say(self, message: Message, body: Body = b"") -> None:
        """Send ``message``, when there is a session."""
        if self.welcome is not None:
            if message.kind in LATE_KINDS:
                self._bulk.append((message, [body]))
                self.bulk_bytes += len(body)
            else:
                self._control.append((message, [body]))
            self._wake()

    def link_up(self, welcome: Welcome) -> None:
        self.welcome = welcome
        for part in self._parts:
            part.link_up(welcome)

    def link_down(self) -> None:
        self.welcome = None
        self._control, self._bulk, self.bulk_bytes = [], [], 0
        for part in self._parts:
            part.link_down()

    def receive(self, message: Message, data: bytes, offset: int) -> bool:
        """A message of the master; true when it was for one of the parts."""
        part = self._by_kind.get(message.kind)
        if part is None:
            return False
        part.receive(message, data, offset)
        return True

    def take(self, outgoing: list[Outgoing]) -> list[Outgoing]:
        """``outgoing`` and what the parts have to say."""
        if not self._control and not self._bulk:
            return outgoing
        control, bulk = self._control, self._bulk
        self._control, self._bulk, self.bulk_bytes = [], [], 0
        return [*control, *outgoing, *bulk]
