"""``zcluster events``: what happened in the cluster, and what happens.

Rules kept here:
- without ``--since`` the newest, with it everything from there; ``--follow`` goes on until Ctrl-C, over lost connections too;
- the sequence number of the last event that was printed is where ``--since`` goes on;
- a stream has no end to wrap a list around: with ``--follow`` json, ndjson and yaml are one JSON object a line.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.connect import connection, open_client, run_async
from zcluster.cli.options import DURATION, State, common_options, completes, connection_options, output_option, timeout_option
from zcluster.cli.output import Column, TablePrinter, cell, emit_list, json_text, put

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

NEWEST = 50
"""How many are shown when nothing says how many."""
ABOUT = ("name", "agent", "node", "id", "worker", "group", "tree", "scope")
"""Fields that say what an event is about, the first that is there."""
COLOURS = {
    "join": "green", "back": "green", "silent": "yellow", "dead": "red", "left": "cyan", "key_revoked": "yellow", "missed": "red",
}  # fmt: skip


Since = tuple[int | None, float | None]
"""Behind which sequence, or from how long ago."""


def parse_since(ctx: click.Context, param: click.Parameter, text: str | None) -> Since:
    """What ``--since`` means: a plain number is a sequence, a duration a time."""
    if text is None:
        return None, None
    if text.isdigit() and text.isascii():
        return int(text[:20]), None
    return None, DURATION.convert(text, param, ctx)


def about(event: Mapping[str, Any]) -> str:
    """What the event is about: the name of a node, an agent, a key, a tree."""
    fields = event.get("fields")
    found = next((fields[key] for key in ABOUT if fields.get(key)), None) if isinstance(fields, Mapping) else None
    return cell(found)


def details(event: Mapping[str, Any]) -> str:
    """The rest of what it says, as ``key=value``."""
    fields = event.get("fields")
    if not isinstance(fields, Mapping):
        return "-"
    subject = next((key for key in ABOUT if fields.get(key)), None)
    shown = (f"{cell(key)}={cell(value)}" for key, value in fields.items() if key != subject and value not in (None, ""))
    return " ".join(shown) or "-"


def moment(value: Any) -> str:
    """A Unix time in local time."""
    if not isinstance(value, int | float):
        return cell(value)
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))


def clock(value: Any) -> str:
    """The time of day of a Unix time."""
    return moment(value)[11:] or "-"


EVENT_COLUMNS = (
    Column("at_s", "TIME", text=moment, width=19),
    Column("sequence", "SEQUENCE", right=True),
    Column("level", "LEVEL", wide=True, width=7),
    Column("name", "EVENT", colours=COLOURS, width=14),
    Column("about", "ABOUT", width=12),
    Column("details", "DETAILS"),
)


def as_row(event: Mapping[str, Any]) -> dict[str, Any]:
    """``event`` with what the columns show."""
    return {**event, "about": about(event), "details": details(event)}


@click.command()
@click.option(
    "--since",
    metavar="1h|SEQUENCE",
    callback=parse_since,
    help="From so long ago, or behind this event. [default: the newest; with --follow what happens from now on]",
)
@click.option("-f", "--follow", is_flag=True, help="Stay and show each event when it happens, until Ctrl-C.")
@click.option(
    "--name", "names", multiple=True, metavar="GLOB", shell_complete=completes("event_names"),
    help="Only events of this name: dead, 'sync_*' (repeatable).",
)
@click.option("--limit", type=click.IntRange(1, 1_000_000), metavar="N", help="End after so many. [default: the newest 50]")
@timeout_option
@connection_options
@output_option
@common_options
@click.pass_obj
def events(
    state: State, since: Since, follow: bool, names: tuple[str, ...], limit: int | None,
    timeout: float | None, key: Path | None, master: tuple[str, ...],
) -> None:  # fmt: skip
    """Show what happened in the cluster, or follow what happens.

    join, back, silent, dead and left are nodes; key_admitted and key_revoked are keys; config_applied, group_changed, agent_… and
    sync events are told with what they are about. Each has a sequence number: --since NUMBER goes on behind it.
    """
    client = open_client(state, connection(key, master, timeout))
    after, ago_s = since
    asked = {
        "after": after, "since_s": None if ago_s is None else time.time() - ago_s, "names": names,
        "limit": limit if follow or since != (None, None) else limit or NEWEST,
    }  # fmt: skip
    run_async(_follow(client, state.output, asked) if follow else _list(client, state.output, asked))


async def _list(client: AsyncClient, output: str | None, asked: dict[str, Any]) -> None:
    async with client as c:
        found = [event async for event in c.events(**asked, follow=False)]
    rows = found if output in ("json", "ndjson", "yaml") else [as_row(event) for event in found]
    emit_list(rows, EVENT_COLUMNS, output)


async def _follow(client: AsyncClient, output: str | None, asked: dict[str, Any]) -> None:
    printer = TablePrinter(EVENT_COLUMNS, wide=output == "wide")
    async with client as c:
        async for _ in c.events(limit=1, follow=False):
            break  # following waits for a master that is away; one that is not there at the beginning is an error, as everywhere
        if output in (None, "table", "wide"):
            put(printer.header())
        async for event in c.events(**asked, follow=True):
            if output in ("json", "ndjson", "yaml"):
                put(json_text(event))
            elif output == "name":
                put(cell(event.get("name")))
            else:
                put(printer.row(as_row(event)))
