"""The works of the bench of file sync: what each does, its load, and its bars.

Rules kept here:
- a work takes a :class:`Bench` and returns a :class:`WorkResult`; it leaves no process;
- a run starts when the change is renamed into the tree, and everything before that was prepared;
- a bar against ``rsync --fsync`` holds on a disk only: a tmpfs has nothing to sync.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from zcluster.bench.figures import MIB, Figure, Say
from zcluster.bench.machine import KIB, cpu_seconds
from zcluster.bench.rsync import FSYNC, PLAIN, TLS, Rsync
from zcluster.bench.stats import Histogram, median
from zcluster.bench.synced import TREE, Synced
from zcluster.bench.syncresult import MASTER, ROLES, WORKER, ZCLUSTER, Contender, Run, WorkResult
from zcluster.bench.trees import Changes, SourceTree, check_same
from zcluster.clients import AsyncClient
from zcluster.errors import TimedOut

INSERT_BYTES = MIB
SETTLE_S = 5.0
BASELINE_S = 5.0
LEAST_GAP_S, MOST_GAP_S = 0.02, 0.05
"""Between two changes of ``one``, at random: they are single changes, no burst, and in step with no clock."""
ONE_POLL_S = 0.001
PASS_S = 600.0
PASS_POLL_S = 0.05
ECHO_PAUSE_S = 0.002
RSYNC_ONES = 5


@dataclass(frozen=True)
class Load:
    """How much a work has to do."""

    files: int
    size_bytes: int
    workers: int = 1
    change: float = 0.01
    """Share of the files, or of a file's pages, that changes; only some works change any."""

    def text(self) -> str:
        """The load in words."""
        size = f"{self.size_bytes / KIB**3:g} GiB" if self.size_bytes >= KIB**3 else f"{self.size_bytes:,} B"
        plural = "s" if self.files > 1 else ""
        return f"{self.files:,} file{plural} of {size}, {self.workers} worker{'s' if self.workers > 1 else ''}"


@dataclass(frozen=True)
class Bar:
    """What a ratio, or another figure, has to reach."""

    figure: str
    """``time``, ``bytes`` (both against ``way``), or a figure's name."""
    most: float
    way: str = ""


@dataclass(frozen=True)
class Work:
    """One row of what file sync promises."""

    name: str
    about: str
    run: Callable[[Bench], Awaitable[WorkResult]]
    load: Load
    ways: tuple[str, ...] = ()
    """The ways of rsync that it is compared with."""
    bars: tuple[Bar, ...] = ()

    def with_load(self, load: Load) -> Work:
        """This work with another load, for which there is no bar, unless it is that of a work of the same kind."""
        if load == self.load:
            return self
        same = [work for work in WORKS.values() if work.run is self.run and work.load == load and work.about == self.about]
        return same[0] if same else replace(self, load=load, bars=())

    def bar(self, figure: str, way: str = "") -> float | None:
        """The bar of a figure; None when there is none."""
        return next((bar.most for bar in self.bars if (bar.figure, bar.way) == (figure, way)), None)


