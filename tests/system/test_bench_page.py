"""A page of --report in a real browser: it is drawn wide and narrow, loads nothing, and runs nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from zcluster.bench.dapi import Contender, DapiOptions, DapiResult, Level
from zcluster.bench.machine import describe_machine
from zcluster.bench.report import write_report
from zcluster.bench.rounds import Round
from zcluster.bench.stats import Histogram

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]  # fmt: skip
STARTS_S = 120
PROBE = """
<iframe id="f" style="border:0;width:{width}px;height:9000px"></iframe><pre id="said"></pre><script>
f.onload = () => {{
  const page = f.contentDocument, wide = f.contentWindow.innerWidth;
  const shown = [...page.querySelectorAll("svg")].filter(one => one.getBoundingClientRect().width > 0);
  const over = shown.flatMap(one => [...one.querySelectorAll("text")].map(text => [text, one]))
    .filter(([text, one]) => {{
      const a = text.getBoundingClientRect(), b = one.getBoundingClientRect();
      return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
    }}).map(([text]) => text.textContent);
  said.textContent = JSON.stringify({{
    kinds: [...new Set(shown.map(one => one.getAttribute("class")))], count: shown.length, over: over,
    sideways: page.documentElement.scrollWidth > wide,
    loaded: f.contentWindow.performance.getEntriesByType("resource").length,
  }});
}};
f.srcdoc = {page};
</script>
"""


def a_page(path: Path) -> None:
    """A report of requests as large as it gets: three contenders, a sweep, a hundred rounds."""

    def rounds(factor: float) -> tuple[Round, ...]:
        histogram = Histogram()
        for value in range(1, 400):
            histogram.record_ns(int(1e5 * factor * value**1.3), 400 // value + 1)
        cpu_s = dict.fromkeys(("master", "worker", "client"), 0.1)
        return tuple(Round(1000 + n, 1.0, histogram, {}, 0, cpu_s) for n in range(100))

    options = DapiOptions(compare=("raw", "nats"), rounds=100, sweep=(1, 8, 64), duration_s=100.0)
    names = {"zcluster": rounds(1.0), "raw": rounds(2.0), "nats": rounds(1.1)}
    contenders = tuple(Contender(name, each, {}, 100) for name, each in names.items())
    levels = tuple(Level(number, contenders) for number in options.levels)
    write_report(DapiResult(options, describe_machine(), contenders, levels), path)


def run(arguments: list[str], profile: Path) -> str:
    assert CHROMIUM is not None, "continuous integration needs chromium: .ci/run installs it"
    command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=STARTS_S).stdout


@pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="chromium is not installed (Debian: chromium)")
@pytest.mark.parametrize(("width", "kind"), [(1000, "wide"), (400, "narrow")])
def test_a_browser_draws_the_page_for_its_width(tmp_path: Path, width: int, kind: str) -> None:
    a_page(tmp_path / "report.html")
    page = json.dumps((tmp_path / "report.html").read_text()).replace("</", "<\\/")
    (tmp_path / "probe.html").write_text(PROBE.format(width=width, page=page))
    dom = run(["--virtual-time-budget=10000", "--dump-dom", (tmp_path / "probe.html").as_uri()], tmp_path / "profile")
    found = re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None
    said = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert said == {"kinds": [kind], "count": 5, "over": [], "sideways": False, "loaded": 0}
