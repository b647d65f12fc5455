"""Whom a node's sockets turned away: told to its log, its counters and its events.

Rules kept here:
- how much is told in a second is bounded (core/cuts.py); everything is counted;
- a stranger's key is shown to whoever wants to know of unknown keys, once a try that ZAP did not keep back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from zcluster.core.counters import Counters
from zcluster.core.cuts import Cuts
from zcluster.core.peers import Event
from zcluster.net.connections import REASONS, Connection
from zcluster.net.descriptors import descriptor_limit

UnknownKey = Callable[[str, str], str]
"""Is given a public key that nobody has, and its address; returns the reason for the log, "" for the usual one."""


class TurnedAway:
    """What a :class:`zcluster.net.front.Front` tells of strangers and of connections that it cut.

    Args:
        name_of: the name of a public key, "" when the ring has none.
        what: what the log calls a denial.
        unknown: who wants to know of unknown keys.
    """

    def __init__(
        self, counters: Counters, note: Callable[[Event], None], name_of: Callable[[str], str], clock: Callable[[], float],
        logger: logging.Logger, what: str = "connection denied", unknown: Sequence[UnknownKey] = (),
    ) -> None:  # fmt: skip
        self._cuts = Cuts(counters, note, name_of, clock())
        self._clock, self._logger, self._what, self._unknown = clock, logger, what, unknown

    def denied(self, address: str, reason: str) -> None:
        """ZAP denied somebody."""
        fields = self._cuts.denied(address, reason, self._clock())
        if fields is not None:
            self._logger.warning(self._what, extra={"fields": fields})

    def unknown_key(self, public: str, address: str) -> str:
        """ZAP denied a key that nobody has; returns the reason for the log."""
        return next(filter(None, [tell(public, address) for tell in self._unknown]), "")

    def limited(self) -> None:
        """ZAP denied an unknown key, one of too many to be told."""
        self._cuts.limited()

    def connection_cut(self, connection: Connection, reason: str) -> None:
        """A connection was cut."""
        self._cuts.cut(connection.address, connection.public, reason, REASONS[reason], self._clock())

    def descriptors_exhausted(self) -> None:
        """Somebody could not be taken in."""
        self._cuts.exhausted(descriptor_limit(), self._clock())
