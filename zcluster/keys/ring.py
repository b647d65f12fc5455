"""The ring: which keys are admitted, under which names, with which roles.

Rules kept here:
- a name is there once, and a public key is there once, whoever writes and however many write at the same time;
- a revoked public key is remembered and never admitted again; its name may be given to a new key;
- who an entry is, is its id: a key that follows another of the same name has another id and inherits nothing;
- every change is read, made and saved under one lock, in one atomic step: killed anywhere, the file is the old or the new one;
- each saved file has a later time than the one before, so that a reader's comparison of (time, size, inode) misses none;
- a file that is broken or gone changes nothing in memory: whoever was admitted still is, and the error says so;
- a file that could not be read is not a file that was seen: it is tried again at each look, so that no revocation is missed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from zcluster.config import nearest
from zcluster.errors import InvalidKey, NoSuchKey
from zcluster.keys.private import LOCK_WAIT_S, locked, read_private
from zcluster.keys.private import replace as replace_file
from zcluster.keys.rights import may_subscribe
from zcluster.keys.ringedits import belongs, with_entries, without
from zcluster.keys.ringfile import (
    MAX_REJECTED,
    MAX_RING_BYTES,
    Content,
    Entry,
    Rejected,
    Revoked,
    Token,
    decode_ring,
    encode_ring,
    instant,
    iso,
)

MAX_ENTRIES = 100_000
MAX_REVOKED = 10_000

Result = TypeVar("Result")


class NewKey(NamedTuple):
    """A key that is to be added."""

    name: str
    role: str
    public: str


@dataclass(frozen=True)
class Signature:
    """What changes when the file does, or when it becomes readable; all zero when there is no file."""

    mtime_ns: int = 0
    size_bytes: int = 0
    inode: int = 0
    mode: int = 0

    @classmethod
    def of(cls, found: os.stat_result) -> Signature:
        return cls(found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode)

    @classmethod
    def at(cls, path: Path) -> Signature:
        try:
            return cls.of(os.stat(path))
        except FileNotFoundError:
            return _NOTHING
        except OSError:
            return _UNREACHABLE  # reading it says what is wrong


_NOTHING = Signature()
_UNREACHABLE = Signature(inode=-1)


class _Index(NamedTuple):
    """What finds an entry or a token."""

    current: dict[str, Entry]
    previous: dict[str, tuple[Entry, float]]
    """With the time until which it is admitted."""
    ids: dict[str, Entry]
    tokens: dict[str, Token]
    ends_s: tuple[float, ...]
    """When keys of before come to their end, the first to do so first."""
    revoked: frozenset[str]
    rejected: frozenset[str]

    @classmethod
    def of(cls, content: Content) -> _Index:
        entries = content.entries.values()
        return cls(
            {entry.public: entry for entry in entries},
            {each.public: (entry, instant(each.until)) for entry in entries for each in entry.previous},
            {entry.id: entry for entry in entries},
            {token.public: token for token in content.tokens.values()},
            tuple(sorted(instant(each.until) for entry in entries for each in entry.previous)),
            frozenset(each.public for each in content.revoked),
            frozenset(each.public for each in content.rejected),
        )


class Ring:
    """The ring in one file. A missing file is an empty ring, until it has been there once.

    Args:
        path: the ring's file.
        lock_wait_s: how long a change waits for another process's change.
        max_entries, max_revoked: how many keys are kept.

    Raises:
        InvalidKey: the file is broken.
    """

    def __init__(
        self, path: Path, *, lock_wait_s: float = LOCK_WAIT_S, max_entries: int = MAX_ENTRIES, max_revoked: int = MAX_REVOKED
    ) -> None:
        self.path = path
        self._lock_wait_s = lock_wait_s
        self._max_entries = max_entries
        self._max_revoked = max_revoked
        self._signature = _NOTHING
        self._seen = _NOTHING
        self._unread = ""
        """Why the last try to read the file failed, when it was not the file's own fault."""
        self._content = Content({})
        self._index = _Index.of(self._content)
        if self.changed():
            self.load()

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The admitted keys by name."""
        return MappingProxyType(self._content.entries)

    @property
    def revoked(self) -> tuple[Revoked, ...]:
        """The revoked keys, the oldest first."""
        return self._content.revoked

    @property
    def tokens(self) -> Mapping[str, Token]:
        """The join tokens by id, those that are over among them."""
        return MappingProxyType(self._content.tokens)

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """The keys that asked to be admitted and were rejected, the oldest first."""
        return self._content.rejected

    @property
    def content(self) -> Content:
        """All of it, as it was read or written last."""
        return self._content

    def by_public(self, public: str) -> Entry | None:
        """The admitted key with this public key, its present one or one of before whose time is not over."""
        entry = self._index.current.get(public)
        if entry is not None:
            return entry
        found = self._index.previous.get(public)
        return found[0] if found is not None and time.time() < found[1] else None

    def by_id(self, id_: str) -> Entry | None:
        """The admitted key of this id, whatever public key it has now."""
        return self._index.ids.get(id_)

    def ended(self, since_s: float, now_s: float) -> bool:
        """Whether a key of before has come to its end between these times (seconds since 1970)."""
        return any(since_s < end_s <= now_s for end_s in self._index.ends_s)

    def token_of(self, public: str) -> Token | None:
        """The join token with this public key, whether it is over or not."""
        return self._index.tokens.get(public)

    def is_revoked(self, public: str) -> bool:
        """Whether this public key was revoked."""
        return public in self._index.revoked

    def is_rejected(self, public: str) -> bool:
        """Whether this public key asked to be admitted and was rejected."""
        return public in self._index.rejected

    def may_subscribe(self, public: str) -> bool:
        """Whether the key may subscribe to what the master publishes, as the ring was read last."""
        entry = self.by_public(public)
        return entry is not None and may_subscribe(entry.role)

    def get(self, name: str) -> Entry:
        """The admitted key with this name.

        Raises:
            NoSuchKey: there is none; the message says when it was revoked, if it was.
        """
        entry = self._content.entries.get(name)
        if entry is None:
            raise self._no_such(name)
        return entry

    def revocations(self, name: str) -> list[Revoked]:
        """The revoked keys that had this name, the oldest first."""
        return [each for each in self._content.revoked if each.name == name]

    @property
    def version(self) -> int:
        """Grows with each change of the file, whoever makes it (see applied.py)."""
        return self._signature.mtime_ns

    def changed(self) -> bool:
        """Whether the file is another one than was last read, written or found broken here. One stat, nothing is read."""
        return Signature.at(self.path) != self._seen

    def reload_if_changed(self) -> bool:
        """Read the file if it changed; returns whether it did.

        A file that is broken is told once, and not read again until it changes: a master that looks often stays quiet and quick.
        One that cannot be read (no descriptors, no memory, a disk's error) is told once too, and tried again at each call.

        Raises:
            InvalidKey: the new file is broken, gone or cannot be read; what was read before stays.
        """
        if not self.changed():
            self._unread = ""
            return False
        told = self._unread
        try:
            self.load()
        except InvalidKey:
            if told and self._unread == told:
                return False
            raise
        return True

    def load(self) -> None:
        """Read the file.

        Raises:
            InvalidKey: it is broken, gone since it was last read, or cannot be read; what was read before stays.
        """
        before = Signature.at(self.path)
        self._unread = ""
        try:
            data, found = read_private(self.path, MAX_RING_BYTES, forbid=0o022)
        except FileNotFoundError:
            self._seen = _NOTHING
            if self._signature == _NOTHING:
                return
            raise InvalidKey(f"the ring {self.path} is gone", hint="restore it from a backup") from None
        except InvalidKey as error:
            if isinstance(error.__context__, OSError):
                self._unread = error.message  # the system's fault, which may pass: the file counts as not seen
            else:
                self._seen = before
            raise
        self._seen = Signature.of(found)
        content = decode_ring(self.path, data, self._index.current)
        if len(content.entries) > self._max_entries:
            raise InvalidKey(f"{self.path}: more than {self._max_entries} keys", hint="revoke what is no longer used")
        self._take(self._bounded(content), Signature.of(found))

    def add(self, name: str, role: str, public: str) -> Entry:
        """Admit one key; see :meth:`add_many`."""
        return self.add_many([NewKey(name, role, public)])[0]

    def add_many(self, keys: Iterable[NewKey]) -> list[Entry]:
        """Admit keys, all or none of them, in one change.

        Raises:
            InvalidKey: a name, role or public key is malformed or taken, a public key was revoked, or the ring is full.
            Busy: another process kept the lock.
        """
        created_at = iso(time.time())
        added = [Entry(key.name, key.role, key.public, created_at) for key in keys]
        return self.change(lambda content: (with_entries(content, added), added))

    def revoke(self, name: str) -> Revoked:
        """Admit the key of this name no longer, for good, nor its first one, nor one of before that was still admitted; returns
        the record of it.

        What it could have been admitted with again is gone with it: the tokens that it made, the one by which it came, and
        those for its name.

        Raises:
            NoSuchKey: there is none.
            Busy: another process kept the lock.
        """

        def edit(content: Content) -> tuple[Content, Revoked]:
            entry = self.get(name)
            at = iso(time.time())
            # the first one too, although it may be out of use for long: whoever came with it would be this owner again
            had = {entry.id, *entry.publics} - {entry.public}
            gone = tuple(Revoked(entry.name, entry.role, public, at) for public in (*sorted(had), entry.public))
            tokens = {
                id_: replace(token, revoked_at=at) if not token.revoked_at and belongs(token, entry) else token
                for id_, token in content.tokens.items()
            }
            left = content._replace(entries=without(content, name), revoked=(*content.revoked, *gone), tokens=tokens)
            return left, gone[-1]

        return self.change(edit)

    def rename(self, name: str, new_name: str) -> Entry:
        """Give a key another name; all else of it stays.

        Raises:
            NoSuchKey: there is no key ``name``.
            InvalidKey: ``new_name`` is malformed or taken.
            Busy: another process kept the lock.
        """

        def edit(content: Content) -> tuple[Content, Entry]:
            entry = replace(self.get(name), name=new_name)
            left = content._replace(entries=without(content, name))
            return with_entries(left, [entry]), entry

        return self.change(edit)

    def take_back(self, entry: Entry) -> None:
        """Undo :meth:`add` of ``entry`` as if it had never been; nothing when it is no longer there.

        Raises:
            Busy: another process kept the lock.
        """

        def edit(content: Content) -> tuple[Content, None]:
            there = content.entries.get(entry.name) == entry
            return content._replace(entries=without(content, entry.name)) if there else content, None

        self.change(edit)

    def change(self, edit: Callable[[Content], tuple[Content, Result]]) -> Result:
        """Make one change in one atomic step: ``edit`` gets what is in the file now, and gives what is to be there and a result.

        Nothing is written when it gives back what it got.

        Raises:
            InvalidKey: the ring is full, broken, or cannot be written; and what ``edit`` raises. Nothing is changed then.
            Busy: another process kept the lock.
        """
        with locked(self._lock_file, self._lock_wait_s):
            self._read_current()
            content, result = edit(self._content)
            if content is not self._content:
                if len(content.entries) > self._max_entries:
                    raise InvalidKey(f"the ring is full: it holds {self._max_entries} keys", hint="revoke what is no longer used")
                self._save(self._bounded(content))
        return result

    @property
    def _lock_file(self) -> Path:
        return self.path.with_name(self.path.name + ".lock")

    def _read_current(self) -> None:
        """Have the file's content in memory, or fail: a change is made of what is there, never of an older state."""
        if Signature.at(self.path) != self._signature:
            self.load()

    def _bounded(self, content: Content) -> Content:
        """``content`` with no more of what is only remembered than is kept."""
        return content._replace(revoked=content.revoked[-self._max_revoked :], rejected=content.rejected[-MAX_REJECTED:])

    def _take(self, content: Content, signature: Signature) -> None:
        self._content = content
        self._index = _Index.of(content)
        self._signature = self._seen = signature

    def _save(self, content: Content) -> None:
        # inodes are used again and clocks are coarse: two changes at once could look like none without a time of their own
        mtime_ns = max(time.time_ns(), self._signature.mtime_ns + 1)
        replace_file(self.path, encode_ring(content), mtime_ns=mtime_ns)
        self._take(content, Signature.of(os.stat(self.path)))

    def _no_such(self, name: str) -> NoSuchKey:
        gone = self.revocations(name)
        if gone:
            return NoSuchKey(f"the key {name!r} was revoked at {gone[-1].revoked_at}", hint="make a new one: zcluster keys new")
        near = nearest(name, self._content.entries)
        return NoSuchKey(
            f"the ring has no key {name[:80]!r}", hint=f"did you mean {near!r}?" if near else "`zcluster keys ls` lists them"
        )
