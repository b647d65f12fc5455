"""Who watches jobs: how many may, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from zcluster.brokers.queuewatch import MAX_WATCHERS, MAX_WATCHERS_PER_KEY, Watchers
from zcluster.core.queue.job import Job, State, Step
from zcluster.errors import Busy

Row = dict[str, Any]


def job(key: str, number: int = 1) -> Job:
    return Job(number, "f", "any", "any:f", 5, key, key, b"{}", 1.0, steps=[])


async def begun(watchers: Watchers, key: str, admin: bool = False) -> tuple[AsyncIterator[Row], asyncio.Future[Row]]:
    """A stream that waits for its first row."""
    rows = watchers.watch(key, admin, None, "")
    first = asyncio.ensure_future(anext(rows))
    for _ in range(3):
        await asyncio.sleep(0)
    return rows, first


def test_one_key_has_at_most_its_places() -> None:
    async def body() -> None:
        said: list[bool] = []
        watchers = Watchers(said.append)
        mine = [await begun(watchers, "a") for _ in range(MAX_WATCHERS_PER_KEY)]
        with pytest.raises(Busy, match=f"{MAX_WATCHERS_PER_KEY} watch with this key"):
            await (await begun(watchers, "a"))[1]
        rows, other = await begun(watchers, "b")
        watchers.changed([(job("b"), Step(State.QUEUED, 1.0))])
        assert (await other)["state"] == "queued", "the other key has places of its own"
        mine.pop()[1].cancel()
        await asyncio.sleep(0)
        mine.append(await begun(watchers, "a"))
        watchers.changed([(job("a", 7), Step(State.QUEUED, 1.0))])
        assert {(await first)["id"] for _, first in mine} == {"-7"}
        watchers.close()
        for each in (rows, *(stream for stream, _ in mine)):
            assert [row async for row in each] == []
        assert (said[0], said[-1]) == (True, False)

    asyncio.run(body())


def test_there_are_so_many_places_in_all() -> None:
    async def body() -> None:
        watchers = Watchers(lambda watched: None)
        every = [await begun(watchers, f"k{place // MAX_WATCHERS_PER_KEY}", True) for place in range(MAX_WATCHERS)]
        with pytest.raises(Busy, match=f"{MAX_WATCHERS} watch already"):
            await (await begun(watchers, "another"))[1]
        watchers.close()
        assert len(await asyncio.gather(*(first for _, first in every), return_exceptions=True)) == MAX_WATCHERS

    asyncio.run(body())


def test_a_step_is_told_as_it_was_made() -> None:
    """The job may have gone on when it is told."""

    async def body() -> None:
        watchers = Watchers(lambda watched: None)
        _, first = await begun(watchers, "a")
        watchers.changed([(job("a"), Step(State.RUNNING, 1.0, "w1", 1))])
        row = await first
        assert (row["state"], row["node"], row["attempt"]) == ("running", "w1", 1)

    asyncio.run(body())
