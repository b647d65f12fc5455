"""What the errors of the queues say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from zcluster.core import verdicts
from zcluster.errors import Busy, ZClusterError

REQUEST: Any = type("Request", (), {"group": type("Group", (), {"function": "f"})(), "queued_s": 10.0})()


@pytest.mark.parametrize(
    ("error", "code", "never"),
    [
        (verdicts.never_started(REQUEST, 12.5), "timed_out", True),
        (verdicts.overdue(REQUEST, "w1"), "timed_out", False),
        (verdicts.node_lost(REQUEST, "w1", "silent"), "node_lost", False),
        (verdicts.nobody_left(REQUEST), "node_lost", False),
        (verdicts.not_served(REQUEST, "w1 is gone"), "node_unavailable", True),
    ],
)
def test_each_says_whether_it_was_started(error: ZClusterError, code: str, never: bool) -> None:
    assert error.code == code
    assert "f" in error.message
    assert ("never started" in error.message) is never
    assert ("whether it ran is unknown" in error.message) is not never


def test_an_error_travels_with_its_node_and_request() -> None:
    data = msgspec.json.decode(verdicts.encode_error(Busy("full", hint="wait", retry_after_s=2.0), "w1", "3.4"))
    assert data == {"code": "busy", "message": "full", "hint": "wait", "request_id": "3.4", "node": "w1", "retry_after_s": 2.0}
    assert msgspec.json.decode(verdicts.encode_error(Busy("full", node="w2"), "w1", "3.4"))["node"] == "w2"
    assert "node" not in msgspec.json.decode(verdicts.encode_error(Busy("full"), "", "3.4"))


def test_a_missing_function_says_where_it_is_missing() -> None:
    assert verdicts.no_such_function("f", "w1").message == "w1 has no function 'f'"
    assert verdicts.no_such_function("f", "").message == "no live node has the function 'f'"
