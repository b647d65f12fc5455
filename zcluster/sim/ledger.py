"""What was asked, what was run, what was answered: the run's memory, which no crash takes away.

Rules checked here, of each call:
- it ends once, not later than a tick after its deadline on its client's clock, and not after it was cancelled;
- what it gets carries its own key;
- a function that may not run twice is started at most once per call (and node, in a fan-out); one that may, at most
  ``attempts`` times for each session that it was sent in;
- it runs only where its target says, and only for a role that may call it;
- what ended with "never started" was never started, and never is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from zcluster.core.calls import Call, decode_error
from zcluster.errors import Busy, Draining, NodeUnavailable, NoSuchFunction, NoSuchNode, NotAllowed, ZClusterError
from zcluster.sim.functions import FUNCTIONS, LIMITS, items_of
from zcluster.sim.world import World
from zcluster.wire import Status
from zcluster.wire.messages import RequestFlag

TICK_S = 0.0101
NEVER_RAN = (Busy, Draining, NodeUnavailable, NoSuchFunction, NoSuchNode, NotAllowed)


@dataclass(eq=False)
class Record:
    """One call."""

    key: str
    client: str
    role: str
    function: str
    target: str
    body: bytes
    deadline_s: float
    fan_out: bool
    idempotent: bool
    sessions: int = 0
    outcome: str = ""
    cancelled: bool = False
    never_started: bool = False
    starts: dict[str, int] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    items: dict[int, int] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nothing more may come."""
        return bool(self.outcome) or self.cancelled


class Ledger:
    """All calls of a run."""

    def __init__(self, world: World, attempts: int, *, exact: bool) -> None:
        self.records: dict[str, Record] = {}
        self.outcomes: dict[str, int] = {}
        self._world = world
        self._attempts = attempts
        self._exact = exact
        """Connections deliver as TCP does: the items of a stream and the parts of a fan-out come once, in order."""

    def opened(self, key: str, client: str, role: str, call: Call, *, sent: bool) -> Record:
        """A client made ``call``."""
        declared = FUNCTIONS[call.function].idempotent if call.function in FUNCTIONS else False
        idempotent = declared or bool(call.flags & RequestFlag.IDEMPOTENT)
        record = Record(
            key, client, role, call.function, call.target, call.body, call.deadline_s, call.fan_out, idempotent, int(sent)
        )
        self.records[key] = record
        return record

    def started(self, node: str, key: str, body: bytes) -> None:
        """``node`` runs the function of the call ``key``."""
        record, world = self.records.get(key), self._world
        if record is None:
            world.fail(f"{node} runs {key!r}, which nobody called")
            return
        world.note(node, f"runs {record.function} of {key}")
        if body != record.body:
            world.fail(f"{node} runs {key} with other arguments: {len(body)} bytes instead of {len(record.body)}")
        if not meant(record.target, node):
            world.fail(f"{node} runs {key}, which is for {record.target}")
        if FUNCTIONS[record.function].role == "admin" and record.role != "admin":
            world.fail(f"{node} runs {record.function} of {key} for a {record.role}")
        record.starts[node] = record.starts.get(node, 0) + 1
        if record.never_started and not record.idempotent:
            world.fail(f"{key} is started on {node} although its caller was told that it never was")
        times = record.starts[node] if record.fan_out and record.target != "any" else sum(record.starts.values())
        allowed = self._attempts * max(1, record.sessions) if record.idempotent else 1
        if times > allowed:
            world.fail(f"{record.function} of {key} is started {times} times, {allowed} are allowed")

    def answer(self, record: Record, call: Call, status: int, node: str, leg: int, body: bytes | bytearray, now: float) -> None:
        """A client got an outcome for the call of ``record``."""
        world, name = self._world, record.client
        if record.over:
            world.fail(f"{record.key} gets an answer after its end ({record.outcome or 'cancelled'})")
        if status == Status.ERROR:
            error = decode_error(body, node)
            if error.request_id and not error.request_id.endswith(f".{call.id}"):
                world.fail(f"{record.key} gets the error of request {error.request_id}")
            if record.fan_out and node:
                world.note(name, f"{record.key} on {node}: {error.code}")
                self._part(record, node)
            else:
                self.error(record, error, now)
            return
        if status in (Status.VALUE, Status.ITEM) and bytes(body[: len(record.key) + 1]) != f"{record.key}|".encode():
            world.fail(f"{record.key} gets the value of another call: {bytes(body[:40])!r}")
        if status == Status.ITEM:
            self._item(record, leg, body)
            return
        if status == Status.VALUE:
            self._value(record, node, body)
        if status == Status.END:
            self._stream_end(record, leg)
        if not record.fan_out or status == Status.DONE:
            self._end(record, "done", now)
        else:
            self._part(record, node)

    def error(self, record: Record, error: ZClusterError, now: float) -> None:
        """The whole call ended with ``error``."""
        if record.over:
            self._world.fail(f"{record.key} ends twice: {record.outcome or 'cancelled'}, then {error.code}")
        if isinstance(error, NEVER_RAN) or "never started" in error.message or "never sent" in error.message:
            record.never_started = True
            if record.starts and not record.idempotent:
                self._world.fail(f"{record.key} was started on {list(record.starts)}, and ends with: {error}")
        self._end(record, error.code, now)

    def cancelled(self, record: Record) -> None:
        """The caller does not want it any more."""
        record.cancelled = True
        self._world.note(record.client, f"cancels {record.key}")

    def died(self, client: str) -> None:
        """A client crashed: nobody waits for its calls any more."""
        for record in self.records.values():
            if record.client == client and not record.over:
                record.cancelled = True

    def _end(self, record: Record, outcome: str, now: float) -> None:
        record.outcome = outcome
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self._world.note(record.client, f"{record.key} ends: {outcome}")

    def _value(self, record: Record, node: str, body: bytes | bytearray) -> None:
        head = f"{record.key}|{node}|".encode()
        function = FUNCTIONS[record.function]
        if bytes(body) != head + b"v" * max(0, function.result_bytes - len(head)):
            self._world.fail(f"{record.key} gets a damaged value of {len(body)} bytes from {node}")
        if function.result_bytes > LIMITS.body_bytes:
            self._world.fail(f"{record.key} gets a value of {len(body)} bytes, more than the limit")

    def _item(self, record: Record, leg: int, body: bytes | bytearray) -> None:
        index = int(bytes(body).split(b"|")[1])
        if self._exact and index != record.items.get(leg, 0):
            self._world.fail(f"{record.key} gets item {index} instead of {record.items.get(leg, 0)}")
        record.items[leg] = record.items.get(leg, 0) + 1

    def _stream_end(self, record: Record, leg: int) -> None:
        # The end of a call's own stream names no leg: no credit will ever refer to it.
        got, had = record.items.get(leg, 0) if record.fan_out else sum(record.items.values()), items_of(record.key.encode())
        if self._exact and got != had:
            self._world.fail(f"the stream of {record.key} ends after {got} of {had} items")

    def _part(self, record: Record, node: str) -> None:
        if self._exact and node in record.answered:
            self._world.fail(f"{record.key} gets two answers of {node}")
        record.answered.add(node)


def meant(target: str, node: str) -> bool:
    """Whether ``target`` means ``node`` (``m`` is the master)."""
    words = {"any": "*", "all": "*", "master": "m"}
    return any(fnmatchcase(node, words.get(part.strip(), part.strip())) for part in target.split(","))
