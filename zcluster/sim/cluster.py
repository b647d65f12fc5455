"""A simulated cluster: one master, its workers and clients, the connections between them, and what can happen to each.

Rules kept here:
- a name is one process at a time, except for a second process with the same key, which is made on purpose;
- after everything that a master does its books are checked, and the clients' and workers' after each event of the run.
"""

from __future__ import annotations

from zcluster.core.dispatch import QueueLimits
from zcluster.core.master import MasterLimits
from zcluster.core.peers import Identity
from zcluster.core.roster import SessionLimits
from zcluster.sim.functions import LIMITS
from zcluster.sim.hosts import Host, PeerHost
from zcluster.sim.invariants import check_client, check_master, check_quiet, check_worker
from zcluster.sim.ledger import Ledger
from zcluster.sim.network import Connection, Weather
from zcluster.sim.processes import ClientHost, MasterHost, WorkerHost
from zcluster.sim.world import World

HEARTBEAT_S = 0.5
ATTEMPTS = 3


def small_limits() -> MasterLimits:
    """Limits that a short run reaches."""
    return MasterLimits(
        session=SessionLimits(
            heartbeat_s=HEARTBEAT_S, lease_heartbeats=3, max_sessions=20, max_sessions_per_key=4, chunk_bytes=LIMITS.chunk_bytes
        ),
        queue=QueueLimits(per_client=12, total=24, total_bytes=2500, max_timeout_s=20.0, attempts=ATTEMPTS),
        body_bytes=LIMITS.body_bytes,
        inline_bytes=LIMITS.inline_bytes,
        window_bytes=LIMITS.window_bytes,
        outbox_bytes=9000,
        transfer_bytes=LIMITS.transfer_bytes,
    )


class SimCluster:
    """The processes of a run and what connects them."""

    def __init__(self, world: World, weather: Weather, workers: dict[str, int], clients: dict[str, str]) -> None:
        self.world = world
        self.weather = weather
        self.slots = workers
        self.ledger = Ledger(world, ATTEMPTS, exact=not weather.dirty)
        self.master: MasterHost | None = None
        self.workers: list[WorkerHost] = []
        self.clients: list[ClientHost] = []
        self.connections: list[Connection] = []
        self.denied: set[str] = set()
        """Names whose key is not in the ring now."""
        self._epoch = 0
        self._known: dict[str, str] = {}
        self._instances = 0
        self._roles = clients
        self.start_master()
        for name in workers:
            self.start_worker(name)
        for name in clients:
            self.start_client(name)

    # -- processes --------------------------------------------------------------------------------------------------

    def start_master(self) -> None:
        """A master starts; it has the records of the one before."""
        if self.master is not None and self.master.alive:
            return
        self._epoch += 1
        self.master = MasterHost(self.world, "m", self._epoch, small_limits(), self._known, self.ledger, self._after_master)
        self.master.start()

    def start_worker(self, name: str) -> None:
        """A worker's process starts. Another one with its key, if there is one, will be replaced."""
        self._instances += 1
        host = WorkerHost(self.world, self, name, self.slots[name], f"{name}-{self._instances}", self.ledger)
        self.workers = [worker for worker in self.workers if worker.alive] + [host]
        self.world.note(name, f"starts as {host.link.hello.instance}")
        host.start()

    def start_client(self, name: str) -> None:
        """A client's process starts."""
        self._instances += 1
        host = ClientHost(self.world, self, name, self._roles[name], f"{name}-{self._instances}", self.ledger)
        self.clients = [client for client in self.clients if client.alive] + [host]
        self.world.note(name, f"starts as {host.link.hello.instance}")
        host.start()

    def connect(self, peer: PeerHost) -> Connection | None:
        """The network side of a connection attempt; None when nobody listens or the key is refused."""
        master = self.master
        if master is None or not master.alive or peer.identity.name in self.denied:
            return None
        route = b"%d" % self._next_route()
        connection = Connection(self.world, self.weather, route, peer.identity, peer, master)
        master.connections[route] = connection
        self.connections = [other for other in self.connections if not other.over] + [connection]
        return connection

    # -- what can happen --------------------------------------------------------------------------------------------

    def hosts(self) -> list[Host]:
        """Every process that lives."""
        some: list[Host] = [*self.workers, *self.clients]
        if self.master is not None:
            some.append(self.master)
        return [host for host in some if host.alive]

    def freeze(self, host: Host, seconds: float) -> None:
        """``host`` stops for a time."""
        if host.frozen:
            return
        self.world.note(host.name, f"is frozen for {seconds:.2f} s")
        host.freeze()
        self.world.after(seconds, lambda: self._thaw(host))

    def interrupt(self, host: PeerHost, seconds: float) -> None:
        """The network between ``host`` and the master stops for a time; what is under way waits."""
        connection = host.connection
        if connection is None or connection.interrupted:
            return
        self.world.note("net", f"is interrupted for {seconds:.2f} s at {host.name}")
        connection.interrupted = True
        self.world.after(seconds, lambda: self._restore(connection))

    def revoke(self, name: str, seconds: float) -> None:
        """The key of ``name`` is taken out of the ring, and put back after a time."""
        self.world.note("ring", f"loses {name} for {seconds:.2f} s")
        self.denied.add(name)
        self.world.after(seconds, lambda: self.denied.discard(name))
        master = self.master
        if master is not None and master.alive:
            master.later(0.0, lambda: self._ring_changed(master))

    def heal(self) -> None:
        """Every fault ends, and every process that is gone starts again."""
        self.weather.clear()
        self.denied.clear()
        if self.master is not None and self.master.alive and self.master.machine.admission.draining:
            self.master.leave()
        self.start_master()
        for worker in [worker for worker in self.workers if worker.alive and worker.node.end.draining]:
            worker.leave()
        for connection in self.connections:
            self._restore(connection)
        for host in self.hosts():
            self._thaw(host)
        for name in self.slots:
            if not any(worker.name == name and worker.alive for worker in self.workers):
                self.start_worker(name)
        self.world.note("net", "is well again")

    # -- checks -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The checks that do not hang on an event of the master."""
        for client in self.clients:
            check_client(client)
        for worker in self.workers:
            check_worker(worker)

    def check_quiet(self) -> None:
        """Nothing is left."""
        assert self.master is not None
        check_quiet(self.master, [w for w in self.workers if w.alive], [c for c in self.clients if c.alive])
        for record in self.ledger.records.values():
            if not record.over:
                self.world.fail(f"{record.key} has no end")

    # -- inside -----------------------------------------------------------------------------------------------------

    def _after_master(self, master: MasterHost) -> None:
        check_master(master, self.slots)
        self._known = {name: node.role for name, node in master.machine.roster.nodes.items() if node.state in ("ready", "silent")}
        self._known.pop(master.name, None)

    def _ring_changed(self, master: MasterHost) -> None:
        master.machine.keys_changed(self._admitted, master.clock())
        master.wake()

    def _admitted(self, identity: Identity) -> bool:
        return identity.name not in self.denied

    def _thaw(self, host: Host) -> None:
        if not host.frozen:
            return
        host.thaw()
        self.world.note(host.name, "goes on")
        for connection in self.connections:
            connection.release()

    def _restore(self, connection: Connection) -> None:
        connection.interrupted = False
        connection.release()

    def _next_route(self) -> int:
        self._instances += 1
        return self._instances
