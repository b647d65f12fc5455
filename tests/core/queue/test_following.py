"""Who is told how jobs end, and for how long the latest are remembered."""

from __future__ import annotations

import pytest
from queuerig import Owner, Rig, job

from zcluster.core.queue import following
from zcluster.core.queue.following import Following, may_see
from zcluster.core.queue.job import Job


def ended(number: int, result: bytes = b"1") -> Job:
    one = job(result=result)
    one.number = number
    return one


def test_a_follower_is_told_once_and_then_forgotten() -> None:
    them, one, two = Following(), Owner(), Owner()
    them.follow(one, 1)
    them.follow(one, 1)
    them.follow(two, 1)
    them.follow(one, 2)
    assert (them.count(one), them.count(two), them.followed) == (2, 1, 2)
    assert list(them.ended(ended(1))) == [one, two]
    assert list(them.ended(ended(1))) == []
    assert (them.count(one), them.count(two), them.followed) == (1, 0, 1)


def test_who_is_gone_or_no_longer_wants_it_is_not_told() -> None:
    them, one, two = Following(), Owner(), Owner()
    for number in (1, 2):
        them.follow(one, number)
        them.follow(two, number)
    them.gone(one)
    them.gone(one)
    them.unfollow(two, [2, 7])
    assert list(them.ended(ended(1))) == [two]
    assert list(them.ended(ended(2))) == []
    assert them.followed == 0


@pytest.mark.parametrize(("name", "limit"), [("RECENT_JOBS", 2), ("RECENT_BYTES", 8)])
def test_the_latest_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch, name: str, limit: int) -> None:
    monkeypatch.setattr(following, name, limit)
    them = Following()
    for number in (1, 2):
        them.ended(ended(number, b"1234"))
    assert them.recent(1) is not None
    them.ended(ended(3, b"1234"))
    assert (them.recent(1), them.recent(2) is None, them.recent(3) is None) == (None, False, False)
    them.forget(2)
    them.forget(2)
    them.ended(ended(4, b"1234"))
    assert them.recent(3) is not None


def test_large_results_are_not_remembered() -> None:
    them = Following()
    them.ended(ended(1, b"x" * following.RECENT_RESULT_BYTES))
    them.ended(ended(2, b"x" * (following.RECENT_RESULT_BYTES + 1)))
    assert (them.recent(1) is not None, them.recent(2)) == (True, None)


@pytest.mark.parametrize(("key", "admin", "sees"), [("key-c", False, True), ("other", False, False), ("other", True, True)])
def test_a_key_sees_its_own_jobs(key: str, admin: bool, sees: bool) -> None:
    assert may_see(key, admin, job()) == sees
    rig = Rig()
    rig.submit(job())
    rig.settle()
    rig.end(1)
    rig.settle()
    rig.order("follow", 1, Owner(key, admin))
    rig.queue.following.forget(1)
    rig.order("follow", 1, Owner(key, admin))
    rig.settle()
    rig.tell()
    assert (len(rig.outcomes), len(rig.unknown)) == ((2, 0) if sees else (0, 2))


def test_followers_of_jobs_that_run_that_ended_and_that_are_not_there() -> None:
    rig = Rig()
    rig.submit(job(), job())
    rig.settle()
    rig.order("follow", 1)
    rig.end(1)
    rig.order("follow", 1)  # it has ended, and that is not on disk
    assert rig.outcomes == []
    rig.settle()
    assert rig.outcomes == [(1, "done")]
    rig.order("follow", 1)  # from memory
    rig.order("follow", 99)
    rig.settle()
    rig.tell()
    assert (rig.outcomes, rig.unknown) == ([(1, "done")] * 2, [99])
    rig.restart()
    rig.order("follow", 1)  # from the store
    rig.settle()
    assert rig.outcomes == [(1, "done")] * 3


def test_a_follower_of_a_submission_that_is_refused_is_told_that_there_is_no_such_job() -> None:
    rig = Rig()
    rig.submit(job())
    rig.order("follow", 1)
    batch = rig.take()
    assert batch is not None
    rig.fail(batch)
    rig.wait(2.0)
    assert (rig.unknown, rig.queue.following.followed, rig.owner.refused_) == ([1], 0, {1: "store_failed"})
