"""The nodes of a simulated cluster that syncs trees, and the sessions between them.

Rules kept here:
- a session carries control and bulk, each in order, and control may overtake bulk; when it breaks each side learns of it by
  itself, and what was on its way is lost;
- a main process lives on when its sync process dies, and tells the next one of its sessions; frames for a sync process that
  does not run are lost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from zcluster.core.sync.hub import Hub
from zcluster.core.sync.member import MASTER
from zcluster.sim.trees_process import LIMITS, Process, Store
from zcluster.sim.world import World
from zcluster.wire import decode
from zcluster.wire.trees import Trees


class Link:
    """A session between a worker and the master."""

    def __init__(self, world: World, number: int, worker: WorkerNode, master: MasterNode) -> None:
        self.world, self.number, self.worker, self.master = world, number, worker, master
        self.broken = False
        self._last_s: dict[tuple[bool, bool], float] = {}

    def send(self, frame: bytes, bulk: bool, *, up: bool) -> None:
        """Send a frame to the master (``up``) or the worker."""
        key, random = (up, bulk), self.world.random
        if self.world.chance(self.master.lose):
            self.world.note("net", f"loses a frame {'to m' if up else f'to {self.worker.name}'}")
            return
        delay_s = random.uniform(0.0003, 0.003) + (random.uniform(0.0, 0.01) if bulk else 0.0)
        at_s = max(self.world.now + delay_s, self._last_s.get(key, 0.0))
        self._last_s[key] = at_s
        self.world.after(at_s - self.world.now, partial(self._arrive, frame, up))

    def _arrive(self, frame: bytes, up: bool) -> None:
        if self.broken:
            return
        if up:
            if self.number in self.master.links:
                self.master.received(self, frame)
        elif self.worker.link is self:
            self.worker.received(frame)

    def beat(self, digest: str) -> None:
        """The worker's heartbeat."""
        self.world.after(self.world.random.uniform(0.0003, 0.003), lambda: self.master.beat(self, digest))

    def break_(self) -> None:
        """It breaks; each side learns of it by itself."""
        self.broken = True
        random = self.world.random
        self.world.after(random.uniform(0.001, 3.0), lambda: self.master.lost(self))
        self.world.after(random.uniform(0.001, 3.0), lambda: self.worker.lost(self))


class MasterNode:
    """The master: its main process, which knows the sessions, and its sync process."""

    def __init__(self, world: World, start: Callable[[MasterNode], Process]) -> None:
        self.world, self._start = world, start
        self.store = Store()
        self.links: dict[int, Link] = {}
        self.process: Process | None = None
        self.up = False
        self.epoch = 0
        self.last_number = 0
        self.lose = 0.0
        """The share of frames that is lost although the session lives."""

    def start(self) -> None:
        """The master starts."""
        if not self.up:
            self.up = True
            self.epoch += 1
            self.start_sync()

    def start_sync(self) -> None:
        """Its sync process starts, and hears of the sessions."""
        if not self.up or self.process is not None:
            return
        self.process = process = self._start(self)
        process.event(lambda: None)
        for link in self.links.values():
            self._tell_up(link)

    def crash_sync(self) -> None:
        """Its sync process dies."""
        if self.process is not None:
            self.process.die()
            self.process = None

    def crash(self) -> None:
        """The master dies."""
        if self.up:
            self.up = False
            self.crash_sync()
            for link in list(self.links.values()):
                link.break_()
            self.links.clear()

    def send(self, session: int, frame: bytes, bulk: bool) -> None:
        """A frame of the sync process."""
        link = self.links.get(session)
        if link is not None:
            link.send(frame, bulk, up=False)

    def received(self, link: Link, frame: bytes) -> None:
        """A frame for the sync process."""
        if self.process is not None:
            self.process.frame(link.number, frame)

    def beat(self, link: Link, digest: str) -> None:
        """A heartbeat came."""
        if not link.broken and link.number in self.links and self.process is not None and digest:
            process, hub = self.process, self.process.machine
            assert isinstance(hub, Hub)
            process.event(lambda: hub.beat(link.number, digest, process.now))

    def connect(self, worker: WorkerNode) -> Link:
        """A worker opens a session; it replaces the one that the worker has."""
        for old in [link for link in self.links.values() if link.worker is worker]:
            self.lost(old)
        self.last_number += 1
        link = self.links[self.last_number] = Link(self.world, self.last_number, worker, self)
        self._tell_up(link)
        return link

    def lost(self, link: Link) -> None:
        """A session is over."""
        if self.links.pop(link.number, None) is not None:
            link.broken = True
            if (process := self.process) is not None:
                process.event(lambda: process.machine.session_down(link.number, process.now))

    def _tell_up(self, link: Link) -> None:
        if (process := self.process) is not None:
            process.event(lambda: process.machine.session_up(link.number, link.worker.name, process.now))


class WorkerNode:
    """A worker: its main process and its sync process."""

    def __init__(self, world: World, name: str, master: MasterNode, start: Callable[[WorkerNode], Process]) -> None:
        self.world, self.name, self._master, self._start = world, name, master, start
        self.store = Store()
        self.process: Process | None = None
        self.link: Link | None = None
        self.up = True
        self.held = ""
        self._trees: bytes | None = None

    def connect(self) -> None:
        """Open a session, if there is none and the master is there."""
        if self.up and self.link is None and self._master.up:
            self._trees = None
            self.link = self._master.connect(self)
            if (process := self.process) is not None:
                process.event(lambda: process.machine.session_up(MASTER, "m", process.now))

    def lost(self, link: Link) -> None:
        """The session is over."""
        if self.link is link:
            self.link = None
            if (process := self.process) is not None:
                process.event(lambda: process.machine.session_down(MASTER, process.now))

    def received(self, frame: bytes) -> None:
        """A frame of the master."""
        if isinstance(decode(frame, LIMITS)[0], Trees):
            self._trees = frame
            if self.process is None:
                self.start_sync()
                return
        if self.process is not None:
            self.process.frame(MASTER, frame)

    def start_sync(self) -> None:
        """The sync process starts, if there is a reason to."""
        if self.up and self.process is None and (self._trees is not None or self.store.trees):
            self.process = process = self._start(self)
            if self.link is not None:
                process.event(lambda: process.machine.session_up(MASTER, "m", process.now))
                if self._trees is not None:
                    process.frame(MASTER, self._trees)

    def crash_sync(self) -> None:
        """The sync process dies."""
        if self.process is not None:
            self.process.die()
            self.process = None

    def crash(self) -> None:
        """The worker dies."""
        if self.up:
            self.up = False
            self.crash_sync()
            if self.link is not None:
                self.link.break_()
                self.link = None

    def send(self, session: int, frame: bytes, bulk: bool) -> None:
        """A frame of the sync process."""
        if self.link is not None:
            self.link.send(frame, bulk, up=True)

    def beat(self) -> None:
        """A heartbeat."""
        if self.up and self.link is not None:
            self.link.beat(self.held)
