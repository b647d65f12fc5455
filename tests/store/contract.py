"""What every backend of the store does. test_contract.py runs this over all of them.

A backend is given as a ``Place``: where a store can be opened, and for those that keep something, opened again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import xxhash

from zcluster.errors import Busy, Compacted, Conflict, NoSuchLease, TooLarge, UsageError, ZClusterError
from zcluster.store import interface, leases, limits, memory, sqlite_reader
from zcluster.store.interface import (
    MAX_KEY_CHARS,
    MAX_OPS,
    MAX_PAGE,
    MAX_TTL_S,
    MAX_VALUE_BYTES,
    Change,
    Delete,
    Entry,
    Expect,
    Put,
    Store,
)
from zcluster.wire.tables import BUCKETS

PREFIXES = ("groups/", "config/")
WORDS = ("", "a", "é", "zz", "\ue000", "\U0001f600", "\U0010ffff", "\U0010ffff\U0010ffff", "~")


@dataclass
class Place:
    """Opens stores of one backend at one path."""

    make: Callable[..., Awaitable[Store]]
    path: Path
    now_s: float = 1000.0
    stores: list[Store] = field(default_factory=list)

    async def open(self, **more: Any) -> Store:
        """The store, with digests of PREFIXES and this place's clock."""
        store = await self.make(self.path, **({"digests": PREFIXES, "clock": lambda: self.now_s} | more))
        self.stores.append(store)
        return store

    async def close(self) -> None:
        for store in self.stores:
            await store.close()


def digests_of(entries: list[Entry]) -> list[bytes]:
    """As interface.py says, written out again."""
    buckets: list[list[int]] = [[] for _ in range(BUCKETS)]
    for entry in entries:
        key = entry.key.encode()
        buckets[xxhash.xxh3_64_intdigest(key) % BUCKETS].append(xxhash.xxh3_128_intdigest(key + b"\0" + entry.value))
    return [reduce(lambda one, other: one ^ other, bucket, 0).to_bytes(16, "big") for bucket in buckets]


async def assert_digests(store: Store) -> None:
    """The digests are those of the entries, and the buckets hold them all."""
    for prefix in PREFIXES:
        listing = await store.scan(prefix)
        digests, revision = await store.digests(prefix)
        assert digests == digests_of(listing.entries)
        assert revision == listing.revision == await store.revision()
        for number in {xxhash.xxh3_64_intdigest(entry.key.encode()) % BUCKETS for entry in listing.entries}:
            bucket = await store.bucket(prefix, number)
            assert not bucket.more
            assert bucket.entries == [e for e in listing.entries if xxhash.xxh3_64_intdigest(e.key.encode()) % BUCKETS == number]


def keys(entries: list[Entry]) -> list[str]:
    return [entry.key for entry in entries]


