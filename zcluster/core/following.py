"""A client's waits for durable jobs: from the number of a job to how it ended.

Rules kept here:
- a wait ends exactly once: with the outcome, with "no such job", at its deadline, or when nobody wants to know any more;
- a wait outlives sessions: its job is followed again in the next one;
- that a wait ends, however it does, changes nothing of the job;
- a job is followed once, however many wait for it, and no longer when the last of them has left;
- at most MAX_OPEN waits are open at once; the next one is Busy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from zcluster.core.batch import Outgoing
from zcluster.core.queue.job import State
from zcluster.core.queue.jobid import job_id
from zcluster.core.wheel import Wheel
from zcluster.errors import Busy, NoSuchJob, TimedOut, ZClusterError
from zcluster.wire.jobs import Follow, Outcomes

MAX_OPEN = 131_072
MAX_TOGETHER = 4096
"""Numbers of one FOLLOW."""


class Wait(msgspec.Struct, eq=False):
    """Somebody who waits for the end of a job. ``sink`` is the owner's. When it has ended, ``error`` says why nothing is known,
    or ``state`` how the job ended."""

    store: str
    number: int
    deadline_s: float
    timeout_s: float
    sink: Any = None
    state: int = 0
    node: str = ""
    attempt: int = 0
    body: bytes = b""
    """The value, or the error, as JSON."""
    large: bool = False
    """The value is too large to be told; ``body`` is empty."""
    error: ZClusterError | None = None

    @property
    def word(self) -> str:
        """The word for ``state``."""
        return State(self.state).word


class _Followed:
    """The jobs of one store: who waits for them, and what is to be said of that."""

    __slots__ = ("begin", "stop", "waits")

    def __init__(self) -> None:
        self.waits: dict[int, Wait | dict[Wait, None]] = {}
        """By number: the one who waits for it, or all of them."""
        self.begin: dict[int, None] = {}
        self.stop: dict[int, None] = {}


class Following:
    """The table of a client's open waits. What has ended is returned, each once."""

    def __init__(self) -> None:
        self.max_open = MAX_OPEN
        self.up = False
        self.stray = 0
        """Outcomes that nobody waits for."""
        self.open = 0
        """How many waits there are."""
        self._stores: dict[str, _Followed] = {}
        self._wheel: Wheel[Wait] = Wheel()

    # -- the caller's side ------------------------------------------------------------------------------------------

    def follow(self, store: str, number: int, now: float, timeout_s: float) -> Wait:
        """Wait for the end of a job; it is asked for with the next :meth:`take`.

        Raises:
            Busy: max_open waits are open.
        """
        if self.open >= self.max_open:
            raise Busy(f"{self.max_open} jobs are waited for", hint="await some of them first", retry_after_s=0.1)
        deadline_s = now + timeout_s
        wait = Wait(store, number, deadline_s, timeout_s)
        followed = self._stores.get(store)
        if followed is None:
            followed = self._stores[store] = _Followed()
        found = followed.waits.setdefault(number, wait)
        if isinstance(found, dict):
            found[wait] = None
        elif found is not wait:
            followed.waits[number] = {found: None, wait: None}
        elif self.up:
            followed.begin[number] = None
        self.open += 1
        self._wheel.add(deadline_s, wait)
        return wait

    def leave(self, wait: Wait) -> None:
        """Wait no longer; the job is not touched."""
        if self._unlink(wait):
            self._wheel.remove(wait.deadline_s, wait)

    # -- the session's side -----------------------------------------------------------------------------------------

    def session_up(self) -> None:
        """A session is open: all jobs that are waited for are followed in it."""
        self.up = True
        for followed in self._stores.values():
            followed.begin = dict.fromkeys(followed.waits)

    def session_lost(self) -> None:
        """The session ended; what was asked for in it is forgotten there."""
        self.up = False
        for followed in self._stores.values():
            followed.begin, followed.stop = {}, {}
        self._stores = {store: followed for store, followed in self._stores.items() if followed.waits}

    def outcomes(self, message: Outcomes, data: bytes, offset: int) -> list[Wait]:
        """How jobs have ended; the bodies are in ``data`` from ``offset`` on."""
        ended: list[Wait] = []
        store = message.store
        followed = self._stores.get(store)
        waits = followed.waits if followed is not None else {}
        forget = self._wheel.remove
        for group in message.groups:
            number, state, node, attempt = group.first_number, group.state, group.node, group.attempt
            for size in group.sizes:
                end = offset + size
                found = waits.pop(number, None)
                if found is None:
                    self.stray += 1
                for wait in found if isinstance(found, dict) else () if found is None else (found,):
                    wait.state, wait.node, wait.attempt, wait.body = state, node, attempt, data[offset:end]
                    forget(wait.deadline_s, wait)
                    ended.append(wait)
                number += 1
                offset = end
        for large in message.large:
            for wait in self._told(waits, large.number, ended):
                wait.state, wait.node, wait.attempt, wait.large = large.state, large.node, large.attempt, True
        for number in message.unknown:
            for wait in self._told(waits, number, ended):
                wait.error = NoSuchJob(
                    f"there is no job {job_id(store, number)}, or it is not yours",
                    hint="its outcome is kept for its retention only; `zcluster queue ls` lists the jobs",
                )
        self.open -= len(ended)
        return ended

    def end_all(self, error: ZClusterError) -> list[Wait]:
        """Every wait ends with ``error``."""
        ended: list[Wait] = []
        for followed in self._stores.values():
            for number in list(followed.waits):
                for wait in self._told(followed.waits, number, ended):
                    wait.error = error
            followed.begin, followed.stop = {}, {}
        self.open = 0
        return ended

    # -- time and output --------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        return self._wheel.next_deadline()

    def handle_deadline(self, now: float) -> list[Wait]:
        """The waits whose deadline has passed."""
        ended: list[Wait] = []
        for wait in self._wheel.expired(now):
            if self._unlink(wait):
                name = job_id(wait.store, wait.number)
                wait.error = TimedOut(
                    f"job {name} has not ended in {wait.timeout_s:g} s; it goes on", hint=f"see `zcluster queue show {name}`"
                )
                ended.append(wait)
        return ended

    def take(self) -> list[Outgoing]:
        """What is to be sent now, in order: stops go first, because a job may be followed again in the same turn."""
        if not self.up or not self._stores:
            return []
        out: list[Outgoing] = []
        for store, followed in list(self._stores.items()):
            if followed.stop:
                out += _follows(store, followed.stop, stop=True)
                followed.stop = {}
            if followed.begin:
                out += _follows(store, followed.begin, stop=False)
                followed.begin = {}
            if not followed.waits:
                del self._stores[store]
        return out

    # -- inside -----------------------------------------------------------------------------------------------------

    def _told(self, waits: dict[int, Wait | dict[Wait, None]], number: int, ended: list[Wait]) -> Iterable[Wait]:
        """Those who wait for ``number``, who wait no longer."""
        found = waits.pop(number, None)
        if found is None:
            self.stray += 1
            return ()
        told = list(found) if isinstance(found, dict) else [found]
        for wait in told:
            self._wheel.remove(wait.deadline_s, wait)
        ended += told
        return told

    def _unlink(self, wait: Wait) -> bool:
        """Take one wait out of the table; false when it is not there any more."""
        followed = self._stores.get(wait.store)
        found = followed.waits.get(wait.number) if followed is not None else None
        if followed is None or found is None:
            return False
        if isinstance(found, dict):
            if wait not in found:
                return False
            del found[wait]
        elif found is not wait:
            return False
        if not isinstance(found, dict) or not found:
            self._unfollow(followed, wait)
        self.open -= 1
        return True

    def _unfollow(self, followed: _Followed, wait: Wait) -> None:
        """The last one who waits for a job leaves."""
        del followed.waits[wait.number]
        if wait.number in followed.begin:
            del followed.begin[wait.number]
        elif self.up:
            followed.stop[wait.number] = None
        if not (followed.waits or followed.begin or followed.stop):
            del self._stores[wait.store]


def _follows(store: str, numbers: Iterable[int], *, stop: bool) -> list[Outgoing]:
    every = list(numbers)
    return [
        (Follow(store=store, numbers=every[start : start + MAX_TOGETHER], stop=stop), [])
        for start in range(0, len(every), MAX_TOGETHER)
    ]
