"""The ring: which keys are admitted, under which names, with which roles.

Rules kept here:
- a name is there once, and a public key is there once, whoever writes and however many write at the same time;
- a revoked public key is remembered and never admitted again; its name may be given to a new key;
- every change is read, made and saved under one lock, in one atomic step: killed anywhere, the file is the old or the new one;
- each saved file has a later time than the one before, so that a reader's comparison of (time, size, inode) misses none;
- a file that is broken or gone changes nothing in memory: whoever was admitted still is, and the error says so;
- a file that could not be read is not a file that was seen: it is tried again at each look, so that no revocation is missed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from zcluster.config import name_fault, nearest
from zcluster.errors import InvalidKey, NoSuchKey
from zcluster.keys.pair import check_public
from zcluster.keys.private import LOCK_WAIT_S, locked, read_private, replace
from zcluster.keys.rights import check_role, may_subscribe
from zcluster.keys.ringfile import MAX_RING_BYTES, Content, Entry, Revoked, decode_ring, encode_ring

MAX_ENTRIES = 100_000
MAX_REVOKED = 10_000


class NewKey(NamedTuple):
    """A key that is to be added."""

    name: str
    role: str
    public: str


@dataclass(frozen=True)
class _Signature:
    """What changes when the file does, or when it becomes readable; all zero when there is no file."""

    mtime_ns: int = 0
    size_bytes: int = 0
    inode: int = 0
    mode: int = 0

    @classmethod
    def of(cls, found: os.stat_result) -> _Signature:
        return cls(found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode)

    @classmethod
    def at(cls, path: Path) -> _Signature:
        try:
            return cls.of(os.stat(path))
        except FileNotFoundError:
            return _NOTHING
        except OSError:
            return _UNREACHABLE  # reading it says what is wrong


_NOTHING = _Signature()
_UNREACHABLE = _Signature(inode=-1)


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
        self._content = Content({}, ())
        self._by_public: dict[str, Entry] = {}
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

    def by_public(self, public: str) -> Entry | None:
        """The admitted key with this public key."""
        return self._by_public.get(public)

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

    def changed(self) -> bool:
        """Whether the file is another one than was last read, written or found broken here. One stat, nothing is read."""
        return _Signature.at(self.path) != self._seen

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
        before = _Signature.at(self.path)
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
        self._seen = _Signature.of(found)
        content = decode_ring(self.path, data, self._by_public)
        if len(content.entries) > self._max_entries:
            raise InvalidKey(f"{self.path}: more than {self._max_entries} keys", hint="revoke what is no longer used")
        kept = content.revoked[-self._max_revoked :]
        self._take(Content(content.entries, kept), _Signature.of(found))

    def add(self, name: str, role: str, public: str) -> Entry:
        """Admit one key; see :meth:`add_many`."""
        return self.add_many([NewKey(name, role, public)])[0]

    def add_many(self, keys: Iterable[NewKey]) -> list[Entry]:
        """Admit keys, all or none of them, in one change.

        Raises:
            InvalidKey: a name, role or public key is malformed or taken, a public key was revoked, or the ring is full.
            Busy: another process kept the lock.
        """
        created_at = datetime.now(UTC).isoformat(timespec="seconds")
        added = [Entry(key.name, key.role, key.public, created_at) for key in keys]
        with locked(self._lock_file, self._lock_wait_s):
            self._read_current()
            entries = dict(self._content.entries)
            holders = {entry.public: f"the key {entry.name!r}" for entry in entries.values()}
            revoked = {each.public: each for each in self._content.revoked}
            for entry in added:
                _check_new(entry, entries, holders, revoked)
                entries[entry.name] = entry
                holders[entry.public] = f"the key {entry.name!r}"
            if len(entries) > self._max_entries:
                raise InvalidKey(f"the ring is full: it holds {self._max_entries} keys", hint="revoke what is no longer used")
            self._save(Content(entries, self._content.revoked))
        return added

    def revoke(self, name: str) -> Revoked:
        """Admit the key of this name no longer, for good; the record of it is returned.

        Raises:
            NoSuchKey: there is none.
            Busy: another process kept the lock.
        """
        with locked(self._lock_file, self._lock_wait_s):
            self._read_current()
            entry = self.get(name)
            record = Revoked(entry.name, entry.role, entry.public, datetime.now(UTC).isoformat(timespec="seconds"))
            kept = (*self._content.revoked, record)[-self._max_revoked :]
            self._save(Content(self._without(name), kept))
        return record

    def rename(self, name: str, new_name: str) -> Entry:
        """Give a key another name; its role and public key stay.

        Raises:
            NoSuchKey: there is no key ``name``.
            InvalidKey: ``new_name`` is malformed or taken.
            Busy: another process kept the lock.
        """
        with locked(self._lock_file, self._lock_wait_s):
            self._read_current()
            old = self.get(name)
            entry = Entry(new_name, old.role, old.public, old.created_at)
            entries = self._without(name)
            _check_new(entry, entries, {}, {})
            self._save(Content({**entries, new_name: entry}, self._content.revoked))
        return entry

    def take_back(self, entry: Entry) -> None:
        """Undo :meth:`add` of ``entry`` as if it had never been; nothing when it is no longer there.

        Raises:
            Busy: another process kept the lock.
        """
        with locked(self._lock_file, self._lock_wait_s):
            self._read_current()
            if self._content.entries.get(entry.name) == entry:
                self._save(Content(self._without(entry.name), self._content.revoked))

    @property
    def _lock_file(self) -> Path:
        return self.path.with_name(self.path.name + ".lock")

    def _read_current(self) -> None:
        """Have the file's content in memory, or fail: a change is made of what is there, never of an older state."""
        if _Signature.at(self.path) != self._signature:
            self.load()

    def _without(self, name: str) -> dict[str, Entry]:
        return {each: entry for each, entry in self._content.entries.items() if each != name}

    def _take(self, content: Content, signature: _Signature) -> None:
        self._content = content
        self._by_public = {entry.public: entry for entry in content.entries.values()}
        self._signature = self._seen = signature

    def _save(self, content: Content) -> None:
        # inodes are used again and clocks are coarse: two changes at once could look like none without a time of their own
        mtime_ns = max(time.time_ns(), self._signature.mtime_ns + 1)
        replace(self.path, encode_ring(content), mtime_ns=mtime_ns)
        self._take(content, _Signature.of(os.stat(self.path)))

    def _no_such(self, name: str) -> NoSuchKey:
        gone = self.revocations(name)
        if gone:
            return NoSuchKey(f"the key {name!r} was revoked at {gone[-1].revoked_at}", hint="make a new one: zcluster keys new")
        near = nearest(name, self._content.entries)
        return NoSuchKey(
            f"the ring has no key {name[:80]!r}", hint=f"did you mean {near!r}?" if near else "`zcluster keys ls` lists them"
        )


def _check_new(entry: Entry, entries: Mapping[str, Entry], holders: Mapping[str, str], revoked: Mapping[str, Revoked]) -> None:
    fault = name_fault(entry.name)
    if fault:
        raise InvalidKey(fault)
    check_role(entry.role)
    if entry.name == "master" and entry.role != "master":
        raise InvalidKey("the name 'master' is only for a key of role master", hint="choose another name")
    check_public(entry.public)
    if entry.name in entries:
        raise InvalidKey(f"the ring has a key {entry.name!r} already", hint="choose another name, or revoke that key first")
    if entry.public in holders:
        raise InvalidKey(f"this public key is in the ring already: {holders[entry.public]} has it", hint="make a new pair")
    if entry.public in revoked:
        gone = revoked[entry.public]
        raise InvalidKey(
            f"this public key was revoked at {gone.revoked_at} (it was {gone.name!r})", hint="make a new pair: zcluster keys new"
        )
