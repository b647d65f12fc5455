"""The master's queue of durable jobs: the core's machine with its store, its sessions, its clocks and its nodes.

Rules kept here:
- one commit at a time; while it is under way everything else goes on, and what comes meanwhile goes with the next;
- what the machine wants told is told once its turn is over, in the same turn;
- queue time is the boot's clock and an offset that is kept with the queue (core/queue/clock.py).
"""

from __future__ import annotations

import asyncio
import math
import secrets
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from zcluster.brokers.audit import Audit
from zcluster.brokers.jobruns import JobRuns
from zcluster.brokers.queueowners import CallOwner, SessionOwner
from zcluster.brokers.queuepace import Pace
from zcluster.brokers.queuesettings import defaults_of, policy_of
from zcluster.brokers.queuesubmissions import Locate, Submissions
from zcluster.brokers.queuetelling import Telling
from zcluster.brokers.queuewatch import Watchers
from zcluster.config import Loaded
from zcluster.core.master import Master
from zcluster.core.peers import Identity, Peer
from zcluster.core.queue import clock
from zcluster.core.queue.admission import Ask, JobAdmission
from zcluster.core.queue.batch import Batch, Done
from zcluster.core.queue.following import MAX_FOLLOWED
from zcluster.core.queue.job import Job
from zcluster.core.queue.machine import JobQueue
from zcluster.core.queue.nodes import NodesView
from zcluster.core.queue.orders import Order
from zcluster.core.queue.told import Told
from zcluster.core.rights import least, right_denied, standing_of
from zcluster.errors import Busy, StoreFailed, ZClusterError
from zcluster.keys import Ring, may_call
from zcluster.net.reader import Alarm
from zcluster.nodes.desk import Desk
from zcluster.process.boot import boot_id, boot_s
from zcluster.store.jobs import JobStore
from zcluster.wire import Hello, Message
from zcluster.wire.jobs import Follow, Jobs, Outcomes

LEAST_PAUSE_S = 0.001
TICK_S = 1.0
"""How often nodes and the time of day are looked at without a reason."""
CLOCK_EVERY_S = 60.0
SWITCH_S = 0.0005
"""The interpreter's switch interval in a master (sys.setswitchinterval): its threads that write to disks need the interpreter for
microseconds, many times a second, and would wait 5 ms for it each time."""
_UNKNOWN = Identity("", "", "")
_random = secrets.SystemRandom()


def open_path(data_dir: Path) -> Path:
    """Where the jobs of a home are."""
    return data_dir / "queue" / "jobs.db"


