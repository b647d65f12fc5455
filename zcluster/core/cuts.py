"""What a node tells of those whom it does not let in, and of connections that it cuts.

Rules kept here:
- everything is counted; of each kind at most PER_S a second are told one by one, the next that is told says how many were not;
- a connection is told by its address, and by the name that the ring has for its key; never by what its peer says of itself;
- time comes in with each call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zcluster.core.counters import Counters
from zcluster.core.peers import Event
from zcluster.core.tries import Bucket

PER_S = 10
MAX_ADDRESS_CHARS = 64


class Cuts:
    """Counts and tells.

    Args:
        note: is given each event that is told.
        name_of: the name of a public key, "" when the ring has none.
    """

    def __init__(
        self, counters: Counters, note: Callable[[Event], None], name_of: Callable[[str], str], now: float, per_s: int = PER_S
    ) -> None:
        self._counters, self._note, self._name_of = counters, note, name_of
        self._cuts, self._denials = Bucket(per_s, per_s, now), Bucket(per_s, per_s, now)
        self._accepts = Bucket(1, 1.0, now)
        self._more = {"connection_cut": 0, "accept_failed": 0, "denied": 0}

    def cut(self, address: str, public: str, reason: str, because: str, now: float) -> None:
        """A connection was cut for ``reason``."""
        self._counters.add(f"cut_{reason}")
        if self._told("connection_cut", self._cuts, now):
            name = self._name_of(public) if public else ""
            fields = {"address": address[:MAX_ADDRESS_CHARS], "name": name, "reason": because}
            self._note(Event("connection_cut", self._with_more("connection_cut", fields), "warning"))

    def exhausted(self, descriptors: int, now: float) -> None:
        """A connection could not be taken, or had to go: of ``descriptors`` none is left."""
        self._counters.add("accept_failed")
        if self._told("accept_failed", self._accepts, now):
            fields = {"descriptors": descriptors, "reason": "no file descriptors left"}
            self._note(Event("accept_failed", self._with_more("accept_failed", fields), "warning"))

    def denied(self, address: str, reason: str, now: float) -> dict[str, Any] | None:
        """ZAP let somebody in not; returns what the log is to say, None: nothing."""
        self._counters.add("zap_denied")
        if not self._told("denied", self._denials, now):
            return None
        return self._with_more("denied", {"address": address[:MAX_ADDRESS_CHARS], "reason": reason})

    def limited(self) -> None:
        """ZAP let an unknown key in not, which is one of too many to be looked at one by one."""
        self._counters.add("zap_denied")
        self._counters.add("zap_limited")

    def _told(self, kind: str, bucket: Bucket, now: float) -> bool:
        told = bucket.take(now)
        if not told:
            self._more[kind] += 1
        return told

    def _with_more(self, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        more, self._more[kind] = self._more[kind], 0
        return {**fields, "more": more} if more else fields
