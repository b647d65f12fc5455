"""What ZAP decides for each request that libzmq may hand it: nothing but a known CURVE key in our domain gets in."""

from __future__ import annotations

import pytest
from zmq.utils import z85

from zcluster.keys import generate
from zcluster.net.context import PUBLISH_DOMAIN, ZAP_DOMAIN
from zcluster.net.zap import decide

PAIR = generate()
KEY = z85.decode(PAIR.public)
GOOD = [b"1.0", b"7", ZAP_DOMAIN, b"127.0.0.1", b"", b"CURVE", KEY]


def changed(index: int, value: bytes) -> list[bytes]:
    return [*GOOD[:index], value, *GOOD[index + 1 :]]


def admit_all(_public: str) -> bool:
    return True


def test_an_admitted_key_gets_in_and_is_named_by_its_key() -> None:
    asked: list[str] = []

    def admits(public: str) -> bool:
        asked.append(public)
        return True

    reply, reason = decide(GOOD, admits)
    assert reply == [b"1.0", b"7", b"200", b"OK", PAIR.public.encode(), b""]
    assert reason == ""
    assert asked == [PAIR.public]


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "malformed request"),
        (GOOD[:5], "malformed request"),
        (changed(0, b"2.0"), "malformed request"),
        (changed(2, b"other"), "another domain"),
        (changed(2, b""), "another domain"),
        ([*changed(5, b"NULL")[:6]], "mechanism NULL"),
        ([*changed(5, b"PLAIN")[:6], b"user", b"password"], "mechanism PLAIN"),
        (changed(5, b"\xff" * 40), "mechanism " + "\ufffd" * 16),
        (changed(6, KEY[:31]), "malformed credentials"),
        (changed(6, KEY + b"\0"), "malformed credentials"),
        (GOOD[:6], "malformed credentials"),
        ([*GOOD, b"more"], "malformed credentials"),
    ],
)
def test_everything_else_is_denied_even_when_every_key_is_admitted(frames: list[bytes], reason: str) -> None:
    reply, why = decide(frames, admit_all)
    assert why == reason
    assert reply == [b"1.0", frames[1] if len(frames) > 1 else b"", b"400", b"denied", b"", b""]


def test_a_key_that_is_not_in_the_ring_is_denied_and_named() -> None:
    reply, reason = decide(GOOD, lambda _public: False)
    assert reply[2] == b"400"
    assert reply[4] == b""
    assert reason == f"unknown key {PAIR.public}"


@pytest.mark.parametrize("error", [ValueError("broken ring"), OSError(5, "I/O error"), KeyError("x"), MemoryError()])
def test_an_error_while_asking_denies(error: Exception) -> None:
    def admits(_public: str) -> bool:
        raise error

    reply, reason = decide(GOOD, admits)
    assert reply[2:5] == [b"400", b"denied", b""]
    assert reason == f"error in the check: {type(error).__name__}"


def test_a_publisher_asks_also_whether_the_key_may_subscribe() -> None:
    to_subscribe = changed(2, PUBLISH_DOMAIN)
    assert decide(to_subscribe, admit_all)[1] == "another domain"
    assert decide(to_subscribe, admit_all, admit_all)[1] == ""
    assert decide(to_subscribe, admit_all, lambda _public: False)[1] == f"key {PAIR.public} may not subscribe"
    assert decide(to_subscribe, lambda _public: False, admit_all)[1] == f"unknown key {PAIR.public}"
    assert decide(GOOD, admit_all, lambda _public: False)[1] == ""
