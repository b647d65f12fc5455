"""A node measures itself: at the interval and with the list of metrics of its live configuration.

Rules kept here:
- a change of the configuration holds at once: it is measured anew, and the next time is counted from then;
- what is measured is read in a thread: a file system that hangs delays the next measurement and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from zcluster.core.liveconfig import NodeConfig
from zcluster.nodes.tasks import keep_running


class Live(Protocol):
    """The live configuration of the node (nodes/liveconfig.py)."""

    @property
    def current(self) -> NodeConfig: ...
    def on_change(self, subscriber: Callable[[NodeConfig, NodeConfig], None]) -> None: ...


class Samples(Protocol):
    """What measures (nodes/sampling.py)."""

    def sample(self, metrics: Iterable[str]) -> dict[str, Any]: ...


class Measuring:
    """Measures, and tells what it found.

    Args:
        tell: gets the values by metric, and the digest of the configuration by which they were measured.
    """

    def __init__(self, live: Live, sampler: Samples, tell: Callable[[dict[str, Any], str], None], logger: logging.Logger) -> None:
        self._live, self._sampler, self._tell, self._logger = live, sampler, tell, logger
        self._again = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        live.on_change(lambda old, new: self.now())

    def start(self) -> None:
        """Measure now and from now on."""
        self._task = asyncio.create_task(keep_running(self._run, self._logger, "measuring"), name="zcluster-metrics")

    def now(self) -> None:
        """Measure now."""
        self._again.set()

    async def close(self) -> None:
        """Measure no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._again.clear()
            config = self._live.current
            try:
                self._tell(await asyncio.to_thread(self._sampler.sample, config.metrics), config.digest)
            except (OSError, RuntimeError) as error:  # no thread, no file descriptors: the next time is soon
                self._logger.warning("nothing was measured: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(config.interval):
                    await self._again.wait()
