"""Names of the running cluster, and of the home's keys, for the shell's Tab key.

Rules kept here:
- completion never prints an error and never keeps the shell waiting: no cluster within TIMEOUT_S means no names;
- it opens a connection only when a name that only the cluster knows is being completed;
- of agents, of which there may be very many, at most MAX_AGENTS are offered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from zcluster.cli.connect import open_client
from zcluster.cli.options import Connection, State
from zcluster.errors import ZClusterError

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient
    from zcluster.config import Home
    from zcluster.keys import Ring

TIMEOUT_S = 0.8
MAX_AGENTS = 100
MAX_JOBS = 100
MAX_EVENTS = 1000
"""The newest, whose names are offered."""
CONDITIONS = ("nodes=", "workers=", "node:", "agents=", "queue=empty", "sync=")
KEYWORDS = ("any", "all", "master")
SCOPES = ("defaults", "group/", "node/", "agent/")

Rows = Sequence[dict[str, Any]]
Pairs = Iterable[tuple[str, str]]


def function_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The functions whose name begins with ``incomplete``, with the first line of their documentation."""
    rows = _ask(ctx, lambda c: c.functions())
    return _matching(((str(row["name"]), str(row.get("doc") or "").partition("\n")[0]) for row in rows), incomplete)


def target_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The target words and the nodes; in a comma list the name after the last comma is completed."""
    done, comma, rest = incomplete.rpartition(",")
    rows = _ask(ctx, lambda c: c.nodes())
    names = [(str(row["name"]), str(row.get("state", ""))) for row in rows if row["name"] != "master"]
    words = [] if comma else [(word, "") for word in KEYWORDS]
    return _matching(((f"{done}{comma}{name}", text) for name, text in [*words, *names]), f"{done}{comma}{rest}")


def worker_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The workers whose name begins with ``incomplete``, with their state."""
    rows = (row for row in _ask(ctx, lambda c: c.nodes()) if row.get("role") == "worker")
    return _matching(((str(row["name"]), str(row.get("state", ""))) for row in rows), incomplete)


def node_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The nodes whose name begins with ``incomplete``, with their state."""
    return _matching(((str(row["name"]), str(row.get("state", ""))) for row in _ask(ctx, lambda c: c.nodes())), incomplete)


def agent_ids(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The first agents whose id begins with ``incomplete``, with their status."""
    return _matching(_agents(ctx, incomplete), incomplete)


def group_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The groups, with their comment; in a comma list the name after the last comma is completed."""
    done, comma, _ = incomplete.rpartition(",")
    rows = _ask(ctx, lambda c: c.groups.list())
    return _matching(((f"{done}{comma}{row['name']}", str(row.get("comment") or "")) for row in rows), incomplete)


def agent_then_groups(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The words of ``groups set``: an agent, then groups; with a filter only groups."""
    begun = bool(ctx.params.get("words")) or bool(ctx.params.get("where"))
    return group_names(ctx, incomplete) if begun else agent_ids(ctx, incomplete)


def scope_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The scopes of live configuration: their kinds, and behind the slash the names."""
    kind, slash, name = incomplete.partition("/")
    if not slash:
        return _matching(((scope, "") for scope in SCOPES), incomplete)
    match kind:
        case "agent":
            found = _agents(ctx, name)
        case "group":
            found = [(str(row["name"]), str(row.get("comment") or "")) for row in _ask(ctx, lambda c: c.groups.list())]
        case "node":
            found = [(str(row["name"]), str(row.get("state", ""))) for row in _ask(ctx, lambda c: c.nodes())]
        case _:
            found = []
    return _matching(((f"{kind}/{each}", text) for each, text in found), incomplete)


def tree_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The trees whose name begins with ``incomplete``, with their directory at the master."""
    return _matching(((str(row["name"]), str(row.get("path", ""))) for row in _ask(ctx, lambda c: c.sync.trees())), incomplete)


