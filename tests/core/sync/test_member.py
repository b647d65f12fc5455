"""A worker's side: which trees there are, the master says, and anything about others has no effect."""

from __future__ import annotations

from typing import Any

import pytest
from machines import Bench, looked, opened

from zcluster.core.sync.bodies import held_digest
from zcluster.core.sync.effects import Close, Look, Open
from zcluster.core.sync.member import MASTER, Member
from zcluster.core.sync.sink import SinkLimits
from zcluster.core.sync.source import SourceLimits
from zcluster.wire.trees import (
    Fetch,
    Finish,
    Go,
    List,
    Order,
    Parcel,
    Pull,
    Report,
    State,
    TreeInfo,
    TreeMessage,
    Trees,
)

FILES = {"a": "1"}
CHUNK = 65_536
WINDOW = 1 << 20
DOWN = TreeInfo(tree="rules")
UP = TreeInfo(tree="logs", direction="up", hash="blake2b_256")
COMMAND = TreeInfo(tree="rules", on_change=["reload"], rollback=True)


class Node:
    """A worker with a session."""

    def __init__(self, *, commands: bool = True, up: bool = True) -> None:
        self.bench = Bench()
        sink_limits, source_limits = SinkLimits(WINDOW, CHUNK, 300.0), SourceLimits(0, WINDOW, CHUNK, 300.0)
        self.it = Member(self.bench.effects, sink_limits, source_limits, commands=commands)
        if up:
            self.it.session_up(MASTER, "master", 0.0)

    def hear(self, message: TreeMessage, body: bytes = b"", now: float = 0.0) -> Node:
        self.it.receive(MASTER, message, body, now)
        self.it.settle(now)
        return self

    def trees(self, *infos: TreeInfo, **fields: Any) -> Node:
        limits: dict[str, Any] = {"chunk_bytes": CHUNK, "window_bytes": WINDOW}
        return self.hear(Trees(epoch=1, trees=list(infos), **limits | fields))

    def state(self, version: int = 1, files: dict[str, str] = FILES) -> Node:
        return self.hear(State(tree="rules", version=version, epoch=1, root=looked(files).root.hex(), files=1, bytes=1))

    def done(self) -> list[tuple[str, str]]:
        """What is being done: its kind and the tree."""
        return [(type(action).__name__, action.place[0]) for action in self.bench.actions()]

    def pulls(self) -> list[int]:
        return [message.version for message in self.bench.messages() if isinstance(message, Pull)]


# -- TREES --------------------------------------------------------------------------------------------------------------


def test_each_new_tree_is_opened_once_by_its_direction() -> None:
    node = Node().trees(DOWN, UP)
    assert [(action.place, action.source) for action in node.bench.actions()] == [(("rules", ""), False), (("logs", ""), True)]
    node.trees(DOWN, UP)
    assert len(node.bench.actions()) == 2
    assert (list(node.it.sinks), list(node.it.sources)) == (["rules"], ["logs"])


def test_a_tree_that_is_not_named_any_more_is_closed_and_no_longer_asked_for() -> None:
    node = Node().trees(DOWN, UP)
    node.bench.end(Open, opened({}))
    node.state()
    assert node.pulls() == [1]
    node.trees()
    assert node.done() == [("Open", "logs"), ("Close", "rules"), ("Close", "logs")]
    assert not node.it.sinks
    assert not node.it.sources
    assert any(isinstance(message, Finish) for message in node.bench.messages())
    node.state(2)
    node.bench.end(Open, opened(FILES))
    assert node.bench.messages() == []


