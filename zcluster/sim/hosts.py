"""Processes of a simulation: what the drivers in net/, brokers/, workers/ and clients/ do, without sockets and loops.

Rules kept here:
- each process has its own clock, which may jump forward; a frozen process does nothing, and finds everything at once
  when it goes on;
- what a process decides in one turn leaves at its end.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from zcluster.core.batch import Outgoing
from zcluster.core.link import Connect, Down, Effect, Ended, Link, LinkPolicy, Say, Up
from zcluster.core.peers import Identity
from zcluster.errors import Unreachable, ZClusterError
from zcluster.sim.network import Connection
from zcluster.sim.world import Action, World
from zcluster.wire import VERSIONS, Beat, FunctionInfo, Hello, Message, Welcome, WireLimits, decode, encode

POLICY = LinkPolicy(hello_timeout_s=0.6, reconnect_base_s=0.05, reconnect_max_s=0.3)
WIRE = WireLimits(frame_bytes=32_768, header_bytes=16_384)
EPSILON_S = 1e-6


class Host:
    """A process."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.offset_s = 0.0
        self.frozen = False
        self.alive = True
        self._alarm_s: float | None = None
        self._held: list[Action] = []
        self._waking = False

    @property
    def reachable(self) -> bool:
        """Whether it reads what comes."""
        return self.alive and not self.frozen

    def clock(self) -> float:
        """Its own time."""
        return self.world.now + self.offset_s

    def later(self, delay_s: float, action: Action) -> None:
        """Do ``action`` after ``delay_s``, unless the process is gone by then; a frozen one does it when it goes on."""
        self.world.after(delay_s, lambda: self._do(action))

    def wake(self) -> None:
        """There is something to send, outside of a turn."""
        if not self._waking:
            self._waking = True
            self.later(0.0, self._turn)

    def jump(self, by_s: float) -> None:
        """Its clock jumps forward."""
        self.offset_s += by_s
        self._alarm_s = None
        self._due()

    def crash(self, *, silently: bool) -> None:
        """The process is gone; its connections end, unless ``silently``."""
        self.alive = False

    def freeze(self) -> None:
        """It stops, as by SIGSTOP."""
        self.frozen = True

    def thaw(self) -> None:
        """It goes on: timers first or messages first, both happens."""
        self.frozen = False
        if not self.alive:
            return
        if self.world.chance(0.5):
            self._due()
        held, self._held = self._held, []
        for action in held:
            action()
        if self.alive:
            self._due()

    def due(self) -> None:
        """Do what the clock says."""

    def next_due(self) -> float | None:
        """When, on its clock, :meth:`due` has something to do."""
        return None

    def flush(self) -> None:
        """Send what was decided."""

    def set_alarm(self) -> None:
        """Have :meth:`due` called in time."""
        due_s = self.next_due()
        if due_s is None or not self.alive:
            return
        at_s = max(due_s - self.offset_s, self.world.now) + EPSILON_S
        if self._alarm_s is None or at_s < self._alarm_s:
            self._alarm_s = at_s
            self.world.after(at_s - self.world.now, lambda: self._rings(at_s))

    def _do(self, action: Action) -> None:
        if not self.alive:
            return
        if self.frozen:
            self._held.append(action)
        else:
            action()

    def _turn(self) -> None:
        self._waking = False
        self.flush()
        self.set_alarm()

    def _rings(self, at_s: float) -> None:
        if self._alarm_s == at_s:
            self._alarm_s = None
            self._do(self._due)

    def _due(self) -> None:
        due_s = self.next_due()
        if due_s is not None and due_s <= self.clock():
            self.due()
            self.flush()
        self.set_alarm()


class Cluster(Protocol):
    """What connects the hosts."""

    def connect(self, peer: PeerHost) -> Connection | None: ...


