"""Each job is finished exactly once, whatever happens to it. Events tell when a function is where the test wants it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from zcluster.dapi import Context, function
from zcluster.dapi.executors import TaskCall
from zcluster.dapi.runner import LIVE_FACTOR
from zcluster.dapi.steps import Steps
from zcluster.dapi.weight import LARGE_BYTES
from zcluster.errors import (
    Busy,
    Cancelled,
    Draining,
    FunctionFailed,
    InvalidArguments,
    NodeLost,
    TimedOut,
    TooLarge,
    UsageError,
)

MakeRig = Callable[..., Any]
PATIENCE_S = 60.0


@function("math.add", timeout_s=5)
def add(a: int, b: int) -> int:
    return a + b


@function("math.add_inline", pool="inline")
def add_inline(a: int, b: int) -> int:
    return a + b


@function("math.add_async")
async def add_async(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


@function("numbers")
async def numbers() -> AsyncIterator[int]:
    yield 1


ADDERS = ["math.add", "math.add_inline", "math.add_async"]


class Gate:
    """A thread function that stands still until the test opens the gate."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.seen: list[bool] = []

        @function("wait")
        def wait(context: Context) -> str:
            self.entered.release()
            assert self.gate.wait(PATIENCE_S)
            self.seen.append(context.cancelled)
            return "late"

        self.wait = wait

    async def until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=PATIENCE_S)


