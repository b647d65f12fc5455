"""Agents in simulated time, from a seed: a master and workers with doors, agents that move between them, and what goes wrong.

Rule kept here: a run ends by itself: its steps, then a cure of everything, then time until the master knows all that the nodes
know, which is bounded; then nothing may be sent any more.
"""

from __future__ import annotations

from collections.abc import Callable

from zcluster.core.agents.keeping import next_epoch
from zcluster.sim.agents_doors import Door, Trouble, result_of
from zcluster.sim.agents_hosts import MASTER, SimMaster, SimWorker
from zcluster.sim.agents_oracle import Oracle, SimAgent
from zcluster.sim.scenario import Report, simulated
from zcluster.sim.world import World

STEPS = 60
QUIET_S = 200.0
"""The longest waits there are (for a TAKEN, and until the next try), three times."""
IDLE_S = 100.0
TICK_S = 0.5
TROUBLES = (
    "crash worker", "crash master", "break", "lose master", "lose worker", "remove", "remove at worker", "report", "quit", "cut",
)  # fmt: skip


def simulate_agents(seed: int, *, steps: int = STEPS, say: Callable[[str], None] | None = None) -> Report:
    """Run the simulation of agents of ``seed``; as :func:`zcluster.sim.scenario.simulate`."""
    return simulated("agents", seed, steps, say, AgentRun)


