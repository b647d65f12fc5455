"""What the bench of file sync has measured, as rows and as plain values.

Rules kept here:
- one row a work: the seconds of each contender, and what zcluster and plain rsync cost;
- both show the same figures; plain values are in base units (seconds, bytes) and unrounded;
- a figure that was not measured is ``-`` in a row and None among the values.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from zcluster.bench.figures import MIB, Rows, figure_cells
from zcluster.bench.syncresult import ROLES, Contender, SyncResult, WorkResult

MB = 1e6


def sync_rows(result: SyncResult) -> Rows:
    """A row for each work that copies.

    Seconds of all contenders; MB on the wire and CPU seconds (master + worker) of zcluster and of rsync in its plain way;
    and zcluster's peak memory in MiB (master + worker).
    """
    works = [work for work in result.works if work.contenders]
    names = list(dict.fromkeys(each.name for work in works for each in work.contenders))
    head = ["", *(f"{name} s" for name in names), *(f"{name} MB" for name in names[:2])]
    head += [*(f"{name} CPU s" for name in names[:2]), f"{names[0]} peak MiB"]
    return [tuple(head), *(_row(work, names) for work in works)]


def _row(work: WorkResult, names: list[str]) -> tuple[str, ...]:
    each = [work.contender(name) for name in names]
    cells = [work.name]
    cells += ["-" if found is None else _number(found.seconds, 3) for found in each]
    cells += ["-" if found is None else _number(_scaled(found.wire_bytes, MB), 2) for found in each[:2]]
    cells += ["-" if found is None else _both([found.cpu_s(role) for role in ROLES], 2) for found in each[:2]]
    mine = each[0]
    cells.append("-" if mine is None else _both([_scaled(mine.peak_bytes(role), MIB) for role in ROLES], 0))
    return tuple(cells)


def sync_figure_rows(result: SyncResult) -> Rows:
    """All figures of all works, with their bars."""
    rows: Rows = [("", "measured", "bar", "")]
    for work in result.works:
        rows += [(f"{work.name}: {figure.name}", *figure_cells(figure)) for figure in work.figures]
    return rows


def sync_to_dict(result: SyncResult) -> dict[str, Any]:
    """The options and the works as plain values."""
    return {"options": result.options, "works": [_work(work) for work in result.works]}


def _work(work: WorkResult) -> dict[str, Any]:
    return {
        "name": work.name,
        "about": work.about,
        "contenders": [_contender(contender) for contender in work.contenders],
        "figures": [asdict(figure) | {"met": figure.met} for figure in work.figures],
    }


def _contender(contender: Contender) -> dict[str, Any]:
    return {
        "name": contender.name,
        "seconds": contender.seconds,
        "wire_bytes": contender.wire_bytes,
        "cpu_s": {role: contender.cpu_s(role) for role in ROLES},
        "peak_memory_bytes": {role: contender.peak_bytes(role) for role in ROLES},
        "peak_process_bytes": contender.peak_process_bytes,
        "rounds": [asdict(run) for run in contender.runs],
    }


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _both(values: list[float | None], digits: int) -> str:
    return " + ".join(_number(value, digits) for value in values)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
