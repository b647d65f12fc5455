"""What a function of each kind sees of the durable job that it runs for, and what it may say of its next attempt."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from zcluster.config import LimitSettings
from zcluster.dapi import Context, Function, ResourceSampler, child, function
from zcluster.dapi.node import NodeEnd
from zcluster.dapi.outcome import failure
from zcluster.errors import FunctionFailed, NodeLost, Reject, Retry, ZClusterError, error_from_dict
from zcluster.keys import may_call
from zcluster.wire import Mark, Results, Work, WorkGroup

MakeRig = Callable[..., Any]
MARK = Mark("5f0c11a9-17", 2, "report-2026-11-19")
SEEN = ["5f0c11a9-17", 2, "report-2026-11-19"]


class NotYet(Retry):
    """With a code and a constructor of its own."""

    code = "not_yet"

    def __init__(self) -> None:
        super().__init__("the printer is busy", after_s=30)


class Odd(Reject):
    """Its base was never asked."""

    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)


def act(what: str, context: Context) -> Any:
    match what:
        case "retry":
            raise Retry("the printer is busy", after_s=30, hint="switch it on")
        case "subclass":
            raise NotYet
        case "reject":
            raise Reject("no such day")
        case "odd":
            raise Odd("no such month")
        case "another":
            raise NodeLost("it was not")
    return [context.job, context.attempt, context.idempotency_key]


@function("act.thread")
def act_thread(what: str, context: Context) -> Any:
    return act(what, context)


@function("act.inline", pool="inline")
def act_inline(what: str, context: Context) -> Any:
    return act(what, context)


@function("act.async")
async def act_async(what: str, context: Context) -> Any:
    return act(what, context)


@function("act.stream")
def act_stream(what: str, context: Context) -> Iterator[Any]:
    yield act(what, context)


@function("act.async_stream")
async def act_async_stream(what: str, context: Context) -> AsyncIterator[Any]:
    yield act(what, context)


@function("act.process", pool="process")
def act_process(what: str, context: Context) -> Any:
    return act(what, context)


CALLS = [act_thread, act_inline, act_async, act_stream, act_async_stream]
TOLD = {
    "retry": (Retry, "the printer is busy", 30),
    "subclass": (Retry, "the printer is busy", 30),
    "reject": (Reject, "no such day", None),
    "odd": (Reject, "Odd: (its text cannot be read: AttributeError)", None),
    "another": (FunctionFailed, "NodeLost: it was not", None),
}


def run(make_rig: MakeRig, call: Callable[..., Any], what: str, mark: Mark | None = MARK) -> tuple[bool, Any]:
    """Run it in a Runner: (whether it succeeded, the value, the first item, or the error)."""

    async def main() -> tuple[bool, Any]:
        rig = make_rig(call)
        job_id = rig.start(Function(call).name, {"what": what}, mark=mark)
        await rig.until(lambda: bool(rig.ends(job_id)))
        ((ok, body),) = rig.ends(job_id)
        if not ok:
            return ok, rig.error(job_id)
        return ok, orjson.loads(body) if body else rig.items[0][1]

    return asyncio.run(main())


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("mark", "seen"), [(MARK, SEEN), (None, ["", 0, ""])])
def test_a_function_sees_its_job(mark: Mark | None, seen: list[Any], call: Callable[..., Any], make_rig: MakeRig) -> None:
    assert run(make_rig, call, "look", mark) == (True, seen)


def in_process(monkeypatch: pytest.MonkeyPatch, what: str, mark: Mark | None = MARK) -> tuple[bool, bytes, str]:
    """What a process makes of it."""
    monkeypatch.setitem(child._functions, "act.process", Function(act_process))
    return child.run(child.Order("act.process", orjson.dumps({"what": what}), "c", "client", "w1", "1.1", 5.0, mark))


def test_a_process_sees_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    ok, body, _ = in_process(monkeypatch, "look")
    assert (ok, orjson.loads(body)) == (True, SEEN)
    ok, body, _ = in_process(monkeypatch, "look", None)
    assert (ok, orjson.loads(body)) == (True, ["", 0, ""])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("what", TOLD)
def test_what_is_to_become_of_a_job_travels_as_it_was_said(
    what: str, call: Callable[..., Any], make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    ok, error = run(make_rig, call, what)
    assert (ok, type(error), error.message, error.retry_after_s) == (False, *TOLD[what])
    assert error.hint == ("switch it on" if what == "retry" else error.hint)
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert bool(logged) is (what == "another"), "what was said on purpose leaves no traceback"


@pytest.mark.parametrize("what", TOLD)
def test_it_travels_from_a_process_too(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ok, body, text = in_process(monkeypatch, what)
    error = error_from_dict(orjson.loads(body))
    assert (ok, type(error), error.message, error.retry_after_s) == (False, *TOLD[what])
    assert (error.node, error.request_id) == ("w1", "1.1")
    assert bool(text) is (what == "another")


@pytest.mark.parametrize(
    ("after_s", "told"), [(0, 0), (0.5, 0.5), (None, None), (-1, None), (math.inf, None), (math.nan, None), ("5", None)]
)
def test_only_a_time_to_wait_travels(after_s: Any, told: float | None) -> None:
    assert failure(Retry("later", after_s=after_s)).retry_after_s == told


def test_a_function_says_nothing_of_where_it_ran() -> None:
    seen = failure(Retry("later", node="elsewhere", request_id="9.9"))
    assert (seen.node, seen.request_id) == ("", "")


def test_the_mark_of_work_reaches_the_function() -> None:
    async def main() -> bytes:
        end = NodeEnd(
            "worker-1", {"act.inline": Function(act_inline)}, may_call, LimitSettings(), slots=4, processes=1, modules=[],
            clock=lambda: 100.0, wake=lambda: None, sampler=ResourceSampler(Path("/")), logger=logging.getLogger("test"),
        )  # fmt: skip
        body = b'{"what":"look"}'
        end.receive(Work([WorkGroup("act.inline", "c", "client", 60_000, 0, 7, 1, 1, [len(body)], [MARK])]), body, 0)
        end.close()
        [bodies] = [bodies for message, bodies in end.take() if isinstance(message, Results)]
        return bytes(bodies[0])

    assert orjson.loads(asyncio.run(main())) == SEEN


def test_errors_of_jobs_come_back_as_their_class() -> None:
    for error in (Retry("later", after_s=3), Reject("never")):
        again: ZClusterError = error_from_dict(error.to_dict())
        assert (type(again), again.message, again.retry_after_s) == (type(error), error.message, error.retry_after_s)
