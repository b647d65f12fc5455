"""Digests by bucket: whether two copies of a table are the same, and where they differ.

Rules kept here:
- a key falls into the bucket xxh3_64(key) modulo BUCKETS;
- an entry's digest is xxh3_128(key, 0 byte, value), most significant byte first; a bucket's is the XOR of its entries';
- the prefixes that have digests do not contain one another: a key belongs to at most one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import xxhash

from zcluster.errors import UsageError
from zcluster.store.limits import check_key
from zcluster.wire.tables import BUCKETS

DIGEST_BYTES = 16
MAX_PREFIXES = 64


def bucket_of(key: str) -> int:
    """The bucket of ``key``."""
    return int(xxhash.xxh3_64_intdigest(key.encode()) % BUCKETS)


def entry_digest(key: str, value: bytes) -> int:
    """The digest of an entry, as a number."""
    return int(xxhash.xxh3_128_intdigest(b"%b\0%b" % (key.encode(), value)))


def digest_bytes(digest: int) -> bytes:
    """``digest`` as it travels."""
    return digest.to_bytes(DIGEST_BYTES, "big")


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
