"""What a worker measures goes to its master: METRICS, at the interval of its live configuration.

Rules kept here:
- the first leaves when the session is there, so that a master that has just begun knows at once;
- what was measured while there was no session is not sent later: it is old then.
"""

from __future__ import annotations

from typing import Any

from zcluster.config import Loaded
from zcluster.dapi.function import Function
from zcluster.nodes.desk import Desk
from zcluster.nodes.measuring import Live, Measuring, Samples
from zcluster.wire import Message, Welcome
from zcluster.wire.agents import Metrics
from zcluster.workers.uplink import Uplink


class WorkerMetrics:
    """The part of a worker that tells what it measures."""

    kinds: frozenset[int] = frozenset()

    def __init__(self, desk: Desk, uplink: Uplink, live: Live, sampler: Samples) -> None:
        self._uplink = uplink
        self._measuring = Measuring(live, sampler, self._tell, desk.logger)

    def functions(self) -> dict[str, Function]:
        """None: the master tells what it was told."""
        return {}

    async def start(self) -> None:
        """Measure from now on."""
        self._uplink.attach(self)
        self._measuring.start()

    def apply(self, loaded: Loaded) -> None:
        """The interval and the metrics are live configuration."""

    async def close(self) -> None:
        """Measure no longer."""
        await self._measuring.close()

    def link_up(self, welcome: Welcome) -> None:
        self._measuring.now()

    def link_down(self) -> None:
        """What is measured now is dropped by the uplink."""

    def receive(self, message: Message, data: bytes, offset: int) -> None:
        """The master says nothing about metrics."""

    def _tell(self, values: dict[str, Any], config: str) -> None:
        self._uplink.say(Metrics(values=values, config=config))