class PeerHost(Host):
    """A process with a link to the master: the driver of net/link.py."""

    def __init__(
        self, world: World, cluster: Cluster, identity: Identity, name: str, functions: list[FunctionInfo], slots: int,
        instance: str,
    ) -> None:  # fmt: skip
        super().__init__(world, name)
        self.identity = identity
        self.connection: Connection | None = None
        hello = Hello(versions=list(VERSIONS), instance=instance, slots=slots, functions=functions)
        self.link = Link(hello, ["sim"], POLICY)
        self._cluster = cluster
        self._unsent: deque[bytes] = deque()

    # -- for a subclass ---------------------------------------------------------------------------------------------

    def up(self, welcome: Welcome) -> None:
        """The session is open."""

    def down(self, was_up: bool) -> None:
        """The session, or the attempt, has ended."""

    def ended(self, error: ZClusterError) -> None:
        """The link has ended for good."""

    def message(self, message: Message, data: bytes, offset: int) -> None:
        """A message of the master."""

    def beat(self) -> Beat:
        """What a heartbeat says."""
        return Beat()

    def take(self) -> list[Outgoing]:
        """What is to be sent."""
        return []

    # -- the driver -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        self.perform(self.link.start(self.clock()))

    def crash(self, *, silently: bool) -> None:
        """The process is gone."""
        self.alive = False
        self._drop(silently=silently)

    def say(self, message: Message) -> None:
        """Send one message now."""
        self._send([(message, [])])

    def flush(self) -> None:
        """Send what waits."""
        if self.connection is None or (self._unsent and not self._send_unsent()):
            return
        if self.link.state == "up":
            outgoing = self.take()
            if outgoing:
                self._send(outgoing)

    def perform(self, effects: list[Effect]) -> None:
        """Do what the link decided."""
        for effect in effects:
            match effect:
                case Connect():
                    self._connect()
                case Say():
                    self.say(self.beat() if isinstance(effect.message, Beat) else effect.message)
                case Up():
                    self.world.note(self.name, f"is in session {effect.welcome.session} of epoch {effect.welcome.epoch}")
                    self.up(effect.welcome)
                case Down():
                    self._drop()
                    self.world.note(self.name, f"has no session: {effect.error.message}")
                    self.down(effect.was_up)
                case Ended():
                    self._drop()
                    self.world.note(self.name, f"ends: {effect.error.message}")
                    self.ended(effect.error)
        self.set_alarm()

    def delivered(self, connection: Connection, data: bytes) -> None:
        """The network brings a message."""
        if connection is not self.connection:
            return
        message, offset = decode(data, WIRE)
        self.perform(self.link.received(message, self.clock(), self.world.random.random()))
        if connection is self.connection:
            self.message(message, data, offset)
        self.flush()
        self.set_alarm()

    def closed(self, connection: Connection) -> None:
        """The network says that the connection has ended."""
        if connection is self.connection:
            self._do(lambda: self._disconnected(connection, Unreachable("the connection ended")))

    def writable(self, connection: Connection) -> None:
        """The network takes more."""
        if connection is self.connection:
            self._do(self.flush)

    def due(self) -> None:
        """The link's times."""
        due_s = self.link.next_deadline()
        if due_s is not None and due_s <= self.clock():
            self.perform(self.link.handle_deadline(self.clock(), self.world.random.random()))

    def next_due(self) -> float | None:
        return self.link.next_deadline()

    def _connect(self) -> None:
        self._drop()
        connection = self._cluster.connect(self)
        if connection is None:
            error: ZClusterError = Unreachable("no master listens")
            self.later(0.002, lambda: self._refused(error))
        self.connection = connection

    def _refused(self, error: ZClusterError) -> None:
        if self.connection is None and self.link.state == "greeting":
            self.perform(self.link.disconnected(error, self.clock(), self.world.random.random()))

    def _disconnected(self, connection: Connection, error: ZClusterError) -> None:
        if connection is self.connection:
            self.perform(self.link.disconnected(error, self.clock(), self.world.random.random()))

    def _drop(self, *, silently: bool = False) -> None:
        connection, self.connection = self.connection, None
        self._unsent.clear()
        if connection is not None:
            connection.close(self, silently=silently)

    def _send(self, outgoing: list[Outgoing]) -> None:
        self._unsent.extend(encode(message, bodies) for message, bodies in outgoing)
        self._send_unsent()

    def _send_unsent(self) -> bool:
        connection, unsent = self.connection, self._unsent
        while connection is not None and unsent:
            if not connection.send(self, unsent[0]):
                return False
            unsent.popleft()
        return True
