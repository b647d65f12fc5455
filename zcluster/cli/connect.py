"""From the command line's options to a connected client.

Rules kept here:
- a command waits for a master no longer than its ``--timeout``, or else CONNECT_S: a person sits in front of it;
- the deadline of what it then calls is ``--timeout``, or else ``client.timeout_s``;
- which cluster is meant is decided in one place (:func:`reach`), and an error says which context decided it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zcluster.cli.options import Connection, State

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient
    from zcluster.config import Loaded

T = TypeVar("T")

CONNECT_S = 5.0
"""How long to wait for a master, and for its own account of the cluster, when no ``--timeout`` is given."""


def settings(state: State, flags: dict[str, Any] | None = None) -> Loaded:
    """The configuration of the home that ``state`` names, with ``flags`` (setting name -> value) on top."""
    from zcluster.config import load

    return load(state.home, flags or {})


@dataclass(frozen=True)
class Reach:
    """Which cluster is meant, and how to get there."""

    home: Path | None
    key: Path | None
    masters: tuple[str, ...]
    context: str = ""
    """The context that says so, or empty."""


def reach(state: State, connection: Connection) -> Reach:
    """Which cluster is meant: flags first, then ``--context``, then the environment, then the current context.

    Raises:
        UsageError: --home and --context both name one. NoSuchContext: there is none of that name. ConfigError: see contextfile.
    """
    plain = Reach(state.home, connection.key, connection.masters)
    name = state.context
    if name is None:
        if state.home is not None or connection.key is not None:
            return plain
        if any(os.environ.get(variable) for variable in ("ZCLUSTER_HOME", "ZCLUSTER_KEY")):
            return plain
        name = os.environ.get("ZCLUSTER_CONTEXT") or None
    elif not name:
        from zcluster.errors import UsageError

        raise UsageError("--context is empty", hint="`zcluster context ls` lists them")
    elif state.home is not None:
        from zcluster.errors import UsageError

        raise UsageError("--home and --context both name a cluster", hint="give one of the two")
    from zcluster.cli.contextfile import DEFAULT, contexts_file, read_contexts

    state.used_context = "" if name is None or name == DEFAULT else name  # a file that cannot be read is an error of this one
    contexts = read_contexts(contexts_file())
    name = contexts.current if name is None else name
    if not name or name == DEFAULT:
        return plain
    state.used_context = name
    kept = contexts.get(name)
    key = connection.key or kept.key
    return Reach(kept.home if connection.key is None else None, key, connection.masters or kept.masters, name)


def home_key(found: Reach) -> Path | None:
    """The administrator's key file of the home that is meant; None when a key file is meant."""
    from zcluster.config import Home, default_home

    if found.key is not None or (found.home is None and os.environ.get("ZCLUSTER_KEY")):
        return None
    return Home.of(default_home() if found.home is None else found.home).admin_key


def open_client(state: State, connection: Connection) -> AsyncClient:
    """An ``AsyncClient`` that is not yet connected; use it with ``async with``."""
    from zcluster.clients import AsyncClient

    found = reach(state, connection)
    return AsyncClient(
        home=found.home,
        key=found.key,
        master=list(found.masters) or None,
        timeout=CONNECT_S if connection.timeout_s is None else connection.timeout_s,
    )


def deadline_s(state: State, timeout_s: float | None) -> float:
    """The time that a call gets."""
    if timeout_s is not None:
        return timeout_s
    from zcluster.config import load

    return load(reach(state, Connection()).home).settings.client.timeout_s


def connection(key: Path | None, master: tuple[str, ...], timeout: float | None = None) -> Connection:
    """The connection options as click hands them over."""
    return Connection(key=key, masters=tuple(master), timeout_s=timeout)


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` in an event loop of its own; Ctrl-C cancels it and raises KeyboardInterrupt."""
    import asyncio

    return asyncio.run(main)


def ask(state: State, options: Connection, question: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """The answer of the cluster to one question, asked with a client that is connected for it."""

    async def asked(client: AsyncClient) -> T:
        async with client as c:
            return await question(c)

    return run_async(asked(open_client(state, options)))
