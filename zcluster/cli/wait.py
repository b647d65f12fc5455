"""``zcluster wait``: stay until the cluster is as it should be.

Rules kept here:
- all conditions have to hold in one look; what does not is told when the time is over (exit code 7);
- a master that does not answer yet is waited for like everything else, also one that has yet to make its home with the key of the
  administrator; a key that it refuses, and a key file that was named and is not there, is an error at once;
- what nodes do is told by events, so a look follows at once; everything else is looked at LOOK_S apart, never more often.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.connect import home_key, open_client, reach, run_async
from zcluster.cli.options import (
    DURATION,
    Connection,
    State,
    common_options,
    completes,
    connection_options,
    output_option,
)
from zcluster.cli.output import cell, emit_object, seconds
from zcluster.cli.sync_views import is_behind
from zcluster.errors import Draining, InvalidKey, MasterLost, NodeUnavailable, NoSuchTree, TimedOut, Unreachable, UsageError

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

LOOK_S = 0.5
BURST_S = 0.05
"""Events that come together are one look."""
CALL_S = 5.0
TRY_SHARE = 0.8
"""Of the whole time, for one attempt to connect."""
SHOWN = 5
"""Nodes that are named of those that are missing."""
MAX_CONDITIONS = 64
MAX_DIGITS = 9
STATES = ("joining", "ready", "silent", "dead", "left")
HINT = "nodes=N, workers=N, node:NAME=ready, agents=N, queue=empty, sync=TREE"
AWAY = (Unreachable, MasterLost, TimedOut, Draining, NodeUnavailable)
"""What passes: the master is not up yet, or is starting again."""


@dataclass(frozen=True)
class Condition:
    """One thing that has to hold."""

    text: str
    kind: str
    """``nodes``, ``workers``, ``node``, ``agents``, ``queue`` or ``sync``."""
    name: str = ""
    """Of the node or tree."""
    wanted: str = ""
    count: int = 0


def parsed(text: str) -> Condition:
    """``text`` as a condition. Raises UsageError."""
    left, equals, right = text.partition("=")
    kind, colon, name = left.partition(":")
    if not equals or not right or (kind == "node") != bool(colon):
        raise UsageError(f"{text[:80]!r} is no condition", hint=HINT)
    match kind:
        case "nodes" | "workers" | "agents":
            if not (right.isascii() and right.isdigit() and len(right) <= MAX_DIGITS):
                raise UsageError(f"{text[:80]!r}: {right[:20]!r} is no number of at most {MAX_DIGITS} digits", hint=f"{kind}=3")
            return Condition(text, kind, count=int(right))
        case "node":
            if right not in STATES or not name:
                raise UsageError(f"{text[:80]!r}: a node is {', '.join(STATES)}", hint="node:worker-1=ready")
            return Condition(text, kind, name, right)
        case "queue":
            if right != "empty":
                raise UsageError(f"{text[:80]!r}: the queue is waited for until it is empty", hint="queue=empty")
            return Condition(text, kind)
        case "sync":
            return Condition(text, kind, right)
    raise UsageError(f"{text[:80]!r} is no condition", hint=HINT)


@click.command()
@click.argument("conditions", nargs=-1, required=True, metavar="CONDITION...", shell_complete=completes("conditions"))
@click.option("--timeout", type=DURATION, metavar="DURATION", help="How long to wait at most: 60s, 10m. [default: for ever]")
@connection_options
@output_option
@common_options
@click.pass_obj
def wait(
    state: State, conditions: tuple[str, ...], timeout: float | None, key: Path | None, master: tuple[str, ...]
) -> None:
    """Wait until all conditions hold: nodes, agents, queue, trees.

    A master that is not up yet is waited for too, its first start included.

    \b
    nodes=3              at least 3 nodes are ready, the master among them
    workers=2            at least 2 workers are ready
    node:worker-1=ready  that node is in this state (joining, ready, silent, dead, left)
    agents=100           at least 100 agents are active
    queue=empty          no durable job waits or runs
    sync=TREE            every worker holds the newest version of this tree

    Exit code 7 when something is missing after --timeout; it says what.
    """
    if len(conditions) > MAX_CONDITIONS:
        raise UsageError(f"{len(conditions)} conditions, at most {MAX_CONDITIONS} are allowed")
    wanted = [parsed(text) for text in conditions]
    # less than the whole time: why no master answered is to be known before it is over
    options = Connection(key, tuple(master), CALL_S if timeout is None else min(CALL_S, TRY_SHARE * timeout))
    client, key_path = open_client(state, options), home_key(reach(state, options))
    began_s = time.monotonic()
    run_async(_wait(client, wanted, timeout, lambda: key_path is not None and not key_path.exists()))
    took_s = round(time.monotonic() - began_s, 3)
    emit_object(
        {"conditions": list(conditions), "met": True, "waited_s": took_s}, state.output,
        lines=[f"{', '.join(conditions)}: after {seconds(took_s)}"], name_key="met",
    )  # fmt: skip


async def _wait(
    client: AsyncClient, wanted: Sequence[Condition], timeout_s: float | None, key_to_come: Callable[[], bool]
) -> None:
    progress = Progress()
    try:
        async with asyncio.timeout(timeout_s), _connected(client, progress, key_to_come) as c, _woken(c) as changes:
            while missing := await _look(c, wanted):
                progress.tell(missing)
                await changes()
    except TimeoutError:
        raise TimedOut(f"not within {seconds(timeout_s)}: {'; '.join(progress.missing)}") from None
    finally:
        progress.end()


@contextlib.asynccontextmanager
async def _connected(client: AsyncClient, progress: Progress, key_to_come: Callable[[], bool]) -> AsyncIterator[AsyncClient]:
    """The client as soon as a master answers; ``key_to_come`` says whether its first start has yet to make the key file."""
    while True:
        began_s = time.monotonic()
        try:
            await client.__aenter__()
            break
        except AWAY as error:
            progress.tell([f"the master does not answer: {error.message}"])
        except InvalidKey as error:
            if not key_to_come():
                raise
            progress.tell([error.message])
        await asyncio.sleep(max(0.0, LOOK_S - (time.monotonic() - began_s)))
    try:
        yield client
    finally:
        await client.__aexit__(None, None, None)


@contextlib.asynccontextmanager
async def _woken(c: AsyncClient) -> AsyncIterator[Callable[[], Any]]:
    """Gives what waits until there is something to look at: an event of a node, or LOOK_S."""
    events = c.subscribe_nodes()
    pending = asyncio.ensure_future(anext(events, None))

    async def changed() -> None:
        nonlocal pending
        if pending.done():  # a subscription that has ended tells nothing more
            await asyncio.sleep(LOOK_S)
            return
        done, _ = await asyncio.wait({pending}, timeout=LOOK_S)
        if done and pending.exception() is None and pending.result() is not None:
            pending = asyncio.ensure_future(anext(events, None))
            await asyncio.sleep(BURST_S)

    try:
        yield changed
    finally:
        pending.cancel()


async def _look(c: AsyncClient, wanted: Sequence[Condition]) -> list[str]:
    """What is missing, in words."""
    kinds = {condition.kind for condition in wanted}
    try:
        rows = await c.nodes() if kinds & {"nodes", "workers", "node"} else []
        agents = await _active_agents(c) if "agents" in kinds else 0
        live = int((await c.queue.stats())["live"]) if "queue" in kinds else 0
        trees = {each.name: await _behind(c, each.name) for each in wanted if each.kind == "sync"}
    except AWAY as error:
        return [error.message]
    return [text for condition in wanted if (text := _missing(condition, rows, agents, live, trees))]


def _missing(
    condition: Condition, rows: Sequence[Mapping[str, Any]], agents: int, live: int, trees: Mapping[str, str]
) -> str:
    """What is missing for ``condition``; empty when it holds."""
    ready = [row for row in rows if row["state"] == "ready"]
    match condition.kind:
        case "nodes" if len(ready) < condition.count:
            return f"{condition.text}: {len(ready)} ready{_not_ready(rows)}"
        case "workers":
            workers = [row for row in ready if row["role"] == "worker"]
            return f"{condition.text}: {len(workers)} ready{_not_ready(rows)}" if len(workers) < condition.count else ""
        case "node":
            now = next((str(row["state"]) for row in rows if row["name"] == condition.name), "not there")
            return f"{condition.text}: it is {now}" if now != condition.wanted else ""
        case "agents" if agents < condition.count:
            return f"{condition.text}: {agents} active"
        case "queue" if live:
            return f"{condition.text}: {live} jobs have not ended"
        case "sync" if trees[condition.name]:
            return f"{condition.text}: {trees[condition.name]}"
    return ""


def _not_ready(rows: Sequence[Mapping[str, Any]]) -> str:
    others = [f"{cell(row['name'])} {row['state']}" for row in rows if row["state"] != "ready"]
    more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    return f" ({', '.join(others[:SHOWN])}{more})" if others else ""


async def _active_agents(c: AsyncClient) -> int:
    found = await c.agents.count("status=active")
    return int(found["total"])


async def _behind(c: AsyncClient, tree: str) -> str:
    """Which workers are behind with ``tree``; empty when none is."""
    if tree not in {row["name"] for row in await c.sync.trees()}:
        raise NoSuchTree(f"there is no tree {tree!r}", hint="`zcluster sync ls` lists them")
    bad = [row for row in await c.sync.status(tree=tree) if is_behind(row)]
    shown = ", ".join(f"{cell(row['worker'])} is {row['state']}" for row in bad[:SHOWN])
    return shown + (f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")


class Progress:
    """What is missing, as one line of stderr that is written over; nothing when that is no terminal."""

    def __init__(self) -> None:
        self.missing: Sequence[str] = ["the master has not answered yet"]
        self._shown = ""
        self._on = sys.stderr.isatty()

    def tell(self, missing: Sequence[str]) -> None:
        """Show it when it is news."""
        self.missing = missing
        text = cell("waiting: " + "; ".join(missing))
        if self._on and text != self._shown:
            self._shown = text
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)

    def end(self) -> None:
        """Leave an empty line."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
