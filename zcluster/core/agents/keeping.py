"""The agent's side, pure: what it says of itself, how often, and with which node it has its session.

Rules kept here:
- the first KEEP of a session says everything, each later one only what changed since;
- a KEEP leaves with a beat, so that an agent wakes once for both;
- an agent goes to the nodes that it was given; among those whose load it knows, to the less loaded of two that it drew: agents
  that lose a node at the same moment do not all go to the same one;
- it moves to a less loaded one at most once after each join, and only when the difference is clear: it never goes to and fro;
- an address whose key is not known is tried with each key that may be right, after the addresses that are known;
- while nothing is known of a given address, the key file's addresses are tried too: the master tells which doors there are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

from msgspec import UNSET

from zcluster.core.doors import Candidate, KnownKeys, KnownNode, candidates, split_node
from zcluster.errors import UsageError
from zcluster.wire.agents import Door, Keep
from zcluster.wire.trees import MAX_ID

DEFAULT_INTERVAL_S = 10.0
MIN_INTERVAL_S, MAX_INTERVAL_S = 0.5, 3600.0
LEASE_BEATS = 2
"""Beats without an answer after which an agent leaves its node: with the next attempt it is elsewhere within 3 intervals."""
MARGIN = 2
MARGIN_SHARE = 5
"""An agent moves when its node has more than MARGIN agents more than another, and more than one in MARGIN_SHARE of its own."""
MAX_DOORS = 1024


@dataclass(frozen=True)
class Facts:
    """What an agent says of itself (KEEP's fields of the same names)."""

    name: str
    address: str
    version: str
    os: dict[str, object]
    labels: dict[str, str]
    metrics: dict[str, object]
    config: str
    tree: str


_FIELDS = tuple(field.name for field in fields(Facts))


class Keeper:
    """Which KEEP to say."""

    def __init__(self) -> None:
        self._said: dict[str, object] | None = None
        self._interval_s = 0.0

    def forget(self) -> None:
        """A new session begins: the next KEEP says everything."""
        self._said = None

    def keep(self, facts: Facts, interval_s: float) -> Keep:
        """The KEEP that says ``facts``, and when to expect the next one."""
        now = {name: getattr(facts, name) for name in _FIELDS}
        said, self._said = self._said, now
        if said is None:
            self._interval_s = interval_s
            return Keep(full=True, interval_s=interval_s, **now)
        changed = {name: value for name, value in now.items() if said.get(name, UNSET) != value}
        if interval_s != self._interval_s:
            self._interval_s = interval_s
            return Keep(interval_s=interval_s, **changed)
        return Keep(**changed)


def beats_of(interval_s: float, heartbeat_s: float) -> tuple[float, int]:
    """The pace of beats that are at most ``heartbeat_s`` apart, and how many of them make an interval."""
    count = max(1, math.ceil(interval_s / heartbeat_s))
    return interval_s / count, count


def next_epoch(last: int, now_ms: int) -> int:
    """The number of a new session: larger than each before, also when the clock went back or the last number was lost."""
    return min(MAX_ID, max(last + 1, now_ms))


def tree_digest(held: Iterable[tuple[str, str]]) -> str:
    """Digest over names and digests of shared files, in whatever order; empty for none."""
    lines = sorted(f"{name}\0{digest}\n" for name, digest in held)
    return hashlib.blake2b("".join(lines).encode(), digest_size=16).hexdigest() if lines else ""


class NodeChoice:
    """With which node the session is to be.

    Args:
        given: addresses, ``ADDRESS`` or ``NAME@ADDRESS``; at least one.
        keys: the keys that the key file knows.
        fallback: the key file's own addresses.
        doors: what was known of doors the last time.
        draw: a random number in [0, 1) each time.
    """

    def __init__(
        self, given: Sequence[str], keys: KnownKeys, fallback: Sequence[str], draw: Callable[[], float],
        doors: Sequence[Door] = (),
    ) -> None:  # fmt: skip
        self._given = list(dict.fromkeys(given))
        self._keys = keys
        self._masters = frozenset(fallback)
        self._fallback = [address for address in dict.fromkeys(fallback) if address not in self._given]
        self._draw = draw
        self._doors: dict[str, Door] = {door.node: door for door in doors}
        self._proven: dict[str, tuple[str, Candidate]] = {}
        """By address: the node that answered there, and how."""
        self._queue: list[tuple[str, Candidate]] = []
        self._tried: tuple[str, Candidate] | None = None
        self._lost = ""
        self._settled = False

    def know(self, keys: KnownKeys) -> None:
        """The key file says something else now."""
        self._keys = keys

    @property
    def doors(self) -> list[Door]:
        """What is known of doors, to be kept for the next start."""
        return list(self._doors.values())

    def next(self) -> Candidate:
        """What to try now; each call goes on to the next.

        Raises:
            UsageError: there is nothing to try: only names of nodes were given, and the key file knows neither them nor a master.
        """
        if not self._queue:
            self._queue = self._order()
            if not self._queue:
                raise UsageError("the key file knows none of the given nodes, and no master to ask", hint="give its address")
        self._tried = self._queue.pop(0)
        return self._tried[1]

    @property
    def guessing(self) -> bool:
        """Whether the address that was tried last is tried with another key, too, before all begins anew."""
        return self._tried is not None and any(text == self._tried[0] for text, _ in self._queue)

    def joined(self, node: str) -> None:
        """What was tried last worked: ``node`` answered."""
        if self._tried is not None:
            self._proven[self._tried[0]] = (node, self._tried[1])
        self._queue = []

    def leave(self, node: str) -> bool:
        """The session with ``node`` has ended or is about to: the others come first, and the next join may be settled anew.
        Whether there are others."""
        self._lost, self._settled, self._queue = node, False, []
        return any(self._node_of(text) != node for text in self._given)

    def learn(self, doors: Sequence[Door]) -> None:
        """The doors that there are, as a node told them."""
        self._doors = {door.node: door for door in doors[:MAX_DOORS]}

    def add(self, doors: Sequence[Door]) -> None:
        """Some of the doors that there are."""
        for door in doors:
            if door.node in self._doors or len(self._doors) < MAX_DOORS:
                self._doors[door.node] = door

    def settle(self, node: str) -> bool:
        """After a join at ``node``: whether to move to another of the given nodes, which :meth:`next` then gives. At most once
        a join."""
        given = self._given_doors()
        if self._settled or not given:
            return False  # what was given may be told of later: a node's door is not known at once
        self._settled = True
        best = min(given.values(), key=lambda door: (door.agents, door.node))
        if node in given:
            here = given[node].agents
            if here - best.agents <= max(MARGIN, here // MARGIN_SHARE):
                return False
        self._queue = self._ways_to(best)
        return bool(self._queue)

    def go(self, node: str) -> bool:
        """An order to go to ``node``: whether its door is known; :meth:`next` then gives it first."""
        door = self._doors.get(node)
        self._queue = self._ways_to(door) if door is not None else []
        if self._queue:
            self._settled, self._lost = True, ""
        return bool(self._queue)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _order(self) -> list[tuple[str, Candidate]]:
        shuffled = [text for _, text in sorted((self._draw(), text) for text in self._given)]
        away = [text for text in shuffled if self._node_of(text) != self._lost]
        if len(away) > 1 and self._load(away[1]) < self._load(away[0]):
            away[0], away[1] = away[1], away[0]
        ordered = away + [text for text in shuffled if text not in away]
        ways = {text: self._candidates(text) for text in ordered}
        sure = [(text, place) for text, found in ways.items() if self._is_known(text) for place in self._likely(text, found)]
        unsure = {text: found for text, found in ways.items() if not found or not self._is_known(text)}
        depth = max((len(found) for found in unsure.values()), default=0)
        guesses = [(text, found[rank]) for rank in range(depth) for text, found in unsure.items() if rank < len(found)]
        if unsure:
            known = [(text, place) for text in self._fallback for place in self._likely(text, self._candidates(text))]
            return [*sure, *guesses[: len(unsure)], *known, *guesses[len(unsure) :]]
        return sure

    def _candidates(self, text: str) -> list[Candidate]:
        proven = self._proven.get(text)
        if proven is not None:
            door = self._doors.get(proven[0])
            known = [proven[1].public] if door is None else _publics(door)
            masters = self._keys.masters if proven[1].public in self._keys.masters else ()
            return [Candidate(proven[1].address, public) for public in dict.fromkeys([*known, *masters])]
        doors = [KnownNode(door.node, door.public, tuple(door.addresses), door.next) for door in self._doors.values()]
        try:
            return candidates([text], KnownKeys(self._keys.master, (*self._keys.nodes, *doors), self._keys.next))
        except UsageError:
            return []  # a node that only the master can tell of

    def _likely(self, text: str, found: list[Candidate]) -> list[Candidate]:
        """Of what may be tried at an address whose node is known, what is worth it."""
        masters = [place for place in found if place.public in self._keys.masters]
        return masters if masters and split_node(text)[1] in self._masters else found

    def _is_known(self, text: str) -> bool:
        """Whether it is known which key answers at an address."""
        address = split_node(text)[1]
        listed = address in self._masters or any(address in node.addresses for node in self._keys.nodes)
        return listed or bool(self._node_of(text))

    def _ways_to(self, door: Door) -> list[tuple[str, Candidate]]:
        given = [text for text in self._given if self._node_of(text) == door.node]
        if given:
            return [(text, Candidate(split_node(text)[1], public)) for text in given for public in _publics(door)]
        return [(address, Candidate(address, public)) for address in door.addresses for public in _publics(door)]

    def _given_doors(self) -> dict[str, Door]:
        return {node: self._doors[node] for text in self._given if (node := self._node_of(text)) in self._doors}

    def _node_of(self, text: str) -> str:
        """The node that a given address is known to be of, or empty."""
        proven = self._proven.get(text)
        if proven is not None:
            return proven[0]
        name, address = split_node(text)
        if name:
            return name
        return next((door.node for door in self._doors.values() if address in door.addresses), "")

    def _load(self, text: str) -> float:
        door = self._doors.get(self._node_of(text))
        return math.inf if door is None else door.agents


def _publics(door: Door) -> list[str]:
    return [door.public, door.next] if door.next else [door.public]
