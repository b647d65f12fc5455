"""What a store of jobs refuses before it does anything."""

from __future__ import annotations

from zcluster.errors import TooLarge, UsageError
from zcluster.store.jobs import MAX_ASKED, MAX_BATCH_JOBS, MAX_META_BYTES, MAX_PAGE, Batch


def check_batch(batch: Batch) -> None:
    """Raises UsageError unless ``batch`` is within the limits."""
    for what, count in (("inserted", len(batch.insert)), ("updated", len(batch.update)), ("deleted", len(batch.delete))):
        if count > MAX_BATCH_JOBS:
            raise TooLarge(f"{count} jobs to be {what} in one batch, at most {MAX_BATCH_JOBS} are allowed")
    asked = max(len(batch.fetch), *batch.ready.values(), 0)
    if asked > MAX_ASKED:
        raise TooLarge(f"{asked} jobs asked for, at most {MAX_ASKED} are given at once")
    for name, value in batch.meta.items():
        if len(value) > MAX_META_BYTES:
            raise TooLarge(f"{name[:80]!r} has {len(value)} bytes, at most {MAX_META_BYTES} are kept")


def check_page(limit: int) -> None:
    """Raises UsageError unless a page may have ``limit`` jobs."""
    if not 1 <= limit <= MAX_PAGE:
        raise UsageError(f"a page has 1 to {MAX_PAGE} jobs, not {limit}")
