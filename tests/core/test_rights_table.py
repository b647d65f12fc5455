"""Every function there is, every role, every kind of target, from the bus and through a worker's door: who may call what, where.

Rules kept here:
- the functions come from what zcluster has, not from a list: a new one is in the table with its first test run;
- what is expected is reckoned here, by the words of docs/how-to/rights.md, and not by the code that is tested;
- the master and the node are asked apart: neither relies on the other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from zcluster.core.carrying import Via, lowered
from zcluster.core.peers import Identity
from zcluster.core.rights import Rights, Rule, word_of
from zcluster.core.targets import is_single
from zcluster.core.transfer import Agreed
from zcluster.core.work import Job, WorkEnd
from zcluster.keys import JOINER, ROLES, may_call
from zcluster.wire import FunctionInfo, Refusal, Results, Work, WorkGroup, encode
from zcluster.wire.messages import RequestFlag
from zcluster.wire.rights import Held

ROOT = Path(__file__).resolve().parents[2]
MASTER, WORKERS = "m", ("web-1", "db-1")
TARGETS = ("any", "master", "m", "web-1", "db-1", "web-*", "all", "web-1,m")


class Role(NamedTuple):
    """A role of the configuration, as a file says it."""

    base: str
    functions: tuple[str, ...] = ("*",)
    targets: tuple[str, ...] = ("*",)
    priorities: tuple[int, int] = (0, 9)


PLAIN: dict[str, Role] = {
    "deploy": Role("client", ("node.*", "agents.*"), ("web-*", "any"), (0, 5)),
    "ops": Role("admin", ("queue.*", "cluster.*", "config.*"), ("master",)),
    "viewer": Role("client", ("*.list", "cluster.*"), ("all", "*-1")),
}
NARROWED = {
    **PLAIN,
    "client": Role("client", ("node.*", "cluster.*")),
    "admin": Role("admin", ("*",), ("web-1", "master", "all")),
    "worker": Role("worker", ("cluster.*", "node.info"), ("*",), (5, 5)),
}
CONFIGURATIONS: dict[str, dict[str, Role]] = {"nothing": {}, "three roles": PLAIN, "built-in ones too": NARROWED}
KEYS = ("admin", "client", "deploy", "ops", "viewer")
ENTRIES = ("bus", "door")


def registry() -> dict[str, dict[str, str]]:
    """Every function that zcluster brings, by who has it, with the role that it asks for."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import docs_functions  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(ROOT / "tools"))
    page = docs_functions.render()
    found: dict[str, dict[str, str]] = {}
    for part in page.split("\n## ")[1:]:
        heading, _, text = part.partition("\n")
        sections = text.split("\n### `")[1:]
        found[heading] = {
            section.partition("`")[0]: section.partition("for keys of role `")[2].partition("`")[0] for section in sections
        }
    return found


REGISTRY = registry()
NODE, ON_MASTER, ON_WORKER = (REGISTRY[part] for part in ("On every node", "On the master", "On a worker"))
OF = {MASTER: {**NODE, **ON_MASTER}, **{name: {**NODE, **ON_WORKER} for name in WORKERS}}
FUNCTIONS = sorted({name for functions in OF.values() for name in functions})


def rules(roles: dict[str, Role]) -> list[Rule]:
    return [Rule(name, role.base, role.functions, role.targets, *role.priorities) for name, role in roles.items()]


def holding(key: str, entry: str, roles: dict[str, Role]) -> tuple[str, list[Role]]:
    """The base of a key with this role, and what it is held to."""
    base = roles[key].base if key in roles else key
    names = [key]
    if entry == "door":
        names += ["worker"] if base == "client" else ["client", "worker"]
        base = "client"
    return base, [roles[name] for name in names if name in roles]


def may(key: str, entry: str, roles: dict[str, Role], function: str, asks: str, target: str, node: str) -> bool:
    """Whether a key with this role may have ``function``, which asks for ``asks``, run at ``node`` when it names ``target``."""
    base, held = holding(key, entry, roles)
    if asks == "admin" and base != "admin":
        return False
    for role in held:
        names = [node, *(["master"] if node == MASTER else [])]
        by_name = any(fnmatchcase(name, glob) for name in names for glob in role.targets if glob != "master" or name == "master")
        by_word = target in ("any", "all", "master") and (target in role.targets or "*" in role.targets)
        fits = role.priorities[0] <= 5 <= role.priorities[1]
        if not fits or not any(fnmatchcase(function, glob) for glob in role.functions) or not (by_name or by_word):
            return False
    return True


def nodes_of(target: str) -> list[str]:
    """The nodes that a target names, but for ``any``."""
    names = [MASTER, *WORKERS]
    if target == "all":
        return names
    return [name for name in names for part in target.split(",") if fnmatchcase(name, MASTER if part == "master" else part)]


