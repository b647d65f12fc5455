"""``zcluster bench agents`` and ``zcluster bench groups``: what it costs to know of many agents on one master.

Rules kept here:
- a work is one row of what is promised of agents; its load is the promise's, unless the options say otherwise, and only with
  the promise's load has it the promise's bars;
- each work has a cluster of its own, whose files are in one new directory, which is removed at the end;
- what is compared is measured in the same run, on the same disk; a figure of several rounds is their median.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from zcluster.bench.agentsfleet import Bench, Load
from zcluster.bench.agentslive import live
from zcluster.bench.agentsmillion import million
from zcluster.bench.agentsworks import changed, first, idle
from zcluster.bench.child import run_cleanly
from zcluster.bench.figures import Figure, Say, SpecialResult
from zcluster.bench.groups import groups
from zcluster.bench.machine import describe_machine
from zcluster.errors import UsageError

DEFAULT_WORKS = ("first", "changed")
ALL = "all"
MAX_AGENTS = 2_000_000
MAX_WORKERS = 64


@dataclass(frozen=True)
class Work:
    """One row of what is promised."""

    name: str
    about: str
    run: Callable[[Bench], Awaitable[Sequence[Figure]]]
    load: Load


WORKS = {
    work.name: work
    for work in (
        Work("first", "a worker's agents, new to the master", first, Load(100_000, 1)),
        Work("changed", "1 % of a worker's agents reported with another version", changed, Load(100_000, 1)),
        Work("idle", "nothing changes", idle, Load(100_000, 10)),
        Work("million", "very many agents on one master", million, Load(1_000_000, 0)),
        Work("live", "agents with a session, at their default interval", live, Load(5_000, 0)),
    )
}
"""The works of ``bench agents`` by name, in the order of the promises."""
GROUPS = Work("groups", "all agents assigned to another group by one call", groups, Load(10_000, 16))
"""The work of ``bench groups``."""


@dataclass(frozen=True)
class AgentsOptions:
    """What to measure. Raises UsageError when a value is out of its range."""

    works: tuple[str, ...] = DEFAULT_WORKS
    """Names of works, or ``all``; ``groups`` alone is the work of ``bench groups``."""
    agents: int | None = None
    """How many agents there are; None: as the work says, and so with the next one."""
    workers: int | None = None
    """Nodes beside the master, of works with several of them; others have one or none."""
    rounds: int = 3
    duration_s: float = 60.0
    """How long ``idle`` and ``live`` watch."""
    directory: Path | None = None
    """Where the files are; None: the directory for temporary files."""

    def __post_init__(self) -> None:
        _in_range("agents", self.agents, 1, MAX_AGENTS)
        _in_range("workers", self.workers, 1, MAX_WORKERS)
        _in_range("rounds", self.rounds, 1, 100)
        _in_range("duration", self.duration_s, 0.1, 3600)
        names = (*WORKS, ALL)
        for name in self.works:
            if self.works != (GROUPS.name,) and (name not in names or self.works.count(name) > 1):
                raise UsageError(f"cannot measure the work {name!r}", hint=f"--work takes, once each, {', '.join(names)}")
        if not self.works:
            raise UsageError("there is no work to measure", hint=f"--work takes {', '.join(names)}")
        for work in self.chosen():
            if work.load.agents < work.load.workers:
                raise UsageError(
                    f"{work.load.agents} agents are too few for {work.load.workers} workers", hint="give --agents or --workers"
                )
        if self.directory is not None and not self.directory.is_dir():
            raise UsageError(f"{self.directory} is no directory", hint="give --dir a directory that exists")

    def chosen(self) -> list[Work]:
        """The works to measure, each with the load that these options make of it."""
        if self.works == (GROUPS.name,):
            return [self._loaded(GROUPS)]
        return [self._loaded(WORKS[name]) for name in (WORKS if ALL in self.works else self.works)]

    def _loaded(self, work: Work) -> Work:
        load = work.load
        workers = self.workers if self.workers is not None and load.workers > 1 else load.workers
        asked = Load(self.agents if self.agents is not None else load.agents, workers)
        return replace(work, load=replace(asked, promised=asked == load))


def _in_range(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise UsageError(f"--{name} is from {least:g} to {most:g}, not {value:g}", hint=f"give --{name} within that range")


def run_agents(options: AgentsOptions, say: Say) -> SpecialResult:
    """Measures as ``options`` say. Blocks, for minutes with all works.

    Args:
        options: what to measure.
        say: is told what goes on.

    Raises:
        ZClusterError: a process of the bench does not start or ends early, or the nodes do not get to know what they should.
    """
    return run_cleanly(_run(options, say))


async def _run(options: AgentsOptions, say: Say) -> SpecialResult:
    machine = describe_machine(options.directory)
    works = options.chosen()
    figures: list[Figure] = []
    for work in works:
        say(f"{work.name}: {work.load.text()}")
        with tempfile.TemporaryDirectory(prefix="zcluster-bench-", dir=options.directory) as directory:
            bench = Bench(work.load, Path(directory), options.rounds, options.duration_s, say)
            figures += [replace(figure, name=f"{work.name}: {figure.name}") for figure in await work.run(bench)]
    what = "; ".join(f"{work.name}: {work.about}, {work.load.text()}" for work in works)
    name = GROUPS.name if works[0].name == GROUPS.name else "agents"
    about = f"{what}; {options.rounds} round(s), medians"
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
    return SpecialResult(name, about, machine, tuple(figures), plain)
