"""Changes of the ring's content: from what is there, what is to be there.

Rules kept here:
- a name is there once, and a public key is there once: in use, of before, first of anybody, of a token;
- a revoked public key is not added again;
- nothing is written here: :meth:`~zcluster.keys.ring.Ring.change` does, under the ring's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zcluster.config import name_fault
from zcluster.errors import InvalidKey
from zcluster.keys.pair import check_public
from zcluster.keys.rights import check_role
from zcluster.keys.ringfile import Content, Entry, Revoked, Token


def without(content: Content, name: str) -> dict[str, Entry]:
    """The entries of ``content`` but the one called ``name``."""
    return {each: entry for each, entry in content.entries.items() if each != name}


class Adding:
    """Entries added to ``content`` one by one: what they are checked against is gathered once."""

    def __init__(self, content: Content) -> None:
        self._before = content
        self._taken = holders(content)
        self._revoked = {each.public: each for each in content.revoked}
        self._new: set[str] = set()
        self.entries = dict(content.entries)
        """Those of before, and the added ones."""

    def add(self, entry: Entry) -> None:
        """Add one.

        Raises:
            InvalidKey: a name, role or public key is malformed or taken, or a public key was revoked; nothing was added.
        """
        _check_new(entry, self.entries, self._taken, self._revoked)
        self.entries[entry.name] = entry
        self._taken.update(dict.fromkeys((entry.id, *entry.publics), f"the key {entry.name!r}"))
        self._new.add(entry.public)

    @property
    def content(self) -> Content:
        """What is to be there; a key that was rejected before and is added is no longer rejected."""
        if not self._new:
            return self._before
        rejected = tuple(each for each in self._before.rejected if each.public not in self._new)
        return self._before._replace(entries=self.entries, rejected=rejected)


def with_entries(content: Content, added: Iterable[Entry]) -> Content:
    """``content`` with more entries. Raises InvalidKey as :meth:`Adding.add`."""
    adding = Adding(content)
    for entry in added:
        adding.add(entry)
    return adding.content


def holders(content: Content) -> dict[str, str]:
    """Who has which public key, or had it first."""
    found = {token.public: f"the token {id_}" for id_, token in content.tokens.items()}
    for entry in content.entries.values():
        found.update(dict.fromkeys((entry.id, *entry.publics), f"the key {entry.name!r}"))
    return found


def belongs(token: Token, entry: Entry) -> bool:
    """Whether ``entry`` made ``token``, came by it, or could come back by it."""
    return token.creator == entry.id or token.id == entry.token or token.name == entry.name


def _check_new(entry: Entry, entries: Mapping[str, Entry], taken: Mapping[str, str], revoked: Mapping[str, Revoked]) -> None:
    fault = name_fault(entry.name)
    if fault:
        raise InvalidKey(fault)
    check_role(entry.role)
    if entry.name == "master" and entry.role != "master":
        raise InvalidKey("the name 'master' is only for a key of role master", hint="choose another name")
    check_public(entry.public)
    if entry.name in entries:
        raise InvalidKey(f"the ring has a key {entry.name!r} already", hint="choose another name, or revoke that key first")
    if entry.public in taken:
        raise InvalidKey(f"this public key is in the ring already: {taken[entry.public]} has it", hint="make a new pair")
    if entry.public in revoked:
        gone = revoked[entry.public]
        raise InvalidKey(
            f"this public key was revoked at {gone.revoked_at} (it was {gone.name!r})", hint="make a new pair: zcluster keys new"
        )
