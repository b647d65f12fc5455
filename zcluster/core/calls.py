"""A client's requests: from the call to its one outcome.

Rules kept here:
- a call ends exactly once: with the master's answer, at its deadline, by being cancelled, or when its master is lost;
  an answer to anything else (late, twice, never asked) completes nothing and is counted as stray;
- when the master is lost, calls that were sent fail with MasterLost, except those known to be idempotent, which are
  sent again to the next session; calls that were not sent yet just wait for it;
- ids grow within the life of the machine, so a session never sees one twice;
- at most ``max_calls`` are open at once; the next one is Busy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from zcluster.core.batch import Lanes, Outgoing
from zcluster.core.peers import INITIAL_ITEMS
from zcluster.core.transfer import Inbound, Outbound
from zcluster.core.wheel import Wheel
from zcluster.errors import Busy, MasterLost, PeerError, TimedOut, TooLarge, UsageError, ZClusterError, error_from_dict
from zcluster.wire import Cancel, Chunk, Credit, Grant, Of, Replies, RequestGroup, Requests, Status, Welcome
from zcluster.wire.messages import RequestFlag

MAX_CALLS = 131_072
MAX_NAME_CHARS = 128
MAX_TARGET_CHARS = 8192
ITEMS_AHEAD = 64
"""Items of a stream that the master may send ahead of the reader."""
FAN_OUT_MARGIN_S = 0.1
"""How much earlier (at most, and at most a tenth) a fan-out ends at its nodes than at the caller."""


class Call(msgspec.Struct, eq=False):
    """One open request. ``sink`` is the owner's: where its outcome goes."""

    id: int
    function: str
    target: str
    body: bytes
    deadline_s: float
    timeout_s: float
    priority: int
    flags: int
    resendable: bool | None = None
    sent: bool = False
    sink: Any = None
    outbound: dict[int, Outbound] | None = None
    inbound: dict[int, tuple[Inbound, str]] | None = None
    items_upto: dict[int, int] | None = None
    items_used: dict[int, int] | None = None

    @property
    def fan_out(self) -> bool:
        return bool(self.flags & RequestFlag.FAN_OUT)


Outcome = tuple[Call, int, str, int, bytes | bytearray]
"""A call, a Status, the node that says it, its leg (for items, else 0), and the body."""


