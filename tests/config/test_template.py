"""The texts made from the declarations: they load, and they leave nothing out."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from zcluster.config import SETTINGS, TABLES, TREE_KEYS, Settings, TreeSettings, load, reference_markdown, template
from zcluster.config.roles import ROLE_KEYS, RoleSettings
from zcluster.config.settings import PRESETS


def load_template(home: Path, text: str) -> Settings:
    (home / "zcluster.toml").write_text(text)
    return load(home, {}, {}).settings


def test_the_template_loads_and_sets_only_the_name(tmp_path: Path) -> None:
    (tmp_path / "zcluster.toml").write_text(template("prod"))
    loaded = load(tmp_path, {}, {})
    assert loaded.settings.cluster.name == "prod"
    assert [name for name, origin in loaded.origins.items() if origin.kind == "file"] == ["cluster.name"]


def test_every_commented_setting_is_the_default(tmp_path: Path) -> None:
    text = re.sub(r"^#([a-z_]+ = )", r"\1", template("zcluster"), flags=re.MULTILINE)
    assert load_template(tmp_path, text) == Settings()
    origins = load(tmp_path, {}, {}).origins
    assert {name for name, origin in origins.items() if origin.kind != "file"} == {"sync.tree", "roles.role"}, "examples"


def test_the_example_of_a_tree_is_a_tree(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=\[\[sync|\[roles|[a-z_]+ = )", "", template("zcluster"), flags=re.MULTILINE)
    settings = load_template(tmp_path, text)
    assert settings.sync.tree == (TreeSettings("rules", str(tmp_path / "files/rules")),)
    assert settings.roles.role == (RoleSettings("deploy"),)
    for key in ROLE_KEYS:
        assert f"\n{key} = " in text
        assert f"| `roles.NAME.{key}` |" in reference_markdown()
    for key, declared in TREE_KEYS.items():
        assert f"\n{key} = " in text
        assert f"| `sync.tree.{key}` |" in reference_markdown()
        assert declared.spec.doc in " ".join(re.sub(r"^# +", "", line) for line in template("x").splitlines())
    assert "## [[sync.tree]]\n" in reference_markdown()
    assert "| `sync.tree.name` | required |" in reference_markdown()


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_explained_in_both(name: str) -> None:
    declared = SETTINGS[name]
    flat = " ".join(re.sub(r"^# ", "", line) for line in template("x").splitlines())
    assert declared.spec.doc in flat
    assert f"| `{name}` |" in reference_markdown()
    assert declared.spec.doc.replace("|", "\\|") in reference_markdown()


def test_every_table_and_preset_is_in_the_reference() -> None:
    page = reference_markdown()
    for table in TABLES:
        assert f"## [{table}]\n" in page
        assert f"\n[{table}]" in template("x")
    for preset, meaning in PRESETS.items():
        assert f"- `{preset}`: {meaning}" in page
    assert "| `session.heartbeat_s` | `0.5` | `1.0` | `5.0` |" in page


def test_the_reference_tables_are_well_formed() -> None:
    lines = reference_markdown().splitlines()
    for above, line in pairwise(lines):
        if above.startswith("|") and line.startswith("|"):
            assert line.replace("\\|", "").count("|") == above.replace("\\|", "").count("|"), line


def test_lines_of_the_template_fit_a_screen() -> None:
    assert max(map(len, template("x" * 64).splitlines())) <= 115
