"""The work ``million``: very many agents on one master: its start, its memory, its answers.

Rules kept here:
- most agents are the master's own, so that nothing changes while it is measured; the others' nodes have been away for long;
- an answer is timed at a client, with its way; its rows are of the filter that was asked;
- the start is from the process's start until a client has had its answers of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from zcluster.bench.agentsfleet import Bench, Fleet
from zcluster.bench.agentsrows import made_up, write_book
from zcluster.bench.cluster import MASTER
from zcluster.bench.figures import MIB, Figure
from zcluster.bench.machine import peak_memory_bytes
from zcluster.bench.stats import Histogram, median
from zcluster.core.agents.row import Row

START_BAR_S = 5.0
MEMORY_BAR_MIB = 400.0
ANSWER_BAR_MS = 50.0
PAGE = 100
ASKED = 40
"""How often each question is asked in a round."""
AWAY = 8
"""Nodes that are away, with one agent of FEW each."""
FEW = 50
QUESTIONS = (
    "status=silent", "node=worker-3", "os.platform=alpine", "os.platform=debian", "version=4.7.9", "version<4.1",
    "status=active and os.platform=debian and labels.site=ber and version<4.9",
)  # fmt: skip
"""Each asks for at least one field that has an index."""


def agent_of_many(number: int) -> Row:
    """The agent of this number: the master's, or one of a node that is away."""
    away = number % FEW
    if away >= AWAY:
        return made_up(number, MASTER)
    return made_up(number, f"worker-{away + 1}", "disconnected")


async def million(bench: Bench) -> Sequence[Figure]:
    count = bench.load.agents
    starts_s: list[float] = []
    memory = 0
    answers = {text: Histogram() for text in QUESTIONS}
    counts = Histogram()
    async with Fleet(bench.directory) as fleet:
        await fleet.cluster.terminate(MASTER)
        for left in fleet.master_book.glob("agents.*"):
            left.unlink()
        bench.say("writing the master's book")
        await write_book(fleet.master_book, range(count), agent_of_many)
        for number in range(bench.rounds):
            await fleet.cluster.terminate(MASTER)
            began_s = time.perf_counter()
            fleet.cluster.start_master()
            await fleet.cluster.wait_ready(MASTER)
            starts_s.append(time.perf_counter() - began_s)
            await fleet.know(count)
            for _ in range(ASKED):
                for text, histogram in answers.items():
                    await _ask(fleet, text, histogram)
            for _ in range(ASKED):
                began_s = time.perf_counter()
                await fleet.client.agents.count(by="status")
                counts.record_s(time.perf_counter() - began_s)
            pid = fleet.cluster.pids[MASTER]
            memory = max(memory, peak_memory_bytes([pid]))
            bench.told(number, f"ready after {starts_s[-1]:.2f} s, {memory / MIB:.0f} MiB")
    figures = [
        Figure("start of the master", median(starts_s), "s", bench.bar(START_BAR_S)),
        Figure("greatest memory of the master", memory / MIB, "MiB", bench.bar(MEMORY_BAR_MIB)),
    ]
    for text, histogram in answers.items():
        figures.append(Figure(f"{text}, p50", histogram.percentile_s(50) * 1e3, "ms", bench.bar(ANSWER_BAR_MS)))
        figures.append(Figure(f"{text}, p99", histogram.percentile_s(99) * 1e3, "ms"))
    figures += [Figure(f"count by status, p{p}", counts.percentile_s(p) * 1e3, "ms") for p in (50, 99)]
    return figures


async def _ask(fleet: Fleet, text: str, histogram: Histogram) -> None:
    began_s = time.perf_counter()
    await fleet.client.agents.list(text, limit=PAGE)
    histogram.record_s(time.perf_counter() - began_s)
