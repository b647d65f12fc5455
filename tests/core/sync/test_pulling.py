"""A pull from its GO to each of its ends: exactly one, and nothing after it."""

from __future__ import annotations

from typing import Any

import pytest
from machines import BROKEN, PLACE, Bench, looked
from treemodel import file

from zcluster.core.sync import bodies, pulling
from zcluster.core.sync.classify import classify
from zcluster.core.sync.effects import (
    Command,
    Commit,
    Committed,
    Compare,
    PlanChanges,
    Planned,
    PlanWalk,
    Put,
    Settle,
    Undo,
)
from zcluster.core.sync.entry import Change
from zcluster.core.sync.plan import Classes, Plan, make_plan
from zcluster.core.sync.pulling import ANSWER_S, Again, Applied, Broken, Compared, Distrusted, End, Pulling
from zcluster.core.sync.rules import Rules
from zcluster.errors import PeerError
from zcluster.wire.trees import Fetch, Go, List, Listing, Parcel, TreeInfo, TreeMessage

OLD = {"a": "old"}
NEW = {"a": "new!"}
HELD = (3, 1, looked(OLD).root)
ROLLBACK: dict[str, Any] = {"on_change": ["reload"], "rollback": True}


class Pull:
    """A pull of version 4 (NEW), by a copy that holds version 3 (OLD)."""

    def __init__(self, *, dry: bool = False, distrust: str = "", changes: bool = False, clean: bool = True, **info: Any) -> None:
        self.bench = Bench()
        self.said: list[tuple[TreeMessage, bytes]] = []
        self.steps: list[str] = []
        self.ends: list[End] = []
        told = TreeInfo(tree="t", **info)
        self.look = looked(OLD)
        self.it = Pulling(
            PLACE, told, Rules.of(told), 1 << 20, 1 << 16, self.bench.effects,
            Go(tree="t", version=4, epoch=1, root=looked(NEW).root.hex(), changes=changes), self.look, HELD, 10, 0.0, dry=dry,
            say=lambda message, body: self.said.append((message, body)),
            become=lambda step, words, now: self.steps.append(step),
            ended=lambda end, now: self.ends.append(end), judge=lambda plan: distrust, clean=clean,
        )  # fmt: skip
        self.it.start(0.0)

    def last(self) -> Any:
        return self.said[-1][0]

    def listing(self, **fields: Any) -> None:
        """Answer the LIST for the root."""
        question = self.last()
        assert isinstance(question, List)
        body = b"" if fields else bodies.listings_body([("", looked(NEW).mine[""])])
        defaults: dict[str, Any] = {"version": 4, "id": question.id, "last": True}
        self.it.answer(Listing(tree="t", raw_bytes=len(body), **defaults | fields), body, 0.0)

    def plan(self) -> Plan:
        return make_plan(classify(looked(NEW).mine, self.look.mine, Rules()), Rules())

    def planned(self) -> Pull:
        self.listing()
        plan = self.plan()
        self.bench.end(PlanWalk, Planned(plan, plan.fetch))
        return self

    def parcel(self, size: int = 4) -> None:
        question = self.last()
        assert isinstance(question, Fetch)
        body = b"x" * max(0, size)
        self.it.answer(Parcel(tree="t", id=question.id, raw_bytes=len(body), sizes=[size], last=True), body, 0.0)

    def fetched(self) -> Pull:
        self.planned().parcel()
        self.bench.end(Put, 4)
        return self

    def committed(self, files: dict[str, str] = NEW, **fields: Any) -> Pull:
        self.fetched()
        self.bench.end(Commit, Committed(looked(files), **fields))
        return self

    @property
    def end(self) -> End:
        (end,) = self.ends
        return end

    def error(self) -> str:
        assert isinstance(self.end, Broken)
        return str(self.end.error)


def test_applied_is_what_was_committed() -> None:
    pull = Pull()
    pull.fetched()
    assert pull.it.committing
    action = pull.bench.end(Commit, Committed(looked(NEW)))
    assert (action.version, action.epoch, action.root, action.undo) == (4, 1, looked(NEW).root, False)
    assert pull.end == Applied(looked(NEW), (4, 1, looked(NEW).root))
    assert pull.steps == ["walking", "planning", "fetching", "committing"]


def test_a_root_that_is_no_digest_is_the_source_s_fault_before_anything_begins() -> None:
    bench = Bench()
    with pytest.raises(PeerError, match="hexadecimal"):
        Pulling(
            PLACE, TreeInfo(tree="t"), Rules(), 1, 1, bench.effects, Go(tree="t", version=4, epoch=1, root="no"), looked(OLD),
            HELD, 0, 0.0, dry=False, say=lambda message, body: None, become=lambda step, words, now: None,
            ended=lambda end, now: None, judge=lambda plan: "", clean=True,
        )  # fmt: skip
    assert bench.actions() == []


# -- before the commit --------------------------------------------------------------------------------------------------


