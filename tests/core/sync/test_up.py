"""What goes up, as the master's machine takes it and tells of it: a worker has to do with its own trees only, and what it says
of them is shown."""

from __future__ import annotations

from typing import Any

import pytest
from machines import Bench
from machines import looked as looked_at

from zcluster.core.sync.effects import Effects, Open, Opened
from zcluster.core.sync.hub import Declared, Hub
from zcluster.core.sync.member import Member
from zcluster.core.sync.sink import SinkLimits
from zcluster.core.sync.source import SourceLimits
from zcluster.core.sync.status import status_rows, tree_rows
from zcluster.wire.trees import MAX_REFUSED, Go, Order, Pull, Report, State, TreeInfo, TreeMessage, Trees

DOWN = TreeInfo(tree="rules")
UP = TreeInfo(tree="logs", direction="up", hash="blake2b_256")
ONE, TWO = 1, 2


def a_hub(effects: Effects, rate: int = 0) -> Hub:
    declared = {
        "rules": Declared(DOWN, "all", DOWN),
        "logs": Declared(UP, "all", UP),
        "only-two": Declared(TreeInfo(tree="only-two", direction="up"), "two", TreeInfo(tree="only-two", direction="up")),
    }
    hub = Hub(
        declared, effects, SinkLimits(1 << 20, 65_536, 300.0), SourceLimits(1, 1 << 20, 65_536, 300.0), 4, "master", 0.0,
        up_rate_bytes=rate,
    )  # fmt: skip
    hub.session_up(ONE, "one", 0.0)
    hub.session_up(TWO, "two", 0.0)
    return hub


def row(hub: Hub, worker: str = "one", tree: str = "logs") -> dict[str, Any]:
    (found,) = status_rows(hub, tree, worker, 10.0, 1000.0)
    return found


STATE = State(tree="logs", version=3, epoch=0, root="00" * 32)


@pytest.mark.parametrize(
    "message",
    [
        State(tree="only-two", version=1, epoch=0, root=""),
        Report(tree="only-two", state="current"),
        State(tree="rules", version=1, epoch=0, root=""),
        State(tree="nowhere", version=1, epoch=0, root=""),
        Pull(tree="logs", version=1),
        Trees(epoch=1, chunk_bytes=65_536, window_bytes=65_536),
        Order(tree="logs", order="confirm"),
    ],
)
def test_what_is_none_of_a_workers_business_is_refused_and_counted(message: TreeMessage) -> None:
    bench = Bench()
    hub = a_hub(bench.effects)
    hub.receive(ONE, message, b"", 0.0)
    assert hub.protocol_errors == 1
    assert ("only-two", "one") not in hub.sinks
    assert hub.own_reports == {}
    assert "sync_protocol_error" in bench.events()


def test_a_workers_copy_is_opened_under_its_own_name_only() -> None:
    bench = Bench()
    hub = a_hub(bench.effects)
    hub.receive(TWO, STATE, b"", 0.0)
    opened = [action.place for action in bench.actions() if isinstance(action, Open) and not action.source]
    assert opened == [("logs", "two")]


def test_what_a_worker_says_of_its_own_tree_is_shown_before_and_beside_the_copy() -> None:
    bench = Bench()
    hub = a_hub(bench.effects)
    assert row(hub)["state"] == "waiting"
    held = Report(tree="logs", state="held", version=2, reason="it is suddenly empty", refused_count=5, refused=[("a", "no")])
    hub.receive(ONE, held, b"", 0.0)
    assert (row(hub)["state"], row(hub)["reason"]) == ("held", "it is suddenly empty")
    tree = next(each for each in tree_rows(hub, 0.0, 0.0) if each["name"] == "logs")
    assert tree["held"] == "one: it is suddenly empty"
    assert (tree["refused"], tree["refused_count"]) == ([{"path": "one/a", "reason": "no"}], 5)
    hub.receive(ONE, STATE, b"", 0.0)
    assert hub.sinks[("logs", "one")].state == "opening"
    assert row(hub)["state"] == "held"
    hub.receive(ONE, Report(tree="logs", state="current", version=3), b"", 0.0)
    assert row(hub)["state"] == "waiting"
    assert row(hub)["behind_since_s"] is not None
    hub.session_down(ONE, 1.0, "lost")
    assert (row(hub)["state"], row(hub)["reason"]) == ("away", "lost")


def test_all_trees_of_a_worker_share_its_pace_and_no_other_ones() -> None:
    hub = a_hub(Effects(), rate=5000)
    for session, tree in ((TWO, "logs"), (TWO, "only-two"), (ONE, "logs")):
        hub.receive(session, State(tree=tree, version=1, epoch=0, root=""), b"", 0.0)
    paces = {place: sink._pace for place, sink in hub.sinks.items()}
    assert paces[("logs", "two")] is paces[("only-two", "two")] is not None
    assert paces[("logs", "one")] is not paces[("logs", "two")]
    assert a_hub(Effects())._pace_of("one") is None


def test_a_worker_tells_of_its_own_trees_once_for_each_change_and_anew_in_each_session() -> None:
    bench = Bench()
    member = Member(bench.effects, SinkLimits(1 << 20, 65_536, 300.0), SourceLimits(0, 1 << 20, 65_536, 300.0), commands=False)
    trees = Trees(epoch=1, chunk_bytes=65_536, window_bytes=1 << 20, trees=[UP])

    def reports() -> list[Report]:
        member.settle(0.0)
        return [message for message in bench.messages() if isinstance(message, Report)]

    member.session_up(0, "master", 0.0)
    member.receive(0, trees, b"", 0.0)
    assert [report.state for report in reports()] == ["waiting"]
    looked = looked_at({}, refused=tuple((f"link{number}", "a link") for number in range(MAX_REFUSED + 1)), refused_count=99)
    bench.end(Open, Opened(looked), 0.0)
    (told,) = reports()
    assert (told.refused_count, len(told.refused)) == (99, MAX_REFUSED)
    assert reports() == []
    member.session_down(0, 0.0)
    assert reports() == []
    member.session_up(0, "master", 0.0)
    member.receive(0, trees, b"", 0.0)
    assert reports() == [told]


def test_a_go_before_its_pull_does_not_begin_a_pull_without_a_permit() -> None:
    bench = Bench()
    hub = a_hub(bench.effects)
    hub.permits.set_limit(1, 0.0)
    states = []
    for session in (ONE, TWO):
        hub.receive(session, STATE, b"", 0.0)
    for _ in ("rules", "one", "two"):
        bench.end(Open, Opened(looked_at({})))
    hub.settle(0.0)
    for session, name in ((TWO, "two"), (ONE, "one")):
        hub.receive(session, Go(tree="logs", version=3, epoch=0, root=STATE.root), b"", 1.0)
        states.append(hub.sinks[("logs", name)].state)
    assert states == ["asked", "walking"]
    assert hub.protocol_errors == 0