def who_is(key: str, entry: str, held: Rights) -> Identity:
    who: Identity | None = held.identity(f"key-{key}-{entry}", f"{key}-{entry}", key)
    who = lowered(who) if entry == "door" and who is not None else who
    assert who is not None
    return who


@pytest.fixture
def make_cluster(make_bus: Callable[..., Any]) -> Callable[[dict[str, Role]], Any]:
    def make(roles: dict[str, Role]) -> Any:
        bus = make_bus()
        bus.local(*(FunctionInfo(name=name, role=role) for name, role in OF[MASTER].items()), slots=60_000)
        for name in WORKERS:
            bus.worker(name, *(FunctionInfo(name=each, role=role) for each, role in OF[name].items()), slots=60_000)
        bus.master.rights.define(rules(roles))
        return bus

    return make


class Function(NamedTuple):
    role: str
    stream: bool = False
    pool: str = "thread"


def node_end(name: str, held: Rights) -> WorkEnd:
    limits = Agreed(10_000, 1000, 1024, 2048, 100_000)
    functions = {each: Function(role) for each, role in OF[name].items()}
    return WorkEnd(name, functions, may_call, limits, 60_000, held, name == MASTER)


def refusals(end: WorkEnd) -> list[str]:
    """The codes of the errors that a node has to say."""
    found = []
    for message, bodies in end.take():
        assert isinstance(message, Results)
        found += [msgspec.json.decode(body)["code"] for body in bodies]
    return found


def outcomes(bus: Any, route: Any, ends: dict[str, WorkEnd]) -> dict[str, str]:
    """What became of the request: by node, "runs" or the code of its error; by "" the error of the whole."""
    found = {node: code for _, code, node in bus.replies(route)}
    for name, end in ends.items():
        for message in bus.heard("local" if name == MASTER else name, Work):
            started = end.work(message, b"x" * sum(len(group.sizes) for group in message.groups), 0, bus.now)
            assert not refusals(end), "what the master lets through the node runs"
            if any(isinstance(job, Job) for job in started):
                found[name] = "runs"
    return found


def test_the_table_has_every_function() -> None:
    assert len(FUNCTIONS) > 60
    assert {role for functions in OF.values() for role in functions.values()} == {"client", "admin"}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_master_lets_through_what_may_run_and_nothing_else(
    make_cluster: Callable[[dict[str, Role]], Any], configuration: str, key: str, entry: str
) -> None:
    roles = CONFIGURATIONS[configuration]
    bus = make_cluster(roles)
    held = bus.master.rights
    ends = {name: node_end(name, held) for name in OF}
    route = Via(1, 1) if entry == "door" else "caller"
    if key not in ("client", "admin", *roles):
        assert lowered(held.identity("k", "n", key)) is None, "nobody carries it"
        bus.hello(route, held.identity("k", "n", key))
        [bye] = bus.heard(route)
        why = f"the master's configuration does not define the role {key}"
        assert (bye.code, bye.message) == ("not_allowed", why), "a role that is not defined opens no session"
        return
    bus.hello(route, who_is(key, entry, held))
    bus.said.clear()
    wrong, refused = [], False
    for id_, (function, target) in enumerate(((function, target) for function in FUNCTIONS for target in TARGETS), 1):
        fan_out = 0 if is_single(target) else RequestFlag.FAN_OUT
        bus.request(route, function, target, id_=id_, flags=fan_out)
        found = outcomes(bus, route, ends)
        refused = refused or "not_allowed" in found.values()
        if found != wanted(key, entry, roles, function, target, bool(fan_out), found):
            wrong.append((function, target, found))
    assert wrong == []
    denied = [event.fields for event in bus.master.events if event.name == "right_denied"]
    assert all(set(fields) == {"name", "function", "target", "reason"} for fields in denied)
    unhindered = (key, entry) == ("admin", "bus") and configuration in ("nothing", "three roles")
    assert bool(denied) == refused == (not unhindered)


