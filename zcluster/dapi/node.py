"""A node's end of the bus without the bus: the core's WorkEnd and the Runner, put together.

Rules kept here:
- what comes in is a message of the master; what goes out is taken with :meth:`take`; who carries them does not matter
  (a worker's link, or the master's own loop for the master as a node);
- everything happens on the loop's thread; ``wake`` is called when there is something to take outside of a receive;
- inline functions hold up the loop for TURN_S at a time: what comes on top waits here, in its order, until others had a turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import orjson

from zcluster.core.batch import Outgoing
from zcluster.core.rights import Rights
from zcluster.core.work import Effect, Job, Limits, More, Stop, WorkEnd
from zcluster.dapi.builtins import ResourceSampler
from zcluster.dapi.function import Function
from zcluster.dapi.jobs import Body
from zcluster.dapi.runner import Runner
from zcluster.errors import ConfigError
from zcluster.wire import Beat, Cancel, Chunk, Credit, FunctionInfo, Message, Work

MAX_INFOS_BYTES = 400_000
"""What HELLO may say of functions, under the limit of a header (wire: 512 KiB)."""

TURN_S = 0.02
HEAVY_BYTES = 1024
"""A call with longer arguments may take a millisecond: the clock is looked at behind each."""
LIGHT_CALLS = 16
"""Behind how many others it is looked at."""


class NodeEnd:
    """Runs the functions of one node for the master."""

    def __init__(
        self,
        name: str,
        functions: Mapping[str, Function],
        may_call: Callable[[str, str], bool],
        limits: Limits,
        *,
        slots: int,
        processes: int,
        modules: Sequence[str],
        clock: Callable[[], float],
        wake: Callable[[], None],
        sampler: ResourceSampler,
        logger: logging.Logger,
        rights: Rights | None = None,
        master: bool = False,
    ) -> None:
        self.name = name
        self.slots = slots
        self._functions = functions
        self._clock = clock
        self._wake = wake
        self._sampler = sampler
        self._loop = asyncio.get_running_loop()
        self._receiving = False
        self._later: deque[Effect] = deque()
        self._resting = False
        self._spent_s, self._ended_s = 0.0, 0.0
        """How long effects took lately, and when that was over; time that passes in between is taken off."""
        self._done = asyncio.Event()
        """Set when nothing is left to do or to send; looked at by drain() alone."""
        self._end = WorkEnd(name, functions, may_call, limits, slots, rights, master)
        self._runner = Runner(
            name,
            functions,
            slots=slots,
            processes=processes,
            modules=modules,
            clock=clock,
            finished=self._finished,
            item=self._item,
            logger=logger,
            body_bytes=limits.body_bytes,
            item_bytes=limits.inline_bytes,
        )

    @property
    def in_flight(self) -> int:
        """Requests that are running or being gathered here."""
        return self._end.in_flight

    @property
    def rights(self) -> Rights:
        """The definitions of roles that this node has."""
        return self._end.rights

    @property
    def busy(self) -> bool:
        """Whether anything here has a deadline."""
        return self._end.busy or self._runner.in_flight > 0

    def infos(self) -> list[FunctionInfo]:
        """What HELLO says of the functions: in full, or shortened when that is too much for one message.

        Raises:
            ConfigError: even their names are too much.
        """
        for doc_chars, schema_chars in ((4000, 65_536), (200, 2000), (0, 0)):
            infos = [_info(function, doc_chars, schema_chars) for function in self._functions.values()]
            if len(msgspec.json.encode(infos)) <= MAX_INFOS_BYTES:
                return infos
        hint = "spread them over workers, or give them shorter names"
        raise ConfigError(f"{len(infos)} functions are too many to tell the master of", hint=hint)

    def beat(self) -> Beat:
        """What a heartbeat says. Functions that outlived their request still hold a slot, and are counted off."""
        slots = max(0, self.slots - self._runner.abandoned)
        cpu_percent, _ = self._sampler.cpu_percent()
        return Beat(
            slots=slots,
            in_flight=self._end.in_flight,
            load=round(self._end.in_flight / self.slots, 4),
            cpu_percent=round(cpu_percent, 1),
            memory_percent=round(self._sampler.memory_percent(), 1),
        )

    def receive(self, message: Message, data: bytes, offset: int) -> None:
        """A message of the master; those that do not concern requests are ignored here."""
        effects: list[Effect] = []
        now = self._clock()
        match message:
            case Work():
                effects = self._end.work(message, data, offset, now)
            case Cancel():
                self._stop(self._end.cancel(message))
            case Credit():
                effects = self._end.credit(message)
            case Chunk():
                effects = self._end.chunk(message, memoryview(data)[offset:])
        if self._resting:
            self._later.extend(effects)
        elif effects:
            self._spent_s = max(0.0, self._spent_s - (now - self._ended_s))
            self._take_turn(effects, now)

    def session_lost(self) -> None:
        """The master is gone: what runs for it is stopped, and what waits is forgotten: legs begin again."""
        self._later.clear()
        self._stop(self._end.session_lost())
        self._note_done()

    def take(self) -> list[Outgoing]:
        """What is to be sent to the master now."""
        outgoing = self._end.take()
        self._note_done()
        return outgoing

    def next_deadline(self) -> float | None:
        """When :meth:`handle_deadline` has to be called."""
        times = [time for time in (self._end.next_deadline(), self._runner.next_deadline()) if time is not None]
        return min(times) if times else None

    def handle_deadline(self, now: float) -> None:
        """End what is past its deadline."""
        self._end.handle_deadline(now)
        self._runner.handle_deadline(now)
        self._note_done()

    def apply(self, limits: Limits) -> None:
        """Take new limits; they hold for what comes from now on."""
        self._end.limits = limits
        self._runner.set_limits(body_bytes=limits.body_bytes, item_bytes=limits.inline_bytes)

    def refuse_new(self) -> None:
        """Take no new requests from now on."""
        self._end.draining = True

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new, and wait until all is done that was taken: arguments on their way here have come and their
        functions have run, and large results have been fetched. False when some were not done within ``timeout_s``."""
        self.refuse_new()
        try:
            async with asyncio.timeout(timeout_s):
                while self.busy:
                    self._done.clear()
                    await self._done.wait()
        except TimeoutError:
            return False
        # Only now: the runner would refuse what is still being gathered.
        return await self._runner.drain(0.0)

    def close(self) -> None:
        """End everything; what still ran is answered with an error, to be taken."""
        self._runner.close()
        while self._later:  # the runner refuses it: it never started
            self._perform(self._later.popleft())

    def _stop(self, effects: list[Effect]) -> None:
        """Perform what only stops: at once, since what comes behind may use the same legs again."""
        self._receiving = True
        try:
            for effect in effects:
                self._perform(effect)
        finally:
            self._receiving = False

    def _take_turn(self, effects: Iterable[Effect], now: float) -> None:
        """Perform ``effects``; what is left when the turn is over comes later."""
        ends_s, calls, left = now + TURN_S - self._spent_s, 0, iter(effects)
        self._receiving = True
        try:
            for effect in left:
                self._perform(effect)
                calls += 1
                heavy = not calls % LIGHT_CALLS or (type(effect) is Job and len(effect.body) > HEAVY_BYTES)
                if heavy and self._clock() >= ends_s:
                    break
        finally:
            self._receiving = False
            self._ended_s = self._clock()
            self._spent_s += self._ended_s - now
            self._later.extend(left)
            if self._later or self._spent_s >= TURN_S:
                self._resting = True
                # Twice: what is called soon comes before the sockets are looked at.
                self._loop.call_soon(self._loop.call_soon, self._go_on)

    def _go_on(self) -> None:
        self._resting, self._spent_s = False, 0.0
        waiting, self._later = self._later, deque()
        if waiting:
            self._wake()
            self._take_turn([each for each in waiting if type(each) is not Job or self._end.runs(each.id)], self._clock())

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Job():
                self._runner.start(effect)
            case Stop():
                self._runner.cancel(effect.id, effect.error)
            case More():
                self._runner.grant(effect.id, effect.upto)

    def _note_done(self) -> None:
        if self._end.draining and not self.busy:
            self._done.set()

    def _finished(self, job_id: int, ok: bool, body: Body) -> None:
        self._end.finished(job_id, ok, body)
        if not self._receiving:
            self._wake()

    def _item(self, job_id: int, body: Body) -> None:
        self._end.item(job_id, body)
        if not self._receiving:
            self._wake()


def _info(function: Function, doc_chars: int, schema_chars: int) -> FunctionInfo:
    told = function.describe()
    parameters, returns = orjson.dumps(told["parameters"]).decode(), orjson.dumps(told["returns"]).decode()
    return FunctionInfo(
        name=function.name,
        doc=function.doc[:doc_chars],
        role=function.role,
        timeout_s=function.timeout_s,
        idempotent=function.idempotent,
        stream=function.stream,
        pool=function.pool,
        parameters=parameters if len(parameters) <= schema_chars else "",
        returns=returns if len(returns) <= min(schema_chars, 4000) else "",
    )
