"""What a job may ask for: each time at its bound and one beyond, and what excludes each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import json

from zcluster.core.catalog import Functions
from zcluster.core.peers import Identity
from zcluster.core.queue.admission import (
    MAX_KNOWN,
    MAX_KNOWN_BYTES,
    MAX_SPAN_S,
    MAX_TIMEOUT_S,
    MAX_WALL_S,
    Ask,
    Defaults,
    JobAdmission,
    digest,
)
from zcluster.errors import UsageError
from zcluster.keys import may_call
from zcluster.wire import Work, WorkGroup, decode, encode
from zcluster.wire.frames import WireLimits

WHO = Identity("k", "laptop", "client")
ASK = Ask("f", "any")


@pytest.fixture
def admission() -> JobAdmission:
    made = JobAdmission({}, lambda: (), Functions(), "master", may_call, Defaults())
    made.known = {"f": ["client"]}
    return made


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (replace(ASK, delay_s=MAX_SPAN_S), replace(ASK, delay_s=MAX_SPAN_S + 1)),
        (replace(ASK, expires_s=MAX_SPAN_S), replace(ASK, expires_s=MAX_SPAN_S + 1)),
        (ASK, replace(ASK, retention_s=-1)),
        (replace(ASK, timeout_s=MAX_TIMEOUT_S), replace(ASK, timeout_s=MAX_TIMEOUT_S + 0.001)),
        (replace(ASK, at_s=MAX_WALL_S), replace(ASK, at_s=MAX_WALL_S + 1)),
        (replace(ASK, at_s=1.0), replace(ASK, at_s=1.0, delay_s=1.0)),
        (replace(ASK, priority=9), replace(ASK, priority=10)),
        (replace(ASK, retries=100), replace(ASK, retries=101)),
        (replace(ASK, sequence="s"), replace(ASK, sequence="s", target="all", fan_out=True)),
    ],
)
def test_what_is_asked_is_bounded(admission: JobAdmission, good: Ask, bad: Ask) -> None:
    assert admission.lanes(good, WHO) == ["any:f"]
    with pytest.raises(UsageError):
        admission.lanes(bad, WHO)


def test_an_outcome_is_kept_as_long_as_the_setting_allows(admission: JobAdmission) -> None:
    admission.defaults = Defaults(max_retention_s=60.0)
    assert admission.lanes(replace(ASK, retention_s=60.0), WHO) == ["any:f"]
    with pytest.raises(UsageError, match="at most 60 s") as caught:
        admission.lanes(replace(ASK, retention_s=60.001), WHO)
    assert caught.value.hint == "queue.max_retention_s"
    with pytest.raises(UsageError, match="at most 60 s"):
        admission.nodes_lanes(replace(ASK, retention_s=60.001), ["w1"], WHO)


def test_the_longest_attempt_goes_into_work() -> None:
    work = Work([WorkGroup("f", "laptop", "client", int(MAX_TIMEOUT_S * 1000), 0, 1, 1, 1, [0])])
    assert decode(encode(work), WireLimits())[0] == work


def test_a_job_expires_so_long_after_it_might_have_run(admission: JobAdmission) -> None:
    (job,) = admission.make(replace(ASK, delay_s=60, expires_s=10), "any:f", WHO, [(b"", "")], 100.0, 1_000_000.0)
    assert (job.due, job.expires) == (160.0, 170.0)
    (job,) = admission.make(replace(ASK, at_s=1_000_060.0, expires_s=10), "any:f", WHO, [(b"", "")], 100.0, 1_000_000.0)
    assert (job.due, job.at_s, job.expires) == (0.0, 1_000_060.0, 170.0)


def test_arguments_are_the_same_however_they_are_written() -> None:
    assert digest("f", "any", b'{"a":1,"b":2}') == digest("f", "any", b'{ "b": 2, "a": 1 }')
    one = digest("f", "any", b'{"a":1}')
    assert one not in (digest("f", "any", b'{"a":2}'), digest("f", "all", b'{"a":1}'), digest("g", "any", b'{"a":1}'))


def test_a_job_keeps_the_role_that_it_was_asked_with(admission: JobAdmission) -> None:
    """A key that a worker carries is a client, whatever it is elsewhere: its jobs run with no more."""
    (job,) = admission.make(ASK, "any:f", Identity("k", "c", "admin"), [(b"", "")], 5.0, 6.0)
    (carried,) = admission.make(ASK, "any:f", Identity("k", "c", "client"), [(b"", "")], 5.0, 6.0)
    assert (job.role, carried.role) == ("admin", "client")


def test_arguments_that_are_no_json_have_a_digest_as_they_are() -> None:
    bodies = (b'{"a":"\xff"}', b"nonsense", b"[" * 40_000, b"")
    assert len({digest("f", "any", body) for body in bodies}) == len(bodies)
    assert digest("f", "any", b'{"a":1,"b":2}') == digest("f", "any", b'{"b": 2, "a": 1}')


def test_what_is_remembered_of_functions_is_bounded(admission: JobAdmission, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = Functions()
    functions.providers = {f"{number:0120}": {} for number in range(20_000)}
    monkeypatch.setattr(admission, "_functions", functions)
    assert admission.learn()
    assert len(admission.known) <= MAX_KNOWN
    assert len(json.encode(admission.known)) <= MAX_KNOWN_BYTES
    assert f"{19_999:0120}" in admission.known
