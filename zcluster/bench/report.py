"""Results as text: a table for people, JSON for programs.

Rules kept here:
- both show the same figures; JSON has them in base units (seconds, bytes, requests a second) and unrounded;
- a figure that was not measured is ``-`` in the table and null in JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zcluster.bench.dapi import NATS, PERCENTILES, RAW, ROLES, Contender, DapiOptions, DapiResult
from zcluster.bench.figures import Rows, SpecialResult, figure_cells
from zcluster.bench.machine import Machine
from zcluster.bench.queuereport import queue_figure_rows, queue_lines, queue_rows, queue_to_dict
from zcluster.bench.queueresult import QueueResult
from zcluster.bench.rounds import Round
from zcluster.bench.sweep import job_points, point_rows, request_points
from zcluster.bench.syncreport import sync_figure_rows, sync_rows, sync_to_dict
from zcluster.bench.syncresult import SyncResult
from zcluster.errors import UsageError

SCHEMA = 1
MIB = 1024 * 1024
WHAT = {
    "zcluster": "zcluster, CURVE",
    RAW: "plain pyzmq, CURVE",
    NATS: "nats-server and nats-py, not encrypted",
}
"""What stands behind a contender's name."""
FIGURES = {"requests_per_s": "requests/s", "mb_per_s": "MB/s", "p50": "p50", "p99": "p99"}

Result = DapiResult | QueueResult | SpecialResult | SyncResult


def render(result: Result, output: str = "table") -> str:
    """``result`` as text that ends with a newline.

    Args:
        result: what a bench has measured.
        output: ``table`` or ``json``.
    """
    if output == "json":
        return json.dumps(to_dict(result), indent=2) + "\n"
    if output != "table":
        raise UsageError(f"a bench has no output {output!r}", hint="-o table or -o json")
    if isinstance(result, SyncResult):
        return _sync_table(result)
    if isinstance(result, QueueResult):
        return _queue_table(result)
    return _dapi_table(result) if isinstance(result, DapiResult) else _special_table(result)


def write_report(result: Result, path: Path) -> None:
    """Writes ``result`` as one HTML file that needs no network, or as JSON when that is how the name of ``path`` ends.

    Raises UsageError when it cannot be written.
    """
    from zcluster.bench.html import page  # not needed for the table: the charts are loaded when asked for

    text = render(result, "json") if path.suffix.lower() == ".json" else page(result)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="give --report another place") from error


# -- json


def to_dict(result: Result) -> dict[str, Any]:
    """``result`` as plain values, ``{"schema": 1, ...}``."""
    machine = result.machine._asdict()
    if isinstance(result, SyncResult):
        return {"schema": SCHEMA, "bench": "sync", "about": result.about, **sync_to_dict(result), "machine": machine}
    if isinstance(result, QueueResult):
        return {"schema": SCHEMA, "bench": "queue", "about": result.about, **queue_to_dict(result), "machine": machine}
    if isinstance(result, SpecialResult):
        figures = [asdict(figure) | {"met": figure.met} for figure in result.figures]
        return {"schema": SCHEMA, "bench": result.name, "about": result.about, "options": result.options, "figures": figures,
                "machine": machine}  # fmt: skip
    return {
        "schema": SCHEMA,
        "bench": "dapi",
        "options": options_dict(result.options),
        "contenders": [_contender(contender) for contender in result.contenders],
        "ratios": [asdict(ratio) for ratio in result.ratios],
        "sweep": [{"in_flight": each.in_flight, "contenders": [_contender(c) for c in each.contenders]} for each in result.sweep],
        "machine": machine,
    }


