"""Durable jobs in simulated time, from a seed: a master that keeps them, nodes that run them, clients, and what goes wrong.

Rule kept here: a run ends by itself: its steps, then a cure of everything, then time until every job has ended and everybody who
waits has been told, which is bounded; then nothing of it may be in the machine's memory.
"""

from __future__ import annotations

from collections.abc import Callable

from zcluster.core.queue.orders import Op
from zcluster.sim.queue_clients import FUNCTIONS, SimClient, new_items
from zcluster.sim.queue_master import MASTER, Nodes, SimMaster, SimNode, Trouble
from zcluster.sim.queue_oracle import Oracle
from zcluster.sim.scenario import Report, simulated
from zcluster.sim.world import World

STEPS = 40
QUIET_S = 150.0
"""The longest waits there are, one after the other: a delay, some back-offs, deadlines."""
HOUR_S = 3600.0
TROUBLES = (
    "crash master", "reboot", "stop master", "crash node", "silence node", "full disk", "break", "jump", "revoke", "pause",
    "drain",
)  # fmt: skip
FATES = (
    (("value", 1),),
    (("value", 20), ("function_failed", 2), ("rejected", 1), ("retry", 5), ("busy", 2), ("draining", 1), ("no_such_function", 1),
     ("large", 1), ("garbage", 1), ("stuck", 2), ("die", 1)),
    (("value", 2), ("retry", 4), ("stuck", 1), ("die", 2), ("busy", 2), ("node_unavailable", 1), ("unreachable", 1)),
)  # fmt: skip


def simulate_queue(seed: int, *, steps: int = STEPS, say: Callable[[str], None] | None = None) -> Report:
    """Run the simulation of the queue of ``seed``; as :func:`zcluster.sim.scenario.simulate`."""
    return simulated("queue", seed, steps, say, QueueRun)


