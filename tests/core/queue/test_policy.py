"""How much may be queued: each bound, and one beyond."""

from __future__ import annotations

import pytest
from queuerig import FakeNode, Rig, job

from zcluster.core.queue import submissions
from zcluster.core.queue.policy import MAX_WAITING_JOBS, Policy, Usage
from zcluster.errors import Busy, Draining, StoreFailed
from zcluster.store.jobs import MAX_BATCH_JOBS


@pytest.mark.parametrize(
    ("jobs", "size", "hint"), [(5, 0, ""), (6, 0, "queue.jobs_per_key"), (1, 60, ""), (1, 61, "queue.jobs_bytes")]
)
def test_each_bound_and_one_beyond(jobs: int, size: int, hint: str) -> None:
    usage = Usage({"a": (5, 30), "b": (3, 10)})
    found = usage.check(Policy(jobs=100, jobs_per_key=10, jobs_bytes=100), "a", jobs, size)
    assert hint in (found.hint if found else "")
    assert (found is None) == (not hint)


def test_the_whole_queue_is_bounded_too() -> None:
    usage = Usage({"a": (5, 30), "b": (3, 10)})
    policy = Policy(jobs=10)
    assert usage.check(policy, "c", 2, 0) is None
    found = usage.check(policy, "c", 3, 0)
    assert isinstance(found, Busy)
    assert found.retry_after_s


def test_keys_without_jobs_are_forgotten() -> None:
    usage = Usage({"a": (1, 5), "b": (0, 0)})
    usage.add("c", 2, 8)
    usage.add("a", -1, -5)
    usage.add("c", -1, -8)
    assert (usage.by_key, usage.jobs, usage.bytes) == ({"c": [1, 0]}, 1, 0)


def test_submissions_that_wait_for_the_disk_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "MAX_WAITING_JOBS", 5)
    monkeypatch.setattr(submissions, "MAX_WAITING_BYTES", 100)
    rig = Rig()
    assert rig.queue.refusal("k", 1, 1000) is None, "one that is large may wait alone"
    rig.submit(job(), job(), job(body=b"x" * 90))
    assert rig.queue.refusal("k", 2, 0) is None
    assert isinstance(rig.queue.refusal("k", 3, 0), Busy)
    assert rig.queue.refusal("k", 1, 6) is None
    assert isinstance(rig.queue.refusal("k", 1, 7), Busy)
    rig.settle()
    assert rig.queue.refusal("k", 5, 100) is None


def test_a_fan_out_of_any_size_goes_into_one_batch() -> None:
    assert MAX_BATCH_JOBS > 10_000
    assert MAX_WAITING_JOBS >= MAX_BATCH_JOBS


def test_a_queue_that_drains_or_rests_or_cannot_write_takes_nothing() -> None:
    rig = Rig(FakeNode("w1"))
    rig.queue.draining = True
    assert isinstance(rig.queue.refusal("k", 1, 0), Draining)
    rig.queue.draining, rig.queue.resting = False, True
    assert isinstance(rig.queue.refusal("k", 1, 0), Draining)
    rig.queue.resting, rig.queue.read_only = False, "no space"
    assert isinstance(rig.queue.refusal("k", 1, 0), StoreFailed)
