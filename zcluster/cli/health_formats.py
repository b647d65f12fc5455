"""A cluster's health as text, for Nagios, and for Prometheus.

Rules kept here:
- Nagios (https://www.monitoring-plugins.org/doc/guidelines.html): one line, ``STATUS - text | 'label'=value;warn;crit;min;max``;
  a limit "from N on" is the range ``@N:``; nothing in the text ends it early (no ``|``, no line break);
- Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/): each metric with HELP and TYPE before its samples,
  all of them together, label values escaped; it is whole when the master does not answer too: ``zcluster_up 0``;
- names of nodes, trees and states are labels, never parts of a metric's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zcluster.cli.health import RANK, STATES, Health, Limit, Measure
from zcluster.cli.output import cell, pairs

NAGIOS = {"ok": ("OK", 0), "warning": ("WARNING", 1), "critical": ("CRITICAL", 2), "unknown": ("UNKNOWN", 3)}
MAX_TEXT_CHARS = 1000
UNITS = ("%", "s", "B")
Labels = dict[str, str]
Sample = tuple[Labels, float]


def text_lines(health: Health) -> list[str]:
    """For people: the whole, then a line each, the worst first."""
    order = sorted(health.measures, key=lambda measure: -RANK[measure.state])
    return pairs([("health", health.state), *((measure.state, measure.message) for measure in order)])


def nagios(health: Health) -> tuple[str, int]:
    """The one line, and the exit code."""
    word, code = NAGIOS[health.state]
    order = sorted(health.measures, key=lambda measure: -RANK[measure.state])
    worst = [measure for measure in order if measure.state != "ok"] or order
    return nagios_line(word, "; ".join(measure.message for measure in worst), health.measures), code


def nagios_line(word: str, text: str, measures: Sequence[Measure] = ()) -> str:
    """``ZCLUSTER WORD - text | performance data``."""
    flat = cell(text)[:MAX_TEXT_CHARS].replace("|", "/")
    data = " ".join(_perfdata(measure) for measure in measures if measure.value is not None)
    return f"ZCLUSTER {word} - {flat}{' | ' + data if data else ''}"


def _perfdata(measure: Measure) -> str:
    unit = measure.unit if measure.unit in UNITS else ""
    warn, crit = _range(measure.limit, "warn"), _range(measure.limit, "crit")
    most = ";100" if unit == "%" else ""
    return f"'{measure.check}'={_number(measure.value or 0.0)}{unit};{warn};{crit};0{most}"


def _range(limit: Limit, which: str) -> str:
    value = limit.warn if which == "warn" else limit.crit
    return "" if value is None else f"@{_number(value)}:"


def prometheus(health: Health) -> str:
    """The whole exposition."""
    lines: list[str] = []
    for name, meaning, samples in _metrics(health):
        lines += [f"# HELP {name} {_escaped_help(meaning)}", f"# TYPE {name} gauge"]
        lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _metrics(health: Health) -> Iterator[tuple[str, str, list[Sample]]]:
    """Name, meaning, samples; a metric without samples is left out."""
    yield "zcluster_up", "Whether the master answered.", [({}, 0.0 if health.error else 1.0)]
    levels = [({"check": measure.check}, float(NAGIOS[measure.state][1])) for measure in health.measures]
    yield "zcluster_check_state", "State of each check: 0 ok, 1 warning, 2 critical, 3 unknown.", levels
    if health.error is not None:
        return
    counts = {state: sum(row["state"] == state for row in health.nodes) for state in STATES}
    yield "zcluster_nodes", "Nodes by state.", [({"state": state}, float(count)) for state, count in counts.items()]
    for name, meaning, of in _NODE_METRICS:
        known = [(row, value) for row in health.nodes if (value := _value(row, of)) is not None]
        if known:
            yield name, meaning, [({"node": str(row["name"]), "role": str(row["role"])}, value) for row, value in known]
    requests = health.status.get("requests", {})
    for key in ("waiting", "running"):
        yield f"zcluster_requests_{key}", f"Requests that are {key}.", [({}, float(requests.get(key, 0)))]
    states = health.queue.get("states", {})
    if states:
        yield "zcluster_queue_jobs", "Durable jobs by state.", [({"state": str(state)}, float(n)) for state, n in states.items()]
        yield "zcluster_queue_writable", "Whether the queue takes jobs.", [({}, float(bool(health.queue.get("writable", True))))]
    if health.trees:
        yield "zcluster_sync_files_behind", "Files that a node's copy of a tree is behind.", [
            ({"tree": str(row["tree"]), "node": str(row["worker"])}, float(row.get("files_behind") or 0)) for row in health.trees
        ]


_NODE_METRICS = (
    ("zcluster_node_ready", "Whether the node is ready.", "ready"),
    ("zcluster_node_drained", "Whether the node is drained.", "drained"),
    ("zcluster_node_in_flight", "Requests that run on the node.", "in_flight"),
    ("zcluster_node_load", "Share of the node's slots that is in use.", "load"),
    ("zcluster_node_last_seen_seconds", "Seconds since the node was heard.", "last_seen_s"),
    ("zcluster_node_cpu_percent", "CPU in use on the node's host.", "cpu_percent"),
    ("zcluster_node_memory_percent", "Memory in use on the node's host.", "memory_percent"),
    ("zcluster_node_disk_percent", "Disk in use where the node's home is.", "disk"),
    ("zcluster_node_agents", "Agents with a session at the node.", "agents"),
)


def _value(row: Mapping[str, Any], of: str) -> float | None:
    if of == "ready":
        return float(row["state"] == "ready")
    found = ((row.get("metrics") or {}).get("disk") or {}).get("percent") if of == "disk" else row.get(of)
    return float(found) if isinstance(found, int | float) else None


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escaped_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.6f}".rstrip("0")
