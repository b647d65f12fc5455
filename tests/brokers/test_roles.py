"""The roles at the master: from its settings to its machine and its workers, and what is said of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from zcluster.brokers.roles import MasterRoles, rules_of
from zcluster.config import RoleSettings
from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import Identity
from zcluster.core.rights import Rights
from zcluster.dapi.context import Context
from zcluster.errors import NoSuchKey, NotAllowed
from zcluster.keys import Ring, generate, may_call, may_send
from zcluster.wire import FunctionInfo, Hello, WireLimits, decode
from zcluster.wire.rights import RoleInfo, Roles
from zcluster.workers.roles import WorkerRoles

DEPLOY = RoleSettings("deploy", "client", ("node.*",), ("w*",), (0, 5))
TOLD = RoleInfo("deploy", "client", ["node.*"], ["w*"], 0, 5)


def loaded(*roles: RoleSettings) -> Any:
    return SimpleNamespace(settings=SimpleNamespace(roles=SimpleNamespace(role=roles)))


class Rig:
    """A master's machine with the part, and two workers: one that takes part in rights and one that does not."""

    def __init__(self, path: Path, *roles: RoleSettings) -> None:
        self.machine = Master("m", "test", 1, MasterLimits(), may_send, may_call, 0.0)
        self.looks = self.wakes = 0
        ring = self.ring = Ring(path / "ring.json")
        for name, role in (("ann", "deploy"), ("bob", "client"), ("eve", "gone")):
            ring.add(name, role, generate().public)
        desk = cast(Any, SimpleNamespace(loaded=lambda: loaded(*roles), wake=self._wake))
        self.part = MasterRoles(desk, self.machine, ring, self._look)
        for name, parts in (("new", ["tables", "rights"]), ("old", ["tables"])):
            self.join(name, parts)

    def join(self, name: str, parts: list[str]) -> None:
        hello = Hello(versions=[1], instance=name, slots=1, functions=[FunctionInfo(name="node.info")], parts=parts)
        self.machine.receive(name, Identity(f"k{name}", name, "worker"), hello, b"", 0, 0.0)

    def told(self) -> dict[Any, list[Any]]:
        """The ROLES that were sent, by route; each before anything but what the session begins with."""
        found: dict[Any, list[Any]] = {}
        for route, outgoing in self.machine.take(0.0):
            for message, _ in outgoing:
                if message.kind == Roles.kind:
                    decoded, _ = decode(bytes(cast(Any, message).frame), WireLimits())
                    found.setdefault(route, []).append(decoded)
        return found

    def ask(self, called: str, context: Context, **args: Any) -> Any:
        call = self.part.functions()[called].target
        return call(**args, context=context)

    def _look(self) -> None:
        self.looks += 1

    def _wake(self) -> None:
        self.wakes += 1


def context(caller: str, role: str) -> Context:
    return Context(caller=caller, role=role, node="m", request_id="1.1", deadline_s=0.0, clock=lambda: 0.0)


def test_a_worker_that_takes_part_is_told_what_there_is_and_each_change(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DEPLOY)
    assert rig.told() == {"new": [Roles(roles=[TOLD])]}
    rig.part.apply(loaded(DEPLOY))
    assert (rig.told(), rig.looks, rig.wakes) == ({}, 0, 0), "nothing has changed"
    rig.part.apply(loaded())
    assert (rig.told(), rig.looks, rig.wakes) == ({"new": [Roles(roles=[])]}, 1, 1)
    rig.join("late", ["rights"])
    assert rig.told() == {}, "where nothing is defined there is nothing to tell"


def test_a_worker_keeps_the_definitions_of_one_session(tmp_path: Path) -> None:
    rights = Rights(copy=True)
    part = WorkerRoles(rights)
    part.receive(Roles(roles=[TOLD]), b"", 0)
    assert list(rights.rules.values()) == rules_of([DEPLOY])
    part.link_down()
    part.link_up(cast(Any, None))
    assert not rights.rules


def test_who_may_ask_what_a_key_may_do(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DEPLOY)
    asked = {"function": "node.info", "target": "w1"}
    assert rig.ask("rights.check", context("bob", "client"), **asked)["name"] == "bob"
    assert rig.ask("rights.check", context("ann", "client"), name="ann", **asked)["role"] == "deploy"
    with pytest.raises(NotAllowed):
        rig.ask("rights.check", context("bob", "client"), name="ann", **asked)
    assert rig.ask("rights.check", context("root", "admin"), name="ann", **asked)["name"] == "ann"
    with pytest.raises(NoSuchKey):
        rig.ask("rights.check", context("root", "admin"), name="nobody", **asked)
    found = rig.ask("rights.check", context("root", "admin"), name="eve", **asked)
    assert not found["allowed"]
    assert {step["what"]: step["ok"] for step in found["steps"]} == {"key": True, "role": False, "base": False}


def test_at_a_door_an_administrator_is_still_called_one(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.ring.add("root", "admin", generate().public)
    found = rig.ask("rights.check", context("root", "admin"), function="node.info", target="any", door=True)
    assert (found["role"], found["steps"][0]["why"]) == ("admin", "root has the role admin")


def test_the_list_says_what_the_file_says(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DEPLOY)
    listed = rig.part.functions()["rights.list"]
    assert listed.role == "admin"
    row = {"name": "deploy", "base": "client", "functions": ["node.*"], "targets": ["w*"], "priorities": [0, 5]}
    assert listed.target() == [row]
    asyncio.run(rig.part.start())
    asyncio.run(rig.part.close())
