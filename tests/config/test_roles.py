"""The [roles.NAME] tables of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from zcluster.config import load, reload, rows
from zcluster.config.roles import MAX_GLOB_CHARS, MAX_GLOBS, MAX_ROLES, MAX_TEXT_BYTES, RoleSettings, glob_fault
from zcluster.errors import ConfigError

DEPLOY = """
[roles.deploy]
base = "admin"
functions = ["node.*", "report.*"]
targets = ["w*", "any"]
priorities = [0, 5]
"""


def roles(home: Path, text: str) -> tuple[RoleSettings, ...]:
    (home / "zcluster.toml").write_text(text)
    return load(home, {}, {}).settings.roles.role


def test_a_role_says_functions_targets_and_priorities(tmp_path: Path) -> None:
    found = roles(tmp_path, DEPLOY + "[roles.viewer]\n[roles.client]\nfunctions = []\n[roles.worker]\npriorities = [2, 2]\n")
    assert found == (
        RoleSettings("deploy", "admin", ("node.*", "report.*"), ("w*", "any"), (0, 5)),
        RoleSettings("viewer", "client", ("*",), ("*",), (0, 9)),
        RoleSettings("client", "client", (), ("*",), (0, 9)),
        RoleSettings("worker", "worker", ("*",), ("*",), (2, 2)),
    )
    assert found[0].place == "zcluster.toml:2"


def test_each_role_is_a_row_of_its_own(tmp_path: Path) -> None:
    roles(tmp_path, DEPLOY)
    shown = {row.name: row for row in rows(load(tmp_path, {}, {}))}
    assert shown["roles.deploy"].value == {
        "base": "admin", "functions": ("node.*", "report.*"), "targets": ("w*", "any"), "priorities": (0, 5)
    }  # fmt: skip
    assert shown["roles.deploy"].origin == "file zcluster.toml:2"
    assert "roles.role" not in shown


def test_roles_are_applied_by_a_reload(tmp_path: Path) -> None:
    roles(tmp_path, "")
    before = load(tmp_path, {}, {}).settings
    roles(tmp_path, DEPLOY)
    outcome = reload(before, load(tmp_path, {}, {}).settings)
    assert (outcome.applied, outcome.needs_restart) == (("roles.role",), ())
    assert [role.name for role in outcome.settings.roles.role] == ["deploy"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("roles = 1", 1, "expected roles to be a table"),
        ("[roles]\ndeploy = 1", 2, "expected roles.deploy to be a table"),
        ('[roles.deploy]\nfunction = ["x"]', 2, "unknown setting 'roles.deploy.function'"),
        ('[roles.deploy]\nfunctions = "x"', 2, "roles.deploy.functions: expected a list"),
        ("[roles.deploy]\nfunctions = [1]", 2, "expected a list of texts"),
        ('[roles.deploy]\nfunctions = [""]', 2, "expected a glob of 1 to 128 characters"),
        ('[roles.deploy]\ntargets = ["w1,w2"]', 2, "without spaces and commas"),
        ('[roles.deploy]\ntargets = ["w[12"]', 2, "expected a ']'"),
        ('[roles.deploy]\nbase = "worker"', 2, "expected client or admin"),
        ("[roles.deploy]\npriorities = [0]", 2, "the lowest and the highest"),
        ("[roles.deploy]\npriorities = [0, 10]", 2, "expected 0 to 9, got 10"),
        ("[roles.deploy]\npriorities = [-1, 9]", 2, "expected 0 to 9"),
        ("[roles.deploy]\npriorities = [6, 5]", 2, "the lowest before the highest"),
        ("[roles.deploy]\npriorities = [true, 5]", 2, "expected an integer"),
        ('[roles.client]\nbase = "admin"', 2, "is built in and has no base"),
        ("[roles.master]", 1, "has its rights by what it is"),
        ("[roles.joiner]", 1, "has its rights by what it is"),
        ("[roles.agent]", 1, "has its rights by what it is"),
        ("[roles.any]", 1, "is reserved"),
        ('[roles."-x"]', 1, "expected a name"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"zcluster.toml:{line}: ") as caught:
        roles(tmp_path, text)
    assert message in caught.value.message


def test_a_mistyped_key_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        roles(tmp_path, "[roles.deploy]\ntarget = []")
    assert caught.value.hint == "did you mean 'roles.deploy.targets'?"


def test_how_many_there_may_be(tmp_path: Path) -> None:
    assert len(roles(tmp_path, "".join(f"[roles.r{n}]\n" for n in range(MAX_ROLES)))) == MAX_ROLES
    with pytest.raises(ConfigError, match=f"at most {MAX_ROLES}"):
        roles(tmp_path, "".join(f"[roles.r{n}]\n" for n in range(MAX_ROLES + 1)))


def test_how_many_globs_a_list_may_have(tmp_path: Path) -> None:
    for count, fits in ((MAX_GLOBS, True), (MAX_GLOBS + 1, False)):
        text = "[roles.r]\ntargets = [" + '"x", ' * count + "]"
        if fits:
            assert len(roles(tmp_path, text)[0].targets) == count
        else:
            with pytest.raises(ConfigError, match=f"at most {MAX_GLOBS} items"):
                roles(tmp_path, text)


def test_all_of_them_fit_one_message(tmp_path: Path) -> None:
    one = ", ".join([f'"{"x" * MAX_GLOB_CHARS}"'] * MAX_GLOBS)
    many = MAX_TEXT_BYTES // (2 * MAX_GLOBS * (MAX_GLOB_CHARS + 4)) + 1
    with pytest.raises(ConfigError, match="bytes, at most"):
        roles(tmp_path, "".join(f"[roles.r{n}]\nfunctions = [{one}]\ntargets = [{one}]\n" for n in range(many)))


def test_neither_a_flag_nor_the_environment_declares_a_role(tmp_path: Path) -> None:
    for name in ("ZCLUSTER_ROLES__ROLE", "ZCLUSTER_ROLES__DEPLOY"):
        with pytest.raises(ConfigError, match=r"in zcluster\.toml only"):
            load(tmp_path, {}, {name: "x"})
    with pytest.raises(ConfigError, match=r"in zcluster\.toml only"):
        load(tmp_path, {"roles.role": "x"}, {})


@pytest.mark.parametrize(("glob", "good"), [("x" * MAX_GLOB_CHARS, True), ("x" * (MAX_GLOB_CHARS + 1), False), ("[!a]*", True),
                                            ("[]]", True), ("[]", False), ("a\nb", False), ("agent:*", True)])  # fmt: skip
def test_what_a_glob_is(glob: str, good: bool) -> None:
    assert (not glob_fault(glob)) == good
