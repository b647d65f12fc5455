"""What is told of copies: one that is not as its source is has a reason, always."""

from __future__ import annotations

from typing import Any

import pytest
from machines import BROKEN, Bench, looked, opened

from zcluster.core.sync.declared import Declared
from zcluster.core.sync.effects import Open
from zcluster.core.sync.hub import Hub
from zcluster.core.sync.sink import SinkLimits
from zcluster.core.sync.source import SourceLimits
from zcluster.core.sync.status import status_rows, tree_rows
from zcluster.errors import NoSuchNode, NoSuchTree
from zcluster.wire.trees import Report, State, TreeInfo

FILES = {"a": "1"}
ROOT = looked(FILES).root.hex()
DOWN = TreeInfo(tree="site")
UP = TreeInfo(tree="logs", direction="up", hash="blake2b_256")
ONE = 1
STATES = ["opening", "waiting", "asked", "pulling", "applying", "held", "failed", "paused", "current", "closed", "anything"]


class Master:
    """A master with a tree of each direction, and a worker that is here."""

    def __init__(self, source: object = None) -> None:
        self.bench = Bench()
        declared = {"site": Declared(DOWN, "all", DOWN), "logs": Declared(UP, "all", UP)}
        limits = SinkLimits(1 << 20, 65_536, 300.0), SourceLimits(3, 1 << 20, 65_536, 300.0)
        self.hub = Hub(declared, self.bench.effects, *limits, 4, "master", 0.0)
        self.bench.end(Open, opened(FILES, 4) if source is None else source)
        self.hub.session_up(ONE, "one", 0.0)

    def hear(self, tree: str, state: str, now: float = 1.0, **fields: Any) -> Master:
        self.hub.receive(ONE, Report(tree=tree, state=state, **fields), b"", now)
        return self

    def row(self, tree: str = "site") -> dict[str, Any]:
        (row,) = status_rows(self.hub, tree, "one", 10.0, 1000.0)
        return row

    def tree(self, name: str) -> dict[str, Any]:
        return next(row for row in tree_rows(self.hub, 10.0, 1000.0) if row["name"] == name)


CURRENT: dict[str, Any] = {"version": 4, "root": ROOT, "target": 4, "clean": True}


@pytest.mark.parametrize(
    "fields", [{}, CURRENT, {**CURRENT, "clean": False}, {**CURRENT, "version": 3}, {**CURRENT, "root": "00"}]
)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("here", [False, True])
def test_every_copy_of_the_master_s_tree_that_is_not_current_has_a_reason(
    here: bool, paused: bool, state: str, fields: dict[str, Any]
) -> None:
    master = Master().hear("site", state, **fields)
    if paused:
        master.hub.pause("site", "one", True, 2.0)
    if not here:
        master.hub.session_down(ONE, 3.0)
    row = master.row()
    assert (row["state"] == "current") is (here and state == "current" and fields == CURRENT)
    assert row["state"] == "current" or row["reason"]
    assert (row["state"] == "away") is not here


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("own", ["", "waiting", "held", "current"])
@pytest.mark.parametrize("paused", [False, True])
def test_every_copy_of_a_worker_s_tree_that_is_not_current_has_a_reason(paused: bool, own: str, state: str) -> None:
    master = Master()
    if own:
        master.hear("logs", own, reason="it is empty" if own == "held" else "")
    master.hub.reports[("logs", "one")] = (Report(tree="logs", state=state), 1.0)
    if paused:
        master.hub.pause("logs", "one", True, 2.0)
    row = master.row("logs")
    assert row["state"] == "current" or row["reason"]
    assert (row["state"] == "held") is (own == "held" or (state == "held"))


def test_a_worker_that_has_said_nothing_yet_has_a_reason() -> None:
    master = Master()
    for tree in ("site", "logs"):
        row = master.row(tree)
        assert (row["state"], row["reason"], row["version"]) == ("waiting", "it has not reported yet", 0)
    assert master.row("site")["files_behind"] == 1


def test_a_current_copy_is_behind_by_nothing() -> None:
    row = Master().hear("site", "current", files_behind=7, bytes_behind=8, age_s=2.0, bytes_per_s=9.0, **CURRENT).row()
    assert (row["state"], row["files_behind"], row["bytes_behind"], row["bytes_per_s"]) == ("current", 0, 0, 0)
    assert (row["behind_since_s"], row["applied_at_s"]) == (None, 1000.0 - 9.0 - 2.0)


def test_a_copy_that_pulls_is_behind_by_what_it_says() -> None:
    row = Master().hear("site", "pulling", files_behind=7, bytes_behind=8, bytes_per_s=9.4, reason="fetching", target=4).row()
    assert (row["state"], row["reason"]) == ("pulling", "fetching")
    assert (row["files_behind"], row["bytes_behind"], row["bytes_per_s"], row["target"]) == (7, 8, 9, 4)
    assert row["behind_since_s"] == 990.0


def test_an_error_of_the_copy_is_its_reason_where_there_is_no_other() -> None:
    row = Master().hear("site", "failed", error="no room").row()
    assert (row["state"], row["reason"], row["error"]) == ("failed", "no room", "no room")
    assert Master().hear("site", "failed", error="no room", reason="why").row()["reason"] == "why"


def test_a_source_that_cannot_be_opened_holds_all_its_copies() -> None:
    master = Master(BROKEN).hear("site", "current", **CURRENT)
    row = master.row()
    assert (row["state"], row["reason"]) == ("held", str(BROKEN))
    assert master.tree("site")["held"] == str(BROKEN)


def test_away_says_why_and_beats_all_other_reasons() -> None:
    master = Master(BROKEN)
    master.hub.session_down(ONE, 3.0, "lost")
    assert (master.row()["state"], master.row()["reason"]) == ("away", "lost")
    master.hub.nodes(["one", "two"])
    rows = status_rows(master.hub, "site", "", 10.0, 1000.0)
    assert [(row["worker"], row["state"]) for row in rows] == [("one", "away"), ("two", "away")]
    assert all(row["reason"] for row in rows)


def test_only_the_tree_and_the_worker_that_were_asked_for_are_told() -> None:
    hub = Master().hub
    assert {row["tree"] for row in status_rows(hub, "", "", 0.0, 0.0)} == {"site", "logs"}
    with pytest.raises(NoSuchNode):
        status_rows(hub, "site", "nobody", 0.0, 0.0)
    with pytest.raises(NoSuchTree):
        status_rows(hub, "nowhere", "", 0.0, 0.0)


def test_the_master_s_own_sink_is_told_as_it_is_now() -> None:
    master = Master()
    master.hub.receive(ONE, State(tree="logs", version=1, epoch=0, root=ROOT), b"", 1.0)
    assert (master.row("logs")["state"], master.row("logs")["reason"]) == ("waiting", "opening")
    master.bench.end(Open, BROKEN, 2.0)
    assert (master.row("logs")["state"], master.row("logs")["reason"]) == ("failed", str(BROKEN))


def test_a_tree_that_is_paused_says_for_whom() -> None:
    master = Master()
    assert master.tree("site")["paused"] == []
    master.hub.pause("site", "one", True, 0.0)
    master.hub.pause("site", "", True, 0.0)
    assert master.tree("site")["paused"] == ["all", "one"]
    assert (master.tree("site")["version"], master.tree("site")["files"]) == (4, 1)
