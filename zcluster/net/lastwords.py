"""Connections that have ended, and may have left messages that were not read yet.

Rules kept here:
- the end of a connection is told by its monitor, what it said by its socket, and nothing orders the two: the end waits until all
  is read that had come, or an answer and the BYE behind it would be lost with their session;
- it waits LAST_WORDS_S at most: the socket of a node that is kept busy by others may never be read to its end.
"""

from __future__ import annotations

LAST_WORDS_S = 0.5


class LastWords:
    """The routes of those connections."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def __bool__(self) -> bool:
        return bool(self._until)

    def ended(self, route: bytes, now: float) -> None:
        """The connection of ``route`` is over."""
        self._until.setdefault(route, now + LAST_WORDS_S)

    def heard(self, dry: bool, now: float) -> list[bytes]:
        """The routes of which no more is to come, the first to end first; ``dry``: there is nothing to read."""
        out = []
        for route, until in self._until.items():
            if not dry and until > now:
                break  # those behind it ended later: thousands may wait, and this is asked at the end of each
            out.append(route)
        for route in out:
            del self._until[route]
        return out
