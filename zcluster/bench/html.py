"""Results as one HTML file: figures, ratios and charts, readable for years without a network.

Rules kept here:
- the file has everything in it: no script, no link to elsewhere;
- every text from a result is escaped;
- the page shows the figures of the table; charts only add to them.
"""

from __future__ import annotations

from html import escape

from zcluster.bench.charts import bar_chart, latency_chart
from zcluster.bench.dapi import ROLES, DapiResult
from zcluster.bench.figures import Rows, SpecialResult, bar_text
from zcluster.bench.machine import Machine
from zcluster.bench.queuereport import queue_figure_rows, queue_lines, queue_rows
from zcluster.bench.queueresult import QueueResult
from zcluster.bench.report import (
    WHAT,
    Result,
    dapi_rows,
    describe_load,
    ratio_rows,
    special_rows,
)
from zcluster.bench.syncreport import sync_figure_rows, sync_rows
from zcluster.bench.syncresult import SyncResult

_STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1d2129;--soft:#667085;--rule:#e4e7ec;--good:#1a7f4b;--bad:#b42318;
--s0:#2563a8;--s1:#d9822b;--s2:#5f9e6e}
@media (prefers-color-scheme:dark){:root{--bg:#14171c;--card:#1c2027;--ink:#e6e9ef;--soft:#98a2b3;--rule:#2d333d;--good:#4cc38a;
--bad:#f97066;--s0:#6aa5e8;--s1:#f0a55b;--s2:#8cc79a}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:860px;margin:0 auto;padding:32px 20px 48px}h1{font-size:26px;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:16px;margin:0 0 10px}p{margin:0;color:var(--soft)}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:18px 20px;margin-top:18px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(122px,1fr));gap:12px;margin-top:22px}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:21px;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}tr:last-child td{border-bottom:0}
th{color:var(--soft);font-weight:600;font-size:13px}.met{color:var(--good)}.missed{color:var(--bad);font-weight:650}
svg{width:100%;height:auto;display:block}.grid{stroke:var(--rule)}.tick,.axis{fill:var(--soft);font-size:12px}
.value{fill:var(--ink);font-size:11px}.line{stroke-width:2;fill-opacity:.14}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 8px;color:var(--soft);font-size:13px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
""" + "".join(
    f".bar.s{n},.legend .s{n}{{fill:var(--s{n});background:var(--s{n})}}.line.s{n}{{stroke:var(--s{n});fill:var(--s{n})}}\n"
    for n in range(3)
)


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
    title = f"zcluster bench {name}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main><h1>{escape(title)}</h1>\n"
        f"{body}{_machine(result.machine)}</main></body></html>\n"
    )


def _dapi(result: DapiResult) -> str:
    mine = result.contenders[0]
    tiles = [
        ("requests/s", f"{mine.rate:,.0f}"),
        ("p50", f"{mine.percentile_s(50) * 1e3:,.2f} ms"),
        ("p99", f"{mine.percentile_s(99) * 1e3:,.2f} ms"),
        ("errors", f"{sum(mine.errors.values()):,}"),
    ]
    ratios = [(f"against {r.against}", f"{r.value:.2f} ×") for r in result.ratios if r.figure == "requests_per_s"]
    legend = _legend([c.name for c in result.contenders])
    rounds = [f"round {n + 1}" for n in range(result.options.rounds)]
    throughput = bar_chart(rounds, {c.name: [r.rate for r in c.rounds] for c in result.contenders}, "requests/s")
    cpu = bar_chart(ROLES, {c.name: [c.cpu_us(role) for role in ROLES] for c in result.contenders}, "CPU µs a request")
    parts = [
        f"<p>{escape(describe_load(result.options))}</p>",
        _tiles([*tiles[:1], *ratios, *tiles[1:]]),
        _section("Figures", _table(dapi_rows(result))),
    ]
    if len(result.contenders) > 1:
        parts.append(_section("Ratios of medians", _table(ratio_rows(result))))
    parts.append(_section("Latency", legend + latency_chart({c.name: c.histogram for c in result.contenders})))
    parts.append(_section("Throughput, round by round", legend + throughput))
    if cpu:
        parts.append(_section("CPU time a request, by role", legend + cpu))
    return "".join(parts)


def _special(result: SpecialResult) -> str:
    tiles = [
        (figure.name if figure.bar is None else f"{figure.name}, {bar_text(figure)}", f"{figure.value:,.4g} {figure.unit}")
        for figure in result.figures
    ]
    return f"<p>{escape(result.about)}</p>" + _tiles(tiles) + _section("Figures", _table(special_rows(result)))


def _sync(result: SyncResult) -> str:
    parts = [f"<p>{escape(result.about)}</p>"]
    if any(work.contenders for work in result.works):
        parts.append(_section("Copies", _table(sync_rows(result))))
    parts.append(_section("Figures", _table(sync_figure_rows(result))))
    parts.append(_section("Works", _table([("", ""), *((work.name, work.about) for work in result.works)])))
    return "".join(parts)


def _queue(result: QueueResult) -> str:
    parts = [f"<p>{escape(result.about)}</p>"]
    parts += [_section(work.about, _table(queue_rows(work))) for work in result.works if work.contenders]
    parts.append(_section("Figures", _table(queue_figure_rows(result))))
    parts.append(_section("What they are", "".join(f"<p>{escape(line)}</p>" for line in queue_lines(result))))
    return "".join(parts)


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n"


def _tiles(tiles: list[tuple[str, str]]) -> str:
    cells = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in tiles)
    return f'<div class="tiles">{cells}</div>\n'


def _table(rows: Rows) -> str:
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in body:
        cells = []
        for cell in row:
            mark = {"met": ' class="met"', "NOT MET": ' class="missed"'}.get(cell, "")
            cells.append(f"<td{mark}>{escape(cell)}</td>")
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _legend(names: list[str]) -> str:
    if len(names) < 2:
        return ""
    items = (f'<span><i class="s{n}"></i>{escape(WHAT.get(name, name))}</span>' for n, name in enumerate(names))
    return f'<div class="legend">{"".join(items)}</div>'


def _machine(machine: Machine) -> str:
    rows: Rows = [
        ("", ""),
        ("CPU", f"{machine.cpu}, {machine.cores} cores"),
        ("memory", f"{machine.memory_bytes / 1024**3:.1f} GiB"),
        ("kernel", machine.kernel),
        ("Python", machine.python),
        ("pyzmq, libzmq", f"{machine.pyzmq}, {machine.libzmq}"),
        ("load average before", f"{machine.load_1m:g}"),
    ]
    return _section("Machine", _table(rows))
