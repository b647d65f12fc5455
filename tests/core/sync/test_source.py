"""The source of a tree: what it publishes, holds back, and when it looks."""

from __future__ import annotations

from typing import Any

import pytest
from machines import BROKEN, PLACE, Bench, looked, opened

from zcluster.core.sync.classify import differences
from zcluster.core.sync.effects import Differ, Look, Number, Open, Record
from zcluster.core.sync.entry import Differences
from zcluster.core.sync.source import MAX_REST_S, RECHECK_S, RECORD_AFTER_S, RECORD_BY_S, REST, RETRY_S, Source, SourceLimits
from zcluster.wire.trees import Pull, State, TreeInfo

FILES = {"a": "1", "b": "22"}
LIMITS = SourceLimits(epoch=3, window_bytes=1 << 20, chunk_bytes=1 << 16, scan_s=300.0)


def source(bench: Bench, **fields: Any) -> Source:
    made = Source(
        PLACE, TreeInfo(tree="t"), bench.effects, LIMITS, 0.0,
        ask_permit=lambda place, session, now: made.serving.grant(session, now), release_permit=lambda *_: None, **fields,
    )  # fmt: skip
    made.listen(7)
    return made


def differ(bench: Bench, made: Source, now: float = 0.0) -> None:
    """End the comparison, wherever one is being done, with what it finds."""
    for action in bench.actions():
        if isinstance(action, Differ):
            bench.end(Differ, differences(action.before, action.after), now)


def published(bench: Bench, files: dict[str, str] = FILES, number: int = 1) -> Source:
    """A source that has just published ``files``."""
    made = source(bench)
    bench.end(Open, opened(files))
    differ(bench, made)
    bench.end(Number, number)
    bench.messages()
    bench.events()
    return made


def recorded(bench: Bench, files: dict[str, str] = FILES) -> Source:
    """The same, and it is kept for rollback."""
    made = published(bench, files)
    made.handle_deadline(RECORD_AFTER_S)
    bench.end(Record, "", RECORD_AFTER_S)
    return made


def look(bench: Bench, made: Source, files: dict[str, str], now: float, number: int = 2, **fields: Any) -> None:
    """A hint, and what the look that it leads to finds; a version is numbered, if it comes to that."""
    made.hint(None, now)
    made.handle_deadline(now)
    bench.end(Look, looked(files, **fields), now)
    differ(bench, made, now)
    if any(isinstance(action, Number) for action in bench.actions()):
        bench.end(Number, number, now)


def test_a_version_is_announced_when_its_number_is_durable_and_not_before() -> None:
    bench = Bench()
    made = source(bench)
    bench.end(Open, opened(FILES))
    differ(bench, made)
    (number,) = bench.actions()
    assert (number.added, number.changed, number.removed, number.floor, number.cause) == (2, 0, 0, 0, "change")
    assert bench.messages() == []
    assert made.version == 0
    bench.end(Number, 5, 1.0)
    root = looked(FILES).root.hex()
    assert bench.messages() == [State(tree="t", version=5, epoch=3, root=root, files=2, bytes=3)]
    assert bench.events() == ["tree_version"]


def test_what_was_published_before_a_restart_and_is_still_so_gets_no_new_number() -> None:
    bench = Bench()
    made = source(bench)
    bench.end(Open, opened(FILES, 9))
    assert bench.actions() == []
    assert bench.last(State).version == made.version == 9


def test_a_new_number_is_above_all_that_anyone_has_seen() -> None:
    bench = Bench()
    made = source(bench, floor=40)
    bench.end(Open, opened(FILES))
    differ(bench, made)
    assert bench.end(Number, 41).floor == 40
    look(bench, made, {"a": "1", "b": "3"}, 100.0, 42)
    assert made.version == 42