def test_again_when_the_source_has_gone_on() -> None:
    pull = Pull()
    pull.listing(failed="the version is gone")
    assert pull.end == Again()


@pytest.mark.parametrize("dry", [False, True])
def test_again_when_the_copy_was_changed_while_it_was_compared(dry: bool) -> None:
    pull = Pull(dry=dry)
    pull.listing()
    pull.bench.end(Compare if dry else PlanWalk, None)
    assert pull.end == Again()


def test_again_when_a_content_is_gone() -> None:
    pull = Pull().planned()
    pull.parcel(-1)
    pull.bench.end(Put, 0)
    assert pull.end == Again()
    assert pull.bench.actions() == []


def test_distrusted_is_not_fetched() -> None:
    pull = Pull(distrust="too many files go").planned()
    assert pull.end == Distrusted("too many files go")
    assert not any(isinstance(message, Fetch) for message, _ in pull.said)


def test_compared_is_what_differs_and_changes_nothing() -> None:
    pull = Pull(dry=True, changes=True)
    pull.listing()
    classes = Classes()
    pull.bench.end(Compare, classes)
    assert isinstance(pull.end, Compared)
    assert pull.end.classes is classes
    assert pull.bench.actions() == []


@pytest.mark.parametrize("kind", [Compare, PlanWalk, Put, Commit])
def test_broken_when_the_disk_fails(kind: type[object]) -> None:
    pull = Pull(dry=kind is Compare)
    if kind is Put:
        pull.planned().parcel()
    elif kind is Commit:
        pull.fetched()
    else:
        pull.listing()
    pull.bench.end(kind, BROKEN)
    assert pull.end == Broken(BROKEN)


# -- the commit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("errors", "words"), [(1, "a: no room"), (3, "a: no room (and 2 more)")])
def test_broken_when_not_all_could_be_applied_says_where(errors: int, words: str) -> None:
    pull = Pull().committed(OLD, errors=(("a", "no room"), ("b", "?"), ("c", "?"))[:errors])
    assert pull.error().startswith(words)
    assert isinstance(pull.end, Broken)
    assert pull.end.looked == looked(OLD)


@pytest.mark.parametrize("delete", [True, False])
def test_broken_when_it_is_not_the_version_that_is_there_now(delete: bool) -> None:
    pull = Pull(delete=delete).committed({"a": "???!"})
    assert "something here still differs" in pull.error()
    assert ("differs: a" in pull.error()) is not delete


@pytest.mark.parametrize("info", [{"extra_valid": ["own"]}, {"delete": False, "exclude": ["own"]}])
def test_what_a_copy_may_have_of_its_own_does_not_make_it_wrong(info: dict[str, Any]) -> None:
    pull = Pull(**info).committed({**NEW, "own": "file"})
    assert isinstance(pull.end, Applied)


@pytest.mark.parametrize("info", [{"extra_valid": ["own"]}, {"delete": False}])
def test_what_came_here_and_is_none_of_its_own_makes_it_wrong(info: dict[str, Any]) -> None:
    assert "differs: stray" in Pull(**info).committed({**NEW, "stray": "file"}).error()


# -- the command --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("result", "trouble"), [("", ""), ("ended with 3", "ended with 3"), (BROKEN, str(BROKEN))])
def test_a_command_s_trouble_is_told_and_the_version_stays(result: object, trouble: str) -> None:
    pull = Pull(on_change=["reload"], on_change_timeout_s=9.0).committed()
    assert pull.ends == []
    action = pull.bench.end(Command, result)
    assert (action.argv, action.timeout_s) == (("reload",), 9.0)
    said = f"its command failed: {trouble}" if trouble else ""
    assert pull.end == Applied(looked(NEW), (4, 1, looked(NEW).root), said)
    assert pull.bench.actions() == []


def test_a_command_is_not_run_when_nothing_was_to_be_done() -> None:
    pull = Pull(on_change=["reload"])
    pull.listing()
    pull.bench.end(PlanWalk, Planned(Plan(), []))
    pull.bench.end(Commit, Committed(looked(NEW)))
    assert pull.bench.actions() == []
    assert isinstance(pull.end, Applied)


def test_what_a_version_replaced_is_kept_for_its_command_and_then_let_go() -> None:
    pull = Pull(**ROLLBACK)
    pull.fetched()
    assert pull.bench.end(Commit, Committed(looked(NEW))).undo
    pull.bench.end(Command, "")
    pull.bench.end(Settle, None)
    assert pull.end == Applied(looked(NEW), (4, 1, looked(NEW).root))


def test_nothing_is_kept_where_there_is_no_command() -> None:
    pull = Pull(rollback=True)
    pull.fetched()
    assert not pull.bench.end(Commit, Committed(looked(NEW))).undo


