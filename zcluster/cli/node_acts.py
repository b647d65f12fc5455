"""``zcluster nodes describe | drain | resume | rm``: one node, and what an operator does with nodes.

Rules kept here:
- what ``drain`` begun stays: Ctrl-C or the end of the time ends the waiting, not the drain;
- ``rm`` of a node that is connected asks for ``--force``: it is cut, and its key is revoked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from zcluster.cli.connect import CONNECT_S, ask, connection
from zcluster.cli.events import as_row, moment
from zcluster.cli.options import (
    DURATION,
    Connection,
    State,
    common_options,
    completes,
    connection_options,
    output_option,
    shared_options,
)
from zcluster.cli.output import Column, cell, counted, emit_list, emit_object, pairs, say, seconds, table
from zcluster.cli.sync_views import STATUS_COLUMNS, size, with_reasons

EVENT_COLUMNS = (Column("at_s", "TIME", text=moment), Column("name", "EVENT"), Column("details", "DETAILS"))
TREE_COLUMNS = tuple(column for column in STATUS_COLUMNS if column.key != "worker" and not column.wide)
JOB_COLUMNS = (
    Column("id", "JOB"), Column("function", "FUNCTION"), Column("state", "STATE"), Column("attempt", "ATTEMPT", right=True),
    Column("caller", "CALLER"),
)  # fmt: skip
DRAINED_COLUMNS = (
    Column("name", "NAME"), Column("state", "STATE"), Column("drained", "DRAINED"), Column("in_flight", "IN-FLIGHT", right=True),
    Column("waiting", "WAITING", right=True),
)  # fmt: skip
UNIT = re.compile("_(bytes|percent)$")
MAX_FUNCTIONS = 100
"""Names that the text shows; the data has all of them."""

Row = Mapping[str, Any]


def by_name(row: Row) -> str:
    """Sorts rows of nodes as `zcluster nodes` does."""
    return str(row["name"])


@click.command()
@click.argument("name", shell_complete=completes("node_names"))
@shared_options
@click.pass_obj
def describe(state: State, name: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Show everything that is known of one node.

    Its key, session, load, functions, metrics, trees and how far they are behind, durable jobs, and its last events.
    """
    row = ask(state, connection(key, master, timeout), lambda c: c.nodes.describe(name))
    emit_object(row, state.output, lines=description(row, time.time()))


@click.command()
@click.argument("target", metavar="NAME|GLOB|LIST", shell_complete=completes("worker_names"))
@click.option("--wait", is_flag=True, help="Stay until nothing runs there any more.")
@click.option("--timeout", type=DURATION, metavar="DURATION", help="How long to wait: 30s, 10m. [default: for ever]")
@connection_options
@output_option
@common_options
@click.pass_obj
def drain(
    state: State, target: str, wait: bool, timeout: float | None, key: Path | None, master: tuple[str, ...]
) -> None:
    """Give a node no new requests and jobs until it is resumed.

    What runs there ends; `any` and durable jobs go elsewhere; a request for the node itself is answered with node_unavailable. It
    survives restarts of the node and of the master. Exit code 7 when something still runs after --timeout.
    """
    options = Connection(key, tuple(master), timeout if not wait or timeout is None else min(CONNECT_S, timeout))
    rows = ask(state, options, lambda c: c.nodes.drain(target, wait=wait, timeout=timeout))
    rows.sort(key=by_name)
    emit_list(rows, DRAINED_COLUMNS, state.output)
    left = sum(row["in_flight"] + row["waiting"] for row in rows)
    if left and state.output in (None, "table", "wide"):
        say(f"zcluster: {counted(left, 'request')} still running there; --wait stays until none is")


