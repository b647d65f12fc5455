"""Durable jobs and rights: at acceptance, at each attempt, and what a job remembers between."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from zcluster.core.carrying import lowered
from zcluster.core.catalog import Functions
from zcluster.core.peers import Identity, Node
from zcluster.core.queue.admission import Ask, Defaults, JobAdmission
from zcluster.core.queue.job import Job
from zcluster.core.rights import Rights, Rule, least, standing_of
from zcluster.errors import NoSuchFunction, NotAllowed
from zcluster.keys import may_call

NODES = ("m", "web-1", "web-2", "db-1")
DEPLOY = Rule("deploy", "client", ("f", "gone"), ("web-*", "any", "group:*"), 0, 5)
RIGHTS = Rights([DEPLOY])
ANN = RIGHTS.identity("k", "ann", "deploy")
ASK = Ask("f", "any")


@pytest.fixture
def admission() -> JobAdmission:
    nodes = {name: Node(name, "worker", "ready", 0.0) for name in NODES}
    made = JobAdmission(nodes, lambda: (), Functions(), "m", may_call, Defaults(), Rights([DEPLOY]))
    made.known = {"f": ["client"], "other": ["client"], "a": ["admin"]}
    return made


def lanes(admission: JobAdmission, ask: Ask, who: Identity = ANN) -> Any:
    """The nodes that it is for, or the code of the error."""
    try:
        return [lane.removeprefix("node:") for lane in admission.lanes(ask, who)]
    except NotAllowed as error:
        return error.code


@pytest.mark.parametrize(
    ("ask", "found"),
    [
        (ASK, ["any:f"]),
        (replace(ASK, target="web-1"), ["web-1"]),
        (replace(ASK, target="db-1"), "not_allowed"),
        (replace(ASK, target="master"), "not_allowed"),
        (replace(ASK, function="other"), "not_allowed"),
        (replace(ASK, function="a"), "not_allowed"),
        (replace(ASK, priority=5), ["any:f"]),
        (replace(ASK, priority=6), "not_allowed"),
        (replace(ASK, target="web-*", fan_out=True), ["web-1", "web-2"]),
        (replace(ASK, target="db-*", fan_out=True), "not_allowed"),
        (replace(ASK, target="all", fan_out=True), list(NODES)),
    ],
)
def test_what_is_accepted(admission: JobAdmission, ask: Ask, found: Any) -> None:
    assert lanes(admission, ask) == found


def test_a_missing_right_is_said_before_what_there_is(admission: JobAdmission) -> None:
    with pytest.raises(NotAllowed):
        admission.lanes(replace(ASK, function="nowhere"), ANN)
    with pytest.raises(NoSuchFunction):
        admission.lanes(replace(ASK, function="gone"), ANN)
    with pytest.raises(NotAllowed, match=r"^ann \(deploy\) may not call a \(use a key"):
        admission.lanes(replace(ASK, function="a"), ANN)


def test_the_nodes_of_a_group(admission: JobAdmission) -> None:
    ask = replace(ASK, target="group:x", fan_out=True)
    assert admission.nodes_lanes(ask, ["db-1"], ANN) == ["node:db-1"], "the word is allowed, wherever it leads"
    ask = replace(ASK, target="agent:7")
    assert admission.nodes_lanes(ask, ["web-1"], ANN) == ["node:web-1"]
    with pytest.raises(NotAllowed):
        admission.nodes_lanes(ask, ["db-1"], ANN)


def made(admission: JobAdmission, ask: Ask, lane: str, who: Identity = ANN) -> Job:
    (job,) = admission.make(ask, lane, who, [(b"", "")], 5.0, 6.0)
    return job


def runs(admission: JobAdmission, job: Job, now: Identity) -> bool:
    return admission.may_run(job, least(now, standing_of(job.role).who)) is None


def test_the_parts_of_a_fan_out_end_one_by_one(admission: JobAdmission) -> None:
    ask = replace(ASK, target="all", fan_out=True)
    parts = admission.spread(made(admission, ask, "node:m"), admission.lanes(ask, ANN))
    assert {part.target: runs(admission, part, ANN) for part in parts} == {
        "m": False, "web-1": True, "web-2": True, "db-1": False
    }  # fmt: skip
    ask = replace(ASK, target="group:x", fan_out=True)
    [part] = admission.spread(made(admission, ask, "node:db-1"), ["node:db-1"])
    assert (part.target, standing_of(part.role).word) == ("db-1", "group:x")
    assert runs(admission, part, ANN), "it is remembered with which word it was asked for"


def test_without_definitions_a_job_remembers_a_role_and_no_more(admission: JobAdmission) -> None:
    plain = JobAdmission({}, lambda: (), Functions(), "m", may_call, Defaults())
    plain.known = {"f": ["client"]}
    for role in ("client", "admin"):
        job = made(plain, replace(ASK, target="all", fan_out=True), "node:m", Identity("k", "n", role))
        assert job.role == role
        assert [part.role for part in plain.spread(job, ["node:m"])] == [role]


def test_each_attempt_has_the_rights_of_that_moment_and_never_more_than_before(admission: JobAdmission) -> None:
    client, admin = Identity("k", "ann", "client"), Identity("k", "ann", "admin")
    job, wants_admin = made(admission, ASK, "any:f"), made(admission, replace(ASK, function="a"), "any:a", admin)
    for now in (ANN, client, admin):
        assert runs(admission, job, now)
    admission._rights.define([replace(DEPLOY, functions=("other",))])
    for now in (ANN, client, admin):
        assert not runs(admission, job, now), "a key that got more since has no more for what it asked before"
    admission._rights.define([])
    assert not runs(admission, job, client)
    admission._rights.define([DEPLOY])
    assert runs(admission, job, ANN)
    assert runs(admission, wants_admin, admin)
    assert not runs(admission, wants_admin, client)
    later = made(admission, replace(ASK, function="a"), "any:a", client)
    assert not runs(admission, later, admin)
    assert admission.may_run(job, None) is not None, "its key was revoked"


def test_what_a_worker_carried_is_held_to_the_door_for_good(admission: JobAdmission) -> None:
    carried = lowered(Identity("k", "ann", "admin"))
    assert carried is not None
    job = made(admission, ASK, "any:f", carried)
    assert runs(admission, job, Identity("k", "ann", "admin"))
    admission._rights.define([Rule("worker", "worker", ("other",), ("*",))])
    assert not runs(admission, job, Identity("k", "ann", "admin"))
    assert runs(admission, made(admission, ASK, "any:f", Identity("k", "ann", "admin")), Identity("k", "ann", "admin"))
    assert not runs(admission, made(admission, replace(ASK, function="a"), "any:a", carried), Identity("k", "ann", "admin"))
