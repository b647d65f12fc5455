"""The bookkeeping of leases: bounds of memory, and the timer."""

from __future__ import annotations

import asyncio
import logging

import pytest

from zcluster.errors import StoreFailed
from zcluster.store import leases as module
from zcluster.store.interface import Lease
from zcluster.store.leases import SWEEP_AT, Leases


def test_revoked_leases_leave_nothing_behind() -> None:
    async def main() -> None:
        async def end(lease: int) -> None:
            return

        leases = Leases(lambda: 0.0, end)
        for number in range(3 * SWEEP_AT):
            leases.add([Lease(number, 1e6)])
            await leases.revoke(number)
            assert len(leases._order) <= SWEEP_AT + 2
        assert len(leases) == 0
        await leases.close()

    asyncio.run(main())


def test_an_end_that_fails_is_tried_again_by_itself(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)

    async def main() -> None:
        tries: list[int] = []
        ended = asyncio.Event()

        async def end(lease: int) -> None:
            tries.append(lease)
            if len(tries) < 3:
                raise StoreFailed("the disk is full")
            ended.set()

        leases = Leases(lambda: 10.0 * len(tries), end)
        leases.add([Lease(7, 1.0)])
        with pytest.raises(StoreFailed):
            await leases.revoke(7)
        await ended.wait()
        assert tries == [7, 7, 7]
        await leases.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "to be tried again: the disk is full" in caplog.text


def test_closing_waits_for_an_end_that_is_under_way() -> None:
    async def main() -> None:
        begun, over = asyncio.Event(), []

        async def end(lease: int) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                over.append(lease)

        leases = Leases(lambda: 10.0 * begun.is_set(), end)
        leases.add([Lease(1, 1e-9)])
        leases._clock = lambda: 10.0
        leases._arm()
        await begun.wait()
        await leases.close()
        assert over == [1]

    asyncio.run(main())