def job_ids(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The newest jobs whose id begins with ``incomplete``, with their function and state."""
    rows = _ask(ctx, _newest_jobs)
    return _matching(((str(row["id"]), f"{row.get('function')} {row.get('state')}") for row in rows), incomplete)


def event_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The names of the newest events."""
    return _matching(((name, "") for name in {str(row["name"]) for row in _ask(ctx, _newest_events)}), incomplete)


def listener_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Those who listen for messages, and everybody; nothing behind the name, where the text begins."""
    if ctx.params.get("words"):
        return []
    rows = _ask(ctx, _listeners)
    return _matching((("all", "everybody"), *((str(row["name"]), "") for row in rows)), incomplete)


async def _newest_jobs(client: AsyncClient) -> Rows:
    items: Rows = (await client.queue.list(limit=MAX_JOBS))["items"]
    return items


async def _newest_events(client: AsyncClient) -> Rows:
    found: Rows = (await client.call("events.since", {"limit": MAX_EVENTS}, target="master"))["events"]
    return found


async def _listeners(client: AsyncClient) -> Rows:
    found: Rows = await client.call("notes.who", target="master")
    return found


def conditions(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """What ``wait`` can wait for; names of nodes and trees behind their prefix."""
    if incomplete.startswith("node:"):
        return _matching(((f"node:{row['name']}=ready", "") for row in _ask(ctx, lambda c: c.nodes())), incomplete)
    if incomplete.startswith("sync="):
        return _matching(((f"sync={row['name']}", "") for row in _ask(ctx, lambda c: c.sync.trees())), incomplete)
    return _matching(((word, "") for word in CONDITIONS), incomplete)


def context_names(_ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The contexts whose name begins with ``incomplete``, with where they lead; nothing is connected."""
    from zcluster.cli.contextfile import contexts_file, read_contexts

    try:
        kept = read_contexts(contexts_file()).by_name.values()
    except (ZClusterError, OSError):
        return []
    return _matching(((each.name, str(each.home or each.key)) for each in kept), incomplete)


def key_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The admitted keys of the home whose name begins with ``incomplete``, with their role; nothing is connected."""
    return _of_home(ctx, incomplete, lambda _home, ring: ((entry.name, entry.role) for entry in ring.entries.values()))


def token_ids(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The join tokens of the home whose id begins with ``incomplete``, with their role; nothing is connected."""
    return _of_home(ctx, incomplete, lambda _home, ring: ((token.id, token.role) for token in ring.tokens.values()))


def pending_fingerprints(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The fingerprints of keys that wait to be accepted, with their address; nothing is connected."""
    from zcluster.keys import fingerprint
    from zcluster.keys.pending import read_pending, waiting

    def find(home: Home, ring: Ring) -> Pairs:
        return ((fingerprint(each.public), each.address) for each in waiting(read_pending(home), ring))

    return _of_home(ctx, incomplete, find)


def role_names(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The roles that a key may have: the built-in ones, and those of the home's configuration."""
    from zcluster.cli.connect import settings
    from zcluster.keys.rights import ROLES

    names = list(ROLES)
    with suppress(ZClusterError, OSError):  # a configuration that cannot be read declares nothing
        names += [each.name for each in settings(ctx.find_object(State) or State()).settings.roles.role]
    return _matching(((name, "") for name in dict.fromkeys(names)), incomplete)


def _of_home(ctx: click.Context, incomplete: str, find: Callable[[Home, Ring], Pairs]) -> list[CompletionItem]:
    from zcluster.config import Home, default_home
    from zcluster.keys import Ring

    state = ctx.find_object(State) or State()
    try:
        home = Home.of(state.home or default_home())
        found = list(find(home, Ring(home.ring_file))) if home.ring_file.exists() else []
    except (ZClusterError, OSError):
        return []  # no ring that can be read: nothing to offer
    return _matching(found, incomplete)


def _matching(names: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=text or None) for name, text in sorted(names) if name.startswith(incomplete)]


def _agents(ctx: click.Context, incomplete: str) -> list[tuple[str, str]]:
    from zcluster.core.agents.row import ID

    if incomplete and ID.fullmatch(incomplete) is None:
        return []  # no id begins like that
    where = f"id~{incomplete}*" if incomplete else ""
    rows = _ask(ctx, lambda c: _first_agents(c, where))
    return [(str(row["id"]), str(row.get("status", ""))) for row in rows]


async def _first_agents(client: AsyncClient, where: str) -> Rows:
    page = await client.agents.list(where, select=("id", "status"), limit=MAX_AGENTS)
    items: Rows = page["items"]
    return items


def _ask(ctx: click.Context, question: Callable[[AsyncClient], Awaitable[Rows]]) -> Rows:
    state = ctx.find_object(State) or State()
    options = Connection(ctx.params.get("key"), tuple(ctx.params.get("master") or ()), TIMEOUT_S)
    try:
        return asyncio.run(_rows(open_client(state, options), question))
    except (ZClusterError, OSError, TimeoutError):
        return []  # no cluster, no key, no right to ask: nothing to offer, and nothing to say in the middle of a line


async def _rows(client: AsyncClient, question: Callable[[AsyncClient], Awaitable[Rows]]) -> Rows:
    async with asyncio.timeout(TIMEOUT_S), client as c:
        return await question(c)
