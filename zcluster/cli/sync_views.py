"""What ``zcluster sync`` prints: columns, sizes and ages for people; the data itself for programs.

Rules kept here:
- json, ndjson and yaml carry what the cluster answered, in bytes and Unix times; only tables have readable sizes and ages;
- a state that is not "current" is never shown without its reason.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zcluster.cli.output import Column, cell, emit_list, json_text, pairs, put, seconds, table

STATES = {
    "current": "green", "waiting": "cyan", "pulling": "cyan", "applying": "cyan",
    "held": "red", "failed": "red", "paused": "yellow", "away": "yellow", "gone": "yellow",
}  # fmt: skip
CHANGES = {"added": "green", "changed": "yellow", "removed": "red"}
CLASSES = ("missing", "shared", "extra", "extra_valid")
"""What a copy has otherwise than its source; the last one is no difference to mend."""
CLASS_COLOURS = {"missing": "red", "shared": "yellow", "extra": "red", "extra_valid": "green"}
READABLE = (None, "table", "wide")


def size(value: Any) -> str:
    """A number of bytes as people read it: ``512 B``, ``3.4 MiB``."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return cell(value)
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def age(value: Any) -> str:
    """How long ago a Unix time was; ``-`` for none. Clocks differ: a time to come is now."""
    return seconds(max(0.0, time.time() - value)) if isinstance(value, int | float) and value else "-"


def moment(value: Any) -> str:
    """A Unix time in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value)) if isinstance(value, int | float) and value else "-"


def short(value: Any) -> str:
    """The first digits of a digest."""
    return cell(str(value)[:12] if value else "")


STATUS_COLUMNS = (
    Column("worker", "WORKER"),
    Column("tree", "TREE"),
    Column("direction", "DIRECTION", wide=True),
    Column("state", "STATE", colours=STATES),
    Column("version", "VERSION", right=True),
    Column("target", "TARGET", right=True, wide=True),
    Column("root", "ROOT", wide=True, text=short),
    Column("files_behind", "FILES", right=True),
    Column("bytes_behind", "BEHIND", right=True, text=size),
    Column("behind_since_s", "SINCE", right=True, text=age),
    Column("bytes_per_s", "PER-S", right=True, text=size),
    Column("applied_at_s", "APPLIED", wide=True, right=True, text=age),
    Column("why", "REASON"),
)
TREE_COLUMNS = (
    Column("name", "TREE"),
    Column("direction", "DIRECTION"),
    Column("state", "STATE", colours={"ok": "green", "held": "red", "paused": "yellow", "errors": "red"}),
    Column("version", "VERSION", right=True),
    Column("epoch", "EPOCH", right=True, wide=True),
    Column("root", "ROOT", wide=True, text=short),
    Column("files", "FILES", right=True),
    Column("bytes", "SIZE", right=True, text=size),
    Column("scanned_at_s", "SCANNED", right=True, text=age),
    Column("watching", "WATCHED", wide=True),
    Column("workers", "WORKERS", wide=True),
    Column("path", "PATH"),
)
DIFF_COLUMNS = (
    Column("class", "CLASS", colours=CLASS_COLOURS),
    Column("tree", "TREE"),
    Column("size", "SIZE", right=True, text=size),
    Column("copy_size", "COPY", right=True, text=size),
    Column("mtime_s", "MODIFIED", text=moment),
    Column("copy_mtime_s", "COPY-MODIFIED", text=moment),
    Column("path", "PATH"),
)
VERIFY_COLUMNS = (
    Column("tree", "TREE"),
    Column("files", "FILES", right=True),
    Column("bytes", "SIZE", right=True, text=size),
    Column("wrong", "WRONG", right=True, text=lambda wrong: str(len(wrong or ()))),
)
WRONG_COLUMNS = (Column("tree", "TREE"), Column("reason", "REASON"), Column("path", "PATH"))
HISTORY_COLUMNS = (
    Column("version", "VERSION", right=True),
    Column("tree", "TREE"),
    Column("at_s", "AT", text=moment),
    Column("cause", "CAUSE"),
    Column("of", "OF", right=True, text=lambda version: cell(version or None)),
    Column("files", "FILES", right=True),
    Column("bytes", "SIZE", right=True, text=size),
    Column("added", "ADDED", right=True),
    Column("changed", "CHANGED", right=True),
    Column("removed", "REMOVED", right=True),
    Column("epoch", "EPOCH", right=True, wide=True),
    Column("root", "ROOT", wide=True, text=short),
    Column("kept", "KEPT"),
    Column("reason", "REASON"),
)
CHANGE_COLUMNS = (
    Column("change", "CHANGE", colours=CHANGES),
    Column("kind", "KIND"),
    Column("size", "SIZE", right=True, text=size),
    Column("old_size", "BEFORE", right=True, text=size),
    Column("path", "PATH"),
)


def is_behind(row: Mapping[str, Any]) -> bool:
    """Whether a row of status is one to care about: it has not what its source has, or something is wrong with it."""
    if row.get("state") == "current":
        return False
    resting = row.get("state") in ("paused", "away") and row.get("version") == row.get("target")
    return not resting or bool(row.get("files_behind") or row.get("error"))


def in_order(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By worker, then by tree."""
    return sorted(map(dict, rows), key=lambda row: (str(row.get("worker")), str(row.get("tree"))))


