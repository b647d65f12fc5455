"""``node.logs``: the newest lines, what follows, what was missed, and the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from zcluster.dapi.function import Function
from zcluster.errors import Busy, Draining
from zcluster.nodes import logs as module
from zcluster.nodes.logs import MAX_FOLLOWERS, PAGE, Logs
from zcluster.process.logtail import MAX_LINES

Follow = Callable[..., AsyncIterator[dict[str, Any]]]


class Rig:
    """The part, its function as a plain callable, and its logger."""

    def __init__(self) -> None:
        self.logger = logging.Logger("test", logging.DEBUG)  # none of the registered ones, which pytest listens to
        self.ending = asyncio.Event()
        desk: Any = SimpleNamespace(name="w1", logger=self.logger, wall_s=lambda: 1_792_000_000.5, ending=self.ending)
        self.part = Logs(desk)
        (self.function,) = self.part.functions().values()
        self.logs: Follow = self.function.target

    def write(self, *messages: str, level: int = logging.INFO) -> None:
        for message in messages:
            self.logger.log(level, message)


def run(work: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        rig = Rig()
        await rig.part.start()
        await work(rig)
        await rig.part.close()
        assert rig.logger.handlers == []

    asyncio.run(main())


async def read(lines: AsyncIterator[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Where it begins, and the messages."""
    found = [line async for line in lines]
    return found[0], [line["message"] for line in found[1:]]


async def take(lines: AsyncIterator[dict[str, Any]], count: int) -> list[str]:
    return [(await anext(lines))["message"] for _ in range(count)]


def test_only_admins_may_ask() -> None:
    async def work(rig: Rig) -> None:
        assert (rig.function.name, rig.function.role, rig.function.stream) == ("node.logs", "admin", True)

    run(work)


def test_the_newest_lines_end_by_themselves() -> None:
    async def work(rig: Rig) -> None:
        start, messages = await read(rig.logs())
        assert (start["newest"], messages) == (0, [])
        rig.write(*(str(number) for number in range(150)))
        start, messages = await read(rig.logs())
        assert (start["newest"], messages) == (150, [str(number) for number in range(50, 150)])
        assert (await read(rig.logs(lines=2)))[1] == ["148", "149"]
        assert (await read(rig.logs(lines=0)))[1] == []
        assert len((await read(rig.logs(lines=MAX_LINES)))[1]) == 150

    run(work)


def test_a_level_counts_the_lines_that_it_shows() -> None:
    async def work(rig: Rig) -> None:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            rig.write(logging.getLevelName(level), level=level)
        assert (await read(rig.logs(level="warning")))[1] == ["WARNING", "ERROR", "CRITICAL"]
        assert (await read(rig.logs(level="info", lines=2)))[1] == ["ERROR", "CRITICAL"]
        assert (await read(rig.logs()))[1][0] == "DEBUG"

    run(work)


def test_what_is_out_of_its_bounds_is_refused() -> None:
    class Arguments(msgspec.Struct):
        lines: module.Lines = 100
        after: module.After = 0

    for good, bad in ((b'{"lines":2000}', b'{"lines":2001}'), (b'{"after":0}', b'{"after":-1}')):
        assert msgspec.json.decode(good, type=Arguments)
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(bad, type=Arguments)


def test_a_follower_gets_the_newest_and_then_each_line() -> None:
    async def work(rig: Rig) -> None:
        rig.write("a", "b", "c")
        lines = rig.logs(lines=2, follow=True)
        assert (await anext(lines))["newest"] == 3
        assert await take(lines, 2) == ["b", "c"]
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        rig.write("d", level=logging.DEBUG)
        assert (await waiting)["message"] == "d"
        rig.write("e", "f")
        assert await take(lines, 2) == ["e", "f"]
        await lines.aclose()  # type: ignore[attr-defined]

    run(work)


