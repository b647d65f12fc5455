"""A call that failed keeps nothing of its arguments: without the collector of cycles, which a daemon runs seldom."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from zcluster.dapi import Function, Job, function
from zcluster.dapi.outcome import Outcomes
from zcluster.errors import InvalidArguments, Reject, TooLarge

BODIES = [
    b'{"value":"without an end', b'{"value":"\xff"}', b'{"value":1,"value":2}', b'{"other":1}', b"[1]",
    b'{"value":' + b"[" * 5000, b'{"value":[' + b"[]," * 500_000 + b"1]}", b'{"value":1}', b'{"value":"' + b"x" * 500_000 + b'"}',
]  # fmt: skip
ERRORS = [ValueError("no"), InvalidArguments("no"), TooLarge("no"), Reject("no"), KeyboardInterrupt()]


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.disable()
    logging.disable()  # a record that is kept for the test's report holds its traceback
    yield
    logging.disable(logging.NOTSET)
    gc.enable()


def refuses(error: BaseException) -> Function:
    @function("refuse")
    def refuse(value: Any) -> None:
        raise type(error)(*error.args)

    return Function(refuse)


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("number", range(len(BODIES)))
def test_a_plain_function(number: int, error: BaseException) -> None:
    outcomes = Outcomes("worker-1", logging.getLogger("zcluster.test"), lambda: 0.0, body_bytes=1000, item_bytes=1000)
    body = bytearray(BODIES[number])
    before = sys.getrefcount(body)
    job = Job(1, refuses(error), body, 1000.0, "alice", "client", "7.1")
    assert outcomes.run(job, None)[0] is False
    del job
    assert sys.getrefcount(body) == before


async def refuse_async(value: Any) -> None:
    raise ValueError("no")


def refuse_plain(value: Any) -> None:
    raise ValueError("no")


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("number", range(len(BODIES)))
@pytest.mark.parametrize(
    "call",
    [function("refuse")(refuse_async), function("refuse", pool="inline")(refuse_plain)],
    ids=["async", "inline"],
)
def test_what_the_loop_runs(make_rig: Callable[..., Any], call: Callable[..., Any], number: int) -> None:
    body = bytearray(BODIES[number])
    before = sys.getrefcount(body)

    async def main() -> None:
        rig = make_rig(call)
        rig.runner.start(Job(1, rig.functions["refuse"], body, 1000.0, "alice", "client", "7.1"))
        await rig.until(lambda: bool(rig.ends(1)))
        assert rig.ends(1)[0][0] is False
        await rig.turns()
        assert sys.getrefcount(body) == before

    asyncio.run(main())
