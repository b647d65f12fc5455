"""Generators: items against credit, in order, ended once and closed always."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from zcluster.dapi import INITIAL_CREDIT_ITEMS, Context, function
from zcluster.errors import Cancelled, FunctionFailed, InvalidArguments, TimedOut, TooLarge

MakeRig = Callable[..., Any]
PATIENCE_S = 60.0


class Counting:
    """The same stream as a plain and as an async generator; it tells when it was closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.threads: set[int] = set()

        @function("count")
        def count(upto: int, fail: bool = False) -> Iterator[int]:
            try:
                for number in range(upto):
                    self.threads.add(threading.get_ident())
                    yield number
                if fail:
                    raise ValueError("no more")
            finally:
                self.threads.add(threading.get_ident())
                self.closed.set()

        @function("count")
        async def count_async(upto: int, fail: bool = False) -> AsyncIterator[int]:
            try:
                for number in range(upto):
                    yield number
                if fail:
                    raise ValueError("no more")
            finally:
                self.closed.set()

        self.kinds: dict[str, Callable[..., Any]] = {"plain": count, "async": count_async}

    async def until_closed(self) -> None:
        assert await asyncio.to_thread(self.closed.wait, PATIENCE_S)


KINDS = pytest.mark.parametrize("kind", ["plain", "async"])


@KINDS
@pytest.mark.parametrize("upto", [0, 1, INITIAL_CREDIT_ITEMS])
def test_items_come_in_order_and_then_the_end(make_rig: MakeRig, kind: str, upto: int) -> None:
    async def main() -> None:
        rig = make_rig(Counting().kinds[kind])
        job_id = rig.start("count", {"upto": upto})
        await rig.until(lambda: bool(rig.ends(job_id)))
        assert rig.items == [(job_id, number) for number in range(upto)]
        assert rig.ends(job_id) == [(True, b"")], "a stream that fits its first credit ends without a grant"

    asyncio.run(main())


@KINDS
def test_it_pauses_at_its_credit_and_goes_on_when_granted(make_rig: MakeRig, kind: str) -> None:
    async def main() -> None:
        rig = make_rig(Counting().kinds[kind])
        job_id = rig.start("count", {"upto": 20})
        await rig.until(lambda: len(rig.items) == INITIAL_CREDIT_ITEMS)
        await rig.turns()
        assert len(rig.items) == INITIAL_CREDIT_ITEMS
        rig.runner.grant(job_id, INITIAL_CREDIT_ITEMS - 1)
        await rig.turns()
        assert len(rig.items) == INITIAL_CREDIT_ITEMS, "credit never shrinks, and a smaller grant wakes nobody"
        rig.runner.grant(job_id, INITIAL_CREDIT_ITEMS + 1)
        await rig.until(lambda: len(rig.items) == INITIAL_CREDIT_ITEMS + 1)
        await rig.turns()
        assert rig.ends(job_id) == []
        rig.runner.grant(job_id, 1000)
        await rig.until(lambda: bool(rig.ends(job_id)))
        assert [number for _, number in rig.items] == list(range(20))
        rig.runner.grant(job_id, 2000)

    asyncio.run(main())


@KINDS
def test_a_cancelled_stream_is_closed(make_rig: MakeRig, kind: str) -> None:
    async def main() -> None:
        counting = Counting()
        rig = make_rig(counting.kinds[kind])
        job_id = rig.start("count", {"upto": 10**9})
        await rig.until(lambda: len(rig.items) == INITIAL_CREDIT_ITEMS)
        rig.runner.cancel(job_id, Cancelled("enough"))
        assert isinstance(rig.error(job_id), Cancelled)
        await counting.until_closed()
        await rig.settled()
        assert len(rig.items) == INITIAL_CREDIT_ITEMS
        assert rig.runner.late_results == 0
        assert len(counting.threads) <= 1, "one thread from the first line to the last"

    asyncio.run(main())


@KINDS
def test_a_stream_past_its_deadline_is_closed(make_rig: MakeRig, kind: str) -> None:
    async def main() -> None:
        counting = Counting()
        rig = make_rig(counting.kinds[kind])
        job_id = rig.start("count", {"upto": 10**9})
        await rig.until(lambda: len(rig.items) == INITIAL_CREDIT_ITEMS)
        rig.runner.handle_deadline(1000.0)
        assert isinstance(rig.error(job_id), TimedOut)
        await counting.until_closed()
        await rig.settled()

    asyncio.run(main())


