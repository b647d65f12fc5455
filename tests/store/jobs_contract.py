"""What every store of jobs does. test_jobs_contract.py runs this over all of them.

A backend is given as a ``Place``: where a store is opened, closed and opened again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import fields, replace
from functools import wraps
from typing import Any, Protocol

import msgspec
import pytest

from zcluster.core.queue.job import Job, State, Step
from zcluster.errors import UsageError
from zcluster.store.jobs import (
    MAX_ASKED,
    MAX_BATCH_JOBS,
    MAX_META_BYTES,
    MAX_PAGE,
    MAX_PURGED,
    MUTABLE,
    PARTS_BYTES,
    READY_BYTES,
    Batch,
    Done,
    JobStore,
    Opened,
    Page,
    Query,
)

FILE_BYTES = 100
"""Above this, arguments and results are in files: both kinds are in every test that has ``LARGE``."""
LARGE = b"[" + b"1" * 500 + b"]"
KEY = "k" * 40
QUEUED, LEASED, DONE, FAILED, CANCELLED = State.QUEUED, State.LEASED, State.DONE, State.FAILED, State.CANCELLED


class Place(Protocol):
    """Opens a store at one place."""

    async def open(self) -> JobStore:
        """The store, with what was there before."""

    async def close(self) -> None:
        """Close it."""


def on_loop(test: Callable[[Any, Place], Coroutine[Any, Any, None]]) -> Callable[[Any, Place], None]:
    """Run ``test`` in a loop of its own, and close the store after it."""

    @wraps(test)
    def run(self: Any, place: Place) -> None:
        async def main() -> None:
            try:
                await test(self, place)
            finally:
                await place.close()

        asyncio.run(main())

    return run


async def reopened(place: Place) -> JobStore:
    await place.close()
    return await place.open()


def job(number: int, function: str = "f", **more: Any) -> Job:
    """A job that is ready."""
    fields_: dict[str, Any] = {
        "target": "any",
        "lane": f"any:{function}",
        "priority": 5,
        "key": KEY,
        "caller": "laptop",
        "body": b"{}",
    }
    fields_ |= {"accepted_s": 1000.0 + number, "steps": [Step(QUEUED, 1000.0 + number)]}
    return Job(number, function, **(fields_ | more))


def fan_out(number: int, parts: int, **more: Any) -> list[Job]:
    """A fan-out and its parts, which have the numbers after it."""
    said: dict[str, Any] = {"lane": "", "target": "all", "parts": parts}
    whole = job(number, **(said | more))
    names = [f"w{index}" for index in range(parts)]
    nodes = [job(number + 1 + at, target=name, lane=f"node:{name}", parent=number) for at, name in enumerate(names)]
    return [whole, *nodes]


def changed(of: Job, **more: Any) -> Job:
    return msgspec.structs.replace(of, **more)


def bare(of: Job) -> Job:
    """Without arguments and result."""
    return changed(of, body=b"", result=b"")


def ended(of: Job, state: State = DONE, at: float = 10.0, **more: Any) -> Job:
    return changed(of, state=state, ended=at, due=0.0, at_s=0.0, **more)


def plain(of: Job | None) -> Any:
    """A job as it can be compared."""
    return None if of is None else msgspec.structs.asdict(of) | {"steps": msgspec.to_builtins(of.steps)}


def plains(of: Iterable[Job]) -> list[Any]:
    return sorted((plain(one) for one in of), key=lambda one: int(one["number"]))


def numbers(of: Iterable[Job]) -> list[int]:
    return [one.number for one in of]


def whole(of: Done | Opened) -> dict[str, Any]:
    """All of an answer as it can be compared, where the order means nothing in order of numbers."""
    found: dict[str, Any] = {}
    for one in fields(of):
        value = getattr(of, one.name)
        if one.name in ("known", "fetched"):
            value = {number: plain(job_) for number, job_ in value.items()}
        elif one.name in ("unblocked", "due", "expired", "leased"):
            value = plains(value)
        elif one.name == "complete":
            value = sorted(((plain(job_), counts) for job_, counts in value), key=lambda pair: int(pair[0]["number"]))
        elif one.name == "ready":
            value = {lane: [plain(job_) for job_ in jobs] for lane, jobs in value.items()}
        found[one.name] = value
    return found


async def insert(store: JobStore, *jobs: Job, **more: Any) -> Done:
    return await store.commit(Batch(insert=list(jobs), **more))


async def update(store: JobStore, *jobs: Job, **more: Any) -> Done:
    return await store.commit(Batch(update=list(jobs), **more))


async def pages(store: JobStore, query: Query) -> list[list[int]]:
    """The numbers of all pages of a listing."""
    found: list[list[int]] = []
    while True:
        page: Page = await store.list(query)
        found.append(numbers(page.jobs))
        if not page.next:
            return found
        query = replace(query, before=page.next)


def full(number: int, **more: Any) -> Job:
    """A job with something in each field."""
    error = {"code": "x", "message": "né\0", "details": {"n": [1, None, 2.5]}}
    steps = [Step(QUEUED, 1.5), Step(LEASED, 2.5, "w1", 1), Step(QUEUED, 3.5, "w1", 1, error)]
    said: dict[str, Any] = {
        "target": "group:é", "lane": "node:w1", "priority": 9, "body": bytes(range(256)), "retries": 7, "timeout_s": 1.25,
        "retention_s": 86_400.5,
        "expires": 77.125, "idempotency_key": "id-é", "digest": b"\0" * 16, "sequence": "s", "due": 5.5, "attempt": 3,
        "failures": 2,
        "deaths": 1, "node": "w1", "steps": steps,
    }  # fmt: skip
    return job(number, "report.build", **(said | more))


class JobsContract:
    """The tests; ``place`` is a fixture."""

    # ----- jobs

    @on_loop
    async def test_a_store_begins_empty(self, place: Place) -> None:
        store = await place.open()
        assert len(store.id) == 8
        assert int(store.id, 16) >= 0
        assert whole(await store.opened()) == whole(Opened(0, {}, [], [], {}, {}, {}, math.inf, math.inf, math.inf, math.inf))
        assert await store.get(1) is None
        assert await store.list(Query()) == Page([], 0)
        assert list(await store.parts(1)) == []
        assert whole(await store.commit(Batch())) == whole(Done())
        report = await store.check()
        assert (report.ok, report.jobs, report.findings) == (True, 0, [])

    @on_loop
    async def test_a_store_keeps_its_id(self, place: Place) -> None:
        store = await place.open()
        id_ = store.id
        assert (await reopened(place)).id == id_

    @pytest.mark.parametrize("body", [b"", b"x", b"x" * FILE_BYTES, b"x" * (FILE_BYTES + 1), LARGE])
    def test_a_job_comes_back_as_it_went(self, place: Place, body: bytes) -> None:
        @on_loop
        async def test(_: Any, place: Place) -> None:
            store = await place.open()
            given = full(3, body=body)
            done = await insert(store, given, fetch=[3, 4])
            assert whole(done) == whole(Done(fetched={3: given}))
            assert plain(await store.get(3)) == plain(given)
            after = ended(given, DONE, 90.5, result=body, steps=[*given.steps, Step(DONE, 9.0, "w2", 4)])
            done = await update(store, after, fetch=[3])
            assert whole(done) == whole(Done(fetched={3: after}))
            store = await reopened(place)
            assert plain(await store.get(3)) == plain(after)
            assert (await store.check()).jobs == 1

        test(self, place)

    @on_loop
    async def test_nobody_changes_a_stored_job_but_a_batch(self, place: Place) -> None:
        store = await place.open()
        given = job(1)
        was = plain(given)
        done = await insert(store, given, fetch=[1])
        for copy in (given, done.fetched[1], await store.get(1)):
            assert copy is not None
            copy.state = DONE
            copy.steps.append(Step(DONE, 1.0))
        assert plain(await store.get(1)) == was

    @on_loop
    async def test_an_update_writes_what_may_change_and_nothing_else(self, place: Place) -> None:
        store = await place.open()
        given = full(1, body=LARGE, sequence="")
        await insert(store, given)
        new = Job(
            1, "g", "w9", "node:w9", 0, "other", "other", b"new", 1.0, retries=1, timeout_s=2.0, retention_s=3.0, expires=4.0,
            idempotency_key="other", digest=b"1", state=LEASED, due=6.0, at_s=7.0, blocked=True,
            attempt=8, failures=9, deaths=2, node="w2", steps=[Step(LEASED, 1.0, "w2", 8)], result=LARGE, ended=12.0,
            parts_left=13,
        )  # fmt: skip
        for name in MUTABLE:
            assert getattr(new, name) != getattr(given, name), name
        await update(store, new)
        changes = {name: getattr(new, name) for name in MUTABLE if name not in ("blocked", "parts_left")}
        expected = plain(changed(given, **changes))
        assert plain(await store.get(1)) == expected
        assert plain(await (await reopened(place)).get(1)) == expected

    @on_loop
    async def test_an_update_of_an_unknown_job_is_passed_over(self, place: Place) -> None:
        store = await place.open()
        gone = ended(job(1))
        await insert(store, job(1), job(2), update=[gone])
        done = await update(store, changed(job(7), sequence="s", body=LARGE), changed(job(2), node="w1"), delete=[1])
        assert whole(done) == whole(Done(purged={State.DONE: 1}))
        done = await update(store, changed(gone, state=QUEUED), changed(job(9), result=LARGE), fetch=[1, 2, 7, 9])
        assert whole(done) == whole(Done(fetched={2: changed(job(2), node="w1")}))
        assert await pages(store, Query()) == [[2]]

    @on_loop
    async def test_a_job_may_be_leased_when_it_is_inserted(self, place: Place) -> None:
        store = await place.open()
        given = job(1, state=LEASED, attempt=1, node="w1")
        await insert(store, given, job(2), job(3, state=State.RUNNING, body=LARGE), ready={"any:f": 9})
        opened = await (await reopened(place)).opened()
        assert plains(opened.leased) == plains([given, job(3, state=LEASED, body=LARGE)]), "RUNNING is kept as LEASED"
        assert opened.lanes == {"any:f": 1}

    @on_loop
    async def test_inserts_come_before_updates_and_these_before_what_deletes(self, place: Place) -> None:
        store = await place.open()
        done = await store.commit(
            Batch(
                insert=[job(1), job(2), job(3)],
                update=[ended(job(1)), ended(job(2), at=4.0)],
                delete=[1],
                purge=4.0,
                fetch=[1, 2, 3],
            )
        )
        assert (sum(done.purged.values()), sorted(done.fetched)) == (2, [3])

    # ----- idempotency keys

    @on_loop
    async def test_of_a_function_and_a_key_one_job_exists(self, place: Place) -> None:
        store = await place.open()
        first = job(1, idempotency_key="a", body=LARGE, digest=b"d" * 16)
        assert not (await insert(store, first)).known
        done = await insert(
            store,
            job(2, idempotency_key="a", body=b"other"),
            job(3, "g", idempotency_key="a"),
            job(4, idempotency_key="b"),
            job(5),
            job(6),
            job(7, idempotency_key="a", key="other caller"),
            fetch=[2, 3, 7],
        )
        assert {number: plain(one) for number, one in done.known.items()} == {2: plain(bare(first))}
        assert sorted(done.fetched) == [3, 7], "another asker's key is another key"
        assert await pages(store, Query()) == [[7, 6, 5, 4, 3, 1]]
        done = await insert(await reopened(place), job(8, idempotency_key="b"))
        assert [plain(one) for one in done.known.values()] == [plain(bare(job(4, idempotency_key="b")))]

    @on_loop
    async def test_of_two_in_one_batch_the_second_is_known(self, place: Place) -> None:
        store = await place.open()
        done = await insert(
            store, job(1, idempotency_key="a"), job(2, idempotency_key="a", body=LARGE), job(3, idempotency_key="a")
        )
        assert {number: one.number for number, one in done.known.items()} == {2: 1, 3: 1}
        assert await pages(store, Query()) == [[1]]

    @on_loop
    async def test_a_known_job_is_told_as_the_batch_leaves_it(self, place: Place) -> None:
        store = await place.open()
        first = job(1, idempotency_key="a")
        await insert(store, first)
        after = ended(first, result=LARGE)
        done = await insert(store, job(2, idempotency_key="a"), update=[after])
        assert plain(done.known[2]) == plain(bare(after))
        done = await insert(store, job(3, idempotency_key="a"), delete=[1])
        assert (plain(done.known[3]), sum(done.purged.values())) == (plain(bare(after)), 1)
        done = await insert(store, job(4, idempotency_key="a"))
        assert not done.known

    @pytest.mark.parametrize("how", ["purge", "delete"])
    def test_a_key_is_free_when_its_job_is_gone(self, place: Place, how: str) -> None:
        @on_loop
        async def test(_: Any, place: Place) -> None:
            store = await place.open()
            await insert(store, job(1, idempotency_key="a"), update=[ended(job(1))])
            done = await store.commit(Batch(purge=10.0) if how == "purge" else Batch(delete=[1]))
            assert sum(done.purged.values()) == 1
            assert not (await insert(store, job(2, idempotency_key="a"))).known
            assert (await insert(store, job(3, idempotency_key="a"))).known[3].number == 2

        test(self, place)

    @on_loop
    async def test_the_parts_of_a_known_fan_out_are_not_inserted(self, place: Place) -> None:
        store = await place.open()
        await insert(store, *fan_out(1, 2, idempotency_key="a"))
        again = [changed(one, body=LARGE) for one in fan_out(4, 3, idempotency_key="a")]
        done = await insert(store, *again, job(8), fetch=[4, 5, 6, 7, 8])
        assert list(done.known) == [4]
        assert plain(done.known[4]) == plain(bare(fan_out(1, 2, idempotency_key="a")[0])) | {"parts_left": 2}
        assert sorted(done.fetched) == [8]
        assert list(await store.parts(4)) == []

    @on_loop
    async def test_keys_of_parts_are_not_looked_at(self, place: Place) -> None:
        store = await place.open()
        jobs = [changed(one, idempotency_key="a") for one in fan_out(1, 2)]
        assert not (await insert(store, *jobs)).known
        assert numbers(await store.parts(1)) == [2, 3]
        assert (await insert(store, job(4, idempotency_key="a"))).known[4].number == 1

    @on_loop
    async def test_what_is_known_is_not_counted(self, place: Place) -> None:
        store = await place.open()
        await insert(store, job(1, idempotency_key="a"), usage={KEY: (1, 2)}, counts={QUEUED: 1})
        await insert(
            store,
            job(2, idempotency_key="a", body=LARGE),
            job(3, idempotency_key="a", state=LEASED, body=b"12345"),
            job(4),
            usage={KEY: (3, 7 + len(LARGE))},
            counts={QUEUED: 2, LEASED: 1},
        )
        opened = await (await reopened(place)).opened()
        assert opened.usage == {KEY: (2, 4)}
        assert opened.counts == {QUEUED: 2}
        assert opened.last_number == 4

    @on_loop
    async def test_of_a_known_fan_out_the_parts_are_not_counted(self, place: Place) -> None:
        store = await place.open()
        await insert(store, *fan_out(1, 2, idempotency_key="a"), usage={KEY: (3, 6)}, counts={QUEUED: 3})
        await insert(store, *fan_out(4, 3, idempotency_key="a"), usage={KEY: (4, 8)}, counts={QUEUED: 4})
        assert (await store.check()).ok
        opened = await (await reopened(place)).opened()
        assert (opened.usage, opened.counts, opened.last_number) == ({KEY: (3, 6)}, {QUEUED: 3}, 7)

    # ----- sequences

    @on_loop
    async def test_the_oldest_of_a_sequence_is_not_blocked(self, place: Place) -> None:
        store = await place.open()
        jobs = {number: job(number, sequence="s") for number in range(1, 5)}
        done = await insert(store, jobs[1], changed(jobs[2], blocked=True), job(5, sequence="other"), job(6), ready={"any:f": 9})
        assert (done.blocked, done.unblocked) == ({2}, [])
        assert numbers(done.ready["any:f"]) == [1, 5, 6]
        done = await insert(store, job(7, sequence="s"), job(8, sequence="s"))
        assert done.blocked == {7, 8}
        store = await reopened(place)
        assert (await store.opened()).lanes == {"any:f": 3}
        done = await update(store, changed(jobs[1], state=LEASED), ready={"any:f": 9})
        assert (done.blocked, done.unblocked, numbers(done.ready["any:f"])) == (set(), [], [5, 6])
        done = await update(store, ended(jobs[1], FAILED), ready={"any:f": 9})
        assert (plains(done.unblocked), numbers(done.ready["any:f"])) == ([plain(jobs[2])], [2, 5, 6])
        done = await update(store, ended(jobs[2], CANCELLED))
        assert numbers(done.unblocked) == [7]

    @on_loop
    async def test_a_first_that_waits_again_stays_the_first(self, place: Place) -> None:
        store = await place.open()
        await insert(store, job(1, sequence="s", state=LEASED), job(2, sequence="s"))
        done = await update(store, job(1, sequence="s", due=99.0), ready={"any:f": 9}, fetch=[1, 2])
        assert (done.blocked, done.unblocked, done.ready) == (set(), [], {"any:f": []})
        assert (done.fetched[1].blocked, done.fetched[2].blocked) == (False, True)

    @on_loop
    async def test_a_blocked_one_may_end_before_its_turn(self, place: Place) -> None:
        store = await place.open()
        await insert(store, *(job(number, sequence="s") for number in (1, 2, 3)))
        done = await update(store, ended(job(2, sequence="s"), CANCELLED), fetch=[2])
        assert (done.unblocked, done.fetched[2].blocked) == ([], False)
        done = await update(store, ended(job(1, sequence="s")))
        assert numbers(done.unblocked) == [3]
        done = await update(store, ended(job(3, sequence="s")))
        assert done.unblocked == []

    @on_loop
    async def test_one_that_came_back_waits_for_the_first_and_is_the_oldest_then(self, place: Place) -> None:
        store = await place.open()
        jobs = {number: job(number, sequence="s", body=LARGE) for number in (1, 2, 3)}
        await insert(store, *jobs.values())
        await update(store, ended(jobs[1], FAILED))
        done = await update(store, jobs[1], fetch=[1, 2, 3])
        assert (done.blocked, done.unblocked) == ({1}, [])
        assert {number: one.blocked for number, one in done.fetched.items()} == {1: True, 2: False, 3: True}
        done = await update(store, ended(jobs[2]))
        assert plains(done.unblocked) == [plain(jobs[1])]
        done = await update(store, ended(jobs[1]), ended(jobs[3]))
        assert done.unblocked == []
        done = await update(store, jobs[1])
        assert (done.blocked, done.unblocked) == (set(), [])

    @on_loop
    async def test_a_sequence_is_as_it_is_after_all_of_a_batch(self, place: Place) -> None:
        store = await place.open()
        jobs = {number: job(number, sequence="s") for number in range(1, 8)}
        await insert(store, jobs[1], jobs[2], jobs[3])
        done = await insert(store, jobs[4], update=[ended(jobs[2]), ended(jobs[1])])
        assert (numbers(done.unblocked), done.blocked) == ([3], {4})
        done = await update(store, jobs[1], ended(jobs[3]), fetch=[1, 4])
        assert (done.unblocked, done.blocked) == ([], set()), "1 came back, is the oldest, and never was blocked"
        assert (done.fetched[1].blocked, done.fetched[4].blocked) == (False, True)
        done = await insert(store, jobs[5], update=[ended(jobs[4]), ended(jobs[1])], fetch=[5])
        assert (done.unblocked, done.blocked, done.fetched[5].blocked) == ([], set(), False)
        done = await insert(store, jobs[6], update=[jobs[2], ended(jobs[5])], fetch=[2, 6])
        assert (done.unblocked, done.blocked, done.fetched[2].blocked) == ([], {6}, False)

    @on_loop
    async def test_a_lease_that_was_blocked_and_goes_back_is_told_so(self, place: Place) -> None:
        store = await place.open()
        done = await insert(store, job(1, sequence="s"), job(2, sequence="s", state=LEASED))
        assert done.blocked == {2}
        done = await update(store, job(2, sequence="s"))
        assert done.blocked == {2}
        done = await update(store, job(2, sequence="s", due=1.0))
        assert done.blocked == set()

    @on_loop
    async def test_a_known_job_takes_no_place_in_a_sequence(self, place: Place) -> None:
        store = await place.open()
        await insert(store, job(1, sequence="s", idempotency_key="a"))
        done = await insert(store, job(2, sequence="t", idempotency_key="a"), job(3, sequence="t"))
        assert (done.blocked, done.unblocked) == (set(), [])

    @on_loop
    async def test_a_fan_out_holds_its_place_until_it_is_final(self, place: Place) -> None:
        store = await place.open()
        jobs = fan_out(1, 1, sequence="s")
        done = await insert(store, *jobs, job(3, sequence="s"))
        assert done.blocked == {3}
        done = await update(store, ended(jobs[1]))
        assert (done.unblocked, len(done.complete)) == ([], 1)
        done = await update(store, ended(jobs[0]))
        assert numbers(done.unblocked) == [3]

    # ----- fan-outs

    @on_loop
    async def test_parts_left_are_counted(self, place: Place) -> None:
        store = await place.open()
        jobs = [changed(one, body=LARGE) for one in fan_out(1, 3)]
        done = await insert(store, changed(jobs[0], parts_left=77), *jobs[1:], fetch=[1])
        assert (done.fetched[1].parts_left, done.complete) == (3, [])
        done = await update(store, ended(jobs[1]), changed(jobs[2], state=LEASED), fetch=[1])
        assert (done.fetched[1].parts_left, done.complete) == (2, [])
        store = await reopened(place)
        done = await update(store, ended(jobs[2], FAILED), ended(jobs[3]), fetch=[1])
        assert done.fetched[1].parts_left == 0
        assert [(plain(one), counts) for one, counts in done.complete] == [(plain(jobs[0]), {DONE: 2, FAILED: 1})]

    @on_loop
    async def test_a_complete_fan_out_is_told_once_and_again_when_opened(self, place: Place) -> None:
        store = await place.open()
        jobs = [changed(one, body=LARGE) for one in fan_out(1, 2)]
        await insert(store, *jobs)
        assert (await update(store, ended(jobs[1]), ended(jobs[2], CANCELLED))).complete
        assert not (await update(store, ended(jobs[2], CANCELLED, result=b"more"), changed(jobs[0], node="w1"))).complete
        store = await reopened(place)
        opened = await store.opened()
        assert [(plain(one), counts) for one, counts in opened.complete] == [
            (plain(changed(jobs[0], node="w1")), {DONE: 1, CANCELLED: 1})
        ]
        done = await update(store, ended(jobs[0], CANCELLED))
        assert not done.complete
        assert not (await (await reopened(place)).opened()).complete

    @on_loop
    async def test_a_fan_out_that_ends_with_its_last_part_is_not_told(self, place: Place) -> None:
        store = await place.open()
        jobs = fan_out(1, 2)
        await insert(store, *jobs)
        assert not (await update(store, *(ended(one, CANCELLED) for one in jobs))).complete

    @on_loop
    async def test_parts_that_come_back_are_counted_again(self, place: Place) -> None:
        store = await place.open()
        jobs = fan_out(1, 2)
        await insert(store, *jobs)
        await update(store, ended(jobs[0], FAILED), ended(jobs[1]), ended(jobs[2], FAILED))
        done = await update(store, jobs[0], jobs[2], fetch=[1])
        assert (done.fetched[1].parts_left, done.complete) == (1, [])
        done = await update(store, ended(jobs[2]))
        assert [(one.number, counts) for one, counts in done.complete] == [(1, {DONE: 2})]

    @on_loop
    async def test_a_fan_out_that_comes_back_without_live_parts_is_told(self, place: Place) -> None:
        store = await place.open()
        jobs = fan_out(1, 1)
        await insert(store, *jobs, update=[ended(one) for one in jobs])
        done = await update(store, jobs[0])
        assert [(one.number, counts) for one, counts in done.complete] == [(1, {DONE: 1})]

    @on_loop
    async def test_parts_are_paged_by_number(self, place: Place) -> None:
        store = await place.open()
        await insert(store, *fan_out(1, 5), job(7), *fan_out(8, 1))
        after = ended(fan_out(1, 5)[2], result=LARGE)
        await update(store, after)
        assert numbers(await store.parts(1)) == [2, 3, 4, 5, 6]
        assert plain((await store.parts(1))[1]) == plain(after)
        assert numbers(await store.parts(1, after=3, limit=2)) == [4, 5]
        assert numbers(await store.parts(1, after=6)) == []
        assert numbers(await store.parts(8)) == [9]
        for none in (7, 2, 0, 99):
            assert numbers(await store.parts(none)) == []
        assert numbers(await store.parts(1, limit=MAX_PAGE)) == [2, 3, 4, 5, 6]
        for limit in (0, MAX_PAGE + 1):
            with pytest.raises(UsageError):
                await store.parts(1, limit=limit)

    @on_loop
    async def test_parts_are_given_up_to_so_many_bytes(self, place: Place) -> None:
        store = await place.open()
        jobs = fan_out(1, 4)
        half = PARTS_BYTES // 2
        sizes = [(half, 0), (1, half - 2), (0, 1), (0, PARTS_BYTES + 1)]
        await insert(
            store,
            jobs[0],
            *(changed(one, body=b"b" * body, result=b"r" * result) for one, (body, result) in zip(jobs[1:], sizes, strict=True)),
        )
        assert numbers(await store.parts(1)) == [2, 3, 4]
        assert numbers(await store.parts(1, after=3)) == [4, 5]
        assert numbers(await store.parts(1, after=4)) == [5]

    # ----- what a batch asks for

    @on_loop
    async def test_ready_jobs_come_by_rank(self, place: Place) -> None:
        store = await place.open()
        await insert(
            store,
            job(1, priority=0), job(2, priority=5), job(3, priority=9), job(4, priority=5, body=LARGE), job(5, "g"),
            job(6, due=1.0), job(7, at_s=1.0), job(8, state=LEASED), job(9, state=DONE), job(10, sequence="s", priority=0),
            job(11, sequence="s", priority=9), *fan_out(12, 1, lane="any:f"),
        )  # fmt: skip
        done = await store.commit(Batch(ready={"any:f": 99, "any:g": 1, "node:w0": 1, "none": 5}))
        assert {lane: numbers(jobs) for lane, jobs in done.ready.items()} == {
            "any:f": [3, 2, 4, 1, 10],
            "any:g": [5],
            "node:w0": [13],
            "none": [],
        }
        assert done.more == set()
        assert done.ready["any:f"][2].body == LARGE
        store = await reopened(place)
        assert (await store.opened()).lanes == {"any:f": 5, "any:g": 1, "node:w0": 1}
        done = await store.commit(Batch(ready={"any:f": 2}))
        assert (numbers(done.ready["any:f"]), done.more) == ([3, 2], {"any:f"})
        done = await store.commit(Batch(ready={"any:f": 5}))
        assert done.more == set()

    @on_loop
    async def test_ready_jobs_are_those_after_the_batch(self, place: Place) -> None:
        store = await place.open()
        done = await insert(store, job(1), job(2), ready={"any:f": 9})
        assert numbers(done.ready["any:f"]) == [1, 2]
        done = await insert(
            store, job(3, priority=9), update=[changed(job(1), state=LEASED), changed(job(2), due=7.0)], ready={"any:f": 9}
        )
        assert numbers(done.ready["any:f"]) == [3]
        done = await update(store, job(1), job(2), ended(job(3)), ready={"any:f": 9})
        assert numbers(done.ready["any:f"]) == [1, 2]

    @on_loop
    async def test_ready_jobs_end_with_the_one_that_makes_them_large(self, place: Place) -> None:
        store = await place.open()
        half = b"x" * (READY_BYTES // 2)
        await insert(
            store, job(1, body=half), job(2, body=half[1:]), job(3, body=b"1"), job(4), job(5, "g", body=half * 3), job(6, "g")
        )
        done = await store.commit(Batch(ready={"any:f": 9, "any:g": 9}))
        assert {lane: numbers(jobs) for lane, jobs in done.ready.items()} == {"any:f": [1, 2, 3], "any:g": [5]}
        assert done.more == {"any:f", "any:g"}
        done = await update(store, ended(job(4)), ended(job(6)), ready={"any:f": 9, "any:g": 9})
        assert done.more == set()

    @on_loop
    async def test_due_jobs_are_told_by_queue_time_and_by_wall_time(self, place: Place) -> None:
        store = await place.open()
        jobs = [
            job(1, due=5.0, body=LARGE), job(2, due=5.5), job(3, at_s=100.0), job(4, at_s=100.5), job(5),
            job(6, due=5.0, at_s=100.5),
            job(7, due=5.5, at_s=100.0), job(8, due=1.0, state=LEASED), job(9, due=1.0, sequence="s"),
            job(10, due=1.0, sequence="s"),
            *fan_out(11, 1, due=1.0, at_s=1.0),
        ]  # fmt: skip
        await insert(store, *jobs)
        done = await store.commit(Batch(due=(5.0, 100.0)))
        assert sorted(numbers(done.due)) == [1, 3, 6, 7, 9, 10]
        assert next(one for one in done.due if one.number == 1).body == LARGE
        assert {one.number for one in done.due if one.blocked} == {10}
        assert (done.times, done.next_due, done.next_at_s, done.next_expiry, done.next_purge) == (
            True,
            1.0,
            100.0,
            math.inf,
            math.inf,
        )
        assert (await store.commit(Batch(due=(0.5, 99.0)))).due == []
        done = await update(store, *(changed(one, due=0.0, at_s=0.0) for one in done.due), due=(5.0, 100.0))
        assert (done.due, done.next_due, done.next_at_s) == ([], 5.5, 100.5)
        opened = await (await reopened(place)).opened()
        assert (opened.next_due, opened.next_at_s) == (5.5, 100.5)

    @on_loop
    async def test_expired_jobs_are_told(self, place: Place) -> None:
        store = await place.open()
        jobs = [
            job(1, expires=5.0), job(2, expires=5.5), job(3), job(4, expires=4.0, due=99.0), job(5, expires=4.0, at_s=99.0),
            job(6, sequence="s"), job(7, sequence="s", expires=4.0), job(8, expires=1.0, state=LEASED),
            job(9, expires=1.0, state=DONE),
            *fan_out(10, 1, expires=1.0), job(12, body=LARGE, expires=3.0),
        ]  # fmt: skip
        await insert(store, *jobs)
        done = await store.commit(Batch(expired=5.0))
        assert sorted(numbers(done.expired)) == [1, 4, 5, 7, 12]
        assert next(one for one in done.expired if one.number == 12).body == LARGE
        assert (done.times, done.next_expiry) == (True, 3.0)
        done = await update(store, *(ended(one, State.EXPIRED) for one in done.expired), expired=5.0)
        assert (done.expired, done.next_expiry, done.next_due) == ([], 5.5, math.inf)
        done = await update(store, job(8), expired=0.5)
        assert (done.expired, done.next_expiry) == ([], 5.5), "an update writes `expires` too"
        done = await update(store, job(8, expires=2.0))
        assert (await (await reopened(place)).opened()).next_expiry == 2.0

    @on_loop
    async def test_fewer_are_told_when_they_are_large(self, place: Place) -> None:
        store = await place.open()
        body = b"x" * (PARTS_BYTES // 2)
        await insert(store, *(job(number, due=1.0, expires=1.0, body=body) for number in (1, 2, 3)))
        done = await store.commit(Batch(due=(1.0, 0.0), expired=1.0))
        assert (len(done.due), len(done.expired), done.next_due, done.next_expiry) == (2, 2, 1.0, 1.0)

    @on_loop
    async def test_times_are_read_when_they_are_asked_for(self, place: Place) -> None:
        store = await place.open()
        done = await insert(store, job(1, due=3.0, expires=4.0), job(2, at_s=5.0), ended(job(3), at=6.0, retention_s=0.5))
        assert whole(done) == whole(Done())
        for batch in (Batch(due=(0.0, 0.0)), Batch(expired=0.0), Batch(purge=0.0)):
            done = await store.commit(batch)
            assert whole(done) == whole(Done(times=True, next_due=3.0, next_at_s=5.0, next_expiry=4.0, next_purge=6.5))
        opened = await (await reopened(place)).opened()
        assert (opened.next_due, opened.next_at_s, opened.next_expiry, opened.next_purge) == (3.0, 5.0, 4.0, 6.5)

    @on_loop
    async def test_only_so_many_are_told_at_once(self, place: Place) -> None:
        store = await place.open()
        count = MAX_ASKED + 1
        jobs = [job(number, due=1.0, expires=2.0) for number in range(1, count + 1)]
        await insert(store, *jobs)
        done = await store.commit(Batch(due=(1.0, 0.0), expired=2.0))
        assert len({one.number for one in done.due}) == len({one.number for one in done.expired}) == MAX_ASKED
        assert (done.next_due, done.next_expiry) == (1.0, 2.0)
        done = await update(store, *(ended(one) for one in jobs), purge=10.0)
        assert (sum(done.purged.values()), done.next_purge) == (MAX_ASKED, 10.0)
        done = await store.commit(Batch(purge=10.0))
        assert (sum(done.purged.values()), done.next_purge) == (1, math.inf)

    @on_loop
    async def test_one_is_fetched_whole_and_one_that_is_not_there_is_left_out(self, place: Place) -> None:
        store = await place.open()
        after = ended(job(1, body=LARGE), result=LARGE)
        done = await insert(store, job(1, body=LARGE), *fan_out(2, 1), update=[after], fetch=[1, 3, 9])
        assert whole(done)["fetched"] == {1: plain(after), 3: plain(fan_out(2, 1)[1])}

    @on_loop
    async def test_jobs_are_fetched_up_to_so_many_bytes(self, place: Place) -> None:
        store = await place.open()
        half = b"x" * (PARTS_BYTES // 2)
        jobs = [job(1, body=half), job(2, body=half[1:]), job(3, body=b"1"), job(4), job(5, body=b"", result=half * 2), job(6)]
        await insert(store, *jobs, update=[ended(jobs[4], result=half * 2)])
        for asked, given in (
            ([1, 2, 3, 4], [1, 2, 3]),  # a byte short of it, and at it
            ([3, 2, 1], [3, 2, 1]),
            ([4, 9, 2, 1, 3], [4, 2, 1]),
            ([5, 6], [5]),
            ([6, 5, 4], [6, 5]),
        ):
            done = await store.commit(Batch(fetch=asked))
            assert list(done.fetched) == given
            assert done.unfetched == [number for number in asked if number not in given and number != 9]
        assert done.fetched[5].result == half * 2

    @on_loop
    async def test_unblocked_jobs_are_given_up_to_so_many_bytes(self, place: Place) -> None:
        store = await place.open()
        half = b"x" * (PARTS_BYTES // 2)
        first = [job(number, sequence=f"s{number}") for number in range(1, 8)]
        bodies = {1: half, 2: half[1:], 3: b"1"}
        more: dict[int, dict[str, Any]] = {5: {"due": 5.0, "lane": "any:later"}, 6: {"lane": "any:g"}, 7: {"lane": "any:g"}}
        waiting = [
            job(10 + number, sequence=f"s{number}", body=bodies.get(number, b"{}"), **more.get(number, {}))
            for number in range(1, 8)
        ]
        await insert(store, *first, *reversed(waiting))
        done = await update(store, *(ended(one) for one in first), ready={"any:g": 9})
        assert (numbers(done.unblocked), done.left) == ([11, 12, 13], ["any:f", "any:g"])
        assert numbers(done.ready["any:g"]) == [16, 17]
        done = await update(store, *(ended(one) for one in waiting), ready={"any:f": 9})
        assert (done.unblocked, done.left) == ([], [])

    # ----- the end of jobs

    @on_loop
    async def test_jobs_are_purged_when_their_retention_is_over(self, place: Place) -> None:
        store = await place.open()
        jobs = [
            ended(job(1, retention_s=5.0), at=10.0, result=LARGE), ended(job(2, retention_s=5.5), FAILED, at=10.0),
            ended(job(3), at=15.0),
            job(4), job(5, ended=1.0), job(6, state=LEASED, ended=1.0),
        ]  # fmt: skip
        await insert(store, *jobs, counts={DONE: 2, FAILED: 1, QUEUED: 2, LEASED: 1})
        done = await store.commit(Batch(purge=14.5))
        assert (sum(done.purged.values()), done.next_purge) == (0, 15.0)
        done = await store.commit(Batch(purge=15.0, fetch=[1, 2, 3]))
        assert (sum(done.purged.values()), done.next_purge, sorted(done.fetched)) == (2, 15.5, [2])
        store = await reopened(place)
        opened = await store.opened()
        assert opened.counts == {FAILED: 1, QUEUED: 2, LEASED: 1}
        assert (opened.next_purge, opened.last_number) == (15.5, 6)
        assert sum((await store.commit(Batch(purge=99.0))).purged.values()) == 1
        assert (await store.check()).jobs == 3

    @pytest.mark.parametrize("how", ["purge", "delete"])
    def test_parts_go_with_their_fan_out(self, place: Place, how: str) -> None:
        @on_loop
        async def test(_: Any, place: Place) -> None:
            store = await place.open()
            jobs = fan_out(1, 2)
            await insert(store, *jobs, counts={QUEUED: 3})
            gone = Batch(purge=99.0, delete=[] if how == "purge" else [2, 1, 3])
            done = await update(
                store, ended(jobs[1], result=LARGE), delete=gone.delete, purge=gone.purge, counts={QUEUED: -1, DONE: 1}
            )
            assert (sum(done.purged.values()), done.next_purge) == (0, math.inf), "a part stays as long as its fan-out"
            done = await update(store, ended(jobs[0]), delete=gone.delete, purge=gone.purge, counts={QUEUED: -1, DONE: 1})
            assert (sum(done.purged.values()), done.next_purge) == (0, math.inf), "one part is not final"
            await update(store, ended(jobs[2], FAILED), counts={QUEUED: -1, FAILED: 1})
            done = await store.commit(gone)
            assert (sum(done.purged.values()), done.next_purge) == (3, math.inf)
            assert list(await store.parts(1)) == []
            opened = await (await reopened(place)).opened()
            assert (opened.counts, opened.last_number) == ({}, 3)

        test(self, place)

    @pytest.mark.parametrize("how", ["purge", "delete"])
    def test_so_many_go_at_once_with_their_parts(self, place: Place, how: str) -> None:
        @on_loop
        async def test(_: Any, place: Place) -> None:
            store = await place.open()
            sizes = {1: MAX_PURGED - 2, 5001: 0, 5002: 0, 5003: MAX_PURGED, 10_001: 1, 10_003: MAX_PURGED - 2, 15_001: 0}
            jobs = {number: fan_out(number, parts) if parts else [job(number)] for number, parts in sizes.items()}
            for number, some in jobs.items():
                done = await insert(store, *some, counts={DONE: len(some)}, update=[ended(one, at=number) for one in some])
            turns = [[1, 5001], [5002], [5003], [10_001], [10_003, 15_001]]  # at the limit; one more; more by itself; one more
            left = list(sizes)
            for turn in turns:
                done = await store.commit(Batch(delete=left) if how == "delete" else Batch(purge=20_000.0))
                left = left[len(turn) :]
                assert sum(done.purged.values()) == sum(len(jobs[number]) for number in turn)
                assert done.undeleted == (left if how == "delete" else [])
                assert done.next_purge == (left[0] if left and how == "purge" else math.inf)
                assert await pages(store, Query()) == [left[::-1]]
            assert (await store.check()).ok
            assert (await (await reopened(place)).opened()).counts == {}

        test(self, place)

    @on_loop
    async def test_only_final_jobs_are_deleted(self, place: Place) -> None:
        store = await place.open()
        await insert(store, job(1), job(2, state=LEASED), ended(job(3), result=LARGE), ended(job(4)), counts={0: 1, 1: 1, 3: 2})
        done = await store.commit(Batch(delete=[1, 2, 3, 9, 3], fetch=[1, 2, 3, 4]))
        assert (sum(done.purged.values()), sorted(done.fetched), done.times) == (1, [1, 2, 4], False)
        assert (await (await reopened(place)).opened()).counts == {QUEUED: 1, LEASED: 1, DONE: 1}

    @on_loop
    async def test_a_result_that_is_taken_back_is_gone(self, place: Place) -> None:
        store = await place.open()
        given = job(1, body=LARGE)
        await insert(store, ended(given, FAILED, result=LARGE))
        await update(store, changed(given, result=b""))
        assert plain(await store.get(1)) == plain(given)
        await update(store, ended(given, result=LARGE + b"2"))
        assert plain(await (await reopened(place)).get(1)) == plain(ended(given, result=LARGE + b"2"))

    # ----- small values and counters

    @on_loop
    async def test_small_values_are_kept(self, place: Place) -> None:
        store = await place.open()
        await store.commit(Batch(meta={"clock": b"1", "paused": b"[]", "gone": b"x"}))
        await store.commit(Batch(meta={"clock": b"\0\xff", "gone": b""}))
        assert (await (await reopened(place)).opened()).meta == {"clock": b"\0\xff", "paused": b"[]", "gone": b""}

    @on_loop
    async def test_counters_add_up(self, place: Place) -> None:
        store = await place.open()
        await store.commit(Batch(usage={"a": (2, 100), "b": (1, 5)}, counts={QUEUED: 3, LEASED: 1}))
        await store.commit(Batch(usage={"a": (-1, -40), "b": (-1, -5), "c": (0, 7)}, counts={QUEUED: -3, LEASED: 1, DONE: 2}))
        opened = await (await reopened(place)).opened()
        assert opened.usage == {"a": (1, 60), "c": (0, 7)}
        assert opened.counts == {LEASED: 2, DONE: 2}

    @on_loop
    async def test_a_check_finds_wrong_counters(self, place: Place) -> None:
        store = await place.open()
        jobs = [job(1, body=LARGE), job(2, state=State.RUNNING), ended(job(3), result=LARGE), *fan_out(4, 1)]
        size = len(LARGE) + 3 * 2
        await insert(store, *jobs, usage={KEY: (4, size)}, counts={QUEUED: 3, LEASED: 1, DONE: 1})
        report = await store.check()
        assert (report.ok, report.jobs, report.findings) == (True, 5, [])
        await store.commit(Batch(counts={DONE: 1}))
        report = await store.check()
        assert (report.ok, report.jobs, len(report.findings)) == (False, 5, 1)

    @on_loop
    async def test_numbers_are_not_given_again(self, place: Place) -> None:
        store = await place.open()
        await insert(store, ended(job(5)), delete=[5])
        store = await reopened(place)
        assert (await store.opened()).last_number == 5
        await insert(store, job(7, idempotency_key="a"), job(9, idempotency_key="a"))
        assert (await (await reopened(place)).opened()).last_number == 9

    # ----- listings

    @on_loop
    async def test_a_listing_is_newest_first_without_parts_and_bodies(self, place: Place) -> None:
        store = await place.open()
        jobs = [full(1, body=LARGE, sequence=""), ended(job(2), result=LARGE), *fan_out(3, 2), job(6)]
        await insert(store, *jobs)
        page = await store.list(Query())
        assert (numbers(page.jobs), page.next) == ([6, 3, 2, 1], 0)
        for one in page.jobs:
            was = changed(jobs[[1, 2, 3, 4, 5, 6].index(one.number)], body=b"", result=b"")
            assert plain(one) == plain(was) | {"parts_left": 2 if one.number == 3 else 0}
        assert await pages(store, Query(limit=3)) == [[6, 3, 2], [1]]
        assert await pages(store, Query(limit=2)) == [[6, 3], [2, 1]]
        assert await pages(store, Query(limit=1, before=4)) == [[3], [2], [1]]
        assert await pages(store, Query(before=1)) == [[]]

    @on_loop
    async def test_a_listing_of_parts_is_oldest_first(self, place: Place) -> None:
        store = await place.open()
        await insert(store, *fan_out(1, 4), job(6), update=[ended(fan_out(1, 4)[2], FAILED, result=LARGE)])
        assert await pages(store, Query(parent=1)) == [[2, 3, 4, 5]]
        assert await pages(store, Query(parent=1, limit=3)) == [[2, 3, 4], [5]]
        assert await pages(store, Query(parent=1, limit=2)) == [[2, 3], [4, 5]]
        assert await pages(store, Query(parent=1, before=3)) == [[4, 5]]
        assert await pages(store, Query(parent=1, states=(FAILED,))) == [[3]]
        assert await pages(store, Query(parent=1, target="w3")) == [[5]]
        assert await pages(store, Query(parent=6)) == [[]]
        assert (await store.list(Query(parent=1, states=(FAILED,)))).jobs[0].result == b""

    @on_loop
    async def test_a_listing_is_filtered(self, place: Place) -> None:
        store = await place.open()
        await insert(
            store,
            job(1), job(2, "g"), job(3, target="w*"), job(4, key="other"), job(5, state=LEASED), job(6, state=State.RUNNING),
            ended(job(7)), ended(job(8, "g", key="other", target="w*"), FAILED), *fan_out(9, 1), job(11, "g", key="other"),
        )  # fmt: skip
        for query, expected in {
            Query(states=(QUEUED,)): [11, 9, 4, 3, 2, 1],
            Query(states=(LEASED,)): [6, 5],
            Query(states=(State.RUNNING,)): [6, 5],
            Query(states=(State.RUNNING, LEASED, DONE)): [7, 6, 5],
            Query(target="w*"): [8, 3],
            Query(target="w"): [],
            Query(target="w0"): [],
            Query(function="g"): [11, 8, 2],
            Query(key="other"): [11, 8, 4],
            Query(key="nobody"): [],
            Query(key="other", function="g"): [11, 8],
            Query(key="other", function="g", states=(FAILED, CANCELLED), target="w*"): [8],
            Query(function="g", before=8): [2],
        }.items():
            assert await pages(store, query) == [expected], query
            one_by_one = await pages(store, replace(query, limit=1))
            assert one_by_one == ([[number] for number in expected] or [[]]), query

    @pytest.mark.parametrize("limit", [0, -1, MAX_PAGE + 1])
    def test_a_page_has_its_limits(self, place: Place, limit: int) -> None:
        @on_loop
        async def test(_: Any, place: Place) -> None:
            store = await place.open()
            with pytest.raises(UsageError):
                await store.list(Query(limit=limit))

        test(self, place)

    @on_loop
    async def test_a_page_may_be_as_large_as_its_limit(self, place: Place) -> None:
        store = await place.open()
        await insert(store, *(job(number) for number in range(1, MAX_PAGE + 2)))
        page = await store.list(Query(limit=MAX_PAGE))
        assert (len(page.jobs), page.next != 0) == (MAX_PAGE, True)
        page = await store.list(Query(limit=MAX_PAGE, before=MAX_PAGE + 1))
        assert (len(page.jobs), page.next) == (MAX_PAGE, 0)

    # ----- limits

    @on_loop
    async def test_a_batch_beyond_a_limit_changes_nothing(self, place: Place) -> None:
        store = await place.open()
        await insert(store, job(1))
        change: dict[str, Any] = {"insert": [job(2)], "update": [ended(job(1))], "meta": {"a": b"1"}}
        too_many = list(range(1, MAX_BATCH_JOBS + 2))
        beyond: list[dict[str, Any]] = [
            {"insert": [job(number + 1) for number in too_many]},
            {"update": [job(number) for number in too_many]},
            {"delete": too_many},
            {"ready": {"any:g": 1, "any:f": MAX_ASKED + 1}},
            {"fetch": too_many[: MAX_ASKED + 1]},
            {"meta": {"a": b"1", "b": b"x" * (MAX_META_BYTES + 1)}},
        ]
        for more in beyond:
            with pytest.raises(UsageError):
                await store.commit(Batch(**(change | {"usage": {"k": (1, 1)}, "counts": {QUEUED: 1}} | more)))
        assert await pages(store, Query()) == [[1]]
        assert plain(await store.get(1)) == plain(job(1))
        opened = await (await reopened(place)).opened()
        assert (opened.last_number, opened.meta, opened.usage, opened.counts) == (1, {}, {}, {})

    @on_loop
    async def test_a_batch_at_its_limits_is_done(self, place: Place) -> None:
        store = await place.open()
        value = b"x" * MAX_META_BYTES
        numbers_ = list(range(1, MAX_BATCH_JOBS + 1))
        jobs = [job(number, body=b"") for number in numbers_]
        done = await insert(
            store, *jobs, meta={"a": value}, ready={"any:f": MAX_ASKED}, fetch=numbers_[:MAX_ASKED], delete=numbers_, update=jobs
        )
        assert (len(done.ready["any:f"]), done.more, len(done.fetched)) == (MAX_ASKED, {"any:f"}, MAX_ASKED)
        opened = await (await reopened(place)).opened()
        assert (opened.lanes, opened.meta) == ({"any:f": MAX_BATCH_JOBS}, {"a": value})

    @on_loop
    async def test_batches_wait_for_one_another(self, place: Place) -> None:
        store = await place.open()
        commits: list[Awaitable[Done]] = [insert(store, job(number, sequence="s"), fetch=[number]) for number in range(1, 9)]
        done = await asyncio.gather(*commits)
        assert [list(one.fetched) for one in done] == [[number] for number in range(1, 9)]
        assert [len(one.blocked) for one in done] == [0] + [1] * 7
