"""``zcluster context``: clusters by name, and which one commands ask.

Rules kept here:
- what is added is looked at first: a home or key file that a client cannot use is refused now, not at the first command;
- a choice that the environment overrides is told as such, on stderr.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click

from zcluster.cli.connect import reach
from zcluster.cli.contextfile import DEFAULT, Contexts, Kept, change_contexts, check_name, checked, contexts_file, read_contexts
from zcluster.cli.groups import Group
from zcluster.cli.options import FILE, Connection, State, common_options, completes, output_option
from zcluster.cli.output import Column, cell, emit_list, emit_object, pairs, put, say
from zcluster.errors import Conflict

COLUMNS = (
    Column("current", "CURRENT"),
    Column("name", "NAME"),
    Column("home", "HOME"),
    Column("key", "KEY"),
    Column("master", "MASTER", text=lambda value: cell(",".join(value)) if value else "-"),
)


@click.group(cls=Group)
@common_options
def context() -> None:
    """Name clusters, and choose the one that commands ask.

    A flag (--home, --key, --master) goes before --context, that before ZCLUSTER_HOME, ZCLUSTER_KEY and ZCLUSTER_CONTEXT, these
    before the current context, and that before the default home.
    """


@context.command()
@click.argument("name")
@click.option("--key", type=FILE, metavar="FILE", help="Key file of a client or an administrator.")
@click.option("--master", multiple=True, metavar="[NAME@]tcp://HOST:PORT", help="Address, not the key file's (repeatable).")
@click.option("--use", is_flag=True, help="Make it the current context.")
@click.option("--replace", "over", is_flag=True, help="Replace a context of this name.")
@output_option
@common_options
@click.pass_obj
def add(state: State, name: str, key: Path | None, master: tuple[str, ...], use: bool, over: bool) -> None:
    """Remember a cluster: --key FILE, or --home DIR of a master on this machine."""
    from zcluster.clients.async_client import CLIENT_ROLES
    from zcluster.config import Home, absolute
    from zcluster.keys import KeyFile

    check_name(name)
    home = absolute(state.home) if state.home is not None else None
    kept = checked(Kept(name, home, absolute(key) if key is not None else None, master))
    path = kept.key or Home.of(kept.home or Path()).admin_key
    KeyFile.read(path).check_user(path, "client", CLIENT_ROLES)

    def edit(contexts: Contexts) -> Contexts:
        if name in contexts.by_name and not over:
            raise Conflict(f"there is a context {name!r} already", hint="--replace, or another name")
        return Contexts({**contexts.by_name, name: kept}, name if use else contexts.current)

    made = change_contexts(contexts_file(), edit)
    emit_object(_row(kept, made), state.output, lines=[f"context {name} added"])
    _warn(made, use)


@context.command("ls")
@output_option
@common_options
@click.pass_obj
def ls(state: State) -> None:
    """List the contexts."""
    contexts = read_contexts(contexts_file())
    rows = [_row(kept, contexts) for _, kept in sorted(contexts.by_name.items())]
    emit_list(rows, COLUMNS, state.output)


@context.command()
@click.argument("name", shell_complete=completes("context_names"))
@common_options
def use(name: str) -> None:
    """Let commands ask this cluster from now on; "default" is the default home again."""

    def edit(contexts: Contexts) -> Contexts:
        return replace(contexts, current="" if name == DEFAULT else contexts.get(name).name)

    _warn(change_contexts(contexts_file(), edit), True)
    put(f"context {name} is used")


@context.command()
@click.argument("name", shell_complete=completes("context_names"))
@common_options
def rm(name: str) -> None:
    """Forget a context; its key file and home stay."""

    def edit(contexts: Contexts) -> Contexts:
        contexts.get(name)
        left = {each: kept for each, kept in contexts.by_name.items() if each != name}
        return Contexts(left, "" if contexts.current == name else contexts.current)

    change_contexts(contexts_file(), edit)
    put(f"context {name} removed")


@context.command()
@click.argument("name", required=False, shell_complete=completes("context_names"))
@output_option
@common_options
@click.pass_obj
def show(state: State, name: str | None) -> None:
    """Show a context, or without a name how commands reach their cluster now."""
    from zcluster.config import default_home

    contexts = read_contexts(contexts_file())
    if name is not None:
        row = _row(contexts.get(name), contexts)
    else:
        found = reach(state, Connection())
        key = found.key or (os.environ.get("ZCLUSTER_KEY") if found.home is None else None)
        home = found.home or (None if key else default_home())
        row = {
            "name": found.context or DEFAULT, "current": True, "home": _text(home), "key": _text(key),
            "master": list(found.masters),
        }  # fmt: skip
    emit_object(row, state.output, lines=pairs([(field, row[field] or None) for field in ("name", "home", "key", "master")]))


def _row(kept: Kept, contexts: Contexts) -> dict[str, object]:
    return {
        "name": kept.name, "current": kept.name == contexts.current, "home": _text(kept.home), "key": _text(kept.key),
        "master": list(kept.masters),
    }  # fmt: skip


def _text(path: Path | str | None) -> str | None:
    return None if path is None else str(path)


def _warn(contexts: Contexts, chosen: bool) -> None:
    """Say what goes before the context that was chosen."""
    if not chosen or not contexts.current:
        return
    for variable in ("ZCLUSTER_HOME", "ZCLUSTER_KEY", "ZCLUSTER_CONTEXT"):
        if os.environ.get(variable):
            say(f"zcluster: {variable} is set: it goes before the current context")
