"""The functions of the queue: in slices, within bounds, and put back as new jobs are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from zcluster.brokers import queueordering
from zcluster.brokers.queue import MasterQueue
from zcluster.brokers.queue_functions import PAGE_BYTES, QueuePart
from zcluster.brokers.queueordering import MAX_ORDERED, SLICE_BYTES, SLICE_JOBS
from zcluster.brokers.queueviews import Views
from zcluster.core.peers import Identity
from zcluster.core.queue.admission import MAX_PARTS, Defaults
from zcluster.core.queue.batch import Batch
from zcluster.core.queue.job import Job, State, Step
from zcluster.core.queue.lanes import NodeView
from zcluster.core.queue.machine import JobQueue
from zcluster.core.queue.orders import Order
from zcluster.core.queue.policy import Policy
from zcluster.core.queue.told import Told
from zcluster.dapi.context import Context
from zcluster.dapi.outcome import encode
from zcluster.errors import PeerError, StoreFailed, ZClusterError
from zcluster.store.jobs import Page, Query
from zcluster.store.jobs_memory import MemoryJobs

Answer = tuple[int, Job | None, ZClusterError | None]
ANNA, ROOT = Identity("a" * 40, "anna", "client"), Identity("r" * 40, "root", "admin")
KB = 1024


class NoNodes:
    """Nothing runs here."""

    def get(self, name: str) -> NodeView | None:
        return None

    def having(self, function: str) -> Iterable[NodeView]:
        return ()


class Live(dict[int, Job]):
    """The jobs in memory; it counts how often they are looked through."""

    looks = 0

    def values(self) -> Any:
        self.looks += 1
        return super().values()


class Store(MemoryJobs):
    """A store that keeps how it was read."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__()
        self.commit_now(Batch(insert=list(jobs)))
        self.read: list[int] = []
        """How many parts were asked for together, whole."""
        self.pages = 0

    async def parts(self, parent: int, *, after: int = 0, limit: int = 100) -> Sequence[Job]:
        self.read.append(limit)
        return await super().parts(parent, after=after, limit=limit)

    async def list(self, query: Query) -> Page:
        self.pages += 1
        return await super().list(query)


class Master:
    """What the functions need of a MasterQueue: the machine with a store in memory, and turns when something is asked."""

    def __init__(self, *jobs: Job, policy: Policy | None = None) -> None:
        self.store = Store(jobs)
        opened = self.store.opened_now()
        policy = policy or Policy()
        self.queue = JobQueue(opened, "m", policy, NoNodes(), lambda job: None, lambda: 1.0, *self.clocks())
        self.admission = SimpleNamespace(defaults=Defaults())
        self.slices: list[int] = []
        """How many orders were under way together."""
        self.hangs_after: int | None = None
        """So many slices are answered, the next never is."""
        self.hangs = asyncio.Event()
        self.part = QueuePart(cast(MasterQueue, self), Views(cast(MasterQueue, self), lambda job: None, str))

    def clocks(self) -> tuple[float, float]:
        return 100.0, 1_000_000.0

    def identity(self, name: str) -> Identity:
        return {"anna": ANNA, "root": ROOT}[name]

    async def order(self, orders: list[Order]) -> list[Answer]:
        self.slices.append(len(orders))
        for place, order in enumerate(orders):
            self.queue.orders.put(replace(order, ticket=place), *self.clocks())
        answers = self.settle()
        if self.hangs_after is not None and len(self.slices) > self.hangs_after:
            self.hangs.set()
            await asyncio.Event().wait()
        return [answers[place] for place in range(len(orders))]

    def settle(self) -> dict[Any, Answer]:
        """Turns until nothing is left to be done; returns what orders were told."""
        answers: dict[Any, Answer] = {}
        while (batch := self.queue.take_batch(*self.clocks())) is not None:
            self.queue.done(self.store.commit_now(batch), *self.clocks())
            told, self.queue.told = self.queue.told, Told()
            answers.update((ticket, (number, job, why)) for ticket, number, job, why in told.answers)
        return answers

    async def ask(self, name: str, who: str = "anna", **args: Any) -> Any:
        """Call a function as the runner does; returns its answer as it is read."""
        found = self.part.functions()[name]
        role = self.identity(who).role
        context = Context(caller=who, role=role, node="m", request_id="1.1", deadline_s=0.0, clock=lambda: 0.0)
        value = await found.call(found.decode(orjson.dumps(args)), context)
        return orjson.loads(encode(name, value))

    def call(self, name: str, who: str = "anna", **args: Any) -> Any:
        return asyncio.run(self.ask(name, who, **args))

    def id(self, number: int) -> str:
        return f"{self.store.id}-{number}"

    def ids(self, *numbers: int) -> list[str]:
        return [self.id(number) for number in numbers]

    def states(self) -> dict[int, str]:
        return {number: job.state.word for number, job in self.store.committed().jobs.items()}


