"""The master's side of file sync: the sources of its trees, the copies of its workers' trees, permits, and what is told.

Rules kept here:
- a worker has to do with the trees that name it, and with no others: a message about another one is refused and counted;
- at most ``pulls`` pulls run at a time, of all trees and in both directions; a permit ends with its pull, its session, or
  when nothing has moved for a while: none can stick;
- what a worker reports is shown, never believed: it decides nothing;
- all trees that one worker brings up share one pace;
- a worker whose BEAT says that it holds something else than it should, twice in a row, is told again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from zcluster.core.sync.bodies import held_digest
from zcluster.core.sync.declared import Declared
from zcluster.core.sync.effects import Effects, Place
from zcluster.core.sync.member import answer_of_source, question_of_sink
from zcluster.core.sync.pacing import Pace
from zcluster.core.sync.permits import Permits
from zcluster.core.sync.sink import Sink, SinkLimits
from zcluster.core.sync.source import Source, SourceLimits
from zcluster.errors import NoSuchNode, NoSuchTree, PeerError, TooLarge, UsageError
from zcluster.wire.trees import Go, Hashes, Listing, Order, Parcel, Report, State, TreeInfo, TreeMessage, Trees

MAX_WRONG_BEATS = 2
STALLED_S = 60.0


@dataclass
class _Worker:
    """A worker's session."""

    name: str
    trees: dict[str, TreeInfo]
    held: str = ""
    wrong_beats: int = 0


