"""``zcluster bench dapi``: how many requests a second, how fast, at what cost, and against what.

Rules kept here:
- the contenders take turns, round by round, on the same machine in the same minutes; ratios are of medians of rounds;
- the requests are ``AsyncClient.call`` of the function ``echo``, its answers compared with what was sent;
- a figure that could not be measured (the processes of a cluster that is not ours) is absent, not 0.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from zcluster.bench import nats
from zcluster.bench.child import run_cleanly
from zcluster.bench.cluster import LocalCluster
from zcluster.bench.contenders import CLIENT, MASTER, WORKER, echo_config, nats_contender, raw_contender, zcluster_contender
from zcluster.bench.machine import Machine, describe_machine, peak_memory_bytes
from zcluster.bench.rounds import Load, Round, Watched, run_round
from zcluster.bench.stats import Histogram, median
from zcluster.clients import AsyncClient
from zcluster.config import Home, default_home
from zcluster.errors import UsageError

ZCLUSTER, RAW, NATS = "zcluster", "raw", "nats"
ROLES = (MASTER, WORKER, CLIENT)
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
MAX_IN_FLIGHT = 100_000
MAX_LEVELS = 12
"""Of a sweep."""
MAX_PROCESSES = 64
MAX_SIZE_BYTES = 64 * 1024 * 1024
MAX_RATE = 10_000_000.0
MIN_WARM_UP_S, MAX_WARM_UP_S = 0.1, 0.5
MB = 1e6

Say = Callable[[str], None]
"""Takes lines for the user about what is going on; they are talk, not data."""


@dataclass(frozen=True)
class DapiOptions:
    """What to measure. Raises UsageError when a value is out of its range."""

    size_bytes: int = 100
    """Length of the value that is echoed."""
    in_flight: int = 256
    """Requests under way at once, at each client."""
    clients: int = 1
    """Client processes."""
    workers: int = 1
    """Worker processes of a cluster of our own, and of the other contenders."""
    rate: float = 0.0
    """Requests a second of all clients together, by timetable; 0: as many as the answers allow."""
    duration_s: float = 5.0
    """Measured time of each contender, all its rounds together."""
    compare: tuple[str, ...] = ()
    """Other contenders: raw, nats."""
    rounds: int = 3
    target: str = "any"
    timeout_s: float = 30.0
    home: Path | None = None
    """The home of a running cluster, instead of one of our own."""
    key: Path | None = None
    """A key file for a running cluster, instead of one of our own."""
    master: str = ""
    """The address of a running cluster's master; empty: as the key file says."""
    sweep: tuple[int, ...] = ()
    """Other numbers of requests under way, each measured as well; the figures are those of ``in_flight``."""

    def __post_init__(self) -> None:
        _in_range("size", self.size_bytes, 0, MAX_SIZE_BYTES)
        _in_range("in-flight", self.in_flight, 1, MAX_IN_FLIGHT)
        check_sweep(self.in_flight, self.sweep, MAX_IN_FLIGHT)
        _in_range("clients", self.clients, 1, MAX_PROCESSES)
        _in_range("workers", self.workers, 1, MAX_PROCESSES)
        _in_range("rate", self.rate, 0, MAX_RATE)
        _in_range("duration", self.duration_s, 0.1, 3600)
        _in_range("rounds", self.rounds, 1, 100)
        _in_range("timeout", self.timeout_s, 0.1, 3600)
        if self.sweep and self.rate:
            raise UsageError("a timetable has one --in-flight", hint="leave --rate out, or give --in-flight one number")
        if self.compare and self.rounds < 3:
            raise UsageError(f"a comparison has at least 3 rounds, not {self.rounds}", hint="leave --rounds out")
        for name in self.compare:
            if name not in (RAW, NATS) or self.compare.count(name) > 1:
                raise UsageError(f"cannot compare with {name!r}", hint="--compare takes raw, nats or raw,nats")

    @property
    def levels(self) -> tuple[int, ...]:
        """All numbers of requests under way that are measured, from the least to the greatest."""
        return tuple(sorted((*self.sweep, self.in_flight)))

    @property
    def own_cluster(self) -> bool:
        """Whether the bench starts its own cluster."""
        return self.home is None and self.key is None

    def key_file(self) -> Path:
        """The key file for a running cluster."""
        if self.key is not None:
            return self.key
        return Home.of(self.home or default_home()).admin_key


