"""The rule of rights: functions, targets, priorities; several roles together; what a job keeps of it."""

from __future__ import annotations

import itertools

import pytest

from zcluster.core.carrying import lowered
from zcluster.core.peers import Identity
from zcluster.core.rights import Rights, Rule, least, standing_of, standing_text, word_of
from zcluster.wire.rights import Held

DEPLOY = Rule("deploy", "client", ("node.*", "report.build"), ("w*", "any", "group:web*"), 2, 5)
OPS = Rule("ops", "admin", ("queue.*",), ("master",))
ANN = Identity("k", "ann", "client", "deploy")


def rights(*rules: Rule) -> Rights:
    return Rights(rules or (DEPLOY, OPS))


@pytest.mark.parametrize(
    ("function", "has"),
    [
        ("node.ping", True), ("node.", True), ("node", False), ("report.build", True), ("report.builds", False),
        ("Node.ping", False), ("a.node.ping", False), ("node.a\nb", True),
    ],
)  # fmt: skip
def test_which_functions_a_rule_has(function: str, has: bool) -> None:
    assert DEPLOY.has(function) == has
    assert bool(DEPLOY.function_glob(function)) == has


@pytest.mark.parametrize(
    ("globs", "word", "node", "allowed"),
    [
        (("w*",), "", "w1", True),
        (("w*",), "", "x1", False),
        (("w*",), "any", "w1", True),
        (("w*",), "any", "", False),
        (("a*",), "any", "", False),
        (("a*",), "all", "x", False),
        (("a*",), "agent:7", "x", False),
        (("*",), "any", "", True),
        (("*",), "agent:7", "", True),
        (("any",), "any", "x", True),
        (("any",), "", "x", False),
        (("all",), "all", "x", True),
        (("agent:0*",), "agent:007", "x", True),
        (("agent:0*",), "agent:107", "x", False),
        (("agent:*",), "group:7", "x", False),
        (("group:web",), "group:web", "x", True),
        (("agent:*",), "", "agent:7", False),
        (("[mn]*",), "master", "x", False),
        ((), "any", "w1", False),
        ((), "", "", False),
    ],
)
def test_where_a_rule_allows(globs: tuple[str, ...], word: str, node: str, allowed: bool) -> None:
    rule = Rule("r", "client", ("*",), globs)
    assert rule.allowed_at(word, node) == allowed
    assert bool(rule.target_glob(word, node)) == allowed


def test_the_master_is_meant_by_its_word_whatever_its_name_is() -> None:
    assert OPS.allowed_at("", "m1", master=True)
    assert OPS.allowed_at("master", "m1", master=True)
    assert not OPS.allowed_at("", "m1")
    assert not OPS.allowed_at("", "worker-1", master=False)


@pytest.mark.parametrize(("priority", "fits"), [(0, False), (1, False), (2, True), (5, True), (6, False), (9, False)])
def test_priorities_are_bounded_at_both_ends(priority: int, fits: bool) -> None:
    assert (DEPLOY.fault("node.ping", priority) == "") == fits


@pytest.mark.parametrize(
    ("target", "word"),
    [("any", "any"), ("all", "all"), ("master", "master"), ("agent:7", "agent:7"), ("group:g", "group:g"), ("w1", ""), ("w*", ""),
     ("all,w1", ""), ("master,w1", "")],
)  # fmt: skip
def test_what_a_word_is(target: str, word: str) -> None:
    assert word_of(target) == word


def test_a_role_that_is_not_defined_has_no_rights() -> None:
    nobody = rights().identity("k", "ann", "other")
    assert (nobody.role, nobody.grant) == ("other", "other"), "no base: it may send nothing"
    assert "does not define" in rights().fault(nobody.names, "node.ping", 5)
    assert "does not know the role yet" in Rights(copy=True).fault(ANN.names, "node.ping", 5)


def test_who_has_a_role_of_the_configuration_is_its_base() -> None:
    assert rights().identity("k", "ann", "ops") == Identity("k", "ann", "admin", "ops")
    assert rights().identity("k", "ann", "client") == Identity("k", "ann", "client")
    assert rights(Rule("client", "client", (), ())).identity("k", "ann", "client") == Identity("k", "ann", "client")