class Contract:
    """The tests; ``place`` is a fixture."""

    @pytest.fixture(autouse=True)
    def _runner(self, place: Place) -> None:
        self.place = place

    def run(self, test: Callable[[Store], Awaitable[None]], **more: Any) -> None:
        """Run ``test`` with a store that is opened and closed around it."""

        async def main() -> None:
            try:
                await test(await self.place.open(**more))
            finally:
                await self.place.close()

        asyncio.run(main())

    # ----- revisions and entries

    def test_a_store_begins_empty(self) -> None:
        async def test(store: Store) -> None:
            assert await store.revision() == 0
            assert await store.get("a") is None
            listing = await store.scan("")
            assert (listing.entries, listing.revision, listing.more) == ([], 0, False)
            assert await store.changes("", 0) == ([], 0)
            assert await store.apply([]) == 0
            assert await store.apply([Delete("a")]) == 0
            assert len(store.id) >= 16
            await assert_digests(store)

        self.run(test)

    def test_entries_have_their_revisions(self) -> None:
        async def test(store: Store) -> None:
            assert await store.apply([Put("a", b"1"), Put("b", b"1")]) == 1
            assert await store.apply([Put("a", b"2")]) == 2
            assert await store.get("a") == Entry("a", b"2", revision=2, created=1, version=2)
            assert await store.get("b") == Entry("b", b"1", revision=1, created=1, version=1)
            assert await store.apply([Delete("a"), Delete("c")]) == 3
            assert await store.get("a") is None
            assert await store.apply([Put("a", b"")]) == 4
            assert await store.get("a") == Entry("a", b"", revision=4, created=4, version=1)
            assert await store.get_many(["b", "x", "a", "b"]) == {"b": await store.get("b"), "a": await store.get("a")}
            # A put of what is there already is a put.
            assert await store.apply([Put("a", b"")]) == 5
            assert await store.apply([Delete("x")]) == 5
            assert await store.revision() == 5

        self.run(test)

    def test_of_two_operations_on_a_key_the_last_counts(self) -> None:
        async def test(store: Store) -> None:
            assert await store.apply([Put("a", b"1"), Delete("a"), Put("a", b"2"), Put("b", b""), Delete("b")]) == 1
            assert await store.get("a") == Entry("a", b"2", revision=1, created=1, version=1)
            assert await store.changes("", 0) == ([Change(1, "a", b"2")], 1)

        self.run(test)

    def test_keys_come_in_order_by_pages(self) -> None:
        async def test(store: Store) -> None:
            names = sorted(prefix + word for prefix in ("p", "p/", "p0", "q", "\U0010ffff") for word in WORDS)
            await store.apply([Put(name, name.encode()) for name in reversed(names)])
            assert keys((await store.scan("")).entries) == names
            for prefix in ("p", "p/", "p/a", "q\U0010ffff", "\U0010ffff", "none", "p/\ud7ff"):
                under = [name for name in names if name.startswith(prefix)]
                assert keys((await store.scan(prefix)).entries) == under
                for after in ("", "p", "p/é", "zzz", *under[:2]):
                    rest = [name for name in under if name > after]
                    assert keys((await store.scan(prefix, after=after)).entries) == rest
                pages, after, more = [], "", True
                while more:
                    listing = await store.scan(prefix, after=after, limit=3)
                    assert len(listing.entries) <= 3
                    pages += keys(listing.entries)
                    more = listing.more
                    after = pages[-1] if pages else ""
                assert pages == under
            exact = await store.scan("q", limit=len(WORDS))
            assert (len(exact.entries), exact.more) == (len(WORDS), False)

        self.run(test)

    def test_a_page_is_bounded_in_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (memory, sqlite_reader):
            monkeypatch.setattr(module, "MAX_PAGE_BYTES", 100)

        async def test(store: Store) -> None:
            for number in range(5):
                await store.apply([Put(f"a{number}", bytes(60))])
            listing = await store.scan("")
            assert (keys(listing.entries), listing.more) == (["a0", "a1"], True)
            changes, upto = await store.changes("", 0)
            assert ([change.key for change in changes], upto) == (["a0", "a1"], 2)

        self.run(test)

    # ----- compare and swap

    def test_what_is_expected_has_to_hold(self) -> None:
        async def test(store: Store) -> None:
            assert await store.apply([Put("a", b"1")], expect=[Expect("a", 0), Expect("b", 0)]) == 1
            for expect, key in (
                ([Expect("a", 0)], "a"),
                ([Expect("a", 2)], "a"),
                ([Expect("a", 1), Expect("b", 1)], "b"),
                ([Expect("b", 2**70)], "b"),
            ):
                with pytest.raises(Conflict) as caught:
                    await store.apply([Put("a", b"2"), Put("b", b"2")], expect=expect)
                assert caught.value.key == key
                assert key in str(caught.value)
            assert await store.revision() == 1
            assert await store.apply([], expect=[Expect("a", 1)]) == 1
            assert await store.apply([Delete("a")], expect=[Expect("a", 1)]) == 2
            assert await store.apply([Put("a", b"3")], expect=[Expect("a", 0)]) == 3

        self.run(test)

    def test_calls_that_wait_together_have_revisions_and_fates_of_their_own(self) -> None:
        async def test(store: Store) -> None:
            calls = [store.apply([Put("counter", str(number).encode())], expect=[Expect("counter", 0)]) for number in range(20)]
            calls += [store.apply([Put(f"k{number}", b"")]) for number in range(20)]
            calls += [store.apply([Put("groups/x", b"%d" % number)]) for number in range(5)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            done = [result for result in results if isinstance(result, int)]
            assert sorted(done) == list(range(1, 27))
            assert [isinstance(result, Conflict) for result in results[:20]].count(False) == 1
            changes, _ = await store.changes("", 0)
            assert [change.revision for change in changes] == list(range(1, 27))
            entry = await store.get("groups/x")
            assert entry is not None
            assert entry.version == 5
            await assert_digests(store)

        self.run(test)

    def test_one_of_many_increments_wins_each_round(self) -> None:
        async def test(store: Store) -> None:
            async def increment() -> None:
                while True:
                    entry = await store.get("n")
                    revision, value = (entry.revision, int(entry.value)) if entry else (0, 0)
                    try:
                        await store.apply([Put("n", str(value + 1).encode())], expect=[Expect("n", revision)])
                    except Conflict:
                        continue
                    return

            await asyncio.gather(*(increment() for _ in range(12)))
            entry = await store.get("n")
            assert entry is not None
            assert (entry.value, entry.version) == (b"12", 12)

        self.run(test)

    # ----- limits

    def test_limits_of_a_commit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def test(store: Store) -> None:
            long, large = "é" * MAX_KEY_CHARS, bytes(MAX_VALUE_BYTES)
            assert await store.apply([Put(long, large)]) == 1
            entry = await store.get(long)
            assert entry is not None
            assert entry.value == large
            assert await store.apply([Put(f"k{number}", b"") for number in range(MAX_OPS)]) == 2
            assert await store.apply([], expect=[Expect("x", 0)] * MAX_OPS) == 2
            refused: list[tuple[list[Put | Delete], list[Expect]]] = [
                ([Put(long + "e", b"")], []),
                ([Delete(long + "e")], []),
                ([Put("k", large + b"x")], []),
                ([Put("k", b"")] * (MAX_OPS + 1), []),
                ([], [Expect("x", 0)] * (MAX_OPS + 1)),
            ]
            for ops, expect in refused:
                with pytest.raises(TooLarge):
                    await store.apply(ops, expect=expect)
            monkeypatch.setattr(limits, "MAX_COMMIT_BYTES", 100)
            assert await store.apply([Put("k", bytes(99))]) == 3
            with pytest.raises(TooLarge, match="101 bytes"):
                await store.apply([Put("k", bytes(100))])
            assert await store.revision() == 3

        self.run(test)

    @pytest.mark.parametrize("key", ["", "a\0", "a\n", "\x7f", "\x9f", "\ud800", "a\udfff/b"])
    def test_keys_are_printable_text(self, key: str) -> None:
        async def test(store: Store) -> None:
            for call in (
                lambda: store.apply([Put(key, b"")]),
                lambda: store.apply([Delete(key)]),
                lambda: store.apply([], expect=[Expect(key, 0)]),
                lambda: store.get(key),
                lambda: store.get_many([key]),
            ):
                with pytest.raises(UsageError):
                    await call()
            if key:
                with pytest.raises(UsageError):
                    await store.scan(key)
            assert await store.revision() == 0

        self.run(test)

    def test_what_is_not_text_or_bytes_is_refused(self) -> None:
        async def test(store: Store) -> None:
            bad: Any
            for bad in ("text", None, bytearray(b"x"), 1):
                with pytest.raises(UsageError, match="not bytes"):
                    await store.apply([Put("a", bad)])
            for bad in (None, b"x", 1):
                with pytest.raises(UsageError, match="text"):
                    await store.get(bad)
                with pytest.raises(UsageError, match="text"):
                    await store.scan(bad)

        self.run(test)

    def test_limits_of_questions(self) -> None:
        async def test(store: Store) -> None:
            assert (await store.scan("", limit=MAX_PAGE)).entries == []
            assert await store.get_many(["a"] * MAX_PAGE) == {}
            questions: list[Callable[[], Awaitable[Any]]] = [
                lambda: store.scan("", limit=MAX_PAGE + 1),
                lambda: store.scan("", limit=0),
                lambda: store.changes("", 0, limit=MAX_PAGE + 1),
                lambda: store.changes("", 0, limit=0),
                lambda: store.changes("", -1),
                lambda: store.changes("", 2**63),
                lambda: store.get_many(["a"] * (MAX_PAGE + 1)),
                lambda: store.bucket("groups/", BUCKETS),
                lambda: store.bucket("groups/", -1),
                lambda: store.bucket("groups/of/", 0),
                lambda: store.digests("notes/"),
            ]
            for question in questions:
                with pytest.raises(UsageError):
                    await question()
            assert (await store.bucket("groups/", BUCKETS - 1)).entries == []

        self.run(test)

    # ----- leases

    def test_a_lease_ends_at_its_time_with_its_keys_as_one_change(self) -> None:
        async def test(store: Store) -> None:
            lease = await store.grant(10.0)
            assert lease.ttl_s == 10.0
            await store.apply([Put("groups/a", b"1", lease.id), Put("b", b"1", lease.id), Put("c", b"1")])
            entry = await store.get("b")
            assert entry is not None
            assert entry.lease == lease.id
            self.place.now_s += 9.999
            await store.expire()
            assert await store.revision() == 1
            self.place.now_s += 0.001
            await store.expire()
            assert await store.changes("", 1) == ([Change(2, "b", None), Change(2, "groups/a", None)], 2)
            assert keys((await store.scan("")).entries) == ["c"]
            await assert_digests(store)
            await store.expire()
            assert await store.revision() == 2

        self.run(test)

    def test_a_lease_that_is_kept_alive_lasts(self) -> None:
        async def test(store: Store) -> None:
            lease, other = await store.grant(10.0), await store.grant(10.0)
            await store.apply([Put("a", b"", lease.id), Put("b", b"", other.id)])
            for _ in range(5):
                self.place.now_s += 6
                await store.keep_alive(lease.id)
                await store.expire()
            assert keys((await store.scan("")).entries) == ["a"]
            self.place.now_s += 10
            # Its time has come, whether its keys are gone or not.
            for call in (store.keep_alive(lease.id), store.revoke(lease.id), store.apply([Put("a", b"", lease.id)])):
                with pytest.raises(NoSuchLease):
                    await call
            await store.expire()
            assert (await store.scan("")).entries == []
            assert await store.revision() == 3

        self.run(test)

    def test_a_lease_can_be_revoked(self) -> None:
        async def test(store: Store) -> None:
            lease, empty = await store.grant(MAX_TTL_S), await store.grant(0.001)
            assert lease.id != empty.id
            await store.apply([Put("a", b"", lease.id)])
            await store.revoke(lease.id)
            await store.revoke(empty.id)
            assert await store.revision() == 2
            assert await store.get("a") is None
            for gone in (lease.id, empty.id, 99, 2**70, -1):
                with pytest.raises(NoSuchLease):
                    await store.revoke(gone)
                with pytest.raises(NoSuchLease):
                    await store.keep_alive(gone)
                with pytest.raises(NoSuchLease):
                    await store.apply([Put("b", b""), Put("a", b"", gone)])
            assert await store.revision() == 2
            assert (await store.grant(1.0)).id not in (lease.id, empty.id)

        self.run(test)

    def test_a_key_goes_with_the_lease_it_was_last_put_under(self) -> None:
        async def test(store: Store) -> None:
            one, two = await store.grant(10.0), await store.grant(20.0)
            await store.apply([Put(key, b"", one.id) for key in "abc"])
            await asyncio.gather(store.apply([Put("a", b"")]), store.apply([Put("b", b"", two.id)]), store.revoke(one.id))
            assert keys((await store.scan("")).entries) == ["a", "b"]
            self.place.now_s += 20
            await store.expire()
            assert keys((await store.scan("")).entries) == ["a"]

        self.run(test)

    def test_what_waits_with_the_end_of_its_lease_goes_with_it(self) -> None:
        async def test(store: Store) -> None:
            lease = await store.grant(10.0)
            await store.apply([Put("groups/a", b"", lease.id)])
            await asyncio.gather(
                store.apply([Put("groups/b", b"", lease.id), Put("groups/a", b"2", lease.id)]),
                store.apply([Delete("groups/a")]),
                store.revoke(lease.id),
                store.apply([Put("groups/a", b"3")]),
            )
            assert keys((await store.scan("")).entries) == ["groups/a"]
            await assert_digests(store)

        self.run(test)

    def test_leases_end_by_themselves(self) -> None:
        async def test(store: Store) -> None:
            lasting = await store.grant(MAX_TTL_S)
            short = await store.grant(0.01)
            await store.apply([Put("a", b"", lasting.id), Put("b", b"", short.id)])
            watch = store.watch("", 1)
            self.place.now_s += 1.0
            assert await anext(watch) == ([Change(2, "b", None)], 2)

        self.run(test)

    def test_limits_of_leases(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def test(store: Store) -> None:
            for ttl_s in (0.0, -1.0, MAX_TTL_S + 1, float("inf"), float("nan")):
                with pytest.raises(UsageError):
                    await store.grant(ttl_s)
            monkeypatch.setattr(leases, "MAX_LEASES", 2)
            first = await store.grant(1.0)
            await store.grant(1.0)
            with pytest.raises(Busy):
                await store.grant(1.0)
            await store.revoke(first.id)
            await store.grant(1.0)

        self.run(test)

    # ----- changes and watch

    def test_changes_are_told_in_whole_commits(self) -> None:
        async def test(store: Store) -> None:
            await store.apply([Put("a/1", b"1"), Put("b/1", b"1"), Put("a/2", b"1")])
            await store.apply([Put("b/1", b"2")])
            await store.apply([Delete("a/1"), Put("a/3", b"3")])
            await store.apply([Put("z", b"")])
            one = [Change(1, "a/1", b"1"), Change(1, "a/2", b"1")]
            three = [Change(3, "a/1", None), Change(3, "a/3", b"3")]
            assert await store.changes("a/", 0) == (one + three, 4)
            assert await store.changes("a/", 0, limit=1) == (one, 1)
            assert await store.changes("a/", 0, limit=2) == (one, 1)
            assert await store.changes("a/", 0, limit=3) == (one + three, 4)
            assert await store.changes("a/", 1, limit=1) == (three, 4)
            assert await store.changes("b/", 1) == ([Change(2, "b/1", b"2")], 4)
            assert await store.changes("aa", 0) == ([], 4)
            assert await store.changes("", 3) == ([Change(4, "z", b"")], 4)
            assert await store.changes("", 4) == ([], 4)
            assert await store.changes("", 2**62) == ([], 4)

        self.run(test)

    def test_changes_that_were_forgotten_are_an_error_not_a_gap(self) -> None:
        async def test(store: Store) -> None:
            for number in range(6):
                await store.apply([Put(f"k{number}", b""), Put("groups/x", b"%d" % number)])
            await store.compact(5)
            changes, upto = await store.changes("", 3)
            assert ({change.revision for change in changes}, upto) == ({4, 5, 6}, 6)
            for after in (0, 2):
                with pytest.raises(Compacted) as caught:
                    await store.changes("", after)
                assert caught.value.oldest == 4
            await store.compact(100)
            assert (await store.changes("", 3))[1] == 6
            await store.compact(0)
            assert await store.changes("", 6) == ([], 6)
            with pytest.raises(Compacted):
                await store.changes("", 5)
            assert len((await store.scan("")).entries) == 7
            assert await store.apply([Put("n", b"")]) == 7
            assert await store.changes("", 6) == ([Change(7, "n", b"")], 7)
            await assert_digests(store)

        self.run(test)

    def test_old_changes_are_forgotten_by_themselves(self) -> None:
        async def test(store: Store) -> None:
            for number in range(100):
                await store.apply([Put(f"k{number}", b"")])
            with pytest.raises(Compacted) as caught:
                await store.changes("", 0)
            assert 75 <= caught.value.oldest <= 81
            assert len((await store.changes("", caught.value.oldest - 1))[0]) >= 20

        self.run(test, keep_changes=20)

    def test_a_watch_tells_what_was_and_what_comes(self) -> None:
        async def test(store: Store) -> None:
            await store.apply([Put("a/1", b"1")])
            await store.apply([Put("b/1", b"1")])
            watch = store.watch("a/", 0)
            assert await anext(watch) == ([Change(1, "a/1", b"1")], 2)
            waiting = asyncio.ensure_future(next_of(watch))
            await store.apply([Put("b/2", b"2")])
            assert not waiting.done()
            await store.apply([Put("a/2", b"2")])
            changes, upto = await waiting
            assert changes == [Change(4, "a/2", b"2")]
            assert upto >= 4

        self.run(test)

    def test_many_watch_and_each_learns_everything(self) -> None:
        async def test(store: Store) -> None:
            async def follow(prefix: str) -> list[Change]:
                found: list[Change] = []
                async for changes, _ in store.watch(prefix, 0):
                    found += changes
                    if found[-1].key.endswith("end"):
                        return found
                return found

            followers = [asyncio.ensure_future(follow(prefix)) for prefix in ("a/", "b/", "") for _ in range(3)]
            for number in range(20):
                await store.apply([Put(f"a/{number:02}", b""), Put(f"b/{number:02}", b"")])
            await store.apply([Put("a/end", b""), Put("b/end", b"")])
            found = await asyncio.gather(*followers)
            assert [len(changes) for changes in found] == [21] * 6 + [42] * 3

        self.run(test)

    def test_a_watch_ends_with_the_store_and_with_what_is_forgotten(self) -> None:
        async def test(store: Store) -> None:
            for _ in range(3):
                await store.apply([Put("b", b"")])
            await store.compact(0)
            with pytest.raises(Compacted):
                await anext(store.watch("b", 0))
            waiting = asyncio.ensure_future(next_of(store.watch("a", 3)))
            early = asyncio.ensure_future(next_of(store.watch("a", 7)))
            await store.apply([Put("b", b"")])
            await store.close()
            for task in (waiting, early):
                with pytest.raises(StopAsyncIteration):
                    await task
            for call in (store.get("a"), store.apply([]), store.revision(), store.scan(""), store.grant(1.0), store.compact(0)):
                with pytest.raises(UsageError, match="closed"):
                    await call
            await store.close()

        self.run(test)

    # ----- digests

    def test_digests_are_kept_with_each_commit(self) -> None:
        async def test(store: Store) -> None:
            await store.apply([Put(f"groups/of/{number}", b"%d" % number) for number in range(300)])
            await assert_digests(store)
            await store.apply([Put("groups/of/7", b"other"), Delete("groups/of/8"), Put("config/x", b""), Put("notes/x", b"")])
            await assert_digests(store)
            await store.apply([Delete("config/x"), Put("groups/of/8", b"8"), Put("groups/of/7", b"7")])
            await assert_digests(store)

        self.run(test)

    def test_equal_content_has_equal_digests_however_it_came(self) -> None:
        async def test(store: Store) -> None:
            await store.apply([Put("groups/a", b"1"), Put("groups/b", b"2")])
            before, _ = await store.digests("groups/")
            await store.apply([Delete("groups/a")])
            await store.apply([Put("groups/c", b"")])
            await store.apply([Put("groups/a", b"1"), Delete("groups/c")])
            assert (await store.digests("groups/"))[0] == before

        self.run(test)

    @pytest.mark.parametrize("prefixes", [("a/", "a/b"), ("a", "a"), ("",), ("a\n",), tuple(f"p{n:02}/" for n in range(65))])
    def test_prefixes_with_digests_do_not_contain_one_another(self, prefixes: tuple[str, ...]) -> None:
        async def main() -> None:
            with pytest.raises(ZClusterError):
                await self.place.open(digests=prefixes)

        asyncio.run(main())

    def test_interface_constants_are_those_of_the_tables(self) -> None:
        assert interface.MAX_KEY_CHARS == 512, "wire/tables.py Key"


async def next_of(watch: AsyncIterator[tuple[list[Change], int]]) -> tuple[list[Change], int]:
    return await anext(watch)
