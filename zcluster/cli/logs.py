"""``zcluster logs``: the newest lines of nodes' logs, and each when it is written.

Rules kept here:
- lines look as the daemons print them, each with its node's name; nothing that a node says reaches the terminal unescaped;
- a node that does not answer is talk (stderr), and makes the exit code 3;
- a stream has no end to wrap a list around: with ``--follow`` json, ndjson and yaml are one JSON object a line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.connect import connection, open_client, run_async
from zcluster.cli.options import State, common_options, completes, connection_options, output_option, timeout_option
from zcluster.cli.output import cell, colour_wanted, emit_list, json_text, put, say
from zcluster.errors import EXIT_OK, EXIT_PARTIAL, one_line
from zcluster.process.logs import LEVELS, text_line
from zcluster.process.logtail import MAX_LINES

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

STRUCTURED = ("json", "ndjson", "yaml")
COLOURS = {"warning": "yellow", "error": "red", "critical": "red", "debug": "bright_black"}


@click.command()
@click.argument("node", metavar="[NODE]", default="master", shell_complete=completes("target_names"))
@click.option("-f", "--follow", is_flag=True, help="Stay and show each line when it is written, until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(0, MAX_LINES), default=100, metavar="N", help="How many at most. [default: 100]"
)
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="Only lines of this level and above. [default: debug]")
@timeout_option
@connection_options
@output_option
@common_options
@click.pass_obj
def logs(
    state: State, node: str, follow: bool, lines: int, level: str, timeout: float | None, key: Path | None,
    master: tuple[str, ...],
) -> int:  # fmt: skip
    """Show the newest lines of nodes' logs, or follow them.

    The master's, unless NODE says whose: a name, a list, a glob, or all. Lines of several nodes come in the order of their
    times. A node keeps its newest 2,000 lines in memory, since it was started, of the level of its log.level. It takes an
    admin's key.
    """
    client = open_client(state, connection(key, master, timeout))
    asked = {"target": node, "lines": lines, "level": level}
    return run_async(_follow(client, state.output, asked) if follow else _list(client, state.output, asked))


async def _list(client: AsyncClient, output: str | None, asked: dict[str, Any]) -> int:
    async with client as c:
        found = [line async for line in c.logs(**asked)]
    missing = [line for line in found if "error" in line]
    shown = [line for line in found if "error" not in line]
    if output in (*STRUCTURED, "name"):
        emit_list(shown, (), output, name_key="message")
    else:
        for line in shown:
            put(_text(line))
    for line in missing:
        _complain(line)
    return EXIT_PARTIAL if missing else EXIT_OK


async def _follow(client: AsyncClient, output: str | None, asked: dict[str, Any]) -> int:
    async with client as c:
        async for line in c.logs(**asked, follow=True):
            if "error" in line:
                _complain(line)
            elif output in STRUCTURED:
                put(json_text(line))
            else:
                put(cell(line.get("message")) if output == "name" else _text(line))
    return EXIT_OK


def _text(line: Mapping[str, Any]) -> str:
    text = text_line(line)
    colour = COLOURS.get(str(line.get("level"))) if colour_wanted() else None
    return click.style(text, fg=colour) if colour else text


def _complain(line: Mapping[str, Any]) -> None:
    say(f"zcluster: {one_line(str(line.get('node')))}: {one_line(str(line.get('message')))}")
