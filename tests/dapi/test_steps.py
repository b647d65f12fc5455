"""Long work goes in steps with rests in between; short work has none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from zcluster.dapi.steps import LONG_S, REST_S, REST_SHARE, Pace, Steps, at_once

PATIENCE_S = 60.0


class Hand:
    """A clock that moves only when work is done, and a record of what happened."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []
        self.pace = Pace(lambda: self.now, self.rest, self.rest_here)
        self.at_rest: Callable[[], Awaitable[object]] = self.nothing

    async def nothing(self) -> None:
        return None

    async def rest(self, seconds: float) -> None:
        self.done.append(f"rest {seconds}")
        await self.at_rest()

    def rest_here(self, seconds: float) -> None:
        self.done.append(f"rest {seconds}")

    def work(self, name: str, steps_s: Sequence[float]) -> Steps[str]:
        for number, seconds in enumerate(steps_s):
            if number:
                yield
            self.now += seconds
            self.done.append(f"{name}{number}")
        return name

    def in_thread(self, steps: Steps[str]) -> str:
        return self.pace.in_thread(steps)

    def on_loop(self, steps: Steps[str]) -> str:
        return asyncio.run(self.pace.on_loop(steps))


BOTH = pytest.mark.parametrize("where", ["in_thread", "on_loop"])
REST = f"rest {REST_S}"


@BOTH
def test_a_long_step_is_followed_by_a_rest(where: str) -> None:
    hand = Hand()
    assert getattr(hand, where)(hand.work("a", [LONG_S, LONG_S, LONG_S])) == "a"
    assert hand.done == ["a0", REST, "a1", REST, "a2"]


@BOTH
def test_a_very_long_step_is_followed_by_a_longer_rest(where: str) -> None:
    hand = Hand()
    getattr(hand, where)(hand.work("a", [2 * REST_S / REST_SHARE, 0.0]))
    assert hand.done == ["a0", f"rest {2 * REST_S}", "a1"]


@BOTH
def test_short_steps_have_a_rest_when_they_are_long_together(where: str) -> None:
    hand = Hand()
    getattr(hand, where)(hand.work("a", [0.6 * LONG_S] * 5))
    assert [each for each in hand.done if each[0] == "a"] == ["a0", "a1", "a2", "a3", "a4"]
    assert [number for number, each in enumerate(hand.done) if each[0] == "r"] == [2, 5]


@BOTH
def test_the_next_work_begins_with_the_rest_that_the_last_one_owes(where: str) -> None:
    hand = Hand()
    run = getattr(hand, where)
    run(hand.work("a", [LONG_S]))
    run(hand.work("b", [0.0]))
    run(hand.work("c", [0.0]))
    assert hand.done == ["a0", REST, "b0", "c0"]


@BOTH
def test_a_step_that_fails_is_work_too_and_its_error_is_told(where: str) -> None:
    hand = Hand()

    def failing() -> Steps[str]:
        hand.now += LONG_S
        yield
        raise ValueError("bad")

    run = getattr(hand, where)
    with pytest.raises(ValueError, match="bad"):
        run(failing())
    run(hand.work("b", [0.0]))
    assert hand.done == [REST, "b0"], "the rest was before the step that failed"


@BOTH
def test_time_that_passes_without_work_is_a_rest(where: str) -> None:
    hand = Hand()
    run = getattr(hand, where)
    run(hand.work("a", [1.5 * LONG_S]))
    hand.now += LONG_S
    run(hand.work("b", [0.0]))
    assert hand.done == ["a0", "b0"]


def test_on_the_loop_others_work_waits_while_one_rests() -> None:
    async def main() -> None:
        hand = Hand()
        others: list[asyncio.Task[str]] = []

        async def at_rest() -> None:
            if not others:
                others.append(asyncio.ensure_future(hand.pace.on_loop(hand.work("b", [0.0]))))
            for _ in range(10):
                await asyncio.sleep(0)

        hand.at_rest = at_rest
        assert await hand.pace.on_loop(hand.work("a", [LONG_S, LONG_S])) == "a"
        assert await others[0] == "b"
        assert hand.done == ["a0", REST, "a1", REST, "b0"]

    asyncio.run(main())


def test_work_that_is_cancelled_at_its_rest_leaves_the_turn_to_others() -> None:
    async def main() -> None:
        hand, resting = Hand(), asyncio.Event()

        async def for_ever() -> None:
            resting.set()
            await asyncio.Event().wait()

        hand.at_rest = for_ever
        task = asyncio.ensure_future(hand.pace.on_loop(hand.work("a", [LONG_S, LONG_S])))
        async with asyncio.timeout(PATIENCE_S):
            await resting.wait()
        task.cancel()
        await asyncio.wait([task])
        hand.at_rest = hand.nothing
        assert await hand.pace.on_loop(hand.work("b", [0.0])) == "b"
        assert hand.done == ["a0", REST, "b0"]

    asyncio.run(main())


def test_threads_work_one_after_the_other() -> None:
    hand = Hand()
    inside, go_on = threading.Event(), threading.Event()

    def held() -> Steps[str]:
        inside.set()
        assert go_on.wait(PATIENCE_S)
        hand.done.append("first")
        yield
        return ""

    first = threading.Thread(target=hand.pace.in_thread, args=(held(),))
    first.start()
    assert inside.wait(PATIENCE_S)
    second = threading.Thread(target=hand.pace.in_thread, args=(hand.work("b", [0.0]),))
    second.start()
    go_on.set()
    first.join(PATIENCE_S)
    second.join(PATIENCE_S)
    assert hand.done == ["first", "b0"]


def test_all_steps_at_once() -> None:
    hand = Hand()
    assert at_once(hand.work("a", [LONG_S] * 3)) == "a"
    assert hand.done == ["a0", "a1", "a2"]
