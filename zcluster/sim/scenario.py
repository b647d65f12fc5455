"""A run: what is called and what goes wrong, all of it chosen by the seed.

Rule kept here: a run ends by itself: its steps, then a cure of everything, then time until all deadlines have passed,
and then nothing may be left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from zcluster.sim.cluster import HEARTBEAT_S, SimCluster
from zcluster.sim.hosts import Host, PeerHost
from zcluster.sim.network import Weather
from zcluster.sim.world import SimulationFailed, World
from zcluster.wire.messages import RequestFlag

LAST_LINES = 60
"""Of the trace of a run that failed."""
STEPS = 45
MAX_TIMEOUT_S = 3.0
WARM_UP_S = 0.05

CALLS = (
    ("quick", 8), ("echo", 8), ("slow", 4), ("slow.safe", 4), ("stuck", 2), ("fail", 2), ("large", 3), ("large.safe", 3),
    ("too.large", 1), ("items", 3), ("items.safe", 2), ("admin.only", 1), ("not.there", 1),
)  # fmt: skip
TARGETS = (("any", 12), ("w1", 4), ("w2", 3), ("master", 2), ("w9", 1), ("w*", 1), (" w1 ", 1))
FAN_OUT_TARGETS = (("all", 4), ("w*", 2), ("w1,w2", 2), ("any", 1), ("w1,w9", 1))
TROUBLES = (
    "break", "silence", "interrupt", "freeze", "jump", "crash worker", "crash client", "crash master", "second worker",
    "drain worker", "drain master", "revoke", "close client",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What a run came to."""

    seed: int
    ok: bool
    summary: str
    fingerprint: str
    events: int
    outcomes: dict[str, int]

    def check(self) -> None:
        """Raise what is wrong.

        Raises:
            SimulationFailed: an invariant was broken; the message has the seed.
        """
        if not self.ok:
            raise SimulationFailed(self.summary)


def simulate(seed: int, *, steps: int = STEPS, say: Callable[[str], None] | None = None) -> Report:
    """Run the simulation of ``seed``.

    Args:
        seed: decides everything that happens.
        steps: how many calls and troubles there are.
        say: gets a line for each event.

    Returns:
        What it came to. A broken invariant makes it not ok: :meth:`Report.check` raises it.
    """
    world = World(seed, say)
    run = Run(world)
    try:
        run.play(steps)
        ok, verdict = True, "every invariant held"
    except SimulationFailed as error:
        ok, verdict = False, str(error)
    outcomes = run.cluster.ledger.outcomes
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    calls = len(run.cluster.ledger.records)
    summary = f"{verdict}; {calls} calls ({counts}), {world.events} events" if ok else verdict
    return Report(seed, ok, summary, world.fingerprint, world.events, dict(outcomes))


class Played(Protocol):
    """A run of one of the other scenarios."""

    @property
    def outcomes(self) -> dict[str, int]:
        """How often what happened."""

    def play(self, steps: int) -> None:
        """All of it. Raises SimulationFailed."""


