"""Who is next: the jobs that wait for nothing but a node, and the nodes that have room.

Rules kept here:
- a lane is a queue in the store: of a function (any node will do) or of a node; in memory is only its beginning, the *window*;
- within a lane the highest priority goes first, then the oldest; lanes that share nodes take turns of TURN jobs, those whose
  first job has the highest priority first;
- a node is given as many jobs as it has slots, and a little more than that when its jobs end faster than commits do;
- ``any`` goes to the worker with the smallest share of its slots in use, to the master only when no usable worker has the
  function; a job that failed goes to another node than before, where there is one;
- a node that is paused is given nothing.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import Protocol

from zcluster.core.queue.job import ANY_LANE, NODE_LANE, Job

WINDOW = 1024
"""Jobs of a lane that are in memory at most, unless the policy says another number; half of them are kept when they are too
many."""
WINDOW_BYTES = 1_048_576
"""And so many bytes of arguments, or one job."""
TURN = 16
"""Jobs that a lane may take while others wait for the same nodes."""
_rank = attrgetter("rank")


class NodeView(Protocol):
    """What is known of a node (core.peers.Node)."""

    name: str
    role: str
    slots: int

    @property
    def usable(self) -> bool: ...


class Nodes(Protocol):
    """The nodes that there are."""

    def get(self, name: str) -> NodeView | None: ...
    def having(self, function: str) -> Iterable[NodeView]: ...


class Lane:
    """The beginning of one queue."""

    __slots__ = ("_index", "_most", "bytes", "loading", "more", "name", "skipped", "turn", "window")

    def __init__(self, name: str, index: dict[int, Job], most: int = WINDOW) -> None:
        self.name = name
        self._most = most
        self.window: list[Job] = []
        self._index = index
        """The jobs of all windows by number."""
        self.bytes = 0
        self.more = False
        """There may be more in the store."""
        self.loading = False
        self.turn = 0
        """When it was served last, beside others."""
        self.skipped = False
        """A job was left to the store while the answer of the store was under way: it may not be in that."""

    @property
    def priority(self) -> int:
        """Of its first job."""
        return self.window[0].priority if self.window else -1

    def add(self, job: Job) -> None:
        """``job`` is ready: into the window, or, when it comes after it, left to the store."""
        window = self.window
        if self.more and (not window or job.rank > window[-1].rank):
            self.skipped = True
            return
        if window and job.rank < window[-1].rank:
            insort(window, job, key=_rank)
        else:
            window.append(job)
        self._index[job.number] = job
        self.bytes += len(job.body)
        if len(window) > self._most or (self.bytes > WINDOW_BYTES and len(window) > 1):
            self._shorten()

    def take(self, count: int) -> list[Job]:
        """The next ``count`` jobs."""
        jobs = self.window[:count]
        del self.window[:count]
        index = self._index
        for job in jobs:
            del index[job.number]
            self.bytes -= len(job.body)
        return jobs

    def load(self) -> None:
        """The store is asked now."""
        self.loading, self.skipped = True, False

    def loaded(self, jobs: Iterable[Job], more: bool) -> None:
        """What the store has; jobs that are here already are the same."""
        for job in jobs:
            if job.number not in self._index:
                self._index[job.number] = job
                self.window.append(job)
                self.bytes += len(job.body)
        self.window.sort(key=_rank)
        self.more, self.loading = more or self.skipped, False

    def begin_anew(self) -> None:
        """Leave everything to the store."""
        for job in self.window:
            del self._index[job.number]
        self.window, self.bytes = [], 0
        self.more = self.skipped = True

    def remove(self, number: int) -> None:
        """``number`` is not ready any more."""
        job = self._index.pop(number, None)
        if job is not None:
            self.window.remove(job)
            self.bytes -= len(job.body)

    def _shorten(self) -> None:
        while len(self.window) > self._most // 2 or (self.bytes > WINDOW_BYTES and len(self.window) > 1):
            job = self.window.pop()
            del self._index[job.number]
            self.bytes -= len(job.body)
        self.more = self.skipped = True


class Lanes:
    """All lanes, and what each node holds."""

    def __init__(self, nodes: Nodes, lease: Callable[[Job, str], bool], most: int = WINDOW) -> None:
        self._nodes = nodes
        self._most = most
        self._lease = lease
        """Gives the job to the node; False: the job may not run, and is taken care of."""
        self.lanes: dict[str, Lane] = {}
        self._index: dict[int, Job] = {}
        self.held: dict[str, int] = {}
        """Jobs that each node has, or is to get."""
        self.paused: list[str] = []
        self._ended: dict[str, int] = {}
        """Jobs that ended on each node since the last commit: so many more it may be given ahead of a free slot."""
        self._stirred: dict[str, None] = {}
        self._turn = 0

    def open(self, lanes: Iterable[str]) -> None:
        """The store has ready jobs in these."""
        for name in lanes:
            lane = self.lanes[name] = Lane(name, self._index, self._most)
            lane.more = True
            self._stirred[name] = None

    def add(self, job: Job) -> None:
        """``job`` is ready."""
        name = job.lane
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = Lane(name, self._index, self._most)
        lane.add(job)
        self._stirred[name] = None

    def add_run(self, jobs: Sequence[Job]) -> None:
        """Jobs of one lane that are ready."""
        self.add(jobs[0])
        lane = self.lanes[jobs[0].lane]
        for job in jobs[1:]:
            lane.add(job)

    def remove(self, job: Job) -> None:
        """``job`` is not ready any more."""
        lane = self.lanes.get(job.lane)
        if lane is not None:
            lane.remove(job.number)

    def loaded(self, name: str, jobs: Iterable[Job], more: bool) -> None:
        """The answer to what :meth:`wanted` has asked."""
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = Lane(name, self._index, self._most)
        lane.loaded(jobs, more)
        self._stirred[name] = None

    @property
    def in_windows(self) -> int:
        """How many jobs are in memory because they are next."""
        return len(self._index)

    def find(self, number: int) -> Job | None:
        """The job, if it is in a window."""
        return self._index.get(number)

    def left(self, job: Job) -> None:
        """``job``, which was to be leased, stays in the store."""
        self.lanes[job.lane].more = self.lanes[job.lane].skipped = True

    def left_in_store(self, name: str) -> None:
        """Jobs of this lane have become ready that the store has not given. They may come before those in the window."""
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = Lane(name, self._index, self._most)
        lane.begin_anew()
        self._stirred[name] = None

    def load_failed(self) -> None:
        """The store could not answer: ask again."""
        for lane in self.lanes.values():
            if lane.loading:
                lane.loading = False
                self._stirred[lane.name] = None

    def released(self, node: str, count: int = 1) -> None:
        """Jobs that ``node`` held are no longer its own."""
        left = self.held.get(node, 0) - count
        if left > 0:
            self.held[node] = left
        else:
            self.held.pop(node, None)
        self._ended[node] = self._ended.get(node, 0) + count

    def stir(self) -> None:
        """Nodes have come, gone or changed: look at every lane again."""
        self._stirred.update(dict.fromkeys(self.lanes))

    def assign(self) -> dict[str, int]:
        """Give what is ready to nodes with room; returns the lanes to be read from the store, and how many jobs of each."""
        if self._ended:
            for node in self._ended:
                self._stirred[NODE_LANE + node] = None
            self._stirred.update((name, None) for name in self.lanes if name.startswith(ANY_LANE))
        stirred, self._stirred = self._stirred, {}
        lanes = [self.lanes[name] for name in stirred if name in self.lanes]
        rooms = self._take_turns(lanes) if len(lanes) > 1 else {lane.name: self._serve(lane, self._most) for lane in lanes}
        wanted: dict[str, int] = {}
        for lane in lanes:
            if not lane.window and not lane.more:
                del self.lanes[lane.name]
            elif not lane.window and rooms[lane.name] and not lane.loading:
                lane.load()
                wanted[lane.name] = min(self._most, rooms[lane.name] + self._most // 4)
        self._ended = {}
        return wanted

    def _take_turns(self, lanes: list[Lane]) -> dict[str, int]:
        """Serve lanes that may share nodes: the highest priority first, of the same the one that was served longest ago."""
        waiting = [(-lane.priority, lane.turn, number) for number, lane in enumerate(lanes)]
        heapify(waiting)
        rooms: dict[str, int] = {}
        while waiting:
            number = heappop(waiting)[2]
            lane = lanes[number]
            before = len(lane.window)
            rooms[lane.name] = self._serve(lane, TURN)
            if len(lane.window) < before:
                self._turn += 1
                lane.turn = self._turn
                heappush(waiting, (-lane.priority, lane.turn, number))
        return rooms

    def is_paused(self, node: str) -> bool:
        """Whether ``node`` is given nothing."""
        return any(fnmatchcase(node, pattern) for pattern in self.paused)

    def _serve(self, lane: Lane, most: int) -> int:
        """Give the window's jobs to nodes, ``most`` at most; returns how many more there is room for."""
        rooms = [(node, room) for node in self._eligible(lane.name) if (room := self._room(node)) > 0]
        if len(rooms) == 1:
            node, room = rooms[0]
            jobs = lane.take(min(room, most))
            for job in jobs:
                self._give(job, node.name)
            return room - len(jobs)
        if rooms:
            self._spread(lane, [node for node, _ in rooms], most)
        return sum(max(0, self._room(node)) for node, _ in rooms)

    def _spread(self, lane: Lane, nodes: list[NodeView], most: int) -> None:
        """One at a time, to the least loaded."""
        for _ in range(most):
            if not lane.window or not nodes:
                return
            job = lane.take(1)[0]
            others = [node for node in nodes if node.name != job.node] if job.attempt else nodes
            node = min(others or nodes, key=lambda node: self.held.get(node.name, 0) / node.slots)
            self._give(job, node.name)
            if self._room(node) <= 0:
                nodes.remove(node)

    def _give(self, job: Job, node: str) -> None:
        if self._lease(job, node):
            self.held[node] = self.held.get(node, 0) + 1

    def _eligible(self, lane: str) -> list[NodeView]:
        if lane.startswith(NODE_LANE):
            node = self._nodes.get(lane.removeprefix(NODE_LANE))
            found = [] if node is None else [node]
        else:
            found = list(self._nodes.having(lane.removeprefix(ANY_LANE)))
            workers = [node for node in found if node.role == "worker" and node.usable]
            found = workers or found
        return [node for node in found if node.usable and not self.is_paused(node.name)]

    def _room(self, node: NodeView) -> int:
        return node.slots - self.held.get(node.name, 0) + min(self._ended.get(node.name, 0), node.slots)