class AsyncGate:
    """An async function that never ends by itself."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.left = asyncio.Event()

        @function("wait")
        async def wait() -> str:
            self.entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
            return "never"

        self.wait = wait


@pytest.mark.parametrize("name", ADDERS)
def test_a_job_that_comes_at_its_deadline_never_starts(make_rig: MakeRig, name: str) -> None:
    async def main() -> None:
        rig = make_rig(add, add_inline, add_async)
        late = rig.start(name, {"a": 1, "b": 2}, deadline_s=rig.now)
        assert isinstance(rig.error(late), TimedOut)
        assert "never started" in rig.error(late).message
        assert await rig.end(rig.start(name, {"a": 1, "b": 2}, deadline_s=rig.now + 0.001)) == 3

    asyncio.run(main())


def test_the_functions_own_limit_caps_the_deadline(make_rig: MakeRig) -> None:
    gate = AsyncGate

    async def main() -> None:
        waiting = gate()
        limited = function("limited", timeout_s=5)(waiting.wait)
        rig = make_rig(limited)
        job_id = rig.start("limited", deadline_s=1000.0)
        assert rig.runner.next_deadline() == 105.0
        await waiting.entered.wait()
        rig.runner.handle_deadline(104.999)
        assert rig.ends(job_id) == []
        rig.runner.handle_deadline(105.0)
        assert "its own limit of 5 s: started, outcome unknown" in rig.error(job_id).message
        early = rig.start("limited", deadline_s=103.0)
        assert rig.runner.next_deadline() == 103.0
        rig.runner.cancel(early, Cancelled("enough"))

    asyncio.run(main())


def test_an_async_function_is_cancelled_at_its_deadline(make_rig: MakeRig) -> None:
    async def main() -> None:
        gate = AsyncGate()
        rig = make_rig(gate.wait)
        job_id = rig.start("wait")
        await gate.entered.wait()
        rig.runner.handle_deadline(1000.0)
        assert isinstance(rig.error(job_id), TimedOut)
        assert rig.error(job_id).message == "wait was past its deadline: started, outcome unknown"
        async with asyncio.timeout(PATIENCE_S):
            await gate.left.wait()
        await rig.settled()
        assert rig.runner.late_results == 0

    asyncio.run(main())


def test_an_async_function_cancelled_before_its_first_step_never_runs(make_rig: MakeRig) -> None:
    async def main() -> None:
        gate = AsyncGate()
        rig = make_rig(gate.wait)
        job_id = rig.start("wait")
        rig.runner.handle_deadline(1000.0)
        assert "never started" in rig.error(job_id).message
        await rig.turns()
        assert not gate.entered.is_set()
        assert rig.runner.abandoned == 0

    asyncio.run(main())


def test_a_function_that_swallows_its_cancel_is_dropped_and_counted(make_rig: MakeRig) -> None:
    async def main() -> None:
        entered = asyncio.Event()

        @function("stubborn")
        async def stubborn() -> str:
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
            return "late"

        rig = make_rig(stubborn)
        job_id = rig.start("stubborn")
        await entered.wait()
        rig.runner.cancel(job_id, Cancelled("enough"))
        assert rig.runner.abandoned == 1
        await rig.settled()
        assert rig.runner.late_results == 1
        assert len(rig.ends(job_id)) == 1

    asyncio.run(main())


def test_a_thread_learns_that_it_is_cancelled_and_its_result_is_dropped(make_rig: MakeRig) -> None:
    async def main() -> None:
        gate = Gate()
        rig = make_rig(gate.wait)
        job_id = rig.start("wait")
        await gate.until_entered()
        rig.runner.cancel(job_id, Cancelled("not needed any more"))
        error = rig.error(job_id)
        assert isinstance(error, Cancelled)
        assert (error.message, error.node, error.request_id) == ("not needed any more", "worker-1", "7.1")
        assert (rig.runner.in_flight, rig.runner.abandoned) == (0, 1)
        gate.gate.set()
        await rig.settled()
        assert gate.seen == [True]
        assert rig.runner.late_results == 1
        assert len(rig.ends(job_id)) == 1

    asyncio.run(main())


def test_cancel_deadline_and_result_together_finish_the_job_once(make_rig: MakeRig) -> None:
    async def main() -> None:
        gate = Gate()
        rig = make_rig(gate.wait)
        job_id = rig.start("wait")
        await gate.until_entered()
        gate.gate.set()
        rig.runner.handle_deadline(1000.0)
        rig.runner.cancel(job_id, Cancelled("too"))
        rig.runner.handle_deadline(2000.0)
        await rig.settled()
        rig.runner.cancel(job_id, Cancelled("again"))
        assert len(rig.ends(job_id)) == 1
        assert isinstance(rig.error(job_id), TimedOut)

    asyncio.run(main())


def test_a_late_result_does_not_end_a_newer_job_of_the_same_id(make_rig: MakeRig) -> None:
    async def main() -> None:
        old, new = Gate(), Gate()
        rig = make_rig(old.wait, function("new")(new.wait))
        rig.start("wait", job_id=1)
        await old.until_entered()
        rig.runner.cancel(1, Cancelled("x"))
        rig.ended.clear()
        rig.start("new", job_id=1)
        await new.until_entered()
        old.gate.set()
        await rig.settled()
        assert rig.ends(1) == []
        assert rig.runner.in_flight == 1
        new.gate.set()
        assert await rig.end(1) == "late"

    asyncio.run(main())


def test_a_job_that_waits_for_a_thread_never_starts_after_its_deadline(make_rig: MakeRig) -> None:
    async def main() -> None:
        gate = Gate()
        ran: list[int] = []
        rig = make_rig(gate.wait, function("note")(lambda: ran.append(1)), slots=1)
        rig.start("wait")
        await gate.until_entered()
        waiting = rig.start("note", deadline_s=150.0)
        rig.runner.handle_deadline(150.0)
        assert "never started" in rig.error(waiting).message
        assert rig.runner.abandoned == 0
        gate.gate.set()
        await rig.end(1)
        await rig.end(rig.start("note"))
        assert ran == [1], "only the one after it ran"

    asyncio.run(main())


def test_slots_bound_what_the_runner_takes(make_rig: MakeRig) -> None:
    async def main() -> None:
        gate = Gate()
        rig = make_rig(gate.wait, add_inline, slots=1)
        taken = [rig.start("wait") for _ in range(LIVE_FACTOR)]
        assert all(rig.ends(job_id) == [] for job_id in taken)
        refused = rig.error(rig.start("wait"))
        assert isinstance(refused, Busy)
        assert refused.retry_after_s is not None
        assert await rig.end(rig.start("math.add_inline", {"a": 1, "b": 1})) == 2, "inline ones take no slot"
        gate.gate.set()
        for job_id in taken:
            assert await rig.end(job_id) == "late"

    asyncio.run(main())


def test_an_id_in_flight_is_refused_loudly_and_harms_nobody(make_rig: MakeRig) -> None:
    async def main() -> None:
        gate = AsyncGate()
        rig = make_rig(gate.wait)
        rig.start("wait", job_id=1)
        with pytest.raises(UsageError):
            rig.start("wait", job_id=1)
        assert rig.runner.in_flight == 1

    asyncio.run(main())


def test_drain_waits_for_what_runs_and_refuses_what_comes(make_rig: MakeRig) -> None:
    async def main() -> None:
        gate = Gate()
        rig = make_rig(gate.wait, add_inline)
        job_id = rig.start("wait")
        await gate.until_entered()
        assert not await rig.runner.drain(0.0)
        for name in ("wait", "math.add_inline"):
            assert isinstance(rig.error(rig.start(name, {"a": 1, "b": 1})), Draining)
        gate.gate.set()
        assert await rig.runner.drain(PATIENCE_S)
        assert rig.ends(job_id) == [(True, b'"late"')]

    asyncio.run(main())


def test_close_ends_every_job_and_leaves_stuck_threads_behind(make_rig: MakeRig) -> None:
    async def main() -> None:
        gate, running = Gate(), AsyncGate()
        rig = make_rig(gate.wait, function("run")(running.wait), slots=1, processes=1)
        stuck = rig.start("wait")
        await gate.until_entered()
        queued = rig.start("wait")
        rig.runner.close()
        assert isinstance(rig.error(stuck), NodeLost)
        assert isinstance(rig.error(queued), Draining)
        assert rig.runner.in_flight == 0
        assert isinstance(rig.error(rig.start("run")), Draining)
        gate.gate.set()

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["async", "async generator"])
def test_nothing_is_kept_of_a_task_that_has_ended(make_rig: MakeRig, kind: str) -> None:
    async def main() -> None:
        gate = AsyncGate()

        @function("count")
        async def count() -> AsyncIterator[int]:
            yield 1
            await gate.wait()

        quick, slow = (add_async, gate.wait) if kind == "async" else (numbers, count)
        rig = make_rig(quick, slow)
        quick_name, slow_name = rig.functions
        args = {"a": 1, "b": 2} if kind == "async" else None
        for _ in range(3):
            await rig.end(rig.start(quick_name, args))
        never_started = rig.start(slow_name)
        rig.runner.cancel(never_started, Cancelled("before its first step"))
        for timed_out in (False, True):
            job_id = rig.start(slow_name)
            await gate.entered.wait()
            if timed_out:
                rig.runner.handle_deadline(1000.0)
            else:
                rig.runner.cancel(job_id, Cancelled("enough"))
            await rig.settled()
            gate.entered.clear()
        await rig.turns()
        gc.collect()
        kept = [each for each in gc.get_objects() if isinstance(each, TaskCall) and each.job.function in rig.functions.values()]
        assert kept == []

    asyncio.run(main())


def test_a_job_without_a_thread_is_refused_and_the_next_one_runs(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        rig = make_rig(add)

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            refused = rig.error(rig.start("math.add", {"a": 1, "b": 2}))
        assert isinstance(refused, Busy)
        assert "never started: this node has no thread for it: can't start new thread" in refused.message
        assert (rig.runner.in_flight, rig.runner.abandoned) == (0, 0)
        assert await rig.end(rig.start("math.add", {"a": 1, "b": 2})) == 3

    asyncio.run(main())


def large(size: int = LARGE_BYTES) -> dict[str, str]:
    return {"text": "x" * size}


@pytest.mark.parametrize("kind", ["inline", "async", "thread"])
def test_a_function_with_large_arguments(make_rig: MakeRig, kind: str) -> None:
    async def measure(text: str) -> int:
        return len(text)

    def plain(text: str) -> int:
        return len(text)

    declared = {"inline": function("f", pool="inline")(plain), "async": function("f")(measure), "thread": function("f")(plain)}

    async def main() -> None:
        rig = make_rig(declared[kind])
        job_id = rig.start("f", large())
        assert rig.ends(job_id) == [], "others come first"
        assert rig.runner.in_flight == 1
        assert await rig.end(job_id) == LARGE_BYTES
        assert rig.runner.in_flight == 0

    asyncio.run(main())


class Inline:
    """An inline function that says how often it ran."""

    def __init__(self) -> None:
        self.ran = 0

        @function("measure", pool="inline")
        def measure(text: str, context: Context) -> int:
            self.ran += 1
            return len(text)

        self.measure = measure


def test_a_large_inline_call_ends_at_its_deadline_while_it_is_read(make_rig: MakeRig) -> None:
    async def main() -> None:
        inline = Inline()
        rig = make_rig(inline.measure)
        job_id = rig.start("measure", large(), deadline_s=rig.now + 1)
        assert rig.runner.next_deadline() == rig.now + 1
        rig.runner.handle_deadline(rig.now + 1)
        assert "never started" in rig.error(job_id).message
        await rig.turns()
        assert (inline.ran, rig.runner.abandoned, rig.runner.late_results) == (0, 0, 0)

    asyncio.run(main())


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_a_large_inline_call_that_is_no_longer_wanted_never_runs(make_rig: MakeRig, end: str) -> None:
    async def main() -> None:
        inline = Inline()
        rig = make_rig(inline.measure)
        job_id = rig.start("measure", large())
        if end == "cancel":
            rig.runner.cancel(job_id, Cancelled("enough"))
            assert rig.error(job_id).message == "enough"
        else:
            rig.runner.close()
            assert "never started" in rig.error(job_id).message
        await rig.turns()
        assert inline.ran == 0

    asyncio.run(main())


def test_large_inline_calls_take_the_slots_that_small_ones_do_not(make_rig: MakeRig) -> None:
    async def main() -> None:
        inline = Inline()
        rig = make_rig(inline.measure, slots=1)
        taken = [rig.start("measure", large()) for _ in range(LIVE_FACTOR)]
        assert isinstance(rig.error(rig.start("measure", large())), Busy)
        small = rig.start("measure", large(LARGE_BYTES - 20))
        assert rig.ends(small) == [(True, b"%d" % (LARGE_BYTES - 20))]
        assert [await rig.end(each) for each in taken] == [LARGE_BYTES] * LIVE_FACTOR

    asyncio.run(main())


def test_a_large_inline_call_that_fails_says_why(make_rig: MakeRig) -> None:
    @function("fail", pool="inline")
    def fail(text: str) -> None:
        raise ValueError(len(text))

    async def main() -> None:
        rig = make_rig(fail)
        with pytest.raises(FunctionFailed, match=f"ValueError: {LARGE_BYTES}"):
            await rig.end(rig.start("fail", large()))
        with pytest.raises(InvalidArguments, match="unknown argument 'more'"):
            await rig.end(rig.start("fail", {**large(), "more": 1}))

    asyncio.run(main())


def test_the_context_of_a_large_inline_call(make_rig: MakeRig) -> None:
    @function("who", pool="inline")
    def who(text: str, context: Context) -> str:
        return context.caller

    async def main() -> None:
        rig = make_rig(who)
        assert await rig.end(rig.start("who", large())) == "alice"

    asyncio.run(main())


def test_a_result_that_is_too_large_of_a_large_inline_call(make_rig: MakeRig) -> None:
    @function("echo", pool="inline")
    def echo(text: str) -> str:
        return text

    async def main() -> None:
        rig = make_rig(echo, body_bytes=LARGE_BYTES)
        with pytest.raises(TooLarge):
            await rig.end(rig.start("echo", large()))

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_a_large_call_in_a_thread_never_starts_after_its_deadline_while_others_are_read(make_rig: MakeRig, stream: bool) -> None:
    reading, go_on, ran = threading.Event(), threading.Event(), list[str]()

    def others() -> Steps[None]:
        reading.set()
        assert go_on.wait(PATIENCE_S)
        yield

    def plain(text: str) -> str:
        ran.append(text)
        return ""

    def items(text: str) -> Iterator[str]:
        ran.append(text)
        yield ""

    async def main() -> None:
        rig = make_rig(function("f")(items if stream else plain))
        busy = threading.Thread(target=rig.runner._pace.in_thread, args=(others(),))
        busy.start()
        assert reading.wait(PATIENCE_S)
        job_id = rig.start("f", large(), deadline_s=rig.now + 1)
        rig.runner.handle_deadline(rig.now + 1)
        assert "never started: its deadline passed while its large arguments waited" in rig.error(job_id).message
        go_on.set()
        busy.join(PATIENCE_S)
        later = rig.start("f", {"text": "small"})
        await rig.end(later)
        assert ran == ["small"]
        assert rig.runner.abandoned == 0

    asyncio.run(main())
