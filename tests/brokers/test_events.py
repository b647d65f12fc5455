"""Events are numbered, kept and told: from any sequence, to any number of followers, with no silent gap."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.brokers import events as module
from zcluster.brokers.events import ENDS, EventBook, Events
from zcluster.core.eventnames import Names
from zcluster.core.peers import Event
from zcluster.errors import Busy, Draining, UsageError


class Log:
    """A LineLog in memory that keeps ``keep`` lines."""

    def __init__(self, keep: int = 1000, newest: int = 0) -> None:
        self.id, self.keep, self.newest, self.lost, self.full, self.closed = "log-1", keep, newest, 0, False, False
        self.lines: list[dict[str, Any]] = []
        self.reads = 0

    @property
    def oldest(self) -> int:
        return self.lines[0]["sequence"] if self.lines else self.newest + 1

    @oldest.setter
    def oldest(self, value: int) -> None:
        raise NotImplementedError

    def append(self, record: Mapping[str, Any]) -> int:
        if self.full:
            self.lost += 1
            return 0
        self.newest += 1
        self.lines.append({"sequence": self.newest, **record})
        del self.lines[: -self.keep]
        return self.newest

    async def read(self, after: int, limit: int = 10_000) -> list[dict[str, Any]]:
        self.reads += 1
        return [line for line in self.lines if line["sequence"] > after][:limit]

    async def close(self) -> None:
        self.closed = True


@dataclass
class Rig:
    """The part, its functions as plain callables, and its time."""

    log: Log = field(default_factory=Log)
    wall_s: float = 1000.0
    slots: int = 8
    ring: dict[str, Any] = field(default_factory=dict)
    noted: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = SimpleNamespace(worker=SimpleNamespace(slots=self.slots))
        desk: Any = SimpleNamespace(
            name="m", wall_s=lambda: self.wall_s, logger=logging.getLogger("test"), note=self.noted.append,
            loaded=lambda: SimpleNamespace(settings=settings),
        )  # fmt: skip
        self.part = Events(desk, Names(["old"]), lambda: self.ring, self._open)
        functions = self.part.functions()
        self.since: Callable[..., Awaitable[dict[str, Any]]] = functions["events.since"].target
        self.follow: Callable[..., AsyncIterator[dict[str, Any]]] = functions["events.follow"].target

    async def _open(self) -> Log:
        return self.log

    def happen(self, *names: str) -> None:
        for name in names:
            self.part.heard(Event(name, {"name": "w1"}))
            self.wall_s += 1.0


def run(work: Callable[[Rig], Coroutine[Any, Any, None]], **rig: Any) -> None:
    async def main() -> None:
        made = Rig(**rig)
        await made.part.start()
        await work(made)
        await made.part.close()
        assert made.log.closed

    asyncio.run(main())


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [event["sequence"] for event in found]


async def take(follower: AsyncIterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return [await anext(follower) for _ in range(count)]


def test_an_event_has_a_number_a_time_a_name_and_fields() -> None:
    async def work(rig: Rig) -> None:
        rig.part.heard(Event("node_dead", {"name": "w1", "reason": "two\nlines"}, "warning"))
        rig.part.heard(Event("session_opened", {"name": "w1"}))
        (event,) = rig.log.lines
        assert event == {
            "sequence": 1, "at_s": 1000.0, "name": "dead", "level": "warning", "fields": {"name": "w1", "reason": "two\\nlines"},
        }  # fmt: skip

    run(work)


def test_what_was_heard_before_the_log_was_open_is_kept() -> None:
    async def main() -> None:
        rig = Rig()
        rig.happen("early")
        await rig.part.start()
        rig.happen("late")
        assert [line["name"] for line in rig.log.lines] == ["early", "late"]
        await rig.part.close()

    asyncio.run(main())


def test_the_master_itself_comes_back_when_there_is_a_log() -> None:
    async def work(rig: Rig) -> None:
        rig.part.heard(Event("node_ready", {"name": "m"}))
        assert rig.log.lines[-1]["name"] == ("back" if rig.log.newest > 1 else "join")

    run(work)
    run(work, log=Log(newest=7))


def test_a_change_of_the_ring_is_an_event() -> None:
    async def work(rig: Rig) -> None:
        rig.ring = {"x": SimpleNamespace(name="x", role="client", public="P")}
        rig.part.ring_changed()
        rig.ring = {}
        rig.part.ring_changed()
        rig.part.ring_changed()
        assert [event.name for event in rig.noted] == ["key_admitted", "key_revoked"]

    run(work)


def test_since_pages_through_what_is_there() -> None:
    async def work(rig: Rig) -> None:
        rig.happen(*["a", "b"] * 5)
        first = await rig.since(after=0, limit=4)
        assert (numbers(first["events"]), first["next"], first["more"], first["oldest"], first["last"]) == (
            [1, 2, 3, 4], 4, True, 1, 10,
        )  # fmt: skip
        last = await rig.since(after=8, limit=4)
        assert (numbers(last["events"]), last["next"], last["more"]) == ([9, 10], 10, False)
        assert (await rig.since(after=10))["events"] == []

    run(work)


def test_since_without_a_beginning_gives_the_newest() -> None:
    async def work(rig: Rig) -> None:
        assert (await rig.since())["events"] == []
        rig.happen(*["a", "b"] * 5)
        found = await rig.since(limit=3)
        assert (numbers(found["events"]), found["next"], found["more"]) == ([8, 9, 10], 10, False)
        assert numbers((await rig.since(limit=2, names=["a"]))["events"]) == [7, 9]

    run(work)


def test_since_a_time_and_by_names() -> None:
    async def work(rig: Rig) -> None:
        rig.happen("a", "b", "sync_x", "b")
        assert numbers((await rig.since(since_s=1001.0))["events"]) == [2, 3, 4]
        assert numbers((await rig.since(since_s=0.0))["events"]) == [1, 2, 3, 4]
        assert numbers((await rig.since(since_s=9999.0))["events"]) == []
        assert numbers((await rig.since(after=0, names=["sync_*", "a"]))["events"]) == [1, 3]
        assert (await rig.since(after=0, names=["zzz"]))["next"] == 4

    run(work)


def test_since_looks_at_so_many_and_says_where_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCAN", 3)

    async def work(rig: Rig) -> None:
        rig.happen("a", "a", "a", "b")
        found = await rig.since(after=0, names=["b"])
        assert (found["events"], found["next"], found["more"]) == ([], 3, True)
        assert numbers((await rig.since(after=3, names=["b"]))["events"]) == [4]

    run(work)


def test_what_the_log_no_longer_has_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAIL", 2)

    async def work(rig: Rig) -> None:
        rig.happen(*["a"] * 10)
        found = (await rig.since(after=2, names=["none"]))["events"]
        assert [(event["sequence"], event["name"], event["fields"]) for event in found] == [
            (5, "missed", {"after": 2, "oldest": 6}),
        ]
        assert (await rig.since(after=5, names=["none"]))["events"] == []

    run(work, log=Log(keep=5))


def test_a_number_that_was_passed_over_is_no_missed_event() -> None:
    async def work(rig: Rig) -> None:
        rig.happen("a")
        rig.log.newest = 100
        rig.part.book.open(rig.log)
        rig.part.book._tail.clear()  # as after a crash
        rig.happen("b")
        assert numbers((await rig.since(after=0))["events"]) == [1, 101]

    run(work)


def test_a_sequence_that_was_not_reached_is_an_error_and_one_of_another_log_begins_anew() -> None:
    async def work(rig: Rig) -> None:
        rig.happen("a")
        with pytest.raises(UsageError, match="newest event is 1"):
            await rig.since(after=2)
        with pytest.raises(UsageError):
            await rig.since(after=2, log="log-1")
        assert numbers((await rig.since(after=2, log="another"))["events"]) == [1]

    run(work)


def test_a_follower_gets_what_is_past_and_then_what_happens() -> None:
    async def work(rig: Rig) -> None:
        rig.happen("a", "b")
        follower = rig.follow(after=1)
        assert await take(follower, 1) == [{"log": "log-1", "after": 1, "oldest": 1, "last": 2}]
        assert numbers(await take(follower, 1)) == [2]
        waiting = asyncio.ensure_future(anext(follower))
        await asyncio.sleep(0)
        assert not waiting.done()
        rig.happen("c", "d")
        assert (await waiting)["sequence"] == 3
        assert numbers(await take(follower, 1)) == [4]
        await follower.aclose()  # type: ignore[attr-defined]
        assert rig.part.book.followers == 0

    run(work)


def test_a_follower_without_a_beginning_gets_what_happens_from_now_on() -> None:
    async def work(rig: Rig) -> None:
        rig.happen("a")
        follower = rig.follow(names=["b"])
        assert (await anext(follower))["after"] == 1
        rig.happen("a", "b")
        assert (await anext(follower))["sequence"] == 3

    run(work)


def test_a_slow_follower_reads_the_log_and_is_told_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAIL", 2)

    async def work(rig: Rig) -> None:
        follower = rig.follow(after=0)
        await anext(follower)
        rig.happen(*["a"] * 4)
        assert numbers(await take(follower, 2)) == [1, 2]
        rig.happen(*["a"] * 6)
        found = await take(follower, 8)  # two of them were read before they were gone
        assert [event["name"] for event in found] == ["a", "a", "missed", *["a"] * 5]
        assert numbers(found) == [3, 4, 5, 6, 7, 8, 9, 10]

    run(work, log=Log(keep=5))


def test_a_follower_that_keeps_up_costs_no_reads() -> None:
    async def work(rig: Rig) -> None:
        follower = rig.follow()
        await anext(follower)
        for _ in range(50):
            rig.happen("a")
            await anext(follower)
        assert rig.log.reads == 0

    run(work)


def test_followers_take_a_quarter_of_the_slots_at_most() -> None:
    async def work(rig: Rig) -> None:
        followers = [rig.follow() for _ in range(3)]
        await take(followers[0], 1)
        await take(followers[1], 1)
        with pytest.raises(Busy, match="2 follow"):
            await anext(followers[2])
        await followers[0].aclose()  # type: ignore[attr-defined]
        again = rig.follow()
        assert (await anext(again))["after"] == 0

    run(work, slots=8)


def test_followers_end_when_the_master_drains_and_have_heard_of_it() -> None:
    async def work(rig: Rig) -> None:
        follower = rig.follow()
        await anext(follower)
        waiting = asyncio.ensure_future(anext(follower))
        await asyncio.sleep(0)
        rig.part.heard(Event(ENDS, {"running": 1}))
        assert (await waiting)["name"] == ENDS
        with pytest.raises(Draining):
            await anext(follower)
        rig.happen("node_left")
        assert rig.log.lines[-1]["name"] == "left"

    run(work)


def test_a_closed_log_is_draining() -> None:
    async def main() -> None:
        rig = Rig()
        with pytest.raises(Draining):
            await rig.since()

    asyncio.run(main())


def test_what_cannot_be_kept_is_counted_and_told() -> None:
    async def work(rig: Rig) -> None:
        rig.log.full = True
        rig.happen("a", "b", "c")
        assert rig.log.lines == []
        rig.log.full = False
        rig.wall_s += module.LOST_EVERY_S
        rig.happen("d")
        assert [(line["name"], line["fields"].get("count")) for line in rig.log.lines] == [("d", None), ("events_lost", 3)]
        rig.happen("e")
        assert rig.log.lines[-1]["name"] == "e"

    run(work)


def test_before_finds_the_place_of_a_time() -> None:
    async def main() -> None:
        wall = [0.0]
        book = EventBook(Names(), lambda: wall[0])
        log = Log(keep=20)
        book.open(log)
        for second in range(50):
            wall[0] = float(second)
            book.heard(Event("a", {}))
        book._tail.clear()
        for wanted, found in ((-1.0, 30), (30.0, 30), (30.5, 31), (49.0, 49), (50.0, 50)):
            assert await book.before(wanted) == found

    asyncio.run(main())
