"""What the master tells of its trees and their copies, as the functions ``sync.status`` and ``sync.trees`` return it.

Rule kept here: a copy that is not as its source is has a reason, always.
"""

from __future__ import annotations

from typing import Any

from zcluster.core.sync.hub import Declared, Hub
from zcluster.core.sync.source import Source
from zcluster.wire.trees import Report

MAX_REFUSED = 100


def status_rows(hub: Hub, tree: str, worker: str, now: float, wall_s: float) -> list[dict[str, Any]]:
    """A row for each worker and tree.

    Args:
        tree, worker: only these; empty: all.
        now: the machine's time; wall_s: the same moment in seconds since 1970.

    Raises:
        NoSuchTree: no such tree is declared.
    """
    rows: list[dict[str, Any]] = []
    for name in hub.named(tree):
        for each in hub.concerned(name):
            if worker in ("", each):
                rows.append(_row(hub, name, each, now, wall_s))
    return rows


def tree_rows(hub: Hub, now: float, wall_s: float) -> list[dict[str, Any]]:
    """A row for each tree that is declared."""
    return [_tree(hub, name, declared, now, wall_s) for name, declared in hub.declared.items()]


def _row(hub: Hub, tree: str, worker: str, now: float, wall_s: float) -> dict[str, Any]:
    place = (tree, worker)
    source, sink = hub.sources.get(tree), hub.sinks.get(place)
    reported = hub.reports.get(place)
    report = sink.report(now) if sink is not None else reported[0] if reported is not None else Report(tree=tree, state="waiting")
    age_s = 0.0 if sink is not None or reported is None else now - reported[1]
    state, reason = _state(hub, tree, worker, source, report)
    target = source.version if source is not None else report.target
    files, size = report.files_behind, report.bytes_behind
    if source is not None and state != "current" and not files and not size:
        behind = source.serving.changes_since(report.version) if report.version else source.files
        files, size = (source.files if behind is None else behind), (0 if report.version else source.bytes)
    return {
        "worker": worker,
        "tree": tree,
        "direction": hub.declared[tree].info.direction,
        "state": state,
        "version": report.version,
        "target": target,
        "files_behind": 0 if state == "current" else files,
        "bytes_behind": 0 if state == "current" else size,
        "behind_since_s": _since(source, report, now, wall_s) if state != "current" else None,
        "reason": reason,
        "bytes_per_s": round(report.bytes_per_s) if state in ("pulling", "applying") else 0,
        "error": report.error,
        "root": report.root,
        "applied_at_s": round(wall_s - age_s - report.age_s, 3) if report.age_s is not None else None,
    }


def _state(hub: Hub, tree: str, worker: str, source: Source | None, report: Report) -> tuple[str, str]:
    if not hub.is_here(worker):
        return "away", hub.known.get(worker) or "it has not joined since the master's start"
    if source is None:
        paused = hub.is_paused(tree, worker) and report.state != "current"
        return ("paused", "paused") if paused else (report.state, report.reason or _why(report.state))
    if source.held:
        return "held", source.held
    current = report.clean and report.version == source.version and report.root == source.root.hex()
    if current and report.state == "current":
        return "current", report.reason
    if hub.is_paused(tree, worker) and report.state in ("waiting", "current", "paused"):
        return "paused", "paused: `zcluster sync resume`"
    if report.state == "current":
        return "waiting", f"version {source.version} has been announced to it"
    return report.state, report.reason or report.error or _why(report.state)


def _why(state: str) -> str:
    return "" if state == "current" else "it has not reported yet"


def _since(source: Source | None, report: Report, now: float, wall_s: float) -> float | None:
    """When the first version was published that the worker does not hold."""
    if source is None:
        return None
    at_s = next((at for number, at in source.published if number > report.version), None)
    return round(wall_s - (now - at_s), 3) if at_s is not None else None


def _tree(hub: Hub, name: str, declared: Declared, now: float, wall_s: float) -> dict[str, Any]:
    source = hub.sources.get(name)
    looked = source.looked if source is not None else None
    opened = source.opened if source is not None else None
    copies = [sink.looked for place, sink in hub.sinks.items() if place[0] == name and sink.looked is not None]
    scanned = source.looked_at_s if source is not None else None
    return {
        "name": name,
        "direction": declared.info.direction,
        "path": opened.location if opened is not None else declared.local.path,
        "workers": declared.workers,
        "version": source.version if source is not None else 0,
        "epoch": hub.epoch,
        "root": source.root.hex() if source is not None else "",
        "files": source.files if source is not None else sum(copy.files for copy in copies),
        "bytes": source.bytes if source is not None else sum(copy.bytes for copy in copies),
        "held": source.held if source is not None else "",
        "paused": sorted(worker or "all" for tree, worker in hub.paused if tree == name),
        "refused": [{"path": path, "reason": reason} for path, reason in (looked.refused[:MAX_REFUSED] if looked else ())],
        "refused_count": looked.refused_count if looked is not None else 0,
        "errors": [{"path": path, "reason": reason} for path, reason in (looked.errors[:MAX_REFUSED] if looked else ())],
        "watching": (opened.watching or "yes") if opened is not None else "",
        "scanned_at_s": round(wall_s - (now - scanned), 3) if scanned is not None else None,
        "scan_s": round(looked.scan_s, 4) if looked is not None else None,
    }
