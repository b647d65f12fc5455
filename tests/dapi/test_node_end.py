"""A node's end of the bus: when it wakes its carrier, and when it is drained."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from zcluster.config import LimitSettings
from zcluster.dapi import Function, ResourceSampler, function
from zcluster.dapi.node import HEAVY_BYTES, LIGHT_CALLS, TURN_S, NodeEnd
from zcluster.keys import may_call
from zcluster.wire import Cancel, Chunk, Credit, Grant, Message, Of, Results, Status, Work, WorkGroup
from zcluster.wire.messages import RequestFlag

PATIENCE_S = 60.0
CHUNK_BYTES = 1024
LIMITS = LimitSettings(inline_bytes=1024, chunk_bytes=CHUNK_BYTES, window_bytes=4 * CHUNK_BYTES)


class Node:
    """A NodeEnd whose carrier is the test."""

    def __init__(self, *calls: Callable[..., Any]) -> None:
        self.woken = asyncio.Event()
        self.now = 100.0
        self.end = NodeEnd(
            "worker-1", {each.name: each for each in map(Function, calls)}, may_call, LIMITS, slots=64, processes=1, modules=[],
            clock=lambda: self.now, wake=self.woken.set, sampler=ResourceSampler(Path("/")), logger=logging.getLogger("test"),
        )  # fmt: skip

    def work(self, name: str, leg: int, *bodies: bytes, large_bytes: int = 0) -> None:
        """Let the master ask for one request, or for one of each body."""
        flags, sizes = (RequestFlag.LARGE, [large_bytes]) if large_bytes else (0, [*map(len, bodies)])
        group = WorkGroup(name, "alice", "client", 60_000, flags, 7, leg, leg, sizes)
        self.end.receive(Work(groups=[group]), b"".join(bodies), 0)

    def credit(self, leg: int, upto: int) -> None:
        """Let the master fetch a large result."""
        self.end.receive(Credit(grants=[Grant(0, leg, Of.REPLY_BODY, upto)]), b"", 0)

    def taken(self) -> list[Message]:
        return [message for message, _ in self.end.take()]

    async def results(self) -> list[int]:
        """Wait for the next results; their kinds."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self.woken.clear()
                found = [each for message in self.taken() if isinstance(message, Results) for each in message.groups]
                if found:
                    return [each.status for each in found]
                await self.woken.wait()


@pytest.fixture
def make_node() -> Iterator[Callable[..., Node]]:
    """Makes a Node inside a running loop; it is closed after the test."""
    made: list[Node] = []

    def make(*calls: Callable[..., Any]) -> Node:
        made.append(Node(*calls))
        return made[-1]

    yield make
    for node in made:
        node.end.close()


@function("echo", pool="inline")
def echo(text: str) -> str:
    return text


