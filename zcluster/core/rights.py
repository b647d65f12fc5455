"""Rights of roles: which functions, at which targets, with which priorities. One rule for the master and for where it runs.

Rules kept here:
- a role that the configuration says nothing of has what its base has (keys/rights.py): rights only ever take away;
- what is not named is not allowed: a role that is neither built in nor defined has no rights at all;
- several roles hold together, the least of all: the caller's own, the door's that carried it, the one it had when it asked;
- a glob of nodes never means a word (``any``, ``all``, ``master``, ``agent:ID``, ``group:G``): only the word itself, ``*``, and a
  glob that begins like the word do, so that ``a*`` is not everything;
- a word that is allowed is allowed wherever it leads; everything else is looked at node by node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase, translate
from typing import NamedTuple

from zcluster.core.peers import Event, Identity
from zcluster.core.targets import ALL, ANY, MASTER
from zcluster.errors import NotAllowed
from zcluster.wire.rights import Held

BUILT_IN = frozenset({"admin", "client", "worker", "agent", "master"})
"""Roles that are there without a definition."""
WORKER = "worker"
"""The role whose rights hold for what comes through a worker's door."""
WORDS = frozenset({ANY, ALL, MASTER})
KINDS_OF_WORDS = ("agent:", "group:")
UNKNOWN_HERE = "this node does not know the role yet"
EXPLAINED = "`zcluster rights check NAME FUNCTION TARGET` explains it"
_STRENGTH = {"admin": 1}
"""Of bases; all others have none."""


def word_of(target: str) -> str:
    """``target`` when it is a word; empty for names, globs and lists, which are looked at node by node."""
    return target if target in WORDS or target.startswith(KINDS_OF_WORDS) else ""


