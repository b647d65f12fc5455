"""The book follows the assignments in the store, however many were made while it could not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from zcluster.brokers.groups_book import BookFollower
from zcluster.core.agents.filter import Compare
from zcluster.store.book_limits import MAX_ROWS
from zcluster.store.interface import Put

PATIENCE_S = 30.0


def test_more_assignments_than_one_call_of_the_book_takes_are_told_in_several(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place = make_place()
        await place.agents("a0", f"a{MAX_ROWS}")
        # One commit after the other is read until a page is full: together they are more than a page.
        revision = await place.store.apply([Put("groups/of/a0", b'["web"]')])
        for first in (1, MAX_ROWS // 2 + 1):
            agents = range(first, first + MAX_ROWS // 2)
            revision = await place.store.apply([Put(f"groups/of/a{number}", b'["web"]') for number in agents])
        follower = BookFollower(place.desk)
        follower.start()
        async with asyncio.timeout(PATIENCE_S):
            await follower.reached(revision)
        await follower.close()
        assert await place.book.groups_revision() == revision
        found = await place.book.find(Compare("groups", "=", "web"), select=["id"])
        assert [row["id"] for row in found.rows] == ["a0", f"a{MAX_ROWS}"]

    asyncio.run(main())
