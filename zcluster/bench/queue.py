"""``zcluster bench queue``: how many durable jobs a second, how fast they are accepted and done, at what cost, and against what.

Rules kept here:
- the contenders take turns, round by round, on the same disk in the same minutes; ratios are of medians of rounds;
- only with the promise's load has a work the promise's bars;
- a figure that could not be measured is absent, not 0; a disk that is none is told.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from zcluster.bench.child import run_cleanly
from zcluster.bench.dapi import check_sweep
from zcluster.bench.figures import Figure, Say
from zcluster.bench.machine import describe_machine, peak_memory_bytes
from zcluster.bench.queuecontenders import CELERY, CONTENDERS, OTHERS, REDIS, SQLITE, ZCLUSTER, check_installed
from zcluster.bench.queuemillion import JOBS, measure_million
from zcluster.bench.queueresult import QueueContender, QueueLevel, QueueResult, QueueWork
from zcluster.bench.queuerounds import IN_MEMORY, QueueLoad, QueueRound, QueueWatched, filesystem_of, run_queue_round
from zcluster.errors import UsageError

DONE, ACCEPT, MILLION = "done", "accept", "million"
WORKS = (DONE, ACCEPT, MILLION)
IN_FLIGHT, SIZE_BYTES = 256, 100
"""The load of the promise."""
DONE_BARS = {SQLITE: 5.0, CELERY: 5.0, REDIS: 1.0}
"""At least so many times as many jobs a second as each of these."""
ACCEPT_BAR = 1.5
"""At most so many times a plain commit."""
MAX_IN_FLIGHT = 65_536
MAX_SIZE_BYTES = 1024 * 1024
MAX_JOBS = 4_000_000
MIN_COMPARED_ROUNDS = 3
MIN_WARM_UP_S, MAX_WARM_UP_S = 0.1, 1.0


@dataclass(frozen=True)
class QueueOptions:
    """What to measure. Raises UsageError when a value is out of its range."""

    works: tuple[str, ...] = (DONE,)
    in_flight: int = IN_FLIGHT
    """Jobs under way at once, in the work done."""
    size_bytes: int = SIZE_BYTES
    """Length of the value that is echoed."""
    compare: tuple[str, ...] = ()
    """Other contenders of the work done: sqlite, celery, redis."""
    rounds: int = 3
    duration_s: float = 9.0
    """Measured time of each contender in each work, all its rounds together."""
    jobs: int = JOBS
    """Jobs of the work million."""
    directory: Path | None = None
    """Where the files are; None: the directory for temporary files."""
    sweep: tuple[int, ...] = ()
    """Other numbers of jobs under way in the work done, each measured as well; the figures are those of ``in_flight``."""

    def __post_init__(self) -> None:
        _in_range("in-flight", self.in_flight, 1, MAX_IN_FLIGHT)
        check_sweep(self.in_flight, self.sweep, MAX_IN_FLIGHT)
        _in_range("size", self.size_bytes, 0, MAX_SIZE_BYTES)
        _in_range("rounds", self.rounds, 1, 100)
        _in_range("duration", self.duration_s, 0.1, 3600)
        _in_range("jobs", self.jobs, 1, MAX_JOBS)
        _known("work", self.works, WORKS)
        _known("compare", self.compare, OTHERS)
        if not self.works:
            raise UsageError("there is no work to measure", hint=f"--work takes {', '.join(WORKS)}")
        if self.compare and self.rounds < MIN_COMPARED_ROUNDS:
            raise UsageError(
                f"a comparison has at least {MIN_COMPARED_ROUNDS} rounds, not {self.rounds}", hint="leave --rounds out"
            )
        if self.directory is not None and not self.directory.is_dir():
            raise UsageError(f"{self.directory} is no directory", hint="give --dir a directory that exists")

    @property
    def levels(self) -> tuple[int, ...]:
        """All numbers of jobs under way that the work done has, from the least to the greatest."""
        return tuple(sorted((*self.sweep, self.in_flight)))

    @property
    def promised(self) -> bool:
        """Whether the load of the works done and accept is the one that their bars are about."""
        return (self.in_flight, self.size_bytes) == (IN_FLIGHT, SIZE_BYTES)

    def load(self, in_flight: int) -> QueueLoad:
        """The load of a round."""
        window_s = self.duration_s / self.rounds
        return QueueLoad(in_flight, window_s, min(max(window_s / 4, MIN_WARM_UP_S), MAX_WARM_UP_S))


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UsageError(f"--{name} is from {least:g} to {most:g}, not {value:g}", hint=f"give --{name} within that range")


def _known(name: str, given: Sequence[str], known: Sequence[str]) -> None:
    for each in given:
        if each not in known or given.count(each) > 1:
            raise UsageError(f"--{name} cannot be {each!r}", hint=f"--{name} takes, once each, {', '.join(known)}")


def run_queue(options: QueueOptions, say: Say) -> QueueResult:
    """Measures as ``options`` say. Blocks, for minutes with the work million.

    Args:
        options: what to measure.
        say: is told what goes on.

    Raises:
        UsageError: when a contender is not installed.
        ZClusterError: when a process of the bench does not start or ends early.
    """
    check_installed(options.compare)
    return run_cleanly(_run(options, say))


@dataclass
class _Running:
    name: str
    watched: QueueWatched
    rounds: dict[int, list[QueueRound]] = field(default_factory=dict)
    """By the number of jobs under way."""

    def contender(self, in_flight: int) -> QueueContender:
        peaks = {role: peak_memory_bytes(pids) for role, pids in self.watched.pids.items()}
        return QueueContender(self.name, tuple(self.rounds[in_flight]), peaks)


async def _run(options: QueueOptions, say: Say) -> QueueResult:
    machine = describe_machine(options.directory)
    place = options.directory or Path(tempfile.gettempdir())
    kind = filesystem_of(place) or "an unknown file system"
    if kind in IN_MEMORY:
        say(f"{place} is a {kind}: a commit costs nothing there, and no ratio is that of a disk; give --dir a disk's directory")
    works: list[QueueWork] = []
    for name in options.works:
        with tempfile.TemporaryDirectory(prefix="zcluster-bench-", dir=options.directory) as directory:
            works.append(await _WORKS[name](options, Path(directory), say))
    about = f"durable jobs, {options.size_bytes} B echo, files on {kind}; {options.rounds} round(s), medians"
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
    return QueueResult(about, machine, tuple(works), plain | {"filesystem": kind})


async def _take_turns(
    options: QueueOptions, names: Sequence[str], levels: Sequence[int], directory: Path, say: Say
) -> dict[int, dict[str, QueueContender]]:
    """The contenders by name, for each number of jobs under way."""
    async with AsyncExitStack() as stack:
        running: list[_Running] = []
        for name in names:
            say(f"starting {name}")
            place = directory / name
            place.mkdir()
            running.append(_Running(name, await stack.enter_async_context(CONTENDERS[name](place, options.size_bytes))))
        for number in range(options.rounds):
            for in_flight in levels:
                for each in running:
                    rounds = each.rounds.setdefault(in_flight, [])
                    rounds.append(await run_queue_round(each.watched, options.load(in_flight)))
                    level = f", {in_flight} in flight" if len(levels) > 1 else ""
                    say(f"round {number + 1} of {options.rounds}{level}: {each.name} {rounds[-1].done_per_s:,.0f} jobs/s")
        return {in_flight: {each.name: each.contender(in_flight) for each in running} for in_flight in levels}


async def _done(options: QueueOptions, directory: Path, say: Say) -> QueueWork:
    levels = await _take_turns(options, (ZCLUSTER, *options.compare), options.levels, directory, say)
    found = levels[options.in_flight]
    sweep = tuple(QueueLevel(number, tuple(each.values())) for number, each in levels.items()) if options.sweep else ()
    about = f"{options.in_flight} jobs in flight; each value is followed by the next submission"
    return QueueWork(DONE, about, tuple(found.values()), tuple(done_figures(found, promised=options.promised)), sweep)


def done_figures(found: dict[str, QueueContender], *, promised: bool) -> list[Figure]:
    """How many times as many jobs a second zcluster has done as each other contender, and how many it has not done."""
    mine = found[ZCLUSTER]
    figures = []
    for name, bar in DONE_BARS.items():
        if name in found and found[name].done_per_s:
            ratio = mine.done_per_s / found[name].done_per_s
            figures.append(Figure(f"done, against {name}", ratio, "x", bar if promised else None, at_most=False))
    return [*figures, _errors(mine)]


async def _accept(options: QueueOptions, directory: Path, say: Say) -> QueueWork:
    found = (await _take_turns(options, (ZCLUSTER, SQLITE), (1,), directory, say))[1]
    about = "one job at a time: submitted, accepted, done, then the next; against one commit after the other"
    return QueueWork(ACCEPT, about, tuple(found.values()), tuple(accept_figures(found, promised=options.promised)))


def accept_figures(found: dict[str, QueueContender], *, promised: bool) -> list[Figure]:
    """How long a job's acceptance takes, in plain commits."""
    mine, plain = found[ZCLUSTER].accept_s(50), found[SQLITE].accept_s(50)
    figures = []
    if mine is not None and plain:
        figures.append(Figure("accepted p50, against one commit", mine / plain, "x", ACCEPT_BAR if promised else None))
    return [*figures, _errors(found[ZCLUSTER])]


def _errors(mine: QueueContender) -> Figure:
    return Figure("jobs that were not done", sum(mine.errors.values()), "", 0)


async def _million(options: QueueOptions, directory: Path, say: Say) -> QueueWork:
    figures = await measure_million(options.jobs, options.size_bytes, options.rounds, directory, say)
    return QueueWork(MILLION, f"{options.jobs:,} queued jobs of a node that is paused", (), tuple(figures))


_WORKS: dict[str, Callable[[QueueOptions, Path, Say], Awaitable[QueueWork]]] = {
    DONE: _done,
    ACCEPT: _accept,
    MILLION: _million,
}