def check_sweep(in_flight: int, sweep: tuple[int, ...], most: int) -> None:
    """Refuses numbers of a sweep that are out of their range, given twice, or too many; raises UsageError."""
    for each in sweep:
        _in_range("in-flight", each, 1, most)
    given = (*sweep, in_flight)
    if len(set(given)) != len(given):
        raise UsageError("--in-flight has a number twice", hint="give each number once, such as 1,8,64,256")
    if len(given) > MAX_LEVELS:
        raise UsageError(f"--in-flight takes at most {MAX_LEVELS} numbers, not {len(given)}", hint="give fewer numbers")


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UsageError(f"--{name} is from {least:g} to {most:g}, not {value:g}", hint=f"give --{name} within that range")


@dataclass(frozen=True)
class Contender:
    """What was measured of one contender."""

    name: str
    rounds: tuple[Round, ...]
    peak_bytes: dict[str, int]
    """The greatest VmHWM of the processes of each role; a role that was not watched is absent."""
    size_bytes: int

    @property
    def rate(self) -> float:
        """Requests a second: the median of the rounds."""
        return median([r.rate for r in self.rounds])

    @property
    def mb_per_s(self) -> float:
        """Megabytes (10^6) of values a second, counted once, though each goes there and back."""
        return self.rate * self.size_bytes / MB

    @property
    def histogram(self) -> Histogram:
        """The latencies of all rounds."""
        merged = Histogram()
        for each in self.rounds:
            merged.merge(each.histogram)
        return merged

    def percentile_s(self, percent: float) -> float:
        """A latency: the median over the rounds of the rounds' percentile."""
        return median([r.histogram.percentile_s(percent) for r in self.rounds])

    @property
    def max_s(self) -> float:
        """The greatest latency of all rounds."""
        return self.histogram.percentile_s(100)

    @property
    def requests(self) -> int:
        """Good answers of all rounds."""
        return sum(r.requests for r in self.rounds)

    @property
    def unsent(self) -> int:
        """Requests that were due and could not be sent (open loop)."""
        return sum(r.unsent for r in self.rounds)

    @property
    def errors(self) -> dict[str, int]:
        """Failed requests by code."""
        total: dict[str, int] = {}
        for each in self.rounds:
            for code, count in each.errors.items():
                total[code] = total.get(code, 0) + count
        return total

    def cpu_us(self, role: str) -> float | None:
        """CPU microseconds of a role's processes a request, all rounds together; None when not measured."""
        if not self.requests or any(role not in r.cpu_s for r in self.rounds):
            return None
        return sum(r.cpu_s[role] for r in self.rounds) * 1e6 / self.requests


@dataclass(frozen=True)
class Ratio:
    """A figure of zcluster divided by another contender's."""

    figure: str
    against: str
    value: float
    higher_is_better: bool


@dataclass(frozen=True)
class Level:
    """What was measured with one number of requests under way."""

    in_flight: int
    contenders: tuple[Contender, ...]
    """Without their memory, which is of all levels together."""


@dataclass(frozen=True)
class DapiResult:
    """What ``zcluster bench dapi`` has measured."""

    options: DapiOptions
    machine: Machine
    contenders: tuple[Contender, ...]
    """zcluster first."""
    sweep: tuple[Level, ...] = ()
    """All levels, from the least to the greatest; none when there was one only."""

    @property
    def ratios(self) -> list[Ratio]:
        """zcluster against each other contender."""
        mine, *others = self.contenders
        found: list[Ratio] = []
        for other in others:
            pairs: list[tuple[str, float | None, float | None, bool]] = [
                ("requests_per_s", mine.rate, other.rate, True),
                ("mb_per_s", mine.mb_per_s, other.mb_per_s, True),
                ("p50", mine.percentile_s(50), other.percentile_s(50), False),
                ("p99", mine.percentile_s(99), other.percentile_s(99), False),
                *((f"cpu_{role}", mine.cpu_us(role), other.cpu_us(role), False) for role in ROLES),
            ]
            found += [Ratio(name, other.name, a / b, better) for name, a, b, better in pairs if a is not None and b]
        return found


