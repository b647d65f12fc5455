"""Waiting for facts: no test of a running cluster waits for a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from zcluster.clients import AsyncClient
from zcluster.errors import ZClusterError

PATIENCE_S = 30.0
"""A test that hangs fails after this."""
POLL_S = 0.01


async def eventually(check: Callable[[], Awaitable[Any] | Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait until ``check`` gives something true, and give that; an error of zcluster counts as not yet."""
    trouble: object = "false"
    try:
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    found = check()
                    value = await found if isinstance(found, Awaitable) else found
                    if value:
                        return value
                except ZClusterError as error:
                    trouble = error
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"not within {patience_s:g} s: {what} ({trouble})") from None


async def states(client: AsyncClient) -> dict[str, str]:
    """The state of each node."""
    return {row["name"]: row["state"] for row in await client.nodes()}


async def node_row(client: AsyncClient, name: str) -> dict[str, Any]:
    """What the master tells of one node."""
    return next(row for row in await client.nodes() if row["name"] == name)


async def node_is(client: AsyncClient, name: str, state: str) -> None:
    """Wait until ``name`` is in ``state``."""

    async def check() -> bool:
        return (await states(client)).get(name) == state

    await eventually(check, f"{name} is {state}")


async def in_flight(client: AsyncClient, name: str, count: int, waiting: int = 0) -> None:
    """Wait until ``count`` requests run on ``name`` and ``waiting`` wait for it."""

    async def check() -> bool:
        row = await node_row(client, name)
        return bool(row["in_flight"] == count and row["waiting"] == waiting)

    await eventually(check, f"{name} runs {count}, {waiting} wait")


async def counter(client: AsyncClient, name: str) -> int:
    """A counter of the master."""
    return int((await client.status())["counters"].get(name, 0))


def lines(path: Path) -> list[str]:
    """The lines of a file that functions write to; none while it is not there."""
    return path.read_text().splitlines() if path.exists() else []


def json_lines(text: str) -> list[dict[str, Any]]:
    """The JSON lines among what a daemon has printed."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
