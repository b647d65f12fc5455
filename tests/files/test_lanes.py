"""Lanes: in order within one, side by side between them, and every end on the loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from zcluster.errors import Busy, ZClusterError
from zcluster.files.lanes import Lanes

LOGGER = logging.getLogger("test.lanes")


def run(test: Callable[[Lanes], Any], threads: int = 4) -> None:
    async def main() -> None:
        lanes = Lanes(LOGGER, threads)
        try:
            await asyncio.wait_for(test(lanes), 20)
        finally:
            lanes.close()

    asyncio.run(main())


def test_a_lane_does_one_thing_at_a_time_and_in_order() -> None:
    async def main(lanes: Lanes) -> None:
        running, most, done = 0, 0, asyncio.Event()
        ended: list[object] = []
        gate = threading.Event()

        def work(number: int) -> Callable[[], object]:
            def begin() -> object:
                nonlocal running, most
                gate.wait(10)
                running += 1
                most = max(most, running)
                running -= 1
                return number

            return begin

        def end(result: object) -> None:
            assert threading.current_thread() is threading.main_thread()
            ended.append(result)
            if len(ended) == 20:
                done.set()

        for number in range(20):
            lanes.do("lane", work(number), end)
        gate.set()
        await done.wait()
        assert ended == list(range(20))
        assert most == 1

    run(main)


def test_lanes_go_side_by_side() -> None:
    async def main(lanes: Lanes) -> None:
        meet, done = threading.Barrier(2, timeout=10), asyncio.Event()
        ended: list[object] = []

        def end(result: object) -> None:
            ended.append(result)
            if len(ended) == 2:
                done.set()

        lanes.do("one", meet.wait, end)
        lanes.do("other", meet.wait, end)
        await done.wait()
        assert sorted(map(str, ended)) == ["0", "1"]

    run(main)


def test_more_lanes_than_threads_are_all_served() -> None:
    async def main(lanes: Lanes) -> None:
        done, ended = asyncio.Event(), list[object]()

        def end(result: object) -> None:
            ended.append(result)
            if len(ended) == 30:
                done.set()

        for number in range(30):
            lanes.do(f"lane {number % 10}", lambda number=number: number, end)  # type: ignore[misc]
        await done.wait()
        assert sorted(map(str, ended)) == sorted(map(str, range(30)))

    run(main, threads=1)


def test_errors_come_back_as_ends_and_the_lane_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def main(lanes: Lanes) -> None:
        done, ended = asyncio.Event(), list[object]()

        def fails(error: Exception) -> Callable[[], object]:
            def work() -> object:
                raise error

            return work

        def end(result: object) -> None:
            ended.append(result)
            if len(ended) == 3:
                done.set()

        ours = Busy("not now")
        lanes.do("lane", fails(ours), end)
        lanes.do("lane", fails(KeyError("defect")), end)
        lanes.do("lane", lambda: "fine", end)
        await done.wait()
        assert ended[0] is ours
        assert isinstance(ended[1], ZClusterError)
        assert "KeyError" in ended[1].message
        assert ended[2] == "fine"

    run(main)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.records[0].exc_info is not None


def test_after_close_nothing_begins_and_nothing_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        lanes, gate = Lanes(LOGGER, 1), threading.Event()
        begun: list[str] = []
        ended: list[object] = []
        lanes.do("lane", lambda: gate.wait(10), ended.append)
        lanes.do("lane", lambda: begun.append("second"), ended.append)
        lanes.do("other", lambda: begun.append("third"), ended.append)
        lanes.close()
        gate.set()
        await asyncio.get_running_loop().run_in_executor(None, gate.wait)
        for _ in range(20):
            await asyncio.sleep(0)
        assert (begun, ended) == ([], [])

    asyncio.run(main())
    assert caplog.records == []