def test_a_place_that_cannot_be_opened_is_held_and_tried_again_and_costs_nothing_meanwhile() -> None:
    bench = Bench()
    made = source(bench)
    now = 0.0
    for _ in range(3):
        bench.end(Open, BROKEN, now)
        assert bench.actions() == []
        assert "the disk is gone" in made.held
        assert made.next_deadline() == now + RETRY_S
        made.hint(None, now)
        assert made.next_deadline() == now + RETRY_S
        made.handle_deadline(now + RETRY_S / 2)
        assert bench.actions() == []
        now = made.next_deadline()
        made.handle_deadline(now)
    assert bench.events() == ["tree_held"]
    bench.end(Open, opened(FILES), now)
    bench.end(Look, looked(FILES), now)
    differ(bench, made, now)
    bench.end(Number, 1, now)
    assert (made.version, made.held) == (1, "")


def test_what_a_guard_does_not_trust_is_held_until_someone_confirms_it() -> None:
    bench = Bench()
    made = published(bench)
    look(bench, made, {}, 100.0)
    assert made.version == 1
    assert "suddenly empty" in bench.last(State).held
    assert bench.events() == ["tree_held"]
    made.confirm(200.0)
    made.handle_deadline(200.0)
    bench.end(Look, looked({}), 200.0)
    differ(bench, made, 200.0)
    bench.end(Number, 2, 200.0)
    assert bench.last(State) == State(tree="t", version=2, epoch=3, root=looked({}).root.hex())


@pytest.mark.parametrize("left", [0, 7])
def test_a_look_that_could_not_see_everything_is_guarded_too(left: int) -> None:
    bench = Bench()
    files = {f"f{number:02}": "x" for number in range(20)}
    made = published(bench, files)
    kept = dict(list(files.items())[:left])
    look(bench, made, kept, 100.0, complete=False)
    assert made.version == 1
    assert ("suddenly empty" if not left else "13 of 20 files would go") in made.held


def test_a_hold_ends_when_it_is_right_again() -> None:
    bench = Bench()
    made = published(bench)
    look(bench, made, {}, 100.0)
    bench.messages()
    look(bench, made, FILES, 200.0)
    assert (made.version, made.held) == (1, "")
    assert bench.last(State).held == ""


def test_a_confirmation_stands_for_one_version_only() -> None:
    bench = Bench()
    made = published(bench)
    made.confirm(100.0)
    made.handle_deadline(100.0)
    bench.end(Look, looked({**FILES, "c": "3"}), 100.0)
    differ(bench, made, 100.0)
    bench.end(Number, 2, 100.0)
    look(bench, made, {}, 200.0)
    assert "suddenly empty" in made.held


@pytest.mark.parametrize(("took_s", "rest_s"), [(0.5, 1.0), (1.0, MAX_REST_S), (10.0, MAX_REST_S)])
def test_a_busy_tree_leaves_the_node_time(took_s: float, rest_s: float) -> None:
    bench = Bench()
    made = recorded(bench)
    made.hint(None, 100.0)
    bench.end(Look, looked(FILES), 100.0 + took_s)
    made.hint(None, 100.0 + took_s)
    assert bench.actions() == []
    due = made.next_deadline()
    assert due == pytest.approx(100.0 + took_s + min(REST * took_s, rest_s))
    made.handle_deadline(due)
    assert [type(action) for action in bench.actions()] == [Look]


def test_hints_while_a_look_runs_are_kept_for_the_next_one() -> None:
    bench = Bench()
    made = recorded(bench)
    made.hint(frozenset({"x"}), 100.0)
    made.hint(frozenset({"y"}), 100.0)
    made.hint(frozenset({"z"}), 100.0)
    assert bench.end(Look, looked(FILES), 100.0).dirty == frozenset("x")
    made.handle_deadline(made.next_deadline())
    assert bench.end(Look, looked(FILES), 101.0).dirty == frozenset("yz")


