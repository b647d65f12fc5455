"""The id of a job as people see it: ``STORE-NUMBER``.

Rules kept here:
- a number means nothing without the store that it is of, so nobody is shown the one without the other;
- what is no such text is the caller's mistake; an id of another store is well formed, and there is no such job.
"""

from __future__ import annotations

from zcluster.errors import UsageError, one_line
from zcluster.wire.messages import MAX_ID

STORE_CHARS = 8
_HEX = frozenset("0123456789abcdef")


def job_id(store: str, number: int) -> str:
    """The id of job ``number`` of ``store``."""
    return f"{store}-{number}"


def split_job_id(text: str) -> tuple[str, int]:
    """The store and the number in ``text``; raises UsageError when it is no id of a job."""
    store, _, digits = text.partition("-")
    if len(store) == STORE_CHARS and _HEX.issuperset(store) and digits.isascii() and digits.isdigit() and len(digits) <= 16:
        number = int(digits)
        if 1 <= number <= MAX_ID and not digits.startswith("0"):
            return store, number
    shown = text if len(text) <= 40 else text[:39] + "…"
    raise UsageError(f"{one_line(shown)!r} is no id of a job", hint="such as 1f3a5c7e-42; `zcluster queue ls` lists them")
