"""What the guard makes of events that come while it does something else."""

from __future__ import annotations

from collections import deque
from typing import Any
from unittest.mock import Mock

import pytest

from zcluster.net import guard as module
from zcluster.net.connections import Expected
from zcluster.net.descriptors import Peer
from zcluster.net.guard import ACCEPTED, TURN, Guard


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> deque[tuple[int, int]]:
    """What the monitor has to tell, as (event, descriptor)."""
    found: deque[tuple[int, int]] = deque()
    monkeypatch.setattr(module, "read_event", lambda pair: found.popleft() if found else None)
    return found


def make() -> Guard:
    descriptors: Any = Mock()
    descriptors.peer = lambda fd: Peer(fd, "10.0.0.1")
    descriptors.received_bytes = lambda fd: 0
    return Guard(Mock(), descriptors, Mock(given=False), Expected(), lambda: 1.0, Mock(), Mock())


def test_who_comes_while_another_speaks_is_taken_note_of_although_nothing_tells_it_again(events: deque[tuple[int, int]]) -> None:
    guard = make()
    events.extend([(ACCEPTED, 10), (ACCEPTED, 11)])
    assert guard.spoke(10, "k", b"route") is not None
    assert not events
    assert guard.connections.by_fd.keys() == {10}
    guard.look()
    assert guard.connections.by_fd.keys() == {10, 11}


def test_a_look_goes_on_where_the_last_one_ended(events: deque[tuple[int, int]]) -> None:
    guard = make()
    events.extend((ACCEPTED, fd) for fd in range(10, 11 + TURN))
    guard.out(lambda public: True, newcomers=False)
    guard.look()
    assert len(guard.connections.by_fd) == TURN
    guard.look()
    assert len(guard.connections.by_fd) == TURN + 1
