"""Results as one HTML file: figures, ratios and charts, readable for years without a network.

Rules kept here:
- the page shows the figures of the table; charts only add to them, and each number of a chart stands in a table too;
- a bench's page has what the bench has measured: sections without figures are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

from zcluster.bench.bars import bar_chart, figure_chart
from zcluster.bench.charts import MARKED, Text, duration_text, latency_chart, line_chart, short_number
from zcluster.bench.dapi import ROLES, Contender, DapiResult
from zcluster.bench.figures import Figure, Rows, SpecialResult, bar_text, number_text
from zcluster.bench.htmlparts import bin_table, folded, legend, options_table, section, shell, table, tiles
from zcluster.bench.queuereport import queue_figure_rows, queue_lines, queue_rows
from zcluster.bench.queueresult import QueueContender, QueueResult, QueueWork
from zcluster.bench.report import (
    WHAT,
    Result,
    dapi_rows,
    describe_load,
    options_dict,
    ratio_rows,
    special_rows,
)
from zcluster.bench.stats import Histogram
from zcluster.bench.sweep import Point, job_points, point_rows, request_points
from zcluster.bench.syncreport import sync_figure_rows, sync_rows
from zcluster.bench.syncresult import ROLES as SYNC_ROLES
from zcluster.bench.syncresult import SyncResult, WorkResult

MAX_TILES = 8
MB = 1e6


def page(result: Result) -> str:
    """The whole file."""
    if isinstance(result, SyncResult):
        name, body = "sync", _sync(result)
    elif isinstance(result, QueueResult):
        name, body = "queue", _queue(result)
    elif isinstance(result, DapiResult):
        name, body = "dapi", _dapi(result)
    else:
        name, body = result.name, _special(result)
    return shell(f"zcluster bench {name}", body, result.machine)


# -- what several benches have


def _per_s(value: float) -> str:
    return f"{short_number(value)}/s"


def _us(value: float) -> str:
    return f"{value:,.1f} µs"


def _mb(value: float) -> str:
    return f"{value:,.3g} MB"


def _latencies(histograms: Mapping[str, Histogram], what: Mapping[str, str], caption: str) -> str:
    chart = latency_chart(histograms)
    if not chart:
        return ""
    rows: Rows = [("", *histograms)]
    for percent in (*MARKED, 100.0):
        cells = (duration_text(each.percentile_s(percent)) if each.count else "-" for each in histograms.values())
        rows.append(("greatest" if percent == 100 else f"p{percent:g}", *cells))
    rows.append(("answers", *(f"{each.count:,}" for each in histograms.values())))
    more = folded("All the chart's numbers", bin_table(histograms))
    return legend(list(histograms), what) + chart + table(rows, caption) + more


def _sweep(points: Sequence[Point], unit: str, what: Mapping[str, str]) -> str:
    if not points:
        return ""
    names = list(dict.fromkeys(point.name for point in points))
    places = list(dict.fromkeys(point.in_flight for point in points))
    rates = {name: [point.per_s for point in points if point.name == name] for name in names}
    p99s = {name: [point.p99_s or 0.0 for point in points if point.name == name] for name in names}
    axis = f"{unit} in flight (logarithmic)"
    return "".join((
        legend(names, what),
        line_chart(places, rates, axis, f"{unit} a second against {unit} in flight", _per_s, log=True),
        "<h3>Its latency, p99</h3>",
        line_chart(places, p99s, axis, f"p99 against {unit} in flight", duration_text, log=True),
        table(point_rows(points, unit), "Medians over the rounds"),
    ))  # fmt: skip


def _rounds(rates: Mapping[str, Sequence[float]], unit: str, what: Mapping[str, str]) -> str:
    count = max((len(row) for row in rates.values()), default=0)
    numbers = list(range(1, count + 1))
    chart = line_chart(numbers, rates, "round", f"{unit} a second, round by round", _per_s)
    rows: Rows = [("round", *rates)]
    rows += [(str(number), *(f"{row[number - 1]:,.0f}" for row in rates.values())) for number in numbers]
    return legend(list(rates), what) + chart + table(rows, f"{unit[0].upper()}{unit[1:]}/s in each round") if chart else ""


def _bars(
    groups: Sequence[str], series: Mapping[str, Sequence[float | None]], what: Mapping[str, str], caption: str, text: Text
) -> str:
    chart = bar_chart(groups, series, caption, text)
    if not chart:
        return ""
    rows: Rows = [("", *series)]
    for place, group in enumerate(groups):
        values = [row[place] for row in series.values()]
        rows.append((group, *("-" if value is None else text(value) for value in values)))
    return legend(list(series), what) + chart + table(rows, caption)


def _cpu(contenders: Sequence[Contender] | Sequence[QueueContender], what: Mapping[str, str]) -> str:
    series = {each.name: [each.cpu_us(role) for role in ROLES] for each in contenders}
    return _bars(ROLES, series, what, "CPU time of all processes of a role", _us)


def _errors(contenders: Sequence[Contender] | Sequence[QueueContender], unit: str) -> str:
    rows: Rows = [("", "error", unit)]
    rows += [(each.name, code, f"{count:,}") for each in contenders for code, count in sorted(each.errors.items())]
    return table(rows, "What failed") if len(rows) > 1 else f"<p>No failed {escape(unit)}.</p>"


# -- the benches


def _dapi(result: DapiResult) -> str:
    each, mine = result.contenders, result.contenders[0]
    first = [
        ("requests/s", f"{mine.rate:,.0f}"),
        *((f"× {r.against}, requests/s", f"{r.value:.2f}") for r in result.ratios if r.figure == "requests_per_s"),
        ("p50", duration_text(mine.percentile_s(50))),
        ("p99", duration_text(mine.percentile_s(99))),
        ("errors", f"{sum(mine.errors.values()):,}"),
    ]
    ratios = ratio_rows(result)
    parts = [
        f"<p>{escape(describe_load(result.options))}</p>",
        tiles(first),
        section("Figures", table(dapi_rows(result), "Medians over the rounds")),
        section("Ratios", table(ratios, "zcluster's median divided by the other's, of the same run") if ratios else ""),
        section("Latency", _latencies({c.name: c.histogram for c in each}, WHAT, "All rounds together")),
        section("Throughput against requests in flight", _sweep(request_points(result.sweep), "requests", WHAT)),
        section("CPU time a request, by role", _cpu(each, WHAT)),
        section("Throughput, round by round", _rounds({c.name: [r.rate for r in c.rounds] for c in each}, "requests", WHAT)),
        section("Errors", _errors(each, "requests")),
        section("Options", options_table(options_dict(result.options))),
    ]
    return "".join(parts)


def _figure_tiles(figures: Sequence[Figure]) -> str:
    chosen = [figure for figure in figures if figure.bar is not None] or figures
    shown = []
    for figure in chosen[:MAX_TILES]:
        wanted = "" if figure.bar is None else f", {bar_text(figure).strip()}"
        shown.append((figure.name + wanted, f"{number_text(figure.value, 3)} {figure.unit}".strip()))
    return tiles(shown)


def _special(result: SpecialResult) -> str:
    return "".join((
        f"<p>{escape(result.about)}</p>",
        _figure_tiles(result.figures),
        section("What is to be reached", figure_chart(result.figures)),
        section("Figures", table(special_rows(result), "Medians over the rounds")),
        section("Options", options_table(result.options)),
    ))  # fmt: skip


def _sync(result: SyncResult) -> str:
    copies = [work for work in result.works if work.contenders]
    names = list(dict.fromkeys(each.name for work in copies for each in work.contenders))
    figures = _named(result.works)
    parts = [f"<p>{escape(result.about)}</p>", _figure_tiles(figures)]
    if copies:
        groups = [work.name for work in copies]
        seconds = {name: [_found(work, name, "seconds", 1.0) for work in copies] for name in names}
        wire = {name: [_found(work, name, "wire_bytes", MB) for work in copies] for name in names}
        pairs = [(work, role) for work in copies for role in SYNC_ROLES]
        roles = [f"{work.name}: {role}" for work, role in pairs]
        cpu = {name: [_role_cpu(work, name, role) for work, role in pairs] for name in names}
        parts += [
            section("Copies", table(sync_rows(result), "Medians over the rounds")),
            section("Time of a copy", _bars(groups, seconds, {}, "Until the last target has it", duration_text)),
            section("On the wire", _bars(groups, wire, {}, "Both ways, all targets together", _mb)),
            section("CPU time, by role", _bars(roles, cpu, {}, "CPU time of all processes of a role", duration_text)),
        ]
    parts += [
        section("What is to be reached", figure_chart(figures)),
        section("Figures", table(sync_figure_rows(result), "Medians over the rounds, and what is to be reached")),
        section("Works", table([("work", "what it is"), *((w.name, w.about) for w in result.works)], "What is done", words=True)),
        section("Options", options_table(result.options)),
    ]
    return "".join(parts)


def _named(works: Sequence[WorkResult] | Sequence[QueueWork]) -> list[Figure]:
    """The figures of all works, each with its work's name."""
    return [replace(figure, name=f"{work.name}: {figure.name}") for work in works for figure in work.figures]


