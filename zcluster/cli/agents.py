"""``zcluster agents``: what is known of the monitored hosts, and what can be done about them.

Rules kept here:
- a list is a page: ``--limit`` rows, and the cursor of the next page on stderr (in the data for JSON and YAML);
- ``import`` reads a line at a time, tells each bad line by its number on stderr, keeps the good ones, and ends with 3 when
  some were bad; nothing of a file has to fit into memory;
- ``rm`` of more than one agent by a filter asks first, unless ``--yes``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zcluster.cli.connect import ask, connection
from zcluster.cli.groups import Group
from zcluster.cli.options import (
    State,
    completes,
    shared_options,
)
from zcluster.cli.output import Column, cell, counted, emit_list, emit_object, pairs, put, say, seconds
from zcluster.errors import EXIT_OK, EXIT_PARTIAL, NoSuchAgent, UsageError

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

T = TypeVar("T")

MAX_LINE_BYTES = 1_048_576
LINES_PER_CALL = 2_000
BYTES_PER_CALL = 4_194_304
COLOURS = {"active": "green", "silent": "yellow", "disconnected": "red"}


def _system(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "-"
    return " ".join(cell(value[key]) for key in ("platform", "version") if value.get(key)) or "-"


def _ago(value: Any) -> str:
    return seconds(max(0.0, time.time() - value)) if isinstance(value, int | float) and value else "-"


def _comma(value: Any) -> str:
    return ",".join(map(cell, value)) if isinstance(value, list) else cell(value)


def _labels(value: Any) -> str:
    if not isinstance(value, Mapping):
        return cell(value)
    return ",".join(f"{cell(key)}={cell(text)}" for key, text in value.items()) or "-"


AGENT_COLUMNS = (
    Column("id", "ID"),
    Column("name", "NAME", wide=True),
    Column("status", "STATUS", colours=COLOURS),
    Column("node", "NODE"),
    Column("address", "ADDRESS", wide=True),
    Column("version", "VERSION"),
    Column("os", "OS", text=_system),
    Column("last_seen", "SEEN", right=True, text=_ago),
    Column("groups", "GROUPS", text=_comma),
    Column("labels", "LABELS", wide=True, text=_labels),
)
TEXTS: Mapping[str, Callable[[Any], str]] = {
    "os": _system, "last_seen": _ago, "first_seen": _ago, "groups": _comma, "labels": _labels,
}  # fmt: skip


filter_option = click.option(
    "--filter", "where", default="", metavar="EXPRESSION",
    help="Such as 'status=active and (labels.site=ber or not name~web-*)'. Operators: = != < <= > >= and ~ (a glob).",
)  # fmt: skip


@click.group(cls=Group)
def agents() -> None:
    """List, show, count, import, move and remove agents."""


@agents.command("ls")
@filter_option
@click.option("--select", default="", metavar="FIELDS", help="Fields to show, such as id,status,os.platform,labels.site.")
@click.option("--sort", default="id", metavar="FIELD", help="Sort by a field; -FIELD sorts downwards. [default: id]")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many agents a page has.")
@click.option("--cursor", default="", metavar="TEXT", help="Where the page begins: the cursor that the page before told.")
@click.option("--all", "everything", is_flag=True, help="All pages, one after the other.")
@shared_options
@click.pass_obj
def list_agents(
    state: State, where: str, select: str, sort: str, limit: int, cursor: str, everything: bool, timeout: float | None,
    key: Path | None, master: tuple[str, ...],
) -> None:  # fmt: skip
    """List agents."""
    fields = [field.strip() for field in select.split(",") if field.strip()] or None
    columns = AGENT_COLUMNS if fields is None else [Column(name, name.upper(), text=TEXTS.get(name, cell)) for name in fields]

    async def question(c: AsyncClient) -> dict[str, Any]:
        page = await c.agents.list(where, select=fields, sort=sort, limit=limit, cursor=cursor, count=True)
        while everything and page["next"] is not None:
            more = await c.agents.list(where, select=fields, sort=sort, limit=10_000, cursor=page["next"])
            page["items"] += more["items"]
            page["next"] = more["next"]
        return page

    page = ask(state, connection(key, master, timeout), question)
    emit_list(page["items"], columns, state.output, name_key="id", total=page["total"], next_cursor=page["next"])
    if page["next"] is not None and state.output not in ("json", "yaml"):
        say(f"zcluster: {counted(page['total'], 'agent')} in all; the next page: --cursor {page['next']}")


@agents.command()
@filter_option
@click.option("--by", default="", metavar="FIELD", help="Count by the values of a field, such as status, node or version.")
@shared_options
@click.pass_obj
def count(state: State, where: str, by: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Count agents."""
    found = ask(state, connection(key, master, timeout), lambda c: c.agents.count(where, by=by))
    lines = pairs([*found["by"].items(), ("total", found["total"])]) if by else [str(found["total"])]
    emit_object(found, state.output, lines=lines, name_key="total")


