"""What has to hold of file sync, always and in the end.

Rules kept here:
- a file that can be seen in a copy has a content that its source has had at that path, or that somebody wrote there;
- a version's number is given once, and each version that anybody holds or names is one that was published;
- who says that a copy is what a version left has a copy that is, but for what somebody has done there since it looked;
- never more permits than allowed, none in the end; never more asked for than the window;
- a check reads, and changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from zcluster.core.sync.effects import Place
from zcluster.core.sync.entry import FILE
from zcluster.core.sync.fetching import FETCH_FILES
from zcluster.core.sync.hub import Hub
from zcluster.core.sync.rules import Rules
from zcluster.core.sync.sink import Sink
from zcluster.core.sync.status import status_rows
from zcluster.sim.trees_disk import Node, Nodes, seen
from zcluster.sim.trees_hosts import MasterNode, WorkerNode
from zcluster.sim.trees_process import Process, Watch
from zcluster.sim.world import World
from zcluster.wire.trees import Report, TreeInfo


@dataclass
class Oracle(Watch):
    """Knows everything that was written anywhere, and every version."""

    world: World
    infos: dict[str, TreeInfo]
    master: MasterNode
    workers: list[WorkerNode] = field(default_factory=list)
    pulls: int = 1
    written: dict[tuple[str, Place, str], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    """By node, place and path: contents."""
    roots: dict[tuple[str, Place], dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    """By the source's node and place: number -> root."""
    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    # -- what happens ---------------------------------------------------------------------------------------------------

    def wrote(self, node: str, place: Place, nodes: Nodes) -> None:
        """Somebody has changed a tree."""
        for path, each in nodes.items():
            if each.kind == FILE:
                self.written[node, place, path].add(each.data)

    def numbered(self, process: Process, place: Place, number: int) -> None:
        known = self.roots[process.name, place]
        if known and number <= max(known):
            self.world.fail(f"version {number} of {place} at {process.name} comes after {max(known)}")
        known[number] = process.store.history[place][-1].root
        self.outcomes["versions"] += 1

    def changed(self, process: Process, place: Place) -> None:
        source, at = self._source_of(process.name, place)
        for path, node in process.store.tree(place).nodes.items():
            if node.kind != FILE:
                continue
            if node.data not in self.written[process.name, place, path] and node.data not in self.written[source, at, path]:
                self.world.fail(f"{process.name} has a content at {place} {path} that nobody wrote there")
        self.outcomes["commits"] += 1

    def reported(self, process: Process, report: Report) -> None:
        self.outcomes[report.state] += 1
        if report.clean and report.tree in self.infos and self.infos[report.tree].direction == "down":
            self._check_copy(process, (report.tree, ""), report)

    def _check_copy(self, process: Process, place: Place, report: Report) -> None:
        source, at = self._source_of(process.name, place)
        root = self.roots[source, at].get(report.version)
        if root is None or root.hex() != report.root:
            self.world.fail(f"{process.name} says that it holds version {report.version} of {place}, which was never published")
        tree = process.store.tree(place)
        exact = not self.infos[place[0]].extra_valid
        if exact and tree.edits == process.delivered_edits.get(place, -1) and self._root(place, tree.nodes) != root:
            self.world.fail(f"{process.name} says that {place} is what version {report.version} left, and it is not")

    def _source_of(self, name: str, place: Place) -> tuple[str, Place]:
        if self.infos[place[0]].direction == "down":
            return "m", (place[0], "")
        return place[1] or name, (place[0], "")

    def _root(self, place: Place, nodes: Nodes) -> bytes:
        return seen(nodes, self.infos[place[0]].hash).root

    # -- after each event -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """What has to hold at any moment."""
        for process in (self.master.process, *(worker.process for worker in self.workers)):
            machine = process.machine if process is not None else None
            if machine is None or process is None:
                continue
            for end in machine.ends:
                if isinstance(end, Sink):
                    self._check_window(process, end)
            if isinstance(machine, Hub):
                self._check_permits(machine)

    def _check_window(self, process: Process, sink: Sink) -> None:
        fetching = sink._pulling.fetching if sink._pulling is not None else None
        if fetching is not None and fetching._open_bytes >= fetching._window_bytes + fetching._chunk_bytes + FETCH_FILES:
            self.world.fail(f"{process.name} has asked for {fetching._open_bytes} bytes of {sink.place} at once")

    def _check_permits(self, hub: Hub) -> None:
        if hub.permits.out > self.pulls:
            self.world.fail(f"{hub.permits.out} permits are out")
        for place, session in (*hub.permits._out, *hub.permits._waiting):
            if session not in hub.workers:
                self.world.fail(f"session {session} is over and has a permit for {place}")

    # -- in the end -----------------------------------------------------------------------------------------------------

    def open_questions(self) -> list[str]:
        """What is not yet as it has to be when all is quiet."""
        process = self.master.process
        if process is None:
            return ["the master does not run"]
        hub = process.machine
        assert isinstance(hub, Hub)
        left = [f"{hub.permits.out} permits are out"] if hub.permits.out or hub.permits.waiting else []
        for row in status_rows(hub, "", "", process.now, process.now):
            if row["state"] != "current":
                left.append(f"{row['worker']} {row['tree']} is {row['state']}: {row['reason']} {row['error']}")
        for place, info in self._copies():
            left += self._differs(place, info)
        for each in (process, *(worker.process for worker in self.workers if worker.process is not None)):
            if each.machine.effects.open_jobs:
                left.append(f"{each.name} has {each.machine.effects.open_jobs} open jobs")
        return left

    def held(self) -> list[str]:
        """The trees that wait for somebody to confirm them, or whose command has failed."""
        assert self.master.process is not None
        hub = self.master.process.machine
        assert isinstance(hub, Hub)
        rows = status_rows(hub, "", "", self.world.now, self.world.now)
        return [row["tree"] for row in rows if row["state"] == "held" or "command failed" in row["reason"] + row["error"]]

    def _copies(self) -> list[tuple[tuple[WorkerNode, str], TreeInfo]]:
        return [((worker, tree), info) for tree, info in self.infos.items() for worker in self.workers]

    def _differs(self, copy: tuple[WorkerNode, str], info: TreeInfo) -> list[str]:
        worker, tree = copy
        here = worker.store.tree((tree, ""))
        there = self.master.store.tree((tree, "" if info.direction == "down" else worker.name))
        rules = Rules.of(info)
        mine, theirs = (_plain(each.nodes, rules) for each in (here, there))
        if mine != theirs:
            paths = sorted(path for path in {*mine, *theirs} if mine.get(path) != theirs.get(path))
            return [f"{tree} of {worker.name} differs: {', '.join(paths[:5])}"]
        return []


def _plain(nodes: Nodes, rules: Rules) -> dict[str, tuple[object, ...]]:
    """What has to be the same on both sides."""
    return {path: _same(node) for path, node in nodes.items() if not rules.is_extra_valid(path, node.kind == "d")}


def _same(node: Node) -> tuple[object, ...]:
    return (node.kind, node.mode if node.kind != "l" else 0, node.data, node.mtime_ns if node.kind == FILE else 0, node.target)
