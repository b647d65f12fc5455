"""Digests by bucket: whether two copies of a table are the same, and where they differ.

Rules kept here:
- what a bucket is and how it is digested is said once, where copies of tables are compared (core/tables/digests.py);
- the prefixes that have digests do not contain one another: a key belongs to at most one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from zcluster.core.tables.digests import bucket_of as bucket_of
from zcluster.core.tables.digests import digest_bytes as digest_bytes
from zcluster.core.tables.digests import entry_digest as entry_digest
from zcluster.errors import UsageError
from zcluster.store.limits import check_key

MAX_PREFIXES = 64


def check_prefixes(prefixes: Sequence[str]) -> None:
    """Raises UsageError unless ``prefixes`` may have digests beside one another."""
    if len(prefixes) > MAX_PREFIXES:
        raise UsageError(f"{len(prefixes)} prefixes with digests (at most {MAX_PREFIXES})")
    for prefix in prefixes:
        check_key(prefix)
    # In order, a prefix of others comes directly before the first of them.
    ordered = sorted(prefixes)
    for one, other in pairwise(ordered):
        if other.startswith(one):
            raise UsageError(f"the digests of {one} would contain those of {other}")
