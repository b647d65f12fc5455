"""The sink of a tree: when it pulls, what it reports, and how it goes on after what went wrong."""

from __future__ import annotations

from typing import Any

import pytest
from machines import BROKEN, PLACE, Bench, looked, opened

from zcluster.core.sync import bodies
from zcluster.core.sync.classify import classify
from zcluster.core.sync.effects import (
    Command,
    Commit,
    Committed,
    Compare,
    Look,
    Open,
    Planned,
    PlanWalk,
    Put,
    Settle,
    Undo,
)
from zcluster.core.sync.plan import Classes, make_plan
from zcluster.core.sync.pulling import ANSWER_S
from zcluster.core.sync.retrying import FIRST_AGAIN_S, FIRST_RETRY_S, MAX_RETRY_S
from zcluster.core.sync.rules import Rules
from zcluster.core.sync.sink import Sink, SinkLimits
from zcluster.core.sync.sinkreport import REPORT_EVERY_S
from zcluster.errors import PeerError, Unreachable
from zcluster.wire.trees import Fetch, Finish, Go, List, Listing, Parcel, Pull, Report, State, TreeInfo

LIMITS = SinkLimits(window_bytes=1 << 20, chunk_bytes=1 << 16, scan_s=300.0)
FILES = {"a": "1", "d/b": "22"}
COMMAND: dict[str, Any] = {"on_change": ["reload"]}


class Copy:
    """A sink, and the source's side of its messages."""

    def __init__(self, *, permit: bool = False, **info: Any) -> None:
        self.bench = Bench()
        self.reports: list[Report] = []
        self.asked: list[float] = []
        self.released: list[float] = []
        self.sink = Sink(
            PLACE, TreeInfo(tree="t", **info), self.bench.effects, LIMITS, 0.0,
            report=lambda report, now: self.reports.append(report),
            permit=(lambda place, now: self.asked.append(now)) if permit else None,
            release=(lambda place, now: self.released.append(now)) if permit else None,
        )  # fmt: skip

    def up(self, files: dict[str, str] | None = None, version: int = 0) -> Copy:
        """It is open, holds these files, and can reach its source."""
        self.bench.end(Open, opened(files or {}, version))
        self.sink.session_up(5, 0.0)
        return self

    def hear(self, files: dict[str, str] = FILES, version: int = 1, now: float = 0.0) -> Copy:
        look = looked(files)
        self.sink.heard(State(tree="t", version=version, epoch=1, root=look.root.hex(), files=len(files), bytes=look.bytes), now)
        return self

    def go(self, files: dict[str, str] = FILES, version: int = 1, now: float = 0.0) -> Copy:
        """GO, and all listings that it asks for; ends with the plan being made, or the comparison."""
        self.bench.last(Pull)
        mine = looked(files).mine
        self.sink.go(Go(tree="t", version=version, epoch=1, root=looked(files).root.hex()), now)
        self.bench.take()
        while asked := [say for say in self.bench.said if isinstance(say.message, List)]:
            self.bench.said = []
            message = asked[-1].message
            assert isinstance(message, List)
            listings = [(path, mine[path]) for path in bodies.read_paths(asked[-1].body)]
            body = bodies.listings_body(listings)
            self.sink.answer(Listing(tree="t", version=version, id=message.id, raw_bytes=len(body), last=True), body, now)
            self.bench.take()
        return self

    def plan(self, now: float = 0.0) -> Copy:
        """End the planning: everything has to be fetched."""
        action = next(action for action in self.bench.actions() if isinstance(action, PlanWalk))
        here = self.sink.looked
        assert here is not None
        plan = make_plan(classify(action.theirs, here.mine, Rules()), Rules())
        self.bench.end(PlanWalk, Planned(plan, plan.fetch), now)
        return self

    def fetched(self, now: float = 0.0) -> Copy:
        """Answer what it fetches."""
        fetch = self.bench.last(Fetch)
        self.bench.take()
        count = self.sink.report(now).files_behind
        sizes = [1, 2][:count] if count == 2 else [1] * count
        self.sink.answer(Parcel(tree="t", id=fetch.id, raw_bytes=sum(sizes), sizes=sizes, last=True), b"x" * sum(sizes), now)
        self.bench.end(Put, sum(sizes), now)
        return self

    def commit(self, files: dict[str, str] = FILES, now: float = 0.0, **fields: Any) -> Copy:
        self.bench.end(Commit, Committed(looked(files), **fields), now)
        return self

    def state(self, now: float = 0.0) -> tuple[str, str]:
        report = self.sink.report(now)
        return report.state, report.reason or report.error


