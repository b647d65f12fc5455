"""The functions that run in a simulation, and a node that runs them.

Rules kept here:
- a job says whose call it is, in its arguments and in its value, so that a wrong completion is seen;
- a stopped job answers nothing; one that cannot be stopped (as a thread) holds its slot until it ends;
- a stream sends no item without credit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from zcluster.core.peers import INITIAL_ITEMS
from zcluster.core.work import Effect, Job, More, Stop, WorkEnd
from zcluster.errors import FunctionFailed, NodeLost, TimedOut, ZClusterError
from zcluster.sim.world import Action, World
from zcluster.wire import Beat, Cancel, Chunk, Credit, FunctionInfo, Message, Work

MAX_ITEMS = 40


@dataclass(frozen=True)
class SimFunction:
    """A function: what the cluster knows of it, and how it behaves."""

    name: str
    role: str = "client"
    idempotent: bool = False
    stream: bool = False
    seconds: tuple[float, float] = (0.0, 0.004)
    result_bytes: int = 0
    fails: bool = False
    stoppable: bool = True
    pool: str = "thread"

    def info(self) -> FunctionInfo:
        """What HELLO says of it."""
        return FunctionInfo(name=self.name, role=self.role, idempotent=self.idempotent, stream=self.stream, pool=self.pool)


FUNCTIONS = {
    function.name: function
    for function in (
        SimFunction("quick"),
        SimFunction("echo", idempotent=True, pool="inline"),
        SimFunction("slow", seconds=(0.1, 1.5), stoppable=False),
        SimFunction("slow.safe", idempotent=True, seconds=(0.1, 1.5)),
        SimFunction("stuck", seconds=(60.0, 60.0)),
        SimFunction("fail", fails=True),
        SimFunction("large", result_bytes=7000),
        SimFunction("large.safe", idempotent=True, result_bytes=5000, seconds=(0.0, 0.3)),
        SimFunction("too.large", result_bytes=20_000),
        SimFunction("items", stream=True, seconds=(0.0, 0.2)),
        SimFunction("items.safe", idempotent=True, stream=True),
        SimFunction("admin.only", role="admin"),
    )
}
MASTER_FUNCTIONS = {name: FUNCTIONS[name] for name in ("quick", "echo", "slow", "large")}


@dataclass(frozen=True)
class SimLimits:
    """Limits small enough that a short run reaches them."""

    body_bytes: int = 16_000
    inline_bytes: int = 512
    chunk_bytes: int = 1024
    window_bytes: int = 2048
    transfer_bytes: int = 9_000


LIMITS = SimLimits()


class Owner(Protocol):
    """The process that the node lives in."""

    name: str
    world: World

    def clock(self) -> float: ...
    def later(self, delay_s: float, action: Action) -> None: ...
    def wake(self) -> None: ...
    def started(self, job: Job) -> None: ...


class Running:
    """One job that runs."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.upto = INITIAL_ITEMS
        self.sent = 0
        self.ended = False


class SimNode:
    """A node's side of requests: the core's WorkEnd and a runner made of delays."""

    def __init__(self, owner: Owner, functions: dict[str, SimFunction], slots: int, may_call: Callable[[str, str], bool]) -> None:
        self.owner = owner
        self.slots = slots
        self.end = WorkEnd(owner.name, functions, may_call, LIMITS, slots)
        self.infos = [function.info() for function in functions.values()]
        self._running: dict[int, Running] = {}
        self._abandoned: set[Running] = set()

    def beat(self) -> Beat:
        """What a heartbeat says."""
        return Beat(slots=max(0, self.slots - len(self._abandoned)), in_flight=self.end.in_flight)

    def receive(self, message: Message, data: bytes, offset: int) -> None:
        """A message of the master."""
        match message:
            case Work():
                self._perform(self.end.work(message, data, offset, self.owner.clock()))
            case Cancel():
                self._perform(self.end.cancel(message))
            case Credit():
                self._perform(self.end.credit(message))
            case Chunk():
                self._perform(self.end.chunk(message, memoryview(data)[offset:]))

    def session_lost(self) -> None:
        """The master is gone."""
        self._perform(self.end.session_lost())

    def close(self) -> None:
        """End what runs: its node stops."""
        for running in list(self._running.values()):
            self._finish(running, False, encode(NodeLost("it was running when its node stopped: outcome unknown")))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Job():
                    self._start(effect)
                case Stop():
                    self._stop(effect.id)
                case More():
                    running = self._running.get(effect.id)
                    if running is not None:
                        running.upto = max(running.upto, effect.upto)
                        self._next_item(running)

    def _start(self, job: Job) -> None:
        clock_s, random = self.owner.clock(), self.owner.world.random
        if job.deadline_s <= clock_s:
            self.end.finished(job.id, False, encode(TimedOut("it never started: its deadline had passed when it arrived")))
            return
        self.owner.started(job)
        running = self._running[job.id] = Running(job)
        self.owner.later(job.deadline_s - clock_s, lambda: self._overdue(running))
        self.owner.later(random.uniform(*job.function.seconds), lambda: self._done(running))

    def _done(self, running: Running) -> None:
        self._abandoned.discard(running)
        function = running.job.function
        if running.ended:
            return
        if function.stream:
            self._next_item(running)
        elif function.fails:
            self._finish(running, False, encode(FunctionFailed("ValueError: no")))
        else:
            self._finish(running, True, value(running.job, self.owner.name, function.result_bytes))
        self.owner.wake()

    def _next_item(self, running: Running) -> None:
        key = bytes(running.job.body).split(b"|")[0]
        count = items_of(key)
        while not running.ended and running.sent < min(running.upto, count):
            self.end.item(running.job.id, key + b"|%d" % running.sent)
            running.sent += 1
        if not running.ended and running.sent == count:
            self._finish(running, True, b"")
        self.owner.wake()

    def _overdue(self, running: Running) -> None:
        if not running.ended:
            self._finish(running, False, encode(TimedOut("it was past its deadline: started, outcome unknown")))
            self.owner.wake()

    def _stop(self, leg: int) -> None:
        running = self._running.get(leg)
        if running is not None:
            self._finish(running, False, b"")

    def _finish(self, running: Running, ok: bool, body: bytes) -> None:
        running.ended = True
        if not ok and not running.job.function.stoppable:
            self._abandoned.add(running)
        del self._running[running.job.id]
        self.end.finished(running.job.id, ok, body)


def items_of(key: bytes) -> int:
    """How many items the stream of the call ``key`` has."""
    return sum(key) % MAX_ITEMS


def value(job: Job, node: str, size: int) -> bytes:
    """The value of ``job``: its call's key, the node, and padding up to ``size`` bytes."""
    head = bytes(job.body).split(b"|")[0] + b"|" + node.encode() + b"|"
    return head + b"v" * max(0, size - len(head))


def encode(error: ZClusterError) -> bytes:
    """The body of an error that a function's run ended with."""
    return msgspec.json.encode(error.to_dict())
