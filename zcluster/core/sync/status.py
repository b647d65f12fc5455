"""What the master tells of its trees and their copies, as the functions ``sync.status`` and ``sync.trees`` return it.

Rule kept here: a copy that is not as its source is has a reason, always.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from zcluster.core.sync.declared import Declared
from zcluster.core.sync.effects import Place
from zcluster.core.sync.hub import Hub
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
        NoSuchNode: there is no such worker.
    """
    if worker:
        hub.check_worker(worker)
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
    own = hub.own_reports.get(place)
    state, reason = _state_up(hub, tree, worker, report, own) if source is None else _state(hub, tree, worker, source, report)
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
        "behind_since_s": _since(hub, place, report, now, wall_s) if state != "current" else None,
        "reason": reason,
        "bytes_per_s": round(report.bytes_per_s) if state in ("pulling", "applying") else 0,
        "error": report.error or (own.error if own is not None else ""),
        "root": report.root,
        "applied_at_s": round(wall_s - age_s - report.age_s, 3) if report.age_s is not None else None,
    }


def _away(hub: Hub, worker: str) -> str:
    return "" if hub.is_here(worker) else hub.known.get(worker) or "it has not joined since the master's start"


def _state(hub: Hub, tree: str, worker: str, source: Source, report: Report) -> tuple[str, str]:
    """Of a worker's copy of a tree of the master."""
    if away := _away(hub, worker):
        return "away", away
    if source.held:
        return "held", source.held
    current = report.clean and report.version == source.version and report.root == source.root.hex()
    if current and report.state == "current":
        return "current", report.reason
    if hub.is_paused(tree, worker) and report.state in ("waiting", "current", "paused"):
        return "paused", f"paused: `zcluster sync resume --tree {tree}`"
    if report.state == "current":
        return "waiting", f"version {source.version} has been announced to it"
    return report.state, report.reason or report.error or _why(report.state)


def _state_up(hub: Hub, tree: str, worker: str, report: Report, own: Report | None) -> tuple[str, str]:
    """Of the master's copy of a worker's tree: what the master did, and what the worker says of its own files."""
    if away := _away(hub, worker):
        return "away", away
    if own is not None and own.state == "held":
        return "held", own.reason
    if report.state == "current":
        return "current", report.reason or _not_merged(hub, (tree, worker)) or _left_out(own)
    if hub.is_paused(tree, worker) and report.state in ("waiting", "paused"):
        return "paused", f"paused: `zcluster sync resume --tree {tree}`"
    return report.state, report.reason or report.error or _why(report.state)


def _not_merged(hub: Hub, place: Place) -> str:
    """Which files of a worker are not in the merged directory, and whose are."""
    sink = hub.sinks.get(place)
    looked = sink.looked if sink is not None else None
    if looked is None or not looked.conflicts:
        return f"{looked.errors[0][0]}: {looked.errors[0][1]}" if looked is not None and looked.errors else ""
    first = looked.conflicts[0]
    whose = f"belongs to {first.owner}" if first.owner else "is there and not from a worker"
    are = "are" if looked.conflict_count > 1 else "is"
    return f"{looked.conflict_count} of its files {are} not merged: {first.at} {whose}"


def _left_out(own: Report | None) -> str:
    if own is None or not own.refused:
        return own.error if own is not None else ""
    path, reason = own.refused[0]
    more = f" (and {own.refused_count - 1} more)" if own.refused_count > 1 else ""
    return f"the worker leaves out {path}: {reason}{more}"


def _why(state: str) -> str:
    return "" if state == "current" else "it has not reported yet"


def _since(hub: Hub, place: Place, report: Report, now: float, wall_s: float) -> float | None:
    """When the first version was published that the sink does not hold; of a worker's tree, since when its copy is not right."""
    source = hub.sources.get(place[0])
    if source is None:
        at_s = hub.behind_since_s.get(place)
    else:
        at_s = next((at for number, at in source.published if number > report.version), None)
    return round(wall_s - (now - at_s), 3) if at_s is not None else None


def _tree(hub: Hub, name: str, declared: Declared, now: float, wall_s: float) -> dict[str, Any]:
    source = hub.sources.get(name)
    row = {
        "name": name,
        "direction": declared.info.direction,
        "workers": declared.workers,
        "epoch": hub.epoch,
        "paused": sorted(worker or "all" for tree, worker in hub.paused if tree == name),
    }
    return {**row, **(_own(declared, source, now, wall_s) if source is not None else _collected(hub, name, declared))}


def _own(declared: Declared, source: Source, now: float, wall_s: float) -> dict[str, Any]:
    """Of a tree of the master's own."""
    looked, opened, scanned = source.looked, source.opened, source.looked_at_s
    return {
        "path": opened.location if opened is not None else declared.local.path,
        "version": source.version,
        "root": source.root.hex(),
        "files": source.files,
        "bytes": source.bytes,
        "held": source.held,
        "conflicts": [],
        "conflict_count": 0,
        "refused": _named(looked.refused) if looked is not None else [],
        "refused_count": looked.refused_count if looked is not None else 0,
        "errors": _named(looked.errors) if looked is not None else [],
        "watching": (opened.watching or "yes") if opened is not None else "",
        "scanned_at_s": round(wall_s - (now - scanned), 3) if scanned is not None else None,
        "scan_s": round(looked.scan_s, 4) if looked is not None else None,
    }


def _collected(hub: Hub, name: str, declared: Declared) -> dict[str, Any]:
    """Of a tree that workers bring up: all their copies together; paths begin with the worker's name."""
    looks = [(worker, sink.looked) for (tree, worker), sink in hub.sinks.items() if tree == name]
    copies = [looked for _, looked in looks if looked is not None]
    errors = [(f"{worker}/{path}", why) for worker, looked in looks if looked is not None for path, why in looked.errors]
    own = [(worker, report) for (tree, worker), report in hub.own_reports.items() if tree == name]
    held = [f"{worker}: {report.reason}" for worker, report in own if report.state == "held"]
    refused = [(f"{worker}/{path}", reason) for worker, report in own for path, reason in report.refused]
    return {
        "path": declared.local.path,
        "version": 0,
        "root": "",
        "files": sum(copy.files for copy in copies),
        "bytes": sum(copy.bytes for copy in copies),
        "held": held[0] + (f" (and {len(held) - 1} more workers)" if len(held) > 1 else "") if held else "",
        "conflicts": [
            {"path": each.path, "worker": each.worker, "owner": each.owner, "at": each.at}
            for each in islice((each for copy in copies for each in copy.conflicts), MAX_REFUSED)
        ],
        "conflict_count": sum(copy.conflict_count for copy in copies),
        "refused": _named(refused),
        "refused_count": sum(report.refused_count for _, report in own),
        "errors": _named([*errors, *((worker, report.error) for worker, report in own if report.error)]),
        "watching": "",
        "scanned_at_s": None,
        "scan_s": None,
    }


def _named(found: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"path": path, "reason": reason} for path, reason in islice(found, MAX_REFUSED)]