def test_the_carrier_is_still_woken_after_a_receive_that_failed(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        @function("later")
        async def later() -> None:
            """Ends in a later turn of the loop, so that it has to wake the carrier."""

        node = make_node(later)
        runner_start = node.end._runner.start

        def failing(job: Any) -> None:
            raise OSError("bad")

        node.end._runner.start = failing  # type: ignore[method-assign]
        with pytest.raises(OSError, match="bad"):
            node.work("later", 1, b"")
        node.end._runner.start = runner_start  # type: ignore[method-assign]
        node.work("later", 2, b"")
        async with asyncio.timeout(PATIENCE_S):
            await node.woken.wait()

    asyncio.run(main())


def test_a_drain_waits_until_a_large_result_was_fetched(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        node = make_node(echo)
        text = "x" * (3 * CHUNK_BYTES)
        size = len(orjson.dumps(text))
        node.work("echo", 1, orjson.dumps({"text": text}))
        assert await node.results() == [Status.LARGE_VALUE]
        drain = asyncio.ensure_future(node.end.drain(PATIENCE_S))
        for upto in (CHUNK_BYTES, 2 * CHUNK_BYTES):
            node.credit(1, upto)
            assert isinstance(node.taken()[0], Chunk)
            await turns()
            assert not drain.done()
        node.credit(1, size)
        await turns()
        assert not drain.done(), "its last piece was not taken yet"
        assert node.taken()
        assert await drain

    asyncio.run(main())


def test_a_drain_runs_what_is_still_being_gathered(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        node = make_node(echo)
        body = orjson.dumps({"text": "x" * 1500})
        node.work("echo", 1, large_bytes=len(body))
        assert isinstance(node.taken()[0], Credit)
        drain = asyncio.ensure_future(node.end.drain(PATIENCE_S))
        await turns()
        node.work("echo", 2, b"{}")
        assert await node.results() == [Status.REFUSED], "nothing new is taken"
        for offset in range(0, len(body), CHUNK_BYTES):
            assert not drain.done()
            node.end.receive(Chunk(0, 1, offset), body[offset : offset + CHUNK_BYTES], 0)
        assert await node.results() == [Status.LARGE_VALUE]
        node.credit(1, len(body))
        node.taken()
        assert await drain

    asyncio.run(main())


@pytest.mark.parametrize("end", ["session", "deadline", "nothing"])
def test_a_drain_ends_when_nobody_fetches(make_node: Callable[..., Node], end: str) -> None:
    async def main() -> None:
        node = make_node(echo)
        node.work("echo", 1, large_bytes=2000)
        drain = asyncio.ensure_future(node.end.drain(0.0 if end == "nothing" else PATIENCE_S))
        await turns()
        if end == "session":
            node.end.session_lost()
        elif end == "deadline":
            node.end.handle_deadline(1000.0)
        assert await drain is (end != "nothing")

    asyncio.run(main())


def test_a_drain_of_an_idle_node_ends_at_once(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        assert await make_node(echo).end.drain(0.0)

    asyncio.run(main())


class Slow:
    """A node with an inline function of which four take a turn, as the node's clock tells it."""

    def __init__(self, make_node: Callable[..., Node], *calls: Callable[..., Any]) -> None:
        self.ran: list[int] = []

        @function("slow", pool="inline")
        def slow(number: int) -> int:
            self.node.now += 0.26 * TURN_S
            self.ran.append(number)
            return number

        self.node = make_node(slow, *calls)

    def work(self, first: int, count: int, *, heavy: bool = True) -> None:
        """Let the master ask for it that often, in one message."""
        bodies = [b'{"number":%d}' % number for number in range(first, first + count)]
        self.node.work("slow", first, *[body.ljust(HEAVY_BYTES + 1) if heavy else body for body in bodies])

    async def turn(self) -> list[int]:
        """Let the node go on once; what ran meanwhile."""
        before = len(self.ran)
        async with asyncio.timeout(PATIENCE_S):
            while len(self.ran) == before:  # noqa: ASYNC110 - the turns of the loop are what is looked at
                await asyncio.sleep(0)
        return self.ran[before:]


def test_inline_functions_leave_turns_to_others(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        slow = Slow(make_node)
        slow.work(1, 9)
        assert slow.ran == [1, 2, 3, 4]
        slow.work(10, 1)
        assert slow.ran == [1, 2, 3, 4], "it comes behind those that wait"
        assert await slow.node.results() == [Status.VALUE]
        assert await slow.turn() == [5, 6, 7, 8]
        assert await slow.node.results() == [Status.VALUE]
        assert await slow.turn() == [9, 10]
        slow.work(11, 1)
        assert slow.ran[-1] == 11, "nobody waits any more"

    asyncio.run(main())


def test_messages_that_come_together_share_a_turn(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        slow = Slow(make_node)
        for number in range(1, 7):
            slow.work(number, 1)
        assert slow.ran == [1, 2, 3, 4]
        assert await slow.turn() == [5, 6]

    asyncio.run(main())


def test_time_between_messages_is_taken_off(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        slow = Slow(make_node)
        for number in range(1, 20):
            slow.work(number, 1)
            slow.node.now += 0.26 * TURN_S
        assert len(slow.ran) == 19

    asyncio.run(main())


def test_the_clock_is_looked_at_behind_some_light_calls(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        slow = Slow(make_node)
        slow.work(1, 2 * LIGHT_CALLS, heavy=False)
        assert len(slow.ran) == LIGHT_CALLS
        assert len(await slow.turn()) == LIGHT_CALLS

    asyncio.run(main())


def test_what_is_cancelled_while_it_waits_for_its_turn_never_runs(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        slow = Slow(make_node)
        slow.work(1, 7)
        slow.node.end.receive(Cancel(ids=[5, 7]), b"", 0)
        assert await slow.turn() == [6]
        await turns()
        assert slow.ran == [1, 2, 3, 4, 6]
        assert slow.node.end.in_flight == 0

    asyncio.run(main())


def test_a_call_that_is_cancelled_at_a_rest_is_stopped_before_its_leg_is_used_again(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        @function("last")
        async def last(number: int) -> int:
            try:
                await asyncio.Event().wait() if number == 1 else None
            finally:
                ended.set()
            return number

        slow = Slow(make_node, last)
        slow.node.work("last", 1, b'{"number":1}')
        await turns()
        slow.work(2, 5)
        slow.node.end.receive(Cancel(ids=[1]), b"", 0)
        slow.node.end.session_lost()
        slow.node.taken()
        slow.node.work("last", 1, b'{"number":2}')
        assert await slow.node.results() == [Status.VALUE]
        assert ended.is_set()
        assert slow.node.end.in_flight == 0

    asyncio.run(main())


def test_what_comes_behind_a_failure_has_its_turn_all_the_same(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        slow = Slow(make_node)
        runner_start = slow.node.end._runner.start

        def failing(job: Any) -> None:
            if job.id == 2:
                raise OSError("bad")
            runner_start(job)

        slow.node.end._runner.start = failing  # type: ignore[method-assign]
        with pytest.raises(OSError, match="bad"):
            slow.work(1, 4)
        assert await slow.turn() == [3, 4]

    asyncio.run(main())


def test_what_waits_for_its_turn_is_forgotten_with_the_session(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        slow = Slow(make_node)
        slow.work(1, 6)
        slow.node.end.session_lost()
        await turns()
        assert slow.ran == [1, 2, 3, 4]
        slow.node.taken()
        slow.work(1, 1)
        assert slow.ran == [1, 2, 3, 4, 1]
        assert await slow.node.results() == [Status.VALUE]

    asyncio.run(main())


def test_what_waits_for_its_turn_is_refused_when_the_node_closes(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        slow = Slow(make_node)
        slow.work(1, 6)
        slow.node.end.close()
        assert await slow.node.results() == [Status.VALUE, Status.ERROR]
        assert (slow.ran, slow.node.end.in_flight) == ([1, 2, 3, 4], 0)
        await turns()

    asyncio.run(main())


def test_a_drain_waits_for_what_waits_for_its_turn(make_node: Callable[..., Node]) -> None:
    async def main() -> None:
        slow = Slow(make_node)
        slow.work(1, 6)
        drain = asyncio.ensure_future(slow.node.end.drain(PATIENCE_S))
        assert await slow.turn() == [5, 6]
        assert not drain.done()
        slow.node.taken()
        assert await drain

    asyncio.run(main())


async def turns() -> None:
    """Let the loop go round."""
    for _ in range(5):
        await asyncio.sleep(0)