@pytest.mark.parametrize(
    "other",
    [TreeInfo(tree="rules", exclude=["x"]), TreeInfo(tree="rules", path="/p"), TreeInfo(tree="rules", direction="up")],
    ids=["rules", "place", "direction"],
)
def test_a_tree_whose_rules_are_others_is_closed_and_opened_anew(other: TreeInfo) -> None:
    node = Node().trees(DOWN)
    node.bench.end(Open, opened(FILES, 1))
    node.trees(other)
    assert node.done() == [("Close", "rules"), ("Open", "rules")]
    opening = node.bench.actions()[1]
    assert isinstance(opening, Open)
    assert (opening.info, opening.source) == (other, other.direction == "up")
    assert ("rules" in node.it.sinks) is (other.direction == "down")
    assert ("rules" in node.it.sources) is (other.direction == "up")


def test_what_the_closed_copy_still_brings_says_nothing_of_the_new_one() -> None:
    node = Node().trees(DOWN)
    node.trees(TreeInfo(tree="rules", exclude=["x"]))
    node.bench.end(Open, opened(FILES, 9))
    assert node.it.sinks["rules"].version == 0
    node.bench.end(Open, opened(FILES, 2))
    assert node.it.sinks["rules"].version == 2


def test_a_pause_alone_opens_nothing_anew() -> None:
    node = Node().trees(DOWN)
    node.bench.end(Open, opened({}))
    node.trees(TreeInfo(tree="rules", paused=True))
    node.state()
    assert (node.done(), node.pulls()) == ([], [])
    node.trees(DOWN)
    assert (node.done(), set(node.pulls())) == ([], {1})


@pytest.mark.parametrize(("chunk", "window"), [(16_384, WINDOW), (CHUNK, 2 * CHUNK)])
def test_a_master_with_other_limits_is_not_asked_for_more_than_it_gives(chunk: int, window: int) -> None:
    node = Node().trees(DOWN, UP)
    for _ in range(2):
        node.bench.end(Open, opened(FILES, 1))
    node.trees(DOWN, UP, chunk_bytes=chunk, window_bytes=window)
    assert (node.it.sinks["rules"].limits.chunk_bytes, node.it.sinks["rules"].limits.window_bytes) == (chunk, window)
    limits = node.it.sources["logs"].limits
    assert (limits.chunk_bytes, limits.window_bytes) == (chunk, window)
    assert node.done() == [("Close", "rules"), ("Open", "rules"), ("Close", "logs"), ("Open", "logs")]


def test_a_window_that_the_master_makes_larger_again_is_used_up_to_this_node_s_own() -> None:
    node = Node().trees(DOWN, window_bytes=CHUNK)
    node.trees(DOWN, window_bytes=64 * WINDOW)
    assert node.it.sinks["rules"].limits.window_bytes == WINDOW


def test_a_session_that_comes_back_with_the_same_trees_opens_nothing_anew_and_tells_all() -> None:
    node = Node().trees(DOWN, UP)
    node.bench.end(Open, opened(FILES, 1))
    node.bench.end(Open, opened(FILES, 1))
    node.it.session_down(MASTER, 1.0)
    node.bench.messages()
    node.it.session_up(MASTER, "master", 2.0)
    node.trees(DOWN, UP)
    assert not [action for action in node.bench.actions() if isinstance(action, Open | Close)]
    assert {message.tree for message in node.bench.messages() if isinstance(message, Report)} == {"rules", "logs"}


@pytest.mark.parametrize("commands", [True, False])
def test_a_command_of_the_master_is_run_only_where_this_node_lets_it(commands: bool) -> None:
    node = Node(commands=commands).trees(COMMAND)
    sink = node.it.sinks["rules"]
    assert (sink.info.on_change, sink.info.rollback) == ((["reload"], True) if commands else ([], False))
    assert ("refuse" in sink.note) is not commands
    node.trees(COMMAND)
    assert node.done() == [("Open", "rules")], "what this node leaves out is no other rule"
    node.trees(DOWN)
    assert node.it.sinks["rules"].note == ""


