"""What the audit log has: which requests, one trail for each, and records that are bounded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from zcluster.core import auditing as module
from zcluster.core.auditing import (
    MAX_ARGS_BYTES,
    MAX_FUNCTION_CHARS,
    MAX_NODES,
    MAX_TARGET_CHARS,
    READS_S,
    REFUSALS,
    REFUSALS_WINDOW_S,
    EndedLines,
    Readers,
    Refusals,
    Trail,
    accepted_record,
    ended_record,
    error_code,
    request_record,
)
from zcluster.core.queue.job import Job, State, Step
from zcluster.wire import Cancel, Credit, FunctionInfo, Grant, Of, Status
from zcluster.wire.messages import RequestFlag

SCHEMA = '{"type":"object","properties":{"x":{"type":"integer"}}}'
STRICT = FunctionInfo(name="strict", role="admin", parameters=SCHEMA, idempotent=True)


@pytest.fixture
def audited(bus: Any) -> Any:
    """A bus with an admin ``a``, a client ``c``, two workers with ``strict`` and ``mild``, whose admin functions are audited."""
    bus.master.dispatch.auditing.requests = "admin"
    for name in ("w1", "w2"):
        bus.worker(name, STRICT, "mild")
    bus.client("a", "admin")
    bus.client("c")
    return bus


def ended(bus: Any) -> list[tuple[str, str, list[str], int, str]]:
    """The trails that ended since the last time: key, function, nodes, attempts, error."""
    trails, bus.master.dispatch.auditing.ended = bus.master.dispatch.auditing.ended, []
    return [(trail.key, trail.function, list(trail.nodes), trail.attempts, trail.error) for trail in trails]


def trail(**others: Any) -> Trail:
    fields: dict[str, Any] = {
        "request_id": "3.1", "key": "a", "public": "key-a", "role": "client", "function": "f", "target": "any", "body": b"{}",
        "schemas": frozenset(), "since_s": 10.0, **others,
    }  # fmt: skip
    return Trail(**fields)


def job(**others: Any) -> Job:
    fields: dict[str, Any] = {
        "number": 7, "function": "f", "target": "any", "lane": "any:f", "priority": 5, "key": "key-a", "caller": "a",
        "body": b"{}", "accepted_s": 100.0, **others,
    }  # fmt: skip
    return Job(**fields)


def test_a_request_has_one_trail(audited: Any) -> None:
    audited.request("a", "strict", "w1", b'{"x":1}')
    assert ended(audited) == [], "it has not ended"
    audited.result("w1", audited.work("w1")[0][0], b"2")
    [trail] = audited.master.dispatch.auditing.ended
    assert (trail.request_id, trail.public, trail.role, trail.target) == ("3.1", "key-a", "admin", "w1")
    assert (trail.body, trail.schemas, trail.since_s) == (b'{"x":1}', frozenset({SCHEMA}), 1000.0)
    assert ended(audited) == [("a", "strict", ["w1"], 1, "")]
    assert audited.replies("a") == [(1, "VALUE 2", "w1")]
    assert audited.idle()


def test_requests_of_other_functions_have_none(audited: Any) -> None:
    audited.request("a", "mild", "w1", b"1", b"2")
    assert all(request.trail is None for request in audited.master.roster.peers["a"].requests.values())
    audited.result("w1", 1)
    audited.result("w1", 2)
    assert ended(audited) == []


def test_all_or_none_may_be_audited(audited: Any) -> None:
    audited.master.dispatch.auditing.requests = "all"
    audited.request("c", "mild", "w1", b"1", b"2")
    for leg, _, _ in audited.work("w1"):
        audited.result("w1", leg)
    assert ended(audited) == [("c", "mild", ["w1"], 1, "")] * 2
    audited.master.dispatch.auditing.requests = "none"
    audited.request("a", "strict", "w1", b"1")
    audited.result("w1", audited.work("w1")[0][0])
    assert ended(audited) == []


def test_what_is_refused_at_admission_is_audited_too(audited: Any) -> None:
    audited.request("c", "strict", "w1", b"1")
    audited.request("a", "strict", "nobody", b"1")
    audited.request("a", "strict", "all", b"1", id_=2)
    assert ended(audited) == [
        ("c", "strict", [], 0, "not_allowed"), ("a", "strict", [], 0, "no_such_node"), ("a", "strict", [], 0, "usage")
    ]  # fmt: skip
    audited.request("c", "unheard", "any", b"1", id_=2)
    assert ended(audited) == [], "no function that asks for an admin"


def test_a_function_that_nobody_has_yet_may_be_one_for_admins(make_bus: Any) -> None:
    bus = make_bus(grace=True)
    bus.master.dispatch.auditing.requests = "admin"
    bus.client("a", "admin")
    bus.request("a", "strict", "any", b"1")
    bus.worker("w1", STRICT)
    bus.result("w1", bus.work("w1")[0][0])
    assert ended(bus) == [("a", "strict", ["w1"], 1, "")]


def test_an_error_a_deadline_and_a_cancellation_are_outcomes(audited: Any) -> None:
    audited.request("a", "strict", "w1", b"1", b"2", b"3", timeout_s=5)
    legs = [leg for leg, _, _ in audited.work("w1")]
    audited.result("w1", legs[0], b'{"code":"function_failed"}', Status.ERROR)
    audited.send("a", Cancel(ids=[2]))
    audited.wait(6)
    assert [error for *_, error in ended(audited)] == ["function_failed", "cancelled", "timed_out"]


def test_a_client_that_goes_has_cancelled(audited: Any) -> None:
    audited.request("a", "strict", "w1", b"1")
    audited.master.disconnected("a", audited.now)
    assert ended(audited) == [("a", "strict", ["w1"], 1, "cancelled")]


def test_a_request_that_moved_ran_on_both(audited: Any) -> None:
    audited.request("a", "strict", "any", b"1")
    first = "w1" if audited.work("w1") else "w2"
    audited.master.disconnected(first, audited.now)
    audited.turn()
    second = "w2" if first == "w1" else "w1"
    audited.result(second, audited.work(second)[0][0])
    assert ended(audited) == [("a", "strict", [first, second], 2, "")]


def test_a_fan_out_has_one_trail_with_all_its_nodes(audited: Any) -> None:
    audited.request("a", "strict", "w*", b"1", flags=RequestFlag.FAN_OUT)
    audited.result("w1", audited.work("w1")[0][0])
    assert ended(audited) == []
    audited.result("w2", audited.work("w2")[0][0], b'{"code":"function_failed"}', Status.ERROR)
    [trail] = audited.master.dispatch.auditing.ended
    assert (list(trail.nodes), trail.attempts, trail.failed, trail.error) == (["w1", "w2"], 2, 1, "function_failed")


def test_a_fan_out_that_is_cancelled_has_one_trail(audited: Any) -> None:
    audited.request("a", "strict", "w*", b"1", flags=RequestFlag.FAN_OUT)
    audited.result("w1", audited.work("w1")[0][0])
    audited.send("a", Cancel(ids=[1]))
    [trail] = audited.master.dispatch.auditing.ended
    assert (trail.failed, trail.error) == (1, "cancelled")


def test_a_large_value_ends_a_trail(audited: Any) -> None:
    audited.request("a", "strict", "w1", b"1")
    leg = audited.work("w1")[0][0]
    audited.result("w1", leg, b"", Status.LARGE_VALUE, 1500)
    audited.send("a", Credit(grants=[Grant(1, leg, Of.REPLY_BODY, 1500)]))
    audited.chunk("w1", leg, 0, b"x" * 1024)
    audited.chunk("w1", leg, 1024, b"x" * 476)
    assert ended(audited) == [("a", "strict", ["w1"], 1, "")]


def test_an_empty_body_means_no_arguments(audited: Any) -> None:
    audited.request("a", "strict", "nobody", b"")
    audited.request("a", "strict", "nobody", id_=2, flags=RequestFlag.LARGE, sizes=[2000])
    assert [trail.body for trail in audited.master.dispatch.auditing.ended] == [b"{}", b""]


def test_large_arguments_are_not_kept(audited: Any) -> None:
    audited.master.admission.inline_bytes = 10_000
    for id_, size in ((1, MAX_ARGS_BYTES), (2, MAX_ARGS_BYTES + 1)):
        audited.request("a", "strict", "nobody", b"1" * size, id_=id_)
    assert [len(trail.body) for trail in audited.master.dispatch.auditing.ended] == [MAX_ARGS_BYTES, 0]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"code":"busy","message":"m"}', "busy"), (b'{"message":"m"}', "failed"), (b"", "failed"), (b"[1]", "failed"),
        (b'{"code":5}', "failed"), (b'{"code":"a b"}', "failed"), (b'{"code":"\xff"}', "failed"),
        (b'{"code":"' + b"x" * 64 + b'"}', "x" * 64), (b'{"code":"' + b"x" * 65 + b'"}', "failed"), (b"[" * 5000, "failed"),
    ],
)  # fmt: skip
def test_the_code_of_an_error_is_a_word(body: bytes, code: str) -> None:
    assert error_code(body) == code


def test_a_record_of_a_request() -> None:
    ran = trail(nodes={"w1": None}, attempts=2)
    assert request_record(ran, "SHA256:x", 1700.00049, 0.25, {"x": 1}) == {
        "at_s": 1700.0, "what": "request", "request_id": "3.1", "key": "a", "public": "SHA256:x", "role": "client",
        "function": "f", "target": "any", "nodes": ["w1"], "nodes_total": 1, "attempts": 2, "outcome": "done", "error": None,
        "failed": 0, "took_s": 0.25, "args": {"x": 1},
    }  # fmt: skip
    refused = request_record(trail(error="busy", failed=1), "", 0.0, -1.0, None)
    assert (refused["outcome"], refused["error"], refused["took_s"], refused["nodes"]) == ("busy", "busy", 0.0, [])


@pytest.mark.parametrize("more", [0, 1])
def test_a_record_is_bounded(more: int) -> None:
    nodes: dict[str, None] = dict.fromkeys(f"w{number}" for number in range(MAX_NODES + more))
    long = trail(function="f" * (MAX_FUNCTION_CHARS + more), target="t" * (MAX_TARGET_CHARS + more), nodes=nodes)
    record = request_record(long, "", 0.0, 0.0, None)
    assert (len(record["nodes"]), record["nodes_total"]) == (MAX_NODES, MAX_NODES + more)
    assert (len(record["function"]), len(record["target"])) == (MAX_FUNCTION_CHARS, MAX_TARGET_CHARS)
    assert record["target"].endswith("…") == bool(more)


def test_texts_are_on_one_line() -> None:
    record = request_record(trail(function="f\x1b[31m", target="a\nb"), "", 0.0, 0.0, None)
    assert (record["function"], record["target"]) == ("f\\x1b[31m", "a\\nb")


def test_the_records_of_a_job() -> None:
    accepted = accepted_record(job(), "0a-7", "SHA256:x", "admin", 100.0, {"x": 1})
    assert (accepted["what"], accepted["job"], accepted["outcome"], accepted["args"]) == ("accepted", "0a-7", "queued", {"x": 1})
    assert accepted["took_s"] is None
    steps = [Step(State.LEASED, 100.0, "w1", 1), Step(State.QUEUED, 101.0, "w1", 1), Step(State.RUNNING, 102.0, "w2", 2)]
    ended = job(state=State.DONE, steps=steps, node="w2", attempt=2)
    done = ended_record(ended, "0a-7", "", "SHA256:x", "admin", 105.0, {"x": 1})
    assert (done["what"], done["nodes"], done["attempts"]) == ("ended", ["w1", "w2"], 2)
    assert (done["outcome"], done["took_s"]) == ("done", 5.0)
    assert (done["error"], done["args"], "parent" in done) == (None, {"x": 1}, False)
    failed = ended_record(job(state=State.FAILED, result=b'{"code":"rejected"}', node="w3"), "0a-8", "0a-7", "", "", 90.0, None)
    assert (failed["outcome"], failed["error"], failed["parent"], failed["took_s"]) == ("failed", "rejected", "0a-7", 0.0)
    assert failed.keys() - {"parent"} == done.keys() == accepted.keys()
    request = request_record(trail(), "", 0.0, 0.0, None)
    assert request.keys() - {"request_id"} == done.keys() - {"job"}, "all records have the same fields"
    expired = ended_record(job(state=State.EXPIRED), "0a-9", "", "", "", 90.0, None)
    assert (expired["outcome"], expired["error"], expired["nodes"]) == ("expired", None, [])


def test_a_key_that_is_refused_again_and_again_has_so_many_records() -> None:
    refusals = Refusals()
    refused = trail(error="not_allowed", failed=1)
    assert [refusals.passes(refused, 0.0) for _ in range(REFUSALS + 2)] == [True] * REFUSALS + [False] * 2
    assert refusals.passes(trail(error="not_allowed", public="key-b"), 0.0), "another key"
    assert refusals.passes(trail(error="not_allowed", role="admin"), 0.0), "an admin is always told of"
    assert refusals.passes(trail(error="failed", attempts=1), 0.0), "it ran"
    assert refusals.passes(trail(), 0.0)
    assert list(refusals.over(REFUSALS_WINDOW_S - 0.1)) == []
    assert list(refusals.over(REFUSALS_WINDOW_S)) == [("a", "key-a", "client", 2)]
    assert list(refusals.over(REFUSALS_WINDOW_S)) == []
    assert refusals.passes(refused, REFUSALS_WINDOW_S), "a new window"


def test_the_keys_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REFUSED_KEYS", 2)
    monkeypatch.setattr(module, "REFUSALS", 0)
    refusals = Refusals()
    for number in range(3):
        refusals.passes(trail(error="busy", public=f"key-{number}"), 0.0)
    assert [public for _, public, _, _ in refusals.over(0.0)] == ["key-0"]


def test_who_follows_the_log_has_few_records_of_that(monkeypatch: pytest.MonkeyPatch) -> None:
    readers = Readers()
    assert [readers.passes(trail(), now) for now in (0.0, 1.0, READS_S - 1, READS_S)] == [True, False, False, True]
    assert readers.passes(trail(error="usage"), 1.0)
    monkeypatch.setattr(module, "MAX_READERS", 2)
    assert [readers.passes(trail(public=f"key-{name}"), READS_S) for name in "bcb"] == [True, True, False]
    assert readers.passes(trail(), READS_S), "the first was forgotten"


def test_the_line_of_a_job_is_its_record() -> None:
    lines = EndedLines()
    for number in (7, 8):
        done = job(number=number, state=State.DONE, node="w\"2", attempt=1)
        done.accepted_s = 100.25
        line = lines.line(done, f"0a-{number}", "SHA256:x", "admin", 105.5, b'{"x":1}')
        assert line is not None
        assert msgspec.json.decode(line) == ended_record(done, f"0a-{number}", "", "SHA256:x", "admin", 105.5, {"x": 1})
    others = [{"state": State.FAILED, "attempt": 1}, {"attempt": 2}, {"attempt": 1, "parent": 3}]
    for other in [job(**{"state": State.DONE, **each}) for each in others]:
        assert lines.line(other, "0a-7", "", "", 0.0, b"null") is None


def test_records_are_json() -> None:
    assert msgspec.json.encode(ended_record(job(state=State.DEAD), "0a-7", "", "", "", 0.0, None))
