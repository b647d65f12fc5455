"""The contract of stores of jobs over all of them, SQLite compared with the reference step by step, and what only one has."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from jobs_contract import (
    FILE_BYTES,
    KEY,
    LARGE,
    JobsContract,
    Place,
    changed,
    ended,
    fan_out,
    insert,
    job,
    numbers,
    on_loop,
    pages,
    plain,
    plains,
    reopened,
    update,
    whole,
)

from zcluster.core.queue.job import Job, State
from zcluster.core.queue.machine import JobQueue
from zcluster.core.queue.policy import Policy
from zcluster.errors import StoreFailed
from zcluster.store import jobs_memory, jobs_reader, jobs_turn
from zcluster.store.jobs import Batch, JobStore, Query
from zcluster.store.jobs_memory import MemoryJobs
from zcluster.store.jobs_opening import open_jobs

T = TypeVar("T")
QUEUED, LEASED, DONE = State.QUEUED, State.LEASED, State.DONE


class InMemory:
    """What is opened again begins with what the one before had committed."""

    def __init__(self, directory: Path) -> None:
        self._store: MemoryJobs | None = None

    async def open(self) -> JobStore:
        self._store = MemoryJobs(self._store.committed() if self._store else None)
        return self._store

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()


class InSqlite:
    """The same path is opened again."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "data" / "jobs.db"
        self._store: JobStore | None = None

    async def open(self) -> JobStore:
        self._store = await open_jobs(self.path, file_bytes=FILE_BYTES)
        return self._store

    async def close(self) -> None:
        if self._store is not None:
            store, self._store = self._store, None
            await store.close()

    def files(self) -> list[Path]:
        """The files of large arguments and results: what is in a directory beside the database."""
        return [path for path in self.path.parent.rglob("*") if path.is_file() and path.parent != self.path.parent]

    def file_of(self, body: bytes) -> Path:
        """The one that holds ``body``."""
        [found] = [path for path in self.files() if path.read_bytes() == body]
        return found


@pytest.fixture(params=[InMemory, InSqlite])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    place: Place = request.param(tmp_path)
    return place


class TestBackends(JobsContract):
    """Every backend keeps the contract."""


class TestMemory:
    """What the reference has besides: it fails when it is told to, and goes on from what another one had committed."""

    def test_a_commit_that_fails_changes_nothing(self) -> None:
        store = MemoryJobs()
        store.commit_now(Batch(insert=[job(1)]))
        store.failure = StoreFailed("the disk is full")
        with pytest.raises(StoreFailed, match="the disk is full"):
            store.commit_now(
                Batch(insert=[job(2)], update=[ended(job(1))], meta={"a": b"1"}, usage={KEY: (1, 1)}, counts={DONE: 1})
            )
        store.failure = None
        opened = store.opened_now()
        assert (opened.last_number, opened.lanes, opened.meta, opened.usage, opened.counts) == (1, {"any:f": 1}, {}, {}, {})
        store.commit_now(Batch(insert=[job(2)]))
        assert store.opened_now().last_number == 2

    def test_what_is_committed_is_a_copy(self) -> None:
        store = MemoryJobs()
        store.commit_now(Batch(insert=[job(1)], meta={"a": b"1"}, usage={KEY: (1, 2)}, counts={QUEUED: 1}))
        saved = store.committed()
        store.commit_now(
            Batch(insert=[job(2)], update=[ended(job(1))], meta={"a": b"2"}, usage={KEY: (1, 2)}, counts={QUEUED: 1})
        )
        after = MemoryJobs(saved)
        assert after.id == store.id
        opened = after.opened_now()
        assert (opened.last_number, opened.lanes, opened.meta) == (1, {"any:f": 1}, {"a": b"1"})
        assert (opened.usage, opened.counts) == ({KEY: (1, 2)}, {QUEUED: 1})
        after.commit_now(Batch(delete=[1], update=[ended(job(1))]))
        assert MemoryJobs(saved).opened_now().lanes == {"any:f": 1}

    def test_a_page_looks_at_so_many_jobs_at_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs_memory, "SCAN_JOBS", 3)

        async def main() -> None:
            store = MemoryJobs()
            await insert(store, *(job(number, "g" if number in (1, 5) else "f") for number in range(1, 9)))
            assert await pages(store, Query(function="g")) == [[], [5], [1]]
            assert await pages(store, Query(function="g", before=4)) == [[1]]

        asyncio.run(main())

    def test_a_closed_store_says_so(self) -> None:
        store = MemoryJobs()
        asyncio.run(store.close())
        with pytest.raises(StoreFailed, match="closed"):
            store.commit_now(Batch())


