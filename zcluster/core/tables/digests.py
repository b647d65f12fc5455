"""Digests of tables: whether a copy is the same as its source, and in which buckets it is not.

Rules kept here:
- a key falls into the bucket xxh3_64(key) modulo BUCKETS;
- an entry's digest is xxh3_128(key, 0 byte, value), most significant byte first; a bucket's is the XOR of its entries';
- the digest of a table is xxh3_128 of its bucket digests, one after the other.

xxh3 is fast and forgeable: who may write to a table could make two of the same digest. Only the master writes, and only for
those who may.
"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from zcluster.errors import PeerError
from zcluster.wire.tables import BUCKETS

DIGEST_BYTES = 16


def bucket_of(key: str) -> int:
    """The bucket of ``key``."""
    return int(xxhash.xxh3_64_intdigest(key.encode()) % BUCKETS)


def entry_digest(key: str, value: bytes) -> int:
    """The digest of an entry, as a number."""
    return int(xxhash.xxh3_128_intdigest(b"%b\0%b" % (key.encode(), value)))


def digest_bytes(digest: int) -> bytes:
    """``digest`` as it travels."""
    return digest.to_bytes(DIGEST_BYTES, "big")


def table_digest(buckets: Sequence[bytes]) -> str:
    """The digest of a table, hexadecimal, from those of its buckets."""
    return xxhash.xxh3_128_hexdigest(b"".join(buckets))


def join_digests(buckets: Sequence[bytes]) -> bytes:
    """The body of an ASK for a repair."""
    return b"".join(buckets)


def split_digests(body: bytes) -> list[bytes]:
    """The digests in the body of an ASK for a repair.

    Raises:
        PeerError: it is not BUCKETS digests long.
    """
    if len(body) != BUCKETS * DIGEST_BYTES:
        raise PeerError(f"an ASK for a repair has {BUCKETS * DIGEST_BYTES} bytes of digests, and this one {len(body)}")
    return [body[at : at + DIGEST_BYTES] for at in range(0, len(body), DIGEST_BYTES)]


EMPTY_DIGEST = table_digest([bytes(DIGEST_BYTES)] * BUCKETS)
"""Of a table without a key."""
