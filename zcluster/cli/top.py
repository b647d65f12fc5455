"""``zcluster top``: the cluster on one screen, live.

Rules kept here:
- what does not answer is left out and said in the last line; the rest is shown;
- a redraw writes over the old picture, line by line, and never clears it first: nothing flickers;
- every line fits the terminal's width, 80 columns at least, and PIPE_COLUMNS in a pipe, where ``-o wide`` has all of it;
- bad nodes come first, so that a long list never hides them;
- the terminal is left as it was found, however it ends; without a terminal there are no control sequences at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.connect import connection, open_client, run_async
from zcluster.cli.events import about, clock, details
from zcluster.cli.nodes import BAD_STATES, COLOURS, metric
from zcluster.cli.options import DURATION, State, common_options, connection_options, output_option, timeout_option
from zcluster.cli.output import GAP, SCHEMA, Column, TablePrinter, cell, emit_object, json_text, on_terminal, put, seconds
from zcluster.cli.sync_views import is_behind, size
from zcluster.errors import ZClusterError

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

INTERVAL_S = 2.0
MIN_INTERVAL_S = 0.2
EVENTS = 8
NAME_CHARS = 18
LEAST_COLUMNS, LEAST_LINES = 80, 24
PIPE_COLUMNS = 100
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""The terminal's other screen without a cursor, and back."""
HOME, LINE_END, SCREEN_END = "\x1b[H", "\x1b[K\n", "\x1b[J"
ASKED = ("status", "nodes", "sync", "agents", "events")
STATUSES = ("active", "silent", "disconnected", "never", "removed")


def _whole(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, int | float) else cell(value)


def _name(value: Any) -> str:
    return cut(cell(value), NAME_CHARS)


COLUMNS = (
    Column("name", "NAME", text=_name, width=NAME_CHARS),
    Column("role", "ROLE", wide=True, width=6),
    Column("state", "STATE", colours=COLOURS, width=7),
    Column("last_seen_s", "SEEN", right=True, text=seconds, width=7),
    Column("in_flight", "RUN", right=True, width=5),
    Column("waiting", "WAIT", right=True, width=5),
    Column("cpu_percent", "CPU%", right=True, text=_whole),
    Column("memory_percent", "MEM%", right=True, text=_whole),
    Column("metrics", "DISK%", right=True, text=metric("disk", "percent", _whole)),
    Column("metrics", "LOAD", right=True, wide=True, text=metric("load", "m1"), width=5),
    Column("metrics", "FILES", right=True, wide=True, text=metric("process", "open_files"), width=5),
    Column("metrics", "RSS", right=True, wide=True, text=metric("process", "rss_bytes", size), width=9),
    Column("agents", "AGENTS", right=True),
    Column("version", "VERSION", wide=True),
)


@click.command()
@click.option("--once", is_flag=True, help="Print it once and end.")
@click.option("--interval", type=DURATION, default=INTERVAL_S, metavar="DURATION", help="How often to look. [default: 2s]")
@timeout_option
@connection_options
@output_option
@common_options
@click.pass_obj
def top(
    state: State, once: bool, interval: float, timeout: float | None, key: Path | None, master: tuple[str, ...]
) -> None:
    """Show the cluster live: nodes, rates, queues, syncs, agents, events.

    q or Ctrl-C ends. In a pipe it prints one picture after the other; -o json one object a line.
    """
    client = open_client(state, connection(key, master, timeout))
    run_async(_show(client, state.output, once, max(interval, MIN_INTERVAL_S)))


async def _show(client: AsyncClient, output: str | None, once: bool, interval_s: float) -> None:
    async with client as c:
        if once:
            seen = await look(c)
            emit_object(data(seen), output, lines=_plain(seen, output), name_key="cluster")
        elif on_terminal() and output in (None, "table", "wide"):
            await _draw(c, interval_s, output == "wide")
        else:
            while True:
                seen = await look(c)
                if output in ("json", "ndjson", "yaml"):
                    put(json_text({"schema": SCHEMA, **data(seen)}))
                else:
                    put("\n".join([*_plain(seen, output), ""]))
                await asyncio.sleep(interval_s)


