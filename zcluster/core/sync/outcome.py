"""Whether a copy is what its plan was to make of it, where no digest says so: beside what the source has it may have files of
its own.

Rule kept here: what differs from before is what the plan did, and all that it did, but for what the copy may have of its own.
"""

from __future__ import annotations

from collections.abc import Container

from zcluster.core.sync.classify import changes_between
from zcluster.core.sync.entry import DIRECTORY, Entry, Manifest
from zcluster.core.sync.plan import Plan
from zcluster.core.sync.rules import Rules


def unplanned(before: Manifest, after: Manifest, plan: Plan, rules: Rules, kept: Container[str]) -> str:
    """A path that is not as ``plan`` was to leave it; empty when all are.

    Args:
        before: what the plan was made for.
        after: what there is now.
        kept: directories that were to go and could not.
    """
    expected: dict[str, Entry | int | None] = dict.fromkeys((*plan.move_away, *plan.delete_files, *plan.delete_dirs))
    expected.update(plan.make_dirs)
    expected.update(plan.touch)
    expected.update(plan.link)
    expected.update(plan.staged.fetch)
    for change in changes_between(before, after):
        path, new = change.path, change.new
        if path in expected:
            if not _is(new, expected.pop(path)) and path not in kept:
                return path
            continue
        entry = new or change.old
        own = entry is not None and (
            rules.is_extra_valid(path, entry.kind == DIRECTORY) or not rules.covers(path, entry.kind == DIRECTORY)
        )
        if not own:
            return path
    return next((path for path in expected if path not in kept), "")


def _is(entry: Entry | None, wanted: Entry | int | None) -> bool:
    """``wanted``: an entry, a directory's mode, or None for nothing."""
    if entry is None or wanted is None:
        return entry is wanted
    if isinstance(wanted, int):
        return entry.kind == DIRECTORY and entry.mode == wanted
    if wanted.kind == DIRECTORY:
        return entry.kind == DIRECTORY and entry.mode == wanted.mode
    return entry == wanted
