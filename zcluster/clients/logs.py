"""Logs of nodes from Python: ``AsyncClient.logs`` and ``Client.logs``.

    async with zcluster.AsyncClient() as c:
        async for line in c.logs("worker-*", lines=20):
            print(line["time"], line["node"], line["message"])

Rules kept here:
- the newest lines of several nodes come in the order of their times, by the nodes' clocks; what follows, as it arrives;
- a node that does not answer is a line that says why (it has ``error``, the code), and all of them not answering is an error;
- following survives a lost connection and a node that starts again: then all lines of its new process are told;
- what is gone by then is a line that says how much, never a silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from zcluster.clients.checks import MAX_TIMEOUT_S, checked_target
from zcluster.clients.events import PASSING, PAUSE_MAX_S, PAUSE_S, Linked, session_back
from zcluster.core.targets import ALL, MASTER, is_single, select
from zcluster.errors import NoSuchNode, UsageError, ZClusterError
from zcluster.process.logs import LEVELS
from zcluster.process.logtail import MAX_LINES

Line = dict[str, Any]
LOOK_AGAIN_S = 5.0
"""How often a follower of several nodes looks whether there are more."""
AHEAD = 1000
"""Lines that wait for whoever reads them; then the nodes wait, and tell later what was too much."""
_random = secrets.SystemRandom()


class Answer(Protocol):
    """What one node said to a fan-out."""

    @property
    def node(self) -> str: ...
    @property
    def value(self) -> Any: ...
    @property
    def error(self) -> ZClusterError | None: ...


class Caller(Linked, Protocol):
    """What makes the calls: an AsyncClient."""

    def fan_out(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "all", timeout: float | None = None
    ) -> AsyncIterator[Answer]: ...

    def stream(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None
    ) -> AsyncIterator[Any]: ...

    async def nodes(self) -> list[dict[str, Any]]: ...


async def read(
    caller: Caller, target: str = MASTER, *, lines: int = 100, level: str = "debug", follow: bool = False
) -> AsyncIterator[Line]:
    """As ``AsyncClient.logs``."""
    if isinstance(lines, bool) or not isinstance(lines, int) or not 0 <= lines <= MAX_LINES:
        raise UsageError(f"lines is a number from 0 to {MAX_LINES}, not {str(lines)[:40]!r}")
    if level not in LEVELS:
        raise UsageError(f"there is no level {str(level)[:40]!r}", hint=f"one of {', '.join(LEVELS)}")
    asked = {"lines": lines, "level": level}
    answers = [answer async for answer in caller.fan_out("node.logs", asked, target=checked_target(target))]
    failed = [(answer.node, answer.error) for answer in answers if answer.error is not None]
    if failed and len(failed) == len(answers) and failed[0][1] is not None:
        raise failed[0][1]
    good = {answer.node: answer.value for answer in answers if answer.error is None}
    found = sorted((line for said in good.values() for line in said[1:]), key=lambda line: str(line["time"]))
    for line in found[-lines:] if lines else ():
        yield line
    for node, error in failed:
        yield _trouble(node, error)
    if follow:
        starts = {answer.node: (0, "") for answer in answers if answer.error is not None}
        starts |= {node: (said[0]["newest"], said[0]["log"]) for node, said in good.items()}
        async with contextlib.aclosing(_Following(caller, level, target).run(starts)) as told:
            async for line in told:
                yield line


class _Following:
    """Many nodes, one stream each; what they say, in one."""

    def __init__(self, caller: Caller, level: str, target: str) -> None:
        self._caller, self._level, self._target = caller, level, target
        self._said: asyncio.Queue[Line | ZClusterError] = asyncio.Queue(AHEAD)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self, starts: Mapping[str, tuple[int, str]]) -> AsyncGenerator[Line, None]:
        """Lines for ever. Raises what no waiting will change, when no node is left to follow."""
        for node, (after, log) in starts.items():
            self._tasks[node] = asyncio.create_task(self._follow(node, after, log))
        looking = None if is_single(self._target) else asyncio.create_task(self._look_for_more())
        try:
            while True:
                said = await self._said.get()
                if isinstance(said, ZClusterError):
                    raise said
                yield said
        finally:
            tasks = [*self._tasks.values(), *([looking] if looking is not None else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, node: str, after: int, log: str) -> None:
        pause_s, told = PAUSE_S, after == 0
        while True:
            asked = {"level": self._level, "follow": True, "after": after, "log": log}
            try:
                async for line in self._caller.stream("node.logs", asked, target=node, timeout=MAX_TIMEOUT_S):
                    pause_s, told = PAUSE_S, False
                    if "sequence" not in line:  # where it begins
                        after, log = (after if line["log"] == log else 0), line["log"]
                        asked = {**asked, "log": log}
                        continue
                    after = line["sequence"]
                    await self._said.put(line)
            except PASSING as error:
                if not told:
                    await self._said.put(_trouble(node, error))
                    told = True
                await asyncio.sleep((error.retry_after_s or 0.0) + _random.uniform(0, pause_s))
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
                try:
                    await session_back(self._caller, error)
                except ZClusterError as final:
                    await self._said.put(final)
                    return
            except ZClusterError as error:
                await self._ended(node, error)
                return

    async def _ended(self, node: str, error: ZClusterError) -> None:
        """No waiting will change that ``node`` is not followed."""
        del self._tasks[node]
        await self._said.put(_trouble(node, error) if self._tasks else error)

    async def _look_for_more(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            with contextlib.suppress(*PASSING):
                for node in _meant(self._target, await self._caller.nodes()):
                    if node not in self._tasks:
                        self._tasks[node] = asyncio.create_task(self._follow(node, 0, ""))


def _meant(target: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names that ``target`` means now; of a group's agents only the master knows where they are."""
    if target.startswith("group:"):
        return []
    names = [str(row["name"]) for row in rows if row.get("state") == "ready"]
    master = next((str(row["name"]) for row in rows if row.get("role") == MASTER), MASTER)
    if target == ALL:
        return names
    found: dict[str, None] = {}
    for part in target.split(","):
        with contextlib.suppress(NoSuchNode):
            found.update(dict.fromkeys(select(part, names, master)))
    return list(found)


def _trouble(node: str, error: ZClusterError | None) -> Line:
    """A line in place of those of a node that does not answer."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    code, message = ("failed", "") if error is None else (error.code, str(error))
    return {"sequence": 0, "time": now, "level": "error", "node": node, "message": message, "fields": {}, "error": code}