@dataclass
class _Running:
    name: str
    watched: Watched
    rounds: dict[int, list[Round]] = field(default_factory=dict)
    """By the number of requests under way."""


def run_dapi(options: DapiOptions, say: Say) -> DapiResult:
    """Measures as ``options`` say. Blocks for a bit more than the duration of each contender.

    Args:
        options: what to measure.
        say: is told what goes on.

    Raises:
        UsageError: when a contender is not installed.
        ZClusterError: when a process of the bench does not start or ends early.
    """
    if NATS in options.compare:
        nats.server_path()
    return run_cleanly(_run(options, say))


async def _run(options: DapiOptions, say: Say) -> DapiResult:
    machine = describe_machine()
    window_s = options.duration_s / options.rounds
    warm_up_s = min(max(window_s / 4, MIN_WARM_UP_S), MAX_WARM_UP_S)
    async with AsyncExitStack() as stack:
        running = await _start(stack, options, say)
        for number in range(options.rounds):
            for in_flight in options.levels:
                load = Load(in_flight=in_flight, rate=options.rate, window_s=window_s, warm_up_s=warm_up_s)
                for each in running:
                    rounds = each.rounds.setdefault(in_flight, [])
                    rounds.append(await run_round(each.watched, load))
                    level = f", {in_flight} in flight" if options.sweep else ""
                    say(f"round {number + 1} of {options.rounds}{level}: {each.name} {rounds[-1].rate:,.0f} requests/s")
        contenders = tuple(
            Contender(
                each.name,
                tuple(each.rounds[options.in_flight]),
                {role: peak_memory_bytes(pids) for role, pids in each.watched.pids.items() if pids},
                options.size_bytes,
            )
            for each in running
        )
    return DapiResult(options, machine, contenders, _levels(options, running))


def _levels(options: DapiOptions, running: list[_Running]) -> tuple[Level, ...]:
    def at(in_flight: int) -> tuple[Contender, ...]:
        return tuple(Contender(each.name, tuple(each.rounds[in_flight]), {}, options.size_bytes) for each in running)

    return tuple(Level(in_flight, at(in_flight)) for in_flight in options.levels) if options.sweep else ()


async def _start(stack: AsyncExitStack, options: DapiOptions, say: Say) -> list[_Running]:
    logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zcluster-bench-")))
    cluster: LocalCluster | None = None
    if options.own_cluster:
        say(f"starting a master and {options.workers} worker{'s' if options.workers > 1 else ''} on this machine")
        cluster = await stack.enter_async_context(LocalCluster(options.workers, cluster_name="bench"))
        key = cluster.client_key
    else:
        key = options.key_file()
        await _check_running(options, key, say)
    more = {"master": options.master, "open_loop": options.rate > 0}
    config = echo_config(key, options.target, options.size_bytes, options.timeout_s, **more)
    places: dict[str, Path] = {}
    for name in (ZCLUSTER, *options.compare):
        places[name] = logs / name
        places[name].mkdir()
    contender = zcluster_contender(config, options.clients, cluster, places[ZCLUSTER])
    running = [_Running(ZCLUSTER, await stack.enter_async_context(contender))]
    for name in options.compare:
        say(f"starting {name}")
        size, clients, workers = options.size_bytes, options.clients, options.workers
        if name == RAW:
            other = raw_contender(size, clients, workers, places[name])
        else:
            other = nats_contender(size, clients, workers, places[name], open_loop=options.rate > 0)
        running.append(_Running(name, await stack.enter_async_context(other)))
    return running


async def _check_running(options: DapiOptions, key: Path, say: Say) -> None:
    """A running cluster has to answer before anything is started beside it."""
    async with AsyncClient(key=key, master=options.master or None, timeout=options.timeout_s) as client:
        nodes = await client.nodes()
    ready = sum(node["role"] == WORKER and node["state"] == "ready" for node in nodes)
    say(f"the running cluster has {ready} ready worker{'s' if ready != 1 else ''}; its CPU and memory are not measured here")
