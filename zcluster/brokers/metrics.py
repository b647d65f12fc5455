"""What nodes measure, as ``cluster.nodes`` tells it: METRICS of the workers, and the master's own.

Rules kept here:
- only the newest is kept, and nothing is kept that is not small and plain: numbers by name, by metric.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from zcluster.config import Loaded
from zcluster.core.peers import Node, Peer
from zcluster.dapi.function import Function
from zcluster.errors import PeerError
from zcluster.nodes.desk import Desk
from zcluster.nodes.measuring import Live, Measuring, Samples
from zcluster.wire import Hello, Message
from zcluster.wire.agents import Metrics

MAX_METRICS = 16
MAX_VALUES = 32
"""Of one metric."""
MAX_NUMBER = 2.0**63
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


def checked(values: dict[str, Any]) -> dict[str, dict[str, float]]:
    """``values`` as they are kept: metric -> name -> number.

    Raises:
        PeerError: they are something else, or too many.
    """
    if len(values) > MAX_METRICS:
        raise PeerError(f"{len(values)} metrics, at most {MAX_METRICS} are allowed")
    for metric, found in values.items():
        if not NAME.fullmatch(metric):
            raise PeerError(f"{metric[:40]!r} is no name of a metric")
        if not isinstance(found, dict) or len(found) > MAX_VALUES:
            raise PeerError(f"the metric {metric} is no object of at most {MAX_VALUES} numbers")
        for name, value in found.items():
            if not NAME.fullmatch(name) or not _is_number(value):
                raise PeerError(f"the metric {metric} holds something else than numbers by name")
    return values


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) <= MAX_NUMBER  # which no infinity is, and no NaN


class MasterMetrics:
    """The part of a master that knows what its nodes measure.

    Args:
        me: the master as a node.
    """

    kinds = frozenset({Metrics.kind})

    def __init__(self, desk: Desk, me: Callable[[], Node], live: Live, sampler: Samples) -> None:
        self._desk, self._me = desk, me
        self._measuring = Measuring(live, sampler, self._own, desk.logger)

    def functions(self) -> dict[str, Function]:
        """None: ``cluster.nodes`` tells."""
        return {}

    async def start(self) -> None:
        """Listen, and measure itself."""
        self._desk.sessions.attach(self)
        self._measuring.start()

    def apply(self, loaded: Loaded) -> None:
        """The interval and the metrics are live configuration."""

    async def close(self) -> None:
        """Measure no longer."""
        await self._measuring.close()

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """The worker's first METRICS follow by themselves."""

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        """What it measured last stays, with its age."""

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        assert isinstance(message, Metrics)
        node = peer.node
        if node is None:
            raise PeerError("METRICS come from nodes")
        node.metrics, node.metrics_at_s = checked(message.values), now
        node.config = message.config

    def _own(self, values: dict[str, Any], config: str) -> None:
        node = self._me()
        node.metrics, node.metrics_at_s, node.config = values, self._desk.clock(), config
