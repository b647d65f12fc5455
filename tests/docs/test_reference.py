"""The reference is complete and current: what the code has is in docs/reference/, as the code says it today."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from zcluster import errors
from zcluster.config import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
GENERATED = ("cli.md", "errors.md", "functions.md", "settings.md")


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    """tools/docs_reference.py, imported as `make docs` runs it."""
    tools = str(ROOT / "tools")
    sys.path.insert(0, tools)
    try:
        spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "tools" / "docs_reference.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(tools)


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", GENERATED)
def test_generated_page_is_current(tool: ModuleType, name: str) -> None:
    assert page(name) == tool.PAGES[name](), f"docs/reference/{name} is not what the code says now; run: make docs"


def test_every_generated_page_is_checked(tool: ModuleType) -> None:
    assert set(tool.PAGES) == set(GENERATED)


def test_every_setting_is_in_the_reference() -> None:
    text = page("settings.md")
    assert [name for name in SETTINGS if f"| `{name}` |" not in text] == []


def test_every_error_and_exit_code_is_in_the_reference() -> None:
    text = page("errors.md")
    missing = [code for code, cls in errors.ERRORS.items() if f"| `{code}` | `{cls.__name__}` | {cls.exit_code} |" not in text]
    exits = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert missing == []
    assert {int(code) for code in re.findall(r"^\| (\d) \|", text, re.M)} == exits


def test_every_error_class_says_what_it_means() -> None:
    assert [cls.__name__ for cls in errors.ERRORS.values() if not cls.__dict__.get("__doc__")] == []


def test_every_command_has_a_section_with_its_options(tool: ModuleType) -> None:
    text = page("cli.md")
    sections = {block.split("`")[1]: block for block in re.split(r"^## ", text, flags=re.M)[1:]}
    contexts = list(tool.docs_cli.commands(tool.docs_cli.cli, None, "zcluster"))
    assert [ctx.command_path for ctx in contexts] == list(sections)
    assert len(contexts) > 10
    for ctx in contexts:
        names = [name for param in ctx.command.params for name in param.opts if name.startswith("-")]
        assert [name for name in names if f"`{name}`" not in sections[ctx.command_path]] == [], ctx.command_path


def test_every_command_and_option_has_a_help_text(tool: ModuleType) -> None:
    without = []
    for ctx in tool.docs_cli.commands(tool.docs_cli.cli, None, "zcluster"):
        if not ctx.command.help:
            without.append(ctx.command_path)
        without += [
            f"{ctx.command_path} {param.opts[0]}"
            for param in ctx.command.params
            if param.param_type_name == "option" and not param.help
        ]
    assert without == []


def test_every_function_that_a_node_brings_is_in_the_reference() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("brokers", "dapi", "nodes", "workers")
        for path in sorted((ROOT / "zcluster" / folder).glob("*.py"))
    )
    declared = set(re.findall(r'^ +@function\("([a-z_.]+)"', source, re.M))
    assert {"echo", "agents.list", "groups.bulk", "config.applied", "events.follow", "notes.send"} <= declared
    assert declared == set(re.findall(r"^### `(.+)`$", page("functions.md"), re.M))


def test_every_public_python_name_is_in_the_reference() -> None:
    import zcluster

    text = page("python.md") + page("errors.md")
    assert [name for name in zcluster.__all__ if not re.search(rf"\b{name}\b", text)] == []
