"""The store: keys and values with revisions, compare-and-swap, leases and watch. The words are those of etcd's API
(https://etcd.io/docs/v3.5/learning/api/), because its semantics are the field's.

Rules kept here:
- each commit that changes something has the next revision; all its changes carry it; a commit is done whole or not at all;
- what a call has returned is durable; what is waiting when a commit begins goes with it (group commit);
- the changes after a revision can be asked for, until they are compacted; then the answer is Compacted, never a gap;
- a lease ends by itself at its time, and with it all keys that were put under it, as one change;
- an operation comes after those before it: of two on the same key the last one counts, and the key changes once;
- keys are at most MAX_KEY_CHARS without control characters, values MAX_VALUE_BYTES, operations of one commit MAX_OPS
  and MAX_COMMIT_BYTES, a page MAX_PAGE entries and about MAX_PAGE_BYTES.

Every backend passes the same tests (tests/store/contract.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

MAX_KEY_CHARS = 512
MAX_VALUE_BYTES = 1_048_576
MAX_OPS = 10_000
MAX_COMMIT_BYTES = 64 * 1024 * 1024
"""Of the keys and values of one commit."""
MAX_PAGE = 10_000
MAX_PAGE_BYTES = 16 * 1024 * 1024
"""A page ends after the entry that makes it this large, whatever its limit."""
MAX_TTL_S = 366 * 86_400.0
MAX_LEASES = 100_000
KEEP_CHANGES = 100_000
"""About so many changes are kept."""
KEEP_CHANGES_BYTES = 256 * 1024 * 1024
"""And at most about so many bytes of them."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A key that exists."""

    key: str
    value: bytes
    revision: int
    """Of the commit that put it last."""
    created: int
    """Of the commit that put it first."""
    version: int
    """How often it was put since."""
    lease: int = 0


class Put(msgspec.Struct, frozen=True, gc=False):
    """Put ``value`` at ``key``; under a lease it goes when the lease ends."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Delete ``key``; nothing when there is none."""

    key: str


class Expect(msgspec.Struct, frozen=True, gc=False):
    """The commit is done only if ``key`` was last put by ``revision`` (0: it does not exist)."""

    key: str
    revision: int


class Change(msgspec.Struct, frozen=True, gc=False):
    """What a commit did to one key; a value of None: it is gone."""

    revision: int
    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Listing:
    """Some keys in order of their text."""

    entries: list[Entry]
    revision: int
    """Of the store when they were read."""
    more: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """A promise that ends by itself."""

    id: int
    ttl_s: float


class Store(Protocol):
    """A store. All methods may be called from the one event loop that opened it."""

    id: str
    """Random text of this store: a store that was lost and begun again has another."""

    async def revision(self) -> int:
        """Of the last commit; 0 for an empty store."""

    async def get(self, key: str) -> Entry | None:
        """The entry at ``key``."""

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries of those of ``keys`` (at most MAX_PAGE) that exist, read at one moment."""

    async def scan(self, prefix: str, *, after: str = "", limit: int = MAX_PAGE) -> Listing:
        """The keys that begin with ``prefix`` and come after ``after``, at most ``limit`` and about MAX_PAGE_BYTES."""

    async def apply(self, ops: Sequence[Put | Delete], *, expect: Sequence[Expect] = ()) -> int:
        """Commit; returns the store's revision afterwards.

        Raises:
            Conflict: an expectation does not hold; nothing was done. Its ``key`` says which.
            StoreFailed: the disk is full or broken; nothing was done.
            UsageError: beyond a limit. NoSuchLease: a lease that has ended.
            Busy: more waits for the disk than may wait.
        """

    async def grant(self, ttl_s: float) -> Lease:
        """A lease that ends ``ttl_s`` seconds from now unless it is kept alive. A store that is opened again lets each lease
        last its ``ttl_s`` from then: none ends early. Raises UsageError beyond MAX_TTL_S, Busy beyond MAX_LEASES."""

    async def keep_alive(self, lease: int) -> None:
        """Let the lease last its ttl_s from now. Raises NoSuchLease."""

    async def revoke(self, lease: int) -> None:
        """End the lease now. Raises NoSuchLease."""

    async def expire(self) -> None:
        """End the leases whose time has come, each as a commit of its own. The store does this by itself."""

    async def changes(self, prefix: str, after: int, *, limit: int = MAX_PAGE) -> tuple[list[Change], int]:
        """The changes to keys under ``prefix`` with a revision after ``after``, oldest first, at most about ``limit`` but whole
        commits; and the revision up to which they are complete.

        Raises:
            Compacted: older changes are no longer known; its ``oldest`` says from which revision on they are.
        """

    def watch(self, prefix: str, after: int) -> AsyncIterator[tuple[list[Change], int]]:
        """As ``changes``, again and again as they happen; only when there are some. Ends when the store is closed."""

    async def digests(self, prefix: str) -> tuple[list[bytes], int]:
        """The BUCKETS digests (16 bytes each) of the keys under ``prefix``, and the store's revision. A bucket's digest is the
        XOR of xxh3_128(key, 0 byte, value) of its keys; it is kept with each commit, not counted each time, for the prefixes
        that the store was opened with. Raises UsageError for others."""

    async def bucket(self, prefix: str, number: int) -> Listing:
        """All entries of one bucket."""

    async def compact(self, keep: int) -> None:
        """Forget all changes but about the last ``keep``. Entries stay."""

    async def close(self) -> None:
        """End. Everything acknowledged is on disk already."""