def test_a_line_of_another_thread_wakes_a_follower() -> None:
    async def work(rig: Rig) -> None:
        lines = rig.logs(follow=True)
        await anext(lines)
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        await asyncio.to_thread(rig.write, "from a thread")
        assert (await waiting)["message"] == "from a thread"
        await lines.aclose()  # type: ignore[attr-defined]

    run(work)


def test_lines_between_the_newest_and_following_are_told_too() -> None:
    async def work(rig: Rig) -> None:
        rig.write("a")
        lines = rig.logs(follow=True)
        await anext(lines)
        rig.write("b")
        assert await take(lines, 2) == ["a", "b"]
        await lines.aclose()  # type: ignore[attr-defined]

    run(work)


def test_a_slow_follower_is_told_how_many_lines_are_gone() -> None:
    async def work(rig: Rig) -> None:
        lines = rig.logs(follow=True, level="warning")
        await anext(lines)
        rig.write("seen", level=logging.WARNING)
        assert await take(lines, 1) == ["seen"]
        rig.write(*(str(number) for number in range(MAX_LINES + 7)), level=logging.ERROR)
        gone = await anext(lines)
        assert (gone["level"], gone["fields"], gone["sequence"], gone["time"]) == (
            "warning", {"missed": 7}, 8, "2026-10-14T17:46:40.500Z",
        )  # fmt: skip
        assert await take(lines, 2) == ["7", "8"]
        await lines.aclose()  # type: ignore[attr-defined]

    run(work)


def test_it_goes_on_behind_a_line_of_the_same_process() -> None:
    async def work(rig: Rig) -> None:
        rig.write(*(str(number) for number in range(PAGE * 2)))
        start, messages = await read(rig.logs(after=PAGE * 2 - 3))
        assert messages == [str(PAGE * 2 - 3 + number) for number in range(3)]
        assert (await read(rig.logs(after=PAGE * 2, log=start["log"])))[1] == []
        # Of another process, or further than this one is: everything here is new.
        assert len((await read(rig.logs(after=3, log="other")))[1]) == PAGE * 2
        assert len((await read(rig.logs(after=PAGE * 2 + 1)))[1]) == PAGE * 2

    run(work)


def test_a_node_that_ends_sends_its_followers_away_after_the_last_line() -> None:
    async def work(rig: Rig) -> None:
        lines, waiting = rig.logs(follow=True), rig.logs(follow=True)
        await anext(lines)
        await anext(waiting)
        end = asyncio.ensure_future(anext(waiting))
        await asyncio.sleep(0)
        rig.ending.set()
        with pytest.raises(Draining):
            await end
        rig.write("the last")
        assert await take(lines, 1) == ["the last"]
        with pytest.raises(Draining):
            await anext(lines)

    run(work)


def test_so_many_follow_and_the_next_is_sent_away() -> None:
    async def follow(rig: Rig, lines: AsyncIterator[dict[str, Any]]) -> None:
        """Until it has its first line."""
        await anext(lines)
        waiting = asyncio.ensure_future(take(lines, 1))
        await asyncio.sleep(0)
        rig.write("one")
        assert await waiting == ["one"]

    async def work(rig: Rig) -> None:
        followers = [rig.logs(lines=0, follow=True) for _ in range(MAX_FOLLOWERS + 2)]
        *many, refused, later = followers
        for each in many:
            await follow(rig, each)
        with pytest.raises(Busy):
            _ = [line async for line in refused]
        assert len((await read(rig.logs()))[1]) == MAX_FOLLOWERS  # who does not follow is served
        await many[0].aclose()  # type: ignore[attr-defined]
        await follow(rig, later)
        for each in followers:
            await each.aclose()  # type: ignore[attr-defined]

    run(work)


def test_a_closed_part_takes_lines_of_late_threads() -> None:
    async def work(rig: Rig) -> None:
        await rig.part.close()
        rig.write("late")
        assert isinstance(rig.function, Function)

    run(work)