def _found(work: WorkResult, name: str, figure: str, unit: float) -> float | None:
    contender = work.contender(name)
    value = None if contender is None else getattr(contender, figure)
    return None if value is None else value / unit


def _role_cpu(work: WorkResult, name: str, role: str) -> float | None:
    contender = work.contender(name)
    return None if contender is None else contender.cpu_s(role)


def _queue(result: QueueResult) -> str:
    figures = _named(result.works)
    parts = [f"<p>{escape(result.about)}</p>", _figure_tiles(figures)]
    parts += [_work(work) for work in result.works if work.contenders]
    parts += [
        section("What is to be reached", figure_chart(figures)),
        section("Figures", table(queue_figure_rows(result), "Ratios and other figures, and what is to be reached")),
        section("What they are", "".join(f"<p>{escape(line)}</p>" for line in queue_lines(result))),
        section("Options", options_table(result.options)),
    ]
    return "".join(parts)


def _work(work: QueueWork) -> str:
    each = work.contenders
    rates = {c.name: [r.done_per_s for r in c.rounds] for c in each}
    parts = [
        section(work.about, table(queue_rows(work), "Medians over the rounds")),
        section(f"{work.name}: latency until a job is accepted", _latencies(_merged(each, "accept"), {}, "All rounds together")),
        section(f"{work.name}: latency until a job is done", _latencies(_merged(each, "done"), {}, "All rounds together")),
        section(f"{work.name}: throughput against jobs in flight", _sweep(job_points(work.sweep), "jobs", {})),
        section(f"{work.name}: CPU time a job, by role", _cpu(each, {})),
        section(f"{work.name}: throughput, round by round", _rounds(rates, "jobs", {})),
        section(f"{work.name}: errors", _errors(each, "jobs")),
    ]
    return "".join(parts)


def _merged(contenders: Sequence[QueueContender], of: str) -> dict[str, Histogram]:
    found: dict[str, Histogram] = {}
    for each in contenders:
        found[each.name] = Histogram()
        for one in each.rounds:
            found[each.name].merge(getattr(one, of))
    return found
