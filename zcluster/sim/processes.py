"""The master, the workers and the clients of a simulation.

Rules kept here:
- a crash forgets everything; what starts again is a new process (a new instance; a master: a new epoch);
- the master is a node too: its own WorkEnd answers it in the same turn;
- who runs what, and which call ends how, is told to the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from zcluster.core.batch import Outgoing
from zcluster.core.calls import Call, Calls
from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import LOCAL, Identity
from zcluster.core.work import Job
from zcluster.errors import PeerError, Unreachable, ZClusterError
from zcluster.keys import may_call, may_send
from zcluster.sim.functions import FUNCTIONS, MASTER_FUNCTIONS, SimNode
from zcluster.sim.hosts import WIRE, Cluster, Host, PeerHost
from zcluster.sim.ledger import Ledger, Record
from zcluster.sim.network import Connection
from zcluster.sim.world import World
from zcluster.wire import VERSIONS, Beat, Bye, Catalog, Chunk, Credit, Hello, Message, Replies, Welcome, decode, encode

MASTER_SLOTS = 2
LOCAL_ROUNDS = 16


def key_of(body: bytes | bytearray) -> str:
    """The call that a request body belongs to."""
    return bytes(body).split(b"|")[0].decode()


class MasterHost(Host):
    """The master's process: the driver of brokers/master.py."""

    def __init__(
        self, world: World, name: str, epoch: int, limits: MasterLimits, expected: dict[str, str], ledger: Ledger,
        after_turn: Callable[[MasterHost], None],
    ) -> None:  # fmt: skip
        super().__init__(world, name)
        self.limits = limits
        self.machine = Master(name, "sim", epoch, limits, may_send, may_call, self.clock(), expected=expected)
        self.node = SimNode(self, MASTER_FUNCTIONS, MASTER_SLOTS, may_call)
        self.connections: dict[bytes, Connection] = {}
        self._ledger = ledger
        self._after_turn = after_turn
        self._me = Identity("key-of-master", name, "master")
        self._stuck: dict[bytes, bytes] = {}

    def start(self) -> None:
        """Begin to serve."""
        self.world.note(self.name, f"starts with epoch {self.machine.epoch}")
        hello = Hello(versions=list(VERSIONS), instance="master", slots=MASTER_SLOTS, functions=self.node.infos)
        self.machine.receive(LOCAL, self._me, hello, b"", 0, self.clock())
        self._beat_myself()
        self.flush()
        self.set_alarm()

    def crash(self, *, silently: bool) -> None:
        """The process is gone, and with it all it knew."""
        self.alive = False
        for connection in self.connections.values():
            connection.close(self, silently=silently)

    def drain(self) -> None:
        """Take no new requests."""
        self.machine.drain()
        self.node.end.draining = True
        self.wake()

    def leave(self) -> None:
        """End what is left, say BYE, and be gone."""
        self.node.close()
        self.flush()
        self.machine.close(self.clock())
        self.flush()
        self.crash(silently=False)

    def started(self, job: Job) -> None:
        self._ledger.started(self.name, key_of(job.body), bytes(job.body))

    # -- the network ------------------------------------------------------------------------------------------------

    def delivered(self, connection: Connection, data: bytes) -> None:
        try:
            message, offset = decode(data, WIRE)
        except PeerError as error:
            self.world.fail(f"the master cannot read a message of {connection.peer.name}: {error}")
            return
        self.machine.receive(connection.route, connection.identity, message, data, offset, self.clock())
        self.wake()

    def closed(self, connection: Connection) -> None:
        self._do(lambda: self._lost(connection))

    def writable(self, connection: Connection) -> None:
        self._do(lambda: self._again(connection))

    # -- turns ------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        now = self.clock()
        for _ in range(LOCAL_ROUNDS):
            for route, outgoing in self.machine.take(now):
                if isinstance(route, bytes):
                    self._send(route, outgoing)
                else:
                    for message, bodies in outgoing:
                        self.node.receive(message, b"".join(bodies), 0)
            mine = self.node.end.take()
            if not mine:
                break
            for message, bodies in mine:
                self.machine.receive(LOCAL, self._me, message, b"".join(bodies), 0, now)
        else:
            self.wake()
        for event in self.machine.events:
            self.world.note(self.name, f"{event.name} {' '.join(f'{k}={v}' for k, v in event.fields.items())}")
        self.machine.events.clear()
        self._after_turn(self)

    def due(self) -> None:
        self.machine.handle_deadline(self.clock())
        self.node.end.handle_deadline(self.clock())

    def next_due(self) -> float | None:
        mine, theirs = self.machine.next_deadline(), self.node.end.next_deadline()
        return mine if theirs is None else min(mine, theirs)

    def _send(self, route: bytes, outgoing: list[Outgoing]) -> None:
        connection = self.connections.get(route)
        if connection is None:
            return
        for index, (message, bodies) in enumerate(outgoing):
            data = encode(message, bodies)
            if not connection.send(self, data):
                self._stuck[route] = data
                self.machine.block(route, outgoing[index + 1 :])
                return

    def _again(self, connection: Connection) -> None:
        data = self._stuck.pop(connection.route, None)
        if data is None:
            return
        if connection.send(self, data):
            self.machine.unblock(connection.route)
        else:
            self._stuck[connection.route] = data
        self.flush()
        self.set_alarm()

    def _lost(self, connection: Connection) -> None:
        self.connections.pop(connection.route, None)
        self._stuck.pop(connection.route, None)
        self.machine.disconnected(connection.route, self.clock())
        self.wake()

    def _beat_myself(self) -> None:
        self.machine.receive(LOCAL, self._me, self.node.beat(), b"", 0, self.clock())
        self.later(self.limits.session.heartbeat_s, self._beat_myself)
        self.wake()