def test_a_version_comes_step_by_step_and_is_held_when_its_commit_has_ended() -> None:
    copy = Copy().up()
    assert copy.state() == ("waiting", "the source has published nothing yet")
    copy.hear()
    assert copy.state()[0] == "waiting"
    copy.go()
    copy.plan()
    assert copy.state()[0] == "pulling"
    report = copy.sink.report(0.0)
    assert (report.files_behind, report.bytes_behind, report.target) == (2, 3, 1)
    copy.fetched()
    assert copy.state()[0] == "applying"
    assert not copy.sink.report(0.0).clean
    assert not any(isinstance(message, Finish) for message in copy.bench.messages())
    copy.commit(now=2.0)
    assert copy.bench.messages() == [Finish(tree="t", version=1)]
    report = copy.sink.report(5.0)
    assert (report.state, report.version, report.clean, report.age_s) == ("current", 1, True, 3.0)
    assert copy.bench.events() == ["tree_applied"]
    assert [each.state for each in copy.reports][-1] == "current"


def test_a_copy_that_is_current_after_a_restart_asks_for_nothing() -> None:
    copy = Copy().up(FILES, 1).hear()
    assert copy.bench.messages() == []
    assert copy.state() == ("current", "")


def test_what_was_changed_here_is_not_said_to_be_held() -> None:
    copy = Copy().up(FILES, 1).hear()
    copy.sink.hint(frozenset({""}), 1.0)
    copy.bench.end(Look, looked({"a": "changed", "d/b": "22"}), 1.0)
    pull = copy.bench.last(Pull)
    assert (pull.have, pull.have_root) == (0, "")
    assert not copy.sink.report(1.0).clean


def test_a_newer_version_names_what_is_held() -> None:
    copy = Copy().up(FILES, 1).hear({"a": "2"}, 2)
    pull = copy.bench.last(Pull)
    assert (pull.version, pull.have, pull.have_root) == (2, 1, looked(FILES).root.hex())


def test_a_pull_waits_for_its_permit_and_gives_it_back() -> None:
    copy = Copy(permit=True).up().hear()
    assert copy.asked == [0.0]
    assert copy.bench.messages() == []
    copy.sink.permitted(1.0)
    copy.go().plan().fetched().commit(now=3.0)
    assert copy.released == [3.0]
    copy.sink.permitted(4.0)
    assert copy.released == [3.0, 4.0]


def test_a_failure_is_tried_again_with_growing_pauses() -> None:
    copy, now, pauses = Copy().up().hear(), 0.0, []
    for _ in range(9):
        copy.sink.fail(PeerError("wrong"), now)
        assert copy.state()[0] == "failed"
        due = copy.sink.next_deadline()
        pauses.append(due - now)
        copy.sink.handle_deadline(due - 0.01)
        assert copy.state()[0] == "failed"
        now = due
        copy.sink.handle_deadline(now)
        assert copy.bench.last(Pull).version == 1
    assert pauses == [min(MAX_RETRY_S, FIRST_RETRY_S * 2**number) for number in range(9)]


@pytest.mark.parametrize("how", ["newer", "order"])
def test_something_newer_or_someone_s_word_ends_the_pause(how: str) -> None:
    copy = Copy().up().hear()
    copy.sink.fail(PeerError("wrong"), 0.0)
    copy.bench.messages()
    if how == "newer":
        copy.hear({"a": "2"}, 2, 0.1)
    else:
        copy.sink.order(False, 0.1)
    assert copy.bench.last(Pull)


def test_a_place_that_cannot_be_opened_is_tried_again() -> None:
    copy = Copy()
    copy.bench.end(Open, BROKEN, 0.0)
    assert copy.state() == ("failed", str(BROKEN))
    copy.sink.session_up(5, 0.0)
    copy.hear()
    assert copy.bench.actions() == []
    assert copy.sink.next_deadline() == FIRST_RETRY_S
    copy.sink.handle_deadline(FIRST_RETRY_S)
    copy.bench.end(Open, opened({}), 1.0)
    assert copy.bench.last(Pull)