def job(number: int, state: State = State.QUEUED, **others: Any) -> Job:
    ended = 10.0 if state >= State.DONE else 0.0
    fields: dict[str, Any] = {"ended": ended, "steps": [Step(state, 20.0)], "target": "any", "lane": "any:f"}
    fields |= {"priority": 5, "key": ANNA.key, "caller": "anna", "body": b"{}"}
    return Job(number, "f", accepted_s=1.0, retention_s=1e6, state=state, **{**fields, **others})


def fan_out(first: int, *states: State, results: Sequence[bytes] = (), **others: Any) -> Iterator[Job]:
    """A fan-out with the number ``first`` whose parts are in these states."""
    whole = State.QUEUED if any(state < State.DONE for state in states) else State.FAILED
    yield job(first, whole, lane="", parts=len(states), parts_left=sum(state < State.DONE for state in states), **others)
    for place, state in enumerate(states):
        result = results[place] if results else b""
        name = f"w{place}"
        yield job(first + 1 + place, state, parent=first, lane="node:" + name, target=name, result=result, **others)


# ----- slices and bounds


@pytest.mark.parametrize(("count", "slices"), [(SLICE_JOBS, [SLICE_JOBS]), (2 * SLICE_JOBS + 1, [SLICE_JOBS, SLICE_JOBS, 1])])
def test_a_large_fan_out_is_cancelled_a_slice_at_a_time(count: int, slices: list[int]) -> None:
    master = Master(*fan_out(1, *[State.QUEUED] * count), job(count + 2))
    told = master.call("queue.cancel", ids=master.ids(1, count + 2))
    assert told == {"done": master.ids(1, count + 2), "refused": []}
    assert master.slices == [*slices, 1]
    assert set(master.states().values()) == {"cancelled"}
    assert master.store.read == [], "the arguments and results of parts are not read"
    assert master.store.pages == -(-count // 1000)


def test_a_thousand_jobs_are_one_slice() -> None:
    master = Master(*map(job, range(1, 1001)))
    assert len(master.call("queue.cancel", ids=master.ids(*range(1, 1001)))["done"]) == 1000
    assert master.slices == [1000]


def test_large_arguments_make_slices_smaller() -> None:
    size = SLICE_BYTES // 4
    failed = [job(number, State.FAILED, body=bytes(size + (number == 5))) for number in range(1, 10)]
    master = Master(*failed, *fan_out(20, *[State.FAILED] * 8, body=bytes(size)))
    assert len(master.call("queue.retry", ids=master.ids(*range(1, 10), 20))["done"]) == 10
    assert master.slices == [4, 3, 2, 4, 4, 1]


def test_one_call_deals_with_so_many_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ORDERED >= MAX_PARTS, "each fan-out can be dealt with"
    monkeypatch.setattr(queueordering, "MAX_ORDERED", 7)
    queued = State.QUEUED
    master = Master(*fan_out(1, queued, queued, queued), *fan_out(11, queued, queued, queued), job(21), job(22), job(23))
    told = master.call("queue.cancel", ids=master.ids(1, 21, 11, 22, 23))
    assert told["done"] == master.ids(1, 21, 11)
    assert [(each["id"], each["code"]) for each in told["refused"]] == [(id_, "busy") for id_ in master.ids(22, 23)]
    assert "fewer ids" in told["refused"][0]["hint"]
    assert master.store.pages == 2
    told = master.call("queue.cancel", ids=master.ids(22, 23))
    assert told["done"] == master.ids(22, 23)


def test_what_is_beyond_the_bound_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queueordering, "MAX_ORDERED", 2)
    master = Master(*fan_out(1, State.QUEUED, State.QUEUED, State.QUEUED))
    assert [each["code"] for each in master.call("queue.cancel", ids=master.ids(1))["refused"]] == ["busy"]
    assert (master.store.pages, master.slices) == (0, [])
    assert master.call("queue.drop", ids=master.ids(1))["refused"][0]["code"] == "conflict", "to drop it is one order"


