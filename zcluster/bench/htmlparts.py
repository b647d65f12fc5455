"""What the pages of all benches are made of: style, frame, tiles, tables.

Rules kept here:
- a page has everything in it: no script, no link to elsewhere, and it can be printed;
- every text is escaped here, where it becomes HTML;
- every table has a caption and a head that readers of screens are told of.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape

from zcluster.bench.charts import BINS_PER_DECADE, duration_text, log_bins
from zcluster.bench.figures import Rows
from zcluster.bench.machine import Machine
from zcluster.bench.stats import Histogram

SERIES = 5
"""Contenders that have a colour of their own."""
_STYLE = """
:root{color-scheme:light dark;--bg:#f6f6f4;--card:#fff;--ink:#1d2129;--soft:#566070;--rule:#dfe3e9;--good:#1a7f4b;--bad:#b42318;
--s0:#1f5fa8;--s1:#b85f00;--s2:#2f7d4f;--s3:#8a4fa3;--s4:#6b6b6b}
@media (prefers-color-scheme:dark){:root{--bg:#14171c;--card:#1c2027;--ink:#e6e9ef;--soft:#a5afbe;--rule:#353c47;--good:#4cc38a;
--bad:#ff8a80;--s0:#6aa9f0;--s1:#f2a65a;--s2:#74cf98;--s3:#c99be0;--s4:#b3b3b3}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:840px;margin:0 auto;padding:32px 20px 48px}h1{font-size:26px;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:16px;margin:0 0 10px}h3{font-size:14px;margin:18px 0 6px}p{margin:0 0 4px;color:var(--soft);overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:18px 20px;margin-top:18px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(112px,1fr));gap:12px;margin-top:18px}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 14px;overflow-wrap:anywhere}
.tile b{display:block;font-size:19px;white-space:nowrap;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}svg+.scroll{margin-top:14px}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);font-size:13px;padding-bottom:4px}
th,td{padding:6px 0 6px 16px;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}tr:last-child>*{border-bottom:0}
.words th{text-align:left;padding-right:16px}.words td{white-space:normal;text-align:left;overflow-wrap:anywhere}
thead th{color:var(--soft);font-weight:600;font-size:13px}tbody th{font-weight:400}
.met{color:var(--good)}.missed{color:var(--bad);font-weight:650}
svg{max-width:100%;height:auto;display:block;font-family:inherit}.narrow{display:none}
.grid{stroke:var(--rule)}.mark{stroke:var(--soft)}.tick,.axis{fill:var(--soft);font-size:12px}.value{fill:var(--ink);font-size:12px}
.axis{fill:var(--ink)}.area{stroke-width:1.5;fill-opacity:.16}.line{stroke-width:2;fill:none}.pmark{stroke-width:1;fill:none;
stroke-dasharray:3 3}.ptext{font-size:12px;font-weight:600;paint-order:stroke;stroke:var(--card);
stroke-width:5px}.track{fill:var(--rule)}.bar.met{fill:var(--good)}
.bar.missed{fill:var(--bad)}.goal{stroke:var(--ink);stroke-width:2}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 8px;color:var(--soft);font-size:13px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
details{margin-top:10px}summary{cursor:pointer;color:var(--soft);font-size:13px}
@media (max-width:620px){main{padding:20px 10px 32px}section{padding:14px 12px}.wide{display:none}.narrow{display:block}
th,td{padding-left:10px;font-size:13px}}
@media print{:root{color-scheme:light;--bg:#fff;--card:#fff;--ink:#000;--soft:#444;--rule:#bbb;--good:#1a7f4b;--bad:#b42318;
--s0:#1f5fa8;--s1:#b85f00;--s2:#2f7d4f;--s3:#8a4fa3;--s4:#6b6b6b}*{print-color-adjust:exact}main{max-width:none;padding:0}
.tile,svg,tr{break-inside:avoid}h2,h3,summary{break-after:avoid}section{border:0;padding:0}.wide{display:block}
.narrow{display:none}details::details-content{content-visibility:visible;block-size:auto}}
""" + "".join(
    f".bar.s{n},.dot.s{n},.ptext.s{n},.area.s{n}{{fill:var(--s{n})}}.legend .s{n}{{background:var(--s{n})}}"
    f".line.s{n},.area.s{n},.pmark.s{n}{{stroke:var(--s{n})}}\n"
    for n in range(SERIES)
)


def shell(title: str, body: str, machine: Machine) -> str:
    """The whole file, with when and on what it was measured."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main><h1>{escape(title)}</h1>\n"
        f"<p>{escape(origin_text(machine))}</p>\n{body}{_machine(machine)}</main></body></html>\n"
    )


def origin_text(machine: Machine) -> str:
    """Which version was measured, and when."""
    version = f"zcluster {machine.zcluster}" if machine.zcluster else "zcluster"
    if not machine.at_s:
        return version
    return f"{version}, measured {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(machine.at_s))} UTC"


def section(title: str, body: str) -> str:
    """A card of the page; nothing when it would be empty."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n" if body else ""


def tiles(shown: Sequence[tuple[str, str]]) -> str:
    """The figures that are seen first: (name, value)."""
    cells = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in shown)
    return f'<div class="tiles">{cells}</div>\n'


def table(rows: Rows, caption: str, *, words: bool = False) -> str:
    """Rows under their head, which is the first of them; ``words`` are texts that may be long, not numbers."""
    head, *body = rows
    lines = ["".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)]
    for first, *rest in body:
        cells = [f'<th scope="row">{escape(first)}</th>']
        for cell in rest:
            mark = {"met": ' class="met"', "NOT MET": ' class="missed"'}.get(cell, "")
            cells.append(f"<td{mark}>{escape(cell)}</td>")
        lines.append("".join(cells))
    kind = ' class="words"' if words else ""
    return (
        f'<div class="scroll"><table{kind}><caption>{escape(caption)}</caption><thead><tr>{lines[0]}</tr></thead>'
        f"<tbody>{''.join(f'<tr>{line}</tr>' for line in lines[1:])}</tbody></table></div>"
    )


def folded(summary: str, body: str) -> str:
    """What is there for those who want it; it is printed."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def legend(names: Sequence[str], what: Mapping[str, str]) -> str:
    """Which colour is which contender; nothing for one alone."""
    if len(names) < 2:
        return ""
    items = (f'<span><i class="s{n}"></i>{escape(what.get(name, name))}</span>' for n, name in enumerate(names))
    return f'<div class="legend">{"".join(items)}</div>'


def options_table(options: Mapping[str, object]) -> str:
    """What was asked for."""
    rows: Rows = [("option", "value")]
    for name, value in options.items():
        said = ", ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
        rows.append((name, said or "-"))
    return table(rows, "What was asked for", words=True) if options else ""


def bin_table(histograms: Mapping[str, Histogram]) -> str:
    """The numbers behind a chart of latencies."""
    filled = {name: log_bins(histogram) for name, histogram in histograms.items() if histogram.count}
    rows: Rows = [("from", "to", *(f"{name} %" for name in filled))]
    for where in sorted({where for bins in filled.values() for where in bins}):
        edges = (duration_text(10 ** (place / BINS_PER_DECADE)) for place in (where, where + 1))
        rows.append((*edges, *(f"{bins.get(where, 0.0):.3f}" for bins in filled.values())))
    return table(rows, "Share of the answers by latency") if filled else ""


def _machine(machine: Machine) -> str:
    rows: Rows = [
        ("part", "what it is"),
        ("CPU", f"{machine.cpu}, {machine.cores} cores"),
        ("memory", f"{machine.memory_bytes / 1024**3:.1f} GiB"),
        ("disk", machine.disk or "-"),
        ("kernel", machine.kernel),
        ("Python", machine.python),
        ("pyzmq, libzmq", f"{machine.pyzmq}, {machine.libzmq}"),
        ("load average before", f"{machine.load_1m:g}"),
    ]
    return section("Machine", table(rows, "What it was measured on", words=True))