@dataclass(frozen=True)
class Bench:
    """What a work is given to be measured."""

    work: Work
    directory: Path
    """A directory of its own."""
    ways: tuple[str, ...]
    rounds: int
    changes: int
    duration_s: float
    in_memory: bool
    say: Say

    def source(self) -> SourceTree:
        """A new tree of the work's load, its files not yet shown."""
        load = self.work.load
        source = SourceTree(self.directory / "source", self.directory / "beside", load.files, load.size_bytes)
        source.prepare()
        return source

    async def rivals(self, stack: AsyncExitStack) -> list[Rsync]:
        """rsync in each way that is asked for, with empty targets."""
        found = []
        for number, way in enumerate(self.ways):
            rival = Rsync(self.directory / f"rsync-{number}", way, self.work.load.workers)
            found.append(await stack.enter_async_context(rival))
        return found

    def result(self, runs: dict[str, list[Run]], more: tuple[Figure, ...] = ()) -> WorkResult:
        """The result of these runs by contender, zcluster's first: the ratios that they make, and other figures."""
        contenders = tuple(Contender(name, tuple(each)) for name, each in runs.items())
        figures = list(more)
        if contenders:
            figures = [*self._ratios(contenders[0], contenders[1:]), *figures]
            peak = contenders[0].peak_process_bytes
            if peak is not None:
                figures.append(Figure("greatest memory of a process", peak / MIB, "MiB", self.work.bar("memory")))
        return WorkResult(self.work.name, f"{self.work.about}: {self.work.load.text()}", contenders, tuple(figures))

    def _ratios(self, mine: Contender, others: tuple[Contender, ...]) -> list[Figure]:
        found = []
        for other in others:
            bar = None if other.name == FSYNC and self.in_memory else self.work.bar("time", other.name)
            found.append(Figure(f"time against {other.name}", mine.seconds / other.seconds, "x", bar))
            if mine.wire_bytes is not None and other.wire_bytes:
                bar = self.work.bar("bytes", other.name)
                found.append(Figure(f"bytes against {other.name}", mine.wire_bytes / other.wire_bytes, "x", bar))
        return found

    def told(self, number: int, name: str, run: Run) -> Run:
        """Says what a run took."""
        self.say(f"round {number + 1} of {self.rounds}: {name} {run.seconds:.3f} s")
        return run


async def _copy(bench: Bench) -> WorkResult:
    """All files to empty targets, each round."""
    source = await asyncio.to_thread(bench.source)
    runs: dict[str, list[Run]] = {name: [] for name in (ZCLUSTER, *bench.ways)}
    async with AsyncExitStack() as stack:
        rivals = await bench.rivals(stack)
        for number in range(bench.rounds):
            async with Synced(bench.directory, source, bench.work.load.workers) as synced:
                run = await synced.measure(source.show, source.sample())
                await asyncio.to_thread(check_same, source.data, synced.copies)
            runs[ZCLUSTER].append(bench.told(number, ZCLUSTER, run))
            for rival in rivals:
                run = await rival.push(source.data)
                await asyncio.to_thread(check_same, source.data, rival.copies)
                await rival.clear()
                runs[rival.name].append(bench.told(number, rival.name, run))
            source.hide()
    return bench.result(runs)


async def _update(bench: Bench, prepare: Callable[[SourceTree], Changes]) -> WorkResult:
    """A change of files that all targets already have, another one each round."""
    source = await asyncio.to_thread(bench.source)
    source.show()
    runs: dict[str, list[Run]] = {name: [] for name in (ZCLUSTER, *bench.ways)}
    async with AsyncExitStack() as stack:
        rivals = await bench.rivals(stack)
        for rival in rivals:
            await rival.push(source.data)
        synced = await stack.enter_async_context(Synced(bench.directory, source, bench.work.load.workers))
        for number in range(bench.rounds):
            changes = await asyncio.to_thread(prepare, source)

            def apply(changes: Changes = changes) -> None:
                source.apply(changes)

            run = await synced.measure(apply, changes)
            await asyncio.to_thread(check_same, source.data, synced.copies)
            runs[ZCLUSTER].append(bench.told(number, ZCLUSTER, run))
            for rival in rivals:
                run = await rival.push(source.data)
                await asyncio.to_thread(check_same, source.data, rival.copies)
                runs[rival.name].append(bench.told(number, rival.name, run))
    return bench.result(runs)


async def _pages(bench: Bench) -> WorkResult:
    return await _update(bench, lambda source: source.prepare_pages(bench.work.load.change))


async def _insert(bench: Bench) -> WorkResult:
    return await _update(bench, lambda source: source.prepare_insert(INSERT_BYTES))


async def _changed(bench: Bench) -> WorkResult:
    count = max(1, int(bench.work.load.files * bench.work.load.change))
    return await _update(bench, lambda source: source.prepare_changes(count))