# ----- putting back


def test_jobs_are_put_back_with_their_whole() -> None:
    master = Master(*fan_out(1, State.DONE, State.FAILED, State.DEAD), job(9, State.EXPIRED), job(10, State.DONE))
    told = master.call("queue.retry", ids=master.ids(1, 9, 10))
    assert told["done"] == master.ids(1, 9)
    assert [each["code"] for each in told["refused"]] == ["conflict"]
    assert master.states() == {1: "queued", 2: "done", 3: "queued", 4: "queued", 9: "queued", 10: "done"}


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [("draining", True, "draining"), ("resting", True, "draining"), ("read_only", "full", "store_failed")],
)
def test_nothing_is_put_back_while_nothing_is_taken(name: str, value: Any, code: str) -> None:
    master = Master(job(1, State.FAILED), *fan_out(2, State.FAILED), job(9))
    setattr(master.queue, name, value)
    told = master.call("queue.retry", ids=master.ids(1, 2))
    assert [each["code"] for each in told["refused"]] == [code, code]
    assert (told["done"], master.slices) == ([], [])
    assert master.call("queue.cancel", ids=master.ids(9))["done"] == master.ids(9), "what ends a job is not refused"


def test_no_more_is_put_back_than_there_is_room_for() -> None:
    """Each key's own jobs count, whoever puts them back, and a fan-out goes back whole or not at all."""
    other = {"key": "o" * 40, "caller": "otto"}
    failed = State.FAILED
    master = Master(
        job(1, failed), *fan_out(2, failed, failed), job(6, failed), job(7, failed), job(8, failed, **other),
        policy=Policy(jobs_per_key=3),
    )  # fmt: skip
    told = master.call("queue.retry", "root", ids=master.ids(1, 2, 6, 7, 8))
    assert told["done"] == master.ids(1, 6, 7, 8)
    assert [(each["id"], each["code"]) for each in told["refused"]] == [(master.id(2), "busy")]
    assert [master.states()[number] for number in (2, 3, 4)] == ["failed"] * 3
    assert master.queue.usage.by_key[ANNA.key][0] == 3
    assert master.call("queue.retry", ids=master.ids(2))["refused"][0]["code"] == "busy"


def test_the_bytes_of_what_is_put_back_count() -> None:
    master = Master(*(job(number, State.FAILED, body=bytes(10)) for number in (1, 2, 3)), policy=Policy(jobs_bytes=20))
    told = master.call("queue.retry", ids=master.ids(1, 2, 3))
    assert (told["done"], told["refused"][0]["code"]) == (master.ids(1, 2), "busy")


def test_who_does_not_wait_for_it_leaves_no_parts_without_their_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queueordering, "SLICE_JOBS", 2)
    master = Master(*fan_out(1, *[State.FAILED] * 5))
    master.hangs_after = 1

    async def body() -> None:
        asked = asyncio.ensure_future(master.ask("queue.retry", ids=master.ids(1)))
        await master.hangs.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        master.settle()

    asyncio.run(body())
    assert master.slices == [2, 2]
    assert list(master.states().values()) == ["queued"] * 5 + ["failed"]


# ----- values and pages


