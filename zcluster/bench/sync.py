"""``zcluster bench sync``: how fast trees of files reach the workers, at what cost, and against what.

Rules kept here:
- a work is one row of what file sync promises; its load is the promise's, unless the options say otherwise, and only with the
  promise's load has it the promise's bar;
- the contenders take turns, round by round, with the same files; ratios are of medians of rounds;
- after each run every copy is compared with the source, byte for byte: a copy that differs ends the bench with an error;
- everything is in one new directory of one file system, which is removed at the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from zcluster.bench import rsync, trees
from zcluster.bench.child import run_cleanly
from zcluster.bench.figures import Say
from zcluster.bench.machine import KIB, describe_machine
from zcluster.bench.syncresult import SyncResult, WorkResult
from zcluster.bench.syncworks import WORKS, Bench, Load, Work
from zcluster.errors import UsageError

DEFAULT_WORKS = ("small", "changed")
ALL = "all"
RSYNC = "rsync"
MAX_FILES = 10_000_000
MAX_SIZE_BYTES = 64 * KIB**3
MAX_WORKERS = 64
MAX_CHANGES = 100_000


@dataclass(frozen=True)
class SyncOptions:
    """What to measure. Raises UsageError when a value is out of its range."""

    works: tuple[str, ...] = DEFAULT_WORKS
    """Names of works, or ``all``."""
    files: int | None = None
    """Files of the tree; None: as the work says, and so with the next three."""
    size_bytes: int | None = None
    """Length of each file."""
    workers: int | None = None
    """Workers that have a copy, and rsync's targets."""
    change: float | None = None
    """Share of the files, or of a file's pages, that changes."""
    compare: tuple[str, ...] = ()
    """Other contenders: rsync."""
    rounds: int = 3
    changes: int = 200
    """How many changes the work ``one`` makes."""
    duration_s: float = 60.0
    """How long the work ``idle`` watches."""
    directory: Path | None = None
    """Where the files are; None: /dev/shm where that is a tmpfs with room, else the directory for temporary files."""

    def __post_init__(self) -> None:
        _in_range("files", self.files, 1, MAX_FILES)
        _in_range("size", self.size_bytes, 0, MAX_SIZE_BYTES)
        _in_range("workers", self.workers, 1, MAX_WORKERS)
        _in_range("change", self.change, 0.0, 1.0)
        _in_range("rounds", self.rounds, 1, 100)
        _in_range("changes", self.changes, 1, MAX_CHANGES)
        _in_range("duration", self.duration_s, 0.1, 3600)
        names = (*WORKS, ALL)
        for name in self.works:
            if name not in names or self.works.count(name) > 1:
                raise UsageError(f"cannot measure the work {name!r}", hint=f"--work takes, once each, {', '.join(names)}")
        if not self.works:
            raise UsageError("there is no work to measure", hint=f"--work takes {', '.join(names)}")
        if self.compare not in ((), (RSYNC,)):
            raise UsageError(f"cannot compare with {','.join(self.compare)!r}", hint="--compare takes rsync")

    def chosen(self) -> list[Work]:
        """The works to measure, each with the load that these options make of it."""
        names = tuple(WORKS) if ALL in self.works else self.works
        asked = {"files": self.files, "size_bytes": self.size_bytes, "workers": self.workers, "change": self.change}
        given = {name: value for name, value in asked.items() if value is not None}
        return [WORKS[name].with_load(replace(WORKS[name].load, **given)) for name in names]  # type: ignore[arg-type]


def _in_range(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise UsageError(f"--{name} is from {least:g} to {most:g}, not {value:g}", hint=f"give --{name} within that range")


def run_sync(options: SyncOptions, say: Say) -> SyncResult:
    """Measures as ``options`` say. Blocks, for minutes with all works.

    Args:
        options: what to measure.
        say: is told what goes on.

    Raises:
        UsageError: a contender is not installed, or there is not enough room.
        ZClusterError: a process of the bench does not start or ends early, or a copy is not what was copied.
    """
    works = options.chosen()
    if options.compare:
        rsync.check_installed({way for work in works for way in work.ways})
    temporary = Path(tempfile.gettempdir())
    place = trees.find_place(options.directory, max(_footprint_bytes(work.load) for work in works), temporary)
    return run_cleanly(_run(options, works, place, say))


def _footprint_bytes(load: Load) -> int:
    """What a work may have on the disk at once: the source, a prepared copy of it, the master's kept versions, and each
    copy with its next version."""
    return trees.footprint_bytes(load.files, load.size_bytes, 3 + 2 * load.workers)


async def _run(options: SyncOptions, works: Sequence[Work], place: trees.Place, say: Say) -> SyncResult:
    machine = describe_machine(place.path)
    say(f"the files are in {place.path} ({place.file_system or 'unknown file system'})")
    results: list[WorkResult] = []
    for work in works:
        say(f"{work.name}: {work.load.text()}")
        with tempfile.TemporaryDirectory(prefix="zcluster-bench-", dir=place.path) as directory:
            bench = Bench(
                work,
                Path(directory),
                ways=work.ways if options.compare else (),
                rounds=options.rounds,
                changes=options.changes,
                duration_s=options.duration_s,
                in_memory=place.file_system in trees.MEMORY_FILE_SYSTEMS,
                say=say,
            )
            results.append(await work.run(bench))
    about = f"trees of files on {place.file_system or 'an unknown file system'}, {options.rounds} round(s); medians"
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    return SyncResult(about, machine, tuple(results), plain | {"works": [work.name for work in works]})
