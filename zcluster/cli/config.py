"""``zcluster config``: the settings of the file (show, validate), and the live configuration of the running cluster (the others).

Rules kept here:
- ``show`` and ``validate`` ask nobody: they read the home's file and the environment; everything else asks the master;
- values are given as one JSON object, as ``name=value`` words, or on stdin (``-``); the master checks them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zcluster.cli.connect import ask, connection, open_client, run_async
from zcluster.cli.groups import Group
from zcluster.cli.options import (
    FILE,
    State,
    common_options,
    completes,
    output_option,
    shared_options,
)
from zcluster.cli.output import Column, cell, emit_list, emit_object, json_text, put, say, seconds
from zcluster.errors import ConfigError

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

T = TypeVar("T")
MAX_STDIN_BYTES = 131_072

NAME = Column("name", "NAME")
VALUE = Column("value", "VALUE", text=lambda value: _value(value))
ORIGIN = Column("origin", "ORIGIN")
DOC = Column("doc", "MEANING", wide=True)


def _ago(value: object) -> str:
    return seconds(max(0.0, time.time() - value)) if isinstance(value, int | float) else "-"


SCOPE_COLUMNS = (
    Column("scope", "SCOPE"),
    Column("version", "VERSION", right=True),
    Column("at_s", "AGO", right=True, text=_ago),
    Column("by", "BY"),
    Column("values", "VALUES"),
)


def _value(value: object) -> str:
    """A value as it stands in the table; of a tree, what it says that is not the default."""
    if not isinstance(value, dict):
        return '""' if value == "" else cell(value)
    from zcluster.config import TREE_KEYS, toml_value

    said = (f"{key} = {toml_value(each)}" for key, each in value.items() if each != TREE_KEYS[key].default and key != "name")
    return cell(", ".join(said))


@click.group(cls=Group)
def config() -> None:
    """Show where settings come from; change the live configuration."""


@config.command()
@click.option("--origin", is_flag=True, help="Also print where each value is from: flag, environment, file and line, default.")
@output_option
@common_options
@click.pass_obj
def show(state: State, origin: bool) -> None:
    """Show every setting with its value; -o wide adds what it means."""
    from zcluster.config import load, rows

    items = [row._asdict() for row in rows(load(state.home))]
    if not origin:
        items = [{key: value for key, value in item.items() if key != "origin"} for item in items]
    emit_list(items, [NAME, VALUE, *([ORIGIN] if origin else []), DOC], state.output)


@config.command()
@click.argument("file", required=False, type=FILE)
@common_options
@click.pass_obj
def validate(state: State, file: Path | None) -> None:
    """Check FILE, or the home's configuration together with the environment; exit code 2 when it is not valid."""
    from zcluster.config import Home, load

    if file is None:
        loaded = load(state.home)
        path = Home(loaded.home).config_file
        say(f"{path}: valid" if path.exists() else f"{path}: there is none; defaults and environment are valid")
        return
    if not file.exists():
        raise ConfigError(f"{file}: there is no such file", hint="`zcluster config validate` without FILE checks the home's")
    check_file(file)
    say(f"{file}: valid")


def check_file(file: Path) -> None:
    """Load ``file`` alone, as the configuration of a home that has nothing else.

    Raises:
        ConfigError: what is wrong with it, and in which line.
    """
    import tempfile

    from zcluster.config import Home, load

    with tempfile.TemporaryDirectory(prefix="zcluster-validate-") as directory:
        stand_in = Home(Path(directory)).config_file
        stand_in.symlink_to(file.absolute())
        try:
            load(Path(directory), environ={})
        except ConfigError as error:
            message = error.message.replace(str(stand_in), str(file)).replace(directory, "HOME")
            raise ConfigError(message, hint=error.hint) from None


# -- live configuration ------------------------------------------------------------------------------------------------


