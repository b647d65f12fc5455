"""A key that is followed by another of the same owner: what happens in the ring, and in the owner's key file.

Rules kept here:
- a secret is made where it is used, and stays there: the ring hears of the public key only;
- the file has the next pair before the master hears of it, and the old one until the session has moved: killed anywhere, the
  process can connect with one of the two;
- in the ring the old key becomes one of before, and the new one the key, in one change; it is admitted until its time is over;
- while a key of before is admitted, its owner gets no further one: whoever has the old one cannot push out the new;
- whatever another process writes into the same file meanwhile is kept: a change is made of what is there, under a lock.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from zcluster.core.doors import KnownNode
from zcluster.errors import Busy, InvalidKey, NoSuchKey, ZClusterError
from zcluster.keys.keyfile import MAX_KEY_FILE_BYTES, KeyFile
from zcluster.keys.pair import KeyPair, check_public, fingerprint, generate
from zcluster.keys.private import locked
from zcluster.keys.ring import Ring, Signature
from zcluster.keys.ringedits import holders
from zcluster.keys.ringfile import Content, Entry, Previous, instant, iso
from zcluster.wire.rotation import MAX_OVERLAP_S

MIN_OVERLAP_S = 1.0
DEFAULT_OVERLAP_S = 600.0

# -- the ring -----------------------------------------------------------------------------------------------------------


def check_overlap(overlap_s: float) -> float:
    """``overlap_s`` itself.

    Raises:
        InvalidKey: it is out of range.
    """
    if not MIN_OVERLAP_S <= overlap_s <= MAX_OVERLAP_S:
        raise InvalidKey(f"an overlap is from {MIN_OVERLAP_S:g} s to {MAX_OVERLAP_S / 86_400:g} days", hint="--overlap 10m")
    return overlap_s


def want(ring: Ring, name: str, overlap_s: float, now_s: float) -> Entry:
    """Have the ring say that the owner of ``name`` is to get another key; returns the entry.

    Raises:
        NoSuchKey: there is no such key. Busy: it is being rotated. InvalidKey: the overlap is out of range.
    """
    check_overlap(overlap_s)

    def edit(content: Content) -> tuple[Content, Entry]:
        entry = ring.get(name)
        _check_at_rest(entry, now_s)
        if entry.rotate_s:
            raise Busy(
                f"{name!r} is to have another key already, as soon as it is here", hint="`zcluster keys show` tells when it has"
            )
        changed = replace(entry, rotate_s=overlap_s)
        return _with(content, changed), changed

    return ring.change(edit)


def want_no_more(ring: Ring, id_: str) -> None:
    """The owner of the key ``id_`` cannot have another key: nobody waits for it any more."""

    def edit(content: Content) -> tuple[Content, None]:
        entry = ring.by_id(id_)
        if entry is None or not entry.rotate_s:
            return content, None
        return _with(content, replace(entry, rotate_s=0.0)), None

    ring.change(edit)


def follow(
    ring: Ring, id_: str, public: str, overlap_s: float, now_s: float, *, exactly: bool = False,
    unasked: Callable[[], None] = lambda: None,
) -> Entry:  # fmt: skip
    """Let ``public`` follow the key of ``id_``; the one that it follows stays admitted for a while. Done already: nothing.

    Args:
        overlap_s: for how long, where the ring does not say it.
        exactly: whatever the ring says.
        unasked: called before a change that the ring does not ask for; what it raises prevents it.

    Raises:
        NoSuchKey: there is no such key (any more). Busy: it is being rotated already. InvalidKey: ``public`` is malformed or
            taken, or was revoked. What ``unasked`` raises.
    """
    check_public(public)

    def edit(content: Content) -> tuple[Content, Entry]:
        entry = ring.by_id(id_)
        if entry is None:
            raise NoSuchKey("this key is no longer admitted")
        if entry.public == public:
            return content, entry
        _check_at_rest(entry, now_s)
        if public in holders(content) or ring.is_revoked(public):
            raise InvalidKey("this public key is known already", hint="make a new pair")
        if not entry.rotate_s:
            unasked()
        wish_s = min(max(overlap_s, MIN_OVERLAP_S), MAX_OVERLAP_S)
        until = iso(math.ceil(now_s + (wish_s if exactly else entry.rotate_s or wish_s)))
        changed = replace(entry, public=public, previous=(Previous(entry.public, until),), rotate_s=0.0)
        return _with(content, changed), changed

    return ring.change(edit)


def forget_ended(ring: Ring, now_s: float) -> int:
    """Drop the keys of before whose time is over; returns how many they were."""

    def edit(content: Content) -> tuple[Content, int]:
        entries, count = dict(content.entries), 0
        for name, entry in content.entries.items():
            left = tuple(each for each in entry.previous if instant(each.until) > now_s)
            if left != entry.previous:
                count += len(entry.previous) - len(left)
                entries[name] = replace(entry, previous=left)
        return (content._replace(entries=entries), count) if count else (content, 0)

    return ring.change(edit)


def rotated_row(name: str, old: str, new: str = "", until: str = "") -> dict[str, Any]:
    """What is shown of a rotation: public keys as fingerprints; without a ``new`` one its owner is away."""
    return {
        "name": name,
        "state": "rotated" if new else "wanted",
        "old": fingerprint(old),
        "new": fingerprint(new) if new else "",
        "until": until,
    }


def _check_at_rest(entry: Entry, now_s: float) -> None:
    until = max((instant(each.until) for each in entry.previous), default=now_s)
    if until > now_s:
        raise Busy(
            f"the key {entry.name!r} was rotated a moment ago: its older one is admitted until {iso(until)}",
            hint="rotate it again after that, or revoke it",
            retry_after_s=until - now_s,
        )


def _with(content: Content, entry: Entry) -> Content:
    return content._replace(entries={**content.entries, entry.name: entry})


# -- the owner's file ---------------------------------------------------------------------------------------------------


class OwnKey:
    """The key of this process, as its file says: the file is read again when it has changed.

    Args:
        key_file: what was read from ``path``.
        path: where; None: nobody knows, and what is learnt is kept for the life of this process only.
    """

    def __init__(self, key_file: KeyFile, path: Path | None = None) -> None:
        self.key_file = key_file
        self.current = key_file.pair
        """The pair to connect with."""
        self.path = path
        self.made = ""
        """The public key that the last :meth:`begin` made; empty: there was one already."""
        self._seen = None if path is None else Signature.at(path)

    def look(self) -> bool:
        """Read the file if it changed; returns whether it says something else now.

        Raises:
            InvalidKey: it cannot be read; what it said before holds. It is told once.
        """
        if self.path is None:
            return False
        found = Signature.at(self.path)
        if found == self._seen:
            return False
        self._seen = found
        return self._take(KeyFile.read(self.path))

    @property
    def pairs(self) -> tuple[KeyPair, ...]:
        """The pairs that may be admitted: the present one, and the next if there is one."""
        key_file = self.key_file
        return (key_file.pair,) if key_file.next is None else (key_file.pair, key_file.next)

    def use(self, public: str) -> bool:
        """Connect with the pair of ``public`` from now on; false when it is none of this key's."""
        found = [pair for pair in self.pairs if pair.public == public]
        if found:
            self.current = found[0]
        return bool(found)

    def other(self) -> bool:
        """The pair of now was refused: connect with the other one; false when there is none."""
        before = self.current
        self.current = next((pair for pair in self.pairs if pair != before), before)
        return self.current != before

    # Each of the following waits for a disk: not on a loop.

    def begin(self) -> str:
        """Have a next pair in the file; returns its public key. One that is there already stays.

        Raises:
            InvalidKey: the file cannot be written. Busy: another process keeps it locked.
        """
        if self.path is None:
            raise InvalidKey("this process was not started from a key file", hint="make a new key: zcluster keys new")
        pair = generate()
        changed = self._change(lambda old: old if old.next is not None else replace(old, next=pair))
        assert changed.next is not None
        self.made = pair.public if changed.next == pair else ""
        return changed.next.public

    def finish(self, public: str) -> None:
        """``public`` is admitted and in use: it is the key from now on, and the older one is gone from the file."""
        self._change(lambda old: _followed(old, public))

    def give_up(self, public: str) -> None:
        """``public`` was not admitted: it is not tried again."""
        self._change(lambda old: replace(old, next=None) if old.next and old.next.public == public else old)

    def learn(self, node: str, public: str) -> None:
        """``public`` is to follow the key of ``node`` (empty: of the master). It is known here from now on.

        Raises:
            ZClusterError: for the life of this process only: the file cannot be written.
        """
        check_public(public)
        if learnt(self.key_file, node, public) == self.key_file:
            return  # it is known, or of a node that need not be: the file and its lock are left alone
        try:
            self._change(lambda old: learnt(old, node, public))
        except ZClusterError:
            self._take(learnt(self.key_file, node, public))
            raise

    def proven(self, public: str) -> None:
        """``public``, which was to follow another, is in use: the other proves nothing any more."""
        if proven(self.key_file, public) != self.key_file:
            self._change(lambda old: proven(old, public))

    def _change(self, edit: Callable[[KeyFile], KeyFile]) -> KeyFile:
        if self.path is None:
            self._take(edit(self.key_file))
            return self.key_file
        file = Path(os.path.realpath(self.path))  # those who come by a link have the same lock
        with locked(file.with_name(f"{file.name}.lock")):
            old = KeyFile.read(self.path)
            new = edit(old)
            if len(new.text().encode()) > MAX_KEY_FILE_BYTES:
                raise InvalidKey(f"{self.path} would be larger than it may be", hint="leave out nodes that are not used")
            if new != old:
                new.rewrite(self.path)
            self._seen = Signature.at(self.path)
        self._take(new)
        return new

    def _take(self, key_file: KeyFile) -> bool:
        changed, self.key_file = key_file != self.key_file, key_file
        if self.current not in self.pairs:
            self.current = key_file.pair
        return changed


def learnt(old: KeyFile, node: str, public: str) -> KeyFile:
    """``old``, knowing that ``public`` is to follow the key of ``node`` (empty: of the master); a node that it does not know it
    need not know."""
    if not node:
        return old if public in old.known.masters else replace(old, master_next=public)
    return replace(old, nodes=tuple(replace(each, next=_next(each, public)) if each.name == node else each for each in old.nodes))


def proven(old: KeyFile, public: str) -> KeyFile:
    """``old``, knowing that ``public`` has followed the key that it was to follow."""
    nodes = tuple(KnownNode(each.name, public, each.addresses) if each.next == public else each for each in old.nodes)
    if old.master_next == public:
        return replace(old, nodes=nodes, master_public=public, master_next="")
    return replace(old, nodes=nodes)


def _next(node: KnownNode, public: str) -> str:
    return node.next if public in node.publics else public


def _followed(old: KeyFile, public: str) -> KeyFile:
    if old.next is None or old.next.public != public:
        return old
    return replace(old, pair=old.next, next=None, master_public=public if old.role == "master" else old.master_public)
