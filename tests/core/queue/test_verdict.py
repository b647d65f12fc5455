"""What the end of an attempt means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from zcluster.core.queue.transitions import Loss
from zcluster.core.queue.verdict import STOPPING, verdict


@pytest.mark.parametrize(
    ("code", "loss"),
    [
        ("retry", Loss.FAILED), ("timed_out", Loss.FAILED), ("protocol_error", Loss.FAILED), ("node_lost", Loss.DEATH),
        ("busy", Loss.NOTHING), ("draining", Loss.NOTHING), ("node_unavailable", Loss.NOTHING),
        ("no_such_function", Loss.NOTHING), ("cancelled", Loss.NOTHING),
        ("function_failed", None), ("rejected", None), ("not_allowed", None), ("whatever", None), (STOPPING, None),
    ],
)  # fmt: skip
def test_each_code(code: str, loss: Loss | None) -> None:
    found = verdict(msgspec.json.encode({"code": code, "message": "m"}))
    assert (found.loss, found.after_s, found.stopping) == (loss, None, code == STOPPING)
    assert found.error["message"] == "m"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff"])
def test_what_cannot_be_read_counts_as_a_failure(body: bytes) -> None:
    assert verdict(body).loss is Loss.FAILED
    assert verdict(body).error["code"] == "protocol_error"


@pytest.mark.parametrize(
    ("after_s", "taken"),
    [(0, 0.0), (2.5, 2.5), (366 * 86_400 - 1, 366 * 86_400 - 1.0), (366 * 86_400, None), (-1, None), ("5", None), (None, None)],
)
def test_the_pause_that_a_function_asks_for_is_bounded(after_s: Any, taken: float | None) -> None:
    assert verdict(msgspec.json.encode({"code": "retry", "retry_after_s": after_s})).after_s == taken


def test_only_a_retry_asks_for_a_pause() -> None:
    assert verdict(b'{"code":"busy","retry_after_s":9}').after_s is None


@pytest.mark.parametrize(("code", "loss"), [("node_lost", Loss.NOTHING), ("timed_out", Loss.FAILED), ("not_found", None)])
def test_what_a_leaving_node_could_not_finish_counts_against_nothing(code: str, loss: Loss | None) -> None:
    assert verdict(msgspec.json.encode({"code": code, "message": "m"}), leaving=True).loss is loss


@pytest.mark.parametrize("body", [b'{"code":"\xff"}', b'{"a":' * 30_000, b"[]", b"", b"nonsense"])
def test_an_error_that_cannot_be_read_is_an_attempt_that_failed(body: bytes) -> None:
    found = verdict(body)
    assert (found.error["code"], found.loss) == ("protocol_error", Loss.FAILED)


def test_of_an_error_only_what_an_error_has_is_kept() -> None:
    odd = {"code": "rejected", "message": "m" * 9000, "hint": ["h"] * 9000, "node": "n" * 9000, "more": "x", "request_id": {}}
    found = verdict(msgspec.json.encode(odd))
    assert found.error["code"] == "rejected"
    assert "more" not in found.error
    assert len(msgspec.json.encode(found.error)) < 4000