class Hub:
    """The machine of the master's sync process.

    Args:
        declared: the trees, by name.
        paused: pairs of (tree, worker or "") that are paused from before.
        up_rate_bytes: bytes a second that are taken from one worker; 0: as many as come.
        master: the master's name.
    """

    def __init__(
        self, declared: Mapping[str, Declared], effects: Effects, sink_limits: SinkLimits, source_limits: SourceLimits,
        pulls: int, master: str, now: float, paused: frozenset[tuple[str, str]] = frozenset(),
        up_rate_bytes: int = 0,
    ) -> None:  # fmt: skip
        self.declared = dict(declared)
        self.effects = effects
        self.sources: dict[str, Source] = {}
        self.sinks: dict[Place, Sink] = {}
        self.reports: dict[Place, tuple[Report, float]] = {}
        self.own_reports: dict[Place, Report] = {}
        """What workers said of their own trees."""
        self.behind_since_s: dict[Place, float] = {}
        """Since when the master's copy of a worker's tree is not current."""
        self.paused = set(paused)
        self.protocol_errors = 0
        self.workers: dict[int, _Worker] = {}
        self.known: dict[str, str] = {}
        """Workers that are away, with the reason."""
        self._sessions: dict[str, int] = {}
        self._sink_limits, self._source_limits = sink_limits, source_limits
        self._master = master
        self._up_rate_bytes = up_rate_bytes
        self._paces: dict[str, Pace] = {}
        self.permits: Permits[tuple[Place, int]] = Permits(pulls, stall_s=STALLED_S)
        for name, tree in self.declared.items():
            if tree.info.direction == "down":
                self.sources[name] = Source(
                    (name, ""), tree.local, effects, source_limits, now, ask_permit=self._ask, release_permit=self._release
                )

    @property
    def ends(self) -> Iterator[Sink | Source]:
        """All its sinks and sources."""
        yield from self.sources.values()
        yield from self.sinks.values()

    # -- events ---------------------------------------------------------------------------------------------------------

    def session_up(self, session: int, name: str, now: float) -> None:
        """A worker has a session."""
        trees = {tree: declared.info for tree, declared in self.declared.items() if declared.concerns(name, self._master)}
        self.workers[session] = _Worker(name, trees)
        self._sessions[name] = session
        self.known.pop(name, None)
        # Also without any: it may have had one before the configuration was changed.
        self._say_trees(session)
        for tree in trees:
            if tree in self.sources:
                self.sources[tree].listen(session)

    def session_down(self, session: int, now: float, reason: str = "") -> None:
        """A worker's session has ended."""
        worker = self.workers.pop(session, None)
        if worker is None:
            return
        if self._sessions.get(worker.name) == session:
            del self._sessions[worker.name]
            self.known[worker.name] = reason
            for place, sink in self.sinks.items():
                if place[1] == worker.name:
                    sink.session_down(now)
        for source in self.sources.values():
            source.session_down(session, now)
        self.permits.drop(session, now)

    def beat(self, session: int, held: str, now: float) -> None:
        """A BEAT of the worker said in ``trees`` what it holds."""
        worker = self.workers.get(session)
        if worker is None:
            return
        worker.held = held
        right = held == self._expected(worker)
        worker.wrong_beats = 0 if right else worker.wrong_beats + 1
        if worker.wrong_beats >= MAX_WRONG_BEATS:
            worker.wrong_beats = 0
            for tree in worker.trees:
                pulls = self.permits.holds(((tree, ""), session))
                if tree in self.sources and not pulls and not self.is_paused(tree, worker.name):
                    self.sources[tree].announce(session)

    def nodes(self, names: list[str]) -> None:
        """The workers that have a key: those without a session are away."""
        away = [name for name in names if name not in self._sessions]
        self.known = {name: self.known.get(name, "") for name in away}

    def hint(self, place: Place, dirty: frozenset[str] | None, now: float) -> None:
        """Something may have changed in these directories of a tree."""
        end = self.sources.get(place[0]) if not place[1] else self.sinks.get(place)
        if end is not None:
            end.hint(dirty, now)

    def receive(self, session: int, message: TreeMessage, body: bytes | memoryview, now: float) -> None:
        """A message of a worker."""
        worker = self.workers.get(session)
        if worker is None:
            return
        sink: Sink | None = None
        source: Source | None = None
        try:
            if isinstance(message, Trees):
                raise PeerError("TREES comes from a master only")
            if isinstance(message, Order) or message.tree not in worker.trees:
                raise PeerError(f"{worker.name} has no tree of this name")
            source = self.sources.get(message.tree)
            if source is None and isinstance(message, Report):
                self.own_reports[(message.tree, worker.name)] = message
                return
            sink = None if source is not None else self._sink_of(message, worker, session, now)
            if not isinstance(message, Report) or message.state in ("pulling", "applying"):
                self.permits.progress(((message.tree, "" if source is not None else worker.name), session), now)
            if isinstance(message, Report):
                self._reported(message, worker.name, now)
                if source is not None and message.state == "current":
                    # Its FINISH may have been lost; a copy that is current pulls nothing.
                    source.serving.end(session, now)
            elif source is not None:
                question_of_sink(source, session, message, body, now)
            elif sink is not None and isinstance(message, State):
                sink.heard(message, now)
            elif sink is not None and isinstance(message, Go | Listing | Parcel | Hashes):
                # Where nobody has said PULL, or not any more, a GO begins nothing: it would be a pull without a permit.
                if not isinstance(message, Go) or self.permits.holds((sink.place, session)):
                    answer_of_source(sink, message, body, now)
            else:
                raise PeerError(f"{type(message).__name__.upper()} makes no sense for this tree")
        except (PeerError, TooLarge) as error:
            self.protocol_errors += 1
            tree = "" if isinstance(message, Trees) else message.tree
            self.effects.tell("sync_protocol_error", "warning", worker=worker.name, tree=tree, reason=error.message)
            if sink is not None:
                sink.fail(error, now)
            elif source is not None:
                source.serving.end(session, now)

    def next_deadline(self) -> float:
        """When :meth:`handle_deadline` has to be called; may be infinite."""
        times = [end.next_deadline() for end in self.ends]
        permits = self.permits.next_deadline()
        return min([*times, permits] if permits is not None else times, default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Do what is due."""
        for end in list(self.ends):
            if now >= end.next_deadline():
                end.handle_deadline(now)
        for place, session in self.permits.handle_deadline(now):
            self._stalled(place, session, now)

    def settle(self, now: float) -> None:
        """To be called after each event: those whose turn has come begin."""
        for place, session in self.permits.take_granted():
            if place[1]:
                self.sinks[place].permitted(now)
            else:
                self.sources[place[0]].serving.grant(session, now)

    # -- what people say ------------------------------------------------------------------------------------------------

    def look_now(self, tree: str, then: Callable[[float], None], now: float) -> list[str]:
        """Look at everything now, try again what failed; returns the trees.

        Args:
            then: called for each of the master's own trees when it has been looked at.
        """
        names = self.named(tree)
        for name in names:
            if name in self.sources:
                self.sources[name].look_now(then, now)
            for place, sink in list(self.sinks.items()):
                if place[0] == name:
                    sink.order(False, now)
        self._order(names, "now")
        return names

    def confirm(self, tree: str, worker: str, now: float) -> list[str]:
        """What a guard holds is right.

        Raises:
            NoSuchTree, NoSuchNode: there is none of this name.
            UsageError: nothing is held: to confirm what nobody has seen yet would be to switch the guard off.
        """
        names = self.named(tree)
        if worker:
            self.check_worker(worker)
        if not any(self._is_held(name, worker) for name in names):
            raise UsageError(f"{', '.join(names)}: nothing is held", hint="`zcluster sync status` says what is, and why")
        for name in names:
            if name in self.sources:
                self.sources[name].confirm(now)
            for place, sink in list(self.sinks.items()):
                if place[0] == name and worker in ("", place[1]) and sink.state == "held":
                    sink.order(True, now)
        self._order(names, "confirm", worker)
        return names

    def check_worker(self, worker: str) -> None:
        """Refuse a name that no worker has.

        Raises:
            NoSuchNode: it is none's.
        """
        if worker not in self._sessions and worker not in self.known:
            raise NoSuchNode(f"there is no worker {worker!r}", hint="`zcluster nodes` lists them")

    def _is_held(self, tree: str, worker: str) -> bool:
        """Whether a guard holds the tree: at the master, at a worker's copy of it, or at a worker's own."""
        source = self.sources.get(tree)
        if source is not None and source.held:
            return True
        told = [(place, report) for place, (report, _) in self.reports.items()]
        told += [*self.own_reports.items(), *((place, sink.report(0.0)) for place, sink in self.sinks.items())]
        return any(place[0] == tree and worker in ("", place[1]) and report.state == "held" for place, report in told)

    def pause(self, tree: str, worker: str, paused: bool, now: float) -> list[str]:
        """Let no pull of this tree (of this worker) begin, or let them begin again."""
        names = self.named(tree)
        if paused and worker:
            self.check_worker(worker)
        for name in names:
            if paused:
                self.paused.add((name, worker))
            else:
                self.paused -= {pair for pair in self.paused if pair[0] == name and worker in ("", pair[1])}
        for session, known in self.workers.items():
            if known.trees:
                self._say_trees(session)
        for place, sink in self.sinks.items():
            sink.set_paused(self.is_paused(*place), now)
        return names

    # -- inside ---------------------------------------------------------------------------------------------------------

    def named(self, tree: str) -> list[str]:
        """The tree of this name; empty: all.

        Raises:
            NoSuchTree: there is none.
        """
        if tree and tree not in self.declared:
            raise NoSuchTree(f"there is no tree {tree!r}", hint=f"the trees are: {', '.join(self.declared) or 'none'}")
        return [tree] if tree else list(self.declared)

    def concerned(self, tree: str) -> list[str]:
        """Workers that this tree concerns, here or away."""
        names = {worker.name for worker in self.workers.values()} | set(self.known)
        return sorted(name for name in names if self.declared[tree].concerns(name, self._master))

    def is_here(self, worker: str) -> bool:
        """Whether the worker has a session."""
        return worker in self._sessions

    @property
    def epoch(self) -> int:
        """The master's."""
        return self._source_limits.epoch

    def is_paused(self, tree: str, worker: str) -> bool:
        """Whether no pull of this worker's copy may begin."""
        return (tree, "") in self.paused or (tree, worker) in self.paused

    def _say_trees(self, session: int) -> None:
        worker = self.workers[session]
        limits, name = self._source_limits, worker.name
        infos = [msgspec.structs.replace(info, paused=self.is_paused(tree, name)) for tree, info in worker.trees.items()]
        self.effects.say(session, Trees(
            epoch=limits.epoch, chunk_bytes=limits.chunk_bytes, window_bytes=limits.window_bytes, trees=infos
        ))  # fmt: skip

    def _order(self, trees: list[str], order: str, worker: str = "") -> None:
        for session, known in self.workers.items():
            for tree in trees:
                if tree in known.trees and worker in ("", known.name):
                    self.effects.say(session, Order(tree=tree, order="confirm" if order == "confirm" else "now"))

    def _expected(self, worker: _Worker) -> str:
        return held_digest(
            (tree, source.version, source.root.hex() if source.version else "")
            for tree in worker.trees
            if (source := self.sources.get(tree)) is not None
        )

    def _sink_of(self, message: TreeMessage, worker: _Worker, session: int, now: float) -> Sink:
        assert not isinstance(message, Trees)
        place = (message.tree, worker.name)
        sink = self.sinks.get(place)
        if sink is None:
            sink = self.sinks[place] = Sink(
                place, self.declared[message.tree].local, self.effects, self._sink_limits, now,
                report=lambda report, now: self._reported(report, worker.name, now), permit=self._ask_for_sink,
                release=self._release_sink, pace=self._pace_of(worker.name),
            )  # fmt: skip
            sink.set_paused(self.is_paused(*place), now)
        if isinstance(message, State):
            sink.session_up(session, now)
        return sink

    def _pace_of(self, worker: str) -> Pace | None:
        return self._paces.setdefault(worker, Pace(self._up_rate_bytes)) if self._up_rate_bytes else None

    def _reported(self, report: Report, worker: str, now: float) -> None:
        place = (report.tree, worker)
        self.reports[place] = (report, now)
        if report.state == "current":
            self.behind_since_s.pop(place, None)
        else:
            self.behind_since_s.setdefault(place, now)
        source, session = self.sources.get(report.tree), self._sessions.get(worker)
        if source is not None and session is not None and not report.target:
            # Its sync process has started again and knows nothing: tell it.
            source.announce(session)

    # permits: keys are (place, session)

    def _ask(self, place: Place, session: int, now: float) -> None:
        self.permits.ask((place, session), session, now)

    def _release(self, place: Place, session: int, now: float) -> None:
        self.permits.release((place, session), now)

    def _ask_for_sink(self, place: Place, now: float) -> None:
        session = self._sessions.get(place[1])
        if session is not None:
            self.permits.ask((place, session), session, now)

    def _release_sink(self, place: Place, now: float) -> None:
        session = self._sessions.get(place[1])
        if session is not None:
            self.permits.release((place, session), now)

    def _stalled(self, place: Place, session: int, now: float) -> None:
        self.effects.tell("pull_stalled", "warning", tree=place[0], session=session)
        if place[1]:
            self.sinks[place].stalled(now)
        else:
            self.sources[place[0]].serving.end(session, now)
