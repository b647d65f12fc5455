"""Why somebody may call a function at a target, or may not: the rule of rights.py, a step at a time, for people.

Rules kept here:
- the answer is that of the rule itself: each step asks the same questions, and all have to be well;
- what is not known here (a function's own role without a master, the node of an agent) is said, and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from zcluster.core.peers import Identity
from zcluster.core.rights import BUILT_IN, WORKER, Rights, word_of
from zcluster.core.targets import is_single, select
from zcluster.errors import ZClusterError

CALLERS = frozenset({"client", "admin"})
MAX_SHOWN = 8
"""Nodes, or globs, that one step names."""


@dataclass(frozen=True)
class Question:
    """May ``who`` call ``function`` at ``target``?"""

    who: Identity
    function: str
    target: str
    priority: int = 5


@dataclass(frozen=True)
class Known:
    """What is known where the question is asked."""

    rights: Rights
    nodes: Collection[str]
    """The names of all nodes."""
    master: str
    """And the master's."""
    roles: Collection[str] | None
    """The roles that the function asks of its caller where nodes have it; None: not known."""
    may_call: Callable[[str, str], bool]


class Step(NamedTuple):
    """One line of the answer."""

    what: str
    ok: bool | None
    """None: not known here."""
    text: str


def explain(asked: Question, known: Known) -> list[Step]:
    """The steps, in the order in which they are looked at. It is allowed when none of them is not ok."""
    return list(_steps(asked, known))


def allowed(steps: list[Step]) -> bool:
    """What ``steps`` amount to."""
    return all(step.ok is not False for step in steps)


def _steps(asked: Question, known: Known) -> Iterator[Step]:
    who = asked.who
    yield Step("key", True, f"{who.name} has the role {who.grant or who.role}")
    yield from (_role(name, asked, known) for name in who.names)
    yield _base(asked, known)
    if who.role not in CALLERS:
        return
    for name in who.names:
        rule = known.rights.rules.get(name)
        if rule is not None:
            glob = rule.function_glob(asked.function)
            found = f"{glob!r} of role {name}" if glob else f"no function of role {name} matches"
            yield Step("function", bool(glob), f"{asked.function}: {found}")
            yield _target(name, asked, known)
            fits = rule.lowest <= asked.priority <= rule.highest
            yield Step("priority", fits, f"{asked.priority}: role {name} has {rule.lowest} to {rule.highest}")


def _role(name: str, asked: Question, known: Known) -> Step:
    rule = known.rights.rules.get(name)
    if name == WORKER and asked.who.role != WORKER:
        narrowed = "the role worker narrows what comes through a worker's door"
        return Step("door", True, narrowed if rule else "nothing narrows what comes through a worker's door")
    if rule is not None:
        return Step("role", True, f"{name} is narrowed" if name in BUILT_IN else f"{name} is a part of {rule.base}")
    if name in BUILT_IN:
        return Step("role", True, f"{name} is built in and not narrowed")
    return Step("role", False, f"the configuration does not define {name}")


def _base(asked: Question, known: Known) -> Step:
    role, function = asked.who.role, asked.function
    if role not in CALLERS:
        return Step("base", False, f"a key of role {role} calls no functions")
    if known.roles is None:
        return Step("base", None, f"{function}: what role it asks for is not known here")
    needed = " or ".join(sorted(known.roles))
    ok = any(known.may_call(role, each) for each in known.roles)
    return Step("base", ok, f"{function} asks for the role {needed}: this is a call of {role}")


def _target(name: str, asked: Question, known: Known) -> Step:
    rule, target, word = known.rights.rules[name], asked.target, word_of(asked.target)
    if glob := rule.target_glob(word, ""):
        return Step("target", True, f"{target}: {glob!r} of role {name}")
    if word and ":" in word:
        return Step("target", None, f"{target}: as role {name} has it where that is; no target of the role is this word")
    if target == "any":
        return Step("target", False, f"any: no target of role {name} is this word")
    try:
        nodes = select(target, known.nodes, known.master)
    except ZClusterError as error:
        # That there is no such node is no matter of rights; a single name is looked at before it is looked up.
        if is_single(target) and not rule.allowed_at("", target):
            return Step("target", False, f"{target}: no target of role {name} matches {target}")
        return Step("target", None, error.message)
    refused = [node for node in nodes if not rule.allowed_at(word, node, master=node == known.master)]
    if refused:
        shown = ", ".join(refused[:MAX_SHOWN]) + ("…" if len(refused) > MAX_SHOWN else "")
        rest = f"; {len(nodes) - len(refused)} others would" if len(nodes) > len(refused) else ""
        return Step("target", False, f"{target}: no target of role {name} matches {shown}{rest}")
    globs = list(dict.fromkeys(rule.target_glob(word, node, master=node == known.master) for node in nodes))
    shown = ", ".join(map(repr, globs[:MAX_SHOWN])) + ("…" if len(globs) > MAX_SHOWN else "")
    return Step("target", True, f"{target}: {shown} of role {name}")
