"""Doors of nodes: which addresses a client or agent tries with which key, and what everybody is told of the doors there are.

Rules kept here:
- a connection trusts exactly one key: an address whose key is not known is tried with each key that is, one after the other;
- ``NAME@ADDRESS`` names the node, so that one key is tried; an address that the key file lists for a node is that node's;
- another key is tried at once, because the other side has answered; another address waits its turn, as after any failure;
- the key that was right is tried first the next time;
- everybody is told when doors come and go, but not each time an agent does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zcluster.errors import UsageError
from zcluster.wire.agents import Door

MASTER = "master"
"""Names the master in ``NAME@ADDRESS``, whatever its own name is."""
MAX_NODES = 256
"""Nodes that a key file knows, and with it how many keys are tried at one address."""
MAX_DOORS = 1024
"""Doors in one message (wire/agents.py)."""
MAX_DOORS_BYTES = 131_072
"""What the doors in one DOORS message take, about."""
DOOR_BYTES = 160
"""What a door takes beside its addresses."""
FEW_AGENTS = 16
"""A difference of so many agents is not worth a message to everybody."""


class Candidate(NamedTuple):
    """An address, and the public key (Z85) that is expected there; empty: the master's."""

    address: str
    public: str = ""


@dataclass(frozen=True)
class KnownNode:
    """A node whose key is known: its name, its public key (Z85), the addresses that are known to be its, and the key that is to
    follow (empty: none is known)."""

    name: str
    public: str
    addresses: tuple[str, ...] = ()
    next: str = ""

    @property
    def publics(self) -> tuple[str, ...]:
        """Its keys, the present one first."""
        return (self.public, self.next) if self.next else (self.public,)


@dataclass(frozen=True)
class KnownKeys:
    """The keys that a client or agent trusts: the master's (public key, Z85), those of nodes with doors, and the one that is to
    follow the master's (empty: none is known)."""

    master: str
    nodes: tuple[KnownNode, ...] = ()
    next: str = ""

    @property
    def masters(self) -> tuple[str, ...]:
        """The master's keys, the present one first."""
        return (self.master, self.next) if self.next else (self.master,)


def split_node(text: str) -> tuple[str, str]:
    """``NAME@ADDRESS`` as (name, address); the name of a bare address is empty."""
    name, at, address = text.rpartition("@")
    return (name, address) if at else ("", text)


def candidates(addresses: Sequence[str], keys: KnownKeys) -> list[Candidate]:
    """What to try, in order: for each of ``addresses`` (``ADDRESS`` or ``NAME@ADDRESS``) the keys that may be its.

    A bare address that a node of ``keys`` lists is tried with that node's key alone; any other with the master's key, and then
    with each known node's.

    Raises:
        UsageError: a NAME is none of the nodes whose key is known.
    """
    by_name = {node.name: node.publics for node in keys.nodes[:MAX_NODES]}
    by_address = {address: node.publics for node in keys.nodes[:MAX_NODES] for address in node.addresses}
    found: list[Candidate] = []
    for text in addresses:
        name, address = split_node(text)
        if name:
            publics = by_name.get(name, keys.masters if name == MASTER else ())
            if not any(publics):
                raise UsageError(
                    f"the key file knows no node {name[:80]!r}, so nothing proves that it is the right one",
                    hint="add [nodes.NAME] with its public key there, or make a new key on the master: zcluster keys new",
                )
        else:
            publics = by_address.get(address) or (*keys.masters, *(public for each in by_name.values() for public in each))
        found += [Candidate(address, public) for public in publics]
    return list(dict.fromkeys(found))


def of_master(addresses: Sequence[str], keys: KnownKeys) -> list[Candidate]:
    """What to try, in order, where ``addresses`` are the master's: each with the keys that it may have."""
    return [Candidate(address, public) for address in addresses for public in keys.masters]


class Places:
    """Where a link goes: the addresses in turn, and at each the keys that may be its.

    Args:
        choices: at least one; those of one address belong together, wherever they are.
    """

    def __init__(self, choices: Iterable[Candidate | str]) -> None:
        self._keys: dict[str, list[str]] = {}
        for choice in choices:
            address, public = (choice, "") if isinstance(choice, str) else choice
            keys = self._keys.setdefault(address, [])
            if public not in keys:
                keys.append(public)
        self._addresses = list(self._keys)
        self._at = 0
        self._key = 0

    @property
    def now(self) -> Candidate:
        """What is tried now."""
        address = self._addresses[self._at]
        return Candidate(address, self._keys[address][self._key])

    def keys_of(self, address: str) -> list[str]:
        """The keys that ``address`` may have, in the order in which they are tried."""
        return list(self._keys.get(address, ()))

    def worked(self) -> None:
        """A session was opened here: this key is the right one."""
        keys = self._keys[self._addresses[self._at]]
        keys.insert(0, keys.pop(self._key))
        self._key = 0

    def another_key(self) -> bool:
        """Take the next key of this address, which is to be tried at once; false when there is none."""
        if self._key + 1 >= len(self._keys[self._addresses[self._at]]):
            return False
        self._key += 1
        return True

    def next(self) -> None:
        """Go on to the next address, after a failure or the end of a session."""
        self._key = 0
        self._at = (self._at + 1) % len(self._addresses)


def fitting(doors: Iterable[Door]) -> list[Door]:
    """As many of ``doors`` as one message holds, those with the fewest agents; in the order of their names."""
    chosen: list[Door] = []
    left = MAX_DOORS_BYTES
    for door in sorted(doors, key=lambda door: (door.agents, door.node)):
        left -= DOOR_BYTES + sum(len(address) + 3 for address in door.addresses)
        if left < 0 or len(chosen) >= MAX_DOORS:
            break
        chosen.append(door)
    return sorted(chosen, key=lambda door: door.node)


def worth_telling(told: Sequence[Door], now: Sequence[Door]) -> bool:
    """Whether ``now`` differs from what was ``told`` by more than a few agents: then everybody hears of it."""
    if [_where(door) for door in told] != [_where(door) for door in now]:
        return True
    return any(abs(old.agents - new.agents) > max(FEW_AGENTS, old.agents // 4) for old, new in zip(told, now, strict=True))


def _where(door: Door) -> tuple[object, ...]:
    return (door.node, door.public, door.next, door.addresses)
