"""Charts of single figures, as inline SVG: bars that lie, so that each has its name and its number beside it.

Rules kept here:
- as in :mod:`zcluster.bench.charts`: nothing from elsewhere, drawn for wide and narrow pages, no label over another;
- every bar has its number with the unit at its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

from zcluster.bench.charts import CHAR_PX, FRAMES, Frame, Text, label, svg
from zcluster.bench.figures import Figure, bar_text, number_text

HEAD_PX, BAR_PX, GAP_PX = 20, 20, 10
MAX_RATIO = 2.0
"""A figure's bar of the chart ends at twice what it has to reach."""


def bar_chart(groups: Sequence[str], series: Mapping[str, Sequence[float | None]], title: str, text: Text) -> str:
    """For each group one bar of each series; None leaves it out.

    Args:
        groups: what the bars stand under.
        series: names with one value for each group; their colours are those of the page's legend.
        title: what the chart is.
        text: says a value, with its unit.
    """
    values = [value for row in series.values() for value in row if value is not None]
    if not values:
        return ""
    return "".join(_bars(frame, groups, series, title, text, max(values)) for frame in FRAMES)


def _bars(
    base: Frame, groups: Sequence[str], series: Mapping[str, Sequence[float | None]], title: str, text: Text, most: float
) -> str:
    room = max(len(text(value)) for row in series.values() for value in row if value is not None) * CHAR_PX + 10
    width = base.width - room
    parts: list[str] = []
    y = 0
    for place, group in enumerate(groups):
        rows = [(number, name, row[place]) for number, (name, row) in enumerate(series.items())]
        shown = [(number, name, value) for number, name, value in rows if value is not None]
        if not shown:
            continue
        parts.append(label(0, y + 14, group, "start", "axis"))
        y += HEAD_PX
        for number, name, value in shown:
            long = max(width * value / most, 1.0) if most else 1.0
            said = f"<title>{escape(name)}, {escape(group)}: {escape(text(value))}</title>"
            shape = f'x="0" y="{y + 2}" width="{long:.1f}" height="{BAR_PX - 4}" rx="2"'
            parts.append(f'<rect {shape} class="bar s{number}">{said}</rect>')
            parts.append(label(long + 6, y + 14, text(value), "start", "value"))
            y += BAR_PX
        y += GAP_PX
    return svg(replace(base, height=y), title, "".join(parts))


def figure_chart(figures: Sequence[Figure]) -> str:
    """The figures that have something to reach: how far each is, with a line at what it has to reach."""
    barred = [figure for figure in figures if figure.bar]
    if not barred:
        return ""
    return "".join(_figures(frame, barred) for frame in FRAMES)


def _figures(base: Frame, figures: Sequence[Figure]) -> str:
    unit_w = (base.width - 2) / MAX_RATIO
    parts: list[str] = []
    y = 0
    for figure in figures:
        bar = figure.bar or 1.0
        said = f"{number_text(figure.value)} {figure.unit}".strip()
        wanted = bar_text(figure).strip()
        tail = f"{said}, {wanted}"
        fits = int(base.width / CHAR_PX)
        for line in (figure.name, tail) if len(figure.name) + len(tail) + 2 > fits else (f"{figure.name}: {tail}",):
            parts.append(label(0, y + 14, line if len(line) <= fits else line[: fits - 1] + "…", "start", "axis"))
            y += HEAD_PX - 3
        y += 3
        long = max(min(figure.value / bar, MAX_RATIO) * unit_w, 1.0)
        kind = "bar met" if figure.met else "bar missed"
        title = f"<title>{escape(figure.name)}: {escape(tail)}</title>"
        parts.append(f'<rect x="0" y="{y}" width="{MAX_RATIO * unit_w:.1f}" height="12" rx="2" class="track"/>')
        parts.append(f'<rect x="0" y="{y}" width="{long:.1f}" height="12" rx="2" class="{kind}">{title}</rect>')
        parts.append(f'<line x1="{unit_w:.1f}" x2="{unit_w:.1f}" y1="{y - 3}" y2="{y + 15}" class="goal"/>')
        y += 12 + GAP_PX + 6
    return svg(replace(base, height=y), "Figures and what they have to reach", "".join(parts))
