"""``zcluster groups``: which groups there are, which agent is in which, and what they share.

Rules kept here:
- agents are named on the command line, in a file, or found by a filter: exactly one of these;
- what could not be done for some agents or lines is told on stderr, each with its reason, and the exit code is 3;
- ``ls``, ``show`` and ``of`` answer from the copy of ``--node``, and then say how old it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zcluster.cli.connect import ask, connection
from zcluster.cli.groups import Group
from zcluster.cli.options import (
    FILE,
    Connection,
    F,
    State,
    completes,
    shared_options,
)
from zcluster.cli.output import GAP, Column, cell, counted, emit_list, emit_object, pairs, put, say, seconds
from zcluster.cli.sync_views import moment
from zcluster.errors import EXIT_OK, EXIT_PARTIAL, TooLarge, UsageError

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

T = TypeVar("T")

MAX_FILE_BYTES = 524_288
MAX_LINE_CHARS = 8_192
MAX_TOLD = 20
"""Reasons that are printed; the rest is counted."""

COLUMNS = (
    Column("name", "NAME"),
    Column("agents", "AGENTS", right=True),
    Column("files", "FILES", right=True),
    Column("comment", "COMMENT"),
    Column("by", "BY", wide=True),
)
AGE = (Column("age_s", "AGE", right=True, text=seconds), Column("revision", "REVISION", right=True, wide=True))
FILE_COLUMNS = (Column("name", "NAME"), Column("size", "BYTES", right=True), Column("digest", "DIGEST", wide=True))


def agents_options(command: F) -> F:
    """How agents are given beside their ids: --filter and --from-file."""
    command = click.option(
        "--from-file", type=FILE, metavar="FILE", help="Agents from FILE (- for stdin), one a line; # begins a comment."
    )(command)
    return click.option(
        "--filter",
        "where",
        default="",
        metavar="EXPRESSION",
        help="All agents that this finds: 'labels.site=ber and version<4.9'.",
    )(command)


new_option = click.option("--new", is_flag=True, help="Agents that nobody knows yet are made known, as never seen.")
node_option = click.option(
    "--node",
    default="master",
    metavar="NAME",
    shell_complete=completes("node_names"),
    help="Answer from the copy of this node. [default: the master, which has the truth]",
)


@click.group(cls=Group)
def groups() -> None:
    """Make groups, put agents into them, share files with them."""


@groups.command("ls")
@node_option
@shared_options
@click.pass_obj
def list_groups(state: State, node: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """List the groups, with how many agents each has."""
    rows = ask(state, connection(key, master, timeout), lambda c: c.groups.list(node=node))
    emit_list(rows, (*COLUMNS, *(AGE if any("age_s" in row for row in rows) else ())), state.output)


@groups.command()
@click.argument("group", shell_complete=completes("group_names"))
@node_option
@shared_options
@click.pass_obj
def show(state: State, group: str, node: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Show a group: its agents' number, its files, its configuration."""
    row = ask(state, connection(key, master, timeout), lambda c: c.groups.show(group, node=node))
    emit_object(row, state.output, lines=_account(row))


