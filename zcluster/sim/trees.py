"""File sync in simulated time, from a seed: a master, its workers, what is done to their trees, and what goes wrong.

Rule kept here: a run ends by itself: its steps, then a cure of everything, then time until all copies are current, which is
bounded; then nothing may be left.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from zcluster.core.sync.declared import Declared
from zcluster.core.sync.effects import Effects, Place, Restore
from zcluster.core.sync.entry import DIRECTORY, FILE, LINK, parent
from zcluster.core.sync.hub import Hub
from zcluster.core.sync.member import Member
from zcluster.core.sync.sink import SinkLimits
from zcluster.core.sync.source import SourceLimits
from zcluster.errors import UsageError, ZClusterError
from zcluster.sim.scenario import Report, simulated
from zcluster.sim.trees_disk import Node, SimTree
from zcluster.sim.trees_hosts import MasterNode, WorkerNode
from zcluster.sim.trees_oracle import Oracle
from zcluster.sim.trees_process import Process, Trouble
from zcluster.sim.world import World
from zcluster.wire.trees import TreeInfo

STEPS = 40
SCAN_S = 20.0
BEAT_S = 1.0
QUIET_S = 200.0
"""The longest wait there is (for an answer, for a permit that stalls, for the next try), three times."""
TROUBLES = (
    "crash worker", "crash worker sync", "crash master", "crash master sync", "break", "pause", "now", "confirm", "wipe",
    "local edit", "rollback", "diff",
)  # fmt: skip
NAMES = ("a", "b", "c", "e/a", "e/b", "e/f/a", "e/f/b", "g/a", "g/b", "h", "x.log", "e/x.log", "k/l/m/n", "big", "e/big")


def simulate_trees(seed: int, *, steps: int = STEPS, say: Callable[[str], None] | None = None) -> Report:
    """Run the simulation of file sync of ``seed``; as :func:`zcluster.sim.scenario.simulate`."""
    return simulated("trees", seed, steps, say, TreeRun)


class TreeRun:
    """One run."""

    def __init__(self, world: World) -> None:
        self.world = world
        random = world.random
        self.trouble = Trouble(
            disk=random.choice((0.0, 0.0, 0.01, 0.05)), slow=random.choice((0.0, 0.0, 0.03)), tear=0.3,
            command=random.choice((0.0, 0.3)), hint=random.choice((0.0, 0.1)),
        )  # fmt: skip
        self.troubles = [trouble for trouble in TROUBLES if random.random() < 0.35]
        self.trouble_share = random.choice((0.0, 0.1, 0.3)) if self.troubles else 0.0
        self.pace_s = random.choice((0.02, 0.2, 2.0))
        self.chunk_bytes = random.choice((16_384, 983_040))
        self.window_bytes = random.choice((16_384, 65_536, 8_388_608))
        self.pulls = random.choice((1, 2, 8))
        self.huge = random.random() < 0.05
        self.paused: set[tuple[str, str]] = set()
        self.serial = 0
        self.infos = {"d": self._info("d", "down")}
        if random.random() < 0.4:
            self.infos["u"] = self._info("u", "up")
        self.master = MasterNode(world, self._start_hub)
        self.master.lose = random.choice((0.0, 0.0, 0.03))
        self.oracle = Oracle(world, self.infos, self.master, pulls=self.pulls)
        self.workers = [
            WorkerNode(world, f"w{number}", self.master, self._start_member) for number in range(1, random.randint(2, 5))
        ]
        self.oracle.workers = self.workers
        world.note("seed", f"{world.seed}: {self.trouble} {self.troubles} {self.trouble_share} {self.chunk_bytes} {self.pulls}")

    def _info(self, tree: str, direction: str) -> TreeInfo:
        random, up = self.world.random, direction == "up"
        return TreeInfo(
            tree=tree, direction="up" if up else "down", hash="blake2b_256" if up else "xxh3_128",
            symlinks="refuse" if up else "copy", extra_valid=["*.log"] if random.random() < 0.2 else [],
            on_change=["run"] if not up and random.random() < 0.4 else [], rollback=random.random() < 0.6,
            max_files=1000 if up else 0,
        )  # fmt: skip

    # -- who there is ---------------------------------------------------------------------------------------------------

    def _start_hub(self, node: MasterNode) -> Process:
        declared = {tree: Declared(info, "w*", info) for tree, info in self.infos.items()}
        hub = Hub(
            declared, Effects(), SinkLimits(self.window_bytes, self.chunk_bytes, SCAN_S),
            SourceLimits(node.epoch, self.window_bytes, self.chunk_bytes, SCAN_S), self.pulls, "m", self.world.now,
            frozenset(self.paused),
        )  # fmt: skip
        hub.nodes([worker.name for worker in self.workers])
        return Process(self.world, "m", node.store, hub, self.trouble, self.oracle, node.send, lambda held: None)

    def _start_member(self, node: WorkerNode) -> Process:
        member = Member(
            Effects(), SinkLimits(self.window_bytes, self.chunk_bytes, SCAN_S),
            SourceLimits(0, self.window_bytes, self.chunk_bytes, SCAN_S), commands=True,
        )  # fmt: skip

        def held(digest: str) -> None:
            node.held = digest

        return Process(self.world, node.name, node.store, member, self.trouble, self.oracle, node.send, held)

    # -- what happens ---------------------------------------------------------------------------------------------------

    @property
    def outcomes(self) -> dict[str, int]:
        """How often what happened."""
        return dict(self.oracle.outcomes)

    def play(self, steps: int) -> None:
        """All of it."""
        world = self.world
        for place, node in self._sources():
            for _ in range(world.random.randint(0, 12)):
                self._edit(node, place)
        self.master.start()
        self._beat()
        for _ in range(steps):
            if world.chance(self.trouble_share):
                self._trouble(world.random.choice(self.troubles))
            else:
                place, node = world.random.choice(self._sources())
                for _ in range(world.random.choice((1, 1, 1, 3, 12))):
                    self._edit(node, place)
            self._go_on(world.random.expovariate(1 / self.pace_s))
        self._cure()
        if not self._quiet(QUIET_S):
            for tree in set(self.oracle.held()):
                self._order("confirm", tree)
                self._order("now", tree)
        if not self._quiet(QUIET_S):
            world.fail(f"not quiet {2 * QUIET_S:.0f} s after the last trouble: {'; '.join(self.oracle.open_questions()[:5])}")

    def _cure(self) -> None:
        self.world.note("!", "all is well from here on")
        self.trouble.disk = self.trouble.slow = self.trouble.command = self.trouble.hint = 0.0
        self.master.lose = 0.0
        self.paused.clear()
        self.master.start()
        self.master.start_sync()
        self._pause("", "", False)
        for worker in self.workers:
            self._revive(worker)
            for tree, info in self.infos.items():
                if info.extra_valid:
                    down = info.direction == "down"
                    self._clear_way(worker if down else self.master, (tree, "" if down else worker.name))

    def _clear_way(self, node: MasterNode | WorkerNode, place: Place) -> None:
        """A copy's own files go: where one is in a directory that is in the way of a file, that is said, and stays so."""
        tree = node.store.tree(place)
        for path in [path for path in tree.nodes if path.endswith(".log")]:
            tree.remove(path)
        tree.edits += 1
        self._hint(node, place, None)

    def _quiet(self, seconds: float) -> bool:
        end_s = self.world.now + seconds
        while self.world.now < end_s:
            self._go_on(2.0)
            if not self.oracle.open_questions():
                return True
        return False

    def _go_on(self, seconds: float) -> None:
        world, end_s = self.world, self.world.now + seconds
        while (at_s := world.next_at()) is not None and at_s <= end_s:
            world.run_next()
            self.oracle.check()
        world.now = end_s

    def _beat(self) -> None:
        for worker in self.workers:
            worker.connect()
            worker.beat()
        self.world.after(BEAT_S, self._beat)

    def _sources(self) -> list[tuple[Place, MasterNode | WorkerNode]]:
        places: list[tuple[Place, MasterNode | WorkerNode]] = []
        for tree, info in self.infos.items():
            if info.direction == "down":
                places.append(((tree, ""), self.master))
            else:
                places += [((tree, ""), worker) for worker in self.workers]
        return places

    # -- edits ----------------------------------------------------------------------------------------------------------

    def _edit(self, node: MasterNode | WorkerNode, place: Place) -> None:
        """Somebody changes something in a tree."""
        world, random = self.world, self.world.random
        tree, now = node.store.tree(place), self.world.now
        path = random.choice(NAMES)
        dirty = {parent(path), *(parent(above) for above in _above(path))}
        kind = random.choice(("write", "write", "write", "append", "remove", "rename", "mode", "swap", "link", "directory"))
        here = tree.nodes.get(path)
        match kind:
            case "remove" if here is not None:
                tree.remove(path)
            case "rename" if here is not None:
                to = random.choice(NAMES)
                if to == path or to.startswith(f"{path}/") or path.startswith(f"{to}/"):
                    return
                tree.remove(to)
                tree.rename(path, to, now)
                dirty |= {parent(to), *(parent(above) for above in _above(to)), *_above(to)}
            case "mode" if here is not None and here.kind != LINK:
                modes = (0o755, 0o700) if here.kind == DIRECTORY else (0o600, 0o644)
                tree.put(path, Node(here.kind, random.choice(modes), here.data, here.mtime_ns), now)
            case "swap" if "/" in path and random.random() < 0.3:
                tree.put(parent(path), self._file(path), now)
                dirty |= {parent(parent(path))}
            case "link" if self.infos[place[0]].symlinks == "copy":
                tree.put(path, Node(LINK, 0, target=f"to{random.randint(1, 5)}"), now)
            case "directory":
                tree.put(path, Node(DIRECTORY, 0o755), now)
            case "append" if here is not None and here.kind == FILE:
                self.serial += 1
                data = here.data + f"more {self.serial}".encode()
                tree.put(path, Node(FILE, here.mode, data, self._mtime()), now)
            case "write":
                tree.put(path, self._file(path, here), now)
            case _:
                return
        tree.edits += 1
        self.oracle.wrote(_name(node), place, tree.nodes)
        world.note(_name(node), f"edits {place}: {kind} {path}")
        self._hint(node, place, frozenset(dirty))

    def _file(self, path: str, here: Node | None = None) -> Node:
        """A new content; of a large file sometimes only a part is new."""
        random = self.world.random
        self.serial += 1
        word = f"{self.serial} "
        if not path.endswith("big"):
            size = random.choice((0, 10, 300, 3000))
            return Node(FILE, random.choice((0o644, 0o600)), (word * (size // 4))[:size].encode(), self._mtime())
        size = random.choice((2_100_000, 2_500_000)) if self.huge else random.choice((17_000, 40_000, 70_000))
        data = bytearray((word * (size // len(word) + 1))[:size].encode())
        if here is not None and len(here.data) > 16_384 and random.random() < 0.7:
            data = bytearray(here.data)
            at = random.randrange(len(data))
            data[at : at + 100] = (word * 20).encode()[: len(data[at : at + 100])]
            if random.random() < 0.5:
                data[:0] = word.encode()
        return Node(FILE, 0o644, bytes(data), self._mtime())

    def _mtime(self) -> int:
        return int(self.world.now * 1e9)

    def _hint(self, node: MasterNode | WorkerNode, place: Place, dirty: frozenset[str] | None) -> None:
        if self.world.chance(self.trouble.hint):
            return
        process = node.process
        if process is not None:
            self.world.after(self.world.random.uniform(0.0, 0.01), partial(process.hint, place, dirty))

    # -- troubles -------------------------------------------------------------------------------------------------------

    def _trouble(self, trouble: str) -> None:
        world, random = self.world, self.world.random
        worker = random.choice(self.workers)
        tree = random.choice(list(self.infos))
        world.note("!", f"{trouble} {worker.name} {tree}")
        back_s = random.choice((0.05, 1.0, 5.0))
        match trouble:
            case "crash worker":
                worker.crash()
                world.after(back_s, lambda: self._revive(worker))
            case "crash worker sync":
                worker.crash_sync()
                world.after(back_s, worker.start_sync)
            case "crash master":
                self.master.crash()
                world.after(back_s, self.master.start)
            case "crash master sync":
                self.master.crash_sync()
                world.after(back_s, self.master.start_sync)
            case "break" if worker.link is not None:
                worker.link.break_()
            case "pause":
                name = random.choice(("", worker.name))
                self._pause(tree, name, True)
                world.after(back_s, lambda: self._pause(tree, name, False))
            case "now" | "confirm":
                self._order(trouble, tree)
            case "wipe":
                self._wipe(tree, worker)
            case "local edit":
                down = self.infos[tree].direction == "down"
                for _ in range(3):
                    self._edit(worker if down else self.master, (tree, "" if down else worker.name))
            case "rollback" if self.infos[tree].direction == "down":
                self._rollback(tree)
            case "diff":
                self._diff(worker, tree)

    def _revive(self, worker: WorkerNode) -> None:
        worker.up = True
        worker.start_sync()

    def _pause(self, tree: str, worker: str, paused: bool) -> None:
        for name in [tree] if tree else list(self.infos):
            if paused:
                self.paused.add((name, worker))
            else:
                self.paused = {pair for pair in self.paused if not (pair[0] == name and worker in ("", pair[1]))}
        if (process := self.master.process) is not None:
            process.event(lambda: _ignore(self._hub(process).pause(tree, worker, paused, process.now)))

    def _order(self, order: str, tree: str) -> None:
        process = self.master.process
        if process is None:
            return
        hub = self._hub(process)
        if order == "now":
            process.event(lambda: _ignore(hub.look_now(tree, lambda now: None, process.now)))
        else:
            process.event(lambda: _confirm(hub, tree, process.now))

    def _hub(self, process: Process) -> Hub:
        assert isinstance(process.machine, Hub)
        return process.machine

    def _wipe(self, tree: str, worker: WorkerNode) -> None:
        """All files of a tree are gone at its source, and sometimes its marker: that is held."""
        down = self.infos[tree].direction == "down"
        node: MasterNode | WorkerNode = self.master if down else worker
        directory: SimTree = node.store.tree((tree, ""))
        directory.nodes.clear()
        directory.edits += 1
        self._hint(node, (tree, ""), None)

    def _rollback(self, tree: str) -> None:
        process, place = self.master.process, (tree, "")
        history = self.master.store.history.get(place)
        if process is None or not history or place not in process.places:
            return
        version = self.world.random.choice(history)
        self.oracle.wrote("m", place, version.nodes)
        source = self._hub(process).sources[tree]

        def ended(result: object) -> None:
            number = 0 if isinstance(result, ZClusterError) else version.number
            process.event(lambda: source.restored(number, lambda now: None, process.now))

        process.event(source.restoring)
        process.do(f"{tree}/", Restore(place, version.number), ended)

    def _diff(self, worker: WorkerNode, tree: str) -> None:
        process = worker.process
        if process is not None and isinstance(process.machine, Member) and (sink := process.machine.sinks.get(tree)) is not None:
            process.event(lambda: sink.diff(lambda result, now: None, process.now))


def _above(path: str) -> list[str]:
    """The directories above ``path``."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _confirm(hub: Hub, tree: str, now: float) -> None:
    with suppress(UsageError):  # nothing is held
        hub.confirm(tree, "", now)


def _ignore(result: object) -> None:
    """Nobody waits for this."""


def _name(node: MasterNode | WorkerNode) -> str:
    return "m" if isinstance(node, MasterNode) else node.name