# -- looking ------------------------------------------------------------------------------------------------------------


async def look(c: AsyncClient) -> dict[str, Any]:
    """What is known of the cluster now: what ASKED names, and under ``trouble`` the first thing that did not answer."""
    asked: list[Awaitable[Any]] = [
        c.status(),
        c.nodes(),
        c.sync.status(),
        c.agents.count(by="status"),
        c.call("events.since", {"limit": EVENTS}, target="master"),
    ]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    seen: dict[str, Any] = {"trouble": ""}
    for name, answer in zip(ASKED, answers, strict=True):
        if isinstance(answer, ZClusterError):
            seen["trouble"] = seen["trouble"] or str(answer)
            seen[name] = None
        elif isinstance(answer, BaseException):
            raise answer
        else:
            seen[name] = answer
    return seen


def data(seen: Mapping[str, Any]) -> dict[str, Any]:
    """What a program gets."""
    agents, events, status = seen["agents"] or {}, seen["events"] or {}, seen["status"] or {}
    return {
        "cluster": status.get("cluster"),
        "status": status,
        "nodes": seen["nodes"],
        "sync": seen["sync"],
        "agents": {"total": agents.get("total"), "by_status": agents.get("by")},
        "events": events.get("events"),
        "trouble": seen["trouble"] or None,
    }


