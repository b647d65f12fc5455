"""``zcluster config``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.config import SETTINGS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The configuration of the home."""
    path = tmp_path / "home" / "zcluster.toml"
    path.parent.mkdir()
    path.write_text('[cluster]\nname = "lab"\n\n[client]\ntimeout_s = "5s"\n')
    return path


def test_show_lists_every_setting(file: Path, zcluster: Callable[..., Any]) -> None:
    items = json.loads(zcluster("config", "show", "-o", "json").out)["items"]
    assert [item["name"] for item in items] == list(SETTINGS)
    found = {item["name"]: item["value"] for item in items}
    assert (found["cluster.name"], found["client.timeout_s"]) == ("lab", 5.0)
    assert "origin" not in items[0]


def test_show_origin_says_where_each_value_is_from(
    file: Path, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZCLUSTER_LOG__LEVEL", "debug")
    rows = {line.split()[0]: line for line in zcluster("config", "show", "--origin").out.splitlines()}
    assert rows["client.timeout_s"].endswith("file zcluster.toml:5")
    assert rows["log.level"].endswith("environment ZCLUSTER_LOG__LEVEL")
    assert rows["worker.slots"].endswith("default")
    assert rows["node.name"].split()[1] == '""'


def test_show_has_a_line_for_each_tree(file: Path, zcluster: Callable[..., Any]) -> None:
    tree = '\n[[sync.tree]]\nname = "rules"\npath = "files/rules"\nexclude = ["*.tmp"]\ndelete = false\n'
    file.write_text(file.read_text() + tree)
    items = json.loads(zcluster("config", "show", "-o", "json", "--origin").out)["items"]
    value = items[-1].pop("value")
    assert (items[-1]["name"], items[-1]["origin"]) == ("sync.tree.rules", "file zcluster.toml:7")
    assert (value["path"], value["exclude"], value["delete"]) == (str(file.parent / "files/rules"), ["*.tmp"], False)
    assert (value["mode"], value["on_change"]) == ("keep", [])
    line = zcluster("config", "show").out.splitlines()[-1]
    assert line.split(None, 1) == ["sync.tree.rules", f'path = "{file.parent}/files/rules", exclude = ["*.tmp"], delete = false']


def test_validate_names_a_tree_of_a_file_without_the_stand_in(tmp_path: Path, zcluster: Callable[..., Any]) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[[sync.tree]]\nname = "t"\npath = "keys"\n')
    ran = zcluster("config", "validate", str(other))
    assert ran.code == 2
    assert f"{other}:1: HOME/keys, the path of tree 't', overlaps the home's keys (HOME/keys)" in ran.err


def test_validate_says_that_the_home_is_valid(file: Path, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("config", "validate")
    assert (ran.code, ran.out, ran.err) == (0, "", f"{file}: valid\n")


def test_validate_without_a_file_says_so(zcluster: Callable[..., Any]) -> None:
    ran = zcluster("config", "validate")
    assert ran.code == 0
    assert "there is none" in ran.err


@pytest.mark.parametrize("given", [False, True])
def test_validate_names_the_line_and_the_nearest_key(given: bool, file: Path, zcluster: Callable[..., Any]) -> None:
    file.write_text("[client]\n\ntimeout = 5\n")
    ran = zcluster("config", "validate", *([str(file)] if given else []))
    assert (ran.code, ran.out) == (2, "")
    assert f"{file}:3: unknown setting 'client.timeout'" in ran.err
    assert "did you mean 'client.timeout_s'?" in ran.err


def test_validate_of_a_file_ignores_the_environment_and_its_name(
    tmp_path: Path, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZCLUSTER_LOG__LEVEL", "shouting")
    other = tmp_path / "next.toml"
    other.write_text("[worker]\nslots = 0\n")
    ran = zcluster("config", "validate", str(other))
    assert ran.code == 2
    assert f"{other}:2: worker.slots" in ran.err
    other.write_text("[worker]\nslots = 1\n")
    assert zcluster("config", "validate", str(other)).err == f"{other}: valid\n"
    assert zcluster("config", "validate").code == 2


def test_validate_of_a_file_that_is_not_there(tmp_path: Path, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("config", "validate", str(tmp_path / "none.toml"))
    assert ran.code == 2
    assert "no such file" in ran.err
