"""The master's side: which worker has to do with which tree, permits, and who is told again."""

from __future__ import annotations

import pytest
from machines import Bench, looked, opened

from zcluster.core.sync.declared import Declared
from zcluster.core.sync.effects import Open
from zcluster.core.sync.hub import MAX_WRONG_BEATS, STALLED_S, Hub
from zcluster.core.sync.sink import SinkLimits
from zcluster.core.sync.source import SourceLimits
from zcluster.errors import NoSuchNode, UsageError
from zcluster.wire.trees import Go, Order, Pull, Report, State, TreeInfo, TreeMessage, Trees

FILES = {"a": "1"}


def hub(bench: Bench, *, workers: str = "web*", pulls: int = 1) -> Hub:
    info = TreeInfo(tree="site")
    made = Hub(
        {"site": Declared(info, workers, info)}, bench.effects, SinkLimits(1 << 20, 1 << 16, 300.0),
        SourceLimits(3, 1 << 20, 1 << 16, 300.0), pulls, "master", 0.0,
    )  # fmt: skip
    bench.end(Open, opened(FILES, 4))
    return made


def up(bench: Bench, made: Hub, session: int, name: str) -> list[object]:
    made.session_up(session, name, 0.0)
    made.settle(0.0)
    return bench.messages()


def test_a_worker_is_told_of_its_trees_and_their_versions() -> None:
    bench = Bench()
    made = hub(bench)
    trees, state = up(bench, made, 7, "web-1")
    assert trees == Trees(epoch=3, chunk_bytes=1 << 16, window_bytes=1 << 20, trees=[TreeInfo(tree="site")])
    assert state == State(tree="site", version=4, epoch=3, root=looked(FILES).root.hex(), files=1, bytes=1)


def test_a_worker_without_trees_is_told_so_because_it_may_have_had_some() -> None:
    bench = Bench()
    assert up(bench, hub(bench), 7, "db-1") == [Trees(epoch=3, chunk_bytes=1 << 16, window_bytes=1 << 20)]


def test_what_a_worker_has_nothing_to_do_with_is_refused_and_counted() -> None:
    bench = Bench()
    made = hub(bench)
    up(bench, made, 7, "db-1")
    up(bench, made, 8, "web-1")
    bench.events()
    trees = Trees(epoch=3, chunk_bytes=1 << 16, window_bytes=1 << 20)
    wrong: list[tuple[int, TreeMessage]] = [
        (7, Pull(tree="site", version=4)), (8, Pull(tree="other", version=4)), (8, Order(tree="site", order="now")), (8, trees),
    ]  # fmt: skip
    for count, (session, message) in enumerate(wrong, 1):
        made.receive(session, message, b"", 1.0)
        made.settle(1.0)
        assert made.protocol_errors == count
        assert bench.events() == ["sync_protocol_error"]
    assert bench.messages() == []
    made.receive(99, Pull(tree="site", version=4), b"", 1.0)
    assert made.protocol_errors == 4


def test_permits_go_round_and_none_sticks() -> None:
    bench = Bench()
    made = hub(bench)
    for session in (1, 2, 3):
        up(bench, made, session, f"web-{session}")
    for session in (1, 2, 3):
        made.receive(session, Pull(tree="site", version=4), b"", 0.0)
        made.settle(0.0)
    bench.take()
    assert [say.session for say in bench.said if isinstance(say.message, Go)] == [1]
    bench.messages()
    made.session_down(1, 1.0)
    made.settle(1.0)
    bench.take()
    assert [say.session for say in bench.said if isinstance(say.message, Go)] == [2]
    bench.messages()
    made.receive(2, Report(tree="site", state="pulling", target=4), b"", 30.0)
    made.handle_deadline(1.0 + STALLED_S)
    made.settle(1.0 + STALLED_S)
    assert bench.messages() == []
    made.handle_deadline(30.0 + STALLED_S)
    made.settle(30.0 + STALLED_S)
    assert "pull_stalled" in bench.events()
    bench.take()
    assert [say.session for say in bench.said if isinstance(say.message, Go)] == [3]


def test_a_copy_that_reports_that_it_is_current_holds_no_permit() -> None:
    """Its FINISH was lost; every report renewed the permit, so that it stuck for ever."""
    bench = Bench()
    made = hub(bench)
    for session in (1, 2):
        up(bench, made, session, f"web-{session}")
    for session in (1, 2):
        made.receive(session, Pull(tree="site", version=4), b"", 0.0)
        made.settle(0.0)
    bench.messages()
    made.receive(1, Report(tree="site", state="current", version=4, target=4), b"", 1.0)
    made.settle(1.0)
    bench.take()
    assert [say.session for say in bench.said if isinstance(say.message, Go)] == [2]


def test_reports_of_a_copy_that_does_not_pull_do_not_renew_its_permit() -> None:
    bench = Bench()
    made = hub(bench)
    up(bench, made, 1, "web-1")
    made.receive(1, Pull(tree="site", version=4), b"", 0.0)
    made.settle(0.0)
    for at_s in range(10, 60, 10):
        made.receive(1, Report(tree="site", state="waiting", target=4), b"", float(at_s))
    made.handle_deadline(STALLED_S)
    assert "pull_stalled" in bench.events()


def test_a_worker_that_holds_something_else_twice_in_a_row_is_told_again() -> None:
    bench = Bench()
    made = hub(bench)
    up(bench, made, 7, "web-1")
    for _ in range(2):
        for _ in range(MAX_WRONG_BEATS - 1):
            made.beat(7, "wrong", 1.0)
            assert bench.messages() == []
        made.beat(7, "wrong", 2.0)
        assert [type(message) for message in bench.messages()] == [State]


def test_a_worker_that_has_heard_of_nothing_is_told_at_once() -> None:
    bench = Bench()
    made = hub(bench)
    up(bench, made, 7, "web-1")
    made.receive(7, Report(tree="site", state="waiting", target=4), b"", 1.0)
    assert bench.messages() == []
    made.receive(7, Report(tree="site", state="waiting"), b"", 1.0)
    assert [type(message) for message in bench.messages()] == [State]


def test_who_is_paused_is_told_and_others_are_not() -> None:
    bench = Bench()
    made = hub(bench)
    up(bench, made, 7, "web-1")
    up(bench, made, 8, "db-1")
    assert made.pause("site", "web-1", True, 1.0) == ["site"]
    (trees,) = bench.messages()
    assert trees.trees[0].paused
    assert made.is_paused("site", "web-1")
    assert not made.is_paused("site", "web-2")
    made.pause("site", "", False, 1.0)
    assert not made.is_paused("site", "web-1")


def test_what_is_not_held_cannot_be_confirmed() -> None:
    """A confirmation that lay ready would let the next wipe through."""
    bench = Bench()
    made = hub(bench)
    up(bench, made, 1, "web-1")
    with pytest.raises(UsageError, match="nothing is held"):
        made.confirm("site", "", 1.0)
    with pytest.raises(NoSuchNode, match="'nobody'"):
        made.confirm("site", "nobody", 1.0)
    made.receive(1, Report(tree="site", state="held", target=4, reason="too much would go"), b"", 1.0)
    assert made.confirm("site", "web-1", 2.0) == ["site"]
    assert Order(tree="site", order="confirm") in bench.messages()
