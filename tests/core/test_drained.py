"""A drained node gets nothing new; what runs there ends, and it is a matter of its key."""

from __future__ import annotations

import pytest

from zcluster.core.drained import turned_away
from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import Identity, Node
from zcluster.keys import may_call, may_send
from zcluster.wire import Bye, FunctionInfo, Hello, Replies, RequestGroup, Requests, Status, Work

ADD, INFO, TIME = (FunctionInfo(name=name, parameters="{}", returns="{}") for name in ("add", "node.info", "node.time"))


class Rig:
    """A master with a client and workers."""

    def __init__(self, *workers: str) -> None:
        self.machine = Master("m", "c", 1, MasterLimits(), may_send, may_call, 0.0)
        self.machine.receive(b"client", Identity("ck", "alice", "client"), Hello(versions=[1], instance="i"), b"", 0, 0.0)
        for name in workers:
            self.join(name)
        self.sent: dict[object, list[object]] = {}
        self.last_id = 0
        self.turn()

    def join(self, name: str, key: str = "") -> None:
        hello = Hello(versions=[1], instance=name + key, slots=8, functions=[ADD, INFO, TIME])
        self.machine.receive(name.encode() + key.encode(), Identity(key or f"key of {name}", name, "worker"), hello, b"", 0, 0.0)

    def turn(self) -> None:
        self.sent = {route: [message for message, _ in outgoing] for route, outgoing in self.machine.take(1.0)}

    def call(self, function: str, target: str, flags: int = 0) -> None:
        self.last_id += 1
        group = RequestGroup(function, target, 10_000, 5, flags, self.last_id, [0])
        message = Requests(groups=[group])
        self.machine.receive(b"client", Identity("ck", "alice", "client"), message, b"", 0, 1.0)
        self.turn()

    def given(self, name: str) -> int:
        """How many requests the last turn gave to a worker."""
        work = [message for message in self.sent.get(name.encode(), []) if isinstance(message, Work)]
        return sum(len(group.sizes) for message in work for group in message.groups)

    def errors(self) -> int:
        replies = [message for message in self.sent.get(b"client", []) if isinstance(message, Replies)]
        return sum(len(group.sizes) for message in replies for group in message.groups if group.status == Status.ERROR)

    def drain(self, *names: str) -> None:
        self.machine.drained.hold({f"key of {name}" for name in names}, set(names))
        self.turn()

    def node(self, name: str) -> Node:
        return self.machine.roster.nodes[name]


def test_any_goes_elsewhere_and_by_name_is_answered_at_once() -> None:
    rig = Rig("w1", "w2")
    rig.drain("w1")
    for _ in range(3):
        rig.call("add", "any")
        assert (rig.given("w1"), rig.given("w2")) == (0, 1)
    rig.call("add", "w1")
    assert (rig.given("w1"), rig.errors()) == (0, 1)
    rig.call("node.info", "w1")
    assert (rig.given("w1"), rig.errors()) == (0, 1)
    rig.call("node.time", "w1")
    assert (rig.given("w1"), rig.errors()) == (1, 0), "what zcluster itself asks goes on"


def test_any_is_refused_when_every_node_that_has_it_is_drained() -> None:
    rig = Rig("w1", "w2")
    rig.drain("w1", "w2")
    rig.call("add", "any")
    assert rig.errors() == 1
    rig.drain("w1")
    rig.call("add", "any")
    assert (rig.given("w2"), rig.errors()) == (1, 0)


def test_while_no_node_is_drained_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr("zcluster.core.admission.refuse_drained", lambda function, _: looked.append(function))
    rig = Rig("w1")
    rig.call("add", "any")
    assert looked == []
    rig.drain("w2")
    rig.call("add", "any")
    assert looked == [], "w2 is away"
    rig.join("w2")
    rig.call("add", "any")
    assert looked == ["add"]
    rig.drain()
    rig.call("add", "any")
    assert looked == ["add"]


def test_what_runs_goes_on_and_what_waits_is_answered() -> None:
    rig = Rig("w1")
    for _ in range(20):
        rig.call("add", "w1")
    node = rig.node("w1")
    running, waiting = len(node.running), len(node.queue)
    assert running
    assert waiting
    rig.drain("w1")
    assert (len(node.running), len(node.queue), rig.errors()) == (running, 0, waiting)
    rig.drain()
    rig.call("add", "w1")
    assert len(node.queue) + len(node.running) == running + 1


def test_a_drained_node_stays_so_when_it_comes_back_and_a_new_key_of_its_name_is_not() -> None:
    rig = Rig("w1")
    rig.drain("w1")
    rig.machine.receive(b"w1", Identity("key of w1", "w1", "worker"), Bye(), b"", 0, 1.0)
    assert rig.node("w1").drained
    rig.join("w1")
    assert rig.node("w1").drained
    rig.join("w1", "another")
    assert not rig.node("w1").drained
    rig.turn()
    rig.call("add", "w1")
    assert rig.errors() == 0


def test_a_change_is_told_to_the_queue_of_jobs_once() -> None:
    rig = Rig("w1", "w2")
    functions = rig.machine.dispatch.functions
    before = functions.changes
    rig.drain("w1")
    rig.drain("w1")
    assert functions.changes == before + 1
    assert not rig.node("w1").usable
    assert rig.node("w2").usable


@pytest.mark.parametrize(
    ("function", "away"),
    [("node.time", False), ("sync.diff", False), ("node.logs", False), ("node.info", True), ("echo", True), ("add", True)],
)
def test_which_functions_a_drained_node_is_still_asked_for(function: str, away: bool) -> None:
    node = Node("w1", "worker", "ready", 0.0)
    assert not turned_away(node, function)
    node.drained = True
    assert turned_away(node, function) is away