def wanted(
    key: str, entry: str, roles: dict[str, Role], function: str, target: str, fan_out: bool, found: dict[str, str]
) -> dict[str, str]:
    """What should become of it: as of :func:`outcomes`."""

    def code(node: str) -> str:
        asks = OF[node].get(function)
        if asks is not None:
            return "runs" if may(key, entry, roles, function, asks, target, node) else "not_allowed"
        asks = next(functions[function] for functions in OF.values() if function in functions)
        allowed = may(key, entry, roles, function, asks, target, node)
        return "no_such_function" if allowed else "not_allowed"

    if target == "any":
        having = [node for node in OF if function in OF[node]]
        workers = [node for node in having if node != MASTER] or having
        chosen = next((node for node, what in found.items() if what == "runs"), workers[0])
        allowed = any_word(key, entry, roles) and may(key, entry, roles, function, OF[chosen][function], "any", chosen)
        return {chosen: "runs"} if allowed else {"": "not_allowed"}
    nodes = nodes_of(target)
    if not fan_out:
        return {nodes[0]: "runs"} if code(nodes[0]) == "runs" else {"": code(nodes[0])}
    if whole(key, entry, roles, function):
        return {"": "not_allowed"}
    each = {node: code(node) for node in nodes}
    return each if "runs" in each.values() else {**each, "": "DONE"}


def any_word(key: str, entry: str, roles: dict[str, Role]) -> bool:
    return all("any" in role.targets or "*" in role.targets for role in holding(key, entry, roles)[1])


def asked_of(function: str) -> Iterator[tuple[str, str]]:
    return ((node, functions[function]) for node, functions in OF.items() if function in functions)


def whole(key: str, entry: str, roles: dict[str, Role], function: str) -> bool:
    """Whether it is refused before any node is looked at: by the function, its role, or the priority."""
    base, held = holding(key, entry, roles)
    if all(asks == "admin" != base for _, asks in asked_of(function)):
        return True
    fits = all(role.priorities[0] <= 5 <= role.priorities[1] for role in held)
    return not fits or not all(any(fnmatchcase(function, glob) for glob in role.functions) for role in held)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("configuration", ["three roles", "built-in ones too"])
def test_a_node_runs_what_may_run_there_and_nothing_else(configuration: str, key: str, entry: str) -> None:
    roles = CONFIGURATIONS[configuration]
    held = Rights(rules(roles), copy=True)
    who, leg, wrong = who_is(key, entry, held), 0, []
    for node, functions in OF.items():
        end = node_end(node, held)
        for function, asks in functions.items():
            for target in (*TARGETS, node):
                leg += 1
                group = WorkGroup(function, who.name, who.role, 1000, 0, 1, leg, leg, [1])
                group.held = Held(list(who.names), word_of(target), 5)
                ran = bool(end.work(Work([group]), b"x", 0, 1.0))
                errors = refusals(end)
                allowed = may(key, entry, roles, function, asks, target, node)
                if (ran, errors) != ((True, []) if allowed else (False, ["not_allowed"])):
                    wrong.append((node, function, target, ran, errors))
    assert wrong == []


@pytest.mark.parametrize("role", [*sorted({*ROLES, JOINER} - {"client", "admin"}), "undefined"])
def test_no_other_role_calls_anything(make_cluster: Callable[[dict[str, Role]], Any], role: str) -> None:
    bus = make_cluster(NARROWED)
    bus.hello("odd", bus.master.rights.identity("key-odd", "odd", role))
    bus.said.clear()
    for id_, function in enumerate(FUNCTIONS, 1):
        for target in ("any", "all"):
            bus.request("odd", function, target, id_=id_, flags=0 if target == "any" else RequestFlag.FAN_OUT)
            told = bus.heard("odd")
            assert [message.code for message in told] in (["not_allowed"], ["no_session"])
            assert isinstance(told[0], Refusal) or told[0].code == "no_session"
            assert not any(bus.heard(name, Work) for name in ("local", *WORKERS))
    if role == "master":
        return  # what a master asks of its nodes, it may
    end = node_end("web-1", Rights(rules(NARROWED), copy=True))
    for leg, function in enumerate(OF["web-1"], 1):
        group = WorkGroup(function, "odd", role, 1000, 0, 1, leg, leg, [1], None, Held([role], "any", 5))
        assert not end.work(Work([group]), b"x", 0, 1.0)
    assert set(refusals(end)) == {"not_allowed"}


def test_a_frame_says_what_a_request_is_held_to_only_where_that_matters(make_cluster: Callable[[dict[str, Role]], Any]) -> None:
    for roles, key, held in (
        ({}, "client", None), (PLAIN, "client", None), (PLAIN, "deploy", Held(["deploy"], "any", 4)),
        (NARROWED, "client", Held(["client"], "any", 4)),
    ):  # fmt: skip
        bus = make_cluster(roles)
        bus.hello("caller", who_is(key, "bus", bus.master.rights))
        bus.said.clear()
        bus.request("caller", "node.info", "any", priority=4)
        [message] = [message for name in WORKERS for message in bus.heard(name, Work)]
        [group] = message.groups
        assert group.held == held
        assert encode(message, (b"x",)).endswith(b"null,null]]]x" if held is None else b'[["%b"],"any",4]]]]x' % key.encode())
