"""Large arguments on their way to a node.

Rules kept here:
- a body is gathered against credit; all bodies that are being gathered hold at most ``transfer_bytes`` together, and one alone
  always has room;
- those of inline functions count until their job has ended: they are here, and the loop reads one after the other;
- those beyond wait for credit in their order.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from zcluster.core.transfer import Inbound
from zcluster.wire import Grant, Of


class Numbered(Protocol):
    """What is looked at of a job: its leg."""

    @property
    def id(self) -> int: ...


class Windows(Protocol):
    """The limits that hold for what begins now."""

    @property
    def window_bytes(self) -> int: ...
    @property
    def transfer_bytes(self) -> int: ...


J = TypeVar("J", bound=Numbered)


class Gathering(Generic[J]):
    """The bodies of one session; ``len`` of it are not complete."""

    def __init__(self, limits: Windows) -> None:
        self.limits = limits
        self._coming: dict[int, tuple[J, Inbound]] = {}
        self._waiting: deque[tuple[J, int]] = deque()
        self._unread: dict[int, int] = {}
        """Bytes of those that are complete and count still."""
        self._held_bytes = 0
        self._grants: list[Grant] = []

    def __len__(self) -> int:
        return len(self._coming) + len(self._waiting)

    def begin(self, job: J, size: int) -> None:
        """Gather ``size`` bytes for ``job`` as soon as there is room."""
        self._waiting.append((job, size))
        self._next()

    def job(self, leg: int) -> J | None:
        """The job whose body is coming."""
        entry = self._coming.get(leg)
        return entry[0] if entry is not None else None

    def accept(self, leg: int, offset: int, data: memoryview, *, unread: bool) -> bytearray | None:
        """Take a piece for a leg whose body is coming; returns the body when it is complete.

        Args:
            unread: it counts until :meth:`read`.

        Raises:
            PeerError: it is not the next piece, or was not granted.
        """
        inbound = self._coming[leg][1]
        inbound.accept(offset, data)
        if not inbound.complete:
            self._grant(leg, inbound)
            return None
        if unread:
            self._unread[leg] = inbound.size
            self._held_bytes += inbound.size
        self.forget(leg)
        return inbound.body

    def read(self, leg: int) -> None:
        """The job of ``leg`` has ended: its body is here no more. Nothing happens where it does not count."""
        size = self._unread.pop(leg, 0)
        if size:
            self._held_bytes -= size
            self._next()

    def forget(self, leg: int) -> J | None:
        """A body is not wanted, or complete: make room for those that wait. Returns its job, None when there is none."""
        entry = self._coming.pop(leg, None)
        if entry is not None:
            self._held_bytes -= entry[1].size
            self._next()
            return entry[0]
        for waiting in self._waiting:
            if waiting[0].id == leg:
                self._waiting.remove(waiting)
                self._next()
                return waiting[0]
        return None

    def take(self) -> list[Grant]:
        """The credit that is to be told now."""
        grants, self._grants = self._grants, []
        return grants

    def _next(self) -> None:
        """Begin with those that wait, in their order, as far as there is room."""
        limit_bytes = self.limits.transfer_bytes
        while self._waiting and (not self._held_bytes or self._held_bytes + self._waiting[0][1] <= limit_bytes):
            job, size = self._waiting.popleft()
            self._held_bytes += size
            inbound = Inbound(size, self.limits.window_bytes)
            self._coming[job.id] = (job, inbound)
            self._grant(job.id, inbound)

    def _grant(self, leg: int, inbound: Inbound) -> None:
        upto = inbound.next_grant()
        if upto is not None:
            self._grants.append(Grant(0, leg, Of.REQUEST_BODY, upto))
