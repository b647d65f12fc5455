"""What ``zcluster queue`` and ``zcluster audit`` print: columns, ages and sizes for people; the data itself for programs.

Rules kept here:
- json, ndjson and yaml carry what the master answered, in bytes, seconds and Unix times; only tables have readable ones;
- a page of a list has the id with which the next page begins: in the data for json and yaml, on stderr otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zcluster.cli.output import (
    SCHEMA,
    Column,
    TablePrinter,
    cell,
    counted,
    emit_list,
    json_text,
    on_terminal,
    pairs,
    put,
    seconds,
    table,
)
from zcluster.cli.sync_views import age, moment, size
from zcluster.cli.yaml_block import block_style

STATES = {
    "queued": "cyan", "leased": "cyan", "running": "cyan", "done": "green", "failed": "red", "cancelled": "yellow",
    "expired": "yellow", "dead": "red",
}  # fmt: skip
LIVE = ("queued", "leased", "running")
"""States that are not final."""
MAX_SHOWN_BYTES = 65_536
"""The largest value that ``show`` fetches."""


def trouble(value: Any) -> str:
    """An error that came as data: its code and message."""
    if not isinstance(value, Mapping):
        return cell(value)
    hint = f" ({value['hint']})" if value.get("hint") else ""
    return cell(f"{value.get('code', 'failed')}: {value.get('message', '')}{hint}")


def soon(value: Any) -> str:
    """In how long something happens; ``-`` when it waits for no time."""
    return seconds(value) if isinstance(value, int | float) and value > 0 else "-"


JOB_COLUMNS = (
    Column("id", "ID"),
    Column("function", "FUNCTION"),
    Column("target", "TARGET"),
    Column("state", "STATE", colours=STATES),
    Column("node", "NODE"),
    Column("attempt", "ATTEMPT", right=True),
    Column("priority", "PRIORITY", wide=True, right=True),
    Column("caller", "CALLER", wide=True),
    Column("accepted_s", "ACCEPTED", right=True, text=age),
    Column("due_in_s", "DUE-IN", right=True, text=soon),
    Column("expires_in_s", "EXPIRES-IN", wide=True, right=True, text=soon),
    Column("sequence", "SEQUENCE", wide=True),
    Column("idempotency_key", "KEY", wide=True),
    Column("ended_s", "ENDED", wide=True, right=True, text=age),
    Column("error", "ERROR", text=trouble),
)
STEP_COLUMNS = (
    Column("at_s", "TIME", text=moment),
    Column("state", "STATE", colours=STATES),
    Column("node", "NODE"),
    Column("attempt", "ATTEMPT", right=True),
    Column("error", "ERROR", text=trouble),
)
PART_COLUMNS = (
    Column("node", "NODE"),
    Column("state", "STATE", colours=STATES),
    Column("attempt", "ATTEMPT", right=True),
    Column("ended_s", "ENDED", text=moment),
    Column("id", "ID", wide=True),
    Column("answer", "ANSWER", text=str),
)
CHANGE_COLUMNS = (
    Column("at_s", "TIME", text=moment, width=19),
    Column("id", "ID", width=14),
    Column("state", "STATE", colours=STATES, width=9),
    Column("function", "FUNCTION", width=16),
    Column("node", "NODE", width=12),
    Column("attempt", "ATTEMPT", right=True),
    Column("error", "ERROR", text=trouble),
)
TIMES = ("accepted_s", "at_s", "ended_s")
WAITS = ("due_in_s", "expires_in_s", "timeout_s", "retention_s")
SIZES = ("size", "result_bytes")


class PagePrinter:
    """Prints a list that comes in pages: rows and lines at once, what needs all of it at :meth:`close`."""

    def __init__(self, columns: Sequence[Column], output: str | None, *, name_key: str = "id") -> None:
        self.columns, self.output, self.name_key = columns, output or "table", name_key
        self.items: list[Mapping[str, Any]] = []
        self.table: TablePrinter | None = None

    def add(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Take one page."""
        if self.output in ("json", "yaml"):
            self.items += items
        elif self.output in ("ndjson", "name"):
            emit_list(items, self.columns, self.output, name_key=self.name_key)
        else:
            if self.table is None:  # the first page sets the widths
                self.table = TablePrinter(self.columns, wide=self.output == "wide")
                self.table.fit(items)
                put(self.table.header())
            for item in items:
                put(self.table.row(item))

    def close(self, next_cursor: Any, *, whole: bool) -> None:
        """Print what is left; ``whole``: the items are all there are."""
        if self.output in ("json", "yaml"):
            total = len(self.items) if whole else None
            data = {"schema": SCHEMA, "items": self.items, "total": total, "next": next_cursor}
            put(block_style(data) if self.output == "yaml" else json_text(data, pretty=on_terminal()))