class AgentRun:
    """One run."""

    def __init__(self, world: World) -> None:
        self.world = world
        random = world.random
        self.trouble = Trouble(slow=random.choice((0.0, 0.0, 0.05)), disk=random.choice((0.0, 0.0, 0.05, 0.3)))
        if random.random() < 0.5:
            self.trouble.lose, self.trouble.repeat, self.trouble.reorder = (random.choice((0.0, 0.03, 0.2)) for _ in range(3))
        self.troubles = [trouble for trouble in TROUBLES if random.random() < 0.35]
        self.trouble_share = random.choice((0.0, 0.1, 0.3)) if self.troubles else 0.0
        self.pace_s = random.choice((0.005, 0.05, 0.5))
        self.agents = [SimAgent(f"a{number}") for number in range(random.choice((1, 3, 8)))]
        self.reported = ["r0", "r1", "r2", *(agent.id for agent in self.agents[:2])]
        self.said = 0
        self.oracle = Oracle(world, self.agents)
        self.master = SimMaster(world, self.oracle, self.trouble)
        limit = random.choice((1, 2, 100))
        self.workers = [
            SimWorker(world, f"w{number}", self.master, self.oracle, self.trouble, limit)
            for number in range(1, random.choice((3, 3, 4)))
        ]
        world.note("seed", f"{world.seed}: {self.trouble} {self.troubles} {self.trouble_share} {limit}")

    @property
    def outcomes(self) -> dict[str, int]:
        """How often what happened."""
        return {**self.oracle.outcomes, "refused chunks": self.master.refused}

    def play(self, steps: int) -> None:
        """All of it."""
        world = self.world
        self.master.start()
        for worker in self.workers:
            worker.start()
        self._tick()
        for _ in range(steps):
            if world.chance(self.trouble_share):
                self._trouble(world.random.choice(self.troubles))
            else:
                self._agent(world.random.choice(self.agents))
            self._go_on(world.random.expovariate(1 / self.pace_s))
        self._cure()
        if not self._quiet():
            questions = self.oracle.open_questions(self.master, self.workers)
            world.fail(f"not at rest {QUIET_S:.0f} s after the last trouble: {'; '.join(questions[:5])}")
        sessions, lines = self.master.sessions, world.lines
        self._go_on(IDLE_S)
        if (sessions, lines) != (self.master.sessions, world.lines):
            world.fail("something is sent although nothing has changed")

    # -- what happens ---------------------------------------------------------------------------------------------------

    def _agent(self, agent: SimAgent) -> None:
        """An agent opens a session somewhere, or says something."""
        world = self.world
        if agent.live and world.random.random() < 0.6:
            self._say(agent)
        else:
            self._join(agent, world.random.choice(self._doors()))

    def _say(self, agent: SimAgent) -> None:
        door = self._door(agent.node)
        if door is not None:
            self.said += 1
            agent.said = self.said
            door.hear(agent.id, agent.epoch, agent.said)

    def _join(self, agent: SimAgent, door: Door) -> None:
        """The agent's newest session is at ``door`` now; the node of the one before notices its end after a while, and may
        have heard a last word in between."""
        world, before = self.world, self._door(agent.node)
        if agent.live and before is not None:
            epoch, old_id = agent.epoch, agent.id
            if before is not door:
                world.after(world.random.choice((0.001, 0.1, 3.0)), lambda: before.end(old_id, epoch))
                self.said += 1
                word = self.said
                world.after(world.random.uniform(0.0, 2.0), lambda: before.hear(old_id, epoch, word))
        agent.epoch = next_epoch(agent.epoch, int(door.wall_s() * 1000))
        agent.node, agent.live = door.name, True
        self.said += 1
        agent.said = self.said
        world.note(agent.id, f"joins {door.name} with {agent.epoch % 10**7}, says {agent.said}")
        self.oracle.began(agent)
        door.join(agent.id, agent.epoch)
        door.hear(agent.id, agent.epoch, agent.said)

    def _trouble(self, trouble: str) -> None:
        world, random = self.world, self.world.random
        worker = random.choice(self.workers)
        back_s = random.choice((0.05, 1.0, 8.0))
        match trouble:
            case "crash worker" | "lose worker":
                self._crash(worker, lose=trouble == "lose worker")
                world.after(back_s, worker.start)
            case "crash master" | "lose master":
                self._crash(self.master, lose=trouble == "lose master")
                world.after(back_s, self.master.start)
            case "break" if worker.link is not None:
                world.note("net", f"breaks the session of {worker.name}")
                worker.link.break_()
            case "cut":
                worker.cut(random.choice((1.0, 6.0, 12.0)))
            case "remove":
                self.master.remove(random.choice(self.agents).id)
            case "remove at worker" if worker.alive:
                self._remove(worker, random.choice(self.reported))
            case "report":
                self.said += 1
                random.choice(self._doors()).report(random.choice(self.reported), self.said)
            case "quit":
                agent = random.choice(self.agents)
                door = self._door(agent.node)
                if agent.live and door is not None:
                    world.note(agent.id, "quits")
                    agent.live = False
                    door.end(agent.id, agent.epoch)

    def _crash(self, host: SimWorker | SimMaster, *, lose: bool) -> None:
        name = MASTER if isinstance(host, SimMaster) else host.name
        for agent in self.agents:
            if agent.node == name:
                agent.live = False
        host.crash(lose=lose)

    def _remove(self, worker: SimWorker, id_: str) -> None:
        row = result_of(worker.book.get(id_))
        if row is not None and id_ not in worker.door.sessions:
            self.world.note(worker.name, f"removes {id_}")
            result_of(worker.book.update([(id_, {"status": "removed"})]))
            worker.poke([id_])

    # -- the end --------------------------------------------------------------------------------------------------------

    def _cure(self) -> None:
        self.world.note("!", "all is well from here on")
        trouble = self.trouble
        trouble.lose = trouble.repeat = trouble.reorder = trouble.disk = trouble.slow = 0.0
        self.master.start()
        for worker in self.workers:
            worker.start()
        self._go_on(10.0)
        for agent in self.agents:
            if self.world.chance(0.4 if agent.live else 0.7):
                self._join(agent, self.world.random.choice(self._doors()))

    def _quiet(self) -> bool:
        end_s = self.world.now + QUIET_S
        while self.world.now < end_s:
            self._go_on(5.0)
            if not self.oracle.open_questions(self.master, self.workers):
                return True
            for agent in self.oracle.robbed(self.master) if self.world.now > end_s - QUIET_S / 2 else []:
                self._say(agent)
        return False

    def _go_on(self, seconds: float) -> None:
        world, end_s = self.world, self.world.now + seconds
        while (at_s := world.next_at()) is not None and at_s <= end_s:
            world.run_next()
        world.now = end_s

    def _tick(self) -> None:
        self.master.tick()
        for worker in self.workers:
            worker.connect()
        self.world.after(TICK_S, self._tick)

    def _doors(self) -> list[Door]:
        doors = [worker.door for worker in self.workers if worker.alive]
        if self.master.alive or not doors:
            self.master.start()
            doors.insert(0, self.master.door)
        return doors

    def _door(self, node: str) -> Door | None:
        if node == MASTER:
            return self.master.door if self.master.alive else None
        return next((worker.door for worker in self.workers if worker.name == node and worker.alive), None)
