"""Options, merged rounds, ratios, and what the reports show of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zcluster.bench.bars import bar_chart
from zcluster.bench.charts import duration_text, latency_chart, log_bins, nice_ticks, short_number
from zcluster.bench.dapi import MAX_IN_FLIGHT, Contender, DapiOptions, DapiResult
from zcluster.bench.machine import Machine
from zcluster.bench.queue import QueueOptions
from zcluster.bench.report import ratio_rows, render, size_text, to_dict, write_report
from zcluster.bench.rounds import Round, RoundResult, merge_results
from zcluster.bench.special import NAMES, Figure, SpecialOptions, SpecialResult, run_special
from zcluster.bench.stats import Histogram
from zcluster.errors import UsageError

MACHINE = Machine(2, "A <fast> CPU", 8 << 30, "Linux 6.1", "CPython 3.11.7", "27.3.0", "4.3.5", 0.5)


def a_round(requests: int, latency_ms: int, cpu_s: float = 0.5, errors: dict[str, int] | None = None) -> Round:
    """One round of one second."""
    histogram = Histogram()
    histogram.record_ns(latency_ms * 1_000_000, requests)
    return Round(requests, 1.0, histogram, errors or {}, 0, {"master": cpu_s, "worker": cpu_s, "client": cpu_s})


def a_result() -> DapiResult:
    """zcluster at 400 requests/s, raw at 100, in the median."""
    options = DapiOptions(size_bytes=1000, compare=("raw",), duration_s=3.0)
    fast = Contender("zcluster", tuple(a_round(n, 2) for n in (400, 100, 500)), {"master": 64 << 20}, 1000)
    slow = Contender("raw", tuple(a_round(n, 4, errors={"Again": 1}) for n in (100, 90, 400)), {}, 1000)
    return DapiResult(options, MACHINE, (fast, slow))


def test_rounds_of_several_clients_are_added() -> None:
    one = RoundResult({"100": 3}, 100, 1.0, 3, {"busy": 1})
    two = RoundResult({"100": 2, "200": 1}, 200, 2.0, 3, {"busy": 2, "timed_out": 1}, unsent=4)
    merged = merge_results([one, two], {"master": 0.25}, 1.0)
    assert merged.requests == 6
    assert merged.seconds == 2.0
    assert merged.rate == 3.0
    assert merged.errors == {"busy": 3, "timed_out": 1}
    assert merged.unsent == 4
    assert merged.histogram.percentile_ns(100) == 200
    # CPU time was read over one second, the answers took two
    assert merged.cpu_s == {"master": 0.5}


def test_ratios_are_of_medians() -> None:
    ratios = {ratio.figure: ratio for ratio in a_result().ratios}
    assert ratios["requests_per_s"].value == pytest.approx(4.0)
    assert ratios["mb_per_s"].value == pytest.approx(4.0)
    assert ratios["p50"].value == pytest.approx(0.5, rel=0.01)
    assert ratios["cpu_master"].value == pytest.approx((1.5 / 1000) / (1.5 / 590))


def test_figures_of_a_contender() -> None:
    mine = a_result().contenders[0]
    assert mine.rate == 400
    assert mine.mb_per_s == pytest.approx(0.4)
    assert mine.requests == 1000
    assert mine.cpu_us("master") == pytest.approx(1500)
    assert a_result().contenders[1].errors == {"Again": 3}


def test_cpu_of_processes_that_are_not_ours_is_absent() -> None:
    only_client = Round(10, 1.0, Histogram(), {}, 0, {"client": 0.1})
    contender = Contender("zcluster", (only_client,), {}, 100)
    assert contender.cpu_us("master") is None
    assert contender.cpu_us("client") == pytest.approx(10_000)
    table = render(DapiResult(DapiOptions(home=Path("/nowhere")), MACHINE, (contender,)))
    assert "CPU µs/request, master         -" in table
    assert "zcluster against" not in table


def test_the_table_and_json_show_the_same() -> None:
    result = a_result()
    table = render(result)
    assert "requests/s" in table
    assert "4.00 x" in table
    assert "3 Again" in table
    assert "A <fast> CPU" in table
    data = json.loads(render(result, "json"))
    assert data["schema"] == 1
    assert data["contenders"][0]["requests_per_s"] == 400
    assert data["contenders"][0]["peak_memory_bytes"] == {"master": 64 << 20, "worker": None, "client": None}
    assert data["contenders"][0]["latency_s"]["max"] == pytest.approx(0.002, rel=0.01)
    assert data["options"]["loop"] == "closed"
    assert len(data["contenders"][1]["rounds"]) == 3
    assert {r["figure"]: r["value"] for r in data["ratios"]}["requests_per_s"] == pytest.approx(4.0)


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(UsageError, match="yaml"):
        render(a_result(), "yaml")


def test_a_report_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing"):
        write_report(a_result(), tmp_path / "missing" / "report.html")


def test_special_results_say_whether_the_bar_is_met() -> None:
    at, above = Figure("a", 0.2, "s", 0.2), Figure("b", 0.2001, "s", 0.2)
    floor, below = Figure("c", 300, "/s", 300, at_most=False), Figure("d", 299, "/s", 300, at_most=False)
    assert [f.met for f in (at, above, floor, below, Figure("e", 1, "s"))] == [True, False, True, False, None]
    good, bad = (SpecialResult("sleep", "calls", MACHINE, figures) for figures in ((at, floor), (at, above)))
    assert good.met
    assert not bad.met
    assert "NOT MET" not in render(good)
    assert "NOT MET" in render(bad)
    assert to_dict(bad)["figures"][1]["met"] is False


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("in_flight", 1, MAX_IN_FLIGHT), ("clients", 1, 64), ("workers", 1, 64), ("size_bytes", 0, 64 << 20), ("rounds", 1, 100)],
)
def test_options_are_refused_just_outside_their_range(name: str, least: int, most: int) -> None:
    DapiOptions(**{name: least})  # type: ignore[arg-type]
    DapiOptions(**{name: most})  # type: ignore[arg-type]
    for value in (least - 1, most + 1):
        with pytest.raises(UsageError):
            DapiOptions(**{name: value})  # type: ignore[arg-type]


def test_a_sweep_has_each_number_once_and_at_most_twelve() -> None:
    assert DapiOptions(in_flight=64, sweep=(256, 1)).levels == (1, 64, 256)
    assert DapiOptions().levels == (256,)
    assert QueueOptions(in_flight=8, sweep=(1,)).levels == (1, 8)
    DapiOptions(in_flight=12, sweep=tuple(range(1, 12)))
    for wrong in (
        {"sweep": (256,)}, {"sweep": (1, 1)}, {"sweep": (0,)}, {"sweep": (MAX_IN_FLIGHT + 1,)}, {"sweep": tuple(range(1, 13))},
        {"sweep": (1,), "rate": 10.0},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            DapiOptions(**wrong)
    with pytest.raises(UsageError):
        QueueOptions(sweep=(65_537,))


def test_a_comparison_needs_known_contenders_and_three_rounds() -> None:
    DapiOptions(compare=("raw", "nats"), rounds=3)
    with pytest.raises(UsageError, match="rounds"):
        DapiOptions(compare=("raw",), rounds=2)
    for compare in (("redis",), ("raw", "raw")):
        with pytest.raises(UsageError, match="compare"):
            DapiOptions(compare=compare)


def test_special_options_and_names_are_checked() -> None:
    for options in ({"workers": -1}, {"workers": 5001}, {"in_flight": 100_001}, {"rounds": 0}, {"duration_s": 0.01}):
        with pytest.raises(UsageError):
            SpecialOptions(**options)
    with pytest.raises(UsageError, match="nothing"):
        run_special("nothing", SpecialOptions(), print)
    assert set(NAMES) == {"sleep", "fanout", "reconnect", "idle", "memory"}


def test_axes_say_round_numbers() -> None:
    assert nice_ticks(0) == [0.0, 1.0]
    assert nice_ticks(100) == [0, 25, 50, 75, 100]
    assert nice_ticks(33)[-1] >= 33
    assert [duration_text(v) for v in (1e-9, 1e-4, 0.002, 3.0)] == ["1 ns", "100 µs", "2 ms", "3 s"]
    assert [short_number(v) for v in (7.5, 12_000, 1_500_000)] == ["7.5", "12 k", "1.5 M"]
    assert [size_text(v) for v in (100, 1024, 1500, 1 << 20)] == ["100 B", "1 KiB", "1500 B", "1 MiB"]


def test_charts_of_nothing_are_nothing_and_bins_hold_everything() -> None:
    assert latency_chart({"a": Histogram()}) == ""
    assert bar_chart(["x"], {"a": [None]}, "label", short_number) == ""
    assert bar_chart(["x", "y"], {"a": [1.0, None]}, "label", short_number).count("<rect") == 2  # wide and narrow
    assert sum(log_bins(a_round(1000, 3).histogram).values()) == pytest.approx(100)


def test_without_a_comparison_there_are_no_ratios() -> None:
    alone = DapiResult(DapiOptions(), MACHINE, a_result().contenders[:1])
    assert alone.ratios == []
    assert ratio_rows(alone) == []
