"""``zcluster audit``: who asked for what, where it ran, how it ended.

Rules kept here:
- the oldest first, page by page; the sequence number of the last record is where ``--since`` goes on;
- ``--key`` is the name of the asker's key here; the key file is ``--key-file``;
- ``--follow`` goes on until Ctrl-C, over lost connections too; with it json, ndjson and yaml are one JSON object a line.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.connect import connection, open_client, run_async
from zcluster.cli.events import Since, parse_since
from zcluster.cli.options import (
    MACHINE_FORMATS,
    State,
    common_options,
    completes,
    key_file_options,
    output_option,
    refuse_key_file,
    timeout_option,
)
from zcluster.cli.output import Column, cell, counted, json_text, say, seconds
from zcluster.cli.queue_views import STATES, PagePrinter
from zcluster.cli.sync_views import moment
from zcluster.errors import Draining, MasterLost, TimedOut, Unreachable, UsageError

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

SINCE_S = 3600.0
"""How far back the list goes when nothing says how far."""
PAGE = 1000
LOOK_S = 1.0
"""How often ``--follow`` asks."""


def where(record: Mapping[str, Any]) -> str:
    """The nodes on which it ran."""
    nodes = record.get("nodes")
    names = [cell(name) for name in nodes] if isinstance(nodes, Sequence) and not isinstance(nodes, str) else []
    more = int(record.get("nodes_total") or 0) - len(names)
    return ",".join([*names, *([f"and {more} more"] if more > 0 else [])]) or "-"


def asked(record: Mapping[str, Any]) -> str:
    """The arguments, or what a record that stands for others stands for."""
    if record.get("what") in ("lost", "omitted"):
        return counted(int(record.get("count") or 0), "record")
    if record.get("what") == "event":
        return json_text(record.get("fields"))
    return "-" if record.get("args") is None else json_text(record["args"])


COLUMNS = (
    Column("at_s", "TIME", text=moment, width=19),
    Column("sequence", "SEQUENCE", wide=True, right=True),
    Column("what", "WHAT", width=8),
    Column("id", "ID", width=14),
    Column("key", "KEY", width=8),
    Column("public", "PUBLIC", wide=True),
    Column("role", "ROLE", wide=True, width=6),
    Column("function", "FUNCTION", width=16),
    Column("target", "TARGET", width=6),
    Column("where", "NODES", text=str, width=12),
    Column("attempts", "ATTEMPTS", wide=True, right=True),
    Column("outcome", "OUTCOME", colours=STATES, width=9),
    Column("took_s", "TOOK", right=True, text=seconds, width=8),
    Column("asked", "ARGUMENTS", text=str),
)


def as_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """``record`` with what the columns show."""
    told = {**record, "id": record.get("job") or record.get("request_id"), "where": where(record), "asked": asked(record)}
    return {**told, "function": record.get("event")} if record.get("what") == "event" else told


@click.command()
@click.option(
    "--since",
    metavar="1h|SEQUENCE",
    callback=parse_since,
    help="From so long ago, or behind this record. [default: 1h; with --follow what happens from now on]",
)
@click.option("--key", "of_key", metavar="NAME", shell_complete=completes("key_names"), help="Only what the key NAME asked for.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), metavar="N", help="End after so many. [default: 1000; with --follow none]"
)
@click.option("-f", "--follow", is_flag=True, help="Stay and show each record when it is written, until Ctrl-C.")
@timeout_option
@key_file_options
@output_option
@common_options
@click.pass_obj
def audit(
    state: State, since: Since, of_key: str | None, limit: int | None, follow: bool, timeout: float | None, key: Path | None,
    master: tuple[str, ...],
) -> None:  # fmt: skip
    """Show who asked for what, where it ran, how it ended.

    A job has a record when it ends, and one when it is accepted unless it begins at once; a request has one when it ends, as far
    as the setting audit.requests says. Secret arguments are in none. It needs an admin key.

    --key is the name of the asker's key here, not the key file: that is --key-file, or ZCLUSTER_KEY.
    """
    if of_key == "":
        raise UsageError("--key is empty", hint="leave --key out for all keys, or name one")
    refuse_key_file(of_key or "", "the name of a key")
    after, ago_s = since
    if after is None and ago_s is None:
        ago_s = 0.0 if follow else SINCE_S
    question = {"since_s": 0.0 if ago_s is None else time.time() - ago_s, "after": after or 0, "key": of_key or ""}
    client = open_client(state, connection(key, master, timeout))
    printer = Records(state.output, follow)
    following = run_async(_read(client, printer, question, limit or (None if follow else PAGE), follow))
    printer.close(following)
    if following is not None and state.output not in MACHINE_FORMATS:
        say(f"zcluster: there are more: --since {following} goes on")


class Records:
    """Prints records in the format ``output``, as they come where that can be."""

    def __init__(self, output: str | None, follow: bool) -> None:
        self._data = output in MACHINE_FORMATS
        self._follow = follow
        self._pages = PagePrinter(COLUMNS, "ndjson" if follow and self._data else output)

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Print one page."""
        self._pages.add(records if self._data else list(map(as_row, records)))

    def close(self, following: int | None) -> None:
        """Print what is left; ``following``: where the next page begins."""
        self._pages.close(following, whole=following is None)


async def _read(client: AsyncClient, printer: Records, question: dict[str, Any], limit: int | None, follow: bool) -> int | None:
    """Print the records; returns behind which sequence there are more."""
    import asyncio

    printed, trouble, first = 0, "", True
    async with client as c:
        while True:
            most = PAGE if limit is None else min(limit - printed, PAGE)
            try:
                page = await c.call("audit.since", {**question, "limit": most}, target="master")
            except (MasterLost, Unreachable, TimedOut, Draining) as error:
                if first or not follow:
                    raise
                if error.message != trouble:
                    say(f"zcluster: {error.message}")
                trouble = error.message
                await asyncio.sleep(LOOK_S)
                continue
            items, following = page["items"], page["next"]
            if items or first:
                printer.add(items)
            first, printed = False, printed + len(items)
            question["after"] = following or (items[-1]["sequence"] if items else question["after"])
            if printed == limit or (following is None and not follow):
                found: int | None = following
                return found
            if following is None:
                await asyncio.sleep(LOOK_S)
