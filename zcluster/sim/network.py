"""The network between the master and the others: connections that are slow, break, stall, and sometimes lie.

Rules kept here:
- a connection delivers in order, as TCP does, until one end closes it or it breaks; its end is told to the other side
  after what was sent before, unless it breaks in silence;
- a *dirty* network also loses, repeats and reorders single messages, which TCP does not: the machines must stand that;
- a pipe holds at most PIPE_MESSAGES; a full one refuses (a socket's high-water mark), and tells when there is room;
- what is for a host that is cut off or frozen waits, and comes in order when it is back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from zcluster.core.peers import Identity
from zcluster.sim.world import World

PIPE_MESSAGES = 12


@dataclass
class Weather:
    """How bad the network of a run is: probabilities per message."""

    lose: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    slow: float = 0.0

    @property
    def dirty(self) -> bool:
        """Whether single messages may be lost, repeated or reordered."""
        return bool(self.lose or self.repeat or self.reorder)

    def clear(self) -> None:
        """From now on the network is good."""
        self.lose = self.repeat = self.reorder = self.slow = 0.0


class End(Protocol):
    """A host as the network sees it."""

    name: str

    @property
    def reachable(self) -> bool: ...
    def delivered(self, connection: Connection, data: bytes) -> None: ...
    def closed(self, connection: Connection) -> None: ...
    def writable(self, connection: Connection) -> None: ...


class Pipe:
    """One direction of a connection."""

    def __init__(self, connection: Connection, sender: End, receiver: End) -> None:
        self.connection = connection
        self.sender = sender
        self.receiver = receiver
        self.held: deque[bytes | None] = deque()
        self._world = connection.world
        self._in_flight = 0
        self._last_s = 0.0
        self._refused = False

    def send(self, data: bytes | None) -> bool:
        """Send ``data`` (None: the end of the stream); false when the pipe is full."""
        if data is not None and self._in_flight >= PIPE_MESSAGES:
            self._refused = True
            return False
        world, weather = self._world, self.connection.weather
        if data is not None and world.chance(weather.lose):
            world.note("net", f"loses a message of {self.sender.name} to {self.receiver.name}")
            return True
        times = 2 if data is not None and world.chance(weather.repeat) else 1
        for _ in range(times):
            delay_s = world.random.uniform(0.0002, 0.003)
            if world.chance(weather.slow):
                delay_s = world.random.uniform(0.02, 0.6)
            if data is not None and world.chance(weather.reorder):
                delay_s += world.random.uniform(0.0, 0.05)
            else:
                delay_s = max(delay_s, self._last_s - world.now)
                self._last_s = world.now + delay_s
            self._in_flight += 1
            world.after(delay_s, lambda: self._arrive(data))
        return True

    def release(self) -> None:
        """The receiver can be reached again."""
        while self.held and self.receiver.reachable and not self.connection.cut:
            self._deliver(self.held.popleft())

    def _arrive(self, data: bytes | None) -> None:
        if self.held or not self.receiver.reachable or self.connection.cut:
            self.held.append(data)
        else:
            self._deliver(data)

    def _deliver(self, data: bytes | None) -> None:
        self._in_flight -= 1
        if self.connection.deaf(self.receiver):
            return
        if data is None:
            self.connection.ended(self.receiver)
            return
        self.receiver.delivered(self.connection, data)
        if self._refused:
            self._refused = False
            self._world.after(0.0, lambda: self.sender.writable(self.connection))


class Connection:
    """Between a peer and the master."""

    def __init__(self, world: World, weather: Weather, route: bytes, identity: Identity, peer: End, master: End) -> None:
        self.world = world
        self.weather = weather
        self.route = route
        self.identity = identity
        self.peer = peer
        self.master = master
        self.interrupted = False
        """The network between the two is interrupted."""
        self._dead = False
        self._up = Pipe(self, peer, master)
        self._down = Pipe(self, master, peer)
        self._deaf: set[str] = set()

    @property
    def cut(self) -> bool:
        """Whether nothing arrives. After a silent death each end believes in it until it misses the other's beats."""
        return self.interrupted or self._dead

    @property
    def over(self) -> bool:
        """Whether neither end has to do with it any more."""
        return len(self._deaf) == 2

    def send(self, sender: End, data: bytes) -> bool:
        """Send ``data`` from one end to the other; false when the pipe is full."""
        if sender.name in self._deaf:
            return True
        return (self._up if sender is self.peer else self._down).send(data)

    def close(self, by: End, *, silently: bool = False) -> None:
        """One end closes, or dies; the other hears of it unless ``silently``."""
        if by.name in self._deaf:
            return
        self._deaf.add(by.name)
        if not silently:
            (self._up if by is self.peer else self._down).send(None)

    def break_(self, *, silently: bool) -> None:
        """The connection dies; each end hears of it, or notices by itself."""
        for end in (self.peer, self.master):
            if silently:
                self._dead = True
            else:
                self.world.after(0.001, lambda end=end: self.ended(end))  # type: ignore[misc]

    def ended(self, end: End) -> None:
        """``end`` learns that the connection is over."""
        if end.name not in self._deaf:
            self._deaf.add(end.name)
            end.closed(self)

    def deaf(self, end: End) -> bool:
        """Whether ``end`` has nothing to do with the connection any more."""
        return end.name in self._deaf

    def release(self) -> None:
        """A host, or the network between the two, is back."""
        self._up.release()
        self._down.release()