@pytest.mark.parametrize("result", ["ended with 3", BROKEN])
def test_a_version_whose_command_failed_is_taken_back(result: object) -> None:
    pull = Pull(**ROLLBACK).committed()
    pull.bench.end(Command, result)
    assert pull.ends == []
    action = pull.bench.end(Undo, Committed(looked(OLD)))
    assert (action.version, action.epoch, action.root) == HELD
    assert isinstance(pull.end, Applied)
    assert (pull.end.looked, pull.end.held, pull.end.undone) == (looked(OLD), HELD, 4)
    assert str(result) in pull.end.trouble


def test_broken_when_it_cannot_be_taken_back() -> None:
    pull = Pull(**ROLLBACK).committed()
    pull.bench.end(Command, "no")
    pull.bench.end(Undo, BROKEN)
    assert pull.end == Broken(BROKEN)


def test_broken_when_not_all_could_be_taken_back() -> None:
    pull = Pull(**ROLLBACK).committed()
    pull.bench.end(Command, "no")
    pull.bench.end(Undo, Committed(looked(NEW), errors=(("a", "no room"),)))
    assert isinstance(pull.end, Broken), "the old version is not held: the copy is something between"
    assert "a: no room" in pull.error()
    assert pull.end.looked == looked(NEW)


# -- changes instead of a walk ------------------------------------------------------------------------------------------


def changes(pull: Pull, *found: Change, last: bool = True, **fields: Any) -> None:
    body = bodies.changes_body(list(found))
    pull.it.answer(Listing(tree="t", version=4, raw_bytes=len(body), last=last, **fields), body, 0.0)


def change(path: str) -> Change:
    digest = looked({path: "x"}).root[:16]
    entry = file(path, "x")
    return Change(path, None, type(entry)(entry.name, entry.kind, 1, 0, 0o644, digest))


def test_changes_are_taken_in_parts_and_planned_with_the_last() -> None:
    pull = Pull(changes=True)
    assert pull.said == []
    changes(pull, change("b"), last=False)
    assert pull.bench.actions() == []
    changes(pull, change("c"))
    assert pull.bench.actions() == [PlanChanges(PLACE, [change("b"), change("c")])]
    assert not pull.it.waits


def test_changes_that_do_not_start_from_what_is_here_are_dropped_for_a_walk() -> None:
    pull = Pull(changes=True)
    changes(pull, change("b"))
    pull.bench.end(PlanChanges, None)
    assert pull.ends == []
    assert isinstance(pull.last(), List)
    pull.planned()
    assert isinstance(pull.last(), Fetch)


@pytest.mark.parametrize("fields", [{"dry": True}, {"clean": False}])
def test_a_copy_that_is_not_what_was_left_is_walked_and_changes_are_not_heard(fields: dict[str, Any]) -> None:
    pull = Pull(changes=True, **fields)
    assert isinstance(pull.last(), List)
    changes(pull, change("b"))
    assert pull.bench.actions() == []


@pytest.mark.parametrize("beyond", [0, 1])
def test_changes_are_bounded(beyond: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "MAX_CHANGES", 3)
    pull = Pull(changes=True)
    changes(pull, change("b"), change("c"), last=False)
    more = [change(f"d{number}") for number in range(1 + beyond)]
    if beyond:
        with pytest.raises(PeerError, match="more than 3 changes"):
            changes(pull, *more)
    else:
        changes(pull, *more)
        assert len(pull.bench.actions()) == 1


# -- late, twice, stopped -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"id": 10}, {"id": 12}, {"version": 3}, {"id": 0}])
def test_an_answer_to_another_question_has_no_effect(fields: dict[str, Any]) -> None:
    pull = Pull()
    pull.listing(failed="of another one", **fields)
    assert pull.ends == []


def test_an_answer_that_comes_twice_has_no_effect() -> None:
    pull = Pull()
    pull.listing()
    pull.listing(failed="late")
    pull.bench.end(PlanWalk, Planned(pull.plan(), pull.plan().fetch))
    pull.it.answer(Listing(tree="t", version=4, id=11, raw_bytes=0, last=True, failed="later"), b"", 0.0)
    assert pull.ends == []


@pytest.mark.parametrize("kind", [PlanWalk, Put, Commit])
def test_what_ends_after_it_was_stopped_has_no_effect(kind: type[object]) -> None:
    pull = Pull()
    result: object = Planned(pull.plan(), pull.plan().fetch)
    if kind is PlanWalk:
        pull.listing()
    elif kind is Put:
        pull.planned().parcel()
    else:
        pull.fetched()
        result = Committed(looked(NEW))
    said = len(pull.said)
    pull.it.stop()
    pull.bench.end(kind, result)
    assert (len(pull.said), pull.ends, pull.bench.actions()) == (said, [], [])


def test_its_last_id_is_that_of_its_last_question() -> None:
    pull = Pull().planned()
    pull.it.stop()
    assert pull.it.last_id == pull.last().id == 12


def test_the_source_is_not_waited_for_while_the_disk_works() -> None:
    pull = Pull()
    assert pull.it.waits
    pull.listing()
    assert not pull.it.waits
    pull.it.handle_deadline(500.0)
    assert pull.it.next_deadline() == 500.0 + ANSWER_S
