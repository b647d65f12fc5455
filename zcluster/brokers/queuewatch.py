"""Who watches jobs go from state to state: streams of ``queue.watch``.

Rules kept here:
- a watcher that does not read is not waited for: what does not fit into its line is counted, and told it with the next that does;
- while nobody watches nothing is gathered;
- one key has at most MAX_WATCHERS_PER_KEY of the MAX_WATCHERS places.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from zcluster.core.queue.following import may_see
from zcluster.core.queue.job import Job, State, Step
from zcluster.core.queue.jobid import job_id
from zcluster.errors import Busy

MAX_WAITING = 10_000
MAX_WATCHERS = 64
MAX_WATCHERS_PER_KEY = 8


@dataclass(eq=False)
class _Watcher:
    key: str
    admin: bool
    state: int | None
    function: str
    line: asyncio.Queue[dict[str, Any] | None] = field(default_factory=lambda: asyncio.Queue(MAX_WAITING))
    missed: int = 0


class Watchers:
    """All that watch.

    Args:
        watched: told when the first one comes and the last one goes.
    """

    def __init__(self, watched: Callable[[bool], None]) -> None:
        self.store = ""
        self._watched = watched
        self._watchers: dict[_Watcher, None] = {}

    def changed(self, steps: Iterable[tuple[Job, Step]]) -> None:
        """These jobs have made these steps."""
        for job, step in steps:
            row = {
                "id": job_id(self.store, job.number), "function": job.function, "state": State(step.state).word,
                "node": step.node, "attempt": step.attempt, "at_s": step.at_s, "error": step.error,
            }  # fmt: skip
            for watcher in self._watchers:
                fits = watcher.state in (None, step.state) and watcher.function in ("", job.function)
                if not fits or not may_see(watcher.key, watcher.admin, job):
                    continue
                if watcher.line.full():
                    watcher.missed += 1
                else:
                    watcher.line.put_nowait({**row, "missed": watcher.missed} if watcher.missed else row)
                    watcher.missed = 0

    async def watch(self, key: str, admin: bool, state: State | None, function: str) -> AsyncIterator[dict[str, Any]]:
        """Each transition from now on. Raises Busy beyond MAX_WATCHERS, or MAX_WATCHERS_PER_KEY of one key."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise Busy(f"{MAX_WATCHERS} watch already", hint="try again later", retry_after_s=5.0)
        if sum(watcher.key == key for watcher in self._watchers) >= MAX_WATCHERS_PER_KEY:
            hint = "end one of them, or ask one for all states and functions"
            raise Busy(f"{MAX_WATCHERS_PER_KEY} watch with this key already", hint=hint, retry_after_s=5.0)
        watcher = _Watcher(key, admin, state, function)
        self._watchers[watcher] = None
        self._watched(True)
        try:
            while (row := await watcher.line.get()) is not None:
                yield row
        finally:
            del self._watchers[watcher]
            if not self._watchers:
                self._watched(False)

    def close(self) -> None:
        """Nothing more will come."""
        for watcher in self._watchers:
            if watcher.line.full():
                watcher.line.get_nowait()
            watcher.line.put_nowait(None)
