"""``zcluster nodes`` and ``zcluster status``: how the cluster is.

Rules kept here:
- a node's item has the fixed fields of the API; columns only choose among them;
- ``--watch`` redraws in a terminal, and prints one line per change everywhere else;
- ``status`` ends with 3 when a node is silent or dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.connect import connection, open_client, run_async
from zcluster.cli.groups import DefaultGroup
from zcluster.cli.node_acts import describe, drain, resume, rm
from zcluster.cli.options import (
    MACHINE_FORMATS,
    State,
    common_options,
    connection_options,
    output_option,
    shared_options,
    timeout_option,
)
from zcluster.cli.output import Column, cell, emit_list, emit_object, json_text, on_terminal, pairs, put, say, seconds, table
from zcluster.cli.sync_views import short, size
from zcluster.errors import EXIT_OK, EXIT_PARTIAL, MasterLost, TimedOut, Unreachable

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

REDRAW_S = 2.0
"""In a terminal, load and last-seen times are drawn again this often even when no node changes its state."""

STATES = ("joining", "ready", "silent", "dead", "left")
BAD_STATES = ("silent", "dead")
COLOURS = {"ready": "green", "ready,drained": "cyan", "joining": "cyan", "silent": "yellow", "dead": "red"}


def metric(name: str, value: str, text: Callable[[Any], str] = cell) -> Callable[[Any], str]:
    """The text of one value of the metric ``name``; ``-`` where the node does not measure it."""

    def shown(metrics: Any) -> str:
        found = metrics.get(name) if isinstance(metrics, Mapping) else None
        return text(found.get(value)) if isinstance(found, Mapping) else "-"

    return shown


def addresses(value: Any) -> str:
    """Addresses as people write them; ``-`` for none."""
    return cell(",".join(map(str, value))) if isinstance(value, Sequence) and not isinstance(value, str) else cell(value)


NODE_COLUMNS = (
    Column("name", "NAME"),
    Column("role", "ROLE"),
    Column("state", "STATE", colours=COLOURS),
    Column("version", "VERSION", wide=True),
    Column("last_seen_s", "SEEN", right=True, text=seconds),
    Column("load", "LOAD", right=True),
    Column("in_flight", "IN-FLIGHT", right=True),
    Column("cpu_percent", "CPU%", right=True),
    Column("memory_percent", "MEM%", right=True),
    Column("metrics", "DISK%", right=True, wide=True, text=metric("disk", "percent")),
    Column("metrics", "LOAD1", right=True, wide=True, text=metric("load", "m1")),
    Column("metrics", "RSS", right=True, wide=True, text=metric("process", "rss_bytes", size)),
    Column("metrics_age_s", "MEASURED", right=True, wide=True, text=seconds),
    Column("config", "CONFIG", wide=True, text=short),
    Column("agents", "AGENTS", right=True, wide=True),
    Column("door", "DOOR", wide=True, text=addresses),
)

CLEAR = "\x1b[H\x1b[2J"


watch_option = click.option("--watch", is_flag=True, help="Stay and show every change until Ctrl-C.")


@click.group(cls=DefaultGroup)
@watch_option
@shared_options
@click.pass_context
def nodes(ctx: click.Context, watch: bool, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """List the nodes; describe, drain, resume and remove them."""
    if not DefaultGroup.has_command(ctx):
        _list(ctx.ensure_object(State), watch, timeout, key, master)


@nodes.command("ls")
@watch_option
@shared_options
@click.pass_obj
def ls(state: State, watch: bool, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """List the nodes, as `zcluster nodes` does."""
    _list(state, watch, timeout, key, master)


for act in (describe, drain, resume, rm):
    nodes.add_command(act)


def _list(state: State, watch: bool, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    client = open_client(state, connection(key, master, timeout))
    if watch:
        run_async(_watch(client, state.output))
    else:
        rows = run_async(_nodes(client))
        emit_list(rows if state.output in MACHINE_FORMATS else list(map(shown, rows)), NODE_COLUMNS, state.output)


@click.command()
@timeout_option
@connection_options
@output_option
@common_options
@click.pass_obj
def status(state: State, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> int:
    """Say in a few lines how the cluster is.

    Exit code 3 when the cluster is degraded: a node is silent or dead.
    """
    found, rows = run_async(_status(open_client(state, connection(key, master, timeout))))
    bad = [row for row in rows if row.get("state") in BAD_STATES]
    item = {**found, "health": "degraded" if bad else "ok"}
    emit_object(item, state.output, lines=_account(item, bad), name_key="cluster")
    return EXIT_PARTIAL if bad else EXIT_OK


async def _nodes(client: AsyncClient) -> list[dict[str, Any]]:
    async with client as c:
        return in_order(await c.nodes())


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` as a table has it: the state of a drained node says so."""
    return {**row, "state": f"{row['state']},drained"} if row.get("drained") else {**row}


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The masters first, then the others, by name."""
    return sorted(rows, key=lambda row: (row["role"] != "master", row["name"]))


async def _status(client: AsyncClient) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    async with client as c:
        return await c.status(), await c.nodes()


def _account(item: Mapping[str, Any], bad: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of ``status``: the plain facts, the counters by group, then what is wrong."""
    rows: list[tuple[str, Any]] = []
    for name, value in item.items():
        if name == "uptime_s":  # in the data; people get it from started_s, as "up"
            continue
        if name == "started_s":
            rows.append(("up", seconds(max(0.0, time.time() - value)) if isinstance(value, int | float) else value))
        elif isinstance(value, Mapping):
            shown = [f"{cell(count)} {cell(key)}" for key, count in value.items() if count]
            rows.append((name, ", ".join(shown) or "none"))
        else:
            rows.append((name, value))
    wrong = (f"{cell(row['state'])}: {cell(row['name'])}, seen {seconds(row.get('last_seen_s'))} ago" for row in bad)
    return [*pairs(rows), *wrong]