async def _one(bench: Bench) -> WorkResult:
    """Single changes: from the rename until the worker has it durable, and until the master says so."""
    source = await asyncio.to_thread(bench.source)
    source.show()
    gaps = random.Random(4711)
    applied, told = Histogram(), Histogram()
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        rivals = await bench.rivals(stack)
        for rival in rivals:
            await rival.push(source.data)
        synced = await stack.enter_async_context(Synced(bench.directory, source, bench.work.load.workers))
        cpu_before = {role: cpu_seconds(synced.pids(role)) for role in ROLES}
        for _ in range(bench.changes):
            await asyncio.sleep(gaps.uniform(LEAST_GAP_S, MOST_GAP_S))
            changes = source.prepare_changes(1)
            version = int((await synced.tree())["version"])
            began_s = time.time()  # the clock of applied_at_s: a worker of this machine has the same
            source.apply(changes)
            await asyncio.sleep(ONE_POLL_S)
            rows = await synced.arrived(version, changes)
            told.record_s(time.time() - began_s)
            applied.record_s(max(row["applied_at_s"] for row in rows) - began_s)
        for role in ROLES:
            used_s = cpu_seconds(synced.pids(role)) - cpu_before[role]
            figures.append(Figure(f"CPU of a change, {role}, with the bench's questions", used_s / bench.changes * 1e3, "ms"))
        await asyncio.to_thread(check_same, source.data, synced.copies)
        for rival in rivals:
            seconds = []
            for _ in range(RSYNC_ONES):
                source.apply(source.prepare_changes(1))
                seconds.append((await rival.push(source.data)).seconds)
            await asyncio.to_thread(check_same, source.data, rival.copies)
            figures.append(Figure(f"{rival.name}, median of {RSYNC_ONES}", median(seconds) * 1e3, "ms"))
    bars = {percent: bench.work.bar(f"p{percent}") for percent in (50, 99)}
    found = [Figure(f"durable, p{p}", applied.percentile_s(p) * 1e3, "ms", bars[p]) for p in bars]
    found += [Figure(f"known at the master, p{p}", told.percentile_s(p) * 1e3, "ms") for p in bars]
    return bench.result({}, (*found, *figures))


async def _idle(bench: Bench) -> WorkResult:
    """Nothing changes: what that costs."""
    source = await asyncio.to_thread(bench.source)
    source.show()
    async with Synced(bench.directory, source, bench.work.load.workers) as synced:
        await asyncio.to_thread(check_same, source.data, synced.copies)
        await asyncio.sleep(SETTLE_S)
        bench.say(f"all have it; watching for {bench.duration_s:g} s")
        began_s, wire_before = time.monotonic(), synced.wire_bytes()
        cpu_before = {role: cpu_seconds(synced.pids(role)) for role in ROLES}
        await asyncio.sleep(bench.duration_s)
        seconds = time.monotonic() - began_s
        wire_after = synced.wire_bytes()
        figures = []
        for role in ROLES:
            percent = 100 * (cpu_seconds(synced.pids(role)) - cpu_before[role]) / seconds
            figures.append(Figure(f"CPU, {role}", percent, "% of a core", bench.work.bar("cpu")))
        if wire_before is not None and wire_after is not None:
            rate = (wire_after - wire_before) / KIB / seconds
            figures.append(Figure("on the wire, both ways", rate, "KiB/s", bench.work.bar("wire")))
        figures += [Figure(f"memory, {role}", synced.memory_bytes(role) / MIB, "MiB") for role in ROLES]
    return bench.result({}, tuple(figures))


async def _million(bench: Bench) -> WorkResult:
    """A very large tree: the master's memory, a full pass over it, and how the bus answers meanwhile."""
    source = await asyncio.to_thread(bench.source)
    source.show()
    before, meanwhile = Histogram(), Histogram()
    passes_s: list[float] = []
    memory = 0
    async with Synced(bench.directory, source, bench.work.load.workers) as synced:
        bench.say("all have it; comparing the copies")
        await asyncio.to_thread(check_same, source.data, synced.copies)
        await asyncio.sleep(SETTLE_S)
        async with _echoing(synced.client, before):
            await asyncio.sleep(BASELINE_S)
        for number in range(bench.rounds):
            async with _echoing(synced.client, meanwhile):
                passes_s.append(await _full_pass(synced))
            memory = max(memory, synced.memory_bytes(MASTER))
            bench.say(f"round {number + 1} of {bench.rounds}: a full pass {passes_s[-1]:.2f} s")
        worker_memory = synced.memory_bytes(WORKER)
    quiet, busy = before.percentile_s(99), meanwhile.percentile_s(99)
    bar = bench.work.bar
    figures = (
        Figure("memory, master", memory / MIB, "MiB", bar("memory")),
        Figure("memory, worker", worker_memory / MIB, "MiB"),
        Figure("a full pass", median(passes_s), "s", bar("pass")),
        Figure("p99 of an echo before", quiet * 1e3, "ms"),
        Figure("p99 of an echo meanwhile", busy * 1e3, "ms"),
        Figure("p99 meanwhile against before", busy / quiet, "x", bar("echo")),
    )
    return bench.result({}, figures)


