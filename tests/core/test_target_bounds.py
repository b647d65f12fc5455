"""Targets cost bounded time: a caller's globs must not keep the master from hearing heartbeats."""

from __future__ import annotations

import pytest

from zcluster.core.admission import MAX_GLOBS
from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import Identity
from zcluster.core.targets import MAX_GLOB_CHARS, MAX_PARTS, globs_in, select
from zcluster.core.targets import MAX_GLOBS as MAX_GLOBS_OF_A_TARGET
from zcluster.errors import NoSuchNode, UsageError
from zcluster.keys import may_call, may_send
from zcluster.wire import FunctionInfo, Hello, Replies, RequestGroup, Requests, Status
from zcluster.wire.messages import RequestFlag

NAMES = ["master", "web-1", "web-2"]
CLIENT = Identity("k", "laptop", "client")


def test_a_target_at_its_limits_and_one_beyond() -> None:
    at_most = "*" * MAX_GLOB_CHARS
    assert select(at_most, NAMES, "master") == NAMES
    assert select(",".join(["web-*"] * MAX_GLOBS_OF_A_TARGET), NAMES, "master") == ["web-1", "web-2"]
    assert select(",".join(["web-1"] * MAX_PARTS), NAMES, "master") == ["web-1"]
    for beyond in (at_most + "*", ",".join(["web-*"] * (MAX_GLOBS_OF_A_TARGET + 1)), ",".join(["web-1"] * (MAX_PARTS + 1))):
        with pytest.raises(UsageError):
            select(beyond, NAMES, "master")


def test_a_plain_name_may_be_long_and_matches_nothing() -> None:
    with pytest.raises(NoSuchNode):
        select("x" * 8192, NAMES, "master")


@pytest.mark.parametrize(("target", "count"), [("any", 0), ("a,b", 0), ("*", 1), ("a,b*,c?,[d]", 3), ("", 0)])
def test_globs_are_counted(target: str, count: int) -> None:
    assert globs_in(target) == count


def codes(targets: list[str]) -> list[str]:
    """How one message with a fan-out to each of ``targets`` is answered: the error's code, or empty when it is admitted."""
    master = Master("master", "zcluster", 1, MasterLimits(), may_send, may_call, 0.0)
    worker = Identity("w", "web-1", "worker")
    hello = Hello(versions=[1], instance="w", slots=8, functions=[FunctionInfo(name="echo")])
    master.receive("w", worker, hello, b"", 0, 0.0)
    master.receive("c", CLIENT, Hello(versions=[1], instance="c"), b"", 0, 0.0)
    master.take(0.0)
    groups = [RequestGroup("echo", target, 0, 5, RequestFlag.FAN_OUT, number, [0]) for number, target in enumerate(targets, 1)]
    master.receive("c", CLIENT, Requests(groups), b"", 0, 0.0)
    out = [""] * len(targets)
    for route, outgoing in master.take(0.0):
        for message, bodies in outgoing if route == "c" else []:
            assert isinstance(message, Replies)
            members = [group.first_id + n for group in message.groups for n in range(len(group.sizes))]
            assert {group.status for group in message.groups} == {Status.ERROR}
            for id_, body in zip(members, bodies, strict=True):
                out[id_ - 1] = bytes(body).partition(b'"code":"')[2].partition(b'"')[0].decode()
    return out


def test_a_message_may_have_so_many_globs_and_no_more() -> None:
    different = [f"web-*{'*' * number}" for number in range(MAX_GLOBS + 1)]
    assert codes(different) == [""] * MAX_GLOBS + ["busy"]


def test_equal_targets_count_once_and_names_not_at_all() -> None:
    assert codes(["web-*"] * (MAX_GLOBS + 1)) == [""] * (MAX_GLOBS + 1)
    assert codes(["web-1"] * (MAX_GLOBS + 1)) == [""] * (MAX_GLOBS + 1)


def test_globs_that_match_nothing_are_told_so_each_time_and_count() -> None:
    assert codes(["x*"] * (MAX_GLOBS + 1)) == ["no_such_node"] * MAX_GLOBS + ["busy"]
