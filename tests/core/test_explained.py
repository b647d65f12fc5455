"""Each step of the answer to "may this key call that there?"."""

from __future__ import annotations

import pytest

from zcluster.core.carrying import lowered
from zcluster.core.explained import MAX_SHOWN, Known, Question, Step, allowed, explain
from zcluster.core.peers import Identity
from zcluster.core.rights import Rights, Rule
from zcluster.keys import may_call

RIGHTS = Rights(
    [Rule("deploy", "client", ("node.*",), ("web-*", "any", "group:*"), 0, 5), Rule("worker", "worker", ("*",), ("*",), 0, 4)]
)
NODES = ["m", "web-1", "web-2", "db-1"]
ANN = RIGHTS.identity("k", "ann", "deploy")


def steps(
    function: str, target: str, who: Identity = ANN, priority: int = 5, roles: list[str] | None = None,
    nodes: list[str] | None = None,
) -> list[Step]:  # fmt: skip
    return explain(Question(who, function, target, priority), Known(RIGHTS, nodes or NODES, "m", roles, may_call))


def said(found: list[Step], what: str) -> Step:
    [step] = [step for step in found if step.what == what]
    return step


def test_all_is_well() -> None:
    found = steps("node.info", "web-1", roles=["client"])
    assert [(step.what, step.ok) for step in found] == [
        ("key", True), ("role", True), ("base", True), ("function", True), ("target", True), ("priority", True)
    ]  # fmt: skip
    assert allowed(found)
    assert said(found, "function").text == "node.info: 'node.*' of role deploy"
    assert said(found, "target").text == "web-1: 'web-*' of role deploy"


@pytest.mark.parametrize(
    ("target", "ok", "text"),
    [
        ("any", True, "any: 'any' of role deploy"),
        ("all", False, "all: no target of role deploy matches m, db-1; 2 others would"),
        ("web-*", True, "web-*: 'web-*' of role deploy"),
        ("web-1,db-1", False, "web-1,db-1: no target of role deploy matches db-1; 1 others would"),
        ("master", False, "master: no target of role deploy matches m"),
        ("group:x", True, "group:x: 'group:*' of role deploy"),
        ("agent:7", None, "agent:7: as role deploy has it where that is; no target of the role is this word"),
        ("web-9", None, "no node matches 'web-9'"),
        ("db-9", False, "db-9: no target of role deploy matches db-9"),
        ("web-1,db-9", None, "no node matches 'db-9'"),
        ("db-9*", None, "no node matches 'db-9*'"),
    ],
)
def test_each_kind_of_target(target: str, ok: bool | None, text: str) -> None:
    step = said(steps("node.info", target), "target")
    assert (step.ok, step.text) == (ok, text)
    assert allowed([step]) == (ok is not False)


def test_a_long_list_of_nodes_is_cut() -> None:
    nodes = [f"db-{n}" for n in range(MAX_SHOWN + 1)]
    assert "db-7…" in said(steps("node.info", "all", nodes=nodes[:]), "target").text
    assert "…" not in said(steps("node.info", "all", nodes=nodes[:MAX_SHOWN]), "target").text


def test_many_globs_are_cut_and_none_is_prepared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [f"n{n}" for n in range(MAX_SHOWN + 1)]
    many = Known(Rights([Rule("deploy", "client", ("*",), tuple(nodes))]), nodes, "m", None, may_call)
    prepared: list[object] = []
    monkeypatch.setattr("zcluster.core.rights.translate", prepared.append)
    step = said(explain(Question(ANN, "f", "all"), many), "target")
    assert step.text == "all: 'n0', 'n1', 'n2', 'n3', 'n4', 'n5', 'n6', 'n7'… of role deploy"
    assert prepared == []


def test_what_is_not_there_or_not_known() -> None:
    assert said(steps("queue.list", "any"), "function")[1:] == (False, "queue.list: no function of role deploy matches")
    assert said(steps("node.info", "any", priority=6), "priority").ok is False
    assert said(steps("node.info", "any"), "base").ok is None
    assert said(steps("node.info", "any", roles=["admin"]), "base").ok is False
    assert said(steps("node.info", "any", roles=["admin", "client"]), "base").ok is True
    gone = steps("node.info", "any", RIGHTS.identity("k", "eve", "gone"))
    assert [(step.what, step.ok) for step in gone] == [("key", True), ("role", False), ("base", False)]
    assert [step.what for step in steps("x", "any", Identity("k", "w", "worker"))] == ["key", "role", "base"]
    assert allowed(steps("x", "any", Identity("k", "c", "client"), roles=["client"]))


def test_at_a_door_its_own_rights_are_looked_at_too() -> None:
    who = lowered(ANN)
    assert who is not None
    found = steps("node.info", "web-1", who)
    assert said(found, "door").ok
    assert [step.ok for step in found if step.what == "priority"] == [True, False]
    open_door = Known(Rights([RIGHTS.rules["deploy"]]), NODES, "m", None, may_call)
    plain = explain(Question(who, "node.info", "web-1"), open_door)
    assert said(plain, "door").text == "nothing narrows what comes through a worker's door"
    assert allowed(plain)
