"""Joining: the names that joiners get, the strangers that wait to be accepted, and what a joiner tries next.

Rules kept here:
- a wish that is taken gets a number; a wish that is no name is made one;
- strangers are bounded, in all and for each address: one that floods pushes out its own tries first, then the oldest of all;
- a joiner asks with its own key before it asks with the token again: an answer that was lost costs no use of the token;
- a joiner gives up when its token is refused, and never when it only waits to be accepted.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, replace

from zcluster.config.names import MAX_NAME_CHARS, RESERVED_NAMES, name_fault

MAX_STRANGERS = 256
MAX_STRANGERS_OF_ADDRESS = 8
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
"""Between two tries of who waits to be accepted."""
TOKEN_WAIT_S = 2.0
"""Likewise of who has a token: it is valid for a while only, and somebody looks on."""

_OTHER = re.compile(r"[^A-Za-z0-9._-]+")


def as_name(text: str, default: str) -> str:
    """``text`` as a name can be: other characters become hyphens; ``default`` when nothing is left of it."""
    name = _OTHER.sub("-", text).strip("-.")[:MAX_NAME_CHARS]
    return default if name_fault(name) else name


def free_name(wish: str, taken: Container[str]) -> str:
    """``wish`` itself, or with the first number from 2 on that makes it one that is not ``taken`` and not reserved."""
    number, name = 1, wish
    while name in taken or name.lower() in RESERVED_NAMES or name == "master":
        number += 1
        end = f"-{number}"
        name = wish[: MAX_NAME_CHARS - len(end)] + end
    return name


@dataclass(frozen=True)
class Stranger:
    """A key that nobody has admitted, and that has tried to connect.

    Attributes:
        public: the key, Z85.
        address: from where it tried last.
        first_s, last_s: when, seconds since 1970.
        tries: how often.
    """

    public: str
    address: str
    first_s: float
    last_s: float
    tries: int


class Strangers:
    """The keys that have tried, the one that has been quiet for longest first."""

    def __init__(self) -> None:
        self._by_public: dict[str, Stranger] = {}
        self._group_of: dict[str, str] = {}
        self._by_group: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._by_public)

    @property
    def all(self) -> list[Stranger]:
        """Those that are remembered, the last one to try last."""
        return list(self._by_public.values())

    def tried(self, public: str, address: str, now_s: float, group: str = "") -> bool:
        """``public`` tried to connect from ``address``, one of ``group``, which are one machine's; returns whether it is news."""
        known, group = self._by_public.get(public), group or address
        self.forget(public)
        mine = self._by_group.get(group, {})
        if len(mine) >= MAX_STRANGERS_OF_ADDRESS:
            self.forget(next(iter(mine)))
        elif len(self._by_public) >= MAX_STRANGERS:
            self.forget(next(iter(self._by_public)))
        first = Stranger(public, address, now_s, now_s, 1)
        self._by_public[public] = first if known is None else replace(known, address=address, last_s=now_s, tries=known.tries + 1)
        self._group_of[public] = group
        self._by_group.setdefault(group, {})[public] = None
        return known is None

    def forget(self, public: str) -> None:
        """It was accepted or rejected; nothing when it is not there."""
        if self._by_public.pop(public, None) is not None:
            group = self._group_of.pop(public)
            mine = self._by_group[group]
            del mine[public]
            if not mine:
                del self._by_group[group]


@dataclass(frozen=True)
class Try:
    """Ask with this pair, the own one or the token's, after so long."""

    with_token: bool
    after_s: float


class Joiner:
    """What a joiner tries next.

    Args:
        has_token: whether there is a token; without one somebody has to accept the key.
        fresh: whether its key was made just now, so that nobody can have admitted it.
        give_up_after_s: how long nobody has to answer for a joiner with a token to give up.
    """

    def __init__(self, has_token: bool, fresh: bool, give_up_after_s: float, now: float) -> None:
        self._has_token = has_token
        self._give_up_s = now + give_up_after_s if has_token else None
        self._failures = 0
        self._with_token = has_token and fresh

    def first(self) -> Try:
        """What is tried first."""
        return Try(self._with_token, 0.0)

    def refused(self) -> Try | None:
        """The master does not admit the pair that was tried; None: there is nothing else to try."""
        if self._with_token:
            return None
        if self._has_token:
            self._with_token = True
            return Try(True, 0.0)
        return self._later()

    def unanswered(self, now: float) -> Try | None:
        """Nobody answered; None: it has been tried for long enough."""
        if self._give_up_s is not None and now >= self._give_up_s:
            return None
        return self._later()

    def _later(self) -> Try:
        longest_s = TOKEN_WAIT_S if self._has_token else LONGEST_WAIT_S
        wait_s = min(longest_s, FIRST_WAIT_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._with_token = False  # an answer may have been lost: the own key goes first again
        return Try(False, wait_s)