@asynccontextmanager
async def _echoing(client: AsyncClient, histogram: Histogram) -> AsyncIterator[None]:
    """Echoes by a worker, one after the other, while it is entered; leaving waits for the last one, however late it is."""
    over = False

    async def echo() -> None:
        while not over:
            began_s = time.perf_counter()
            await client.call("echo", {"value": "x"}, target="worker-1")
            histogram.record_s(time.perf_counter() - began_s)
            await asyncio.sleep(ECHO_PAUSE_S)

    echoes = asyncio.create_task(echo())
    try:
        await asyncio.sleep(0)
        yield
    except BaseException:
        echoes.cancel()
        raise
    finally:
        over = True
        await asyncio.wait([echoes])
    echoes.result()


async def _full_pass(synced: Synced) -> float:
    """Asks for a full pass, and returns how long the master says that it took."""
    last = (await synced.tree())["scanned_at_s"]
    await synced.client.call("sync.now", {"tree": TREE}, target=MASTER)
    deadline_s = time.monotonic() + PASS_S
    while time.monotonic() < deadline_s:
        tree = await synced.tree()
        if tree["scanned_at_s"] != last:
            return float(tree["scan_s"])
        await asyncio.sleep(PASS_POLL_S)
    raise TimedOut(f"no full pass ended within {PASS_S:g} s", hint="`zcluster sync status` shows how the tree is")


_COPY = "all files to workers that have none"
_ALL_WORKS = (
    Work(
        "small", _COPY, _copy, Load(10_000, 4 * KIB), (PLAIN, FSYNC, TLS),
        (Bar("time", 1.4, PLAIN), Bar("time", 0.2, FSYNC)),
    ),
    Work("small4", _COPY, _copy, Load(10_000, 4 * KIB, 4), (PLAIN,), (Bar("time", 0.75, PLAIN),)),
    Work("large", _COPY, _copy, Load(1, KIB**3), (PLAIN, TLS), (Bar("time", 1.0, TLS), Bar("memory", 150.0))),
    Work("large4", _COPY, _copy, Load(1, KIB**3, 4), (PLAIN, TLS), (Bar("time", 0.5, TLS),)),
    Work(
        "pages", "a share of the file's pages changed", _pages, Load(1, KIB**3), (PLAIN, TLS),
        (Bar("time", 0.6, PLAIN), Bar("bytes", 0.6, PLAIN)),
    ),
    Work(
        "insert", "1 MiB put into the middle of the file", _insert, Load(1, KIB**3), (PLAIN, TLS),
        (Bar("time", 0.7, PLAIN), Bar("bytes", 1.1, PLAIN)),
    ),
    Work("changed", "a share of the files changed", _changed, Load(10_000, 4 * KIB), (PLAIN, FSYNC), (Bar("time", 0.2, PLAIN),)),
    Work("one", "single files changed", _one, Load(10_000, 4 * KIB), (PLAIN,), (Bar("p50", 8.0), Bar("p99", 40.0))),
    Work("idle", "nothing changes", _idle, Load(100_000, 128), (), (Bar("cpu", 1.0), Bar("wire", 1.0))),
    Work(
        "million", "a very large tree", _million, Load(1_000_000, 16), (),
        (Bar("memory", 400.0), Bar("pass", 6.0), Bar("echo", 3.0)),
    ),
)  # fmt: skip
WORKS = {work.name: work for work in _ALL_WORKS}
"""The works by name, in the order of the promises."""
