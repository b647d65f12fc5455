"""What a store takes: the checks that all backends make before anything is done.

Rules kept here:
- each limit of interface.py is held here, and only here;
- a key is printable text: one to MAX_KEY_CHARS characters, no control characters, nothing that UTF-8 cannot say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from zcluster.errors import TooLarge, UsageError
from zcluster.store.interface import (
    MAX_COMMIT_BYTES,
    MAX_KEY_CHARS,
    MAX_OPS,
    MAX_PAGE,
    MAX_TTL_S,
    MAX_VALUE_BYTES,
    Delete,
    Expect,
    Put,
)
from zcluster.wire.tables import BUCKETS

_BAD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_key(key: str) -> None:
    """Raises UsageError unless ``key`` may be one."""
    if not isinstance(key, str) or not key:
        raise UsageError(f"a key is text of at least one character, not {key!r}")
    check_prefix(key)


def check_prefix(prefix: str) -> None:
    """Raises UsageError unless keys may begin with ``prefix``."""
    if not isinstance(prefix, str):
        raise UsageError(f"a key is text, not {prefix!r}")
    if len(prefix) > MAX_KEY_CHARS:
        raise TooLarge(f"a key of {len(prefix)} characters (at most {MAX_KEY_CHARS}): {prefix[:40]}...")
    # ASCII that is printable is the common case, and a third of the price.
    if not (prefix.isascii() and prefix.isprintable()) and _BAD.search(prefix):
        raise UsageError(f"the key {prefix!r} has a control character")


def check_keys(keys: Sequence[str]) -> None:
    """Raises UsageError unless ``keys`` may be asked for at once."""
    if len(keys) > MAX_PAGE:
        raise TooLarge(f"{len(keys)} keys at once (at most {MAX_PAGE})")
    for key in keys:
        check_key(key)


def check_ops(ops: Sequence[Put | Delete], expect: Sequence[Expect]) -> int:
    """How many bytes a commit of ``ops`` has; raises UsageError unless they may be one."""
    if len(ops) > MAX_OPS or len(expect) > MAX_OPS:
        raise TooLarge(
            f"{max(len(ops), len(expect))} operations in one commit (at most {MAX_OPS})", hint="make several commits of them"
        )
    size = 0
    for op in ops:
        check_key(op.key)
        size += len(op.key)
        if type(op) is Put:
            value = op.value
            if type(value) is not bytes:
                raise UsageError(f"the value of {op.key} is {type(value).__name__}, not bytes")
            if len(value) > MAX_VALUE_BYTES:
                raise TooLarge(f"the value of {op.key} has {len(value)} bytes (at most {MAX_VALUE_BYTES})")
            size += len(value)
    for expected in expect:
        check_key(expected.key)
    if size > MAX_COMMIT_BYTES:
        raise TooLarge(f"a commit of {size} bytes (at most {MAX_COMMIT_BYTES})", hint="make several commits of it")
    return size


def check_limit(limit: int) -> None:
    """Raises UsageError unless a page may have ``limit`` entries."""
    if not 1 <= limit <= MAX_PAGE:
        raise UsageError(f"a page has 1 to {MAX_PAGE} entries, not {limit}")


def check_revision(revision: int) -> None:
    """Raises UsageError unless a store could be at ``revision``."""
    if not 0 <= revision < 2**63:
        raise UsageError(f"{revision} is no revision")


def check_ttl(ttl_s: float) -> None:
    """Raises UsageError unless a lease may last ``ttl_s``."""
    if not (math.isfinite(ttl_s) and 0 < ttl_s <= MAX_TTL_S):
        raise UsageError(f"a lease lasts more than 0 and at most {MAX_TTL_S:.0f} seconds, not {ttl_s}")


def check_bucket(number: int) -> None:
    """Raises UsageError unless there is a bucket ``number``."""
    if not 0 <= number < BUCKETS:
        raise UsageError(f"buckets have the numbers 0 to {BUCKETS - 1}, not {number}")
