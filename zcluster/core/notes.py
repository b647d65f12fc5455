"""Who listens under which name, and what is kept for those who do not listen yet.

Rules kept here:
- a session listens under one name; a name belongs to one key at a time, and the name of a key in the ring to that key alone;
- what is kept for a name comes in the order in which it was sent, to one of its sessions, a window at a time; it is forgotten
  when that session said that it has it, so that a lost connection loses nothing;
- kept notes are bounded for each name, for each sender and in all, by number and by size, and end at their time;
- ids grow, also from one start of the master to the next.

Ids and names go in and come out; texts are not here.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from zcluster.errors import Busy, Conflict, NoSuchClient, TooLarge, UsageError

MAX_TEXT_BYTES = 65_536
MAX_KEEP_S = 7 * 86_400.0
MAX_KEPT_OF_NAME = 1000
MAX_KEPT_OF_SENDER = 10_000
MAX_KEPT = 100_000
MAX_KEPT_BYTES = 256 * 1024 * 1024
WINDOW_NOTES = 32
WINDOW_BYTES = 1_048_576
"""Kept notes that a session may have been told and not yet confirmed. One note always goes."""
SWEEP_EVERY_S = 1.0
"""How often, at most, everything is looked through for what is over, when there is no room."""
RESERVED = frozenset({"all", "any"})
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
NEAR = 3


def checked_name(name: str) -> str:
    """``name``; raises UsageError when no client may be called so."""
    if not NAME.fullmatch(name):
        hint = "1 to 64 letters, digits, '.', '_' and '-', the first no '.' and no '-'"
        raise UsageError(f"{name[:80]!r} is no name for a client", hint=hint)
    if name.lower() in RESERVED:
        raise UsageError(f"the name {name!r} is reserved", hint="it means everybody")
    return name


def checked_text(text: str) -> int:
    """The size of ``text`` in bytes.

    Raises:
        TooLarge: above MAX_TEXT_BYTES. UsageError: it is empty, or no valid Unicode.
    """
    if not text:
        raise UsageError("there is nothing to send", hint="give a text")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UsageError("the text is not valid Unicode", hint="check the encoding") from None
    if size > MAX_TEXT_BYTES:
        raise TooLarge(f"a text of {size} bytes, at most {MAX_TEXT_BYTES} are allowed", hint="send it in pieces, or as a file")
    return size


def checked_keep(keep_s: float) -> float:
    """``keep_s``; raises UsageError when it is out of range."""
    if not 0 <= keep_s <= MAX_KEEP_S:
        raise UsageError(f"a message is kept for at most {MAX_KEEP_S:.0f} s (7 days), not {keep_s:g} s", hint="such as 1h")
    return keep_s


@dataclass(eq=False)
class Kept:
    """One note that waits for its name."""

    id: int
    to: str
    by: str
    """The key of its sender."""
    size_bytes: int
    until_s: float
    ready: bool = True
    """It is on disk: those behind it wait for it."""


@dataclass(eq=False)
class _Name:
    key: str = ""
    """Whose name it is now; empty while nobody listens."""
    sessions: dict[int, None] = field(default_factory=dict)
    kept: deque[Kept] = field(default_factory=deque)
    reader: int = 0
    """The session that gets what is kept; 0 for none."""
    told: deque[Kept] = field(default_factory=deque)
    """What the reader was told and has not confirmed; the first ones of ``kept``."""


@dataclass(frozen=True)
class Listener:
    """A name under which somebody listens."""

    name: str
    key: str
    sessions: int
    kept: int


class NoteBook:
    """Names, sessions, and what is kept.

    Args:
        first_id: ids are larger than this.
        is_key: whether the ring has a key of this name.
    """

    def __init__(self, first_id: int, is_key: Callable[[str], bool]) -> None:
        self._last_id = first_id
        self._is_key = is_key
        self._names: dict[str, _Name] = {}
        self._of_session: dict[int, str] = {}
        self._by_sender: dict[str, int] = {}
        self.kept_count = 0
        self.kept_bytes = 0
        self._swept_s = 0.0

    # -- who listens --------------------------------------------------------------------------------------------------

    def check_owner(self, name: str, key: str) -> None:
        """Whether ``key`` may be called ``name``.

        Raises:
            UsageError: it is no name. Conflict: it is another's.
        """
        checked_name(name)
        if name == key:
            return
        if self._is_key(name):
            raise Conflict(f"{name} is the name of another key", hint="choose another with --as")
        found = self._names.get(name)
        if found is not None and found.key and found.key != key:
            raise Conflict(f"{name} is taken: a session of the key {found.key} listens under it", hint="choose another with --as")

    def listen(self, session: int, key: str, name: str) -> None:
        """``session`` of ``key`` listens under ``name``, and under no other name any more. Raises as check_owner."""
        self.check_owner(name, key)
        if self._of_session.get(session) == name:
            return
        self.leave(session)
        entry = self._names.setdefault(name, _Name())
        entry.key = key
        entry.sessions[session] = None
        self._of_session[session] = name

    def turn_out(self, name: str) -> list[int]:
        """The name has become that of a key: who else listened under it no longer does; returns those sessions."""
        entry = self._names.get(name)
        if entry is None or not entry.sessions or entry.key == name or not self._is_key(name):
            return []
        gone = list(entry.sessions)
        for session in gone:
            self.leave(session)
        return gone

    def leave(self, session: int) -> str:
        """``session`` no longer listens; returns the name it had. What it was told and did not confirm waits again."""
        name = self._of_session.pop(session, "")
        entry = self._names.get(name)
        if entry is not None:
            entry.sessions.pop(session, None)
            if entry.reader == session:
                entry.reader = 0
                entry.told.clear()
            self._tidy(name, entry)
        return name

    def name_of(self, session: int) -> str:
        """The name under which ``session`` listens, or empty."""
        return self._of_session.get(session, "")

    def sessions(self, name: str) -> list[int]:
        """Who listens under ``name``."""
        entry = self._names.get(name)
        return list(entry.sessions) if entry is not None else []

    def all_but(self, sender: str) -> list[int]:
        """Everybody who listens, but ``sender``."""
        return [session for session, name in self._of_session.items() if name != sender]

    def listeners(self) -> Iterator[Listener]:
        """Every name that somebody listens under, or that something is kept for, in order."""
        for name in sorted(self._names):
            entry = self._names[name]
            yield Listener(name, entry.key, len(entry.sessions), len(entry.kept))

    def nobody(self, name: str) -> NoSuchClient:
        """The error for a name that nobody listens under."""
        import difflib  # only a mistake needs it

        here = [each for each, entry in self._names.items() if entry.sessions][:10_000]
        near = difflib.get_close_matches(name, here, n=NEAR)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        hint = f"{meant}--keep lets a message wait; `zcluster msg who` lists the names"
        return NoSuchClient(f"nobody listens as {name}", hint=hint)

    # -- what is kept ---------------------------------------------------------------------------------------------------

    def next_id(self) -> int:
        """The number of the next note."""
        self._last_id += 1
        return self._last_id

    def add(self, note: Kept, now_s: float) -> None:
        """``note`` waits for its name.

        Raises:
            Busy: too much is kept: for this name, of this sender, or in all.
        """
        entry = self._names.setdefault(note.to, _Name())
        if len(entry.kept) >= MAX_KEPT_OF_NAME:
            self._expire(entry, now_s)
        elif self._full(note) and abs(now_s - self._swept_s) >= SWEEP_EVERY_S:
            self._swept_s = now_s
            self.expire(now_s)
            entry = self._names.setdefault(note.to, _Name())
        try:
            self._check_room(entry, note)
        except Busy:
            self._tidy(note.to, entry)
            raise
        entry.kept.append(note)
        self._count(note, 1)
        self._last_id = max(self._last_id, note.id)

    def drop(self, note: Kept) -> None:
        """It could not be kept after all, or is to be forgotten."""
        entry = self._names.get(note.to)
        if entry is not None and note in entry.kept:
            entry.kept.remove(note)
            if note in entry.told:
                entry.told.remove(note)
            self._count(note, -1)
            self._tidy(note.to, entry)

    def due(self, name: str, now_s: float) -> tuple[int, list[Kept]]:
        """What one that listens as ``name`` is to be told next: its session (0: none) and the notes, which count as told now."""
        entry = self._names.get(name)
        if entry is None or not entry.sessions:
            return 0, []
        self._expire(entry, now_s)
        if not entry.reader:
            entry.reader = next(iter(entry.sessions))
        told_bytes = sum(note.size_bytes for note in entry.told)
        out: list[Kept] = []
        for position in range(len(entry.told), len(entry.kept)):
            note = entry.kept[position]
            full = len(entry.told) >= WINDOW_NOTES or told_bytes + note.size_bytes > WINDOW_BYTES
            if not note.ready or (entry.told and full):
                break
            entry.told.append(note)
            told_bytes += note.size_bytes
            out.append(note)
        return entry.reader, out

    def untell(self, session: int) -> None:
        """``session`` was not told after all what :meth:`due` gave: it is due again."""
        entry = self._names.get(self._of_session.get(session, ""))
        if entry is not None and entry.reader == session:
            entry.told.clear()

    def confirmed(self, session: int, upto: int) -> list[Kept]:
        """``session`` has what it was told up to this id; returns what is to be forgotten."""
        entry = self._names.get(self._of_session.get(session, ""))
        if entry is None or entry.reader != session:
            return []
        out: list[Kept] = []
        while entry.told and entry.told[0].id <= upto:
            note = entry.told.popleft()
            entry.kept.popleft()
            self._count(note, -1)
            out.append(note)
        return out

    def expire(self, now_s: float) -> None:
        """Forget everything whose time is over."""
        for name, entry in list(self._names.items()):
            self._expire(entry, now_s)
            self._tidy(name, entry)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _full(self, note: Kept) -> bool:
        return self.kept_count >= MAX_KEPT or self.kept_bytes + note.size_bytes > MAX_KEPT_BYTES

    def _check_room(self, entry: _Name, note: Kept) -> None:
        if len(entry.kept) >= MAX_KEPT_OF_NAME:
            raise Busy(f"{len(entry.kept)} messages are kept for {note.to} already", hint="they wait until it listens")
        if self._by_sender.get(note.by, 0) >= MAX_KEPT_OF_SENDER:
            raise Busy(f"{MAX_KEPT_OF_SENDER} messages of {note.by} are kept already", hint="they wait for those they are for")
        if self._full(note):
            raise Busy("too many messages are kept already", hint="send without keeping, or try again later", retry_after_s=60.0)

    def _expire(self, entry: _Name, now_s: float) -> None:
        """A note that was told stays until it is confirmed: forgetting it now would change what a confirmation means."""
        told = len(entry.told)
        if any(note.until_s <= now_s for note in entry.kept):
            kept = list(entry.kept)
            over = [note for note in kept[told:] if note.until_s <= now_s]
            entry.kept = deque([*kept[:told], *(note for note in kept[told:] if note.until_s > now_s)])
            for note in over:
                self._count(note, -1)

    def _count(self, note: Kept, by: int) -> None:
        self.kept_count += by
        self.kept_bytes += by * note.size_bytes
        left = self._by_sender.get(note.by, 0) + by
        if left:
            self._by_sender[note.by] = left
        else:
            self._by_sender.pop(note.by, None)

    def _tidy(self, name: str, entry: _Name) -> None:
        if not entry.sessions:
            entry.key = ""
            if not entry.kept:
                self._names.pop(name, None)
