"""Who may ask for what, of which nodes, and the parts of a fan-out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zcluster.core.catalog import Functions
from zcluster.core.peers import Identity, Node
from zcluster.core.queue import admission
from zcluster.core.queue.admission import Ask, Defaults, JobAdmission
from zcluster.errors import NoSuchFunction, NoSuchNode, NotAllowed, TooLarge, UsageError
from zcluster.keys import may_call

WHO = Identity("k", "laptop", "client")
ASK = Ask("f", "any")
ALL = replace(ASK, target="all", fan_out=True)


def made(nodes: dict[str, Node] | None = None, workers: tuple[str, ...] = (), **roles: list[str]) -> JobAdmission:
    one = JobAdmission(nodes or {}, lambda: workers, Functions(), "m", may_call, Defaults(body_bytes=10))
    one.known = {"f": ["client"], **roles}
    return one


def test_a_function_is_known_that_some_node_had() -> None:
    assert made().lanes(ASK, WHO) == ["any:f"]
    with pytest.raises(NoSuchFunction):
        made().lanes(replace(ASK, function="g"), WHO)


def test_the_role_of_who_asks_must_permit_the_function() -> None:
    one = made(secret=["admin"])
    with pytest.raises(NotAllowed, match="laptop"):
        one.lanes(replace(ASK, function="secret"), WHO)
    assert one.lanes(replace(ASK, function="secret"), Identity("a", "boss", "admin")) == ["any:secret"]
    assert one.allowed(WHO, "f") is None
    assert isinstance(one.allowed(None, "f"), NotAllowed), "its key was revoked"
    with pytest.raises(NotAllowed):
        one.nodes_lanes(replace(ASK, function="secret"), ["w1"], WHO)


def test_a_node_that_is_away_may_be_asked_for_and_one_that_is_unknown_not() -> None:
    one = made({"w1": Node("w1", "worker", "dead", 0.0), "w3": Node("w3", "worker", "left", 0.0)}, ("w1", "w2"))
    assert one.lanes(replace(ASK, target="w1"), WHO) == ["node:w1"]
    assert one.lanes(replace(ASK, target="w2"), WHO) == ["node:w2"]
    for name in ("w3", "w9"):
        with pytest.raises(NoSuchNode):
            one.lanes(replace(ASK, target=name), WHO)
    with pytest.raises(NoSuchNode):
        one.lanes(replace(ASK, target=""), WHO)


def test_several_nodes_are_a_fan_out() -> None:
    one = made(workers=("w1", "w2", "x1"))
    for target in ("all", "w*", "w1,w2"):
        with pytest.raises(UsageError):
            one.lanes(replace(ASK, target=target), WHO)
    assert one.lanes(replace(ALL, target="w*"), WHO) == ["node:w1", "node:w2"]
    assert one.lanes(replace(ALL, target="w1,x1"), WHO) == ["node:w1", "node:x1"]


def test_the_parts_of_a_fan_out_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_PARTS", 2)
    assert len(made(workers=("w1", "w2")).lanes(replace(ALL, target="w*"), WHO)) == 2
    with pytest.raises(UsageError, match="3 nodes"):
        made(workers=("w1", "w2", "w3")).lanes(replace(ALL, target="w*"), WHO)


def test_arguments_have_their_limit() -> None:
    one = made()
    assert one.make(ASK, "any:f", WHO, [(b"x" * 10, "")], 1.0, 1.0)[0].size == 10
    with pytest.raises(TooLarge, match="11 bytes"):
        one.make(ASK, "any:f", WHO, [(b"", ""), (b"x" * 11, "")], 1.0, 1.0)


def test_a_time_that_has_passed_is_no_time() -> None:
    (job,) = made().make(replace(ASK, at_s=99.0), "any:f", WHO, [(b"", "k")], 1.0, 100.0)
    assert job.ready
    assert (job.at_s, job.idempotency_key, len(job.digest)) == (0.0, "k", 16)


def test_parts_have_the_arguments_of_the_whole_and_not_its_key() -> None:
    one = made()
    (whole,) = one.make(replace(ALL, delay_s=5.0), "node:w1", WHO, [(b"x", "k")], 1.0, 100.0)
    parts = one.spread(whole, ["node:w1", "node:w2"])
    assert [(part.lane, part.target, part.body, part.idempotency_key, part.due) for part in parts] == [
        ("node:w1", "w1", b"x", "", 6.0), ("node:w2", "w2", b"x", "", 6.0),
    ]  # fmt: skip
    assert (whole.lane, whole.parts, whole.parts_left, whole.idempotency_key) == ("", 2, 2, "k")
    assert parts[0].steps is not parts[1].steps
