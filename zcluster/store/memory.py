"""The store in memory: the reference of what a store does, for tests and for what needs no disk.

Rules kept here:
- it is the plainest program that keeps interface.py; the others are compared with it;
- nothing is kept when it is closed.
"""

from __future__ import annotations

import bisect
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from msgspec.structs import replace

from zcluster.errors import Compacted, Conflict, UsageError
from zcluster.store.digest import bucket_of, check_prefixes, digest_bytes, entry_digest
from zcluster.store.interface import (
    KEEP_CHANGES,
    KEEP_CHANGES_BYTES,
    MAX_PAGE,
    MAX_PAGE_BYTES,
    Change,
    Delete,
    Entry,
    Expect,
    Lease,
    Listing,
    Put,
)
from zcluster.store.leases import Leases
from zcluster.store.limits import (
    check_bucket,
    check_key,
    check_keys,
    check_limit,
    check_ops,
    check_prefix,
    check_revision,
    check_ttl,
)
from zcluster.store.waking import Waking
from zcluster.wire.tables import BUCKETS


class MemoryStore:
    """A Store (interface.py) whose revisions end with it; ``digests`` are the prefixes that have them."""

    def __init__(
        self, digests: Sequence[str] = (), *, clock: Callable[[], float] = time.monotonic, keep_changes: int = KEEP_CHANGES
    ) -> None:
        check_prefixes(digests)
        self.id = secrets.token_hex(16)
        self._entries: dict[str, Entry] = {}
        self._ordered: list[str] | None = None
        """The keys in order, once somebody asked."""
        self._commits: deque[list[Change]] = deque()
        self._kept = 0
        self._kept_bytes = 0
        self._forgotten = 0
        """The last revision whose changes are no longer known."""
        self._keep_changes = keep_changes
        self._digests = {prefix: [0] * BUCKETS for prefix in digests}
        self._lease_ids = 0
        self._leases = Leases(clock, self._end_lease)
        self._waking = Waking()

    async def revision(self) -> int:
        self._check_open()
        return self._waking.revision

    async def get(self, key: str) -> Entry | None:
        self._check_open()
        check_key(key)
        return self._entries.get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        self._check_open()
        check_keys(keys)
        return {key: self._entries[key] for key in keys if key in self._entries}

    async def scan(self, prefix: str, *, after: str = "", limit: int = MAX_PAGE) -> Listing:
        self._check_open()
        check_prefix(prefix)
        check_prefix(after)
        check_limit(limit)
        found: list[Entry] = []
        size = 0
        keys = self._keys()
        start = bisect.bisect_left(keys, prefix) if after < prefix else bisect.bisect_right(keys, after)
        for key in keys[start:]:
            if not key.startswith(prefix):
                break
            if len(found) == limit or size >= MAX_PAGE_BYTES:
                return Listing(found, self._waking.revision, more=True)
            found.append(self._entries[key])
            size += len(key) + len(found[-1].value)
        return Listing(found, self._waking.revision, more=False)

    async def apply(self, ops: Sequence[Put | Delete], *, expect: Sequence[Expect] = ()) -> int:
        self._check_open()
        check_ops(ops, expect)
        for lease in {op.lease for op in ops if isinstance(op, Put) and op.lease}:
            self._leases.check(lease)
        for expected in expect:
            entry = self._entries.get(expected.key)
            if (entry.revision if entry else 0) != expected.revision:
                raise conflict(expected, entry.revision if entry else 0)
        return self._commit(ops)

    async def grant(self, ttl_s: float) -> Lease:
        self._check_open()
        check_ttl(ttl_s)
        self._leases.check_room()
        self._lease_ids += 1
        lease = Lease(self._lease_ids, ttl_s)
        self._leases.add([lease])
        return lease

    async def keep_alive(self, lease: int) -> None:
        self._check_open()
        self._leases.keep(lease)

    async def revoke(self, lease: int) -> None:
        self._check_open()
        await self._leases.revoke(lease)

    async def expire(self) -> None:
        self._check_open()
        await self._leases.run_due()

    async def changes(self, prefix: str, after: int, *, limit: int = MAX_PAGE) -> tuple[list[Change], int]:
        self._check_open()
        check_prefix(prefix)
        check_limit(limit)
        check_revision(after)
        if after < self._forgotten:
            raise compacted(after, self._forgotten)
        found: list[Change] = []
        size = 0
        for commit in self._commits:
            if commit[0].revision <= after:
                continue
            some = [change for change in commit if change.key.startswith(prefix)]
            if some and (len(found) >= limit or size >= MAX_PAGE_BYTES):
                return found, found[-1].revision
            found += some
            size += sum(change_bytes(change) for change in some)
        return found, self._waking.revision

    async def watch(self, prefix: str, after: int) -> AsyncIterator[tuple[list[Change], int]]:
        check_revision(after)
        while await self._waking.after(after):
            changes, after = await self.changes(prefix, after)
            if changes:
                yield changes, after

    async def digests(self, prefix: str) -> tuple[list[bytes], int]:
        self._check_open()
        return [digest_bytes(digest) for digest in self._counted(prefix)], self._waking.revision

    async def bucket(self, prefix: str, number: int) -> Listing:
        self._check_open()
        self._counted(prefix)
        check_bucket(number)
        keys = [key for key in self._keys() if key.startswith(prefix) and bucket_of(key) == number]
        return Listing([self._entries[key] for key in keys], self._waking.revision, more=False)

    async def compact(self, keep: int) -> None:
        self._check_open()
        self._forget(max(keep, 0))

    async def close(self) -> None:
        self._waking.close()
        await self._leases.close()

    def _check_open(self) -> None:
        if self._waking.closed:
            raise closed()

    def _keys(self) -> list[str]:
        if self._ordered is None:
            self._ordered = sorted(self._entries)
        return self._ordered

    def _counted(self, prefix: str) -> list[int]:
        digests = self._digests.get(prefix)
        if digests is None:
            raise no_digests(prefix)
        return digests

    def _commit(self, ops: Sequence[Put | Delete]) -> int:
        revision = self._waking.revision + 1
        last = {op.key: op for op in ops}
        changes = [self._put(op, revision) if isinstance(op, Put) else self._delete(op.key, revision) for op in last.values()]
        commit = sorted((change for change in changes if change is not None), key=lambda change: change.key)
        if not commit:
            return self._waking.revision
        self._ordered = None
        self._commits.append(commit)
        self._kept += len(commit)
        self._kept_bytes += sum(map(change_bytes, commit))
        self._forget(self._keep_changes)
        self._waking.advance(revision)
        return revision

    def _put(self, op: Put, revision: int) -> Change:
        before = self._entries.get(op.key)
        if before is None:
            after = Entry(op.key, op.value, revision, created=revision, version=1, lease=op.lease)
        else:
            after = replace(before, value=op.value, revision=revision, version=before.version + 1, lease=op.lease)
            self._count(before)
        self._entries[op.key] = after
        self._count(after)
        return Change(revision, op.key, op.value)

    def _delete(self, key: str, revision: int) -> Change | None:
        before = self._entries.pop(key, None)
        if before is None:
            return None
        self._count(before)
        return Change(revision, key, None)

    def _count(self, entry: Entry) -> None:
        for prefix, digests in self._digests.items():
            if entry.key.startswith(prefix):
                digests[bucket_of(entry.key)] ^= entry_digest(entry.key, entry.value)

    def _forget(self, keep: int) -> None:
        while self._commits and (self._kept - len(self._commits[0]) >= keep or self._kept_bytes > KEEP_CHANGES_BYTES):
            commit = self._commits.popleft()
            self._kept -= len(commit)
            self._kept_bytes -= sum(map(change_bytes, commit))
            self._forgotten = commit[0].revision

    async def _end_lease(self, lease: int) -> None:
        self._commit([Delete(entry.key) for entry in self._entries.values() if entry.lease == lease])


def conflict(expected: Expect, found: int) -> Conflict:
    """The error for an expectation that does not hold."""
    error = Conflict(
        f"{expected.key} was last put by revision {found}, not {expected.revision}"
        if found
        else f"{expected.key} does not exist; it was expected to be of revision {expected.revision}",
        hint="read it again, and decide again",
    )
    error.key = expected.key
    return error


def compacted(after: int, forgotten: int) -> Compacted:
    """The error for changes that are no longer known."""
    error = Compacted(
        f"the changes after revision {after} are no longer known, only those from {forgotten + 1} on",
        hint="read everything, and go on from its revision",
    )
    error.oldest = forgotten + 1
    return error


def no_digests(prefix: str) -> UsageError:
    """The error for a prefix whose digests are not kept."""
    return UsageError(f"the store was not opened with digests of {prefix!r}")


def closed() -> UsageError:
    """The error for a call after the end."""
    return UsageError("the store is closed")


def change_bytes(change: Change) -> int:
    """What a change counts for, in bytes."""
    return len(change.key) + len(change.value or b"")
