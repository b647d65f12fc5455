"""The guard: when a look at a tree is not to be believed.

Rules kept here:
- a marker that is missing, a tree that is suddenly empty, or one that loses more than its share holds everything back, with the
  reason and what to do about it in words: an unmounted disk looks just like that (a root that is missing cannot be looked at:
  opening it says so);
- a look that could not see everything is judged like any other: what it could not see it has kept, so what it lacks is
  gone. Nothing that someone leaves unreadable, and no file that goes while it is looked at, switches the guard off;
- a person's confirmation stands for all that is judged here.
"""

from __future__ import annotations

from zcluster.core.sync.effects import Looked
from zcluster.core.sync.plan import Plan

MIN_DELETES = 10
"""Fewer files than this may go whatever their share is: half of a tree of two files is one file."""

_CONFIRM = "if that is right, say `zcluster sync confirm`"


def judge(
    *,
    known_before: bool,
    marker_ok: bool,
    files_before: int,
    files_after: int,
    deleted: int,
    share: float,
    confirmed: bool,
) -> str:
    """Judge a change of a tree before it is published (source) or carried out (sink).

    Returns:
        Why nothing may be done, and what to do about it; empty: go on.

    Args:
        known_before: the tree was synced before, so its root has to have the marker.
        marker_ok: its directory has the marker.
        files_before, files_after: how many files it has had and will have.
        deleted: how many files go.
        share: of ``files_before`` that may go without being held; 0 to 1.
        confirmed: a person has said that it is right.
    """
    if confirmed:
        return ""
    if known_before and not marker_ok:
        return f"its directory has lost its marker (a disk that is not mounted?): mount it again, or {_CONFIRM}"
    if deleted and not files_after:
        return f"it is suddenly empty, it had {files_before} files: {_CONFIRM}"
    if deleted >= MIN_DELETES and deleted > share * files_before:
        return f"{deleted} of {files_before} files would go, more than {share:.0%} of them: {_CONFIRM}"
    return ""


def judge_first(looked: Looked, plan: Plan, share: float, confirmed: bool) -> str:
    """Why the plan of a copy's first version is not carried out unless someone confirms it; empty: it is.

    What would delete much of what is in the place that the copy was given is more likely a wrong place.
    """
    return judge(
        known_before=False, marker_ok=looked.marker_ok, files_before=looked.files,
        files_after=looked.files + plan.more_files, deleted=plan.deletes, share=share, confirmed=confirmed,
    )  # fmt: skip
