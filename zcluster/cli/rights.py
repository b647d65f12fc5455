"""``zcluster rights``: what keys may do, and why.

Rules kept here:
- the answer is the master's; on the machine of a master that does not run it is made here of the same configuration and ring, by
  the same rule, and says what only a master knows;
- a line for each thing that was looked at, and the answer last; exit code 4 when it is not allowed.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.connect import ask, connection, reach, settings
from zcluster.cli.groups import Group
from zcluster.cli.keyhome import ring_of
from zcluster.cli.options import State, common_options, completes, connection_options, output_option, timeout_option
from zcluster.cli.output import Column, cell, emit_list, emit_object, say
from zcluster.errors import EXIT_NOT_ALLOWED, EXIT_OK, NoSuchKey

if TYPE_CHECKING:
    from zcluster.cli.options import Connection
    from zcluster.config import Home

COLUMNS = (
    Column("name", "ROLE"),
    Column("base", "BASE"),
    Column("priorities", "PRIORITIES"),
    Column("functions", "FUNCTIONS"),
    Column("targets", "TARGETS"),
)
MARKS = {True: "ok", False: "no", None: "?"}


@click.group(cls=Group)
def rights() -> None:
    """Show what roles may do, and why a key may call a function or not."""


@rights.command()
@click.argument("name", shell_complete=completes("key_names"))
@click.argument("function", shell_complete=completes("function_names"))
@click.argument("target", default="any", shell_complete=completes("target_names"))
@click.option("--priority", type=click.IntRange(0, 9), default=5, show_default=True, help="The request's priority.")
@click.option("--door", is_flag=True, help="Through a worker's door, where nobody is more than a client.")
@timeout_option
@connection_options
@output_option
@common_options
@click.pass_obj
def check(
    state: State, name: str, function: str, target: str, priority: int, door: bool, timeout: float | None, key: Path | None,
    master: tuple[str, ...],
) -> int:  # fmt: skip
    """Explain whether the key NAME may call FUNCTION at TARGET.

    Where no master runs on this home, the answer comes from its zcluster.toml and its ring.

    Exit codes: 0 allowed, 4 not allowed.
    """
    if not name:  # the function would answer for the key that asks
        raise NoSuchKey("the ring has no key ''", hint="`zcluster keys ls` lists them")
    options = connection(key, master, timeout)
    home = _resting(state, options)
    if home is None:
        found = ask(state, options, lambda c: c.rights.check(function, target, name=name, priority=priority, door=door))
    else:
        found = _checked_here(state, home, name, function, target, priority, door)
    emit_object(found, state.output, lines=_lines(found))
    return EXIT_OK if found["allowed"] else EXIT_NOT_ALLOWED


@rights.command("ls")
@timeout_option
@connection_options
@output_option
@common_options
@click.pass_obj
def list_roles(state: State, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """List the roles of the configuration, with what each may do.

    The built-in roles are listed only where the configuration narrows them.
    """
    options = connection(key, master, timeout)
    if _resting(state, options) is None:
        rows = ask(state, options, lambda c: c.rights.list())
    else:
        from zcluster.brokers.roles import rows_of, rules_of
        from zcluster.core.rights import Rights

        rows = rows_of(Rights(rules_of(settings(state).settings.roles.role)))
    emit_list(rows, COLUMNS, state.output)


def _resting(state: State, options: Connection) -> Home | None:
    """The home that is meant, when it is a master's and no master runs on it."""
    from zcluster.config import Home, default_home

    found = reach(state, options)
    if found.key is not None or found.masters:
        return None
    home = Home.of(found.home or default_home())
    if not home.master_key.exists() or not home.ring_file.exists():
        return None
    try:
        with (home.run_dir / "master.lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return home  # it never ran
    except OSError:
        return None  # a master holds it
    return home


def _checked_here(
    state: State, home: Home, name: str, function: str, target: str, priority: int, door: bool
) -> dict[str, Any]:
    """The answer by the files of ``home``."""
    from zcluster.brokers.roles import check as checked
    from zcluster.brokers.roles import rules_of
    from zcluster.core.explained import Known, Question
    from zcluster.core.rights import Rights
    from zcluster.keys import may_call

    say("no master runs on this home: what nodes and their functions are there is not known")
    ring = ring_of(home)
    found = Rights(rules_of(settings(state).settings.roles.role))
    entry = ring.get(name)
    nodes = [each.name for each in ring.entries.values() if each.role in ("master", "worker")]
    own = next((each.name for each in ring.entries.values() if each.role == "master"), "")
    who = found.identity(entry.id, entry.name, entry.role)
    return checked(who, door, Question(who, function, target, priority), Known(found, nodes, own, None, may_call))


def _lines(found: Mapping[str, Any]) -> list[str]:
    lines = [f"{MARKS[step['ok']]:2}  {step['what']:8}  {cell(step['why'])}" for step in found["steps"]]
    what = "may" if found["allowed"] else "may not"
    door = " through a worker's door" if found["door"] else ""
    asked = f"{cell(found['function'])} at {cell(found['target'])} with priority {found['priority']}{door}"
    known = ", as far as is known here" if found["allowed"] and any(step["ok"] is None for step in found["steps"]) else ""
    return [*lines, f"{cell(found['name'])} {what} call {asked}{known}"]