@agents.command()
@click.argument("id", shell_complete=completes("agent_ids"))
@shared_options
@click.pass_obj
def show(state: State, id: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Show all that is known of one agent."""
    row = ask(state, connection(key, master, timeout), lambda c: c.agents.show(id))
    emit_object(row, state.output, lines=pairs(_account(row)), name_key="id")


@agents.command("rm")
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=completes("agent_ids"))
@filter_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared_options
@click.pass_obj
def remove(
    state: State, ids: tuple[str, ...], where: str, yes: bool, timeout: float | None, key: Path | None, master: tuple[str, ...]
) -> None:
    """Remove agents: their sessions end, and they are listed as removed until they come back.

    An agent whose key is still in the ring comes back when it connects again: `zcluster keys revoke` keeps it out.
    """
    if bool(ids) == bool(where):
        raise UsageError("name agents, or give a --filter", hint="zcluster agents rm ID... | --filter EXPRESSION")
    options = connection(key, master, timeout)
    if where and not yes:
        found = ask(state, options, lambda c: c.agents.count(where))["total"]
        if not found:
            raise NoSuchAgent("no agent matches", hint="`zcluster agents ls` lists the agents")
        if not sys.stdin.isatty():
            raise UsageError(f"the filter means {counted(found, 'agent')}", hint="--yes removes them")
        click.confirm(f"Remove {counted(found, 'agent')}?", abort=True, err=True)
    done = ask(state, options, lambda c: c.agents.remove(ids, filter=where))
    if state.output == "name":
        for id_ in done["removed"]:
            put(cell(id_))
    else:
        emit_object(done, state.output, lines=[f"removed: {len(done['removed'])}"])


@agents.command()
@click.argument("id", shell_complete=completes("agent_ids"))
@click.argument("node", shell_complete=completes("node_names"))
@shared_options
@click.pass_obj
def move(state: State, id: str, node: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Have the agent ID connect to NODE; one that only reports are known of belongs to NODE from then on."""
    done = ask(state, connection(key, master, timeout), lambda c: c.agents.move(id, node))
    text = f"{cell(id)}: {'moves to' if done['moved'] else 'is at'} {cell(node)}"
    emit_object(done, state.output, lines=[text], name_key="id")


@agents.command("import")
@click.argument("file", type=click.File("rb", lazy=False), metavar="FILE.ndjson")
@click.option(
    "--node", default="master", show_default=True, metavar="NAME", shell_complete=completes("node_names"),
    help="The node that they belong to from then on.",
)  # fmt: skip
@shared_options
@click.pass_obj
def import_agents(
    state: State, file: Any, node: str, timeout: float | None, key: Path | None, master: tuple[str, ...]
) -> int:
    """Import agents at a node: one JSON object a line, with id and any of name, address, version, os, status, labels, metrics.

    Each bad line is told by its number, and the good ones are kept. "-" reads from stdin. Exit code 3 when lines were bad.
    """
    told = {"taken": 0, "refused": 0}

    async def question(c: AsyncClient) -> None:
        for numbers, rows, bad in _batches(file):
            told["refused"] += len(bad)
            try:
                if rows:
                    answer = await c.agents.report(rows, node=node)
                    bad += [(numbers[each["index"]], cell(each["message"])) for each in answer["refused"]]
                    told["taken"] += answer["taken"]
                    told["refused"] += answer["refused_count"]
            finally:  # what is known is told, though the cluster cannot be asked any more
                for number, reason in sorted(bad):
                    say(f"zcluster: line {number}: {reason}")

    ask(state, connection(key, master, timeout), question)
    emit_object(told, state.output, lines=[f"taken: {told['taken']}, refused: {told['refused']}"], name_key="taken")
    return EXIT_PARTIAL if told["refused"] else EXIT_OK


def _batches(file: Any) -> Iterator[tuple[list[int], list[dict[str, Any]], list[tuple[int, str]]]]:
    """Line numbers and rows of each call, and the lines that are none."""
    numbers: list[int] = []
    rows: list[dict[str, Any]] = []
    bad: list[tuple[int, str]] = []
    number, waiting = 0, 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            bad.append((number, f"longer than {MAX_LINE_BYTES} bytes"))
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            continue
        if not line.strip():
            continue
        try:
            rows.append(_row(line))
        except (ValueError, TypeError, RecursionError) as error:
            bad.append((number, f"no JSON object: {cell(str(error))}"))
        else:
            numbers.append(number)
            waiting += len(line)
        if len(rows) >= LINES_PER_CALL or waiting >= BYTES_PER_CALL or len(bad) >= LINES_PER_CALL:
            yield numbers, rows, bad
            numbers, rows, bad, waiting = [], [], [], 0
    yield numbers, rows, bad


def _row(line: bytes) -> dict[str, Any]:
    """The row of a line, if it can be sent: one that cannot must not keep back the others of its call.

    Raises:
        ValueError, TypeError, RecursionError: it is none.
    """
    import json

    import orjson

    from zcluster.clients.checks import not_finite

    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"it is of type {type(row).__name__}")
    orjson.dumps(row)
    number = not_finite(row)
    if number is not None:
        raise ValueError(f"{number} is no number of JSON")
    return row


def _account(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a person reads of an agent."""
    seen = {"first_seen", "last_seen"}
    out: list[tuple[str, Any]] = []
    for name, value in row.items():
        if name in seen:
            out.append((name.replace("_", " "), f"{_ago(value)} ago" if value else "never"))
        elif name == "groups":
            out.append((name, _comma(value)))
        elif name in ("labels", "os", "metrics") and isinstance(value, Mapping):
            out += [(f"{name}.{key}", each) for key, each in value.items()] or [(name, None)]
        else:
            out.append((name, value))
    return out