class TestFiles:
    """What is too large for a row."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> InSqlite:
        return InSqlite(tmp_path)

    @on_loop
    async def test_files_are_there_as_long_as_their_jobs(self, place: Any) -> None:
        store = await place.open()
        jobs = [job(1, body=b"x" * FILE_BYTES), job(2, body=b"y" * (FILE_BYTES + 1)), *fan_out(3, 1, idempotency_key="a")]
        await insert(store, *jobs)
        assert [path.read_bytes() for path in place.files()] == [b"y" * (FILE_BYTES + 1)]
        await insert(store, *(changed(one, body=LARGE) for one in fan_out(5, 2, idempotency_key="a")))
        assert len(place.files()) == 1, "what is known keeps no files"
        await update(store, ended(jobs[1], result=LARGE), ended(jobs[3], result=LARGE + b"1"), ended(jobs[0], result=b"1"))
        assert len(place.files()) == 3
        await update(store, changed(jobs[1], result=b""))
        assert len(place.files()) == 2
        await update(store, ended(jobs[1], result=LARGE), ended(jobs[2]))
        await store.commit(Batch(delete=[2, 3]))
        assert place.files() == []

    @on_loop
    async def test_files_that_no_row_names_are_removed_when_it_is_opened(self, place: Any) -> None:
        store = await place.open()
        await insert(store, job(1, body=LARGE))
        await place.close()
        [kept] = place.files()
        kept.with_name("0" * 16 + "-" + "0" * 32).write_bytes(b"orphan")
        kept.with_name("0" * 16 + ".new").write_bytes(b"half")
        store = await place.open()
        assert place.files() == [kept]
        assert plain(await store.get(1)) == plain(job(1, body=LARGE))

    @pytest.mark.parametrize("how", ["gone", "damaged"])
    def test_a_job_whose_file_cannot_be_read_does_not_stop_the_others(self, tmp_path: Path, how: str) -> None:
        place = InSqlite(tmp_path)

        async def main() -> None:
            store = await place.open()
            lost = job(1, body=LARGE, expires=5.0)
            others = [job(2), job(3, due=1.0, body=LARGE + b"3"), job(4, state=LEASED, body=LARGE + b"4")]
            await insert(store, lost, *others, usage={KEY: (4, 3 * len(LARGE) + 4)}, counts={QUEUED: 3, LEASED: 1})
            for body in (LARGE, LARGE + b"3", LARGE + b"4"):
                path = place.file_of(body)
                path.unlink() if how == "gone" else path.write_bytes(b"?")
            done = await store.commit(Batch(ready={"any:f": 9}, due=(9.0, 0.0), expired=9.0, fetch=[1, 2, 3]))
            assert numbers(done.ready["any:f"]) == [1, 2]
            assert plain(done.ready["any:f"][0]) == plain(changed(lost, body=b"", lost=len(LARGE)))
            assert (numbers(done.due), numbers(done.expired), sorted(done.fetched)) == ([3], [1], [1, 2, 3])
            assert sorted(done.unreadable) == [1, 3]
            assert all(done.unreadable.values())
            with pytest.raises(StoreFailed):
                await store.get(1)
            assert plain(await store.get(2)) == plain(job(2))
            report = await store.check()
            assert (report.ok, report.jobs, len(report.findings)) == (False, 1, 3)
            await place.close()
            store = await place.open()
            opened = await store.opened()
            assert (numbers(opened.leased), sorted(opened.unreadable)) == ([4], [4])
            await update(store, ended(lost))
            done = await store.commit(Batch(delete=[1]))
            assert sum(done.purged.values()) == 1

        asyncio.run(around(place, main()))

    @on_loop
    async def test_jobs_whose_arguments_are_gone_are_taken_off_the_usage_of_their_key(self, place: Any) -> None:
        store = await place.open()
        said: dict[str, Any] = {"due": 1.0, "retention_s": 99.0}
        jobs = [job(1, body=LARGE + b"1", state=LEASED, retention_s=99.0), job(2, body=LARGE + b"2", **said), job(3, **said)]
        size = sum(one.size for one in jobs)
        await insert(store, *jobs, usage={KEY: (3, size)}, counts={QUEUED: 2, LEASED: 1})
        for one in jobs[:2]:
            place.file_of(one.body).unlink()
        store = await reopened(place)
        queue = JobQueue(
            await store.opened(), "m", Policy(), NoNodes(), may_run=lambda _: None, jitter=lambda: 1.0, now=5.0, wall_s=5.0
        )
        while (batch := queue.take_batch(5.0, 5.0)) is not None:
            queue.done(await store.commit(batch), 5.0, 5.0)
        page = await store.list(Query(states=(State.FAILED,)))
        assert numbers(page.jobs) == [2, 1]
        assert (queue.usage.jobs, queue.usage.bytes) == (1, jobs[2].size)
        opened = await (await reopened(place)).opened()
        assert opened.usage == {KEY: (1, jobs[2].size)}

    @on_loop
    async def test_a_part_whose_file_cannot_be_read_is_told(self, place: Any) -> None:
        store = await place.open()
        await insert(store, *fan_out(1, 2), update=[ended(fan_out(1, 2)[1], result=LARGE)])
        place.file_of(LARGE).unlink()
        with pytest.raises(StoreFailed):
            await store.parts(1)
        assert numbers(await store.parts(1, after=2)) == [3]


class NoNodes:
    """There are none."""

    def get(self, name: str) -> None:
        return None

    def having(self, function: str) -> list[Any]:
        return []


async def around(place: InSqlite, test: Coroutine[Any, Any, None]) -> None:
    """Run ``test``, and close the store after it."""
    try:
        await test
    finally:
        await place.close()


NUMBERS = st.integers(1, 14)
SEQUENCES = st.sampled_from(["", "", "s", "t"])
KEYS = st.sampled_from(["", "", "", "a", "b"])
TIMES = st.sampled_from([0.0, 0.0, 1.0, 2.0, 3.0])
BODIES = st.sampled_from([b"", b"{}", LARGE])
STATES = st.sampled_from(list(State))
FUNCTIONS = st.sampled_from(["f", "g"])
NEW = st.fixed_dictionaries(
    {
        "function": FUNCTIONS,
        "sequence": SEQUENCES,
        "idempotency_key": KEYS,
        "due": TIMES,
        "at_s": TIMES,
        "expires": TIMES,
        "retention_s": TIMES,
        "priority": st.integers(4, 6),
        "body": BODIES,
        "key": st.sampled_from(["one", "two"]),
        "state": st.sampled_from([QUEUED, QUEUED, LEASED]),
    }
)
CHANGE = st.fixed_dictionaries(
    {
        "state": STATES,
        "due": TIMES,
        "at_s": TIMES,
        "expires": TIMES,
        "ended": TIMES,
        "node": st.sampled_from(["", "w1"]),
        "result": BODIES,
    }
)
ASKED = st.fixed_dictionaries(
    {
        "ready": st.dictionaries(st.sampled_from(["any:f", "any:g", "node:w0", "node:w1"]), st.integers(1, 4)),
        "due": st.none() | st.tuples(TIMES, TIMES),
        "expired": st.none() | TIMES,
        "purge": st.none() | st.none() | TIMES,
        "fetch": st.lists(NUMBERS, max_size=3, unique=True),
        "delete": st.lists(NUMBERS, max_size=2, unique=True),
    }
)


class Compared(RuleBasedStateMachine):
    """The same batches have the same answers of the reference and of SQLite, through any number of restarts."""

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.limits = pytest.MonkeyPatch()  # small ones: a batch that asks for much is given a part of it
        for module in (jobs_memory, jobs_reader):
            self.limits.setattr(module, "PARTS_BYTES", len(LARGE) + 1)
        for module in (jobs_memory, jobs_turn):
            self.limits.setattr(module, "MAX_PURGED", 2)
        self.directory = tempfile.TemporaryDirectory()
        self.place = InSqlite(Path(self.directory.name))
        self.store = self.do(self.place.open())
        self.reference = MemoryJobs()
        self.inserted: dict[int, Job] = {}

    @property
    def last(self) -> int:
        return max(self.inserted, default=0)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(
        new=st.lists(st.tuples(NEW, st.integers(0, 2)), max_size=4),
        changes=st.dictionaries(NUMBERS, CHANGE, max_size=4),
        asked=ASKED,
    )
    def commit(self, new: list[tuple[dict[str, Any], int]], changes: dict[int, dict[str, Any]], asked: dict[str, Any]) -> None:
        batch = Batch(insert=self.new_jobs(new), **asked)
        batch.update = [changed(self.inserted[number], **change) for number, change in changes.items() if number in self.inserted]
        for one in batch.insert:
            jobs, size = batch.usage.get(one.key, (0, 0))
            batch.usage[one.key] = (jobs + 1, size + one.size)
            batch.counts[one.state] = batch.counts.get(one.state, 0) + 1
        done = self.do(self.store.commit(batch))
        expected = self.reference.commit_now(batch)
        assert whole(done) == whole(expected)

    def new_jobs(self, new: list[tuple[dict[str, Any], int]]) -> list[Job]:
        jobs: list[Job] = []
        for said, parts in new:
            first = self.last + 1
            if parts:
                said = said | {"state": QUEUED}
                whole_, *rest = fan_out(first, parts, **said)
                alike = {name: said[name] for name in ("body", "due", "expires", "key")}
                made = [whole_, *(changed(one, **alike) for one in rest)]
            else:
                made = [job(first, lane=f"any:{said['function']}", **said)]
            self.inserted.update((one.number, one) for one in made)
            jobs += made
        return jobs

    @rule()
    def restart(self) -> None:
        self.do(self.place.close())
        self.store = self.do(self.place.open())
        self.reference = MemoryJobs(self.reference.committed())
        opened, expected = self.do(self.store.opened()), self.reference.opened_now()
        assert whole(opened) == whole(expected)

    @rule(
        query=st.builds(
            Query,
            states=st.lists(STATES, max_size=2, unique=True).map(tuple),
            target=st.sampled_from(["", "", "any", "all", "w0"]),
            function=st.sampled_from(["", "", "f"]),
            key=st.sampled_from(["", "", "one"]),
            parent=st.sampled_from([0, 0, 1, 2, 3]),
            before=st.integers(0, 12),
            limit=st.integers(1, 4),
        )
    )
    def listed(self, query: Query) -> None:
        assert self.do(pages(self.store, query)) == self.do(pages(self.reference, query))
        found, expected = self.do(self.store.list(query)), self.do(self.reference.list(query))
        assert plains(found.jobs) == plains(expected.jobs)

    @rule(parent=NUMBERS, after=NUMBERS, limit=st.integers(1, 3))
    def parts(self, parent: int, after: int, limit: int) -> None:
        found = self.do(self.store.parts(parent, after=after, limit=limit))
        assert [plain(one) for one in found] == [
            plain(one) for one in self.do(self.reference.parts(parent, after=after, limit=limit))
        ]

    @invariant()
    def same(self) -> None:
        for number in range(1, self.last + 1):
            assert plain(self.do(self.store.get(number))) == plain(self.do(self.reference.get(number)))

    def teardown(self) -> None:
        self.restart()
        large = [body for one in self.reference.committed().jobs.values() for body in (one.body, one.result) if body == LARGE]
        assert len(self.place.files()) == len(large), "files are those of the rows"
        self.do(self.place.close())
        self.do(self.loop.shutdown_default_executor())
        self.loop.close()
        self.limits.undo()
        self.directory.cleanup()


TestCompared = Compared.TestCase
TestCompared.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
