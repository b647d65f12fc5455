"""Charts as inline SVG: plain functions from numbers to text.

Rules kept here:
- no script, no font, no file from elsewhere; colours are CSS variables of the page, so that dark and light both work;
- every bar and line has its number in a <title>, and the same numbers stand in the page's tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from zcluster.bench.stats import Histogram

WIDTH, HEIGHT = 720, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 28, 16, 40
BINS_PER_DECADE = 20
PLOT_W, PLOT_H = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM


def _svg(title: str, body: str, height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def duration_text(value_s: float) -> str:
    """A duration as an axis says it: 100 µs, 2 ms, 1 s."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value_s >= factor * 0.9999:
            return f"{value_s / factor:,.3g} {unit}"
    return f"{value_s * 1e9:,.3g} ns"


def short_number(value: float) -> str:
    """A number as an axis says it: 950, 12 k, 1.5 M."""
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if value >= factor:
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


def _y_axis(ticks: Sequence[float], label: str) -> tuple[str, float]:
    top = ticks[-1]
    parts = []
    for tick in ticks:
        y = TOP + PLOT_H * (1 - tick / top)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(LEFT - 8, y + 4, short_number(tick), "end"))
    middle = TOP + PLOT_H / 2
    turned = f'x="14" y="{middle:.1f}" text-anchor="middle" class="axis" transform="rotate(-90 14 {middle:.1f})"'
    parts.append(f"<text {turned}>{escape(label)}</text>")
    return "".join(parts), top


def log_bins(histogram: Histogram) -> dict[int, float]:
    """Shares (percent) of the latencies by bin; bin n starts at 10 ** (n / BINS_PER_DECADE) seconds."""
    shares: dict[int, float] = {}
    for low_ns, high_ns, count in histogram.buckets():
        middle_s = max((low_ns + high_ns) / 2, 1) / 1e9
        where = math.floor(math.log10(middle_s) * BINS_PER_DECADE)
        shares[where] = shares.get(where, 0.0) + 100.0 * count / histogram.count
    return shares


def latency_chart(histograms: Mapping[str, Histogram]) -> str:
    """Where the latencies lie: one filled step line each, on a logarithmic axis."""
    binned = {name: log_bins(histogram) for name, histogram in histograms.items() if histogram.count}
    if not binned:
        return ""
    first = min(min(bins) for bins in binned.values()) - 1
    last = max(max(bins) for bins in binned.values()) + 2
    step = PLOT_W / (last - first)
    axis, top = _y_axis(nice_ticks(max(max(bins.values()) for bins in binned.values())), "share of requests, %")
    parts = [axis]
    for decade in range(math.ceil(first / BINS_PER_DECADE), math.floor(last / BINS_PER_DECADE) + 1):
        for factor in (1, 2, 5) if last - first <= 4 * BINS_PER_DECADE else (1,):
            place = decade * BINS_PER_DECADE + math.log10(factor) * BINS_PER_DECADE
            if first <= place <= last:
                parts.append(_text(LEFT + (place - first) * step, HEIGHT - BOTTOM + 18, duration_text(10.0**decade * factor)))
    for number, (name, bins) in enumerate(binned.items()):
        points = [f"M{LEFT},{TOP + PLOT_H}"]
        for where in range(first, last):
            y = TOP + PLOT_H * (1 - bins.get(where, 0.0) / top)
            points.append(f"V{y:.1f}H{LEFT + (where + 1 - first) * step:.1f}")
        path = "".join(points) + f"V{TOP + PLOT_H}"
        p50, p99 = (duration_text(histograms[name].percentile_s(p)) for p in (50, 99))
        title = f"<title>{escape(name)}: p50 {p50}, p99 {p99}</title>"
        parts.append(f'<path d="{path}" class="line s{number}">{title}</path>')
    return _svg("Latency", "".join(parts))


def bar_chart(groups: Sequence[str], series: Mapping[str, Sequence[float | None]], label: str) -> str:
    """Grouped bars: for each group one bar of each series; None leaves a gap."""
    values = [value for each in series.values() for value in each if value is not None]
    if not values:
        return ""
    axis, top = _y_axis(nice_ticks(max(values)), label)
    parts = [axis]
    group_w = PLOT_W / len(groups)
    bar_w = min(56.0, group_w * 0.72 / len(series))
    for place, group in enumerate(groups):
        centre = LEFT + group_w * (place + 0.5)
        parts.append(_text(centre, HEIGHT - BOTTOM + 20, group))
        start = centre - bar_w * len(series) / 2
        for number, (name, row) in enumerate(series.items()):
            value = row[place]
            if value is None:
                continue
            x, height = start + bar_w * number + 1, PLOT_H * value / top
            y = TOP + PLOT_H - height
            title = f"<title>{escape(name)}, {escape(group)}: {value:,.1f}</title>"
            shape = f'x="{x:.1f}" y="{y:.1f}" width="{bar_w - 2:.1f}" height="{height:.1f}" rx="2"'
            parts.append(f'<rect {shape} class="bar s{number}">{title}</rect>')
            parts.append(_text(x + bar_w / 2 - 1, max(y - 4, TOP - 3), short_number(value), kind="value"))
    return _svg(label, "".join(parts))
