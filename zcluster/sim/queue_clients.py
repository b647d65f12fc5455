"""Clients of a simulated queue: they submit, lose answers, ask again, follow, and give orders.

Rules kept here:
- a client that does not know whether a submission was accepted asks again when that has an idempotency key, and forgets it
  when it has none;
- of a job that was acknowledged a client asks until it is told the outcome, or that there is no such job (any more);
- what is told twice is the same, unless somebody put the job back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from zcluster.core.catalog import Functions
from zcluster.core.peers import Identity
from zcluster.core.queue.admission import Ask, Defaults, JobAdmission
from zcluster.core.queue.job import ANY_LANE, NODE_LANE, Job
from zcluster.core.queue.orders import Op, Order
from zcluster.core.queue.told import Submission
from zcluster.errors import ZClusterError
from zcluster.sim.queue_oracle import Oracle
from zcluster.sim.world import World

if TYPE_CHECKING:
    from zcluster.sim.queue_master import SimMaster

LIFETIME_S = 500.0
"""Of a job that is put back."""
FUNCTIONS = {"f": ("m", "w1", "w2", "w3"), "g": ("w1", "m"), "h": ("w2",)}
"""Which nodes have what."""
Answers = dict[int, list[tuple[int, bytes]]]


@dataclass
class Item:
    """One job that a client wants."""

    ask: Ask
    lanes: list[str]
    body: bytes
    key: str = ""
    number: int = 0
    ended: bool = False
    """It was told the outcome, or that the job is gone."""
    forgotten: bool = False


@dataclass(eq=False)
class Session:
    """One connection of a client: it submits and follows."""

    client: SimClient
    life: int
    key: str
    admin: bool
    open: bool = True
    items: dict[int, Item] = field(default_factory=dict)
    """What was sent, by the number of the submission."""
    last_id: int = 0

    def accepted(self, submission: Submission) -> None:
        for offset, job in enumerate(submission.jobs):
            self.known(submission.first_id + offset, job, False)

    def known(self, id_: int, job: Job, before: bool) -> None:
        self.client.hear(self, lambda: self.client.acknowledged(self.items.pop(id_), job.number))

    def refused(self, first_id: int, count: int, error: ZClusterError) -> None:
        for id_ in range(first_id, first_id + count):
            self.client.hear(self, lambda id_=id_: self.client.refused(self.items.pop(id_), error))

    def told(self, jobs: Sequence[Job]) -> None:
        """Jobs that it follows have ended."""
        for job in jobs:
            self.client.hear(self, lambda number=job.number: self.client.ended(number))

    def unknown(self, numbers: Sequence[int]) -> None:
        """There are no such jobs (any more)."""
        for number in numbers:
            self.client.hear(self, lambda number=number: self.client.ended(number))


class SimClient:
    """A program that submits jobs."""

    def __init__(self, world: World, oracle: Oracle, name: str, admin: bool, master: SimMaster) -> None:
        self.world, self.oracle, self.name, self.master = world, oracle, name, master
        self.identity = Identity(f"key-{name}", name, "admin" if admin else "client")
        self.session: Session | None = None
        self.items: list[Item] = []
        """Everything it wants."""
        defaults = Defaults(timeout_s=world.random.choice((1.0, 6.0)), expires_s=LIFETIME_S, retention_s=5000.0)
        self._make = JobAdmission({}, lambda: (), Functions(), "m", lambda role, asked: True, defaults)
        self._numbers: dict[int, list[Item]] = {}

    # -- sessions -------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open a session, when there is none and the master is there; then ask for everything that is not known."""
        master = self.master
        if self.session is not None and self.session.open and self.session.life == master.life and master.alive:
            return
        if self.session is not None:
            self.lose()
        if not master.alive:
            return
        self.session = Session(self, master.life, self.identity.key, self.identity.role == "admin")
        for item in self.items:
            if item.number and not item.ended:
                self._follow(item.number)
            elif not item.number and item.key and not item.forgotten:
                self.submit([item])

    def lose(self) -> None:
        """The session is over, with all that is on the wire."""
        session, self.session = self.session, None
        if session is None:
            return
        session.open = False
        if self.master.alive and session.life == self.master.life:
            self.master.queue.following.gone(session)
        for item in session.items.values():
            item.forgotten = item.forgotten or not item.key

    def hear(self, session: Session, what: object) -> None:
        """The master says something in ``session``."""
        assert callable(what)
        self.world.after(self.world.random.uniform(0.0002, 0.02), lambda: what() if session.open else None)

    # -- submissions ----------------------------------------------------------------------------------------------------

    def submit(self, items: list[Item]) -> None:
        """Ask for jobs that are alike but for their arguments."""
        self.connect()
        session = self.session
        if session is None:
            for item in items:
                item.forgotten = item.forgotten or not item.key
            return
        first_id = session.last_id + 1
        session.last_id += len(items)
        session.items.update({first_id + offset: item for offset, item in enumerate(items)})
        self._send(session, lambda: self._submitted(session, first_id, items))

    def _submitted(self, session: Session, first_id: int, items: list[Item]) -> None:
        """As the part of the master does it."""
        master, queue, item = self.master, self.master.queue, items[0]
        now, wall_s = master.now(), master.wall_s()
        jobs = self._make.make(
            item.ask, item.lanes[0], self.identity, [(item.body, item.key) for item in items], now, wall_s
        )
        times = len(item.lanes) + 1 if item.ask.fan_out else 1
        error = queue.refusal(self.identity.key, len(jobs) * times, sum(job.size for job in jobs) * times)
        if error is not None:
            queue.told.refused.append((session, first_id, len(jobs), error))
        elif item.ask.fan_out:
            for offset, job in enumerate(jobs):
                queue.submit(session, first_id + offset, [job], self._make.spread(job, item.lanes))
        else:
            queue.submit(session, first_id, jobs, [])

    def acknowledged(self, item: Item, number: int) -> None:
        """The master has accepted it."""
        if item.number and item.number != number and item.number not in self.oracle.gone:
            self.world.fail(f"{self.name} was told {item.number}, and then {number}, of one submission")
        item.number = number
        self._numbers.setdefault(number, []).append(item)
        self._follow(number)

    def refused(self, item: Item, error: ZClusterError) -> None:
        """The master has not accepted it."""
        self.oracle.outcomes[f"refused: {error.code}"] += 1
        item.forgotten = error.code == "key_conflict" or not item.key
        if not item.forgotten:
            self.world.after(2.0, lambda: self.submit([item]) if not item.number else None)

    # -- outcomes and orders --------------------------------------------------------------------------------------------

    def ended(self, number: int) -> None:
        """It is told an outcome, or that there is no such job."""
        for item in self._numbers.get(number, ()):
            item.ended = True

    def _follow(self, number: int) -> None:
        session, master = self.session, self.master
        if session is not None:
            order = Order("follow", number, session)
            self._send(session, lambda: master.queue.orders.put(order, master.now(), master.wall_s()))

    def order(self, op: Op, number: int) -> None:
        """Cancel, put back or drop a job; of a fan-out its parts."""
        self.connect()
        session, master, oracle = self.session, self.master, self.oracle
        if session is None:
            return

        def answer(number: int, job: Job | None, why: ZClusterError | None) -> None:
            if why is None:
                oracle.answered(op, number)
            elif why.code == "no_such_job":
                oracle.unknown(number, session.key, session.admin)

        def put() -> None:
            self.world.note(self.name, f"{op} job {number}")
            for one in self._members(op, number):
                if op == "retry":
                    oracle.asked_back[one] += 1
                    for item in self._numbers.get(one, ()):
                        item.ended = False
                elif op == "drop":
                    oracle.dropping.add(one)
                order = Order(op, one, session, answer, LIFETIME_S)
                master.queue.orders.put(order, master.now(), master.wall_s())
            if op == "retry":
                self._follow(number)

        self._send(session, put)

    def _members(self, op: Op, number: int) -> list[int]:
        job = self.oracle.jobs.get(number)
        if job is None or not job.parts or op == "drop":
            return [number]
        parts = [part for part in self.oracle.jobs.values() if part.parent == number]
        live = [part.number for part in parts if not part.final]
        return live if op == "cancel" else [*(part.number for part in parts if part.final), number]

    def _send(self, session: Session, what: object) -> None:
        """Say something to the master."""
        assert callable(what)

        def arrive() -> None:
            if session.open and self.master.alive and session.life == self.master.life:
                what()
                self.master.turn()

        self.world.after(self.world.random.uniform(0.0002, 0.02), arrive)

    def open_questions(self) -> list[str]:
        """What it still waits for."""
        waits = [item for item in self.items if not item.forgotten and not item.ended]
        return [f"{self.name} waits for {item.number or item.key}" for item in waits]