@pytest.mark.parametrize("state", ["asked", "walking", "planning", "fetching"])
def test_a_lost_session_ends_a_pull_and_the_next_one_begins_anew(state: str) -> None:
    copy = Copy().up().hear()
    if state == "walking":
        copy.bench.messages()
        copy.sink.go(Go(tree="t", version=1, epoch=1, root=looked(FILES).root.hex()), 0.0)
    elif state != "asked":
        copy.go()
        if state == "fetching":
            copy.plan()
    assert copy.sink.state == state
    copy.bench.messages()
    copy.sink.session_down(1.0)
    assert copy.sink.state == "idle"
    assert copy.bench.messages() == []
    copy.sink.session_up(6, 2.0)
    assert copy.bench.last(Pull)


def test_a_commit_goes_on_without_a_session_and_is_told_in_the_next_one() -> None:
    copy = Copy().up().hear().go().plan().fetched()
    copy.sink.session_down(1.0)
    copy.sink.fail(PeerError("late"), 1.0)
    copy.commit(now=2.0)
    assert copy.sink.version == 1
    copy.sink.session_up(6, 3.0)
    assert copy.reports[-1].version == 1


@pytest.mark.parametrize("beyond", [False, True])
def test_a_source_that_does_not_answer_is_given_up(beyond: bool) -> None:
    copy = Copy().up().hear().go().plan()
    copy.bench.messages()
    now = ANSWER_S if beyond else ANSWER_S - 0.1
    copy.sink.handle_deadline(now)
    assert copy.state(now)[0] == ("failed" if beyond else "pulling")
    assert bool(copy.bench.messages()) is beyond


def test_a_source_is_not_given_up_while_this_node_s_disk_takes_its_time() -> None:
    copy = Copy().up().hear().go()
    now = 0.0
    while now < 5 * ANSWER_S:
        now = min(copy.sink.next_deadline(), now + 10)
        copy.sink.handle_deadline(now)
        copy.sink.stalled(now)
    assert copy.sink.state == "planning"
    copy.plan(now)
    copy.sink.handle_deadline(now + ANSWER_S - 0.1)
    assert copy.sink.state == "fetching"
    copy.sink.handle_deadline(now + ANSWER_S)
    assert copy.sink.state == "failed"


def test_who_waits_for_the_source_may_be_stalled() -> None:
    copy = Copy().up().hear()
    copy.sink.stalled(1.0)
    assert copy.sink.state == "failed"
    copy = Copy().up(FILES, 1).hear()
    copy.sink.stalled(1.0)
    assert copy.state() == ("current", "")


def test_contents_that_are_gone_are_pulled_again_at_once_and_then_with_pauses() -> None:
    copy, now = Copy().up().hear(), 0.0
    pauses = []
    for _ in range(4):
        copy.go(now=now).plan(now)
        fetch = copy.bench.last(Fetch)
        copy.sink.answer(Parcel(tree="t", id=fetch.id, raw_bytes=0, sizes=[-1, -1], last=True), b"", now)
        copy.bench.end(Put, 0, now)
        began = now
        while copy.sink.state != "asked":
            now = copy.sink.next_deadline()
            copy.sink.handle_deadline(now)
        pauses.append(round(now - began, 6))
    assert pauses == [0.0, 2 * FIRST_AGAIN_S, 4 * FIRST_AGAIN_S, 8 * FIRST_AGAIN_S]


def test_what_could_not_be_applied_as_a_whole_is_not_held() -> None:
    copy = Copy().up().hear().go().plan().fetched()
    copy.commit({"a": "1"}, errors=(("d/b", "permission denied"),))
    assert copy.sink.version == 0
    assert copy.state()[0] == "failed"
    assert "d/b: permission denied" in copy.sink.error
    assert copy.bench.last(Finish).code


def test_a_commit_that_failed_is_looked_at_and_not_believed() -> None:
    copy = Copy().up().hear().go().plan().fetched()
    copy.bench.end(Commit, BROKEN, 1.0)
    assert not copy.sink.clean
    assert copy.bench.end(Look, looked({}), 1.0).dirty is None