@groups.command()
@click.argument("agent", shell_complete=completes("agent_ids"))
@node_option
@shared_options
@click.pass_obj
def of(state: State, agent: str, node: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Show the groups of an agent, in their order."""
    row = ask(state, connection(key, master, timeout), lambda c: c.groups.of(agent, node=node))
    if state.output == "name":
        for name in row["groups"]:
            put(cell(name))
    else:
        emit_object(row, state.output, lines=[cell(",".join(row["groups"]))], name_key="agent")


@groups.command()
@click.argument("group", nargs=-1, required=True)
@click.option("--comment", default="", metavar="TEXT", help="What the group is for, in one line.")
@shared_options
@click.pass_obj
def create(
    state: State, group: tuple[str, ...], comment: str, timeout: float | None, key: Path | None, master: tuple[str, ...]
) -> None:
    """Make groups.

    A name has 1 to 64 letters, digits, '.', '_' and '-', and begins with none of '.' and '-'. It needs an admin key, as
    everything here that changes something.
    """

    async def make(c: AsyncClient) -> list[dict[str, Any]]:
        return [await c.groups.create(name, comment=comment) for name in group]

    emit_list(ask(state, connection(key, master, timeout), make), COLUMNS, state.output)


@groups.command("rm")
@click.argument("group", nargs=-1, required=True, shell_complete=completes("group_names"))
@shared_options
@click.pass_obj
def remove_groups(state: State, group: tuple[str, ...], timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Remove groups: their agents leave them, their configuration and files go."""

    async def gone(c: AsyncClient) -> list[dict[str, Any]]:
        return [await c.groups.delete(name, timeout=timeout) for name in group]

    rows = ask(state, connection(key, master, timeout), gone)
    emit_list(rows, (Column("name", "REMOVED"), Column("agents", "AGENTS", right=True)), state.output)


@groups.command()
@click.argument("group", shell_complete=completes("group_names"))
@click.argument("agent", nargs=-1, shell_complete=completes("agent_ids"))
@agents_options
@new_option
@shared_options
@click.pass_obj
def add(
    state: State, group: str, agent: tuple[str, ...], where: str, from_file: Path | None, new: bool, timeout: float | None,
    key: Path | None, master: tuple[str, ...],
) -> int:  # fmt: skip
    """Put agents into GROUP, after the groups that they are in.

    With --from-file, bad lines are told by their number and the others are done; exit code 3 then.
    """
    _check_given(agent, where, from_file)
    options = connection(key, master, timeout)
    if from_file:
        return _bulk(state, options, from_file, op="add", group=group, new=new)
    answer = ask(state, options, lambda c: c.groups.add(group, agent, filter=where, new=new, timeout=timeout))
    return _emit_edit(answer, state.output)


@groups.command("remove")
@click.argument("group", shell_complete=completes("group_names"))
@click.argument("agent", nargs=-1, shell_complete=completes("agent_ids"))
@agents_options
@shared_options
@click.pass_obj
def take(
    state: State, group: str, agent: tuple[str, ...], where: str, from_file: Path | None, timeout: float | None,
    key: Path | None, master: tuple[str, ...],
) -> int:  # fmt: skip
    """Take agents out of GROUP; who is in no other is in default.

    With --from-file, bad lines are told by their number and the others are done; exit code 3 then.
    """
    _check_given(agent, where, from_file)
    options = connection(key, master, timeout)
    if from_file:
        return _bulk(state, options, from_file, op="remove", group=group)
    answer = ask(state, options, lambda c: c.groups.remove(group, agent, filter=where, timeout=timeout))
    return _emit_edit(answer, state.output)


@groups.command("set")
@click.argument("words", nargs=-1, metavar="AGENT GROUP[,GROUP...]", shell_complete=completes("agent_then_groups"))
@click.option("--filter", "where", default="", metavar="EXPRESSION", help="All agents that this finds, instead of AGENT.")
@click.option(
    "--from-file", type=FILE, metavar="FILE", help="Lines 'AGENT GROUP[,GROUP...]' from FILE (- for stdin); # begins a comment."
)
@new_option
@shared_options
@click.pass_obj
def set_groups(
    state: State, words: tuple[str, ...], where: str, from_file: Path | None, new: bool, timeout: float | None,
    key: Path | None, master: tuple[str, ...],
) -> int:  # fmt: skip
    """Let an agent be in these groups and no others, in this order: later groups win.

    With --from-file, bad lines are told by their number and the others are done; exit code 3 then.
    """
    options = connection(key, master, timeout)
    wanted = 0 if from_file else 1 if where else 2
    if len(words) != wanted or (where and from_file):
        raise UsageError(
            "give AGENT GROUP[,GROUP...], or --filter EXPRESSION GROUP[,GROUP...], or --from-file FILE",
            hint="such as: zcluster groups set 7001 web,berlin",
        )
    if from_file:
        return _bulk(state, options, from_file, new=new)
    names = words[-1].split(",")
    ids = words[:-1]
    answer = ask(state, options, lambda c: c.groups.set(names, ids, filter=where, new=new, timeout=timeout))
    return _emit_edit(answer, state.output)


@groups.command()
@click.argument("group", shell_complete=completes("group_names"))
@click.argument("action", type=click.Choice(["ls", "put", "get", "rm"]))
@click.argument("words", nargs=-1, metavar="[FILE|NAME...]")
@click.option("--name", default="", metavar="NAME", help="With put: the file's name for the agents. [default: its own]")
@click.option("--out", type=FILE, metavar="FILE", help="With get: write it there. [default: stdout]")
@shared_options
@click.pass_obj
def files(
    state: State, group: str, action: str, words: tuple[str, ...], name: str, out: Path | None, timeout: float | None,
    key: Path | None, master: tuple[str, ...],
) -> None:  # fmt: skip
    """Share files with the agents of GROUP: ls; put FILE; get NAME; rm NAME.

    Each file is at most 512 KiB; what is larger is for a tree.
    """
    options = connection(key, master, timeout)
    if len(words) != (0 if action == "ls" else 1) or (name and action != "put") or (out and action != "get"):
        raise UsageError("groups files GROUP ls | put FILE [--name NAME] | get NAME [--out FILE] | rm NAME")
    match action:
        case "ls":
            emit_list(ask(state, options, lambda c: c.groups.files(group)), FILE_COLUMNS, state.output)
        case "put":
            data, given = _content(Path(words[0])), name or Path(words[0]).name
            _emit_file(ask(state, options, lambda c: c.groups.put_file(group, given, data)), "shared", state.output)
        case "rm":
            _emit_file(ask(state, options, lambda c: c.groups.remove_file(group, words[0])), "removed", state.output)
        case _:
            data = ask(state, options, lambda c: c.groups.get_file(group, words[0]))
            if out is not None:
                out.write_bytes(data)
            else:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()


def _account(row: Mapping[str, Any]) -> list[str]:
    """What a person reads of a group."""
    out: list[tuple[str, Any]] = [(name, value) for name, value in row.items() if name not in ("created_s", "files", "config")]
    out.append(("created", moment(row.get("created_s"))))
    out += [("file", f"{cell(each.get('name'))}{GAP}{cell(each.get('size'))} bytes") for each in row.get("files") or ()]
    return pairs([*out, ("config", row.get("config") or {})])


def _check_given(agents: Sequence[str], where: str, from_file: Path | None) -> None:
    if bool(agents) + bool(where) + bool(from_file) != 1:
        raise UsageError("name agents, or give --filter, or --from-file", hint="exactly one of the three")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file, read as they are wanted; of one that is too long only so much that it is refused."""
    with click.open_file(str(path), encoding="utf-8", errors="replace") as file:
        while line := file.readline(MAX_LINE_CHARS + 2):
            whole = line.endswith("\n")
            yield line.rstrip("\n")
            while not whole and (rest := file.readline(MAX_LINE_CHARS)):
                whole = rest.endswith("\n")


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise TooLarge(f"{path} is too large to be shared", hint=f"at most {MAX_FILE_BYTES} bytes; larger files are for a tree")
    return data


def _emit_edit(answer: Mapping[str, Any], output: str | None) -> int:
    emit_object(answer, output, lines=[_done(answer)], name_key="changed")
    told = [f"{each['agent']}: {each['reason']}" for each in answer["refused"]]
    return _tell_refused(told, int(answer["refused_count"]))


def _bulk(state: State, options: Connection, path: Path, *, op: str = "set", group: str = "", new: bool = False) -> int:
    lines = _lines(path)
    answer = ask(state, options, lambda c: c.groups.bulk(lines, op=op, group=group, new=new, timeout=options.timeout_s))
    emit_object(answer, state.output, lines=[_done(answer)], name_key="changed")
    return _tell_refused([f"line {number}: {why}" for number, why in answer["bad"]], int(answer["bad_count"]))


def _done(answer: Mapping[str, Any]) -> str:
    same = int(answer["same"])
    return f"{counted(int(answer['changed']), 'agent')} changed, {same} {'was' if same == 1 else 'were'} so already"


def _tell_refused(told: Sequence[str], count: int) -> int:
    for line in told[:MAX_TOLD]:
        say(f"zcluster: {cell(line)}")
    if count > MAX_TOLD:
        say(f"zcluster: and {count - MAX_TOLD} more")
    return EXIT_PARTIAL if count else EXIT_OK


def _emit_file(row: Mapping[str, Any], done: str, output: str | None) -> None:
    emit_object(row, output, lines=[f"{done}: {cell(row.get('name'))}, {cell(row.get('size'))} bytes"])
