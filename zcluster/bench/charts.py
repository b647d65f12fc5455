"""Charts of latencies and of what changes with the load, as inline SVG: plain functions from numbers to text.

Rules kept here:
- no script, no font, no file from elsewhere; colours are CSS variables of the page, so that dark and light both work;
- every chart is drawn twice, for a wide and for a narrow page, and the page shows the one that fits: text keeps its size;
- labels never overlap: they move apart or are left out, and every number stands in one of the page's tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from zcluster.bench.stats import Histogram

BINS_PER_DECADE = 20
MARKED = (50.0, 90.0, 99.0, 99.9)
"""The percentiles that are marked in a chart of latencies."""
CHAR_PX = 7.4
"""About the width of a character of a label."""


@dataclass(frozen=True)
class Frame:
    """The size of a drawing, in pixels."""

    name: str
    """The CSS class: which pages show it."""
    width: int
    height: int = 300
    left: int = 66
    right: int = 20
    top: int = 16
    bottom: int = 48

    @property
    def plot_w(self) -> float:
        return self.width - self.left - self.right

    @property
    def plot_h(self) -> float:
        return self.height - self.top - self.bottom


WIDE, NARROW = Frame("wide", 760), Frame("narrow", 340, left=62, right=14)
FRAMES = (WIDE, NARROW)
Text = Callable[[float], str]
"""Says a number as a label."""


def svg(frame: Frame, title: str, body: str) -> str:
    """A drawing of ``body`` that is called ``title``."""
    return (
        f'<svg class="{frame.name}" width="{frame.width}" height="{frame.height}" viewBox="0 0 {frame.width} {frame.height}" '
        f'role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )


def label(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> str:
    """A piece of text in a drawing."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def duration_text(value_s: float) -> str:
    """A duration as an axis says it: 100 µs, 2 ms, 1 s."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value_s >= factor * 0.9999:
            return f"{value_s / factor:,.3g} {unit}"
    return "0" if value_s == 0 else f"{value_s * 1e9:,.3g} ns"


def short_number(value: float) -> str:
    """A number as an axis says it: 950, 12 k, 1.5 M."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor * 0.9995:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}"