def test_a_page_of_outcomes_ends_with_the_value_that_makes_it_large() -> None:
    value = orjson.dumps("v" * (PAGE_BYTES // 2 - 2))
    master = Master(*fan_out(1, *[State.DONE] * 7, results=[value] * 2 + [b"1", bytes(0)] + [value] * 3))
    pages = [master.call("queue.outcomes", id=master.id(1))]
    while pages[-1]["next"] is not None:
        pages.append(master.call("queue.outcomes", id=master.id(1), after=pages[-1]["next"]))
    assert [[item["id"] for item in page["items"]] for page in pages] == [master.ids(2, 3, 4), master.ids(5, 6, 7, 8)]
    values = [item["value"] for page in pages for item in page["items"]]
    assert values == [orjson.loads(each) if each else None for each in [value] * 2 + [b"1", b""] + [value] * 3]


def test_a_page_has_one_part_at_least_however_large() -> None:
    value = orjson.dumps("v" * PAGE_BYTES)
    master = Master(*fan_out(1, *[State.DONE] * 3, results=[value] * 3))
    page = master.call("queue.outcomes", id=master.id(1))
    assert ([item["value"] for item in page["items"]], page["next"]) == (["v" * PAGE_BYTES], master.id(2))
    assert master.store.read == [8], "of large values no page of parts is read for one of them"


def test_small_values_make_full_pages() -> None:
    master = Master(*fan_out(1, *[State.DONE] * 120, results=[b"1"] * 120))
    first = master.call("queue.outcomes", id=master.id(1), limit=100)
    rest = master.call("queue.outcomes", id=master.id(1), limit=100, after=first["next"])
    assert (len(first["items"]), first["next"], len(rest["items"]), rest["next"]) == (100, master.id(101), 20, None)


@pytest.mark.parametrize("large", [0, 100 * KB])
def test_a_value_that_is_no_json_spoils_no_page(large: int) -> None:
    spoiled = b'["' + b"x" * large + b"\xff"
    master = Master(*fan_out(1, State.DONE, State.DONE, State.QUEUED, results=[spoiled, b"1", b""]))
    items = master.call("queue.outcomes", id=master.id(1))["items"]
    assert [(item["state"], item["value"]) for item in items] == [("done", None), ("done", 1), ("queued", None)]
    assert [item["error"] and item["error"]["code"] for item in items] == ["protocol_error", None, None]


@pytest.mark.parametrize("large", [0, 100 * KB])
def test_a_result_is_given_as_it_is_or_not_at_all(large: int) -> None:
    value = "y" * large
    spoiled = b'{"a":"' + b"x" * large
    error = orjson.dumps({"code": "rejected", "message": "no", "hint": "", "more": value})
    master = Master(
        job(1, State.DONE, result=orjson.dumps(value)), job(2, State.DONE, result=spoiled), job(3, State.DONE),
        job(4, State.FAILED, result=error),
    )  # fmt: skip
    assert master.call("queue.result", id=master.id(1)) == value
    with pytest.raises(PeerError):
        master.call("queue.result", id=master.id(2))
    assert master.call("queue.result", id=master.id(3)) is None
    with pytest.raises(ZClusterError) as caught:
        master.call("queue.result", id=master.id(4))
    assert caught.value.code == "rejected"


def test_a_list_looks_through_the_live_jobs_once() -> None:
    wholes = [each for first in range(1, 200, 10) for each in fan_out(first, State.QUEUED, State.QUEUED)]
    master = Master(*wholes, job(300))
    running = master.store.committed().jobs[2]
    master.queue.live = live = Live({2: running})
    items = master.call("queue.list", limit=100)["items"]
    assert live.looks == 1
    assert {item["id"]: item["state"] for item in items}[master.id(1)] == "running"
    assert [item["state"] for item in items].count("running") == 1
    assert master.call("queue.state", id=master.id(1)) == "running"
    assert master.call("queue.show", id=master.id(11))["state"] == "queued"
    live.looks = 0
    assert master.call("queue.state", id=master.id(300)) == "queued"
    assert live.looks == 0, "it is no fan-out"


def test_a_job_that_cannot_be_read_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    master = Master(job(1), job(2))
    get = master.store.get

    async def spoiled(number: int) -> Job | None:
        if number == 1:
            raise StoreFailed("its file is lost")
        return await get(number)

    monkeypatch.setattr(master.store, "get", spoiled)
    assert master.call("queue.cancel", ids=master.ids(1, 2))["done"] == master.ids(1, 2)