def test_a_first_version_that_would_delete_much_waits_for_someone() -> None:
    many = {f"own{index}": "x" for index in range(20)}
    copy = Copy().up(many).hear().go().plan()
    assert copy.state()[0] == "held"
    assert "20 of 20" in copy.state()[1]
    assert copy.bench.events() == ["tree_held"]
    copy.bench.messages()
    copy.sink.order(False, 1.0)
    assert copy.sink.state == "held"
    copy.sink.order(True, 1.0)
    copy.go().plan()
    assert copy.sink.state == "fetching"


def test_while_it_is_paused_no_pull_begins_and_one_that_runs_goes_on() -> None:
    copy = Copy(paused=True).up().hear()
    assert copy.bench.messages() == []
    assert copy.state() == ("paused", "paused")
    copy.sink.set_paused(False, 1.0)
    copy.go()
    copy.sink.set_paused(True, 2.0)
    copy.plan().fetched().commit()
    assert copy.sink.version == 1


def test_its_command_runs_once_a_version_that_changed_something() -> None:
    copy = Copy(**COMMAND).up().hear().go().plan().fetched().commit()
    assert copy.sink.version == 0
    command = copy.bench.end(Command, "", 1.0)
    assert (command.argv, dict(command.environment)) == (("reload",), {"ZCLUSTER_TREE": "t", "ZCLUSTER_VERSION": "1"})
    assert copy.sink.version == 1


def test_a_command_that_fails_is_told_and_its_version_stays() -> None:
    copy = Copy(**COMMAND).up().hear().go().plan().fetched().commit()
    copy.bench.end(Command, "'reload' ended with 3", 1.0)
    assert copy.sink.version == 1
    assert "ended with 3" in " ".join(copy.state())
    assert "tree_command_failed" in copy.bench.events()


def test_a_command_that_fails_takes_its_version_back_where_the_rules_say_so() -> None:
    copy = Copy(**COMMAND, rollback=True).up(FILES, 1)
    copy.hear({"a": "2"}, 2).go({"a": "2"}, 2).plan()
    copy.fetched()
    assert next(action for action in copy.bench.actions() if isinstance(action, Commit)).undo
    copy.commit({"a": "2"})
    copy.bench.end(Command, "no", 1.0)
    undo = copy.bench.end(Undo, Committed(looked(FILES)), 2.0)
    assert (undo.version, undo.root) == (1, looked(FILES).root)
    assert (copy.sink.version, copy.sink.clean) == (1, True)
    assert copy.state()[0] == "failed"
    finish = copy.bench.last(Finish)
    assert (finish.version, finish.code) == (2, "function_failed")
    copy.hear({"a": "2"}, 2, 3.0)
    assert copy.bench.messages() == []
    copy.hear({"a": "3"}, 3, 4.0)
    assert copy.bench.last(Pull).version == 3


def test_a_command_that_works_settles_what_could_be_taken_back() -> None:
    copy = Copy(**COMMAND, rollback=True).up().hear().go().plan().fetched().commit()
    copy.bench.end(Command, "", 1.0)
    assert [type(action) for action in copy.bench.actions()] == [Settle]


class Asked:
    """Who asked what differs, and the answers."""

    def __init__(self, copy: Copy, now: float = 0.0) -> None:
        self.answers: list[object] = []
        copy.sink.diff(lambda result, now: self.answers.append(result), now)


def test_what_differs_is_compared_and_nothing_is_changed() -> None:
    copy = Copy(paused=True).up({"a": "0"}).hear()
    asked = Asked(copy)
    copy.go()
    classes = Classes()
    copy.bench.end(Compare, classes)
    assert asked.answers == [classes]
    assert copy.bench.last(Finish).code == "cancelled"
    assert copy.state()[0] == "paused"


