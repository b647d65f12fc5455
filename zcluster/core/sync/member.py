"""A worker's side of file sync: its copies of the master's trees, and the trees of its own.

Rules kept here:
- which trees there are, and by which rules, the master says; where they may be, and what may run here, this node decides
  (when a place is opened, by its configuration);
- every question of the master is about a tree that it has named before; anything else is its mistake and has no effect;
- each change of a copy or of an own tree is reported, and progress at most twice a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import msgspec

from zcluster.core.sync.bodies import held_digest
from zcluster.core.sync.effects import Close, Effects, Place
from zcluster.core.sync.sink import Sink, SinkLimits
from zcluster.core.sync.source import Source, SourceLimits
from zcluster.errors import PeerError, TooLarge
from zcluster.wire.trees import (
    MAX_REFUSED,
    Blocks,
    Fetch,
    Finish,
    Go,
    Hashes,
    List,
    Listing,
    Order,
    Parcel,
    Pull,
    Report,
    State,
    TreeInfo,
    TreeMessage,
    Trees,
)  # fmt: skip

MASTER = 0
"""The one session of a worker."""


class Member:
    """The machine of a worker's sync process.

    Args:
        commands: whether commands that the master's configuration names run here.
    """

    def __init__(self, effects: Effects, sink_limits: SinkLimits, source_limits: SourceLimits, *, commands: bool) -> None:
        self.effects = effects
        self.sinks: dict[str, Sink] = {}
        self.sources: dict[str, Source] = {}
        self._sink_limits, self._source_limits = sink_limits, source_limits
        self._window_bytes = sink_limits.window_bytes
        """Of this node's configuration."""
        self._commands = commands
        self._told: dict[str, Report] = {}
        """What was said last of each of its own trees, in this session."""
        self._up = False

    @property
    def ends(self) -> Iterator[Sink | Source]:
        """All its sinks and sources."""
        yield from self.sinks.values()
        yield from self.sources.values()

    def held(self) -> str:
        """What the next BEAT says in ``trees``."""
        return held_digest(
            (name, sink.version if sink.holds else 0, sink.root.hex() if sink.holds else "") for name, sink in self.sinks.items()
        )

    # -- events ---------------------------------------------------------------------------------------------------------

    def session_up(self, session: int, name: str, now: float) -> None:
        """The master can be reached. It says TREES next."""
        self._up = True

    def session_down(self, session: int, now: float, reason: str = "") -> None:
        """The master is gone."""
        self._up = False
        for sink in self.sinks.values():
            sink.session_down(now)
        for source in self.sources.values():
            source.session_down(MASTER, now)

    def hint(self, place: Place, dirty: frozenset[str] | None, now: float) -> None:
        """Something may have changed in these directories of a tree."""
        end = self.sinks.get(place[0]) or self.sources.get(place[0])
        if end is not None:
            end.hint(dirty, now)

    def receive(self, session: int, message: TreeMessage, body: bytes | memoryview, now: float) -> None:
        """A message of the master."""
        if isinstance(message, Trees):
            self._trees(message, now)
            return
        sink, source = self.sinks.get(message.tree), self.sources.get(message.tree)
        try:
            if sink is not None:
                self._for_sink(sink, message, body, now)
            elif source is not None:
                self._for_source(source, message, body, now)
        except (PeerError, TooLarge) as error:
            self.effects.tell("sync_protocol_error", "warning", tree=message.tree, reason=error.message)
            if sink is not None:
                sink.fail(error, now)
            elif source is not None:
                source.serving.end(MASTER, now)

    def next_deadline(self) -> float:
        """When :meth:`handle_deadline` has to be called; may be infinite."""
        return min((end.next_deadline() for end in self.ends), default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Do what is due."""
        for end in list(self.ends):
            if now >= end.next_deadline():
                end.handle_deadline(now)

    def settle(self, now: float) -> None:
        """To be called after each event: what is new about its own trees is told."""
        if not self._up:
            return
        for name, source in self.sources.items():
            report = report_of_source(source)
            if report != self._told.get(name):
                self._told[name] = report
                self.effects.say(MASTER, report)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _trees(self, message: Trees, now: float) -> None:
        wanted = {info.tree: info for info in message.trees}
        self._told = {}
        for name in [name for name in (*self.sinks, *self.sources) if name not in wanted]:
            self._drop(name, now)
        # What the source does not give in one piece must not be asked for: its limits may be others than before.
        sink_limits = replace(
            self._sink_limits, chunk_bytes=message.chunk_bytes, window_bytes=min(self._window_bytes, message.window_bytes)
        )
        source_limits = replace(self._source_limits, chunk_bytes=message.chunk_bytes, window_bytes=message.window_bytes)
        same_limits = (sink_limits, source_limits) == (self._sink_limits, self._source_limits)
        self._sink_limits, self._source_limits = sink_limits, source_limits
        for name, told in wanted.items():
            info = told if self._commands else msgspec.structs.replace(told, on_change=[], rollback=False)
            sink, source = self.sinks.get(name), self.sources.get(name)
            known = sink.info if sink is not None else source.info if source is not None else None
            if known is not None and not (same_limits and _same_rules(known, info)):
                self._drop(name, now)
                sink = source = None
            if info.direction == "down":
                self._have_sink(name, info, sink, now)
                refused = bool(told.on_change) and not self._commands
                self.sinks[name].note = "its command is not run: worker.on_change is 'refuse' here" if refused else ""
            else:
                self._have_source(name, info, source, now)

    def _have_sink(self, name: str, info: TreeInfo, sink: Sink | None, now: float) -> None:
        if sink is None:
            sink = self.sinks[name] = Sink((name, ""), info, self.effects, self._sink_limits, now, report=self._report)
        sink.set_paused(info.paused, now)
        sink.session_up(MASTER, now)
        sink.ask_again(now)

    def _have_source(self, name: str, info: TreeInfo, source: Source | None, now: float) -> None:
        if source is None:
            source = Source(
                (name, ""), info, self.effects, self._source_limits, now, ask_permit=self._permit_at_once, release_permit=_nothing
            )
            self.sources[name] = source
        source.listen(MASTER)

    def _drop(self, name: str, now: float) -> None:
        sink, source = self.sinks.pop(name, None), self.sources.pop(name, None)
        if sink is not None:
            sink.close(now)
        if source is not None:
            source.close()
        place = (name, "")
        self.effects.do(f"{place[0]}/{place[1]}", Close(place), _nothing)

    def _permit_at_once(self, place: Place, session: int, now: float) -> None:
        """The master gives its permits to itself before it pulls."""
        self.sources[place[0]].serving.grant(session, now)

    def _report(self, report: Report, now: float) -> None:
        if self._up:
            self.effects.say(MASTER, report)

    def _for_sink(self, sink: Sink, message: TreeMessage, body: bytes | memoryview, now: float) -> None:
        match message:
            case State():
                sink.heard(message, now)
            case Order():
                sink.order(message.order == "confirm", now)
            case _:
                answer_of_source(sink, message, body, now)

    def _for_source(self, source: Source, message: TreeMessage, body: bytes | memoryview, now: float) -> None:
        match message:
            case Order(order="confirm"):
                source.confirm(now)
            case Order():
                source.look_now(_nothing, now)
            case _:
                question_of_sink(source, MASTER, message, body, now)


def answer_of_source(sink: Sink, message: TreeMessage, body: bytes | memoryview, now: float) -> None:
    """What a source answers to a sink that pulls."""
    match message:
        case Go():
            sink.go(message, now)
        case Listing() | Parcel() | Hashes():
            sink.answer(message, body, now)
        case _:
            raise PeerError(f"{type(message).__name__.upper()} makes no sense for a sink")


def question_of_sink(source: Source, session: int, message: TreeMessage, body: bytes | memoryview, now: float) -> None:
    """What a sink asks of a source."""
    serving = source.serving
    match message:
        case Pull():
            serving.pull(session, message, now)
        case List():
            serving.listings(session, message, body)
        case Fetch():
            serving.fetch(session, message, body, now)
        case Blocks():
            serving.blocks(session, message, now)
        case Finish():
            serving.finish(session, message, now)
        case _:
            raise PeerError(f"{type(message).__name__.upper()} makes no sense for a source")


def report_of_source(source: Source) -> Report:
    """How a tree of this worker is: its newest version, why a guard holds it, and which names it leaves out."""
    looked = source.looked
    errors, refused = (looked.errors, looked.refused) if looked is not None else ((), ())
    return Report(
        tree=source.place[0], state="held" if source.held else "current" if source.version else "waiting",
        version=source.version, root=source.root.hex(), target=source.version, reason=source.held[:1000],
        error=f"{errors[0][0]}: {errors[0][1]}"[:1000] if errors else "",
        refused_count=looked.refused_count if looked is not None else 0,
        refused=[(path[:4096], reason[:1000]) for path, reason in refused[:MAX_REFUSED]],
    )  # fmt: skip


def _same_rules(one: TreeInfo, other: TreeInfo) -> bool:
    return msgspec.structs.replace(one, paused=False) == msgspec.structs.replace(other, paused=False)


def _nothing(*_: object) -> None:
    """Nobody waits for this."""
