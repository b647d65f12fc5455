"""Which addresses are tried, with which key, in what order."""

from __future__ import annotations

import pytest

from zcluster.core.doors import MAX_NODES, Candidate, KnownKeys, KnownNode, Places, candidates, split_node
from zcluster.core.link import Connect, Down, Link, LinkPolicy, Say
from zcluster.errors import Unreachable, UsageError
from zcluster.wire import Hello, Welcome

KEYS = KnownKeys("M", (KnownNode("w1", "K1", ("tcp://one:1",)), KnownNode("w2", "K2")))
HELLO = Hello(versions=[1], instance="me")
WELCOME = Welcome(
    version=1, session=3, name="c", role="client", cluster="c", master="m", epoch=1, heartbeat_s=1.0, lease_heartbeats=3,
    body_bytes=1, inline_bytes=1, chunk_bytes=1024, window_bytes=1024,
)  # fmt: skip
GONE = Unreachable("gone")


def test_a_bare_address_is_tried_with_the_masters_key_and_then_each_nodes() -> None:
    found = candidates(["tcp://a:1"], KEYS)
    assert found == [Candidate("tcp://a:1", "M"), Candidate("tcp://a:1", "K1"), Candidate("tcp://a:1", "K2")]
    assert candidates(["tcp://a:1"], KnownKeys("M")) == [Candidate("tcp://a:1", "M")]


def test_a_listed_address_and_a_named_node_have_one_key() -> None:
    assert candidates(["tcp://one:1", "w2@tcp://b:2", "master@tcp://m:3"], KEYS) == [
        Candidate("tcp://one:1", "K1"), Candidate("tcp://b:2", "K2"), Candidate("tcp://m:3", "M"),
    ]  # fmt: skip


def test_a_name_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(UsageError, match="knows no node 'w9'"):
        candidates(["w9@tcp://a:1"], KEYS)
    with pytest.raises(UsageError, match="knows no node"):
        candidates(["w2@x@tcp://a:1"], KEYS)


def test_a_node_named_master_is_meant_by_its_name() -> None:
    keys = KnownKeys("M", (KnownNode("master", "K"),))
    assert candidates(["master@tcp://a:1"], keys) == [Candidate("tcp://a:1", "K")]


def test_how_many_keys_are_tried_is_bounded() -> None:
    nodes = tuple(KnownNode(f"w{n}", f"K{n}") for n in range(MAX_NODES + 1))
    assert len(candidates(["tcp://a:1"], KnownKeys("M", nodes[:MAX_NODES]))) == MAX_NODES + 1
    assert len(candidates(["tcp://a:1"], KnownKeys("M", nodes))) == MAX_NODES + 1
    with pytest.raises(UsageError):
        candidates([f"w{MAX_NODES}@tcp://a:1"], KnownKeys("M", nodes))


def test_what_is_given_twice_is_tried_once() -> None:
    assert candidates(["tcp://one:1", "w1@tcp://one:1"], KEYS) == [Candidate("tcp://one:1", "K1")]
    places = Places(["a", "a"])
    assert not places.another_key()


@pytest.mark.parametrize(
    ("text", "parts"), [("tcp://a:1", ("", "tcp://a:1")), ("w@tcp://a:1", ("w", "tcp://a:1")), ("@x", ("", "x"))]
)
def test_split_node(text: str, parts: tuple[str, str]) -> None:
    assert split_node(text) == parts


def link_of(*addresses: str) -> Link:
    return Link(HELLO, candidates(addresses, KEYS), LinkPolicy(reconnect_base_s=0.1, reconnect_max_s=1.0))


def test_a_stranger_is_tried_with_the_next_key_at_once() -> None:
    link = link_of("tcp://a:1", "tcp://b:1")
    assert link.start(0.0) == [Connect("tcp://a:1", "M"), Say(HELLO)]
    assert link.disconnected(GONE, 0.0, 1.0, stranger=True) == [Connect("tcp://a:1", "K1"), Say(HELLO)]
    assert link.disconnected(GONE, 0.0, 1.0, stranger=True) == [Connect("tcp://a:1", "K2"), Say(HELLO)]
    assert link.disconnected(GONE, 0.0, 1.0, stranger=True) == [Down(GONE, False, 0.1)]
    assert link.handle_deadline(0.1, 1.0) == [Connect("tcp://b:1", "M"), Say(HELLO)]


def test_an_address_where_nobody_listens_is_left_at_once() -> None:
    link = link_of("tcp://a:1", "tcp://b:1")
    link.start(0.0)
    assert link.disconnected(GONE, 0.0, 1.0) == [Down(GONE, False, 0.1)]
    assert link.handle_deadline(0.1, 1.0) == [Connect("tcp://b:1", "M"), Say(HELLO)]


def test_the_key_that_was_right_is_tried_first_the_next_time() -> None:
    link = link_of("tcp://a:1")
    link.start(0.0)
    link.disconnected(GONE, 0.0, 1.0, stranger=True)
    link.received(WELCOME, 0.0, 1.0)
    link.disconnected(GONE, 1.0, 1.0, stranger=True)
    assert link.handle_deadline(2.0, 1.0) == [Connect("tcp://a:1", "K1"), Say(HELLO)]
    assert link.disconnected(GONE, 2.0, 1.0, stranger=True) == [Connect("tcp://a:1", "M"), Say(HELLO)]


def test_other_addresses_hold_from_the_next_attempt_on() -> None:
    link = link_of("tcp://a:1")
    link.start(0.0)
    link.received(WELCOME, 0.0, 1.0)
    link.redirect([Candidate("tcp://c:1", "K2"), Candidate("tcp://d:1", "K1")])
    assert link.places.now == Candidate("tcp://a:1", "M")
    link.disconnected(GONE, 1.0, 0.0)
    assert link.handle_deadline(1.0, 0.0) == [Connect("tcp://c:1", "K2"), Say(HELLO)]
    link.disconnected(GONE, 1.0, 0.0)
    assert link.handle_deadline(1.0, 0.0) == [Connect("tcp://d:1", "K1"), Say(HELLO)]
