"""A master's tables and workers' copies together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tablesbench import Master, Worker, changes_of, contents, run

from zcluster.brokers import tables as broker
from zcluster.core.tables import source
from zcluster.errors import StoreFailed
from zcluster.store.interface import MAX_PAGE, Delete, Listing, Put
from zcluster.store.memory import MemoryStore
from zcluster.wire import Hello, WireLimits, decode, encode
from zcluster.wire.tables import Ask, Changes, Head, Page

SOON_S = 8.0
"""Sooner than anybody asks again."""


def wants(worker: Worker) -> list[str]:
    return [ask.want for ask in worker.asked]


def test_a_change_is_published_and_taken() -> None:
    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        await master.put(a="1")
        await worker.same()
        asked = len(worker.asked)
        await master.put(a="2", b='["x","y"]')
        await master.delete("a")
        await worker.same()
        assert await contents(worker.store, "groups") == {"groups/b": b'["x","y"]'}
        assert len(worker.asked) == asked, "what is published is not asked for"

    run(test)


def test_an_idle_worker_subscribes_to_nothing_and_is_told_when_there_is_something() -> None:
    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        worker.listens = False  # it has no SUB socket
        await worker.until(told_of(worker, "config"))
        assert worker.events == []
        assert worker.tables.copy_age("groups")[1] == 0.0
        await master.put(a="1")
        await worker.same()
        # its key file names no publisher: it says so, and goes on by asking
        assert [event.name for event in worker.events if event.name == "tables_not_subscribed"] == ["tables_not_subscribed"]
        await master.put(a="2")
        await worker.same()

    run(test)


def told_of(worker: Worker, table: str) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return worker.tables.copy_age(table)[1] is not None

    return check


def test_what_was_missed_is_asked_for() -> None:
    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        await master.put(a="1")
        await worker.same()
        master.loses = lambda frame: frame[2] == Changes.kind
        await master.put(b="1")
        await worker.same()
        assert "changes" in wants(worker)

    run(test)


def test_a_worker_that_was_away_reads_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BATCH_RAW_BYTES", 2000)

    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        await master.put(**{f"k{number:04}": "1" for number in range(300)})
        await worker.same()
        worker.disconnect()
        await master.store.apply([Delete(f"groups/k{number:04}") for number in range(0, 300, 2)])
        await master.put(**{f"n{number:04}": "2" for number in range(200)})
        await master.store.compact(0)
        worker.asked.clear()
        worker.connect()
        await worker.same()
        assert wants(worker).count("page") > 5
        assert (await worker.state()).store == master.store.id

    run(test)


def test_a_restarted_worker_goes_on_from_what_it_has() -> None:
    async def test(master: Master) -> None:
        first = Worker(1, master)
        await first.join()
        await master.put(a="1")
        await first.same()
        first.disconnect()
        await first.tables.close()
        master.workers.clear()
        second = Worker(2, master, first.store)
        await second.join()
        await second.until(told_of(second, "groups"))
        assert second.asked == [], "equal digests cost no question"
        await master.put(b="1")
        await second.same()

    run(test)


def test_a_master_that_lost_its_store_gives_its_new_one() -> None:
    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        await master.put(a="1", old="1")
        await worker.same()
        worker.disconnect()
        other = Master()
        await other.tables.start()
        await other.put(a="2")
        worker.master = other
        worker.connect()
        await worker.same()
        assert (await worker.state()).store == other.store.id
        await other.tables.close()

    run(test)


def test_a_flipped_value_costs_its_bucket() -> None:
    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        await master.put(**{f"k{number:04}": "1" for number in range(2000)})
        await worker.same()
        await worker.store.apply([Put("groups/k0007", b'"flipped"'), Delete("groups/k0008"), Put("groups/stray", b"1")])
        before = len(await changes_of(worker.store, "groups/"))
        await worker.same()
        assert wants(worker)[-1] == "repair"
        assert len(await changes_of(worker.store, "groups/")) == before + 3, "nothing else was written"
        pages = [message for _, message in master.told if isinstance(message, Page) and message.buckets]
        assert len({bucket for page in pages for bucket in page.buckets}) <= 3

    run(test)


def test_a_storm_of_commits_is_few_commits_at_the_worker() -> None:
    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        await master.put(a="0")
        await worker.same()
        before = await worker.store.revision()
        for number in range(500):
            await master.store.apply([Put("groups/a", b"%d" % number)])
        await worker.same()
        assert await worker.store.revision() - before < 250

    run(test)


def test_a_commit_that_fits_into_no_frame_is_read_by_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_RAW_BYTES", 3000)
    monkeypatch.setattr(source, "BATCH_RAW_BYTES", 2000)

    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        await master.put(a="1")
        await worker.same()
        await master.put(**{f"k{number:04}": "1" for number in range(300)})
        await worker.same()
        assert "page" in wants(worker)
        assert "table_commit_too_large" in [event.name for event in master.events]

    run(test)


def test_a_commit_of_the_most_operations_is_taken() -> None:
    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        await master.put(a="1")
        await worker.same()
        await master.put(**{f"k{number:05}": "1" for number in range(10_000)})
        await worker.same()
        await master.store.apply([Delete(f"groups/k{number:05}") for number in range(10_000)])
        await worker.same()

    run(test)


def test_several_workers_and_tables() -> None:
    async def test(master: Master) -> None:
        workers = [Worker(number, master) for number in range(1, 5)]
        for worker in workers:
            await worker.join()
        await master.put(a="1")
        await master.store.apply([Put("config/defaults", b'{"values":{"interval":2}}'), Put("notes/1", b"1")])
        for worker in workers:
            await worker.same("groups")
            await worker.same("config")
            assert await worker.store.get("notes/1") is None

    run(test)


def test_a_table_for_doors_is_told_to_workers_with_a_door_only() -> None:
    async def test(master: Master) -> None:
        with_door, without = Worker(1, master, door=True), Worker(2, master)
        await with_door.join()
        await without.join()
        heads = [(no, message.table) for no, message in master.told if isinstance(message, Head)]
        assert (1, "ring") in heads
        assert (2, "ring") not in heads
        without.uplink.say(Ask(table="ring", want="page"))
        await until_refused(without)
        assert master.refused[0].code == "not_allowed"

    run(test)


async def until_refused(worker: Worker) -> None:
    async def check() -> bool:
        return bool(worker.master.refused)

    await worker.until(check)


def test_status_says_how_far_each_is() -> None:
    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        await master.put(a="1")
        await worker.same()
        await worker.until(agreed(master, worker))
        theirs = (await call(worker))["groups"]
        assert theirs["behind"] == 0
        assert theirs["ready"] is True
        assert theirs["age_s"] >= 0

    run(test)


def agreed(master: Master, worker: Worker) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        mine, theirs = (await call(master))["groups"], (await call(worker))["groups"]
        return bool(mine["digest"] == theirs["digest"] and mine["store"] == theirs["store"] and not theirs["behind"])

    return check


async def call(node: Master | Worker) -> dict[str, dict[str, Any]]:
    status = node.tables.functions()["tables.status"]
    return {row["table"]: row for row in await status.call(())}


def test_a_disk_that_is_full_is_told_and_gone_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    from zcluster.errors import StoreFailed
    from zcluster.workers import tablecopy

    monkeypatch.setattr(tablecopy, "RETRY_S", 0.0)

    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        await master.put(a="1")
        await worker.same()
        apply, failures = worker.store.apply, [StoreFailed("the disk is full")] * 3

        async def failing(*args: Any, **options: Any) -> int:
            if failures:
                raise failures.pop()
            return await apply(*args, **options)

        monkeypatch.setattr(worker.store, "apply", failing)
        await master.put(b="1")
        await worker.same()
        assert not failures
        assert "table_not_saved" in [event.name for event in worker.events]

    run(test)


def test_nothing_is_published_twice_and_heads_come_after_their_changes() -> None:
    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        for number in range(50):
            await master.put(a=str(number))
            if number % 7 == 0:
                await asyncio.sleep(0)
        await worker.same()
        reached = 0
        for topic, frame in master.published:
            message, _ = decode(frame, WireLimits())
            if topic == b"table.groups" and isinstance(message, Changes):
                assert message.base >= reached
                reached = message.revision
            elif topic == b"table.groups":
                assert isinstance(message, Head)
                assert message.revision >= reached

    run(test)


def test_the_store_of_a_bench_is_what_it_says() -> None:
    assert MemoryStore(("groups/",)).id != MemoryStore(("groups/",)).id


def test_an_idle_worker_is_told_also_when_the_store_failed_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "RETRY_S", 0.0)

    async def test(master: Master) -> None:
        worker = Worker(1, master)
        await worker.join()
        worker.listens = False  # it has no SUB socket
        await worker.until(told_of(worker, "groups"))
        digests, faults = master.store.digests, [StoreFailed("reading failed"), StoreFailed("reading failed")]

        async def failing(prefix: str) -> tuple[list[bytes], int]:
            if faults:
                raise faults.pop()
            return await digests(prefix)

        monkeypatch.setattr(master.store, "digests", failing)
        await master.put(a="1")
        async with asyncio.timeout(SOON_S):
            await worker.same()
        assert faults == []

    run(test)


def test_questions_that_wait_are_answered_also_after_the_store_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "RETRY_S", 0.0)

    async def test(master: Master) -> None:
        await master.put(a="1")
        worker, other = Worker(1, master), Worker(2, master)
        scan, faults = master.store.scan, [StoreFailed("reading failed")]

        async def failing(prefix: str, *, after: str = "", limit: int = MAX_PAGE) -> Listing:
            if faults:
                raise faults.pop()
            return await scan(prefix, after=after, limit=limit)

        monkeypatch.setattr(master.store, "scan", failing)
        for asking in (worker, other):
            master.workers.append(asking)
            master.tables.opened(asking.peer, Hello(versions=[1], instance="i", parts=["tables"]), 0.0)
            asking.asked.append(Ask(table="groups", want="page"))
            master.ask(asking, encode(asking.asked[-1]))

        async def answered() -> bool:
            return any(no == 2 and isinstance(message, Page) for no, message in master.told)

        async with asyncio.timeout(SOON_S):
            await other.until(answered)
        assert faults == []

    run(test)