def simulated(
    scenario: str, seed: int, steps: int, say: Callable[[str], None] | None, make: Callable[[World], Played]
) -> Report:
    """Run ``scenario``, which ``make`` makes; as :func:`simulate`. A broken invariant's summary ends with the last lines of the
    trace."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    world = World(seed, say if say is not None else last.append, scenario)
    run = make(world)
    try:
        run.play(steps)
        ok, verdict = True, "every invariant held"
    except SimulationFailed as error:
        ok, verdict = False, "\n".join([str(error), *last])
    outcomes = run.outcomes
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    summary = f"{verdict}; {counts}, {world.events} events" if ok else verdict
    return Report(seed, ok, summary, world.fingerprint, world.events, outcomes)


class Run:
    """One run."""

    def __init__(self, world: World) -> None:
        random = world.random
        self.world = world
        weather = Weather(slow=random.choice((0.0, 0.0, 0.1)))
        if random.random() < 0.4:
            weather.lose, weather.repeat, weather.reorder = (random.choice((0.0, 0.01, 0.05)) for _ in range(3))
        self.troubles = [trouble for trouble in TROUBLES if random.random() < 0.3]
        self.trouble_share = random.choice((0.0, 0.05, 0.15)) if self.troubles else 0.0
        self.pace_s = random.choice((0.003, 0.02, 0.08))
        workers = {f"w{number}": random.choice((1, 2, 2, 4)) for number in range(1, random.randint(2, 4))}
        clients = {f"c{number}": random.choice(("client", "client", "admin")) for number in range(1, random.randint(2, 4))}
        told = {name: share for name, share in vars(weather).items() if share}
        world.note("seed", f"{world.seed}: {workers} {clients} {told} {self.troubles}")
        self.cluster = SimCluster(world, weather, workers, clients)

    def play(self, steps: int) -> None:
        """All of it."""
        world, cluster = self.world, self.cluster
        self._go_on(WARM_UP_S)
        for _ in range(steps):
            if world.chance(self.trouble_share):
                self._trouble(world.random.choice(self.troubles))
            elif world.chance(0.07):
                self._client(lambda client: client.cancel_one())
            else:
                self._call()
            self._go_on(world.random.expovariate(1 / self.pace_s))
        cluster.heal()
        # Until the last deadline, and long enough that the last lease has ended and everybody is back.
        self._go_on(MAX_TIMEOUT_S + 6 * HEARTBEAT_S)
        cluster.check_quiet()

    def _go_on(self, seconds: float) -> None:
        world, end_s = self.world, self.world.now + seconds
        while (at_s := world.next_at()) is not None and at_s <= end_s:
            world.run_next()
            self.cluster.check()
        world.now = end_s

    def _call(self) -> None:
        random = self.world.random
        clients = [client for client in self.cluster.clients if client.reachable]
        if not clients:
            return
        flags = RequestFlag.FAN_OUT if random.random() < 0.15 else 0
        target = pick(self.world, FAN_OUT_TARGETS if flags else TARGETS)
        if random.random() < 0.05:
            flags |= RequestFlag.IDEMPOTENT
        size = random.choice((0, 0, 0, 0, 100, 512, 513, 3000, 16_000))
        client = random.choice(clients)
        for _ in range(random.choice((1, 1, 1, 2, 8))):
            client.call(
                pick(self.world, CALLS), target, size=size, timeout_s=random.uniform(0.05, MAX_TIMEOUT_S),
                priority=random.randint(0, 9), flags=flags,
            )  # fmt: skip

    def _client(self, action: Callable[..., None]) -> None:
        clients = [client for client in self.cluster.clients if client.reachable]
        if clients:
            action(self.world.random.choice(clients))

    def _trouble(self, what: str) -> None:
        cluster, random, world = self.cluster, self.world.random, self.world
        peers: list[PeerHost] = [host for host in [*cluster.workers, *cluster.clients] if host.alive]
        hosts = cluster.hosts()
        host, peer = (random.choice(hosts) if hosts else None), (random.choice(peers) if peers else None)
        seconds = random.choice((0.05, 0.4, 1.2, 2.5))
        match what:
            case "freeze" if host is not None:
                cluster.freeze(host, seconds)
            case "jump" if host is not None and host.reachable:
                world.note(host.name, f"its clock jumps by {seconds:.2f} s")
                host.jump(seconds)
            case "break" | "silence" if peer is not None and peer.connection is not None:
                world.note("net", f"breaks the connection of {peer.name}{' in silence' if what == 'silence' else ''}")
                peer.connection.break_(silently=what == "silence")
            case "interrupt" if peer is not None:
                cluster.interrupt(peer, seconds)
            case "revoke" if peer is not None:
                cluster.revoke(peer.identity.name, seconds)
            case _:
                self._process_trouble(what, seconds)

    def _process_trouble(self, what: str, seconds: float) -> None:
        cluster, random, world = self.cluster, self.world.random, self.world
        workers = [worker for worker in cluster.workers if worker.alive]
        clients = [client for client in cluster.clients if client.alive]
        worker, client = (random.choice(workers) if workers else None), (random.choice(clients) if clients else None)
        master, silently = cluster.master, random.random() < 0.4
        match what:
            case "second worker" if worker is not None:
                cluster.start_worker(worker.name)
            case "crash worker" if worker is not None:
                self._crash(worker, silently)
                world.after(seconds, lambda: cluster.start_worker(worker.name))
            case "crash client" if client is not None:
                self._crash(client, silently)
                world.after(seconds, lambda: cluster.start_client(client.name))
            case "close client" if client is not None and client.reachable:
                world.note(client.name, "closes")
                client.leave()
                world.after(seconds, lambda: cluster.start_client(client.name))
            case "crash master" if master is not None and master.alive:
                self._crash(master, silently)
                world.after(seconds, cluster.start_master)
            case "drain worker" if worker is not None and worker.reachable:
                worker.drain()
                worker.later(0.5, worker.leave)
                world.after(0.5 + seconds, lambda: cluster.start_worker(worker.name))
            case "drain master" if master is not None and master.reachable:
                world.note(master.name, "drains")
                master.drain()
                master.later(0.5, master.leave)
                world.after(0.6 + seconds, cluster.start_master)
            case _:
                return

    def _crash(self, host: Host, silently: bool) -> None:
        self.world.note(host.name, f"crashes{' in silence' if silently else ''}")
        host.crash(silently=silently)


def pick(world: World, weighted: tuple[tuple[str, int], ...]) -> str:
    """One of the words, each as often as its weight says."""
    words, weights = zip(*weighted, strict=True)
    return str(world.random.choices(words, weights)[0])
