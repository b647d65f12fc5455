"""From the command line's options to a connected client.

Rules kept here:
- a command waits for a master no longer than its ``--timeout``, or else CONNECT_S: a person sits in front of it;
- the deadline of what it then calls is ``--timeout``, or else ``client.timeout_s``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
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


def open_client(state: State, connection: Connection) -> AsyncClient:
    """An ``AsyncClient`` that is not yet connected; use it with ``async with``."""
    from zcluster.clients import AsyncClient

    return AsyncClient(
        home=state.home,
        key=connection.key,
        master=list(connection.masters) or None,
        timeout=CONNECT_S if connection.timeout_s is None else connection.timeout_s,
    )


def deadline_s(state: State, timeout_s: float | None) -> float:
    """The time that a call gets."""
    return settings(state).settings.client.timeout_s if timeout_s is None else timeout_s


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
