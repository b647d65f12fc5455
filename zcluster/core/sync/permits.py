"""Permits: who may pull now, so that a thousand sinks do not come at once.

Rules kept here:
- at most ``limit`` permits are out; who asks when none is left waits, and gets the next one in the order of asking;
- a key has one permit or one place in the queue, however often it asks; the queue is bounded;
- no permit sticks: it ends by release, with its owner (a session) when that dies, or when it has shown no progress for
  ``stall_s``;
- a permit that was taken back is worth nothing: its later progress and release change nothing.

Time is an argument and does not go backwards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from zcluster.errors import Busy

MAX_WAITING = 1_000_000
RETRY_AFTER_S = 5.0

K = TypeVar("K", bound=Hashable)


class Permits(Generic[K]):
    """A bounded number of permits and a queue for them.

    Args:
        limit: how many may be out at once, at least 1.
        stall_s: how long one may be out without progress.
        max_waiting: how many may wait.
    """

    def __init__(self, limit: int, stall_s: float, max_waiting: int = MAX_WAITING) -> None:
        self._limit, self._stall_s, self._max_waiting = limit, stall_s, max_waiting
        self._out: OrderedDict[K, float] = OrderedDict()
        """Key -> when it last showed progress, the longest ago first."""
        self._waiting: OrderedDict[K, None] = OrderedDict()
        self._owner: dict[K, int] = {}
        self._keys: dict[int, set[K]] = {}
        self._granted: dict[K, None] = {}

    @property
    def out(self) -> int:
        """How many permits are out."""
        return len(self._out)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def holds(self, key: K) -> bool:
        """Whether ``key`` has a permit."""
        return key in self._out

    def ask(self, key: K, owner: int, now: float) -> bool:
        """Ask for a permit. Whether it comes at once or later, :meth:`take_granted` says so, each time that it was asked for.

        Returns:
            Whether ``key`` has it now; else it waits.

        Raises:
            Busy: too many wait already.
        """
        if key in self._owner:
            self._disown(key)
        elif len(self._out) < self._limit:
            self._out[key] = now
        elif len(self._waiting) >= self._max_waiting:
            raise Busy(f"{self._max_waiting} copies wait for their turn already", retry_after_s=RETRY_AFTER_S)
        else:
            self._waiting[key] = None
        self._owner[key] = owner
        self._keys.setdefault(owner, set()).add(key)
        if key not in self._out:
            return False
        self.progress(key, now)
        self._granted[key] = None
        return True

    def release(self, key: K, now: float) -> None:
        """``key`` needs no permit any more, whether it has one, waits for one, or neither."""
        if key in self._owner:
            self._remove(key)
            self._grant(now)

    def drop(self, owner: int, now: float) -> None:
        """The owner is gone, and all its permits and places with it."""
        for key in list(self._keys.get(owner, ())):
            self._remove(key)
        self._grant(now)

    def progress(self, key: K, now: float) -> None:
        """``key`` is using its permit."""
        if key in self._out:
            self._out[key] = now
            self._out.move_to_end(key)

    def set_limit(self, limit: int, now: float) -> None:
        """Change how many may be out; those that are out beyond a lower one stay until they end."""
        self._limit = limit
        self._grant(now)

    def take_granted(self) -> list[K]:
        """The keys that have got their permit since the last call, in order."""
        granted, self._granted = list(self._granted), {}
        return granted

    def next_deadline(self) -> float | None:
        """When :meth:`handle_deadline` has to be called; None while no permit is out."""
        return next(iter(self._out.values())) + self._stall_s if self._out else None

    def handle_deadline(self, now: float) -> list[K]:
        """Take back what has stalled, and say which keys have lost their permit."""
        lost = []
        for key, since in self._out.items():
            if now < since + self._stall_s:
                break
            lost.append(key)
        for key in lost:
            self._remove(key)
        self._grant(now)
        return lost

    def _grant(self, now: float) -> None:
        while self._waiting and len(self._out) < self._limit:
            key, _ = self._waiting.popitem(last=False)
            self._out[key] = now
            self._granted[key] = None

    def _disown(self, key: K) -> None:
        owner = self._owner.pop(key)
        keys = self._keys[owner]
        keys.discard(key)
        if not keys:
            del self._keys[owner]

    def _remove(self, key: K) -> None:
        self._disown(key)
        self._out.pop(key, None)
        self._waiting.pop(key, None)
        self._granted.pop(key, None)
