"""A simulated sync process: a machine of file sync, and lanes of work on simulated disks.

Rules kept here:
- a process does what the real one does (zcluster.files.engine): tell the machine, settle, do what was decided, set the alarm;
- a process that dies leaves what is on its disks; whatever was on its way to it or from it ends in nothing.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from zcluster.core.sync.classify import differences
from zcluster.core.sync.effects import (
    Action,
    Begin,
    Close,
    Coarse,
    Command,
    Commit,
    Compare,
    Differ,
    Do,
    Fine,
    FinishLarge,
    HashBlocks,
    Look,
    Number,
    Open,
    Place,
    PlanChanges,
    PlanWalk,
    Put,
    Read,
    Record,
    Restore,
    Say,
    Settle,
    Tell,
    Undo,
)  # fmt: skip
from zcluster.core.sync.hub import Hub
from zcluster.core.sync.member import Member
from zcluster.core.sync.rules import Rules
from zcluster.errors import NotAllowed, ZClusterError
from zcluster.sim.trees_disk import SimTree
from zcluster.sim.trees_places import Published, SimPlace, SimSink, SimSource
from zcluster.sim.world import World
from zcluster.wire import WireLimits, decode, encode
from zcluster.wire.trees import BULK_KINDS, Report, TreeMessage

LIMITS = WireLimits()


@dataclass
class Trouble:
    """How bad things are: probabilities per action, message or command."""

    disk: float = 0.0
    slow: float = 0.0
    command: float = 0.0
    hint: float = 0.0
    """That a hint is lost."""
    tear: float = 0.0
    """That a failing commit is carried out all the same."""


class Store:
    """The disks of one node: what outlives its processes."""

    def __init__(self) -> None:
        self.trees: dict[Place, SimTree] = {}
        self.history: dict[Place, list[Published]] = {}

    def tree(self, place: Place) -> SimTree:
        """The directory of a place."""
        return self.trees.setdefault(place, SimTree())


class Watch:
    """What the oracle wants to know; see zcluster.sim.trees_oracle."""

    def numbered(self, process: Process, place: Place, number: int) -> None:
        """A version got its number."""

    def changed(self, process: Process, place: Place) -> None:
        """A process changed files of a copy."""

    def reported(self, process: Process, report: Report) -> None:
        """A worker reports."""


class Process:
    """One incarnation of a node's sync process.

    Args:
        send: takes a session's number, a frame, and whether it is bulk.
        held: takes what BEAT is to say.
    """

    def __init__(
        self, world: World, name: str, store: Store, machine: Hub | Member, trouble: Trouble, watch: Watch,
        send: Callable[[int, bytes, bool], None], held: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.world, self.name, self.store, self.machine, self.trouble, self.watch = world, name, store, machine, trouble, watch
        self.alive = True
        self.places: dict[Place, SimPlace] = {}
        self.delivered_edits: dict[Place, int] = {}
        """How many edits there had been at the last look that the machine knows of."""
        self._send, self._held = send, held
        self._lanes: dict[str, deque[tuple[Action, Callable[[object], None]]]] = {}
        self._alarm, self._alarm_s = 0, -1.0
        self._told_held = ""

    @property
    def now(self) -> float:
        """The time."""
        return self.world.now

    def die(self) -> None:
        """The process is gone, at once."""
        self.alive = False
        for place in self.places.values():
            journal = place.tree.journal
            if journal is not None:
                for op in journal.ops[: self.world.random.randint(0, len(journal.ops))]:
                    place.tree.step(op, self.now)
                self.watch.changed(self, place.place)
            for data in place.tree.partials.values():
                if data and self.world.chance(0.5):
                    start = self.world.random.randrange(len(data))
                    data[start : start + 4096] = bytes(len(data[start : start + 4096]))

    # -- events ---------------------------------------------------------------------------------------------------------

    def event(self, handle: Callable[[], None]) -> None:
        """Tell the machine something, and do what it decides. What it raises is a defect."""
        if not self.alive:
            return
        try:
            handle()
            self._perform()
        except (KeyError, IndexError, TypeError, ZClusterError) as error:
            at = "".join(traceback.format_tb(error.__traceback__, -2)).strip()
            self.world.fail(f"the machine of {self.name} raised {type(error).__name__}: {error}: {at}")

    def frame(self, session: int, frame: bytes) -> None:
        """A frame came on ``session``."""
        message, start = decode(frame, LIMITS)
        assert isinstance(message, TreeMessage)
        self.event(lambda: self.machine.receive(session, message, frame[start:], self.now))

    def hint(self, place: Place, dirty: frozenset[str] | None) -> None:
        """Something may have changed."""
        if place in self.places:
            self.event(lambda: self.machine.hint(place, dirty, self.now))

    def _perform(self) -> None:
        machine = self.machine
        machine.settle(self.now)
        while effects := machine.effects.take():
            for effect in effects:
                match effect:
                    case Say():
                        self._say(effect)
                    case Do():
                        self.do(effect.lane, effect.action, partial(self._ended, effect))
                    case Tell():
                        self.world.note(self.name, f"{effect.name} {_short(effect.fields)}")
            machine.settle(self.now)
        if isinstance(machine, Member) and (held := machine.held()) != self._told_held:
            self._told_held = held
            self._held(held)
        deadline = machine.next_deadline()
        if deadline != self._alarm_s and deadline < float("inf"):
            self._alarm, self._alarm_s = self._alarm + 1, deadline
            self.world.after(max(0.0, deadline - self.now), partial(self._due, self._alarm))

    def _due(self, alarm: int) -> None:
        if alarm == self._alarm:
            self._alarm_s = -1.0
            self.event(lambda: self.machine.handle_deadline(self.now))

    def _say(self, effect: Say) -> None:
        message = effect.message
        if isinstance(message, Report):
            self.watch.reported(self, message)
        self.world.note(self.name, f"> {effect.session} {_message(message, effect.body)}")
        frame = encode(message, [effect.body])
        if len(frame) > LIMITS.frame_bytes:
            self.world.fail(f"a frame of {len(frame)} bytes: {_message(message, effect.body)}")
        self._send(effect.session, frame, message.kind in BULK_KINDS)

    # -- disk work ------------------------------------------------------------------------------------------------------

    def do(self, lane: str, action: Action, ended: Callable[[object], None]) -> None:
        """Do ``action`` when the lane's turn comes."""
        waiting = self._lanes.get(lane)
        if waiting is not None:
            waiting.append((action, ended))
            return
        self._lanes[lane] = deque()
        self._begin(lane, action, ended)

    def _pause_s(self) -> float:
        random = self.world.random
        return random.uniform(0.2, 3.0) if self.world.chance(self.trouble.slow) else random.uniform(0.0002, 0.004)

    def _begin(self, lane: str, action: Action, ended: Callable[[object], None]) -> None:
        self.world.after(self._pause_s(), partial(self._act, lane, action, ended))

    def _act(self, lane: str, action: Action, ended: Callable[[object], None]) -> None:
        if not self.alive:
            return
        fails = not isinstance(action, Close | Differ) and self.world.chance(self.trouble.disk)
        place = self.places.get(action.place)
        if isinstance(action, Commit) and isinstance(place, SimSink) and (not fails or self.world.chance(self.trouble.tear)):
            place.decide(action)
            self.world.after(self._pause_s(), partial(self._carry_out, lane, action, ended, fails))
            return
        try:
            result = self._failed(action, place) if fails else self._work(action, place)
        except ZClusterError as error:
            result = error
        except (KeyError, IndexError, AssertionError) as error:
            self.world.fail(f"{type(action).__name__} {action.place} at {self.name} raised {type(error).__name__}: {error}")
        if isinstance(action, Undo):
            self.watch.changed(self, action.place)
        self.world.after(self._pause_s(), partial(self._deliver, lane, action, ended, result, self._edits(action.place)))

    def _carry_out(self, lane: str, action: Commit, ended: Callable[[object], None], fails: bool) -> None:
        if not self.alive:
            return
        place = self.places[action.place]
        assert isinstance(place, SimSink)
        result: object = place.carry_out(action.plan)
        if fails:
            result = ZClusterError("the disk failed at the end of a commit")
        self.watch.changed(self, action.place)
        dirty = None if self.world.chance(0.5) else frozenset({""})
        self.world.after(self.world.random.uniform(0.0, 0.01), lambda: self.hint(action.place, dirty))
        self.world.after(self._pause_s(), partial(self._deliver, lane, action, ended, result, self._edits(action.place)))

    def _edits(self, key: Place) -> int:
        place = self.places.get(key)
        return place.looked_edits if place is not None else -1

    def _deliver(self, lane: str, action: Action, ended: Callable[[object], None], result: object, edits: int) -> None:
        if not self.alive:
            return
        waiting = self._lanes[lane]
        if waiting:
            self._begin(lane, *waiting.popleft())
        else:
            del self._lanes[lane]
        if isinstance(action, Open | Look | Commit | Undo) and not isinstance(result, ZClusterError):
            self.delivered_edits[action.place] = edits
        ended(result)

    def _ended(self, effect: Do, result: object) -> None:
        if isinstance(result, ZClusterError):
            self.world.note(self.name, f"! {type(effect.action).__name__} {effect.action.place}: {result.message}")
        self.event(lambda: self.machine.effects.done(effect.job, result, self.now))

    def work(self, action: Action) -> object:
        """Do ``action`` at once.

        Raises:
            ZClusterError: what it ends with.
        """
        place = self.places.get(action.place)
        if isinstance(action, Commit) and isinstance(place, SimSink):
            place.decide(action)
            return place.carry_out(action.plan)
        return self._work(action, place)

    def _failed(self, action: Action, place: SimPlace | None) -> object:
        if isinstance(place, SimSink) and isinstance(action, Put | Commit | Undo):
            place.lost()
        return ZClusterError(f"the disk failed in {type(action).__name__}")

    def _work(self, action: Action, place: SimPlace | None) -> object:
        match action, place:
            case Open(), _:
                return self._open(action)
            case Close(), _:
                self.places.pop(action.place, None)
                return None
            case Differ(), _:
                return differences(action.before, action.after)
            case Command(), SimPlace():
                return "exit status 1" if self.world.chance(self.trouble.command) else ""
            case Look(), SimPlace():
                return place.look(action.dirty)
            case _, SimSink():
                return _sink(place, action)
            case _, SimSource():
                result = _source(place, action)
                if isinstance(action, Number) and isinstance(result, int):
                    self.watch.numbered(self, action.place, result)
                return result
        raise ZClusterError(f"the tree {action.place[0]} is not open here")

    def _open(self, action: Open) -> object:
        self.places.pop(action.place, None)
        if action.info.path == "forbidden":
            raise NotAllowed("this worker lets no tree be there")
        tree, rules, clock = self.store.tree(action.place), Rules.of(action.info), lambda: self.world.now
        if action.source:
            history = self.store.history.setdefault(action.place, [])
            source = SimSource(action.place, tree, rules.for_source(), clock, history)
            self.places[action.place] = source
            return source.opened()
        sink = self.places[action.place] = SimSink(action.place, tree, rules, clock)
        self.watch.changed(self, action.place)
        return sink.opened()


