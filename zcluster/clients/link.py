"""A client's connection: the core's Calls and Link in the loop. The API on top is async_client.py.

Rules kept here:
- what is called in one turn of the loop leaves in one batch at its end;
- an outcome goes to the call's sink: a future, or a queue of a stream or fan-out; that of a submission or a job to a future,
  which only wakes: what there is to know is in the item;
- when the link is lost for good every open call, submission and wait ends with that error.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from zcluster import __version__
from zcluster.clients.messages import Messages
from zcluster.core.batch import Outgoing
from zcluster.core.calls import Call, Calls, decode_error
from zcluster.core.doors import Candidate
from zcluster.core.following import Following, Wait
from zcluster.core.link import STOPPED, Link, LinkPolicy
from zcluster.core.submitting import Submission, Submitting
from zcluster.errors import (
    NotAllowed,
    SessionReplaced,
    Unreachable,
    UnsupportedVersion,
    UsageError,
    ZClusterError,
    error_from_dict,
)
from zcluster.keys import KeyFile
from zcluster.keys.rotation import OwnKey
from zcluster.net.context import new_context
from zcluster.net.link import LinkDriver
from zcluster.net.reader import Alarm
from zcluster.net.rekeying import Rekeying
from zcluster.wire import (
    VERSIONS,
    Beat,
    Bye,
    Catalog,
    Chunk,
    Credit,
    Hello,
    Message,
    Refusal,
    Replies,
    Requests,
    Status,
    Welcome,
    WireLimits,
)
from zcluster.wire.agents import Note
from zcluster.wire.jobs import Accepted, Follow, Jobs, Outcomes
from zcluster.wire.rotation import NextKey, Rotate, Rotated

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""The largest frame a client takes: its master, whose key it knows, may be configured to send large chunks."""
FRAME_LIMITS = WireLimits(frame_bytes=MAX_FRAME_BYTES, header_bytes=MAX_FRAME_BYTES)
FATAL = (SessionReplaced, UnsupportedVersion, NotAllowed)
_random = secrets.SystemRandom()


class Sink(Protocol):
    """Where the outcomes of a call go."""

    def put(self, status: int, node: str, leg: int, body: bytes | bytearray) -> None: ...
    def fail(self, error: ZClusterError) -> None: ...


