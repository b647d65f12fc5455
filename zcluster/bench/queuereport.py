"""What the bench of the queue has measured, as rows and as plain values.

Rules kept here:
- one table a work, a column for each contender;
- both show the same figures; plain values are in base units (seconds, bytes, jobs a second) and unrounded;
- a figure that was not measured is ``-`` in a row and None among the values.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from zcluster.bench.figures import MIB, Rows, figure_cells
from zcluster.bench.queuecontenders import CELERY, REDIS, SQLITE, ZCLUSTER
from zcluster.bench.queueresult import PERCENTILES, ROLES, QueueContender, QueueResult, QueueWork
from zcluster.bench.queuerounds import QueueRound

WHAT = {
    ZCLUSTER: "submit() and result() of one client, a master, a worker; CURVE",
    SQLITE: "one process, one INSERT and one commit (WAL, synchronous=FULL) a job; nothing is sent or run",
    CELERY: "Celery, two workers of two processes (prefork), acks_late; redis-server, appendfsync always; not encrypted",
    REDIS: "XADD, XREADGROUP, XACK by redis-py; redis-server, appendfsync always; not encrypted",
}
"""What stands behind a contender's name."""


def queue_rows(work: QueueWork) -> Rows:
    """The figures of all contenders of a work; the first row has their names."""
    each = work.contenders
    rows: Rows = [(work.name, *(c.name for c in each))]
    rows.append(("accepted jobs/s", *(_number(c.accepted_per_s, 0) for c in each)))
    rows.append(("done jobs/s", *(_number(c.done_per_s, 0) for c in each)))
    rows.append(("commits/s", *(_number(c.commits_per_s, 0) for c in each)))
    rows += [(f"accepted, p{p:g} ms", *(_number(c.accept_s(p), 3, 1e3) for c in each)) for p in PERCENTILES]
    rows += [(f"done, p{p:g} ms", *(_number(c.done_s(p), 3, 1e3) for c in each)) for p in PERCENTILES]
    rows.append(("written bytes/job", *(_number(c.bytes_per_job, 0) for c in each)))
    rows += [(f"CPU µs/job, {role}", *(_number(c.cpu_us(role), 1) for c in each)) for role in ROLES]
    rows += [(f"peak MiB, {role}", *(_number(c.peak_bytes.get(role), 1, 1 / MIB) for c in each)) for role in ROLES]
    rows.append(("errors", *(", ".join(f"{n:,} {code}" for code, n in sorted(c.errors.items())) or "0" for c in each)))
    return rows


def queue_figure_rows(result: QueueResult) -> Rows:
    """All figures of all works, with their bars; no row but the first when there is none."""
    rows: Rows = [("", "measured", "bar", "")]
    for work in result.works:
        rows += [(f"{work.name}: {figure.name}", *figure_cells(figure)) for figure in work.figures]
    return rows


def queue_lines(result: QueueResult) -> list[str]:
    """What the works and the names of the contenders mean, in lines."""
    names = dict.fromkeys(each.name for work in result.works for each in work.contenders)
    return [*(f"{work.name}: {work.about}" for work in result.works), *(f"{name}: {WHAT[name]}" for name in names)]


def queue_to_dict(result: QueueResult) -> dict[str, Any]:
    """The options and the works as plain values."""
    return {"options": result.options, "works": [_work(work) for work in result.works]}


def _work(work: QueueWork) -> dict[str, Any]:
    return {
        "name": work.name,
        "about": work.about,
        "contenders": [_contender(contender) for contender in work.contenders],
        "figures": [asdict(figure) | {"met": figure.met} for figure in work.figures],
        "sweep": [{"in_flight": each.in_flight, "contenders": [_contender(c) for c in each.contenders]} for each in work.sweep],
    }


def _contender(contender: QueueContender) -> dict[str, Any]:
    return {
        "name": contender.name,
        "what": WHAT[contender.name],
        "accepted_per_s": contender.accepted_per_s,
        "done_per_s": contender.done_per_s,
        "commits_per_s": contender.commits_per_s,
        "accept_s": {f"p{p:g}": contender.accept_s(p) for p in PERCENTILES},
        "done_s": {f"p{p:g}": contender.done_s(p) for p in PERCENTILES},
        "written_bytes_per_job": contender.bytes_per_job,
        "cpu_us_per_job": {role: contender.cpu_us(role) for role in ROLES},
        "peak_memory_bytes": {role: contender.peak_bytes.get(role) for role in ROLES},
        "errors": contender.errors,
        "rounds": [_round(each) for each in contender.rounds],
    }


def _round(each: QueueRound) -> dict[str, Any]:
    return {
        "seconds": each.seconds,
        "accepted": each.accept.count,
        "done": each.done.count,
        "commits_per_s": each.commits_per_s,
        "accept_s": {f"p{p:g}": each.accept.percentile_s(p) for p in PERCENTILES},
        "done_s": {f"p{p:g}": each.done.percentile_s(p) for p in PERCENTILES},
        "written_bytes": each.written_bytes,
        "cpu_s": each.cpu_s,
        "errors": each.errors,
    }


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return "-" if value is None else f"{value * factor:,.{digits}f}"
