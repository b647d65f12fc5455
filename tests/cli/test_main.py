"""The entry point: help that imports little, exit codes, and the one line on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import zcluster
from zcluster import errors
from zcluster.cli import main as main_module
from zcluster.cli.groups import LazyGroup
from zcluster.cli.main import COMMANDS, cli
from zcluster.keys.tokens import PREFIX

ROOT = Path(__file__).resolve().parents[2]
TOKEN = f"{PREFIX}9GnbXk-{'_Ab3' * 60}"
HEAVY = ("asyncio", "concurrent.futures", "logging", "msgspec", "orjson", "psutil", "socket", "tomllib", "zmq")


def modules_after(code: str) -> set[str]:
    """The modules of a fresh interpreter after ``code``, without what the environment's own site hooks import."""
    program = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before), sep='\\n', file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["dapi", "--help"], ["dapi", "call", "--help"], ["master", "--help"]]
)
def test_help_imports_nothing_that_is_slow(words: list[str]) -> None:
    found = modules_after(f"from zcluster.cli.main import run\nassert run({words!r}) == 0")
    assert "zcluster.cli.main" in found
    assert sorted(found.intersection(HEAVY)) == []


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    found = {name for name in modules_after("import zcluster") if name.partition(".")[0] == "zcluster"}
    assert found == {"zcluster"}


def test_the_version_is_the_one_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert zcluster.__version__ == project["version"]


def test_every_public_name_is_there() -> None:
    for name in zcluster.__all__:
        assert getattr(zcluster, name) is not None
    assert set(zcluster.__all__) >= {cls.__name__ for cls in errors.ERRORS.values()}
    assert dir(zcluster) == sorted(zcluster.__all__)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cluster'"):
        zcluster.Cluster  # noqa: B018


@pytest.mark.parametrize(("name", "entry"), [(name, entry) for group in COMMANDS.values() for name, entry in group.items()])
def test_the_table_says_what_the_command_says(name: str, entry: Any) -> None:
    assert isinstance(cli, LazyGroup)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").strip().partition("\n")[0] == entry.summary