def new_items(world: World, client: SimClient, serial: int, wall_s: float) -> list[Item]:
    """What a client wants next: one job or some that are alike."""
    random = world.random
    function = random.choice(("f", "f", "f", "g", "h"))
    kind = random.random()
    target, lanes, fan_out = "any", [ANY_LANE + function], False
    if kind < 0.25:
        target = random.choice(FUNCTIONS[function])
        lanes = [NODE_LANE + target]
    elif kind < 0.4:
        target, lanes, fan_out = "all", [NODE_LANE + name for name in FUNCTIONS[function]], True
    sequence = f"{client.name}-{random.choice('ab')}" if not fan_out and random.random() < 0.25 else ""
    ask = Ask(function, target, fan_out, random.choice((5, 5, 0, 9)), retries=random.choice((0, 1, 3, 6)), sequence=sequence)
    when = random.random()
    if when < 0.15:
        ask = replace(ask, delay_s=random.choice((0.1, 2.0, 15.0)))
    elif when < 0.25:
        ask = replace(ask, at_s=wall_s + random.choice((-5.0, 1.0, 20.0)))
    if random.random() < 0.1:
        ask = replace(ask, expires_s=random.choice((0.05, 1.0, 5.0)))
    if random.random() < 0.15:
        ask = replace(ask, retention_s=random.choice((0.01, 3.0, 60.0)))
    if random.random() < 0.1:
        ask = replace(ask, timeout_s=0.2)
    count = random.choice((1, 1, 1, 2, 6, 25)) if not fan_out else random.choice((1, 1, 3))
    keyed = random.random() < 0.35
    known = [item.key for item in client.items if item.key and item.ask.function == function]
    items = []
    for offset in range(count):
        key = f"{client.name}-k{serial}-{offset}" if keyed else ""
        if keyed and known and random.random() < 0.2:
            key = random.choice(known)  # of something else: a conflict, or of a job that is gone
        items.append(Item(ask, lanes, b"x" * random.choice((0, 2, 20, 200)), key))
    return items
