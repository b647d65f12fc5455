"""What the pages show is real: links lead somewhere, commands, settings and code in them exist."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

import zcluster
from zcluster.cli.main import cli
from zcluster.cli.options import State
from zcluster.config import ROLE_KEYS, SETTINGS, TABLES

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {"build", "dist"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def pages() -> list[Path]:
    """Every Markdown page of the project."""
    found = {page: page.relative_to(ROOT).parts for page in ROOT.rglob("*.md")}
    return sorted(page for page, parts in found.items() if not any(part in SKIPPED or part[0] == "." for part in parts))


PAGES = pages()
IDS = [str(p.relative_to(ROOT)) for p in PAGES]
each_page = pytest.mark.parametrize("path", PAGES, ids=IDS)


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str


def blocks(path: Path, language: str) -> list[str]:
    found = [Block(*match) for match in FENCE.findall(path.read_text(encoding="utf-8"))]
    return [block.text for block in found if block.language == language]


def prose(path: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """The anchors that the page's headings make, as GitHub makes them."""
    headings = re.findall(r"^#{1,6} (.+)$", prose(path), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_pages() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/tutorial.md", "docs/why.md"} <= set(IDS)


@each_page
def test_relative_links_lead_somewhere(path: Path) -> None:
    broken = []
    for link in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        goal = (path.parent / name).resolve() if name else path
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            broken.append(link)
    assert broken == []


def commands_shown(path: Path) -> Iterator[str]:
    """Lines of console blocks that call zcluster, without the prompt; a trailing backslash continues a line."""
    for block in blocks(path, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ zcluster "):
                yield line.removeprefix("$ ")


def words_of(line: str) -> list[str]:
    """The words of one command: up to a pipe, a redirection or the next command, without comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.wordchars += "[]{},:@"
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|&;<>()"):
            break
        words.append(word)
    return words[1:]


def leaf(args: list[str]) -> tuple[click.Context, list[str]]:
    """The command that ``args`` names, and the arguments that are left for it; raises click.UsageError."""
    ctx = click.Context(cli, info_name="zcluster", obj=State())
    while isinstance(ctx.command, click.Group):
        _, args, _ = ctx.command.make_parser(ctx).parse_args(args)
        if not args:
            break
        name, command, args = ctx.command.resolve_command(ctx, args)
        assert command is not None, name
        ctx = click.Context(command, info_name=name, parent=ctx)
    return ctx, args


def check_options(words: list[str]) -> None:
    """Whether commands and options exist, whatever their values; raises click.UsageError."""
    ctx, args = leaf(words)
    ctx.command.make_parser(ctx).parse_args(args)


@each_page
def test_commands_in_console_blocks_can_be_typed(path: Path) -> None:
    for line in commands_shown(path):
        try:
            ctx, args = leaf(words_of(line))
            ctx.command.make_context(ctx.info_name, args, parent=ctx.parent)
        except click.exceptions.Exit:
            continue  # --help, --version
        except click.UsageError as error:
            pytest.fail(f"{line}: {error.format_message()}")


@each_page
def test_commands_in_text_exist(path: Path) -> None:
    for line in re.findall(r"`(zcluster [a-z][^`]*)`", prose(path).replace("\n", " ")):
        if "..." in line or "," in line:
            continue
        try:
            check_options(re.sub(r"[\[\]]", "", line).split()[1:])
        except click.UsageError as error:
            pytest.fail(f"{line}: {error.format_message()}")


@pytest.mark.parametrize("line", ["zcluster keyz ls", "zcluster keys ls --nonsense", "zcluster dapi call --target"])
def test_a_wrong_command_would_be_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        check_options(words_of(line))


@each_page
def test_make_targets_exist(path: Path) -> None:
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    shown = re.findall(r"`make ([a-z ]+)", prose(path))
    shown += [line[7:] for block in blocks(path, "console") for line in block.splitlines() if line.startswith("$ make ")]
    named = {word for words in shown for word in words.split() if word.isalpha() and word.islower()}
    assert named <= known


@each_page
def test_settings_in_toml_blocks_exist(path: Path) -> None:
    for block in blocks(path, "toml"):
        for table, keys in tomllib.loads(block).items():
            if table == "roles":
                assert [key for said in keys.values() for key in said if key not in ROLE_KEYS] == []
            elif table in TABLES:
                assert [key for key in keys if f"{table}.{key}" not in SETTINGS] == []


@each_page
def test_settings_in_text_exist(path: Path) -> None:
    tables = "|".join(sorted(set(TABLES) - {"node"}))
    named = re.findall(rf"`((?:{tables})\.[a-z_]+)`", prose(path))
    built_in = (ROOT / "docs/reference/functions.md").read_text(encoding="utf-8")
    functions = set(re.findall(r"^### `(.+)`$", built_in, re.M))
    assert [name for name in named if name not in SETTINGS and name not in functions] == []


@each_page
def test_python_blocks_parse_and_use_public_names(path: Path) -> None:
    for block in blocks(path, "python"):
        tree = compile(block, str(path), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "zcluster"
        }
        assert used <= set(zcluster.__all__)