async def _watch(client: AsyncClient, output: str | None) -> None:
    async with client as c:
        events = c.subscribe_nodes()
        first = asyncio.ensure_future(anext(events))  # subscribes now, before the first list: what changes after it is heard
        show = _redraw if on_terminal() and output in (None, "table", "wide") else _print_changes
        try:
            async with contextlib.aclosing(_changes(events, first)) as changes:
                await show(c, changes, output)
        finally:
            first.cancel()


async def _changes(
    events: AsyncIterator[dict[str, Any]], pending: asyncio.Future[dict[str, Any]]
) -> AsyncGenerator[Mapping[str, Any] | None, None]:
    """The events, from the ``pending`` one on, and None whenever REDRAW_S pass without one."""
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=REDRAW_S)
            if not done:
                yield None
                continue
            try:
                event = pending.result()
            except StopAsyncIteration:
                return
            pending = asyncio.ensure_future(anext(events))
            yield event
    finally:
        pending.cancel()


async def _look(c: AsyncClient) -> tuple[list[dict[str, Any]], str]:
    """The nodes, or none and why; a master that is away comes back, and the client with it."""
    try:
        return in_order(await c.nodes()), ""
    except (MasterLost, Unreachable, TimedOut) as error:
        return [], str(error)


async def _redraw(c: AsyncClient, changes: AsyncIterator[Mapping[str, Any] | None], output: str | None) -> None:
    rows, trouble = in_order(await c.nodes()), ""
    last = "waiting for changes; Ctrl-C ends"
    while True:
        put(CLEAR + "\n".join([*table(list(map(shown, rows)), NODE_COLUMNS, wide=output == "wide"), "", trouble or last]))
        try:
            event = await anext(changes)
        except StopAsyncIteration:
            return
        if event is not None:
            last = f"{_clock()}  {cell(event.get('node'))}  {cell(event.get('state'))}  {cell(event.get('reason'))}"
        found, trouble = await _look(c)
        rows = rows if trouble else found


async def _print_changes(c: AsyncClient, changes: AsyncIterator[Mapping[str, Any] | None], output: str | None) -> None:
    known: dict[str, str] = {}
    _print_new(in_order(await c.nodes()), known, output)
    told = ""
    async for event in changes:
        if event is not None:
            known[str(event.get("node"))] = str(event.get("state"))
            _print_change(event, output)
            continue
        rows, trouble = await _look(c)  # an event may be lost with a connection; the list never lies
        if trouble and trouble != told:
            say(f"zcluster: {trouble}")
        told = trouble
        _print_new(rows, known, output)


def _print_new(rows: Sequence[Mapping[str, Any]], known: dict[str, str], output: str | None) -> None:
    """Print the nodes whose state is not the ``known`` one, and know it."""
    for row in rows:
        if known.get(row["name"]) != row["state"]:
            known[row["name"]] = row["state"]
            _print_change({"node": row["name"], "state": row["state"], "reason": row.get("reason") or "found"}, output)


def _print_change(event: Mapping[str, Any], output: str | None) -> None:
    if output in ("json", "ndjson", "yaml"):  # a stream has no end to wrap a list around: one JSON object a line
        put(json_text({**event, "at_s": round(time.time(), 3)}))
    elif output == "name":
        put(cell(event.get("node")))
    else:
        put(f"{_clock()}  {cell(event.get('node')):<16}  {cell(event.get('state')):<8}  {cell(event.get('reason'))}")


def _clock() -> str:
    return time.strftime("%H:%M:%S")
