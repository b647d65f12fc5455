"""The copy of a table: what a worker does with what it hears of the source.

Rules kept here:
- changes are taken only where they join: of the same store, and ``base`` not after the copy's revision; else it asks;
- one question is open at a time; one that is not answered in time is asked again, each time later; a new session asks anew;
- a published word never closes a question, and an answer that brings nothing new is not asked for again at once;
- a copy whose digest is not the source's at the same revision asks for the buckets that differ; when that did not help
  MAX_REPAIRS times it reads everything, and again each time later;
- while it is read, repaired or in doubt the copy says that it is not ready.

Why a copy that reads page by page ends as a state of the source: let p be the lowest and q the highest revision at which a
page was read. Each key is as it was at some revision between p and q. All changes after p are then taken in their order. A key
that was changed after p is, at the end, as its last change left it; one that was not is as it was at p, whenever it was read.
So as soon as all changes up to q (``until``) were taken the copy is the source's state at its revision. The same holds for
buckets that were repaired: their keys are as of the page, the others as of the copy's revision; p is the lower of both.

Every key of the source is on one page, because pages follow each other without a gap; a key of the copy that is not on the
page that speaks of its place is deleted. While everything is read, what is published is not taken: it is asked for afterwards.

Equal digests mean equal content (xxh3_128, not forged: see digests.py). So a copy with the source's digest is the source's
state at the revision of the HEAD, whatever the copy knew before: a restarted worker, a source that begins again under another
id, a table without changes cost one HEAD and no question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec.structs import replace

from zcluster.core.tables.bodies import Item, check_changes, check_page
from zcluster.core.tables.digests import EMPTY_DIGEST, join_digests, table_digest
from zcluster.core.tables.state import CopyState, Effect, Noted, Replace, Save, Tell
from zcluster.wire.tables import Ask, Changes, Head, Page

ASK_TIMEOUT_S = 10.0
MAX_TIMEOUT_DOUBLINGS = 3
PAUSE_S = 1.0
"""After an answer that brought nothing, or could not be read."""
MAX_REPAIRS = 2
READ_AGAIN_S = 10.0
MAX_READ_DOUBLINGS = 6
SILENT_HEARTBEATS = 3
"""Without a word of the source for so long the copy asks: what is published may not reach it."""

Want = Literal["changes", "page", "repair"]


class Copy:
    """The machine of one table at one worker.

    Args:
        state: as it was saved last.
    """

    def __init__(self, table: str, state: CopyState) -> None:
        self.table = table
        self.state = state
        self.known = state.revision
        """The highest revision of ``state.store`` that was heard of."""
        self.wants_publications = False
        """Whether there is anything to copy, as far as the source has said."""
        self.agreed_s: float | None = None
        """When the copy was last known to be the source's newest state."""
        self._up = False
        self._heartbeat_s = 1.0
        self._heard_s = 0.0
        self._open: Ask | None = None
        self._deadline_s = 0.0
        self._hold_s = 0.0
        """Nothing is asked before."""
        self._look = False
        """Ask for changes although none are known of."""
        self._timeouts = self._repairs = self._reads = 0
        self._read_again_s = 0.0

    @property
    def behind(self) -> int:
        """How many revisions the copy is behind, as far as it knows."""
        return max(0, self.known - self.state.revision)

    @property
    def doing(self) -> str:
        """``reading``, ``repairing``, ``asking``, or ``following``."""
        if self.state.after is not None:
            return "reading"
        if self.state.doubt:
            return "repairing"
        return "following" if self._open is None and self.state.ready else "asking"

    # -- the session, and time ----------------------------------------------------------------------------------------

    def link_up(self, heartbeat_s: float, now: float) -> list[Effect]:
        """There is a session."""
        self._up, self._heartbeat_s, self._heard_s = True, heartbeat_s, now
        self._open, self._timeouts, self._hold_s = None, 0, 0.0
        return self._next(now)

    def link_down(self) -> None:
        """The session is over, and with it what was asked."""
        self._up, self._open = False, None

    def listening(self, now: float) -> list[Effect]:
        """What is published can be heard from now on: what was missed before is asked for."""
        self._look = True
        return self._next(now)

    def restore(self, state: CopyState, now: float) -> None:
        """What was to be saved was not: ``state`` is what there is."""
        self.state, self._open, self._hold_s = state, None, now + PAUSE_S
        self._look = True

    def broken(self, now: float) -> None:
        """An answer could not be read: ask again, but not at once."""
        self._open, self._hold_s, self._look = None, now + PAUSE_S, True

    def next_deadline(self) -> float | None:
        """When :meth:`handle_deadline` has to be called."""
        if not self._up:
            return None
        due = [self._deadline_s] if self._open is not None else [self._hold_s] if self._hold_s else []
        if self.wants_publications:
            due.append(self._heard_s + SILENT_HEARTBEATS * self._heartbeat_s)
        return min(due, default=None)

    def handle_deadline(self, now: float) -> list[Effect]:
        """Ask again what was not answered; ask when nothing is published."""
        effects: list[Effect] = []
        if self._open is not None and now >= self._deadline_s:
            effects.append(self._note("table_ask_timed_out", "warning", want=self._open.want))
            self._open = None
            self._timeouts = min(self._timeouts + 1, MAX_TIMEOUT_DOUBLINGS)
        if self._up and self.wants_publications and now >= self._heard_s + SILENT_HEARTBEATS * self._heartbeat_s:
            self._heard_s, self._look = now, True
        if self._hold_s and now >= self._hold_s:
            self._hold_s = 0.0
        return effects + self._next(now)

    # -- what the source says -----------------------------------------------------------------------------------------

    def head(self, head: Head, own: Sequence[bytes], now: float, *, session: bool) -> list[Effect]:
        """The source told how far it is; ``own`` are the bucket digests of the copy as it is saved now."""
        self._heard_s = now
        digest, state = table_digest(own), self.state
        if digest != EMPTY_DIGEST or head.digest != EMPTY_DIGEST:
            self.wants_publications = True
        same = head.store == state.store
        if same and state.after is None and head.revision < state.revision:
            # Late; or, at the beginning of a session, a source that has lost its last commits.
            self._look |= session
        elif digest == head.digest:
            return self._agree(head, now)
        elif not same:
            self._read(head.store)
            self.known = head.revision
        else:
            self.known = max(self.known, head.revision)
            if state.after is None and head.revision == state.revision >= state.until:
                return self._differ(own, now)
        return self._next(now)

    def changes(self, message: Changes, items: list[Item], now: float, *, answer: bool) -> list[Effect]:
        """Changes were published, or are the answer.

        Raises:
            PeerError: they make no sense; nothing was done.
        """
        check_changes(message, items)
        self._heard_s = now
        answered = answer and self._open is not None and self._open.want != "page"
        if answered:
            self._close()
        state, effects = self.state, list[Effect]()
        joins = state.after is None and message.store == state.store and message.base <= state.revision
        if joins and message.revision > state.revision:
            ops = [(key, value) for revision, key, value in items if revision > state.revision]
            self.state = replace(state, revision=message.revision)
            self.known = max(self.known, message.revision)
            self.wants_publications = True
            self._taken(now)
            effects.append(Save(ops, self.state))
        elif answered:
            waiting = state.after is None and state.revision < max(state.until, self.known)
            self._hold_s = now + PAUSE_S if waiting else 0.0
        elif state.after is None and message.store != state.store:
            self._look = True
        elif not joins and state.after is None:
            self.known = max(self.known, message.revision)
        return effects + self._next(now)

    def page(self, message: Page, items: list[Item], now: float) -> list[Effect]:
        """A page came. Raises PeerError as :meth:`changes` does."""
        check_page(message, items)
        self._heard_s = now
        if self._open is None:
            return []
        return self._repair(message, items, now) if message.buckets else self._take_page(message, items, now)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _take_page(self, message: Page, items: list[Item], now: float) -> list[Effect]:
        state, first, effects = self.state, not message.after, list[Effect]()
        if state.after and first and message.store == state.store:
            return []  # late: this page was taken
        if not first and (message.after != state.after or message.store != state.store):
            return []
        self._close()
        self.wants_publications = True
        if first:
            effects.append(self._note("table_read", "info", store=message.store, revision=message.revision))
            self.known = message.revision
            low = high = message.revision
        else:
            low, high = min(state.revision, message.revision), max(state.until, message.revision)
        self.state = CopyState(store=message.store, revision=low, until=high, after=message.last or None)
        self._taken(now)
        return [*effects, _replacing(message, items, self.state), *self._next(now)]

    def _taken(self, now: float) -> None:
        if self.state.ready and not self.behind:
            self.agreed_s = now

    def _repair(self, message: Page, items: list[Item], now: float) -> list[Effect]:
        state, asked = self.state, self._open
        if asked is None or asked.want != "repair" or state.after is not None or message.store != state.store:
            return []
        low, high = min(state.revision, message.revision), max(state.until, state.revision, message.revision)
        self.state = replace(state, revision=low, until=high)
        effects: list[Effect] = [_replacing(message, items, self.state)]
        if message.more:
            self._deadline_s = now + ASK_TIMEOUT_S
            return effects
        self._close()
        return effects + self._next(now)

    def _agree(self, head: Head, now: float) -> list[Effect]:
        state = self.state
        self.state = CopyState(store=head.store, revision=head.revision)
        self.known = head.revision
        self._look, self._repairs, self._reads = False, 0, 0
        self.agreed_s = now
        self._close()
        # A revision that only grew is not worth a commit: after a restart the digest says the same.
        return [Save([], self.state)] if state.store != head.store or not state.ready else []

    def _differ(self, own: Sequence[bytes], now: float) -> list[Effect]:
        """The copy is not what it should be at its revision."""
        if self._open is not None or not self._up or now < self._hold_s:
            return []
        self.state = replace(self.state, doubt=True)
        if self._repairs < MAX_REPAIRS:
            self._repairs += 1
            noted = self._note("table_differs", "warning", revision=self.state.revision, repairs=self._repairs)
            return [noted, *self._ask("repair", now, body=join_digests(own))]
        if now < self._read_again_s:
            return []
        self._read_again_s = now + READ_AGAIN_S * 2.0**self._reads
        self._reads = min(self._reads + 1, MAX_READ_DOUBLINGS)
        self._repairs = 0
        self._read(self.state.store)
        return self._next(now)

    def _read(self, store: str) -> None:
        """Read everything. Until the first page is there, what is saved stays as it is."""
        if self.state.after is None or self.state.store != store:
            self.state = CopyState(store=store, after="")

    def _next(self, now: float) -> list[Effect]:
        if not self._up or self._open is not None or now < self._hold_s:
            return []
        state = self.state
        if state.after is not None:
            return self._ask("page", now, after=state.after)
        if self._look or state.revision < max(state.until, self.known):
            return self._ask("changes", now)
        return []

    def _ask(self, want: Want, now: float, *, after: str = "", body: bytes = b"") -> list[Effect]:
        state = self.state
        ask = Ask(table=self.table, store=state.store, want=want, revision=state.revision, after=after)
        self._open, self._deadline_s = ask, now + ASK_TIMEOUT_S * 2.0**self._timeouts
        self._look = False
        return [Tell(ask, body)]

    def _close(self) -> None:
        self._open, self._timeouts = None, 0

    def _note(self, name: str, level: str, **fields: object) -> Noted:
        return Noted(name, {"table": self.table, **fields}, level)


def _replacing(message: Page, items: list[Item], state: CopyState) -> Replace:
    held = [(key, value) for _, key, value in items if value is not None]
    return Replace(message.after, message.last, tuple(message.buckets), held, state)