# -- the picture --------------------------------------------------------------------------------------------------------


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters; 0: as it is."""
    return text if not width or len(text) <= width else text[: width - 1] + "…"


def picture(seen: Mapping[str, Any], *, width: int = 0, height: int = 0, wide: bool = False) -> list[str]:
    """The lines; each fits ``width``, all fit ``height`` (0: as they come)."""
    head = [line for line in (_cluster(seen), _requests(seen), _agents(seen), _trees(seen)) if line]
    events = [_event(event) for event in (seen["events"] or {}).get("events") or ()]
    trouble = [f"zcluster: {seen['trouble']}"] if seen["trouble"] else []
    rows = [_as_row(node) for node in _bad_first(seen["nodes"] or ())]
    left_out = 0
    if height:
        room = max(height - len(head) - len(trouble) - 4, 2)  # two empty lines, the table's header, "and n more"
        events = events[-max(room - len(rows), room // 3, 1) :]
        left_out = max(len(rows) - max(room - len(events), 1), 0)
        rows = rows[: len(rows) - left_out]
    printer = TablePrinter(COLUMNS, wide=wide)
    printer.limit = None  # its columns have their widths; the last of them is no text
    printer.fit(rows)
    table = [printer.header(), *(printer.row(row) for row in rows)]
    if left_out:
        table.append(f"and {left_out} more")
    if width and sum(printer.widths) + len(GAP) * (len(printer.widths) - 1) > width:
        printer.colour = False  # a control sequence must not be cut
        table = [printer.header(), *(printer.row(row) for row in rows), *table[len(rows) + 1 :]]
        table = [cut(line, width) for line in table]
    blocks = [[cut(line, width) for line in head], table, [cut(line, width) for line in (*events, *trouble)]]
    return [line for index, block in enumerate(blocks) if block for line in ([""] if index else []) + block]


def _plain(seen: Mapping[str, Any], output: str | None) -> list[str]:
    """The picture as it stays on the terminal or goes into a pipe: all lines."""
    wide = output == "wide"
    columns = shutil.get_terminal_size((LEAST_COLUMNS, LEAST_LINES)).columns if on_terminal() else PIPE_COLUMNS
    return picture(seen, width=0 if wide else columns, wide=wide)


def _cluster(seen: Mapping[str, Any]) -> str:
    status = seen["status"]
    if status is None:
        return f"zcluster  {time.strftime('%H:%M:%S')}"
    states = [f"{count} {name}" for name, count in (status.get("nodes") or {}).items() if count]
    up = seconds(status.get("uptime_s"))
    return f"{cell(status.get('cluster'))}  {time.strftime('%H:%M:%S')}  up {up}  nodes: {', '.join(states) or 'none'}"


def _requests(seen: Mapping[str, Any]) -> str:
    status = seen["status"]
    if status is None:
        return ""
    requests = status.get("requests") or {}
    rate = requests.get("per_s")
    shown = f"{rate:,.0f}" if isinstance(rate, int | float) else "-"
    # Of the same answer as the column RUN: the status is of another moment.
    nodes = seen["nodes"]
    running = requests.get("running") if nodes is None else sum(node.get("in_flight") or 0 for node in nodes)
    queue = f"{cell(running)} running, {cell(requests.get('waiting'))} waiting"
    return f"requests: {shown}/s, {queue} ({size(requests.get('waiting_bytes'))})  sessions: {cell(status.get('sessions'))}"


def _agents(seen: Mapping[str, Any]) -> str:
    agents = seen["agents"]
    if not agents or not agents.get("total"):
        return ""
    by = agents.get("by") or {}
    shown = [f"{by[status]:,} {status}" for status in STATUSES if by.get(status)]
    return f"agents: {agents['total']:,}, {', '.join(shown)}"


def _trees(seen: Mapping[str, Any]) -> str:
    rows = seen["sync"]
    if not rows:
        return ""
    behind = [row for row in rows if is_behind(row)]
    rate = sum(row.get("bytes_per_s") or 0 for row in rows)
    flow = f", {size(rate)}/s" if rate else ""
    text = f"sync: {len(rows) - len(behind)} of {len(rows)} copies are current{flow}"
    if not behind:
        return text
    first = behind[0]
    where = f"{cell(first.get('worker'))} {cell(first.get('tree'))} {cell(first.get('state'))}"
    return f"{text}; {where}, {cell(first.get('files_behind'))} files behind"


def _event(event: Mapping[str, Any]) -> str:
    return f"{clock(event.get('at_s'))}  {cell(event.get('name')):<14}  {about(event):<12}  {details(event)}"


def _as_row(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a node that is gone has said last is not how it is."""
    here = node.get("state") in ("ready", "silent")
    return node if here else {**node, "cpu_percent": None, "memory_percent": None, "metrics": None}


def _bad_first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda row: (row.get("state") not in BAD_STATES, row.get("role") != "master", row.get("name") or ""))


# -- the terminal -------------------------------------------------------------------------------------------------------


async def _draw(c: AsyncClient, interval_s: float, wide: bool) -> None:
    quit_ = asyncio.Event()
    with _screen(quit_):
        while not quit_.is_set():
            seen = await look(c)
            terminal = shutil.get_terminal_size((LEAST_COLUMNS, LEAST_LINES))
            lines = picture(seen, width=terminal.columns, height=terminal.lines - 1, wide=wide)
            sys.stdout.write(HOME + "".join(line + LINE_END for line in lines[: terminal.lines - 1]) + "q ends" + SCREEN_END)
            sys.stdout.flush()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await quit_.wait()


@contextlib.contextmanager
def _screen(quit_: asyncio.Event) -> Iterator[None]:
    """The other screen; ``q`` sets ``quit_``. Everything is as before afterwards."""
    sys.stdout.write(ENTER)
    try:
        with _keys(quit_):
            yield
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()


@contextlib.contextmanager
def _keys(quit_: asyncio.Event) -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    import os
    import termios
    import tty

    fd, loop = sys.stdin.fileno(), asyncio.get_running_loop()

    def pressed() -> None:
        keys = os.read(fd, 64)
        if not keys or b"q" in keys.lower():
            quit_.set()

    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    loop.add_reader(fd, pressed)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
