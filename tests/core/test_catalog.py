"""Which function is where."""

from __future__ import annotations

from typing import Any

from zcluster.core.catalog import Functions
from zcluster.core.peers import Node
from zcluster.wire import FunctionInfo


def node(name: str, *infos: FunctionInfo, role: str = "worker", slots: int = 2) -> Node:
    """A ready node with a session."""
    peer: Any = type("Peer", (), {"draining": False})()
    made = Node(name, role, "ready", 0.0)
    made.functions = {info.name: info for info in infos}
    made.peer, made.slots = peer, slots
    return made


def test_the_roles_are_those_of_all_that_have_it() -> None:
    functions = Functions()
    mild, strict = node("w1", FunctionInfo(name="f")), node("w2", FunctionInfo(name="f", role="admin"))
    assert set(functions.roles("f")) == {"client"}, "a function that nobody has asks for the weakest role"
    functions.provide(mild)
    functions.provide(strict)
    assert {role for role, count in functions.roles("f").items() if count} == {"client", "admin"}
    functions.withdraw(mild)
    functions.withdraw(mild)
    assert {role for role, count in functions.roles("f").items() if count} == {"admin"}
    functions.withdraw(strict)
    assert set(functions.roles("f")) == {"client"}
    assert functions.providers == {}


def test_it_is_idempotent_when_everyone_says_so() -> None:
    functions = Functions()
    safe, unsafe = node("w1", FunctionInfo(name="f", idempotent=True)), node("w2", FunctionInfo(name="f"))
    functions.provide(safe)
    assert functions.idempotent() == ["f"]
    functions.provide(unsafe)
    assert functions.idempotent() == []
    functions.withdraw(unsafe)
    assert functions.idempotent() == ["f"]


def test_any_means_workers_with_room_and_else_the_master() -> None:
    functions = Functions()
    info = FunctionInfo(name="f")
    master, full, free = node("m", info, role="master"), node("w1", info, slots=0), node("w2", info)
    functions.provide(master)
    assert functions.candidates("f") == [master]
    functions.provide(full)
    assert functions.candidates("f") == [master], "a worker that takes nothing does not stand before the master"
    functions.provide(free)
    assert functions.candidates("f") == [free]
    assert functions.candidates("g") == []


def test_the_schemas_are_those_of_all_that_have_it() -> None:
    functions = Functions()
    old, new = node("w1", FunctionInfo(name="f", parameters="{}")), node("w2", FunctionInfo(name="f", parameters="[]"))
    assert list(functions.schemas("f")) == []
    functions.provide(old)
    functions.provide(new)
    functions.provide(node("w3", FunctionInfo(name="f", parameters="{}")))
    assert set(functions.schemas("f")) == {"{}", "[]"}
    functions.withdraw(new)
    functions.withdraw(old)
    assert set(functions.schemas("f")) == {"{}"}