class WorkerHost(PeerHost):
    """A worker's process."""

    def __init__(self, world: World, cluster: Cluster, name: str, slots: int, instance: str, ledger: Ledger) -> None:
        infos = [function.info() for function in FUNCTIONS.values()]
        super().__init__(world, cluster, Identity(f"key-of-{name}", name, "worker"), name, infos, slots, instance)
        self.node = SimNode(self, FUNCTIONS, slots, may_call)
        self._ledger = ledger

    def started(self, job: Job) -> None:
        self._ledger.started(self.name, key_of(job.body), bytes(job.body))

    def drain(self) -> None:
        """Take no new work."""
        self.world.note(self.name, "drains")
        self.node.end.draining = True
        if self.link.state == "up":
            self.say(Bye(code="draining", draining=True))

    def leave(self) -> None:
        """End what still runs, say BYE, and be gone."""
        self.node.close()
        self.flush()
        self.perform(self.link.close())
        self.crash(silently=False)

    def down(self, was_up: bool) -> None:
        self.node.session_lost()

    def ended(self, error: ZClusterError) -> None:
        self.node.session_lost()
        self.alive = False

    def message(self, message: Message, data: bytes, offset: int) -> None:
        self.node.receive(message, data, offset)

    def beat(self) -> Beat:
        return self.node.beat()

    def take(self) -> list[Outgoing]:
        return self.node.end.take()

    def due(self) -> None:
        super().due()
        self.node.end.handle_deadline(self.clock())

    def next_due(self) -> float | None:
        times = [time for time in (super().next_due(), self.node.end.next_deadline()) if time is not None]
        return min(times) if times else None


class ClientHost(PeerHost):
    """A client's process."""

    def __init__(self, world: World, cluster: Cluster, name: str, role: str, instance: str, ledger: Ledger) -> None:
        self.calls = Calls()
        self.calls.max_calls = 40
        self._ledger = ledger
        self._made = 0
        super().__init__(world, cluster, Identity(f"key-of-{role}s", f"{role}s", role), name, [], 0, instance)

    def call(
        self, function: str, target: str, *, size: int = 0, timeout_s: float = 2.0, priority: int = 5, flags: int = 0
    ) -> Record | None:
        """Call ``function``; None when the client itself refuses."""
        self._made += 1
        key = f"{self.link.hello.instance}.{self._made}"
        body = f"{key}|".encode()
        body += b"a" * max(0, size - len(body))
        try:
            call = self.calls.open(function, target, body, self.clock(), timeout_s, priority, flags)
        except ZClusterError as error:
            self.world.note(self.name, f"cannot call {function}: {error.message}")
            return None
        call.sink = record = self._ledger.opened(key, self.name, self.identity.role, call, sent=self.calls.up)
        self.world.note(self.name, f"calls {function} at {target}: {key}, {len(body)} bytes, {timeout_s:.2f} s")
        self.wake()
        return record

    def cancel_one(self) -> None:
        """Cancel one of the open calls."""
        if self.calls.open_calls:
            call = self.world.random.choice(list(self.calls.open_calls.values()))
            self.calls.cancel(call)
            self._ledger.cancelled(call.sink)
            self.wake()

    def crash(self, *, silently: bool) -> None:
        self._ledger.died(self.name)
        super().crash(silently=silently)

    def leave(self) -> None:
        """Close as a client does: open calls end with an error, BYE."""
        self._fail_all(Unreachable("the client was closed"))
        self.flush()
        self.perform(self.link.close())
        super().crash(silently=False)

    def up(self, welcome: Welcome) -> None:
        self.calls.session_up(welcome, self.clock())
        for call in self.calls.open_calls.values():
            call.sink.sessions += 1

    def down(self, was_up: bool) -> None:
        if was_up:
            for call, error in self.calls.session_lost():
                self._ledger.error(call.sink, error, self.clock())

    def ended(self, error: ZClusterError) -> None:
        self.calls.session_lost()
        self._fail_all(error)
        self.alive = False

    def message(self, message: Message, data: bytes, offset: int) -> None:
        calls = self.calls
        match message:
            case Replies():
                self._outcomes(calls.replies(message, data, offset))
            case Credit():
                calls.credit(message.grants)
            case Chunk():
                self._outcomes(calls.chunk(message, memoryview(data)[offset:]))
            case Catalog():
                calls.idempotent = frozenset(message.idempotent)

    def take(self) -> list[Outgoing]:
        return self.calls.take()

    def due(self) -> None:
        super().due()
        for call, error in self.calls.handle_deadline(self.clock()):
            self._ledger.error(call.sink, error, self.clock())

    def next_due(self) -> float | None:
        times = [time for time in (super().next_due(), self.calls.next_deadline()) if time is not None]
        return min(times) if times else None

    def _outcomes(self, outcomes: list[tuple[Call, int, str, int, bytes | bytearray]]) -> None:
        for call, status, node, leg, body in outcomes:
            self._ledger.answer(call.sink, call, status, node, leg, body, self.clock())
            if call.items_upto is not None and leg in call.items_upto:
                self.later(self.world.random.uniform(0.0, 0.05), partial(self._consume, call, leg))

    def _consume(self, call: Call, leg: int) -> None:
        if call.id in self.calls.open_calls:
            self.calls.consumed(call, leg)
            self.wake()

    def _fail_all(self, error: ZClusterError) -> None:
        for call in list(self.calls.open_calls.values()):
            self.calls.cancel(call)
            self._ledger.error(call.sink, error, self.clock())