def answer(item: Mapping[str, Any]) -> str:
    """What became of a part."""
    if item.get("error") is not None:
        return trouble(item["error"])
    return json_text(item.get("value")) if item.get("state") == "done" else "-"


def job_lines(job: Mapping[str, Any], *, wide: bool) -> list[str]:
    """All of one job for a person: its fields, its steps, the outcomes of its parts."""
    rows = [(name, _field(name, value)) for name, value in job.items() if name not in ("steps", "outcomes")]
    lines = pairs(rows)
    steps = job.get("steps")
    if isinstance(steps, Sequence) and steps:
        lines += ["", *table(steps, STEP_COLUMNS, wide=wide)]
    outcomes = job.get("outcomes")
    if isinstance(outcomes, Sequence) and outcomes:
        lines += ["", *table([{**each, "answer": answer(each)} for each in outcomes], PART_COLUMNS, wide=wide)]
    return lines


def _field(name: str, value: Any) -> str:
    if name in TIMES:
        return moment(value)
    if name in WAITS:
        return soon(value)
    if name in SIZES:
        return size(value)
    if name == "error":
        return trouble(value)
    return json_text(value) if name in ("args", "value") else cell(value)


def stats_lines(stats: Mapping[str, Any]) -> list[str]:
    """The account of the queue for a person: a line for each number, then its lanes and its callers."""
    rows: list[tuple[str, Any]] = []
    for name, value in stats.items():
        if name in ("lanes", "keys"):
            continue
        if name == "states" and isinstance(value, Mapping):
            rows += value.items()
        elif name == "limits" and isinstance(value, Mapping):
            said = ((each, size(most) if each.endswith("_bytes") else most) for each, most in value.items())
            rows += [(f"limit of {each.replace('_', ' ')}", most) for each, most in said]
        elif name == "bytes":
            rows.append((name, size(value)))
        elif name == "delayed_next_in_s":
            rows.append(("next delayed in", soon(value)))
        elif name == "paused" and isinstance(value, Sequence):
            rows.append((name, ", ".join(map(cell, value)) or "-"))
        else:
            rows.append((name.replace("_per_s", " per s").replace("_", " "), value))
    lines = pairs(rows)
    if stats.get("lanes"):
        lanes = [{**lane, "ready": f"{lane.get('ready')}{'+' if lane.get('more') else ''}"} for lane in stats["lanes"]]
        lines += ["", *table(lanes, (Column("lane", "LANE"), Column("ready", "READY", right=True)))]
    if stats.get("keys"):
        columns = (Column("name", "CALLER"), Column("jobs", "JOBS", right=True), Column("bytes", "SIZE", right=True, text=size))
        lines += ["", *table(stats["keys"], columns)]
    return lines


def live(stats: Mapping[str, Any]) -> int:
    """How many jobs are not final."""
    states = stats.get("states") or {}
    return sum(int(states.get(word) or 0) for word in LIVE)


def finding_lines(found: Mapping[str, Any]) -> list[str]:
    """What a check found: a line for each finding, and how many jobs there are."""
    findings = found.get("findings") or ()
    said = f"{len(findings)} wrong" if findings else "nothing wrong" if found.get("ok") else "not whole"
    return [*map(cell, findings), f"{counted(int(found.get('jobs') or 0), 'job')}, {said}"]
