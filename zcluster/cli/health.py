"""The health of a cluster, judged: what ``zcluster check`` prints in its four formats.

Rules kept here:
- a measure is a number with two limits; at its limit or above it is a warning, or critical; without a limit it is only told;
- of what could not be asked the state is ``unknown``, and it is never better than a warning for the whole;
- a master that does not answer is critical, in every format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from zcluster.cli.complaints import name_context
from zcluster.cli.output import counted
from zcluster.cli.sync_views import is_behind
from zcluster.errors import EXIT_TIMED_OUT, EXIT_UNREACHABLE, ZClusterError

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

Level = Literal["ok", "warning", "critical", "unknown"]
RANK: Mapping[str, int] = {"ok": 0, "unknown": 1, "warning": 2, "critical": 3}
STATES = ("joining", "ready", "silent", "dead", "left")
DOWN = ("silent", "dead")
AWAY = (EXIT_UNREACHABLE, EXIT_TIMED_OUT)
"""Exit codes of errors that say that no master answers."""
SHOWN = 5
"""Names that a message tells."""


@dataclass(frozen=True)
class Limit:
    """From which value on a measure is a warning, and critical; None: never."""

    warn: float | None = None
    crit: float | None = None

    def level(self, value: float) -> Level:
        """What ``value`` is."""
        if self.crit is not None and value >= self.crit:
            return "critical"
        return "warning" if self.warn is not None and value >= self.warn else "ok"


@dataclass(frozen=True)
class Measure:
    """One thing that was measured and judged."""

    check: str
    state: Level
    message: str
    value: float | None = None
    unit: str = ""
    """``%``, ``s``, ``B``, or empty for a number of things."""
    limit: Limit = Limit()

    def item(self) -> dict[str, Any]:
        """As data."""
        return {
            "check": self.check, "state": self.state, "message": self.message, "value": self.value, "unit": self.unit or None,
            "warn": self.limit.warn, "crit": self.limit.crit,
        }  # fmt: skip


@dataclass(frozen=True)
class Health:
    """What was found."""

    measures: Sequence[Measure]
    error: ZClusterError | None = None
    """Why the master could not be asked."""
    nodes: Sequence[Mapping[str, Any]] = ()
    status: Mapping[str, Any] = field(default_factory=dict)
    queue: Mapping[str, Any] = field(default_factory=dict)
    trees: Sequence[Mapping[str, Any]] = ()

    @property
    def state(self) -> Level:
        """The worst of all."""
        return max((measure.state for measure in self.measures), key=lambda state: RANK[state], default="ok")


@dataclass(frozen=True)
class Limits:
    """Of every measure that has some."""

    nodes_down: Limit = Limit(1)
    dead_jobs: Limit = Limit(1)
    queued_jobs: Limit = Limit()
    sync_behind: Limit = Limit(300.0)
    disk: Limit = Limit(85.0, 95.0)
    memory: Limit = Limit()


async def measured(client: AsyncClient, limits: Limits, now_s: float, context: str = "") -> Health:
    """Ask the master of the cluster that ``context`` names once, and judge. Raises what is no fault of the cluster's: a key file
    that cannot be read, or is refused."""
    try:
        async with client as c:
            return await _measured(c, limits, now_s)
    except ZClusterError as error:
        if error.exit_code not in AWAY:
            raise  # it is this machine's fault, or the key's: nothing is known of the cluster
        name_context(error, context)
        return Health([Measure("master", "critical", str(error))], error)


async def _measured(c: AsyncClient, limits: Limits, now_s: float) -> Health:
    status, nodes = await c.status(), await c.nodes()
    measures = [Measure("master", "ok", f"{status['master']} of {status['cluster']} answers"), *node_measures(nodes, limits)]
    queue: Mapping[str, Any] = {}
    trees: Sequence[Mapping[str, Any]] = ()
    try:
        queue = await c.queue.stats()
        measures += queue_measures(queue, limits)
    except ZClusterError as error:
        measures.append(Measure("queue", "unknown", f"the queue could not be asked: {error.message}"))
    try:
        trees = await c.sync.status()
        measures += tree_measures(trees, limits, now_s)
    except ZClusterError as error:
        measures.append(Measure("sync", "unknown", f"file sync could not be asked: {error.message}"))
    return Health(measures, None, nodes, status, queue, trees)


def node_measures(nodes: Sequence[Mapping[str, Any]], limits: Limits) -> list[Measure]:
    """Nodes that are down, workers that are left, and what the fullest disk is like."""
    down = [row for row in nodes if row["state"] in DOWN]
    workers = [row for row in nodes if row["role"] == "worker" and row["state"] != "left"]
    ready = [row for row in workers if row["state"] == "ready"]
    names = _names(sorted(f"{row['name']} {row['state']}" for row in down))
    count = len(down)
    limit = limits.nodes_down
    found = [Measure("nodes_down", limit.level(count), f"{counted(count, 'node')} down{names}", count, "", limit)]
    said = f"{len(ready)} of {len(workers)} workers are ready"
    found.append(Measure("workers_ready", "critical" if workers and not ready else "ok", said, len(ready)))
    drained = sorted(str(row["name"]) for row in nodes if row.get("drained"))
    if drained:
        found.append(Measure("nodes_drained", "ok", f"{counted(len(drained), 'node')} drained{_names(drained)}", len(drained)))
    for check, of, limit in (("disk", _disk, limits.disk), ("memory", _memory, limits.memory)):
        known = [(value, str(row["name"])) for row in nodes if row["state"] == "ready" and (value := of(row)) is not None]
        if known:
            percent, name = max(known)
            text = f"{check} of {name} is {percent:g} % full"
            found.append(Measure(check, limit.level(percent), text, percent, "%", limit))
    return found


def queue_measures(stats: Mapping[str, Any], limits: Limits) -> list[Measure]:
    """Jobs that wait, dead letters, and whether the queue takes jobs at all."""
    states = stats.get("states", {})
    dead, queued = int(states.get("dead", 0)), int(states.get("queued", 0))
    found = [
        Measure("dead_jobs", limits.dead_jobs.level(dead), counted(dead, "dead letter"), dead, "", limits.dead_jobs),
        Measure("queued_jobs", limits.queued_jobs.level(queued), counted(queued, "waiting job"), queued, "", limits.queued_jobs),
    ]
    if not stats.get("writable", True):
        found.append(Measure("queue", "critical", f"the queue takes no jobs: {stats.get('read_only_reason')}"))
    return found


def tree_measures(rows: Sequence[Mapping[str, Any]], limits: Limits, now_s: float) -> list[Measure]:
    """For how long the one that is furthest behind has been so."""
    if not rows:
        return []
    bad = [row for row in rows if is_behind(row)]
    since = [now_s - row["behind_since_s"] for row in bad if isinstance(row.get("behind_since_s"), int | float)]
    longest_s = round(max([0.0, *since]), 1)
    failed = [row for row in bad if row.get("state") == "failed"]
    level: Level = "warning" if failed else "ok"
    judged = limits.sync_behind.level(longest_s)
    names = _names([f"{row['tree']} on {row['worker']}" for row in bad])
    said = f"{len(bad)} of {len(rows)} copies of trees behind{names}"
    return [Measure("sync_behind", max(level, judged, key=lambda each: RANK[each]), said, longest_s, "s", limits.sync_behind)]


def _disk(row: Mapping[str, Any]) -> float | None:
    disk = (row.get("metrics") or {}).get("disk") or {}
    value = disk.get("percent")
    return float(value) if isinstance(value, int | float) else None


def _memory(row: Mapping[str, Any]) -> float | None:
    value = row.get("memory_percent")
    return float(value) if isinstance(value, int | float) else None


def _names(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f": {', '.join(names[:SHOWN])}{more}"