@pytest.mark.parametrize("how", ["no session", "session ends", "fails", "closed"])
def test_who_asks_what_differs_is_always_answered(how: str) -> None:
    copy = Copy(paused=True)
    copy.bench.end(Open, opened({}))
    if how != "no session":
        copy.sink.session_up(5, 0.0)
    copy.hear()
    asked = Asked(copy)
    assert asked.answers == [] or how == "no session"
    match how:
        case "session ends":
            copy.sink.session_down(1.0)
        case "fails":
            copy.sink.fail(PeerError("wrong"), 1.0)
        case "closed":
            copy.sink.close(1.0)
    (answer,) = asked.answers
    assert isinstance(answer, PeerError if how == "fails" else Unreachable)


def test_who_asks_what_differs_of_a_copy_that_is_then_held_is_answered() -> None:
    many = {f"own{index}": "x" for index in range(20)}
    copy = Copy().up(many).hear().go()
    asked = Asked(copy)
    copy.plan()
    copy.go()
    copy.bench.end(Compare, Classes())
    assert len(asked.answers) == 1


@pytest.mark.parametrize("kind", ["open", "look", "commit"])
def test_a_closed_sink_does_nothing_any_more(kind: str) -> None:
    copy = Copy()
    if kind != "open":
        copy.up().hear()
    if kind == "look":
        copy.sink.hint(None, 0.0)
    if kind == "commit":
        copy.go().plan().fetched()
    copy.sink.close(1.0)
    copy.bench.messages()
    reports = len(copy.reports)
    ends: dict[str, tuple[Any, object]] = {
        "open": (Open, opened({})), "look": (Look, looked({})), "commit": (Commit, Committed(looked(FILES))),
    }  # fmt: skip
    copy.bench.end(*ends[kind], 2.0)
    assert copy.bench.actions() == []
    assert copy.bench.messages() == []
    assert len(copy.reports) == reports


def test_progress_is_told_twice_a_second_at_most() -> None:
    copy = Copy().up().hear().go().plan()
    told = len(copy.reports)
    for step in range(1, 101):
        copy.sink.handle_deadline(step / 100)
    assert len(copy.reports) - told == 1.0 / REPORT_EVERY_S


def test_questions_of_all_pulls_have_growing_ids() -> None:
    copy = Copy().up().hear().go().plan()
    first = copy.bench.last(Fetch).id
    copy.sink.fail(PeerError("wrong"), 0.0)
    copy.sink.order(False, 0.0)
    copy.go().plan()
    assert copy.bench.last(Fetch).id > first + 1


def test_a_go_that_was_not_asked_for_and_late_answers_have_no_effect() -> None:
    copy = Copy().up(FILES, 1).hear()
    copy.sink.go(Go(tree="t", version=9, epoch=1, root="00"), 0.0)
    copy.sink.answer(Parcel(tree="t", id=1, raw_bytes=0, sizes=[0], last=True), b"", 0.0)
    assert copy.sink.state == "idle"
    assert copy.bench.messages() == []


def test_a_root_that_is_none_is_the_source_s_fault() -> None:
    copy = Copy().up().hear()
    with pytest.raises(PeerError, match="hexadecimal"):
        copy.sink.go(Go(tree="t", version=1, epoch=1, root="xy"), 0.0)


@pytest.mark.parametrize(
    ("sizes", "raw_bytes", "body"),
    [([], 0, b""), ([1, 2], 4, b"xxxx"), ([-1, -1], 1, b"x"), ([1, 2], 3, b"x" * 516)],
    ids=["nothing", "more", "for what is gone", "blown up"],
)
def test_a_parcel_that_brings_something_else_than_its_pieces_is_never_held(sizes: list[int], raw_bytes: int, body: bytes) -> None:
    copy = Copy().up().hear().go().plan()
    fetch = copy.bench.last(Fetch)
    with pytest.raises(PeerError, match="a PARCEL of"):
        copy.sink.answer(Parcel(tree="t", id=fetch.id, encoding=1, raw_bytes=raw_bytes, sizes=sizes), body, 0.0)
    assert not [action for action in copy.bench.actions() if isinstance(action, Put)]


def test_a_parcel_may_be_a_little_larger_than_its_pieces() -> None:
    copy = Copy().up().hear().go().plan()
    fetch = copy.bench.last(Fetch)
    copy.sink.answer(Parcel(tree="t", id=fetch.id, encoding=1, raw_bytes=3, sizes=[1, 2], last=True), b"x" * 515, 0.0)
    assert [action for action in copy.bench.actions() if isinstance(action, Put)]