def _sink(place: SimSink, action: Action) -> object:
    match action:
        case PlanWalk():
            return place.plan_walk(action)
        case PlanChanges():
            return place.plan_changes(action)
        case Compare():
            return place.compare(action)
        case Put():
            return place.put(action)
        case Begin():
            return place.begin(action)
        case Coarse():
            return place.coarse(action)
        case Fine():
            return place.fine(action)
        case FinishLarge():
            place.finish_large(action)
            return None
        case Undo():
            return place.undo(action.version, action.epoch, action.root)
        case Settle():
            place.before = None
            return None
    raise AssertionError(f"a sink was asked for {action}")


def _source(place: SimSource, action: Action) -> object:
    match action:
        case Number():
            return place.number(action)
        case Read():
            return place.read(action)
        case HashBlocks():
            return place.hash_blocks(action)
        case Record():
            return ""
        case Restore():
            place.restore(next(old.nodes for old in place.history if old.number == action.version))
            return None
    raise AssertionError(f"a source was asked for {action}")


def _short(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={str(value)[:80]}" for name, value in fields.items())


def _message(message: TreeMessage, body: bytes | memoryview) -> str:
    told = []
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if value and name not in ("trees", "encoding", "raw_bytes"):
            told.append(f"{name}={value[:12] if isinstance(value, str) and name in ('root', 'have_root', 'digest') else value}")
    return f"{type(message).__name__.upper()} {' '.join(told)}" + (f": {len(body)} bytes" if body else "")