# -- orders -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", ["rules", "logs"])
@pytest.mark.parametrize("order", ["now", "confirm"])
def test_an_order_lets_the_tree_look_at_everything(tree: str, order: Any) -> None:
    node = Node().trees(DOWN, UP)
    for _ in range(2):
        node.bench.end(Open, opened(FILES, 1))
    assert node.done() == []
    node.hear(Order(tree=tree, order=order), now=100.0)
    assert node.done() == [("Look", tree)]
    assert node.bench.end(Look, looked(FILES)).dirty is None


def test_only_a_confirmation_lets_a_held_copy_go_on() -> None:
    node = Node().trees(DOWN)
    node.bench.end(Open, opened({}))
    sink = node.it.sinks["rules"]
    sink.state = "held"
    node.state()
    sink.state = "held"
    node.bench.messages()
    node.hear(Order(tree="rules", order="now"))
    assert node.pulls() == []
    node.hear(Order(tree="rules", order="confirm"))
    assert node.pulls() == [1]


# -- what makes no sense ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        State(tree="x", version=1, epoch=1, root="00"), Go(tree="x", version=1, epoch=1, root="00"), Pull(tree="x", version=1),
        Order(tree="x", order="now"), Fetch(tree="x", version=1, id=1), Parcel(tree="x", id=1, raw_bytes=0, sizes=[]),
    ],
)  # fmt: skip
def test_what_is_about_a_tree_that_was_not_named_has_no_effect(message: TreeMessage) -> None:
    node = Node().trees(DOWN, UP)
    node.bench.messages()
    before = node.done()
    node.hear(message, b"\x90")
    assert (node.done(), node.bench.messages(), node.bench.events()) == (before, [], [])


@pytest.mark.parametrize(
    "message",
    [
        Pull(tree="rules", version=1), List(tree="rules", version=1, id=1), Fetch(tree="rules", version=1, id=1),
        Finish(tree="rules", version=1), Report(tree="rules", state="current"), State(tree="logs", version=1, epoch=1, root=""),
        Go(tree="logs", version=1, epoch=1, root=""), Parcel(tree="logs", id=1, raw_bytes=0, sizes=[0]),
        Report(tree="logs", state="current"),
    ],
)  # fmt: skip
def test_what_the_other_direction_would_say_is_the_master_s_mistake(message: TreeMessage) -> None:
    assert not isinstance(message, Trees)
    node = Node().trees(DOWN, UP)
    for _ in range(2):
        node.bench.end(Open, opened(FILES, 1))
    node.bench.messages()
    node.hear(message, b"\x90")
    assert node.bench.events() == ["sync_protocol_error", *(["tree_failed"] if message.tree == "rules" else [])]
    assert not [each for each in node.bench.messages() if not isinstance(each, Report | Finish)]
    assert node.it.sinks["rules"].state == ("failed" if message.tree == "rules" else "idle")


def test_hints_and_deadlines_reach_each_tree_and_none_else() -> None:
    node = Node().trees(DOWN, UP)
    for _ in range(2):
        node.bench.end(Open, opened(FILES, 1))
    node.it.hint(("x", ""), None, 1.0)
    assert node.done() == []
    node.it.hint(("logs", ""), frozenset({""}), 1.0)
    assert node.done() == [("Look", "logs")]
    node.bench.end(Look, looked(FILES))
    assert node.it.next_deadline() == 300.0
    node.it.handle_deadline(300.0)
    assert sorted(node.done()) == [("Look", "logs"), ("Look", "rules")]
    assert Node().it.next_deadline() == float("inf")


def test_what_it_holds_is_said_of_copies_only() -> None:
    node = Node()
    assert node.it.held() == ""
    node.trees(DOWN, UP)
    assert node.it.held() == held_digest([("rules", 0, "")])
    node.bench.end(Open, opened(FILES, 4))
    assert node.it.held() == held_digest([("rules", 4, looked(FILES).root.hex())])


def test_nothing_is_said_without_a_session() -> None:
    node = Node(up=False).trees(UP)
    node.bench.end(Open, opened(FILES, 1))
    node.it.settle(0.0)
    assert [message for message in node.bench.messages() if isinstance(message, Report)] == []
