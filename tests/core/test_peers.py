"""How much a node may be given."""

from __future__ import annotations

from typing import Any

import pytest

from zcluster.core.peers import Node


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
    assert node.allowance(caller) == allowed


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
