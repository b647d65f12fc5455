"""Who uses a Front (front.py), and who hears of those that it turns away."""

from __future__ import annotations

from typing import Protocol

from zcluster.net.guard import Told
from zcluster.net.zap import Strangers


class Owner(Protocol):
    """What the front tells."""

    def front_message(self, route: bytes, public: str, data: bytes) -> None: ...
    def front_malformed(self, route: bytes, public: str, reason: str) -> None: ...
    def front_disconnected(self, route: bytes) -> None: ...
    def front_unblocked(self, route: bytes) -> None: ...
    def front_turn_over(self) -> None: ...
    def front_admits(self, public: str) -> bool: ...
    def front_has_session(self, route: bytes) -> bool: ...
    def front_look(self) -> None:
        """Called every PULSE_S: look at what may have changed."""


class TurnedAway(Strangers, Told, Protocol):
    """Who hears of those that are not let in, and of connections that were cut."""