@dataclass(frozen=True)
class Rule:
    """What the configuration says of one role."""

    name: str
    base: str
    functions: tuple[str, ...]
    """Globs of names of functions."""
    targets: tuple[str, ...]
    """Globs of names of nodes, and words."""
    lowest: int = 0
    highest: int = 9
    _function: re.Pattern[str] = field(init=False, compare=False, repr=False)
    _node: re.Pattern[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Prepared once: callers choose what is asked, and must not choose what it costs.
        object.__setattr__(self, "_function", _any_of(self.functions))
        object.__setattr__(self, "_node", _any_of(glob for glob in self.targets if not glob.startswith(KINDS_OF_WORDS)))

    def has(self, function: str) -> bool:
        """Whether it may call functions of this name."""
        return self._function.match(function) is not None

    def allowed_at(self, word: str, node: str, *, master: bool = False) -> bool:
        """Whether it may have something run at ``node``.

        Args:
            word: what was asked for, as :func:`word_of` tells it.
            node: the node's name; empty while it is not known.
            master: it is the master, which the glob ``master`` means too.
        """
        if node and (self._node.match(node) is not None or (master and MASTER in self.targets)):
            return True
        return bool(word) and any(_means(glob, word) for glob in self.targets)

    def function_glob(self, function: str) -> str:
        """The glob that gives it ``function``; empty when none does."""
        return next((glob for glob in self.functions if fnmatchcase(function, glob)), "")

    def target_glob(self, word: str, node: str, *, master: bool = False) -> str:
        """The glob that allows ``node``, or ``word``; see :meth:`allowed_at`."""
        return next((glob for glob in self.targets if _allows(glob, word, node, master=master)), "")

    def fault(self, function: str, priority: int) -> str:
        """What it does not have of this, whatever the target; empty when nothing."""
        if not self.has(function):
            return f"the role {self.name} has no right to it"
        if not self.lowest <= priority <= self.highest:
            return f"priority {priority} is not one of role {self.name}: {self.lowest} to {self.highest}"
        return ""


class Rights:
    """The definitions that a node has.

    Args:
        copy: it is a worker's copy of the master's: what is not in it may come yet.
    """

    def __init__(self, rules: Iterable[Rule] = (), *, copy: bool = False) -> None:
        self.rules: Mapping[str, Rule] = {rule.name: rule for rule in rules}
        """By role. Replaced as a whole."""
        self.changes = 0
        """Grows with each change."""
        self._copy = copy

    def define(self, rules: Iterable[Rule]) -> bool:
        """These are the definitions from now on; returns whether they are others."""
        found = {rule.name: rule for rule in rules}
        if found == self.rules:
            return False
        self.rules = found
        self.changes += 1
        return True

    def identity(self, key: str, name: str, role: str) -> Identity:
        """Who has ``key`` when the ring says so. A role that is not defined has no base: it may do nothing."""
        if role in BUILT_IN:
            return Identity(key, name, role)
        rule = self.rules.get(role)
        return Identity(key, name, role if rule is None else rule.base, role)

    def narrows(self, who: Identity) -> bool:
        """Whether there is anything to be asked about ``who`` here. Never for a plain role where nothing is defined."""
        return any(name in self.rules or name not in BUILT_IN for name in who.names)

    def fault(self, names: Iterable[str], function: str, priority: int) -> str:
        """Why who has all of these roles may not call ``function`` at all, or empty."""
        for name in names:
            rule = self.rules.get(name)
            if rule is not None:
                if fault := rule.fault(function, priority):
                    return fault
            elif name not in BUILT_IN:
                return UNKNOWN_HERE if self._copy else f"the configuration does not define the role {name}"
        return ""

    def fault_at(self, names: Iterable[str], target: str, node: str, *, master: bool = False) -> str:
        """Why who has all of these roles may not have something run at ``node``, or empty; see :meth:`Rule.allowed_at`."""
        word = word_of(target)
        for name in names:
            rule = self.rules.get(name)
            if rule is not None and not rule.allowed_at(word, node, master=master):
                return f"the role {name} has no right to target {node or target}"
        return ""

    def fault_here(self, role: str, held: Held | None, function: str, node: str, *, master: bool = False) -> str:
        """Why what came to this node as WORK is not run, or empty: ``role`` and ``held`` as its group says."""
        if held is None:
            rule = self.rules.get(role)
            if rule is None:
                return ""
            # It was on its way when the role was defined: which word it was asked for with is not known here.
            return rule.fault(function, rule.lowest) or self.fault_at((role,), "", node, master=master)
        fault = self.fault(held.roles, function, held.priority)
        return fault or self.fault_at(held.roles, held.word, node, master=master)

    def refusal(self, who: Identity, function: str, priority: int) -> NotAllowed | None:
        """:meth:`fault`, as an error for who asked."""
        fault = self.fault(who.names, function, priority)
        return _not_allowed(who, function, fault) if fault else None

    def refusal_at(
        self, who: Identity, function: str, target: str, node: str, *, master: bool = False
    ) -> NotAllowed | None:
        """:meth:`fault_at`, as an error for who asked."""
        fault = self.fault_at(who.names, target, node, master=master)
        return _not_allowed(who, function, fault) if fault else None


def right_denied(who: Identity, function: str, target: str, error: NotAllowed) -> Event:
    """The event of a request that its caller has no right to."""
    return Event("right_denied", {"name": who.name, "function": function, "target": target, "reason": error.message}, "warning")


def _not_allowed(who: Identity, function: str, fault: str) -> NotAllowed:
    role = who.grant or who.role
    return NotAllowed(f"{who.name} ({role}) may not call {function}: {fault}", hint=EXPLAINED)


def least(now: Identity, then: Identity) -> Identity:
    """Who has the rights of both: those of a key as it is, and those that it had, or that somebody else leaves it.

    The weaker base is taken with its own definition; the other's definitions hold too.
    """
    if now.names == then.names and now.role == then.role:
        return now
    weak, other = (then, now) if _STRENGTH.get(then.role, 0) < _STRENGTH.get(now.role, 0) else (now, then)
    own = weak.grant or weak.role
    also = tuple(dict.fromkeys(name for name in (*weak.also, *other.names) if name != own))
    return replace(now, role=weak.role, grant=weak.grant, also=also)


# -- what a job keeps of who asked for it


class Standing(NamedTuple):
    """Who asked, but for the key, and with which word if it was not the target itself."""

    who: Identity
    word: str


def standing_text(who: Identity, word: str = "") -> str:
    """What is to be remembered of the rights that ``who`` has: the role alone in the common case."""
    if who.names == (who.role,) and not word:
        return who.role
    return f"{who.role} {','.join(who.names)} {word}"


def standing_of(text: str, key: str = "", name: str = "") -> Standing:
    """What :func:`standing_text` said."""
    role, _, rest = text.partition(" ")
    names, _, word = rest.partition(" ")
    own, *also = (names or role).split(",")
    return Standing(Identity(key, name, role, "" if own == role else own, tuple(also)), word)


def _any_of(globs: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(translate(glob) for glob in globs) or r"(?!)")


def _allows(glob: str, word: str, node: str, *, master: bool) -> bool:
    """:meth:`Rule.allowed_at` for one of its globs."""
    named = bool(node) and not glob.startswith(KINDS_OF_WORDS) and fnmatchcase(node, glob)
    return named or (bool(node) and master and glob == MASTER) or (bool(word) and _means(glob, word))


def _means(glob: str, word: str) -> bool:
    """Whether ``glob``, one of targets, means ``word``."""
    if glob in ("*", word):
        return True
    kind = word.partition(":")[0] + ":"
    return kind in KINDS_OF_WORDS and glob.startswith(kind) and fnmatchcase(word, glob)
