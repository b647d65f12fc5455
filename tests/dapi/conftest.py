"""A runner with a clock of the test's own, and a record of what it says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from zcluster.dapi import Function, Job, Runner
from zcluster.errors import ZClusterError, error_from_dict
from zcluster.wire import Mark

PATIENCE_S = 60.0
"""A test that hangs fails after this; no test waits for it to pass."""


class Rig:
    """Runs declared functions in a Runner whose clock stands at ``now`` until the test moves it."""

    def __init__(self, *calls: Callable[..., Any], slots: int = 4, **settings: Any) -> None:
        self.now = 100.0
        self.functions = {found.name: found for found in map(Function, calls)}
        self.ended: list[tuple[int, bool, bytes]] = []
        self.items: list[tuple[int, Any]] = []
        self._changed = asyncio.Event()
        self._next_id = 0
        settings = {"processes": 1, "modules": [], "entry_points": False, **settings}
        self.runner = Runner(
            "worker-1",
            self.functions,
            slots=slots,
            clock=lambda: self.now,
            finished=self._finished,
            item=self._item,
            logger=logging.getLogger("zcluster.test"),
            **settings,
        )

    def start(
        self, name: str, args: Any = None, *, deadline_s: float = 1000.0, job_id: int | None = None, mark: Mark | None = None
    ) -> int:
        """Start a job; its id."""
        if job_id is None:
            self._next_id += 1
            job_id = self._next_id
        body = b"" if args is None else orjson.dumps(args)
        self.runner.start(Job(job_id, self.functions[name], body, deadline_s, "alice", "client", f"7.{job_id}", mark))
        return job_id

    def ends(self, job_id: int) -> list[tuple[bool, bytes]]:
        """Every end that was reported of a job: one, if all is well."""
        return [(ok, body) for ended_id, ok, body in self.ended if ended_id == job_id]

    def error(self, job_id: int) -> ZClusterError:
        """The error that the job ended with."""
        ((ok, body),) = self.ends(job_id)
        assert not ok
        return error_from_dict(orjson.loads(body))

    async def end(self, job_id: int) -> Any:
        """The job's result, when it has ended; raises its error."""
        await self.until(lambda: bool(self.ends(job_id)))
        ((ok, body),) = self.ends(job_id)
        if not ok:
            raise self.error(job_id)
        return orjson.loads(body) if body else None

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what the runner told makes ``condition`` true."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def turns(self, count: int = 20) -> None:
        """Let the loop go round."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def settled(self) -> None:
        """Let the loop go round until no stopped function is left running."""
        async with asyncio.timeout(PATIENCE_S):
            while self.runner.abandoned:  # noqa: ASYNC110 - no event tells: nobody is told of what was stopped
                await asyncio.sleep(0)

    def _finished(self, job_id: int, ok: bool, body: bytes) -> None:
        self.ended.append((job_id, ok, body))
        self._changed.set()

    def _item(self, job_id: int, body: bytes) -> None:
        self.items.append((job_id, orjson.loads(body)))
        self._changed.set()


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    """Makes a Rig inside a running loop; it is closed after the test."""
    made: list[Rig] = []

    def make(*calls: Callable[..., Any], **settings: Any) -> Rig:
        made.append(Rig(*calls, **settings))
        return made[-1]

    yield make
    for rig in made:
        rig.runner.close()
        ids = [job_id for job_id, _, _ in rig.ended]
        assert len(ids) == len(set(ids)), "a job was finished twice"
