"""Names of the running cluster, and of the home's keys, for the shell's Tab key.

Rules kept here:
- completion never prints an error and never keeps the shell waiting: no cluster within TIMEOUT_S means no names;
- it opens a connection only when the name of a node, a function or a tree is being completed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from zcluster.cli.connect import open_client
from zcluster.cli.options import Connection, State
from zcluster.errors import ZClusterError

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

TIMEOUT_S = 0.8
KEYWORDS = ("any", "all", "master")


def function_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The functions whose name begins with ``incomplete``, with the first line of their documentation."""
    rows = _ask(ctx, "functions")
    return _matching(((str(row["name"]), str(row.get("doc") or "").partition("\n")[0]) for row in rows), incomplete)


def target_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The target words and the nodes; in a comma list the name after the last comma is completed."""
    done, comma, rest = incomplete.rpartition(",")
    rows = _ask(ctx, "nodes")
    names = [(str(row["name"]), str(row.get("state", ""))) for row in rows if row["name"] != "master"]
    words = [] if comma else [(word, "") for word in KEYWORDS]
    return _matching(((f"{done}{comma}{name}", text) for name, text in [*words, *names]), f"{done}{comma}{rest}")


def worker_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The workers whose name begins with ``incomplete``, with their state."""
    rows = (row for row in _ask(ctx, "nodes") if row.get("role") == "worker")
    return _matching(((str(row["name"]), str(row.get("state", ""))) for row in rows), incomplete)


def tree_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The trees whose name begins with ``incomplete``, with their directory at the master."""
    return _matching(((str(row["name"]), str(row.get("path", ""))) for row in _ask(ctx, "trees")), incomplete)


def key_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The admitted keys of the home whose name begins with ``incomplete``, with their role; nothing is connected."""
    from zcluster.config import Home, default_home
    from zcluster.keys import Ring

    state = ctx.find_object(State) or State()
    try:
        ring_file = Home.of(state.home or default_home()).ring_file
        entries = Ring(ring_file).entries.values() if ring_file.exists() else ()
    except (ZClusterError, OSError):
        return []  # no ring that can be read: nothing to offer
    return _matching(((entry.name, entry.role) for entry in entries), incomplete)


def _matching(names: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=text or None) for name, text in sorted(names) if name.startswith(incomplete)]


def _ask(ctx: click.Context, what: str) -> list[dict[str, Any]]:
    state = ctx.find_object(State) or State()
    options = Connection(ctx.params.get("key"), tuple(ctx.params.get("master") or ()), TIMEOUT_S)
    try:
        return asyncio.run(_rows(open_client(state, options), what))
    except (ZClusterError, OSError, TimeoutError):
        return []  # no cluster, no key, no right to ask: nothing to offer, and nothing to say in the middle of a line


async def _rows(client: AsyncClient, what: str) -> list[dict[str, Any]]:
    async with asyncio.timeout(TIMEOUT_S), client as c:
        match what:
            case "nodes":
                return await c.nodes()
            case "trees":
                return await c.sync.trees()
            case _:
                return await c.functions()