class MasterQueue:
    """The part of a master that keeps jobs.

    Args:
        open_store: opens its store.
        locate: the nodes that ``agent:ID`` or ``group:G`` means.
    """

    kinds = frozenset({Jobs.kind, Follow.kind})

    def __init__(
        self, desk: Desk, machine: Master, ring: Ring, audit: Audit, open_store: Callable[[], Awaitable[JobStore]], locate: Locate
    ) -> None:
        self._desk, self._machine, self._ring, self._audit = desk, machine, ring, audit
        self._open_store, self._locate = open_store, locate
        self._owners: dict[Peer, SessionOwner] = {}
        self._identities: dict[str, Identity | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._changes = -1
        self._clock_kept = -math.inf
        self._closed = False
        self.admission = JobAdmission(
            machine.roster.nodes, self._workers, machine.dispatch.functions, machine.name, may_call,
            defaults_of(desk.loaded().settings), machine.rights,
        )
        self.watchers = Watchers(self._watched)
        self.pace = Pace()
        self.note = desk.note

    # -- the part ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store and go on where it ended. Raises StoreFailed."""
        sys.setswitchinterval(SWITCH_S)
        self.store = await self._open_store()
        opened = await self.store.opened()
        kept = opened.meta.get("clock")
        mark = msgspec.json.decode(kept, type=clock.Mark) if kept else None
        self._boot_id = await asyncio.to_thread(boot_id)
        self._offset_s = clock.resume(mark, self._boot_id, boot_s(), self._desk.wall_s())
        now, wall_s = self.clocks()
        nodes = NodesView(self._machine.roster.nodes, self._machine.dispatch.functions)
        policy = policy_of(self._desk.loaded().settings)
        self.queue = JobQueue(opened, self._machine.name, policy, nodes, self._may_run, _random.random, now, wall_s)
        if kept := opened.meta.get("functions"):
            self.admission.known = msgspec.json.decode(kept, type=dict[str, list[str]])
        if kept := opened.meta.get("held"):
            held = msgspec.json.decode(kept)
            self.queue.lanes.paused, self.queue.draining = list(held["paused"]), bool(held["draining"])
        self.watchers.store = self._audit.store_id = self.store.id
        self.runs = JobRuns(self._machine, self.queue, self.store.id, self.asker, self.clocks)
        self._submissions = Submissions(
            self._machine, self.queue, self.admission, self._locate, self.clocks, self._tasks, self._desk.wake
        )
        self._telling = Telling(self._desk, self._machine, self._audit, self.runs, self.watchers, self.store.id)
        self._alarm = Alarm(asyncio.get_running_loop(), self._due)
        self._desk.sessions.attach(self)
        self.apply(self._desk.loaded())
        self._due()

    def apply(self, loaded: Loaded) -> None:
        """Take the settings ``queue.*``."""
        self.queue.policy, self.admission.defaults = policy_of(loaded.settings), defaults_of(loaded.settings)

    async def close(self) -> None:
        """Commit what has ended, and close the store. What nodes still have stays theirs, and has another attempt."""
        while self.queue.busy or self._commit():
            await asyncio.wait(self._tasks)
        self._telling.tell(self.queue.told)
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.watchers.close()
        await self.store.close()

    def ring_changed(self) -> None:
        """The ring is another."""
        self._identities.clear()
        self.runs.keys_changed()

    # -- sessions ---------------------------------------------------------------------------------------------------

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """A node may be given jobs now."""
        if peer.node is not None:
            self.queue.lanes.stir()

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        """Nobody is there to be told."""
        owner = self._owners.pop(peer, None)
        if owner is not None:
            self.queue.following.gone(owner)
            self.queue.orders.gone(owner)

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        owner = self._owners.get(peer)
        if owner is None:
            owner = self._owners[peer] = SessionOwner(peer)
        if isinstance(message, Jobs):
            for group in message.groups:
                offset = self._submissions.received(owner, peer.identity, group, data, offset)
        elif isinstance(message, Follow):
            self._follow(owner, message)
        self._desk.wake()

    # -- what functions ask -----------------------------------------------------------------------------------------

    def clocks(self) -> tuple[float, float]:
        """Queue time, and seconds since 1970."""
        return self._offset_s + boot_s(), self._desk.wall_s()

    def identity(self, name: str) -> Identity | None:
        """Who has the key of this name."""
        entry = self._ring.entries.get(name)
        return None if entry is None else self._identify(entry.id)

    async def submit(self, identity: Identity, ask: Ask, body: bytes, key: str) -> tuple[Job, bool]:
        """Accept one job; returns it, and whether it was there before. Raises why not."""
        owner = CallOwner(identity.key, identity.role == "admin")
        await self._submissions.submit(owner, ask, identity, body, key)
        self._desk.wake()
        return await owner.wait()

    async def order(self, orders: list[Order]) -> list[tuple[int, Job | None, ZClusterError | None]]:
        """Carry out ``orders``, whose tickets are set here; returns what became of each."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[tuple[int, Job | None, ZClusterError | None]]] = []
        now, wall_s = self.clocks()
        for order in orders:
            future = loop.create_future()
            futures.append(future)
            self.queue.orders.put(replace(order, ticket=future), now, wall_s)
        self._desk.wake()
        return list(await asyncio.gather(*futures))

    async def hold(self, paused: list[str], draining: bool) -> None:
        """Keep which nodes are given nothing, and whether new jobs are taken."""
        queue = self.queue
        queue.lanes.paused, queue.draining = paused, draining
        queue.keep("held", msgspec.json.encode({"paused": paused, "draining": draining}))
        queue.lanes.stir()
        self._desk.wake()
        await self._kept()

    async def _kept(self) -> None:
        """Wait until what was to be kept is on disk. Raises StoreFailed: the store does not work now, it will be kept later."""
        while self.queue.keeps:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
            if self.queue.read_only:
                raise StoreFailed(f"not on disk yet: {self.queue.read_only}", hint="it is kept as soon as the disk works again")

    # -- turns ------------------------------------------------------------------------------------------------------

    def turn(self, now: float) -> None:
        """Before the machine's turn: tell what is on disk, and give nodes what is leased to them."""
        queue = self.queue
        queue.resting = self._machine.admission.draining
        if queue.told:
            told, queue.told = queue.told, Told()
            self._telling.tell(told)
        if queue.starts and not queue.resting:
            self.runs.pump(now)

    def turn_over(self) -> None:
        """After it: commit what waits."""
        functions = self._machine.dispatch.functions
        if functions.changes != self._changes:
            self._changes = functions.changes
            if self.admission.learn():
                self.queue.keep("functions", msgspec.json.encode(self.admission.known))
            self.queue.lanes.stir()
        if not self.queue.busy:
            self._commit()
        self._alarm.set(self._next_look())

    def _commit(self) -> bool:
        """Begin with a commit; False when there is nothing to be committed."""
        batch = self.queue.take_batch(*self.clocks())
        if batch is None:
            return False
        self._run(self._committed(batch))
        return True

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _committed(self, batch: Batch) -> None:
        done: Done | ZClusterError
        try:
            done = await self.store.commit(batch)
        except ZClusterError as error:
            done = error
        except Exception as error:
            # Whatever it is, the queue goes on as when the disk fails: nothing is started, and nothing is lost.
            self._desk.logger.exception("a commit of the queue failed")
            done = StoreFailed(f"the queue's store failed: {type(error).__name__}: {error}")
        now, wall_s = self.clocks()
        if isinstance(done, Done):
            self.queue.done(done, now, wall_s)
        else:
            self.queue.failed(done, now, wall_s)
        # At once: what came meanwhile is written while the rest of this is told.
        self._commit()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._desk.wake()

    def _due(self) -> None:
        if self._closed:
            return
        now, wall_s = self.clocks()
        self.pace.look(self.queue, now)
        if now - self._clock_kept >= CLOCK_EVERY_S:
            self._clock_kept = now
            mark = clock.Mark(now, self._boot_id, boot_s(), wall_s)
            self.queue.keep("clock", msgspec.json.encode(mark))
        self.queue.lanes.stir()
        self._desk.wake()

    def _next_look(self) -> float:
        """When to look again, on the loop's clock."""
        now, wall_s = self.clocks()
        pause_s = min(self.queue.next_deadline() - now, self.queue.next_at_s - wall_s, TICK_S)
        return self._desk.clock() + max(pause_s, LEAST_PAUSE_S)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _follow(self, owner: SessionOwner, message: Follow) -> None:
        queue = self.queue
        if message.store != self.store.id:
            if not message.stop:  # it is told of the store that it asked about: numbers of this one are other jobs
                self._desk.sessions.tell(owner.peer, Outcomes(store=message.store, unknown=message.numbers))
            return
        if message.stop:
            queue.following.unfollow(owner, message.numbers)
            return
        numbers = dict.fromkeys(message.numbers)
        if queue.following.count(owner) + queue.orders.waiting(owner) + len(numbers) > MAX_FOLLOWED:
            raise Busy(f"a session follows at most {MAX_FOLLOWED} jobs", hint="wait for some of them first", retry_after_s=1.0)
        now, wall_s = self.clocks()
        for number in numbers:
            job = queue.live.get(number)
            if job is not None and (owner.admin or job.key == owner.key):
                queue.following.follow(owner, number)  # the common case of an order, without one
            else:
                queue.orders.put(Order("follow", number, owner), now, wall_s)

    def _may_run(self, job: Job) -> ZClusterError | None:
        error = self.admission.may_run(job, who := self.asker(job))
        if error is not None and who is not None:
            self.note(right_denied(who, job.function, job.target, error))
        return error

    def asker(self, job: Job) -> Identity | None:
        """Who asked for ``job``, with the rights that the key has now, and never more than it was asked with."""
        found = self._identify(job.key)
        if found is None or (found.role == job.role and not found.grant):
            return found
        return least(found, standing_of(job.role).who)

    def _identify(self, id_: str) -> Identity | None:
        found = self._identities.get(id_, _UNKNOWN)
        if found is _UNKNOWN:
            entry = self._ring.by_id(id_)
            found = None if entry is None else self._machine.rights.identity(id_, entry.name, entry.role)
            self._identities[id_] = found
        return found

    def _workers(self) -> list[str]:
        return [name for name, entry in self._ring.entries.items() if entry.role == "worker"]

    def _watched(self, watched: bool) -> None:
        self.queue.watched = watched
