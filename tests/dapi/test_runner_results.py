"""What comes back of a function: its result, its exception, or what was wrong with the arguments."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from zcluster.dapi import Context, function
from zcluster.dapi.outcome import PIECE_CHARS, encode_in_steps
from zcluster.dapi.steps import at_once
from zcluster.errors import (
    FunctionFailed,
    InvalidArguments,
    NoSuchFunction,
    TooLarge,
)

MakeRig = Callable[..., Any]


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


ADDERS = ["math.add", "math.add_inline", "math.add_async"]


@pytest.mark.parametrize("name", ADDERS)
def test_a_result_comes_back(make_rig: MakeRig, name: str) -> None:
    async def main() -> None:
        rig = make_rig(add, add_inline, add_async)
        assert await rig.end(rig.start(name, {"a": 1, "b": 2})) == 3
        assert rig.runner.in_flight == 0
        assert rig.runner.next_deadline() is None

    asyncio.run(main())


def test_an_inline_function_is_finished_before_start_returns(make_rig: MakeRig) -> None:
    async def main() -> None:
        rig = make_rig(add_inline)
        assert rig.ends(rig.start("math.add_inline", {"a": 1, "b": 2})) == [(True, b"3")]

    asyncio.run(main())


@pytest.mark.parametrize("name", ADDERS)
def test_wrong_arguments_are_told_with_node_and_request(make_rig: MakeRig, name: str) -> None:
    async def main() -> None:
        rig = make_rig(add, add_inline, add_async)
        with pytest.raises(InvalidArguments) as caught:
            await rig.end(rig.start(name, {"a": "1", "b": 2}))
        assert caught.value.message == f"{name}: argument 'a': expected int, got str"
        assert (caught.value.node, caught.value.request_id) == ("worker-1", "7.1")

    asyncio.run(main())


@pytest.mark.parametrize(
    "error", [ValueError("bad disk \ud800"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError("own")]
)
@pytest.mark.parametrize("kind", ["thread", "inline", "async"])
def test_no_exception_of_a_function_harms_the_node(
    make_rig: MakeRig, caplog: pytest.LogCaptureFixture, error: BaseException, kind: Any
) -> None:
    def fail() -> None:
        raise error

    async def fail_async() -> None:
        raise error

    declared = function("fail")(fail_async) if kind == "async" else function("fail", pool=kind)(fail)

    async def main() -> None:
        rig = make_rig(declared, add)
        with pytest.raises(FunctionFailed) as caught:
            await rig.end(rig.start("fail"))
        text = f"{type(error).__name__}: {error}".removesuffix(": ").replace("\ud800", "\\ud800")
        assert caught.value.message == text
        assert caught.value.node == "worker-1"
        assert await rig.end(rig.start("math.add", {"a": 1, "b": 1})) == 2

    with caplog.at_level(logging.ERROR, logger="zcluster.test"):
        asyncio.run(main())
    (record,) = caplog.records
    assert record.__dict__["request_id"] == "7.1"
    assert record.exc_info is not None
    assert record.exc_info[1] is error, "the log has the traceback of the function's own exception"


def test_wrong_arguments_leave_no_traceback(make_rig: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        rig = make_rig(add)
        with pytest.raises(InvalidArguments):
            await rig.end(rig.start("math.add", {}))

    asyncio.run(main())
    assert caplog.records == []


def test_many_jobs_share_few_threads(make_rig: MakeRig) -> None:
    async def main() -> None:
        rig = make_rig(add, slots=50)
        ids = [rig.start("math.add", {"a": n, "b": 0}) for n in range(100)]
        assert [await rig.end(job_id) for job_id in ids] == list(range(100))

    asyncio.run(main())


@pytest.mark.parametrize("pool", ["thread", "inline"])
def test_results_at_the_limit_pass_and_one_byte_more_does_not(make_rig: MakeRig, pool: Any) -> None:
    async def main() -> None:
        rig = make_rig(function("text", pool=pool)(lambda size=0: "x" * size), body_bytes=100)
        assert await rig.end(rig.start("text", {"size": 98})) == "x" * 98
        with pytest.raises(TooLarge, match="result of 101 bytes; the limit is 100"):
            await rig.end(rig.start("text", {"size": 99}))

    asyncio.run(main())


@pytest.mark.parametrize("pool", ["thread", "inline"])
def test_the_context_says_who_asks(make_rig: MakeRig, pool: Any) -> None:
    @function("who", pool=pool, timeout_s=5)
    def who(context: Context) -> list[Any]:
        return [context.caller, context.role, context.node, context.request_id, context.remaining_s()]

    async def main() -> None:
        rig = make_rig(who)
        assert await rig.end(rig.start("who")) == ["alice", "client", "worker-1", "7.1", 5.0]

    asyncio.run(main())


def test_find_tells_what_is_not_there(make_rig: MakeRig) -> None:
    async def main() -> None:
        rig = make_rig(add)
        assert rig.runner.find("math.add").name == "math.add"
        with pytest.raises(NoSuchFunction, match=r"no function math\.sub"):
            rig.runner.find("math.sub")

    asyncio.run(main())


@pytest.mark.parametrize("each", ["x", "\n", '"', "é", "€", "😀", "\\", "\x00"])
@pytest.mark.parametrize("chars", [0, PIECE_CHARS, PIECE_CHARS + 1, 2 * PIECE_CHARS + 3])
def test_a_long_text_is_encoded_in_pieces_as_in_one(each: str, chars: int) -> None:
    value = each * chars
    assert at_once(encode_in_steps("f", value)) == orjson.dumps(value)
    pieces = len(list(encode_in_steps("f", value)))
    assert pieces == (0 if chars <= PIECE_CHARS else 2 if chars == PIECE_CHARS + 1 else 3)


def test_a_long_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(FunctionFailed, match="f returned a str that is not JSON"):
        at_once(encode_in_steps("f", "x" * 2 * PIECE_CHARS + "\ud800"))


@pytest.mark.parametrize("value", [None, 1, ["x" * 2 * PIECE_CHARS], {"a": "x" * 2 * PIECE_CHARS}])
def test_other_values_are_encoded_at_once(value: Any) -> None:
    steps = encode_in_steps("f", value)
    with pytest.raises(StopIteration) as done:
        next(steps)
    assert done.value.value == orjson.dumps(value)