def test_files_that_are_too_young_are_looked_at_again() -> None:
    bench = Bench()
    made = recorded(bench)
    look(bench, made, FILES, 100.0, unsettled=frozenset({"d"}))
    due = made.next_deadline()
    assert due == pytest.approx(100.0 + RECHECK_S)
    made.handle_deadline(due)
    assert bench.end(Look, looked(FILES), due).dirty == frozenset("d")


def test_everything_is_looked_at_once_in_a_while() -> None:
    bench = Bench()
    made = recorded(bench)
    made.handle_deadline(299.9)
    assert bench.actions() == []
    made.handle_deadline(300.0)
    assert bench.end(Look, looked(FILES), 300.0).dirty is None
    assert made.next_deadline() <= 600.0


def test_who_asks_for_a_look_hears_of_one_that_began_after_that() -> None:
    bench, ended = Bench(), list[float]()
    made = published(bench)
    made.hint(frozenset({"x"}), 100.0)
    made.look_now(ended.append, 100.0)
    bench.end(Look, looked(FILES), 101.0)
    assert ended == []
    bench.end(Look, looked({**FILES, "c": "3"}), 102.0)
    differ(bench, made, 102.0)
    assert ended == []
    bench.end(Number, 2, 103.0)
    assert ended == [103.0]


def test_who_asks_for_a_look_at_what_is_not_open_is_answered() -> None:
    bench, ended = Bench(), list[float]()
    made = source(bench)
    bench.end(Open, BROKEN, 1.0)
    made.look_now(ended.append, 2.0)
    assert ended == [2.0]
    made.handle_deadline(2.0)
    assert [type(action) for action in bench.actions()] == [Open]


def test_a_restored_version_says_so_and_needs_no_confirmation() -> None:
    bench, ended = Bench(), list[float]()
    made = published(bench, {str(number): "x" for number in range(30)})
    made.restored(1, ended.append, 100.0)
    bench.end(Look, looked({"0": "x"}), 100.0)
    differ(bench, made, 100.0)
    number = bench.end(Number, 2, 100.0)
    assert (number.cause, number.of, number.removed) == ("rollback", 1, 29)
    assert ended == [100.0]
    look(bench, made, {"0": "y"}, 200.0, 3)
    assert made.version == 3


def test_versions_are_recorded_when_nobody_pulls_or_at_last_after_a_while() -> None:
    bench = Bench()
    made = published(bench)
    made.handle_deadline(RECORD_AFTER_S - 0.01)
    assert bench.actions() == []
    made.serving.pull(7, Pull(tree="t", version=1), 0.2)
    now = RECORD_AFTER_S
    while now < RECORD_BY_S:
        made.handle_deadline(now)
        assert bench.actions() == []
        now = made.next_deadline()
    made.handle_deadline(now)
    record = bench.end(Record, "", now)
    assert (record.number, record.changes) == (1, None)


def test_a_version_that_cannot_be_numbered_is_held_and_tried_again() -> None:
    bench = Bench()
    made = source(bench)
    bench.end(Open, opened(FILES))
    differ(bench, made)
    bench.end(Number, BROKEN, 1.0)
    assert "the disk is gone" in made.held
    assert made.version == 0
    assert made.next_deadline() <= 1.0 + RETRY_S


@pytest.mark.parametrize("kind", [Open, Look, Differ, Number])
def test_a_closed_source_decides_nothing_any_more(kind: Any) -> None:
    bench, ended = Bench(), list[float]()
    made = source(bench)
    if kind is not Open:
        bench.end(Open, opened(FILES, 1))
        made.look_now(ended.append, 100.0)
    if kind in (Differ, Number):
        bench.end(Look, looked({"a": "1"}), 100.0)
    if kind is Number:
        differ(bench, made, 100.0)
    bench.messages()
    made.close()
    result = {Open: opened(FILES), Look: looked({"a": "1"}), Differ: Differences(0, 0, 0, []), Number: 2}[kind]
    bench.end(kind, result, 101.0)
    assert bench.actions() == []
    assert bench.messages() == []
    assert bench.events() == []
    assert ended == ([] if kind is Open else [0.0])