def test_nothing_is_asked_where_nothing_is_defined() -> None:
    assert not Rights().narrows(Identity("k", "ann", "client"))
    assert not rights().narrows(Identity("k", "ann", "client"))
    carried = lowered(Identity("k", "ann", "client"))
    assert carried is not None
    assert not rights().narrows(carried)
    assert rights(Rule("worker", "worker", (), ())).narrows(carried)
    assert rights(Rule("client", "client", (), ())).narrows(Identity("k", "ann", "client"))
    assert rights().narrows(ANN)
    assert Rights().narrows(ANN)


def test_an_error_says_no_node_that_only_the_asker_has_named() -> None:
    refused = rights().refusal_at(ANN, "node.info", "w\x1b[31m\nx", "x\x1b[31m\n")
    assert refused is not None
    assert refused.node == ""
    assert str(refused).isprintable()


def test_a_change_is_noticed() -> None:
    held = Rights()
    assert held.define([DEPLOY])
    assert not held.define([DEPLOY])
    assert held.changes == 1
    assert held.define([])
    assert (dict(held.rules), held.changes) == ({}, 2)


ROLES = {
    "client": Identity("k", "n", "client"), "admin": Identity("k", "n", "admin"),
    "deploy": Identity("k", "n", "client", "deploy"), "ops": Identity("k", "n", "admin", "ops"),
}  # fmt: skip
RULES = [
    DEPLOY, OPS, Rule("client", "client", ("node.*", "queue.*"), ("*",)), Rule("admin", "admin", ("queue.*",), ("*",)),
    Rule("worker", "worker", ("*.ping", "queue.*"), ("*",)),
]


@pytest.mark.parametrize(("one", "other"), list(itertools.product(ROLES, ROLES)))
def test_the_least_of_two_is_never_more_than_either(one: str, other: str) -> None:
    held = Rights(RULES)
    both = least(ROLES[one], ROLES[other])
    assert both.role == ("client" if "client" in (ROLES[one].role, ROLES[other].role) else "admin")
    assert set(both.names) == {*ROLES[one].names, *ROLES[other].names}
    for function in ("node.ping", "queue.list", "report.build"):
        may = not held.fault(both.names, function, 5)
        assert may == all(not held.fault(ROLES[name].names, function, 5) for name in (one, other))
    assert least(both, ROLES[one]) == least(both, both) == both or set(least(both, ROLES[one]).names) == set(both.names)


@pytest.mark.parametrize("role", ROLES)
def test_who_is_carried_has_the_door_s_rights_too(role: str) -> None:
    who, found = ROLES[role], lowered(ROLES[role])
    assert found is not None
    assert found.role == "client"
    expected = {*who.names, "worker", *(["client"] if who.role == "admin" else [])}
    assert set(found.names) == expected
    assert (found.key, found.name) == (who.key, who.name)
    assert lowered(who) == found, "the same each time: a session is compared with it"


@pytest.mark.parametrize("word", ["", "any", "group:a b"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("door", [False, True])
def test_what_a_job_remembers_of_its_asker(role: str, door: bool, word: str) -> None:
    who = lowered(ROLES[role]) if door else ROLES[role]
    assert who is not None
    text = standing_text(who, word)
    assert standing_of(text, "k", "n") == (who, word)
    assert (text == role) == (not door and not word and role in ("client", "admin")), "the common case costs a word"


def test_what_comes_to_a_node_is_checked_by_what_it_says() -> None:
    held = rights()
    deploy, both = Held(["deploy"], "", 5), Held(["deploy", "ops"], "", 5)
    assert held.fault_here("client", deploy, "node.ping", "w1") == ""
    assert "no right to target x1" in held.fault_here("client", deploy, "node.ping", "x1")
    assert held.fault_here("client", Held(["deploy"], "any", 5), "node.ping", "x1") == ""
    assert "no right to it" in held.fault_here("client", deploy, "queue.list", "w1")
    assert "no right to it" in held.fault_here("client", both, "node.ping", "w1")
    assert "priority 6" in held.fault_here("client", Held(["deploy"], "", 6), "node.ping", "w1")
    assert "does not know" in Rights(copy=True).fault_here("client", deploy, "node.ping", "w1")
    assert held.fault_here("client", None, "queue.list", "x1") == ""


def test_what_was_on_its_way_when_a_built_in_role_was_narrowed_is_held_to_it() -> None:
    held = rights(Rule("client", "client", ("node.*",), ("w*", "any"), 3, 4))
    assert held.fault_here("client", None, "node.ping", "w1") == ""
    assert held.fault_here("client", None, "queue.list", "w1")
    assert held.fault_here("client", None, "node.ping", "x1"), "with which word it was asked for is not known"