def options_dict(options: DapiOptions) -> dict[str, Any]:
    """What was asked for, as plain values."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    return plain | {"compare": list(options.compare), "sweep": list(options.sweep), "loop": "open" if options.rate else "closed"}


def _contender(contender: Contender) -> dict[str, Any]:
    return {
        "name": contender.name,
        "what": WHAT.get(contender.name, contender.name),
        "requests": contender.requests,
        "requests_per_s": contender.rate,
        "mb_per_s": contender.mb_per_s,
        "latency_s": {f"p{p:g}": contender.percentile_s(p) for p in PERCENTILES} | {"max": contender.max_s},
        "errors": contender.errors,
        "unsent": contender.unsent,
        "cpu_us_per_request": {role: contender.cpu_us(role) for role in ROLES},
        "peak_memory_bytes": {role: contender.peak_bytes.get(role) for role in ROLES},
        "rounds": [_round(each) for each in contender.rounds],
    }


def _round(each: Round) -> dict[str, Any]:
    return {
        "requests": each.requests,
        "seconds": each.seconds,
        "requests_per_s": each.rate,
        "latency_s": {f"p{p:g}": each.histogram.percentile_s(p) for p in PERCENTILES},
        "cpu_s": each.cpu_s,
        "errors": each.errors,
    }


# -- table


def describe_load(options: DapiOptions) -> str:
    """The load in words."""
    loop = f"open loop at {options.rate:,.0f} requests/s, latency from the due time" if options.rate else "closed loop"
    return (
        f"{size_text(options.size_bytes)} echo, {options.in_flight} in flight, {_count(options.clients, 'client')}, "
        f"{_count(options.workers, 'worker') if options.own_cluster else 'a running cluster'}, {loop}, "
        f"{_count(options.rounds, 'round')} of {options.duration_s / options.rounds:.2f} s"
    )


def describe_machine_text(machine: Machine) -> str:
    """The machine in one line."""
    return (
        f"{_count(machine.cores, 'core')}, {machine.cpu}, {machine.memory_bytes / 1024 / MIB:.1f} GiB, {machine.kernel}, "
        f"{machine.python}, pyzmq {machine.pyzmq}, libzmq {machine.libzmq}, load before {machine.load_1m:g}"
    )


def size_text(size_bytes: int) -> str:
    """A size as people say it: 100 B, 1 KiB, 1 MiB."""
    for unit, factor in (("MiB", MIB), ("KiB", 1024)):
        if size_bytes >= factor and size_bytes % factor == 0:
            return f"{size_bytes // factor} {unit}"
    return f"{size_bytes} B"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def dapi_rows(result: DapiResult) -> Rows:
    """The figures of all contenders; the first row has their names."""
    each = result.contenders
    rows: Rows = [("", *(c.name for c in each))]
    rows.append(("requests/s", *(f"{c.rate:,.0f}" for c in each)))
    rows.append(("MB/s", *(f"{c.mb_per_s:,.1f}" for c in each)))
    rows += [(f"p{p:g} ms", *(f"{c.percentile_s(p) * 1e3:,.3f}" for c in each)) for p in PERCENTILES]
    rows.append(("max ms", *(f"{c.max_s * 1e3:,.3f}" for c in each)))
    rows.append(("errors", *(_errors(c) for c in each)))
    if result.options.rate:
        rows.append(("due but not sent", *(f"{c.unsent:,}" for c in each)))
    rows += [(f"CPU µs/request, {role}", *(_or_dash(c.cpu_us(role)) for c in each)) for role in ROLES]
    for role in ROLES:
        peaks = [c.peak_bytes.get(role) for c in each]
        rows.append((f"peak MiB, {role}", *(_or_dash(peak and peak / MIB) for peak in peaks)))
    return rows


def ratio_rows(result: DapiResult) -> Rows:
    """zcluster divided by each other contender; empty when there is none."""
    others = [c.name for c in result.contenders[1:]]
    if not others:
        return []
    values = {(ratio.figure, ratio.against): ratio.value for ratio in result.ratios}
    rows: Rows = [("zcluster against", *others)]
    for figure in dict.fromkeys(ratio.figure for ratio in result.ratios):
        found = [values.get((figure, name)) for name in others]
        label = FIGURES.get(figure, figure.replace("cpu_", "CPU, "))
        rows.append((label, *("-" if value is None else f"{value:.2f} x" for value in found)))
    return rows


def special_rows(result: SpecialResult) -> Rows:
    """The figures with their bars."""
    return [("", "measured", "bar", ""), *((figure.name, *figure_cells(figure)) for figure in result.figures)]


def _errors(contender: Contender) -> str:
    errors = contender.errors
    return ", ".join(f"{count:,} {code}" for code, count in sorted(errors.items())) or "0"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _aligned(rows: Rows) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _dapi_table(result: DapiResult) -> str:
    parts = [f"{describe_load(result.options)}\n", _aligned(dapi_rows(result))]
    if result.sweep:
        parts.append(_aligned(point_rows(request_points(result.sweep), "requests")))
    ratios = ratio_rows(result)
    if ratios:
        parts.append(_aligned(ratios))
        parts.append("".join(f"{c.name}: {WHAT.get(c.name, c.name)}\n" for c in result.contenders))
    parts.append(f"machine: {describe_machine_text(result.machine)}\n")
    return "\n".join(parts)


def _sync_table(result: SyncResult) -> str:
    parts = [result.about + "\n"]
    if any(work.contenders for work in result.works):
        parts.append(_aligned(sync_rows(result)))
    parts.append(_aligned(sync_figure_rows(result)))
    parts.append("".join(f"{work.name}: {work.about}\n" for work in result.works))
    parts.append(f"machine: {describe_machine_text(result.machine)}\n")
    return "\n".join(parts)


def _queue_table(result: QueueResult) -> str:
    parts = [result.about + "\n"]
    for work in result.works:
        parts += [_aligned(queue_rows(work))] if work.contenders else []
        parts += [_aligned(point_rows(job_points(work.sweep), "jobs"))] if work.sweep else []
    parts.append(_aligned(queue_figure_rows(result)))
    parts.append("".join(f"{line}\n" for line in queue_lines(result)))
    parts.append(f"machine: {describe_machine_text(result.machine)}\n")
    return "\n".join(parts)


def _special_table(result: SpecialResult) -> str:
    return f"{result.about}\n\n{_aligned(special_rows(result))}\nmachine: {describe_machine_text(result.machine)}\n"
