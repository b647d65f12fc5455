"""The guard: when a look at a tree is not to be believed, or not as far as deletions go.

Rules kept here:
- a root or marker that is missing, a tree that is suddenly empty, or one that loses more than its share holds everything
  back, with the reason and what to do about it in words: an unmounted disk looks just like that;
- a look that could not see everything (unreadable directories, errors) holds back the deletions only: what was not seen
  is not gone;
- a person's confirmation stands for what a person can judge; it never makes up for a root that is not there, nor for an
  incomplete look.
"""

from __future__ import annotations

from dataclasses import dataclass

from zcluster.core.sync.effects import Looked
from zcluster.core.sync.plan import Plan

MIN_DELETES = 10
"""Fewer files than this may go whatever their share is: half of a tree of two files is one file."""

_CONFIRM = "if that is right, say `zcluster sync confirm`"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be done with a look.

    Args:
        held: why nothing may be done, and what to do about it; empty: go on.
        deletions: whether deletions may be done; False while ``held``, too.
    """

    held: str
    deletions: bool


def judge(
    *,
    known_before: bool,
    root_ok: bool,
    marker_ok: bool,
    complete: bool,
    files_before: int,
    files_after: int,
    deleted: int,
    share: float,
    confirmed: bool,
) -> Verdict:
    """Judge a change of a tree before it is published (source) or carried out (sink).

    Args:
        known_before: the tree was synced before, so its root has to have the marker.
        root_ok, marker_ok: the directory is there; the marker is in it.
        complete: everything in it could be seen.
        files_before, files_after: how many files it has had and will have.
        deleted: how many files go.
        share: of ``files_before`` that may go without being held; 0 to 1.
        confirmed: a person has said that it is right.
    """
    if not root_ok:
        return Verdict("its directory is missing: mount or create it, and sync goes on by itself", False)
    held = ""
    if known_before and not marker_ok:
        held = f"its directory has lost its marker (a disk that is not mounted?): mount it again, or {_CONFIRM}"
    elif deleted and complete and not files_after:
        held = f"it is suddenly empty, it had {files_before} files: {_CONFIRM}"
    elif complete and deleted >= MIN_DELETES and deleted > share * files_before:
        held = f"{deleted} of {files_before} files would go, more than {share:.0%} of them: {_CONFIRM}"
    if held and not confirmed:
        return Verdict(held, False)
    return Verdict("", complete)


def judge_first(looked: Looked, plan: Plan, share: float, confirmed: bool) -> str:
    """Why the plan of a copy's first version is not carried out unless someone confirms it; empty: it is.

    What would delete much of what is in the place that the copy was given is more likely a wrong place.
    """
    return judge(
        known_before=False, root_ok=True, marker_ok=looked.marker_ok, complete=looked.complete, files_before=looked.files,
        files_after=looked.files + plan.more_files, deleted=plan.deletes, share=share, confirmed=confirmed,
    ).held  # fmt: skip