def every_command(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    ctx = click.Context(command)
    found = [path]
    for name in command.list_commands(ctx):
        sub = command.get_command(ctx, name)
        assert sub is not None
        found += every_command(sub, (*path, name))
    return found


@pytest.mark.parametrize("path", every_command(cli), ids=" ".join)
def test_every_command_has_help_and_documents_its_options(path: tuple[str, ...], zcluster: Callable[..., Any]) -> None:
    ran = zcluster(*path, "--help")
    assert ran.code == 0
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    assert command.help
    for param in command.params:
        assert not isinstance(param, click.Option) or param.help, param.name


def test_a_group_without_a_command_shows_its_help_as_a_usage_error(zcluster: Callable[..., Any]) -> None:
    for words in ((), ("keys",)):
        ran = zcluster(*words)
        assert ran.code == 2
        assert ran.out == ""
        assert ran.err.startswith("Usage: zcluster")


def test_an_unknown_command_is_told_with_the_nearest_one(zcluster: Callable[..., Any]) -> None:
    ran = zcluster("nodez")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "zcluster: error: no such command 'nodez'; did you mean 'nodes'? (see: zcluster --help)\n"


@pytest.mark.parametrize("words", [("version", "-o", "json"), ("version", "-ojson"), ("version", "--output=json")])
def test_a_usage_error_is_json_when_json_was_asked_for(words: tuple[str, ...], zcluster: Callable[..., Any]) -> None:
    ran = zcluster("version", "--nonsense", *words[1:])
    assert (ran.code, ran.out) == (2, "")
    error = json.loads(ran.err)["error"]
    assert error["code"] == "usage"
    assert set(error) == {"code", "message", "hint", "request_id"}


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(main_module, "cli", command)


@pytest.mark.parametrize("kind", [errors.ERRORS[code] for code in sorted(errors.ERRORS)])
def test_every_error_ends_with_its_own_code(
    kind: type[errors.ZClusterError], monkeypatch: pytest.MonkeyPatch, zcluster: Callable[..., Any]
) -> None:
    failing(monkeypatch, kind("it\nbroke", hint="mend it", node="worker-1"))
    ran = zcluster()
    assert (ran.code, ran.out) == (kind.exit_code, "")
    assert ran.err == "zcluster: error: it\\nbroke [worker-1] (mend it)\n"


def test_nothing_of_an_error_reaches_a_terminal_unescaped() -> None:
    said = "x\x1b[2J\n\u202e"
    error = errors.error_from_dict({"code": "not_allowed", "message": said, "hint": said, "node": said, "request_id": said})
    shown = r"x\x1b[2J\n\u202e"
    assert str(error) == f"{shown} [{shown}] ({shown})"
    assert error.request_id == shown


def test_an_error_of_the_system_names_the_file(monkeypatch: pytest.MonkeyPatch, zcluster: Callable[..., Any]) -> None:
    failing(monkeypatch, FileNotFoundError(2, "No such file or directory", "/nowhere"))
    ran = zcluster()
    assert (ran.code, ran.err) == (1, "zcluster: error: No such file or directory: /nowhere\n")


def test_a_bug_is_one_line_too_and_says_how_to_see_more(monkeypatch: pytest.MonkeyPatch, zcluster: Callable[..., Any]) -> None:
    failing(monkeypatch, KeyError("x"))
    ran = zcluster()
    assert ran.code == 1
    assert ran.err.startswith("zcluster: error: unexpected KeyError: 'x' (this is a bug")
    assert ran.err.count("\n") == 1


def test_debug_shows_the_traceback(zcluster: Callable[..., Any]) -> None:
    assert "Traceback" not in zcluster("keys", "ls").err
    for words in (("--debug", "keys", "ls"), ("keys", "ls", "--debug")):
        ran = zcluster(*words)
        assert ran.code == 2
        assert "Traceback" in ran.err
        assert ran.err.splitlines()[-1].startswith("zcluster: error: ")


@pytest.mark.parametrize("words", [
    ("worker", "{}"),
    ("nodes", "-o", "json", "{}"),
    ("--debug", "worker", "{}"),
    ("keys", "join", "{}", "{}"),
    ("keys", "join", "--name", "{}", "--join={}"),
    ("{}",),
    ("token", "{}"),
    ("check", "{}"),
    ("agent", "--simulate", "{}"),
])  # fmt: skip
def test_a_token_in_a_wrong_place_is_not_repeated(words: tuple[str, ...], zcluster: Callable[..., Any]) -> None:
    ran = zcluster(*(word.format(TOKEN) for word in words))
    assert ran.code == errors.EXIT_USAGE
    assert TOKEN[5:] not in ran.out + ran.err
    assert "a join token stands where none is taken" in ran.err or "--join" in words[-1]
    assert "zcluster worker --join TOKEN" in ran.err or "--join" in words[-1]


def test_a_token_that_is_a_value_is_not_repeated(tmp_path: Path, zcluster: Callable[..., Any]) -> None:
    for words in ("token revoke", "nodes --context", "keys show", "worker --name"):
        ran = zcluster(*words.split(), TOKEN, "--home", str(tmp_path), "--debug")
        assert ran.code != errors.EXIT_OK
        assert TOKEN[5:] not in ran.out + ran.err
    ran = zcluster("check", TOKEN, "--format", "nagios")
    assert (ran.code, TOKEN[5:] in ran.out + ran.err) == (3, False)


def test_ctrl_c_is_130_and_silent(monkeypatch: pytest.MonkeyPatch, zcluster: Callable[..., Any]) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    ran = zcluster()
    assert (ran.code, ran.out, ran.err) == (130, "", "")


def test_a_closed_pipe_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "zcluster", "config", "show"]
    try:
        done = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_home_may_stand_before_or_after_the_command(tmp_path: Path, zcluster: Callable[..., Any]) -> None:
    home = str(tmp_path / "elsewhere")
    for words in (("--home", home, "keys", "ls"), ("keys", "ls", "--home", home)):
        assert home in zcluster(*words).err
