"""How much a node may be given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.core.peers import MODEST, MODEST_S, MOST_QUICK, Node
from zcluster.wire import Bye, Cancel, FunctionInfo


@pytest.mark.parametrize(
    ("slots", "by_caller", "caller", "allowed"),
    [
        (8, {}, 1, 7),  # one caller: seven eighths, so that there is room for one more
        (8, {1: 3}, 1, 4),
        (8, {1: 7}, 1, 0),
        (8, {1: 4}, 2, 3),  # a second one: half of that
        (8, {1: 4, 2: 1}, 1, -1),
        (9, {1: 1, 2: 1}, 3, 2),
        (1, {}, 1, 1),  # never less than one
        (1, {2: 1}, 1, 1),
        (2, {2: 1, 3: 1, 4: 1}, 1, 1),
    ],
)
def test_the_allowance_leaves_room_for_one_more_caller(slots: int, by_caller: dict[int, int], caller: int, allowed: int) -> None:
    node = Node("w1", "worker", "ready", 0.0)
    node.slots, node.by_caller = slots, by_caller
    assert node.allowance(caller, "f") == allowed


@pytest.mark.parametrize(
    ("quick", "caller", "allowed"),
    [
        ({}, 1, MOST_QUICK),
        ({1: 100}, 1, MOST_QUICK - 100),
        ({1: 448}, 2, MOST_QUICK // 2),
        ({1: 448, 2: 10}, 1, MOST_QUICK // 2 - 448),
        ({1: 40, 2: 10}, 2, MOST_QUICK // 2 - 10),
        (dict.fromkeys(range(1, 200), 1), 200, 1),  # never less than one
    ],
)
def test_with_a_modest_caller_all_share_few_of_the_quick_ones(quick: dict[int, int], caller: int, allowed: int) -> None:
    node = quick_node()
    node.quick, node.modest_until_s = quick, 1.0
    assert node.allowance(caller, "f") == allowed
    node.by_caller = {1: 400}
    assert node.allowance(1, "slow") == 48, "what is slow has all slots"
    node.modest_until_s = None
    assert node.allowance(1, "f") == 48, "and so has what is quick without such a caller"


@pytest.mark.parametrize(
    ("others", "mine", "open_", "quick", "modest"),
    [
        (10, 0, MODEST, True, True),
        (10, 0, MODEST + 1, True, False),  # asks for much
        (10, 1, 2, True, False),  # has some there
        (0, 0, 1, True, False),  # nobody else has any
        (10, 0, 1, False, False),  # is not quick
    ],
)
def test_who_has_none_there_and_asks_for_little_is_modest(others: int, mine: int, open_: int, quick: bool, modest: bool) -> None:
    node = quick_node()
    node.quick = {number: held for number, held in ((1, others), (2, mine)) if held}
    node.took(caller(2, open_), 1, 5.0, quick=quick)
    assert node.modest_until_s == (5.0 + MODEST_S if modest else None)
    node.took(caller(1, 1000), 20, 5.0 + MODEST_S - 0.01, quick=True)
    assert (node.modest_until_s is not None) == modest
    node.took(caller(1, 1000), 20, 5.0 + MODEST_S, quick=True)
    assert node.modest_until_s is None


def test_who_asked_for_much_a_moment_ago_is_not_modest() -> None:
    node = quick_node()
    node.quick = {1: 10}
    one = caller(2, MODEST + 1)
    node.took(one, 1, 5.0, quick=False)
    one.requests.clear()
    node.took(one, 1, 5.0 + MODEST_S - 0.01, quick=True)
    assert node.modest_until_s is None
    node.gave_back(2, 2, 1)
    node.took(one, 1, 5.0 + MODEST_S, quick=True)
    assert node.modest_until_s == 5.0 + 2 * MODEST_S


def caller(number: int, open_: int) -> Any:
    """Who asks, as far as a node looks at it."""
    return SimpleNamespace(no=number, requests=dict.fromkeys(range(open_)), much_until_s=0.0)


def quick_node() -> Node:
    """A node with a function of each kind."""
    node = Node("w1", "worker", "ready", 0.0)
    node.functions = {"f": FunctionInfo(name="f", pool="inline"), "slow": FunctionInfo(name="slow")}
    node.slots = 512
    return node


def test_quick_ones_are_counted_beside_all(bus: Any) -> None:
    bus.worker("w1", FunctionInfo(name="f", pool="inline"), "slow", slots=8)
    bus.client("c1")
    bus.request("c1", "f", "w1", b"1", b"2")
    bus.request("c1", "slow", "w1", b"3", id_=3)
    node = bus.master.roster.nodes["w1"]
    legs = [leg for leg, *_ in bus.work("w1")]
    assert (node.by_caller, node.quick) == ({2: 3}, {2: 2})
    bus.result("w1", legs[0])
    assert (node.by_caller, node.quick) == ({2: 2}, {2: 1})
    bus.send("c1", Cancel(ids=[2]))
    assert (node.by_caller, node.quick) == ({2: 1}, {})
    bus.request("c1", "f", "w1", b"4", id_=4)
    bus.send("w1", Bye())
    assert (node.by_caller, node.quick) == ({}, {})


def test_only_a_ready_node_with_a_session_is_free() -> None:
    peer: Any = type("Peer", (), {"draining": False})()
    node = Node("w1", "worker", "ready", 0.0)
    node.slots = 3
    assert node.free == 0
    node.peer = peer
    assert node.free == 3
    running: Any = {1: None, 2: None, 3: None, 4: None}
    node.running = running
    assert node.free == -1, "fewer slots than before are no room"
    node.running = {}
    node.state = "silent"
    assert node.free == 0
    node.state, peer.draining = "ready", True
    assert node.free == 0
