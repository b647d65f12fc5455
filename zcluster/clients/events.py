"""Events from Python: ``AsyncClient.events`` and ``Client.events``.

    async with zcluster.AsyncClient() as c:
        async for e in c.events():                      # what happens from now on
            print(e["sequence"], e["name"], e["fields"])

Rules kept here:
- following survives the loss of the connection and of the master: it goes on from the last sequence that it has seen;
- what is gone by then is the event ``missed``, never a silence;
- what will not pass by waiting (a revoked key) ends it with that error.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from zcluster.clients.caller import Streaming
from zcluster.clients.checks import MAX_TIMEOUT_S, checked_text
from zcluster.errors import (
    Busy,
    Draining,
    MasterLost,
    NodeLost,
    NodeUnavailable,
    NoSuchNode,
    TimedOut,
    Unreachable,
    UsageError,
    ZClusterError,
)

Event = dict[str, Any]
PASSING = (Busy, Draining, MasterLost, NodeLost, NodeUnavailable, NoSuchNode, TimedOut, Unreachable)
"""Errors that pass while a master is away or begins."""
PAUSE_S = 0.05
PAUSE_MAX_S = 2.0
PAGE = 1000
MAX_SEQUENCE = 2**53 - 1
_random = secrets.SystemRandom()


class Link(Protocol):
    """What of a client's link matters here."""

    @property
    def up(self) -> bool: ...
    @property
    def refused(self) -> ZClusterError | None: ...


class Linked(Protocol):
    """What keeps a session: an AsyncClient."""

    @property
    def link(self) -> Link | None: ...


class Caller(Linked, Streaming, Protocol):
    """What makes the calls, and keeps a session: an AsyncClient."""


async def read(
    caller: Caller,
    after: int | None = None,
    *,
    names: Sequence[str] | str = (),
    since_s: float | None = None,
    follow: bool = True,
    limit: int | None = None,
) -> AsyncIterator[Event]:
    """As ``AsyncClient.events``."""
    args = {"after": _checked_sequence(after), "names": _checked_names(names), "since_s": since_s}
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise UsageError(f"limit is a number from 1 on, not {str(limit)[:40]!r}")
    source = _follow(caller, args) if follow else _past(caller, args, limit)
    count = 0
    async for event in source:
        yield event
        count += 1
        if count == limit:
            return


async def _past(caller: Caller, args: dict[str, Any], limit: int | None) -> AsyncIterator[Event]:
    """What is in the log by now; without a beginning the newest page."""
    newest = args["after"] is None and args["since_s"] is None
    left = PAGE if newest and limit is None else limit
    while left is None or left > 0:
        page = await caller.call("events.since", {**args, "limit": min(left or PAGE, PAGE)}, target="master")
        for event in page["events"]:
            yield event
        if left is not None:
            left -= len(page["events"])
        if newest or not page["more"]:
            return
        args = {**args, "after": page["next"], "since_s": None, "log": page["log"]}


async def _follow(caller: Caller, args: dict[str, Any]) -> AsyncIterator[Event]:
    pause_s = PAUSE_S
    while True:
        try:
            async for item in caller.stream("events.follow", args, target="master", timeout=MAX_TIMEOUT_S):
                pause_s = PAUSE_S
                if "name" not in item:  # where it begins
                    args = {**args, "log": item["log"], "after": item["after"], "since_s": None}
                    continue
                args["after"] = item["sequence"]
                yield item
        except PASSING as error:
            await asyncio.sleep((error.retry_after_s or 0.0) + _random.uniform(0, pause_s))
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
            await session_back(caller, error)


async def session_back(caller: Linked, error: ZClusterError) -> None:
    """Wait until the client has a session again; raises ``error`` when it was closed, or why its key is refused."""
    while True:
        link = caller.link
        if link is None:
            raise error
        if link.up:
            return
        if link.refused is not None:
            raise link.refused
        await asyncio.sleep(_random.uniform(PAUSE_S, 2 * PAUSE_S))


def _checked_sequence(after: object) -> int | None:
    if after is None:
        return None
    if not isinstance(after, int) or isinstance(after, bool) or not 0 <= after <= MAX_SEQUENCE:
        raise UsageError(f"after is the sequence of an event, not {str(after)[:40]!r}", hint="0 is before the first")
    return after


def _checked_names(names: Sequence[str] | str) -> list[str]:
    return [checked_text("names", each, "such as 'dead' or 'sync_*'") for each in ([names] if isinstance(names, str) else names)]