@config.command()
@click.argument("scope", default="", shell_complete=completes("scope_names"))
@click.option("--effective", is_flag=True, help="What the node, group or agent gets in the end, with what is below it.")
@shared_options
@click.pass_obj
def get(state: State, scope: str, effective: bool, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Show what is set live for SCOPE, or for all scopes.

    SCOPE is defaults, group/GROUP, node/NODE or agent/ID.
    """
    options = connection(key, master, timeout)
    if not scope:
        if effective:
            raise click.UsageError("--effective is for one scope")
        emit_list(ask(state, options, lambda c: c.config.scopes()), SCOPE_COLUMNS, state.output, name_key="scope")
        return
    row = ask(state, options, lambda c: c.config.get(scope, effective=effective))
    origin = row.get("from") or {}
    lines = [
        f"{name} = {json_text(value)}" + (f"  ({origin[name]})" if effective else "") for name, value in row["values"].items()
    ]
    emit_object(row, state.output, lines=lines, name_key="scope")
    if not lines and state.output in (None, "table", "wide"):
        say(f"zcluster: nothing is set for {scope}")
    for left in row.get("left_out") or ():
        say(f"zcluster: the extra of {cell(left)} is left out: together it would be too large")


@config.command("set")
@click.argument("scope", shell_complete=completes("scope_names"))
@click.argument("values", nargs=-1, required=True, metavar="JSON|NAME=VALUE...|-")
@shared_options
@click.pass_obj
def set_values(
    state: State, scope: str, values: tuple[str, ...], timeout: float | None, key: Path | None, master: tuple[str, ...]
) -> None:
    """Set keys of SCOPE on the running cluster; keys that are not named stay.

    zcluster config set node/worker-1 '{"interval": 2, "metrics": ["cpu", "memory"]}'

    The keys are interval (seconds), metrics (a list), log_level, and extra (an object of your own); each is replaced as a
    whole. It needs an admin key, as unset and rollback.
    """
    from zcluster.cli.arguments import arguments, read_arguments

    given = read_arguments(sys.stdin.buffer, MAX_STDIN_BYTES) if values == ("-",) else arguments(values)
    _emit_row(ask(state, connection(key, master, timeout), lambda c: c.config.set(scope, given)), state.output)


@config.command()
@click.argument("scope", shell_complete=completes("scope_names"))
@click.argument("name", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Everything that is set for the scope.")
@shared_options
@click.pass_obj
def unset(
    state: State, scope: str, name: tuple[str, ...], everything: bool, timeout: float | None, key: Path | None,
    master: tuple[str, ...],
) -> None:  # fmt: skip
    """Take keys out of SCOPE: what is below it holds again."""
    if bool(name) == everything:
        raise click.UsageError("name the keys, or say --all")
    options = connection(key, master, timeout)
    _emit_row(ask(state, options, lambda c: c.config.unset(scope, *name, everything=everything)), state.output)


@config.command()
@click.argument("scope", shell_complete=completes("scope_names"))
@shared_options
@click.pass_obj
def history(state: State, scope: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """List the versions of SCOPE, the newest first: who set what, and when."""
    rows = ask(state, connection(key, master, timeout), lambda c: c.config.history(scope))
    emit_list(rows, SCOPE_COLUMNS[1:], state.output, name_key="version")


@config.command()
@click.argument("scope", shell_complete=completes("scope_names"))
@click.argument("version", type=click.IntRange(1))
@shared_options
@click.pass_obj
def rollback(state: State, scope: str, version: int, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Set again what VERSION of SCOPE said, as a new version."""
    _emit_row(ask(state, connection(key, master, timeout), lambda c: c.config.rollback(scope, version)), state.output)


@config.command()
@click.argument("scope", default="", shell_complete=completes("scope_names"))
@shared_options
@click.pass_obj
def watch(state: State, scope: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Show what is set for SCOPE (default: for all), then every change until Ctrl-C."""
    run_async(_watch(open_client(state, connection(key, master, timeout)), scope, state.output))


async def _watch(client: AsyncClient, scope: str, output: str | None) -> None:
    async with client as c:
        async for row in c.config.watch(scope):
            if output in ("json", "ndjson", "yaml"):  # a stream has no end to wrap a list around: one JSON object a line
                put(json_text(row))
            elif output == "name":
                put(cell(row.get("scope")))
            else:
                put(_line(row))


def _line(row: Mapping[str, Any]) -> str:
    by = f" by {cell(row.get('by'))}" if row.get("by") else ""
    return f"{cell(row.get('scope'))}  version {cell(row.get('version'))}{by}  {json_text(row.get('values') or {})}"


def _emit_row(row: Mapping[str, Any], output: str | None) -> None:
    emit_object(row, output, lines=[_line(row)], name_key="scope")