def with_reasons(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of status with ``why``: the reason and the last error in one text."""
    from zcluster.clients.sync import why

    return [{**row, "why": why(row)} for row in rows]


def emit_status(rows: Sequence[Mapping[str, Any]], output: str | None) -> None:
    """Print the rows of status; ``-o name`` gives WORKER/TREE."""
    if output == "name":
        for row in rows:
            put(f"{cell(row.get('worker'))}/{cell(row.get('tree'))}")
    else:
        emit_list(with_reasons(rows) if output in READABLE else rows, STATUS_COLUMNS, output)


def status_lines(rows: Sequence[Mapping[str, Any]], *, wide: bool) -> list[str]:
    """The table of status."""
    return table(with_reasons(rows), STATUS_COLUMNS, wide=wide)


def change_line(row: Mapping[str, Any]) -> str:
    """One changed row on a line."""
    (shown,) = with_reasons([row])
    version = cell(row.get("version"))
    if row.get("target") not in (None, row.get("version")):
        version += f" of {cell(row['target'])}"
    return (
        f"{time.strftime('%H:%M:%S')}  {cell(row.get('worker')):<16}  {cell(row.get('tree')):<12}  "
        f"{cell(row.get('state')):<8}  {version:>6}  {cell(shown['why'])}"
    )


def tree_state(tree: Mapping[str, Any]) -> str:
    """The state of a tree at the master, in a word."""
    return "held" if tree.get("held") else "errors" if tree.get("errors") else "paused" if tree.get("paused") else "ok"


def tree_troubles(trees: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the trees at the master, a line each."""
    found = []
    for tree in trees:
        name = cell(tree.get("name"))
        if tree.get("held"):
            found.append(f"tree {name} is held: {cell(tree['held'])}")
        if tree.get("paused"):
            found.append(f"tree {name} is paused")
        if tree.get("errors"):
            found.append(f"tree {name} has errors: {cell(tree['errors'])}")
        conflicts = tree.get("conflicts") or ()
        if conflicts:
            first, count = conflicts[0], tree.get("conflict_count") or len(conflicts)
            whose = f"belongs to {cell(first['owner'])}" if first.get("owner") else "is not from a worker"
            whose = f"{cell(first.get('at'))} {whose}"
            more = f", and {count - 1} more" if count > 1 else ""
            found.append(f"tree {name} does not merge {cell(first.get('path'))} of {cell(first.get('worker'))}: {whose}{more}")
        refused = tree.get("refused") or ()
        if refused:
            first = refused[0]
            more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
            found.append(f"tree {name} leaves out {cell(first.get('path'))}: {cell(first.get('reason'))}{more}")
    return found


def differences(found: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """The files of a diff as one list, and how many the worker left out of it."""
    keys = ("path", "size", "mtime_s", "copy_size", "copy_mtime_s")
    items, left_out = [], 0
    for tree in found.get("trees") or ():
        left_out += int(tree.get("more") or 0)
        for kind in CLASSES:
            items += [
                {"class": kind, "tree": tree.get("tree"), **{key: each.get(key) for key in keys}} for each in tree.get(kind) or ()
            ]
    return items, left_out


def emit_diff(items: Sequence[Mapping[str, Any]], output: str | None) -> None:
    """Print the differences; nothing at all in a table when there are none."""
    if items or output not in READABLE:
        emit_list(items, DIFF_COLUMNS, output, name_key="path")


def emit_verify(trees: Sequence[Mapping[str, Any]], output: str | None) -> None:
    """Print the verified trees; in a table also each wrong file, with ``-o name`` only these."""
    wrong = [{"tree": tree.get("tree"), **each} for tree in trees for each in tree.get("wrong") or ()]
    if output == "name":
        for each in wrong:
            put(cell(each.get("path")))
        return
    emit_list(trees, VERIFY_COLUMNS, output)
    if wrong and output in READABLE:
        put("")
        emit_list(wrong, WRONG_COLUMNS, output)


def emit_version(item: Mapping[str, Any], output: str | None) -> None:
    """Print one version and its changes; ``-o ndjson`` and ``name`` give the changes only."""
    changes = item.get("changes") or ()
    if output in ("ndjson", "name"):
        for change in changes:
            put(json_text(change) if output == "ndjson" else cell(change.get("path")))
        return
    facts = [
        ("tree", item.get("tree")),
        ("version", item.get("version")),
        ("at", moment(item.get("at_s"))),
        ("cause", item.get("cause")),
        ("of", item.get("of") or None),
        ("files", item.get("files")),
        ("size", size(item.get("bytes"))),
        ("root", item.get("root")),
        ("kept", item.get("kept")),
        ("reason", item.get("reason")),
    ]
    for line in [*pairs(facts), "", *table(changes, CHANGE_COLUMNS, wide=output == "wide")]:
        put(line)
    if item.get("more"):
        put(f"and {cell(item['more'])} more")
