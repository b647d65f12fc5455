"""Targets that name agents: ``agent:ID`` is the node that holds the agent, ``group:G`` the nodes that hold agents of the group.

Rules kept here:
- where an agent is only the book knows, which is asked outside: until it has answered the request waits here, counted and with
  its deadline like every other that waits;
- a request that was cancelled or timed out meanwhile is not there any more when the answer comes;
- ``agent:`` means one node; ``group:`` may mean several, so only a fan-out takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zcluster.core.dispatch import Dispatch
from zcluster.core.fairqueue import FairQueue
from zcluster.core.peers import Request
from zcluster.errors import UsageError

AGENT = "agent:"
GROUP = "group:"
MAX_NAME_CHARS = 128


@dataclass(frozen=True, eq=False)
class Locate:
    """A question to the book: which nodes is ``target``? Answered by Admission.located."""

    target: str
    requests: list[Request]


def names_agents(target: str) -> bool:
    """Whether ``target`` is for the book to say."""
    return target.startswith((AGENT, GROUP))


def check_target(target: str, fan_out: bool) -> None:
    """Raises UsageError when ``target`` is none, or a group is called."""
    name = target.partition(":")[2]
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise UsageError(f"target {target!r} names nothing", hint="agent:ID or group:NAME")
    if target.startswith(GROUP) and not fan_out:
        raise UsageError(f"target {target!r} may mean several nodes", hint="use fan_out for groups")


class Parking:
    """The requests that wait for the book."""

    def __init__(self, dispatch: Dispatch) -> None:
        self.questions: list[Locate] = []
        """To be asked now; the driver takes them."""
        self._dispatch = dispatch
        self._queue: FairQueue[Any] = FairQueue()

    def wait(self, target: str, requests: list[Request]) -> None:
        """Ask where ``target`` is, for these requests."""
        for request in requests:
            self._dispatch.park(request, self._queue)
        self.questions.append(Locate(target, requests))

    def take(self, locate: Locate) -> list[Request]:
        """The requests of ``locate`` that still wait."""
        waiting = [request for request in locate.requests if request.queue is self._queue]
        for request in waiting:
            self._dispatch.unpark(request)
        return waiting
