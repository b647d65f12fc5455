"""The pages of --report: they stand alone, are well-formed, say every number in a table, and no text is over another."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from zcluster.bench.bars import bar_chart, figure_chart
from zcluster.bench.charts import CHAR_PX, FRAMES, Frame, duration_text, latency_chart, line_chart, short_number, spread
from zcluster.bench.dapi import Contender, DapiOptions, DapiResult, Level
from zcluster.bench.figures import Figure, SpecialResult, number_text
from zcluster.bench.html import page
from zcluster.bench.machine import Machine
from zcluster.bench.queueresult import QueueContender, QueueLevel, QueueResult, QueueWork
from zcluster.bench.queuerounds import QueueRound
from zcluster.bench.report import Result, render, to_dict, write_report
from zcluster.bench.rounds import Round
from zcluster.bench.stats import Histogram
from zcluster.bench.sweep import Point, point_rows
from zcluster.bench.syncresult import Contender as Copier
from zcluster.bench.syncresult import Run, SyncResult, WorkResult

AT_S = 1_790_000_000.0
MACHINE = Machine(
    2, "A <fast> & 'odd' CPU", 8 << 30, "Linux 6.1", "CPython 3.11.7", "27.3.0", "4.3.5", 0.5, "ext4 on <vda>", "9.8.7", AT_S
)
ROLES = {"master": 0.25, "worker": 0.125, "client": 0.5}


def latencies(*each_ms: float) -> Histogram:
    histogram = Histogram()
    for value_ms in each_ms:
        histogram.record_ns(int(value_ms * 1e6), 100)
    return histogram


def a_round(requests: int, *each_ms: float) -> Round:
    return Round(requests, 1.0, latencies(*each_ms), {"<busy>": 1}, 0, ROLES)


def dapi() -> DapiResult:
    options = DapiOptions(size_bytes=1000, in_flight=64, sweep=(1, 8), compare=("raw",), duration_s=3.0, home=Path("/<home>"))

    def contenders(factor: int) -> tuple[Contender, ...]:
        mine = tuple(a_round(n * factor, 2.0, 3.0, 40.0) for n in (4321, 1000, 5432))
        return (Contender("zcluster", mine, {"master": 64 << 20}, 1000), Contender("raw", (a_round(777, 9.0),) * 3, {}, 1000))

    levels = tuple(Level(n, contenders(n)) for n in (1, 8, 64))
    return DapiResult(options, MACHINE, levels[-1].contenders, levels)


def queue() -> QueueResult:
    def contender(name: str, done: int) -> QueueContender:
        cpu_s = {"master": 0.5} if name == "sqlite" else ROLES
        each = QueueRound(1.0, latencies(1.0, 2.0), latencies(*[4.0] * (done // 100)), {}, cpu_s, None, None)
        return QueueContender(name, (each, each, each), {})

    def both(factor: int) -> tuple[QueueContender, ...]:
        return (contender("zcluster", 300 * factor), contender("sqlite", 100))

    figures = (Figure("done, against sqlite", 3.0, "x", 5.0, at_most=False), Figure("jobs that were not done", 0, "", 0))
    work = QueueWork("done", "64 jobs in flight", both(2), figures, (QueueLevel(1, both(1)), QueueLevel(64, both(2))))
    return QueueResult("durable jobs on <ext4>", MACHINE, (work,), {"rounds": 3, "compare": ("sqlite",), "directory": None})


def sync() -> SyncResult:
    mine = Copier("zcluster", (Run(0.5, 5_000_000, {"master": 0.25, "worker": 0.125}),))
    other = Copier("rsync", (Run(0.75, None, {"master": 0.5}),))
    figures = (Figure("time against rsync", 0.67, "x", 1.4),)
    work = WorkResult("small", "10 files <of> 4 KiB", (mine, other), figures)
    return SyncResult("trees of files", MACHINE, (work, WorkResult("idle", "nothing", (), ())), {"rounds": 1})


def special(*figures: Figure) -> SpecialResult:
    shown = figures or (Figure("first: <rows>", 31_250.4, "rows/s", 20_000, at_most=False), Figure("took", 0.3, "s", 0.2))
    return SpecialResult("agents", "some <agents>", MACHINE, shown, {"rounds": 1, "agents": None})


RESULTS: dict[str, Result] = {"dapi": dapi(), "queue": queue(), "sync": sync(), "special": special()}


class Page(HTMLParser):
    """Checks that the tags close, and collects what a page would load, its texts and what its tables say."""

    VOID = ("meta", "line", "rect", "path", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.seen: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID, tag
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        place = "table" if "table" in self.open else "svg" if "svg" in self.open else "text"
        self.seen[place] = self.seen.get(place, "") + data + "\n"


@pytest.mark.parametrize("name", RESULTS)
def test_a_page_stands_alone_and_is_well_formed(name: str) -> None:
    text = page(RESULTS[name])
    seen = Page(text)
    assert set(seen.tags).isdisjoint({"script", "link", "img", "iframe", "object", "embed", "image", "use", "a", "form", "base"})
    assert set(seen.attributes).isdisjoint({"src", "href", "xlink:href", "srcset", "style", "action"})
    assert not [each for each in seen.attributes if each.startswith("on")]
    # The name of SVG is not loaded; nothing else looks like an address, and the style loads nothing.
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "url(" not in text
    assert "@import" not in text
    assert text.count("<svg") == text.count('role="img" aria-label="') > 0
    assert seen.tags.count("table") == seen.tags.count("caption") == text.count("<thead>")
    assert text.count("<h1>") == 1
    assert "2026-09-21 14:13:20 UTC" in seen.seen["text"]
    assert "zcluster 9.8.7" in seen.seen["text"]
    for said in ("A <fast> & 'odd' CPU", "ext4 on <vda>", "Linux 6.1", "CPython 3.11.7", "27.3.0, 4.3.5"):
        assert said in seen.seen["table"]
    for raw in ("<fast>", "<vda>", "<busy>", "<home>", "<of>", "<rows>", "<agents>", "<ext4>"):
        assert raw not in text


def test_every_number_of_requests_is_in_a_table() -> None:
    result = dapi()
    seen = Page(page(result)).seen["table"]
    numbers: list[str] = []
    for contender in result.contenders:
        numbers += [f"{contender.rate:,.0f}", *(f"{r.rate:,.0f}" for r in contender.rounds)]
        numbers += [f"{contender.percentile_s(p) * 1e3:,.3f}" for p in (50, 90, 99, 99.9)]
        numbers += [f"{contender.cpu_us(role):,.1f} µs" for role in ROLES]
        numbers += [duration_text(contender.histogram.percentile_s(p)) for p in (50, 90, 99, 99.9)]
    numbers += [f"{contender.rate:,.0f}" for level in result.sweep for contender in level.contenders]
    numbers += [f"{ratio.value:.2f} x" for ratio in result.ratios]
    numbers += ["<busy>", "/<home>", "1, 8", "4,321", "276,544", "347,648", "33.333"]
    assert [number for number in numbers if number not in seen] == []


def test_every_number_of_jobs_and_copies_is_in_a_table() -> None:
    seen = Page(page(queue())).seen["table"]
    for number in ("600", "300", "100", "2 ms", "4 ms", "50.000", "833.3 µs", "3 x", "NOT MET", "sqlite", "at least 5 x"):
        assert number in seen, number
    seen = Page(page(sync())).seen["table"]
    for number in ("500 ms", "750 ms", "5 MB", "250 ms", "125 ms", "0.67 x", "at most 1.4 x", "10 files <of> 4 KiB"):
        assert number in seen, number
    seen = Page(page(special())).seen["table"]
    for number in ("31,250 rows/s", "at least 20,000 rows/s", "0.3 s", "NOT MET"):
        assert number in seen, number


def test_what_was_not_measured_has_no_section() -> None:
    alone = DapiResult(DapiOptions(), MACHINE._replace(zcluster="", at_s=0.0), (Contender("zcluster", (a_round(1),), {}, 1),))
    text = page(alone)
    for heading in ("Ratios", "Throughput against", "Latency</h2>"):
        assert heading not in text
    assert "measured" not in Page(text).seen["text"]
    assert figure_chart([Figure("no bar", 1.0, "s"), Figure("none", 0, "", 0)]) == ""
    assert line_chart([], {"a": []}, "x", "t", str) == line_chart([1], {}, "x", "t", str) == ""
    assert bar_chart([], {}, "t", str) == ""


def test_data_is_written_when_the_name_says_so(tmp_path: Path) -> None:
    write_report(dapi(), tmp_path / "figures.json")
    data = json.loads((tmp_path / "figures.json").read_text())
    assert data == json.loads(json.dumps(to_dict(dapi())))
    assert [level["in_flight"] for level in data["sweep"]] == [1, 8, 64]
    assert data["sweep"][2]["contenders"][0]["requests_per_s"] == 4321 * 64
    assert (data["machine"]["disk"], data["machine"]["zcluster"], data["machine"]["at_s"]) == ("ext4 on <vda>", "9.8.7", AT_S)
    assert [level["in_flight"] for level in to_dict(queue())["works"][0]["sweep"]] == [1, 64]


def test_the_sweep_is_in_the_table_of_a_terminal() -> None:
    lines = [line.split() for line in render(dapi()).splitlines()]
    at = lines.index(["in", "flight", "requests/s", "p50", "ms", "p99", "ms", "errors"])
    assert [line[:3] for line in lines[at + 1 : at + 7]] == [
        *(["zcluster", str(n), f"{4321 * n:,}"] for n in (1, 8, 64)), *(["raw", str(n), "777"] for n in (1, 8, 64)),
    ]  # fmt: skip
    assert ["sqlite", "64", "100", "4.000", "4.000", "0"] in [line.split() for line in render(queue()).splitlines()]
    assert point_rows([Point(1, "a", 2.0, None, None, 3)], "jobs")[1] == ("a", "1", "2", "-", "-", "3")


# -- no text is over another


def texts(drawing: str) -> list[tuple[float, float, float, str]]:
    """(y, where it begins, where it ends, text) of each text of one drawing, as far as a width can be told."""
    found = []
    for x, y, anchor, text in re.findall(r'<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)"[^>]*>([^<]*)<', drawing):
        width = len(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")) * CHAR_PX
        begins = float(x) - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        found.append((float(y), begins, begins + width, text))
    return found


def drawings(charts: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", charts, re.DOTALL)


LATENCIES = {
    "one point": {"a": latencies(1.0), "b": latencies(1.0), "c": latencies(1.0)},
    "far apart": {"a": latencies(0.001, 4000.0), "b": latencies(100.0)},
    "near": {"a": latencies(*(10 + n / 100 for n in range(30))), "b": latencies(10.1, 10.2)},
    "0": {"a": latencies(0.0)},
}


@pytest.mark.parametrize("name", LATENCIES)
def test_labels_of_latencies_keep_apart_and_within_the_drawing(name: str) -> None:
    charts = latency_chart(LATENCIES[name])
    assert [each.count('class="pmark') for each in drawings(charts)] == [4 * len(LATENCIES[name])] * 2
    for frame, drawing in zip(FRAMES, drawings(charts), strict=True):
        check_apart(frame, drawing)


def check_apart(frame: Frame, drawing: str) -> None:
    found = sorted(texts(drawing))
    for (y, begins, ends, text), (other_y, other_begins, other_ends, other) in itertools.combinations(found, 2):
        assert other_y - y >= 12 or other_begins >= ends - 0.2 or begins >= other_ends - 0.2, (text, other)
    for y, begins, ends, text in found:
        assert begins >= -1, text
        assert ends <= frame.width + 1, text
        assert y >= 8, text


@pytest.mark.parametrize("places", [[1, 8, 64, 256], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 100_000], [5], list(range(1, 101))])
def test_labels_of_lines_keep_apart(places: list[int]) -> None:
    series = {"a": [1e4 * place for place in places], "b": [0.5 for _ in places]}
    for log in (False, True):
        charts = line_chart(places, series, "n", "t", lambda value: f"{short_number(value)}/s", log=log)
        for frame, drawing in zip(FRAMES, drawings(charts), strict=True):
            assert drawing.count("<circle") == 2 * len(places)
            check_apart(frame, drawing)


def test_bars_and_figures_keep_their_numbers_beside_them() -> None:
    long = [Figure("a very long name that does not fit at all " * 4, 900.0, "rows/s", 2.0), Figure("b", 1.0, "s", 2.0)]
    bars = bar_chart(["x", "y", "z"], {"a": [1.0, None, 0.0], "b": [123_456.0, 2.0, None]}, "t", lambda v: f"{v:,.1f} µs")
    assert [each.count("<rect") for each in drawings(bars)] == [4, 4]
    for charts in (bars, figure_chart(long)):
        for frame, drawing in zip(FRAMES, drawings(charts), strict=True):
            check_apart(frame, drawing)
            height = float(re.findall(r'height="(\d+)"', drawing)[0])
            for y, *_ in texts(drawing):
                assert y <= height


def test_labels_move_apart_as_little_as_they_must() -> None:
    assert spread([10, 50, 90], [20, 20, 20], 0, 100) == [10, 50, 90]
    assert spread([10, 10, 10], [20, 20, 20], 0, 100) == [10, 30, 50]
    assert spread([99, 99, 99], [20, 20, 20], 0, 100) == [50, 70, 90]
    assert spread([50], [200], 0, 100) == [100]
    assert spread([], [], 0, 100) == []


def test_figures_are_said_in_full_before_the_point() -> None:
    assert [number_text(v) for v in (0.0, 0.07282, 15.0, 999.96, 1000.4, 31_250.0, -1234.5, 1e9)] == [
        "0", "0.07282", "15", "1,000", "1,000", "31,250", "-1,234", "1,000,000,000",
    ]  # fmt: skip