@click.command()
@click.argument("target", metavar="NAME|GLOB|LIST", shell_complete=completes("worker_names"))
@shared_options
@click.pass_obj
def resume(state: State, target: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Let a drained node have requests and jobs again."""
    rows = ask(state, connection(key, master, timeout), lambda c: c.nodes.resume(target))
    rows.sort(key=by_name)
    emit_list(rows, DRAINED_COLUMNS, state.output)


@click.command()
@click.argument("name", shell_complete=completes("worker_names"))
@click.option("--revoke", is_flag=True, help="Revoke its key too, so that it does not come back.")
@click.option("--force", is_flag=True, help="Even when it is connected: its key is revoked and it is cut.")
@shared_options
@click.pass_obj
def rm(
    state: State, name: str, revoke: bool, force: bool, timeout: float | None, key: Path | None, master: tuple[str, ...]
) -> None:
    """Forget a node that is away.

    With its key it may come back; --revoke prevents that, also of a node that is forgotten already. A node that is connected is
    refused unless --force. Exit code 5 when there is no such node (any more).
    """
    row = ask(state, connection(key, master, timeout), lambda c: c.nodes.remove(name, revoke=revoke, force=force))
    done = f"{cell(row['name'])} removed" + (", its key revoked" if row["key_revoked"] else "; its key is still admitted")
    emit_object(row, state.output, lines=[done])


def description(row: Row, now_s: float) -> list[str]:
    """The lines of ``nodes describe``."""
    lines = pairs([*_who(row), *_session(row, now_s), *_work(row)])
    metrics = row.get("metrics")
    if isinstance(metrics, Mapping) and metrics:
        lines += ["", f"metrics, {seconds(row.get('metrics_age_s'))} old:", *_indented(pairs(_metrics(metrics)))]
    functions = row.get("functions")
    if isinstance(functions, list) and functions:
        more = f" and {len(functions) - MAX_FUNCTIONS} more" if len(functions) > MAX_FUNCTIONS else ""
        lines += ["", "functions:", f"  {', '.join(map(cell, functions[:MAX_FUNCTIONS]))}{more}"]
    if row.get("trees"):
        lines += ["", "trees:", *_indented(table(with_reasons(row["trees"]), TREE_COLUMNS, wide=True))]
    if row.get("jobs"):
        lines += ["", "jobs:", *_indented(table(row["jobs"], JOB_COLUMNS, wide=True))]
    if row.get("events"):
        rows = [as_row(event) for event in row["events"]]
        lines += ["", "last events:", *_indented(table(rows, EVENT_COLUMNS, wide=True))]
    lines += [f"not known: {cell(each['what'])}: {cell(each['message'])}" for each in row.get("left_out") or ()]
    return lines


def _who(row: Row) -> list[tuple[str, Any]]:
    key = row.get("key") or {}
    found: list[tuple[str, Any]] = [
        ("name", row["name"]),
        ("role", key.get("role") or row.get("role")),
        ("key", key.get("fingerprint") or "none: it is not admitted"),
    ]
    if key.get("token"):
        found.append(("came by token", key["token"]))
    if key.get("previous"):
        found.append(("older keys", f"{len(key['previous'])} still admitted: its key is being rotated"))
    found += [("revoked key", f"{each['fingerprint']} at {each['at']}") for each in row.get("revoked") or ()]
    return found


def _session(row: Row, now_s: float) -> list[tuple[str, Any]]:
    if row.get("state") is None:
        return [("state", "not here since the master's start, or removed")]
    session = row.get("session") or {}
    since = f", for {seconds(max(0.0, now_s - row['since_s']))}" if isinstance(row.get("since_s"), int | float) else ""
    reason = f" ({row['reason']})" if row.get("reason") not in (None, "", row["state"]) else ""
    found: list[tuple[str, Any]] = [("state", f"{row['state']}{reason}{since}")]
    if row.get("drained"):
        found.append(("drained", f"by {row.get('drained_by')} at {moment(row.get('drained_at_s'))}"))
    found += [
        ("version", row.get("version")),
        ("last heard", f"{seconds(row.get('last_seen_s'))} ago" if row.get("last_seen_s") is not None else None),
    ]
    if session:
        found.append(("session", f"{session['no']}, opened {moment(session['since_s'])}"))
        found.append(("address", session.get("address") or None))
    return found


def _work(row: Row) -> list[tuple[str, Any]]:
    if row.get("state") is None:
        return []
    found: list[tuple[str, Any]] = [
        ("requests", f"{row['in_flight']} running, {row['waiting']} waiting, {row['slots']} slots"),
        ("cpu, memory", f"{cell(row.get('cpu_percent'))} %, {cell(row.get('memory_percent'))} %"),
        ("door", ", ".join(row.get("door") or ()) or None),
        ("agents", row.get("agents")),
        ("config", row.get("config")),
    ]
    running = [f"{cell(each['function'])} of {cell(each['caller'])}" for each in row.get("running") or ()]
    return [*found, ("running", ", ".join(running))] if running else found


def _metrics(metrics: Row) -> list[tuple[str, str]]:
    def text(name: str, value: Any) -> str:
        if name == "percent" or name.endswith("_percent"):
            return f"{UNIT.sub('', name).replace('percent', 'used')} {cell(value)} %"
        return f"{UNIT.sub('', name)} {size(value) if name.endswith('_bytes') else cell(value)}"

    return [
        (cell(metric), ", ".join(text(cell(name), value) for name, value in values.items()))
        for metric, values in metrics.items()
        if isinstance(values, Mapping)
    ]


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
