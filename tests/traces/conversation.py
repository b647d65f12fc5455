"""Core machines that talk to each other, and the talk as readable text.

Rules kept here:
- every message goes through the codec, as on the wire; no time passes but by :meth:`Conversation.wait`;
- a line per message: who to whom, the kind, then its fields; heartbeats are left out unless nobody answers them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zcluster.config.settings import LimitSettings
from zcluster.core.calls import Call, Calls, decode_error
from zcluster.core.greeting import LOCAL
from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import Identity
from zcluster.core.roster import SessionLimits
from zcluster.core.work import Effect, Job, More, Stop, WorkEnd
from zcluster.errors import ZClusterError
from zcluster.keys import may_call, may_send
from zcluster.wire import (
    Beat,
    Bye,
    Cancel,
    Catalog,
    Chunk,
    Credit,
    FunctionInfo,
    Hello,
    Message,
    Refusal,
    Replies,
    Requests,
    Results,
    Status,
    Welcome,
    WireLimits,
    Work,
    decode,
    encode,
)

CHUNK_BYTES, WINDOW_BYTES, INLINE_BYTES = 1024, 2048, 256
FUNCTIONS = {
    name: FunctionInfo(name=name, idempotent=name != "pay", stream=name == "lines") for name in ("echo", "pay", "lines", "blob")
}
STATUS = {value: name for name, value in vars(Status).items() if name.isupper()}
LIMITS = LimitSettings(chunk_bytes=CHUNK_BYTES, window_bytes=WINDOW_BYTES, inline_bytes=INLINE_BYTES)


class End:
    """A worker's or a client's side."""

    def __init__(self, name: str, route: bytes, identity: Identity, machine: WorkEnd | Calls) -> None:
        self.name = name
        self.route = route
        self.identity = identity
        self.machine = machine
        self.here = True
        self.jobs: dict[int, Job] = {}

    @property
    def calls(self) -> Calls:
        """The machine of a client."""
        assert isinstance(self.machine, Calls)
        return self.machine

    @property
    def work(self) -> WorkEnd:
        """The machine of a worker."""
        assert isinstance(self.machine, WorkEnd)
        return self.machine


class Conversation:
    """A master, and those who talk to it."""

    def __init__(self, title: str) -> None:
        self.now = 0.0
        self.lines = [f"# {title}"]
        limits = MasterLimits(
            session=SessionLimits(chunk_bytes=CHUNK_BYTES), inline_bytes=INLINE_BYTES, window_bytes=WINDOW_BYTES
        )
        self.master = Master("m", "golden", 1, limits, may_send, may_call, 0.0)
        self.ends: dict[bytes, End] = {}
        # The master's own node, which has no functions here: it neither speaks nor is spoken to in the trace.
        self._me = Identity("key-m", "m", "master")
        self.master.receive(LOCAL, self._me, Hello(versions=[1], instance="m", slots=1), b"", 0, 0.0)
        self.master.events.clear()
        self.master.admission.grace_until_s = 0.0

    # -- who is there -----------------------------------------------------------------------------------------------

    def worker(self, name: str, *functions: str, slots: int = 8, instance: str = "one") -> End:
        """A worker joins."""
        infos = {function: FUNCTIONS[function] for function in functions}
        machine = WorkEnd(name, infos, may_call, LIMITS, slots)
        route = f"connection-{len(self.ends) + 1}".encode()
        end = End(name, route, Identity(f"key-{name}", name, "worker"), machine)
        return self._join(end, slots, list(infos.values()), instance)

    def client(self, name: str) -> End:
        """A client joins."""
        return self._join(End(name, name.encode(), Identity(f"key-{name}", name, "client"), Calls()), 0, [], "one")

    def leaves(self, end: End, how: str) -> None:
        """``end`` is gone, or does not speak any more."""
        self.note(f"{end.name} {how}")
        end.here = False

    def disconnects(self, end: End) -> None:
        """The connection of ``end`` breaks."""
        self.leaves(end, "loses its connection")
        self.master.disconnected(end.route, self.now)
        self.pump()

    # -- what they do -----------------------------------------------------------------------------------------------

    def call(self, client: End, function: str, target: str, body: bytes = b"{}", timeout_s: float = 30.0, flags: int = 0) -> Call:
        """``client`` calls ``function``; the message leaves with the next :meth:`pump`."""
        return client.calls.open(function, target, body, self.now, timeout_s, flags=flags)

    def finish(self, worker: End, ok: bool, body: bytes) -> None:
        """The oldest job of ``worker`` ends."""
        leg = min(worker.jobs)
        del worker.jobs[leg]
        worker.work.finished(leg, ok, body)
        self.pump()

    def wait(self, seconds: float, step_s: float = 0.5) -> None:
        """Time passes; those who are here beat."""
        end_s = self.now + seconds
        self.note(f"{seconds:g} s pass")
        while self.now < end_s - 1e-9:
            self.now = min(end_s, self.now + step_s)
            self.master.receive(LOCAL, self._me, Beat(slots=1), b"", 0, self.now)
            for end in list(self.ends.values()):
                if end.here:
                    slots = end.machine.slots if isinstance(end.machine, WorkEnd) else 0
                    self.master.receive(end.route, end.identity, Beat(slots=slots), b"", 0, self.now)
                if isinstance(end.machine, Calls):
                    for call, error in end.machine.handle_deadline(self.now):
                        self._outcome(end, call, error)
                else:
                    end.machine.handle_deadline(self.now)
            self.master.handle_deadline(self.now)
            self.pump()

    def note(self, text: str) -> None:
        """A remark in the trace."""
        self.lines.append(f"{self.now:6.2f}  -- {text}")

    def pump(self) -> None:
        """Carry messages until nobody has anything to say."""
        self._tell_states()
        busy = True
        while busy:
            busy = False
            for end in list(self.ends.values()):
                for message, bodies in end.machine.take() if end.here else ():
                    busy = True
                    decoded, data, offset = self._carry(end.name, "m", message, bodies)
                    self.master.receive(end.route, end.identity, decoded, data, offset, self.now)
            for route, outgoing in self.master.take(self.now):
                receiver = self.ends.get(route) if isinstance(route, bytes) else None
                if receiver is not None:
                    busy = True
                    for message, bodies in outgoing:
                        self._to_end(receiver, message, bodies)
            self._tell_states()

    @property
    def text(self) -> str:
        """The conversation so far."""
        return "\n".join(self.lines) + "\n"

    # -- inside -----------------------------------------------------------------------------------------------------

    def _tell_states(self) -> None:
        for event in self.master.events:
            if event.name.startswith("node_"):
                state, reason = event.name.removeprefix("node_"), event.fields.get("reason", "")
                self.note(f"{event.fields['name']} is {state}{': ' if reason else ''}{reason}")
        self.master.events.clear()

    def _join(self, end: End, slots: int, functions: list[FunctionInfo], instance: str) -> End:
        self.ends[end.route] = end
        hello = Hello(versions=[1], instance=instance, slots=slots, functions=functions)
        decoded, data, offset = self._carry(end.name, "m", hello, ())
        self.master.receive(end.route, end.identity, decoded, data, offset, self.now)
        self.pump()
        return end

    def _carry(self, sender: str, receiver: str, message: Message, bodies: Iterable[Any]) -> tuple[Message, bytes, int]:
        frame = encode(message, bodies)
        decoded, offset = decode(frame, WireLimits())
        if not isinstance(decoded, Beat):
            for text in describe(decoded, frame, offset):
                self.lines.append(f"{self.now:6.2f}  {sender:>3} > {receiver:<3} {text}")
        return decoded, frame, offset

    def _to_end(self, end: End, message: Message, bodies: Iterable[Any]) -> None:
        decoded, data, offset = self._carry("m", end.name, message, bodies)
        if not end.here:
            return
        if isinstance(decoded, Bye) and not decoded.draining:
            end.here = False
        elif isinstance(end.machine, Calls):
            self._to_client(end, end.machine, decoded, data, offset)
        else:
            self._to_worker(end, end.machine, decoded, data, offset)

    def _to_worker(self, end: End, machine: WorkEnd, message: Message, data: bytes, offset: int) -> None:
        effects: list[Effect] = []
        match message:
            case Work():
                effects = machine.work(message, data, offset, self.now)
            case Cancel():
                effects = machine.cancel(message)
            case Credit():
                effects = machine.credit(message)
            case Chunk():
                effects = machine.chunk(message, memoryview(data)[offset:])
        for effect in effects:
            match effect:
                case Job():
                    end.jobs[effect.id] = effect
                    self.note(f"{end.name} starts request {effect.request_id} with {shown(effect.body)}")
                case Stop():
                    end.jobs.pop(effect.id, None)
                    self.note(f"{end.name} stops leg {effect.id}: {effect.error.message}")
                case More():
                    self.note(f"{end.name} may have sent {effect.upto} items on leg {effect.id}")

    def _to_client(self, end: End, calls: Calls, message: Message, data: bytes, offset: int) -> None:
        match message:
            case Welcome():
                calls.session_up(message, self.now)
            case Catalog():
                calls.idempotent = frozenset(message.idempotent)
            case Credit():
                calls.credit(message.grants)
            case Chunk():
                for call, status, node, leg, body in calls.chunk(message, memoryview(data)[offset:]):
                    self._outcome(end, call, self._said(status, node, body), leg)
            case Replies():
                for call, status, node, leg, body in calls.replies(message, data, offset):
                    self._outcome(end, call, self._said(status, node, body), leg)

    def _said(self, status: int, node: str, body: bytes | bytearray) -> str | ZClusterError:
        if status == Status.ERROR:
            return decode_error(body, node)
        return " ".join(word for word in (STATUS[status], shown(body) if body else "", f"from {node}" if node else "") if word)

    def _outcome(self, end: End, call: Call, what: str | ZClusterError, leg: int = 0) -> None:
        text = f"{type(what).__name__}: {what}" if isinstance(what, ZClusterError) else what
        self.note(f"{end.name}'s call {call.id} of {call.function}: {text}")
        if leg:
            end.calls.consumed(call, leg)


def shown(body: bytes | bytearray | memoryview) -> str:
    """A body as text; a long one as its length."""
    return bytes(body).decode() if len(body) <= 40 else f"{len(body)} bytes"


def describe(message: Message, frame: bytes, offset: int) -> list[str]:
    """``message`` in words: a line, or one for each group."""
    kind = type(message).__name__.upper()
    match message:
        case Requests() | Work() | Results() | Replies():
            lines = []
            for group in message.groups:
                fields = {name: getattr(group, name) for name in group.__struct_fields__}
                if "status" in fields:
                    fields["status"] = STATUS[fields["status"]]
                fields.pop("sizes")
                bodies, large = [], fields.get("status") == "LARGE_VALUE" or fields.get("flags", 0) & 1
                for size in group.sizes:
                    bodies.append(f"<{size} bytes later>" if large else shown(frame[offset : offset + size]))
                    offset += 0 if large else size
                told = " ".join(f"{name}={value}" for name, value in fields.items() if value not in ("", None))
                lines.append(f"{kind} {told}: {' '.join(bodies)}".rstrip(": "))
            return lines
        case Credit():
            return [
                f"CREDIT id={g.id} leg={g.leg} {('REQUEST_BODY', 'REPLY_BODY', 'ITEMS')[g.of]} upto={g.upto}"
                for g in message.grants
            ]
        case Chunk():
            return [f"CHUNK id={message.id} leg={message.leg} offset={message.offset}: {len(frame) - offset} bytes"]
        case Hello():
            return [f"HELLO slots={message.slots} functions={','.join(info.name for info in message.functions) or '-'}"]
        case Welcome():
            return [f"WELCOME session={message.session} name={message.name} role={message.role} epoch={message.epoch}"]
        case Bye() | Refusal():
            draining = " draining" if isinstance(message, Bye) and message.draining else ""
            return [f"{kind}{draining} {message.code}: {message.message}".rstrip(": ")]
        case Cancel():
            return [f"CANCEL {message.ids}"]
        case Catalog():
            return [f"CATALOG idempotent={','.join(message.idempotent) or '-'}"]
        case _:
            return [kind]