class Calls:
    """The table of a client's open calls."""

    def __init__(self) -> None:
        # The master's WELCOME says what holds in its cluster; until then nothing is sent.
        self.inline_bytes = 65_536
        self.chunk_bytes = 262_144
        self.body_bytes = 67_108_864
        self.window_bytes = 1_048_576
        self.max_calls = MAX_CALLS
        self.up = False
        self.stray = 0
        self.idempotent: frozenset[str] = frozenset()
        self.open_calls: dict[int, Call] = {}
        self._last_id = 0
        self._lanes: Lanes[RequestGroup] = Lanes(Requests, self.chunk_bytes)
        self._wheel: Wheel[Call] = Wheel()
        self._alike: Call | None = None
        """The call before, in whose group the next one may be."""
        self._last_ttl_s = 0.0
        self._taken_id = 0
        self._cancels: list[int] = []
        self._grants: list[Grant] = []

    # -- the caller's side ------------------------------------------------------------------------------------------

    def open(
        self, function: str, target: str, body: bytes, now: float, timeout_s: float, priority: int = 5, flags: int = 0
    ) -> Call:
        """Open a call; it leaves with the next :meth:`take`.

        Raises:
            Busy: max_calls are open.
            TooLarge: the body is over the limit.
            UsageError: the name or the target is longer than a message can carry, or no text that UTF-8 can hold.
        """
        if len(self.open_calls) >= self.max_calls:
            raise Busy(f"{self.max_calls} calls are open", hint="await some of them first", retry_after_s=0.1)
        if len(body) > self.body_bytes:
            raise TooLarge(f"arguments of {len(body)} bytes, at most {self.body_bytes} are allowed", hint="limits.body_bytes")
        alike = self._alike
        same = (
            alike is not None and alike.function == function and alike.target == target and self._last_ttl_s == timeout_s
            and alike.priority == priority and alike.flags == flags
        )  # fmt: skip
        if not same and (len(function) > MAX_NAME_CHARS or len(target) > MAX_TARGET_CHARS):
            limits = f"a function's name has at most {MAX_NAME_CHARS} characters, a target {MAX_TARGET_CHARS}"
            raise UsageError(limits, hint="use a glob or 'all'")
        if not same and not (function.isascii() and target.isascii()):
            _check_text(function + target)
        self._last_id = id_ = self._last_id + 1
        deadline_s = now + timeout_s
        call = Call(id_, function, target, body, deadline_s, timeout_s, priority, flags)
        self.open_calls[id_] = call
        self._wheel.add(deadline_s, call)
        batch = self._lanes.batch
        if same and batch.last is not None and len(body) <= self.inline_bytes:
            # ``alike`` is the call before this one: the common case of many calls that differ in their bodies only.
            call.sent = True
            batch.join(body)
            self._alike = call
        elif self.up:
            self._send(call, timeout_s)
        return call

    def cancel(self, call: Call) -> None:
        """The caller no longer wants the answer."""
        if self._close(call) and call.sent and self.up:
            self._cancels.append(call.id)

    def consumed(self, call: Call, leg: int) -> None:
        """The reader took an item of ``leg``: the master may send one more."""
        if call.items_upto is None or call.items_used is None or leg not in call.items_upto:
            return
        call.items_used[leg] = used = call.items_used.get(leg, 0) + 1
        if call.items_upto[leg] - used <= ITEMS_AHEAD // 2:
            call.items_upto[leg] = used + ITEMS_AHEAD
            self._grants.append(Grant(call.id, leg, Of.ITEMS, call.items_upto[leg]))

    @property
    def full(self) -> bool:
        """Whether a whole message of requests waits to be taken."""
        return self._lanes.batch.full

    # -- the session's side -----------------------------------------------------------------------------------------

    def session_up(self, welcome: Welcome, now: float) -> None:
        """A session is open: send what waits, and again what may be sent again."""
        self.inline_bytes, self.chunk_bytes = welcome.inline_bytes, welcome.chunk_bytes
        self.body_bytes, self.window_bytes = welcome.body_bytes, welcome.window_bytes
        self._lanes = Lanes(Requests, welcome.chunk_bytes)
        self._alike, self._taken_id = None, 0
        self.up = True
        for call in self.open_calls.values():
            self._send(call, max(call.deadline_s - now, 0.001))

    def session_lost(self) -> list[tuple[Call, ZClusterError]]:
        """The session ended: the calls that end with it."""
        self.up = False
        self._lanes = Lanes(Requests, self.chunk_bytes)
        self._cancels, self._grants, self._alike = [], [], None
        lost: list[tuple[Call, ZClusterError]] = []
        for call in list(self.open_calls.values()):
            if call.sent and not self._may_resend(call):
                self._close(call)
                error = MasterLost(
                    f"the connection to the master ended before {call.function} was answered; whether it ran is unknown",
                    hint="mark the function idempotent to have it retried",
                )
                lost.append((call, error))
            else:
                call.sent, call.outbound, call.inbound = False, None, None
        return lost

    def replies(self, message: Replies, data: bytes, offset: int) -> list[Outcome]:
        """Replies from the master: what they mean, in order."""
        out: list[Outcome] = []
        open_calls, forget = self.open_calls, self._wheel.remove
        for group in message.groups:
            id_, status, node = group.first_id, group.status, group.node
            for size in group.sizes:
                call = open_calls.get(id_)
                end = offset if status == Status.LARGE_VALUE else offset + size
                if call is None:
                    self.stray += 1
                elif status <= Status.ERROR:
                    if not call.flags & RequestFlag.FAN_OUT or not node:
                        del open_calls[id_]
                        forget(call.deadline_s, call)
                    out.append((call, status, node, 0, data[offset:end]))
                else:
                    self._other_reply(call, group.leg, status, node, size, data[offset:end], out)
                if status != Status.ITEM:
                    id_ += 1
                offset = end
        return out

    def credit(self, grants: Iterable[Grant]) -> None:
        """The receiver of a large argument grants credit."""
        for grant in grants:
            call = self.open_calls.get(grant.id)
            if call is None or not call.flags & RequestFlag.LARGE or grant.of != Of.REQUEST_BODY:
                self.stray += 1
                continue
            if call.outbound is None or (not call.fan_out and grant.leg not in call.outbound):
                call.outbound = {}
            outbound = call.outbound.setdefault(grant.leg, Outbound(call.body, grant.leg))
            outbound.grant(grant.leg, grant.upto)
            while (piece := outbound.next_chunk(self.chunk_bytes)) is not None:
                self._lanes.add_bulk(Chunk(call.id, grant.leg, piece[0]), piece[1])

    def chunk(self, message: Chunk, data: memoryview) -> list[Outcome]:
        """A piece of a large value; a complete one is an outcome."""
        call = self.open_calls.get(message.id)
        entry = call.inbound.get(message.leg) if call is not None and call.inbound is not None else None
        if call is None or entry is None or call.inbound is None:
            self.stray += 1
            return []
        inbound, node = entry
        try:
            inbound.accept(message.offset, data)
        except PeerError:
            self.stray += 1
            return []
        if not inbound.complete:
            self._grant_more(call, message.leg, inbound)
            return []
        del call.inbound[message.leg]
        if not call.fan_out:
            self._close(call)
        return [(call, Status.VALUE, node, 0, inbound.body)]

    # -- time and output --------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        return self._wheel.next_deadline()

    def handle_deadline(self, now: float) -> list[tuple[Call, ZClusterError]]:
        """The calls whose deadline has passed, with their error."""
        out: list[tuple[Call, ZClusterError]] = []
        for call in self._wheel.expired(now):
            if self.open_calls.pop(call.id, None) is None:
                continue
            if call.sent and self.up:
                self._cancels.append(call.id)
            state = "; whether it ran is unknown" if call.sent else "; it was never sent: no master could be reached"
            out.append((call, TimedOut(f"{call.function} at {call.target}: no answer in {call.timeout_s:g} s{state}")))
        return out

    def take(self) -> list[Outgoing]:
        """What is to be sent now, in order."""
        if not self.up or not (self._lanes or self._cancels or self._grants):
            return []
        late: list[int] = []
        if self._cancels:
            # A cancel is control, but it must not overtake the request that it cancels.
            late = [id_ for id_ in self._cancels if id_ > self._taken_id]
            self._lanes.control += _cancels([id_ for id_ in self._cancels if id_ <= self._taken_id])
            self._cancels = []
        if self._grants:
            for start in range(0, len(self._grants), 1024):
                self._lanes.control.append(Credit(grants=self._grants[start : start + 1024]))
            self._grants = []
        self._taken_id = self._last_id
        out = self._lanes.take()
        return out + [(message, []) for message in _cancels(late)] if late else out

    # -- inside -----------------------------------------------------------------------------------------------------

    def _send(self, call: Call, ttl_s: float) -> None:
        call.sent = True
        batch, body = self._lanes.batch, call.body
        call.flags &= ~RequestFlag.LARGE  # when it is sent again, this session may take larger bodies in a batch
        if len(body) > self.inline_bytes:
            call.flags |= RequestFlag.LARGE
            batch.begin(self._group(call, ttl_s), b"", _header_bytes(call))
            batch.last = self._alike = None
            return
        batch.begin(self._group(call, ttl_s), body, _header_bytes(call))
        self._alike, self._last_ttl_s = call, ttl_s

    def _group(self, call: Call, ttl_s: float) -> RequestGroup:
        if call.fan_out:
            # The nodes' own "timed out" have to be here by the caller's deadline, or it would end without them.
            ttl_s -= min(FAN_OUT_MARGIN_S, ttl_s / 10)
        ttl_ms = max(1, int(ttl_s * 1000))
        return RequestGroup(call.function, call.target, ttl_ms, call.priority, call.flags, call.id, [len(call.body)])

    def _other_reply(
        self, call: Call, leg: int, status: int, node: str, size: int, body: bytes, out: list[Outcome]
    ) -> None:
        match status:
            case Status.LARGE_VALUE:
                if size > self.body_bytes:
                    self.cancel(call)
                    error = TooLarge(f"a value of {size} bytes, at most {self.body_bytes} are allowed", node=node)
                    out.append((call, Status.ERROR, "", 0, msgspec.json.encode(error.to_dict())))  # the call as a whole
                    return
                inbound = Inbound(size, self.window_bytes)
                if call.inbound is None:
                    call.inbound = {}
                call.inbound[leg] = (inbound, node)
                self._grant_more(call, leg, inbound)
            case Status.ITEM:
                if call.items_upto is None:
                    call.items_upto, call.items_used = {}, {}
                call.items_upto.setdefault(leg, INITIAL_ITEMS)
                out.append((call, status, node, leg, body))
            case Status.END:
                if not call.fan_out:
                    self._close(call)
                out.append((call, status, node, leg, b""))
            case _:
                self._close(call)
                out.append((call, status, node, leg, b""))

    def _grant_more(self, call: Call, leg: int, inbound: Inbound) -> None:
        upto = inbound.next_grant()
        if upto is not None:
            self._grants.append(Grant(call.id, leg, Of.REPLY_BODY, upto))

    def _may_resend(self, call: Call) -> bool:
        if call.fan_out or call.items_upto is not None:
            return False
        if call.resendable is not None:
            return call.resendable
        return bool(call.flags & RequestFlag.IDEMPOTENT) or call.function in self.idempotent

    def _close(self, call: Call) -> bool:
        if self.open_calls.pop(call.id, None) is None:
            return False
        self._wheel.remove(call.deadline_s, call)
        return True


def _cancels(ids: list[int]) -> list[Cancel]:
    return [Cancel(ids=ids[start : start + 1024]) for start in range(0, len(ids), 1024)]


def _header_bytes(call: Call) -> int:
    """At most what the header of a group takes: a character is at most six bytes of JSON."""
    return 64 + 6 * (len(call.function) + len(call.target))


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        # It would break the whole message, and with it the calls of others.
        raise UsageError("a function's name or a target is not valid Unicode text", hint="check the encoding") from None


def decode_error(body: bytes | bytearray, node: str) -> ZClusterError:
    """The error in the body of an ERROR reply."""
    try:
        data = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return PeerError("the master sent an error that cannot be read", node=node)
    return error_from_dict({"node": node, **data})