@KINDS
def test_closing_the_runner_closes_streams(make_rig: MakeRig, kind: str) -> None:
    async def main() -> None:
        counting = Counting()
        rig = make_rig(counting.kinds[kind])
        rig.start("count", {"upto": 10**9})
        await rig.until(lambda: len(rig.items) == INITIAL_CREDIT_ITEMS)
        rig.runner.close()
        await counting.until_closed()

    asyncio.run(main())


@KINDS
def test_an_exception_ends_the_stream_after_its_items(make_rig: MakeRig, kind: str) -> None:
    async def main() -> None:
        rig = make_rig(Counting().kinds[kind])
        job_id = rig.start("count", {"upto": 2, "fail": True})
        with pytest.raises(FunctionFailed, match="ValueError: no more"):
            await rig.end(job_id)
        assert len(rig.items) == 2

    asyncio.run(main())


@KINDS
def test_wrong_arguments_end_it_at_once(make_rig: MakeRig, kind: str) -> None:
    async def main() -> None:
        rig = make_rig(Counting().kinds[kind])
        with pytest.raises(InvalidArguments, match="argument 'upto': expected int, got str"):
            await rig.end(rig.start("count", {"upto": "x"}))

    asyncio.run(main())


@KINDS
@pytest.mark.parametrize(
    ("second", "error"),
    [("x" * 99, TooLarge), ({1, 2}, FunctionFailed)],
)
def test_an_item_that_cannot_travel_ends_the_stream_and_closes_it(
    make_rig: MakeRig, kind: str, second: object, error: type[Exception]
) -> None:
    closed = threading.Event()

    def give() -> Iterator[object]:
        try:
            yield "x" * 98
            yield second
        finally:
            closed.set()

    async def give_async() -> AsyncIterator[object]:
        for value in give():
            yield value

    async def main() -> None:
        rig = make_rig(function("give")(give if kind == "plain" else give_async), item_bytes=100)
        with pytest.raises(error):
            await rig.end(rig.start("give"))
        assert len(rig.items) == 1, "98 letters and two quotes are at the limit"
        assert await asyncio.to_thread(closed.wait, PATIENCE_S)

    asyncio.run(main())


def test_a_stream_sees_its_context(make_rig: MakeRig) -> None:
    seen: list[Context] = []

    @function("who")
    def who(context: Context) -> Iterator[str]:
        seen.append(context)
        while True:
            yield context.caller

    async def main() -> None:
        rig = make_rig(who)
        job_id = rig.start("who")
        await rig.until(lambda: len(rig.items) == INITIAL_CREDIT_ITEMS)
        rig.runner.cancel(job_id, Cancelled("enough"))
        assert seen[0].cancelled
        await rig.settled()

    asyncio.run(main())


def test_a_stream_waiting_for_a_thread_is_never_started_when_cancelled(make_rig: MakeRig) -> None:
    async def main() -> None:
        first, second = Counting(), Counting()
        other = function("other")(second.kinds["plain"])
        rig = make_rig(first.kinds["plain"], slots=1)
        rig.functions["other"] = type(rig.functions["count"])(other)
        holder = rig.start("count", {"upto": 10**9})
        await rig.until(lambda: len(rig.items) == INITIAL_CREDIT_ITEMS)
        waiting = rig.start("other", {"upto": 1})
        rig.runner.handle_deadline(1000.0)
        assert "never started" in rig.error(waiting).message
        assert "started, outcome unknown" in rig.error(holder).message
        await rig.settled()
        assert not second.threads

    asyncio.run(main())


def test_an_async_stream_that_never_waits_lets_others_run(make_rig: MakeRig) -> None:
    @function("quick", pool="inline")
    def quick() -> int:
        return 1

    async def main() -> None:
        rig = make_rig(Counting().kinds["async"], quick)
        job_id = rig.start("count", {"upto": 10**6})
        rig.runner.grant(job_id, 10**6)
        await rig.turns(10)
        assert 0 < len(rig.items) < 100, "one item a turn, not all of them in the first"
        rig.runner.cancel(job_id, Cancelled("enough"))
        await rig.settled()

    asyncio.run(main())
