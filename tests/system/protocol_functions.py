"""Functions for tests/system/test_protocol_page.py, loaded by its worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import zcluster

STOPPED: list[int] = []


@zcluster.function("page.count", timeout_s=30.0)
def count(to: int) -> Iterator[int]:
    """The numbers from 1 to ``to``."""
    yield from range(1, to + 1)


@zcluster.function("page.forever", timeout_s=60.0)
async def forever() -> AsyncIterator[int]:
    """Numbers until it is cancelled; `page.stopped` tells that it was."""
    number = 0
    try:
        while True:
            number += 1
            yield number
            await asyncio.sleep(0)
    finally:
        STOPPED.append(number)


@zcluster.function("page.stopped", pool="inline")
def stopped() -> int:
    """How many `page.forever` have been stopped."""
    return len(STOPPED)