class ClientLink:
    """One client's session, kept open."""

    def __init__(
        self, own: OwnKey, addresses: Callable[[KeyFile], Sequence[Candidate]], policy: LinkPolicy, logger: logging.Logger
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.time = self.loop.time
        self._logger = logger
        self.calls = Calls()
        self.submitting = Submitting()
        self.following = Following()
        self.notes: Messages | None = None
        """Where notes of other clients go."""
        self.session = 0
        self.name = ""
        self.cluster = ""
        self.master = ""
        self._flushing = False
        self._closed = False
        self._opened: asyncio.Future[None] = self.loop.create_future()
        self._last_error: ZClusterError | None = None
        self._refusals = 0
        places = addresses(own.key_file)
        self._address_count = len({place.address for place in places})
        self._ended: ZClusterError | None = None
        self._alarm = Alarm(self.loop, self._due)
        self._context = new_context()
        hello = Hello(versions=list(VERSIONS), software=__version__, instance=secrets.token_hex(8))
        self._driver = LinkDriver(
            self._context, Link(hello, places, policy), self, public=own.current.public, secret=own.current.secret,
            master_public=own.key_file.master_public, jitter=_random.random, logger=logger, wire_limits=FRAME_LIMITS,
        )  # fmt: skip
        self._rekeying = Rekeying(own, self._driver, lambda now: self._driver.redirect(addresses(now)), logger)
        self._driver.start()

    async def opened(self, timeout_s: float) -> None:
        """Wait for the first session.

        Raises:
            Unreachable: no master answered in time. NotAllowed: the master refuses the key.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._opened)
        except TimeoutError:
            error = self._last_error
            if error is None:
                hint = f"is it running, and is the address right? Then {STOPPED}"
                error = Unreachable(f"no master answered in {timeout_s:g} s", hint=hint)
            raise error from None

    def submit(self) -> None:
        """A call was opened, and its sink set; it leaves with what else is called in this turn."""
        if self._ended is not None:
            self._fail_all(self._ended)
        elif self._flushing:
            if self.calls.full:
                self._driver.flush()
        elif len(self.calls.open_calls) == 1:
            # Nobody else is calling: there is no batch to wait for.
            self._flush()
        else:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def submit_job(self) -> None:
        """A job was submitted or followed, and the sink set; it leaves with what else is wanted in this turn."""
        if self._ended is not None:
            self._fail_all(self._ended)
        elif self._flushing:
            if self.submitting.full:
                self._driver.flush()
        elif len(self.submitting.open) + self.following.open == 1:
            self._flush()
        else:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def wake(self) -> None:
        """Something is to be sent (credit, a cancel)."""
        if not self._flushing and not self._closed:
            self._flushing = True
            self.loop.call_soon(self._flush)

    @property
    def up(self) -> bool:
        """Whether there is a session."""
        return self.calls.up

    @property
    def refused(self) -> ZClusterError | None:
        """Why the master does not want this key, when that was its last word."""
        return self._last_error if isinstance(self._last_error, FATAL) and not self.calls.up else None

    async def rotate(self, overlap_s: float) -> Rotated:
        """Have another key; see Rekeying.rotate."""
        return await self._rekeying.rotate(overlap_s)

    def say(self, message: Message) -> None:
        """Send a message of its own, when there is a session."""
        if self.calls.up:
            self._driver.say(message)

    def close(self) -> None:
        """Leave: open calls end with an error."""
        if self._closed:
            return
        self._closed = True
        if self.notes is not None:
            self.notes.end()
        self._alarm.cancel()
        self._rekeying.close()
        self._driver.close()
        self._context.term()
        self._fail_all(Unreachable("the client was closed"))
        if not self._opened.done():
            self._opened.cancel()

    # -- the link's owner -------------------------------------------------------------------------------------------

    def link_up(self, welcome: Welcome) -> None:
        self.session, self.cluster, self.master = welcome.session, welcome.cluster, welcome.master
        self.name = welcome.name
        self._rekeying.link_up()
        self.calls.session_up(welcome, self.loop.time())
        _settle(self.submitting.session_up(welcome))
        self.following.session_up()
        if self.notes is not None:
            self.notes.session_up()
        if not self._opened.done():
            self._opened.set_result(None)

    def link_down(self, error: ZClusterError, was_up: bool, retry_s: float) -> None:
        self._last_error = error
        self.name = ""
        another = self._rekeying.link_down(error)
        if isinstance(error, FATAL) and not self._opened.done() and not another:
            self._refusals += 1
            # One door may not know a new key yet that another, or the master, admits.
            if not isinstance(error, NotAllowed) or self._refusals >= self._address_count:
                self._opened.set_exception(error)
        if was_up:
            for call, lost in self.calls.session_lost():
                _fail(call, lost)
            _settle(self.submitting.session_lost())
            self.following.session_lost()

    def link_ended(self, error: ZClusterError) -> None:
        self._last_error = self._ended = error
        self.calls.session_lost()
        self.name = ""
        if self.notes is not None:
            self.notes.fail(error)
        if not self._opened.done():
            self._opened.set_exception(error)
        self._fail_all(error)

    def link_message(self, message: Message, data: bytes, offset: int) -> None:
        calls = self.calls
        match message:
            case Replies():
                for call, status, node, leg, body in calls.replies(message, data, offset):
                    sink = call.sink
                    if isinstance(sink, asyncio.Future):
                        if not sink.done():
                            if status == Status.VALUE:
                                sink.set_result(body)
                            else:
                                sink.set_exception(self.error(call, status, node, body))
                    elif sink is not None:
                        sink.put(status, node, leg, body)
            case Outcomes():
                _settle(self.following.outcomes(message, data, offset))
            case Accepted():
                _settle(self.submitting.accepted(message))
            case Credit():
                calls.credit(message.grants)
            case Chunk():
                for call, status, node, leg, body in calls.chunk(message, memoryview(data)[offset:]):
                    if isinstance(call.sink, asyncio.Future):
                        if not call.sink.done():
                            call.sink.set_result(body)
                    elif call.sink is not None:
                        call.sink.put(status, node, leg, body)
            case Bye(draining=True):
                self.submitting.drain()
            case Rotate() | Rotated() | NextKey():
                self._rekeying.receive(message)
            case Refusal():
                if not self._rekeying.receive(message):
                    self._refused(message)
            case Catalog():
                calls.idempotent = frozenset(message.idempotent)
            case Note() if self.notes is not None:
                self.notes.received(message)

    def link_beat(self) -> Beat:
        return Beat()

    def link_take(self) -> list[Outgoing]:
        return self.calls.take() + self.submitting.take() + self.following.take()

    # -- inside -----------------------------------------------------------------------------------------------------

    def error(self, call: Call, status: int, node: str, body: bytes | bytearray) -> ZClusterError:
        """What an outcome of a call that is to give one value is, when it is none; the call is over."""
        if status == Status.ERROR:
            return decode_error(body, node)
        self.calls.cancel(call)
        return UsageError(f"{call.function} answers with a stream", node=node, hint="use stream() or fan_out() for it")

    def _refused(self, refusal: Refusal) -> None:
        """The master refused a whole message; if it was one of requests, those that were sent have no other answer."""
        error = error_from_dict({"code": refusal.code, "message": refusal.message, "hint": refusal.hint})
        self._logger.warning("the master refused a message: %s", error)
        if refusal.about == Requests.kind:
            for call in [call for call in self.calls.open_calls.values() if call.sent]:
                self.calls.cancel(call)
                _fail(call, error)
        elif refusal.about == Jobs.kind:
            _settle(self.submitting.refused(error))
        elif refusal.about == Follow.kind:
            _settle(self.following.end_all(error))

    def _flush(self) -> None:
        self._flushing = False
        if not self._closed:
            self._driver.flush()
            machines = (self.calls, self.submitting, self.following)
            due = [due_s for machine in machines if (due_s := machine.next_deadline()) is not None]
            self._alarm.set(min(due) if due else None)

    def _due(self) -> None:
        refused = self.refused
        for call, error in self.calls.handle_deadline(self.loop.time()):
            _fail(call, error if call.sent or refused is None else refused)  # a master is there, and does not want this key
        _settle(self.submitting.handle_deadline(self.loop.time()))
        _settle(self.following.handle_deadline(self.loop.time()))
        self._flush()

    def _fail_all(self, error: ZClusterError) -> None:
        for call in list(self.calls.open_calls.values()):
            self.calls.cancel(call)
            _fail(call, error)
        _settle(self.submitting.end_all(error))
        _settle(self.following.end_all(error))


def _settle(ended: Iterable[Submission | Wait]) -> None:
    """Tell those who await a submission or the end of a job."""
    for item in ended:
        sink = item.sink
        if sink is not None and not sink.done():
            if item.error is None:
                sink.set_result(None)
            else:
                sink.set_exception(item.error)


def _fail(call: Call, error: ZClusterError) -> None:
    sink = call.sink
    if isinstance(sink, asyncio.Future):
        if not sink.done():
            sink.set_exception(error)
    elif sink is not None:
        sink.fail(error)
