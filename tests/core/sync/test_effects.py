"""Effects: taken once, in order; each action's end comes back once."""

from __future__ import annotations

from zcluster.core.sync.effects import Close, Do, Effects, Say, Tell, failed
from zcluster.errors import ZClusterError
from zcluster.wire.trees import Finish

CLOSE = Close(("t", ""))


def test_effects_are_taken_once_and_in_order() -> None:
    effects = Effects()
    effects.say(7, Finish(tree="t", version=1), b"x")
    effects.do("lane", CLOSE, lambda result, now: None)
    effects.tell("event", "warning", tree="t")
    assert effects.take() == [
        Say(7, Finish(tree="t", version=1), b"x"), Do(1, "lane", CLOSE), Tell("event", {"tree": "t"}, "warning"),
    ]  # fmt: skip
    assert effects.take() == []


def test_each_end_comes_back_once_to_who_asked() -> None:
    effects, ended = Effects(), list[tuple[object, float]]()
    for _ in range(2):
        effects.do("lane", CLOSE, lambda result, now: ended.append((result, now)))
    assert effects.open_jobs == 2
    effects.done(2, "second", 5.0)
    effects.done(2, "again", 6.0)
    effects.done(99, "never asked", 6.0)
    assert ended == [("second", 5.0)]
    assert effects.open_jobs == 1


def test_an_end_may_want_more_done() -> None:
    effects = Effects()
    effects.do("lane", CLOSE, lambda result, now: effects.do("lane", CLOSE, lambda result, now: None))
    effects.take()
    effects.done(1, None, 0.0)
    assert effects.take() == [Do(2, "lane", CLOSE)]


def test_only_an_error_of_ours_is_one() -> None:
    error = ZClusterError("no")
    assert failed(error) is error
    assert failed("no") is None
    assert failed(None) is None
