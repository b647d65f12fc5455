"""``zcluster rights`` on the home of a master that does not run; with one that does: tests/system/test_rights.py."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.keys import KeyFile

ROLES = """
[roles.deploy]
functions = ["node.*"]
targets = ["worker-*", "any"]
priorities = [0, 5]
"""


@pytest.fixture
def home(zcluster: Callable[..., Any], tmp_path: Path) -> Path:
    assert zcluster("keys", "init", "--cluster", "lab").code == 0
    home = tmp_path / "home"
    with (home / "zcluster.toml").open("a") as file:
        file.write(ROLES)
    for name, role in (("worker-1", "worker"), ("ann", "deploy")):
        assert zcluster("keys", "new", name, "--role", role).code == 0
    return home


@pytest.mark.parametrize(
    ("words", "code", "wrong"),
    [
        (["ann", "node.info"], 0, []),
        (["ann", "node.info", "worker-1"], 0, []),
        (["ann", "node.info", "master"], 4, ["target"]),
        (["ann", "node.info", "all"], 4, ["target"]),
        (["ann", "queue.list", "any", "--priority", "9"], 4, ["function", "priority"]),
        (["ann", "node.info", "any", "--door"], 0, []),
        (["worker-1", "node.info"], 4, ["base"]),
        (["admin", "queue.pause", "master"], 0, []),
        (["worker-1", "node.info", "any", "--door"], 4, ["door"]),
    ],
)
def test_each_answer_with_its_exit_code(
    home: Path, zcluster: Callable[..., Any], words: list[str], code: int, wrong: list[str]
) -> None:
    ran = zcluster("rights", "check", *words, "-o", "json")
    found = json.loads(ran.out)
    assert (ran.code, [step["what"] for step in found["steps"] if step["ok"] is False]) == (code, wrong)
    assert found["allowed"] == (code == 0)
    assert "no master runs on this home" in ran.err


def test_the_lines_end_with_the_answer(home: Path, zcluster: Callable[..., Any]) -> None:
    lines = zcluster("rights", "check", "ann", "node.info", "worker-1").out.splitlines()
    assert lines[0] == "ok  key       ann has the role deploy"
    assert lines[2].startswith("?   base      node.info: what role it asks for is not known")
    assert lines[-1] == "ann may call node.info at worker-1 with priority 5, as far as is known here"


def test_the_roles_are_listed(home: Path, zcluster: Callable[..., Any]) -> None:
    [row] = json.loads(zcluster("rights", "ls", "-o", "json").out)["items"]
    assert row == {
        "name": "deploy", "base": "client", "functions": ["node.*"], "targets": ["worker-*", "any"], "priorities": [0, 5]
    }  # fmt: skip


def test_a_role_that_there_is_not_is_told_with_those_that_there_are(home: Path, zcluster: Callable[..., Any]) -> None:
    with (home / "zcluster.toml").open("a") as file:
        file.write("[roles.worker]\n")
    ran = zcluster("keys", "new", "bob", "--role", "nothing-like-it")
    assert ran.code == 2
    assert "(the roles are admin, client, worker, agent, master, deploy)" in ran.err


@pytest.mark.parametrize("name", ["nobody", ""])
def test_an_unknown_key_is_an_error(home: Path, zcluster: Callable[..., Any], name: str) -> None:
    ran = zcluster("rights", "check", name, "node.info")
    assert ran.code == 5
    assert f"the ring has no key '{name}'" in ran.err


def test_an_empty_name_is_not_the_key_that_asks(
    home: Path, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zcluster.cli.rights._resting", lambda *_: None)
    monkeypatch.setattr("zcluster.cli.rights.ask", lambda *_: {"allowed": True})
    assert zcluster("rights", "check", "", "node.info").code == 5


def test_while_a_master_runs_it_is_asked(home: Path, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.cli.rights.ask", lambda *_: [])
    (home / "run").mkdir(exist_ok=True)
    with (home / "run" / "master.lock").open("w") as file:
        assert json.loads(zcluster("rights", "ls", "-o", "json").out)["total"] == 1, "it is over, and its lock is free"
        fcntl.flock(file, fcntl.LOCK_EX)
        assert json.loads(zcluster("rights", "ls", "-o", "json").out)["total"] == 0
    assert json.loads(zcluster("rights", "ls", "-o", "json", "--master", "tcp://127.0.0.1:1").out)["total"] == 0


def test_a_key_of_a_role_of_the_configuration_knows_the_workers(home: Path) -> None:
    assert [node.name for node in KeyFile.read(home / "keys" / "ann.key").nodes] == ["worker-1"]
