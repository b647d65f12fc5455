"""How the marks of durable jobs travel to a node: beside their members, in groups of their own."""

from __future__ import annotations

from typing import Any

import pytest

from zcluster.core.batch import MAX_MEMBERS, Batch
from zcluster.core.peers import Peer, Request
from zcluster.core.rights import Rights
from zcluster.core.workgroups import begin_group, join_marked
from zcluster.wire import Mark, RequestGroup, Work, WorkGroup
from zcluster.wire.messages import RequestFlag


def requests(caller: Peer, *jobs: str, first_id: int = 1, group: RequestGroup | None = None, deadline_s: float = 1030.0) -> Any:
    """Requests of one group; of the job of that id, or of none when it is empty."""
    group = group or RequestGroup("f", "w1", 30_000, 5, 0, first_id, [1] * len(jobs))
    return [
        Request(caller, first_id + index, group, b"x", 1, deadline_s, 1000.0, mark=Mark(job, 1, f"key-{job}") if job else None)
        for index, job in enumerate(jobs)
    ]


def given(bus: Any, *runs: list[Request]) -> list[WorkGroup]:
    """The groups that ``w1`` gets when ``runs`` wait for it."""
    dispatch, node = bus.master.dispatch, bus.master.roster.nodes["w1"]
    for run in runs:
        for request in run:
            request.caller.requests[request.id] = request
            dispatch.enqueue(request, node)
    bus.turn()
    return [group for message in bus.heard("w1", Work) for group in message.groups]


@pytest.fixture
def caller(bus: Any) -> Peer:
    """A client's session; ``w1`` has the function ``f``."""
    bus.worker("w1", "f", slots=64)
    bus.client("c1")
    bus.said.clear()
    peer: Peer = next(peer for peer in bus.master.roster.peers.values() if peer.identity.name == "c1")
    return peer


def test_each_member_of_a_group_of_jobs_has_its_mark(bus: Any, caller: Peer) -> None:
    [group] = given(bus, requests(caller, "ab-1", "ab-2"))
    assert group.sizes == [1, 1]
    assert group.marks == [Mark("ab-1", 1, "key-ab-1"), Mark("ab-2", 1, "key-ab-2")]
    assert (group.caller, group.role) == ("c1", "client")


def test_ordinary_requests_have_no_marks(bus: Any, caller: Peer) -> None:
    [group] = given(bus, requests(caller, "", ""))
    assert group.marks is None


def test_a_group_has_marks_for_all_or_for_none(bus: Any, caller: Peer) -> None:
    groups = given(bus, requests(caller, "", "ab-1", "ab-2", "", ""))
    assert [(group.first_request, len(group.sizes), group.marks and len(group.marks)) for group in groups] == [
        (1, 1, None),
        (2, 2, 2),
        (4, 2, None),
    ]


def test_jobs_that_are_alike_share_a_group_whatever_they_were_submitted_in(bus: Any, caller: Peer) -> None:
    [group] = given(bus, requests(caller, "ab-1"), requests(caller, "ab-2", first_id=2))
    assert len(group.marks or ()) == 2


def test_jobs_with_other_deadlines_or_ids_that_do_not_follow_have_groups_of_their_own(bus: Any, caller: Peer) -> None:
    later = requests(caller, "ab-2", first_id=2, deadline_s=1031.0)
    groups = given(bus, requests(caller, "ab-1"), later, requests(caller, "ab-3", first_id=9))
    assert [(group.first_request, len(group.sizes)) for group in groups] == [(1, 1), (2, 1), (9, 1)]


def test_a_job_with_a_large_body_is_alone(bus: Any, caller: Peer) -> None:
    large = RequestGroup("f", "w1", 30_000, 5, RequestFlag.LARGE, 2, [70_000])
    [one] = requests(caller, "ab-2", first_id=2, group=large)
    one.body, one.size = b"", 70_000
    groups = given(bus, requests(caller, "ab-1"), [one], requests(caller, "ab-3", first_id=3))
    assert [(group.flags, group.sizes, len(group.marks or ())) for group in groups] == [
        (0, [1], 1),
        (1, [70_000], 1),
        (0, [1], 1),
    ]


def test_marks_count_as_bytes_of_the_message(caller: Peer) -> None:
    key = "k" * 256
    whole: Batch[WorkGroup] = Batch(Work, 5000)
    run = requests(caller, *(f"ab-{number}" for number in range(1, 8)))
    for leg, request in enumerate(run, 1):
        request.leg, request.mark = leg, Mark(request.mark.job, 1, key)
        if not join_marked(request, whole, 1000):
            begin_group(request, whole, 1000, Rights())
    messages = [message for message, _ in whole.take()]
    assert [len(group.marks or ()) for message in messages if isinstance(message, Work) for group in message.groups] == [4, 3]


def test_no_message_has_more_members_than_others(bus: Any, caller: Peer) -> None:
    batch: Batch[WorkGroup] = Batch(Work, 1 << 20)
    for leg, request in enumerate(requests(caller, *["ab-1"] * (MAX_MEMBERS + 1)), 1):
        request.leg = leg
        if not join_marked(request, batch, 1000):
            begin_group(request, batch, 1000, Rights())
    assert [len(bodies) for _, bodies in batch.take()] == [MAX_MEMBERS, 1]