def nice_ticks(most: float, count: int = 4) -> list[float]:
    """0 and round steps up to at least ``most``, about ``count`` of them."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.9999)
    return [i * step for i in range(math.ceil(most / step - 1e-9) + 1)]


def spread(places: Sequence[float], widths: Sequence[float], least: float, most: float) -> list[float]:
    """Centres for labels of ``widths``, each as near to its place as it can be without overlapping, within least..most.

    Args:
        places: where the labels would be, in order.
        widths: how wide they are, the gap to the next one included.
        least: where the first one may begin.
        most: where the last one has to end, if there is room.
    """
    found: list[float] = []
    edge = least
    for place, width in zip(places, widths, strict=True):
        found.append(max(place, edge + width / 2))
        edge = found[-1] + width / 2
    edge = most
    for n in range(len(found) - 1, -1, -1):
        found[n] = max(min(found[n], edge - widths[n] / 2), least + sum(widths[:n]) + widths[n] / 2)
        edge = found[n] - widths[n] / 2
    return found


def _y_axis(frame: Frame, ticks: Sequence[float], text: Text) -> tuple[str, float]:
    top = ticks[-1]
    parts = []
    for tick in ticks:
        y = frame.top + frame.plot_h * (1 - tick / top)
        parts.append(f'<line x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(label(frame.left - 7, y + 4, text(tick), "end"))
    return "".join(parts), top


def _x_axis(frame: Frame, ticks: Sequence[tuple[float, str]], name: str) -> str:
    """The labels at their places (in order), those that would touch the one before left out, and what the axis is."""
    y = frame.height - frame.bottom
    parts, edge = [], -math.inf
    for x, text in ticks:
        half = len(text) * CHAR_PX / 2
        if x - half >= edge and x + half <= frame.width - 1:
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}" class="mark"/>' + label(x, y + 18, text))
            edge = x + half + CHAR_PX
    return "".join(parts) + label(frame.left + frame.plot_w / 2, frame.height - 6, name, kind="axis")


# -- where the latencies lie


def log_bins(histogram: Histogram) -> dict[int, float]:
    """Shares (percent) of the latencies by bin; bin n starts at 10 ** (n / BINS_PER_DECADE) seconds."""
    shares: dict[int, float] = {}
    for low_ns, high_ns, count in histogram.buckets():
        middle_s = max((low_ns + high_ns) / 2, 1) / 1e9
        where = math.floor(math.log10(middle_s) * BINS_PER_DECADE)
        shares[where] = shares.get(where, 0.0) + 100.0 * count / histogram.count
    return shares


def latency_chart(histograms: Mapping[str, Histogram]) -> str:
    """Where the latencies lie: one filled step line each, on a logarithmic axis, with the percentiles of MARKED."""
    filled = {name: histogram for name, histogram in histograms.items() if histogram.count}
    if not filled:
        return ""
    return "".join(_latency(frame, filled) for frame in FRAMES)


MARK_ROW_PX = 16


def _latency(base: Frame, histograms: Mapping[str, Histogram]) -> str:
    rows = MARK_ROW_PX * len(histograms)
    frame = replace(base, height=base.height + rows, top=base.top + rows)
    binned = {name: log_bins(histogram) for name, histogram in histograms.items()}
    first = min(min(bins) for bins in binned.values()) - 1
    last = max(max(bins) for bins in binned.values()) + 2
    step = frame.plot_w / (last - first)
    ticks = nice_ticks(max(max(bins.values()) for bins in binned.values()))
    axis, top = _y_axis(frame, ticks, lambda share: f"{share:g} %")
    parts = [axis, _x_axis(frame, _decades(frame, first, last), "latency (logarithmic)")]
    for number, bins in enumerate(binned.values()):
        points = [f"M{frame.left},{frame.top + frame.plot_h:.1f}"]
        for where in range(first, last):
            y = frame.top + frame.plot_h * (1 - bins.get(where, 0.0) / top)
            points.append(f"V{y:.1f}H{frame.left + (where + 1 - first) * step:.1f}")
        path = "".join(points) + f"V{frame.top + frame.plot_h:.1f}"
        parts.append(f'<path d="{path}" class="area s{number}"/>')
    marks = [_marks(frame, number, name, histograms[name], first, step) for number, name in enumerate(binned)]
    parts += [lines for lines, _ in marks] + [texts for _, texts in marks]  # no line over a text
    return svg(frame, "Latencies of " + ", ".join(histograms), "".join(parts))


def _decades(frame: Frame, first: int, last: int) -> list[tuple[float, str]]:
    step = frame.plot_w / (last - first)
    ticks = []
    for decade in range(math.ceil(first / BINS_PER_DECADE) - 1, math.floor(last / BINS_PER_DECADE) + 1):
        for factor in (1, 2, 5) if last - first <= 4 * BINS_PER_DECADE else (1,):
            place = (decade + math.log10(factor)) * BINS_PER_DECADE
            if first <= place <= last:
                ticks.append((frame.left + (place - first) * step, duration_text(10.0**decade * factor)))
    return ticks


def _marks(frame: Frame, number: int, name: str, histogram: Histogram, first: int, step: float) -> tuple[str, str]:
    """A dashed line at each percentile, and their names in the contender's row above the plot."""
    row_y = frame.top - MARK_ROW_PX * number - 6
    names = [f"p{percent:g}" for percent in MARKED]
    values_s = [histogram.percentile_s(percent) for percent in MARKED]
    places = [frame.left + (math.log10(max(value_s, 1e-9)) * BINS_PER_DECADE - first) * step for value_s in values_s]
    centres = spread(places, [len(text) * CHAR_PX + 6 for text in names], frame.left - 8, frame.width)
    lines, texts = [], []
    for text, value_s, x, centre in zip(names, values_s, places, centres, strict=True):
        foot = f"V{frame.top + frame.plot_h:.1f}"
        title = f"<title>{escape(name)}: {text} {escape(duration_text(value_s))}</title>"
        lines.append(f'<path d="M{centre:.1f},{row_y + 3:.1f}L{x:.1f},{frame.top}{foot}" class="pmark s{number}">{title}</path>')
        texts.append(label(centre, row_y, text, kind=f"ptext s{number}"))
    return "".join(lines), "".join(texts)


# -- what changes with the load, or from round to round


def line_chart(
    places: Sequence[int], series: Mapping[str, Sequence[float]], name: str, title: str, text: Text, *, log: bool = False
) -> str:
    """One line with dots for each of ``series``.

    Args:
        places: where on the x axis the values are, in order; above 0 when ``log``.
        series: names with one value for each place.
        name: what the x axis is.
        title: what the chart is.
        text: says a value, with its unit.
        log: whether the x axis is logarithmic.
    """
    if not places or not any(series.values()):
        return ""
    return "".join(_lines(frame, places, series, name, title, text, log=log) for frame in FRAMES)


def _lines(
    frame: Frame, places: Sequence[int], series: Mapping[str, Sequence[float]], name: str, title: str, text: Text, *, log: bool
) -> str:
    at = [math.log10(place) if log else float(place) for place in places]
    span = at[-1] - at[0]
    inset = 14.0
    xs = [frame.left + inset + (frame.plot_w - 2 * inset) * ((each - at[0]) / span if span else 0.5) for each in at]
    axis, top = _y_axis(frame, nice_ticks(max(max(row) for row in series.values())), text)
    parts = [axis, _x_axis(frame, [(x, f"{place:,}") for x, place in zip(xs, places, strict=True)], name)]
    for number, (who, row) in enumerate(series.items()):
        ys = [frame.top + frame.plot_h * (1 - value / top) for value in row]
        path = "L".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        parts.append(f'<path d="M{path}" class="line s{number}"/>')
        for x, y, place, value in zip(xs, ys, places, row, strict=True):
            said = f"<title>{escape(who)}, {place:,}: {escape(text(value))}</title>"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="dot s{number}">{said}</circle>')
    return svg(frame, title, "".join(parts))
