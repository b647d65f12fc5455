"""The bus and the sync process: sessions told in order, frames to where they belong, and nothing lost on the way back."""

from __future__ import annotations

from typing import Any, cast

from zcluster.core.batch import Lanes
from zcluster.core.peers import Identity, Peer
from zcluster.core.treelink import FrameIn, Held, SessionDown, SessionUp, TreeLink
from zcluster.wire import Hello, Results, Sealed, encode
from zcluster.wire.trees import Finish, Parcel

FINISH = encode(Finish(tree="t", version=1))
HELLO = Hello(versions=[1], instance="i")
PARCEL = encode(Parcel(tree="t", id=1, raw_bytes=3, sizes=[3], last=True), [b"abc"])


class Session:
    """As much of a peer as a tree link looks at."""

    def __init__(self, no: int, role: str = "worker") -> None:
        self.no, self.identity = no, Identity(f"k{no}", f"web-{no}", role)
        self.lanes: Lanes[Any] = Lanes(lambda groups: Results(groups), 1 << 20)

    @property
    def peer(self) -> Peer:
        return cast("Peer", self)


def test_only_workers_are_told_of_in_order() -> None:
    link, one, client = TreeLink(), Session(1), Session(2, "client")
    link.opened(one.peer, HELLO, 1.0)
    link.opened(client.peer, HELLO, 1.0)
    for session in (one, client):
        link.received(session.peer, Finish(tree="t", version=1), FINISH, 0, 1.0)
        link.beat(session.peer, "digest")
    link.beat(one.peer, "")
    link.closed(client.peer, "bye", 2.0)
    link.closed(one.peer, "lost", 2.0)
    link.received(one.peer, Finish(tree="t", version=1), FINISH, 0, 1.0)
    link.closed(one.peer, "again", 2.0)
    assert link.notices == [SessionUp(1, "web-1"), FrameIn(1, FINISH), Held(1, "digest"), SessionDown(1, "lost")]


def test_a_process_that_starts_again_hears_of_the_open_sessions_only() -> None:
    link, one, other = TreeLink(), Session(1), Session(2)
    link.opened(one.peer, HELLO, 1.0)
    link.opened(other.peer, HELLO, 1.0)
    link.closed(one.peer, "lost", 2.0)
    assert link.again() == [SessionUp(2, "web-2")]
    assert link.notices == []


def test_a_session_is_found_until_it_is_over() -> None:
    link, one = TreeLink(), Session(1)
    link.opened(one.peer, HELLO, 1.0)
    assert link.peer(1) is one.peer
    assert link.peer(2) is None
    link.closed(one.peer, "lost", 2.0)
    assert link.peer(1) is None


def test_control_of_trees_goes_first_and_bulk_last_and_both_are_counted() -> None:
    lanes = Session(1).lanes
    lanes.add_tree(Sealed(PARCEL))
    lanes.add_tree(Sealed(FINISH))
    assert lanes.waiting_bytes >= len(PARCEL) + len(FINISH)
    assert [cast("Sealed", message).frame for message, _ in lanes.take()] == [FINISH, PARCEL]
    assert lanes.waiting_bytes == 0


def test_what_could_not_be_sent_goes_before_what_came_later() -> None:
    lanes = Session(1).lanes
    lanes.add_tree(Sealed(PARCEL))
    lanes.add_tree(Sealed(FINISH))
    unsent = lanes.take()
    later, more = encode(Finish(tree="t", version=2)), encode(Parcel(tree="t", id=2, raw_bytes=0, sizes=[]))
    lanes.add_tree(Sealed(more))
    lanes.add_tree(Sealed(later))
    lanes.put_back(unsent)
    assert lanes.waiting_bytes >= len(PARCEL) + len(FINISH) + len(later) + len(more)
    assert [cast("Sealed", message).frame for message, _ in lanes.take()] == [FINISH, later, PARCEL, more]
    assert lanes.waiting_bytes == 0
    assert not lanes