class QueueRun:
    """One run."""

    def __init__(self, world: World) -> None:
        self.world = world
        random = world.random
        self.trouble = Trouble(
            disk=random.choice((0.0, 0.0, 0.05)), slow=random.choice((0.0, 0.0, 0.1)), fates=random.choice(FATES)
        )
        self.troubles = [trouble for trouble in TROUBLES if random.random() < 0.35]
        self.trouble_share = random.choice((0.0, 0.1, 0.3)) if self.troubles else 0.0
        self.pace_s = random.choice((0.005, 0.05, 0.5))
        self.oracle = Oracle(world)
        names = FUNCTIONS["f"]
        self.nodes = [
            SimNode(
                name, "master" if name == MASTER else "worker", random.choice((1, 2, 5)),
                frozenset(function for function, nodes in FUNCTIONS.items() if name in nodes),
            )
            for name in names
        ]  # fmt: skip
        self.master = SimMaster(world, self.oracle, self.trouble, Nodes(self.nodes), random.choice((2, 4, 1024)))
        self.clients = [SimClient(world, self.oracle, f"c{number}", number == 0, self.master) for number in range(3)]
        self._serial = 0
        world.note("seed", f"{world.seed}: {self.trouble} {self.troubles} {self.trouble_share} {self.pace_s}")

    @property
    def outcomes(self) -> dict[str, int]:
        """How often what happened."""
        return dict(self.oracle.outcomes)

    def play(self, steps: int) -> None:
        """All of it."""
        world = self.world
        self.master.start()
        self._look()
        for _ in range(steps):
            if world.chance(self.trouble_share):
                self._trouble(world.random.choice(self.troubles))
            elif world.chance(0.25):
                self._order()
            else:
                self._submit()
            self._go_on(world.random.expovariate(1 / self.pace_s))
        self._cure()
        end_s = world.now + QUIET_S
        while (questions := self._open_questions()) and world.now < end_s:
            self._go_on(5.0)
        if questions:
            world.fail(f"not at rest {QUIET_S:.0f} s after the last trouble: {'; '.join(questions[:5])}")
        self._go_on(5.0)
        self._check_empty()

    # -- what happens ---------------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        self._serial += 1
        client = self.world.random.choice(self.clients)
        items = new_items(self.world, client, self._serial, self.master.wall_s())
        client.items += items
        ask = items[0].ask
        self.world.note(client.name, f"wants {len(items)} of {ask.function} on {ask.target} {ask.sequence} {items[0].key}")
        client.submit(items)

    def _order(self) -> None:
        random = self.world.random
        client = random.choice(self.clients)
        numbers = [item.number for item in client.items if item.number]
        latest = max(self.oracle.jobs, default=0)
        number = random.choice(numbers) if numbers and random.random() < 0.8 else random.randint(1, latest + 3)
        ops: tuple[Op, ...] = ("cancel", "cancel", "retry", "retry", "drop")
        for _ in range(random.choice((1, 1, 2))):
            client.order(random.choice(ops), number)

    def _trouble(self, trouble: str) -> None:
        world, random, master = self.world, self.world.random, self.master
        back_s = random.choice((0.05, 1.0, 8.0))
        match trouble:
            case "crash master" | "reboot":
                master.crash(reboot=trouble == "reboot")
                world.after(back_s, master.start)
            case "stop master" if master.alive:
                world.note("m", "is to stop")
                master.queue.resting = True
                world.after(0.3, lambda: master.crash(reboot=False))
                world.after(0.3 + back_s, master.start)
            case "crash node" | "silence node":
                master.lose(random.choice(self.nodes), dies=trouble == "crash node")
            case "full disk":
                world.note("disk", f"is full for {back_s} s")
                self.trouble.full_until_s = world.now + back_s
            case "break":
                random.choice(self.clients).lose()
            case "jump":
                master.wall_offset_s += random.choice((-HOUR_S, HOUR_S, 3.0))
                world.note("m", f"the time of day is {master.wall_s():.0f}")
            case "revoke":
                key = random.choice(self.clients).identity.key
                world.note(key, "is revoked for a while")
                master.revoked.add(key)
                world.after(back_s, lambda: master.revoked.discard(key))
            case "pause" if master.alive:
                master.queue.lanes.paused = [random.choice(("w1", "w*", "*"))]
                world.after(back_s, self._resume)
            case "drain" if master.alive:
                master.queue.draining = True
                world.after(back_s, self._resume)

    def _resume(self) -> None:
        if self.master.alive:
            self.master.queue.lanes.paused, self.master.queue.draining = [], False
            self.master.queue.lanes.stir()

    # -- the end --------------------------------------------------------------------------------------------------------

    def _cure(self) -> None:
        world, trouble, master = self.world, self.trouble, self.master
        world.note("!", "all is well from here on")
        trouble.disk = trouble.slow = trouble.full_until_s = 0.0
        trouble.fates = FATES[0]
        self._go_on(10.0)
        master.start()
        master.revoked.clear()
        master.wall_offset_s += 100 * HOUR_S  # whatever waits for a time of day has waited long enough
        self._resume()

    def _look(self) -> None:
        """Clients find out by themselves when their master is back."""
        for client in self.clients:
            client.connect()
        self.world.after(0.5, self._look)

    def _open_questions(self) -> list[str]:
        questions = self.oracle.open_questions()
        for client in self.clients:
            questions += client.open_questions()
        return questions

    def _check_empty(self) -> None:
        """Nothing is left in the machine's memory."""
        queue = self.master.queue
        end_s = self.world.now + 5.0
        while queue.waits and self.world.now < end_s:  # for its clock
            self._go_on(0.05)
        left = {
            "live": len(queue.live), "windows": queue.lanes.in_windows, "held": sum(queue.lanes.held.values()),
            "lanes": len(queue.lanes.lanes), "starts": len(queue.starts), "usage": queue.usage.jobs + queue.usage.bytes,
            "followed": queue.following.followed,
        }  # fmt: skip
        if any(left.values()) or queue.waits:
            self.world.fail(f"all jobs have ended, and in memory are {left}")

    def _go_on(self, seconds: float) -> None:
        world, end_s = self.world, self.world.now + seconds
        while (at_s := world.next_at()) is not None and at_s <= end_s:
            world.run_next()
        world.now = end_s
