"""A worker's way to bring its book of agents up to the master: what to read next, what is under way, and when to begin again.

Rules kept here:
- the master's cursor decides: its first TAKEN of a session says where to go on, and any TAKEN that is elsewhere moves this one;
- at most WINDOW chunks are unacknowledged; each begins where the one before it ended;
- what the master did not take is sent again after a pause that doubles up to MAX_PAUSE_S, one chunk at first;
- when nothing has changed, nothing is read and nothing is sent; but a master that knows another source is told of this one,
  also by an empty chunk: what it has of the other one is out of date;
- a book that has fewer changes than the master took of it (it was put back from a copy) gets another source name, and is sent
  from its beginning: otherwise its next changes would count as taken.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from zcluster.wire.agents import Taken

WINDOW = 16
GATHER_S = 0.05
"""How long changes are gathered after the first one, when nothing is under way."""
ANSWER_S = 30.0
"""How long a TAKEN is waited for."""
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 30.0
MAX_GENERATION = 999_999
FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Reading:
    """The book is to be read from ``after`` on."""

    after: int
    turn: int
    """Of the machine when it asked: what was read for an earlier turn is worth nothing."""


@dataclass(frozen=True, slots=True)
class _Flight:
    base: int
    upto: int
    sent_s: float


class Sending:
    """The sender of one book.

    Args:
        book: the book's id, its name as a source.
    """

    def __init__(self, book: str) -> None:
        self.source = book
        self.acked = 0
        """Up to where the master has the book."""
        self.current = False
        """Whether the master has all that there was when the book was read last."""
        self._book = book
        self._up = False
        """The master has said in this session what it has."""
        self._sent = 0
        self._flights: deque[_Flight] = deque()
        self._window = WINDOW
        self._dirty = True
        self._reading = False
        self._announce = False
        """The master knows another source."""
        self._not_before_s = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._turn = 0

    # -- what happens ---------------------------------------------------------------------------------------------------

    def link_up(self) -> None:
        """A session begins: the master says first what it has."""
        self.link_down()
        self._pause_s, self._not_before_s = FIRST_PAUSE_S, 0.0

    def link_down(self) -> None:
        """The session is over, and with it what was under way."""
        self._up = self.current = False
        self._rewind(self.acked)

    def changed(self, now: float) -> None:
        """The book has changed."""
        if not self._dirty and not self._flights:
            self._not_before_s = max(self._not_before_s, now + GATHER_S)
        self._dirty, self.current = True, False

    def taken(self, message: Taken, now: float) -> None:
        """The master says what it has."""
        if not self._up and self._is_mine(message.source):
            self.source = message.source
        mine = message.source == self.source
        upto = message.upto if mine else 0
        if not self._up:
            self._up = True
            self._window = WINDOW
            self._rewind(upto)
            self._announce = not mine and message.source != ""
        elif upto == self.acked and not (mine and self._announce):
            if self._flights:
                self._pause(now)
        elif self.acked <= upto <= self._sent:
            self._announce = False
            self._advance(upto)
        else:
            self._rewind(upto)

    def read(self, reading: Reading, upto: int, more: bool, rows: int, now: float) -> bool:
        """The book was read: it is complete up to ``upto``, with ``rows`` rows.

        Returns:
            Whether they are to be sent, as the chunk from ``reading.after`` to ``upto``.
        """
        self._reading = False
        if reading.turn != self._turn:
            return False
        if upto < reading.after:
            self._begin_anew()
            return False
        self._dirty = self._dirty or more
        if rows or (self._announce and not self._flights):
            self._sent = upto
            self._flights.append(_Flight(reading.after, upto, now))
            return True
        # Numbers without rows (they were purged) are no news: the next chunk begins where the master is.
        self.current = not self._dirty and not self._flights
        return False

    def failed(self, now: float) -> None:
        """The book could not be read."""
        self._reading = False
        self._pause(now)

    # -- what is to be done ---------------------------------------------------------------------------------------------

    def next(self, now: float) -> Reading | None:
        """What to read now; :meth:`read` or :meth:`failed` has to follow."""
        if not self._wants() or now < self._not_before_s:
            return None
        self._dirty, self._reading = False, True
        return Reading(self._sent, self._turn)

    def next_deadline(self) -> float:
        """When :meth:`next` or :meth:`handle_deadline` will have something to do, if nothing happens before."""
        answer_s = self._flights[0].sent_s + ANSWER_S if self._flights else FOREVER
        return min(answer_s, self._not_before_s) if self._wants() else answer_s

    def handle_deadline(self, now: float) -> None:
        """A TAKEN that does not come is no longer waited for."""
        if self._flights and now >= self._flights[0].sent_s + ANSWER_S:
            self._pause(now)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _wants(self) -> bool:
        return self._up and self._dirty and not self._reading and len(self._flights) < self._window

    def _advance(self, upto: int) -> None:
        flights = self._flights
        while flights and flights[0].upto <= upto:
            flights.popleft()
        if flights and flights[0].base < upto:
            self._rewind(upto)
        else:
            self.acked = upto
        self._window, self._pause_s = WINDOW, FIRST_PAUSE_S
        self.current = not self._dirty and not flights and not self._reading

    def _rewind(self, upto: int) -> None:
        self.acked = self._sent = upto
        self._flights.clear()
        self._turn += 1
        self._dirty, self._reading = True, False

    def _pause(self, now: float) -> None:
        self._rewind(self.acked)
        self._window = 1
        self._not_before_s = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    def _is_mine(self, source: str) -> bool:
        return source == self._book or re.fullmatch(re.escape(self._book) + r"\+[1-9][0-9]{0,5}", source) is not None

    def _begin_anew(self) -> None:
        generation = int(self.source[len(self._book) + 1 :] or 0) % MAX_GENERATION + 1
        self.source = f"{self._book}+{generation}"
        self._announce = True
        self._rewind(0)
